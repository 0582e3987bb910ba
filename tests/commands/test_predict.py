"""`patchwork predict`: one row per sample, the same as CSV and as JSON."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from patchwork.commands.predict import format_rows, to_csv
from patchwork.runs.run import Run
from patchwork.tasks import Pixels, Predictions


def test_tables_hold_one_row_per_sample(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], finished_run: Path
) -> None:
    for out in ("answers.csv", "answers.jsonl"):
        assert command("predict", f"run={finished_run}", f"out={out}") == 0
        assert f"32 predictions of the test split, 0.00 % correct: {out}" in capsys.readouterr().out
    with Path("answers.csv").open() as file:
        rows = list(csv.DictReader(file))
    objects = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    assert [row["index"] for row in rows] == [str(index) for index in range(32)]
    assert list(rows[0]) == list(objects[0]) == [
        "index", "image_ids", "target", "prediction", "probability", "correct",
    ]  # fmt: skip
    labels = Run.load(finished_run).data.dataset.load().test.labels
    for row, values in zip(rows, objects, strict=True):
        assert row["image_ids"].split() == [str(image_id) for image_id in values["image_ids"]]
        assert row["target"] == values["target"] == "".join(str(int(labels[i])) for i in values["image_ids"])
        assert (row["prediction"], float(row["probability"])) == (values["prediction"], values["probability"])
        assert row["correct"] == str(values["correct"]).lower() == str(row["target"] == row["prediction"]).lower()


def test_validation_samples_are_predicted_on_request(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], run_copy: Path
) -> None:
    assert command("predict", f"run={run_copy}", "split=val", "out=val.csv") == 0
    assert "of the val split" in capsys.readouterr().out
    assert (run_copy / "predictions" / "val.npz").exists()


def test_values_that_a_generator_lacks_are_empty() -> None:
    predictions = Predictions(
        index=torch.arange(2),
        image_ids=torch.tensor([[5, -1], [6, 7]]),
        target=torch.tensor([3, 4]),
        prediction=torch.tensor([-12.5, -3.25]),
    )
    task = Mock(spec=Pixels, answer_name="log_likelihood", format_answers=lambda labels: map(str, labels.tolist()))
    rows = list(format_rows(task, predictions))
    assert to_csv(rows).splitlines() == [
        "index,image_ids,target,log_likelihood,probability,correct",
        "0,5,3,-12.5,,",
        "1,6 7,4,-3.25,,",
    ]
    assert rows[0]["log_likelihood"] == -12.5  # a number, and not text


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["out=answers.txt", "run=x"], 2, "out=answers.txt is not allowed: use a name that ends with .csv or .jsonl"),
        (["out=a.csv", "run=x", "split=train"], 2, "split=train is not allowed"),
        (["out=a.csv"], 2, "run is missing"),
        (["out=a.csv", "run=nowhere"], 3, "nowhere"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], args: list[str], code: int, message: str
) -> None:
    assert command("predict", *args) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not Path("a.csv").exists()


def test_help_names_every_argument(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert command("predict", "--help") == 0
    text = capsys.readouterr().out
    assert all(f"{name}=" in text for name in ("run", "out", "split"))

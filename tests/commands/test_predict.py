"""`patchwork predict`: one row per sample of a split or per picture, the same as CSV and as JSON."""

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from drawing_helpers import drawings
from einops import rearrange
from PIL import Image

from patchwork.commands.predict import format_rows, to_csv
from patchwork.data import StitchedDataModule
from patchwork.data.drawing import strokes_to_image
from patchwork.runs import picture_answers
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


# --- pictures --------------------------------------------------------------------------------------------------------


def write_grids(run: Run, folder: Path, count: int) -> torch.Tensor:
    """Write test grids of a run as PNG files, and return the true digits of each."""
    data = run.data
    assert isinstance(data, StitchedDataModule)
    data.prepare_data()
    folder.mkdir()
    images = data.splits["test"].images[:, 0]
    grids = data.grids["test"][:count]
    for index, grid in enumerate(grids):
        cells = rearrange(images[grid], "r c h w -> (r h) (c w)")
        Image.fromarray(cells.numpy()).save(folder / f"{index:05}.png")
    return data.splits["test"].labels[grids].flatten(1)


def read_lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def mnist_like_grids(count: int) -> list[np.ndarray]:
    images = [strokes_to_image(strokes, 280).image for _, strokes in drawings(4 * count)]
    return [rearrange(np.stack(images[4 * i : 4 * i + 4]), "(r c) h w -> (r h) (c w)", r=2) for i in range(count)]


def test_a_line_has_the_answer_of_the_run(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], finished_run: Path
) -> None:
    grids = mnist_like_grids(7)
    for index, grid in enumerate(grids):
        Image.fromarray(grid).save(f"{index}.png")
    assert command("predict", "*.png", f"run={finished_run}", "top=2") == 0
    lines = read_lines(capsys)
    predictions = Run.load(finished_run).predict(torch.from_numpy(np.stack(grids)))
    assert predictions.probability is not None
    for line, tokens, probability in zip(lines, predictions.prediction.tolist(), predictions.probability, strict=True):
        assert line["answer"] == [token if token < 10 else None for token in tokens]
        assert line["probability"] == pytest.approx(float(probability), abs=2e-6)
        assert [len(digit["top"]) for digit in line["digits"]] == [2] * 4
        assert line["digits"][1]["box"] == [28, 0, 28, 28]


def test_batches_do_not_change_answers(
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    finished_run: Path,
) -> None:
    np.save("grids.npy", np.stack(mnist_like_grids(9)))
    assert command("predict", "grids.npy", f"run={finished_run}") == 0
    together = read_lines(capsys)
    monkeypatch.setattr(picture_answers, "BATCH", 1)
    assert command("predict", "grids.npy", f"run={finished_run}") == 0
    for one, other in zip(read_lines(capsys), together, strict=True):
        assert (one["file"], one["answer"]) == (other["file"], other["answer"])
        assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)


def test_csv_and_json_agree_and_errors_keep_their_place(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], finished_run: Path
) -> None:
    grid = Image.fromarray(mnist_like_grids(1)[0])
    names = ["=1+1.png", "broken.png", "good.png", "small.png"]
    grid.save(names[0])
    Path(names[1]).write_bytes(b"\x89PNG\r\n\x1a\n")
    grid.resize((280, 280), Image.Resampling.NEAREST).save(names[2])
    Image.new("L", (56, 56)).save(names[3])
    assert command("predict", *names, f"run={finished_run}") == 0
    lines = read_lines(capsys)
    assert [line.get("error", {}).get("kind") for line in lines] == [None, "file", None, "image"]
    assert lines[0]["answer"] == lines[2]["answer"]
    assert command("predict", *names, f"run={finished_run}", "out=a.csv", "strict=true") == 3
    assert "2 of 4 pictures were not read" in capsys.readouterr().err
    with Path("a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ["'=1+1.png", *names[1:]]
    for row, line in zip(rows, lines, strict=True):
        assert bool(row["error"]) == ("error" in line)
        if "answer" in line:
            assert row["answer"] == "".join("?" if digit is None else str(digit) for digit in line["answer"])
            assert float(row["probability"]) == line["probability"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["none.png"], 3, "1 of 1 pictures were not read"),
        (["none.png", "rows=3"], 2, "rows=3 is not allowed"),
        (["none.png", "split=val"], 2, "split=val does not apply to pictures: drop split"),
        (["none.png", "out=a.txt"], 2, "out=a.txt is not allowed"),
        (["none.png", "out=a.csv", "format=jsonl"], 2, "format=jsonl is not allowed"),
        (["none.png", "colour=1"], 2, "colour"),
        (["none.png", "--rows=2"], 2, "write rows=2"),
        (["rows=2", "out=a.csv"], 2, "rows=2 applies only to pictures"),
        ([], 2, "out is missing"),
    ],
)
def test_wrong_calls_are_reported_in_a_line(
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    finished_run: Path,
    args: list[str],
    code: int,
    message: str,
) -> None:
    assert command("predict", *args, f"run={finished_run}") == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("a.csv").exists()


def test_drawings_and_stdin_are_read(
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    finished_run: Path,
) -> None:
    made = [strokes for _, strokes in drawings(4)]
    strokes = [
        (points + np.array([280 * (cell % 2), 280 * (cell // 2)])).tolist()
        for cell in range(4)
        for points in made[cell]
    ]
    drawing = json.dumps({"strokes": strokes, "width": 560, "height": 560}).encode()
    monkeypatch.setattr("sys.stdin", Mock(buffer=io.BytesIO(drawing)))
    assert command("predict", "-", f"run={finished_run}") == 0
    (line,) = read_lines(capsys)
    expected = Run.load(finished_run).predict(torch.from_numpy(mnist_like_grids(1)[0])[None])
    assert line["file"] == "-"
    assert line["answer"] == [token if token < 10 else None for token in expected.prediction[0].tolist()]


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("PATCHWORK_RUN"), reason="PATCHWORK_RUN names no trained run of grids of MNIST")
def test_all_test_grids_as_files_have_the_accuracy_of_the_split(command: Callable[..., int], tmp_path: Path) -> None:
    run = Run.load(os.environ["PATCHWORK_RUN"])
    target = write_grids(run, tmp_path / "grids", 10_000)
    assert command("predict", "grids", f"run={run.run_dir}", "out=answers.jsonl") == 0
    lines = [json.loads(line) for line in Path("answers.jsonl").read_text().splitlines()]
    answers, predictions = torch.tensor([line["answer"] for line in lines]), run.predictions("test")
    assert predictions.probability is not None
    assert predictions.correct is not None
    assert torch.equal(answers, predictions.prediction)
    assert torch.equal((answers == target).all(dim=1), predictions.correct)
    probability = torch.tensor([line["probability"] for line in lines])
    torch.testing.assert_close(probability, predictions.probability, atol=5e-5, rtol=0)

"""What a finished run prints at its end."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from patchwork.runs.report import (
    MAX_LINES,
    describe_max_time,
    group_metrics,
    next_steps,
    num_tested,
    print_report,
    render_some,
    with_legend,
)
from patchwork.tasks import Pixels, Sample, Seq2Seq


def make_samples(rows: int, cols: int) -> list[Sample]:
    answers = ["7"] * (rows * cols)
    return [Sample(torch.ones(1, 28 * rows, 28 * cols), answers, answers, rows=rows, cols=cols)] * 24


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (2, 2), (1, 10)])
@pytest.mark.parametrize("columns", [40, 80, 200])
def test_the_samples_leave_the_result_in_sight(
    monkeypatch: pytest.MonkeyPatch, rows: int, cols: int, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = render_some(make_samples(rows, cols))
    assert text.count("7")
    assert len(text.splitlines()) <= MAX_LINES
    assert max(map(len, text.splitlines())) <= columns
    assert "\x1b" not in text  # as stdout is no terminal


def test_one_sample_is_shown_however_large_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert render_some(make_samples(4, 4)).count("7") == 2 * 16


@pytest.mark.parametrize(("limit", "count"), [(None, 100), (1.0, 100), (2, 64), (0.5, 64), (50, 100), (0, 0)])
def test_samples_that_a_limit_leaves_out_are_not_counted(limit: float | None, count: int) -> None:
    trainer = None if limit is None else SimpleNamespace(limit_test_batches=limit)
    data: Any = SimpleNamespace(
        num_samples={"test": 100}, eval_batch_size=32, trainer=trainer, num_batches=lambda split: 4
    )
    assert num_tested(data) == count


def test_next_steps_name_the_pictures_that_there_are(tmp_path: Path) -> None:
    assert len(next_steps(tmp_path, SimpleNamespace(), is_trial=False)) == 2
    (tmp_path / "figures").mkdir()
    for name in ("curves", "samples"):
        (tmp_path / f"figures/{name}.png").touch()
    first, generate, score = next_steps(tmp_path, Pixels.__new__(Pixels), is_trial=False)
    assert first == f"look at    {tmp_path}/figures: samples.png, curves.png"
    assert generate.endswith(f"patchwork generate run={tmp_path}")
    assert score.endswith(f"patchwork evaluate run={tmp_path}")
    assert next_steps(tmp_path, SimpleNamespace(), is_trial=True) == [first]  # there is nothing to predict with


def test_a_run_that_was_not_tested_says_what_it_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = {"metrics": {"val/loss": 1.0}, "best_epoch": 0, "dataset": "uci", "train_seconds": 3.2}
    print_report(tmp_path, {**manifest, "parameters": 1000, "seed": 1}, [], SimpleNamespace(), SimpleNamespace())
    text = capsys.readouterr().out
    assert "last weights, as there was no validation" in text
    assert "trained for 3.2 s, 1,000 parameters, seed 1" in text
    assert "read" not in text.replace(str(tmp_path), "")


def test_metrics_of_classes_are_grouped() -> None:
    metrics = {"val/loss": 1.0, "test/class_accuracy/0": 0.5, "test/class_accuracy/1": 1.0, "test/loss": 0.25}
    assert group_metrics(metrics) == {"test/loss": ["0.2500"], "test/class_accuracy": ["0 0.5000", "1 1.0000"]}


@pytest.mark.parametrize(
    ("ratio", "text"), [(1.0, "100 %"), (0.999, "100 %"), (0.123, "12 %"), (0.00123, "0.12 %"), (0.0, "0 %")]
)
def test_learning_rate_at_the_end_of_the_time_is_in_percent(ratio: float, text: str) -> None:
    line = describe_max_time({"steps": 1000, "planned_steps": 2000, "lr_ratio": ratio})
    assert f"step 1,000 of 2,000; the learning rate was at {text} of its highest" in line


def test_symbols_are_explained_where_there_are_some() -> None:
    sample = Sample(torch.ones(1, 28, 28), ["7"], ["7"])
    ended = Sample(torch.ones(1, 28, 28), ["7"], ["$"])
    assert with_legend("title", [sample], Seq2Seq) == "title"
    assert with_legend("title", [sample, ended], Seq2Seq) == "title ($ the end of the sequence, predicted too early)"

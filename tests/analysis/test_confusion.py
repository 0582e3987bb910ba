from pathlib import Path

import numpy as np
import pytest
import torch
from analysis_helpers import build_small, planted_predictions
from helpers import TINY

from patchwork.analysis.confusion import Confusion, analyze
from patchwork.analysis.inputs import AnalysisInputs
from patchwork.analysis.result import NotApplicableError
from patchwork.figures.confusion import render
from patchwork.runs.run import Run

CLASSIFY = ["task=classify", "dataset=uci"]


def analyzed(overrides: list[str], target: torch.Tensor, prediction: torch.Tensor) -> Confusion:
    data, task = build_small(overrides)
    predictions = planted_predictions(target, prediction)
    return analyze(AnalysisInputs.from_task(task, data, predictions={"test": predictions}))


def test_planted_errors_are_in_their_cells_and_nowhere_else() -> None:
    target = torch.arange(10).repeat_interleave(20)
    prediction = target.clone()
    prediction[4 * 20 : 4 * 20 + 7] = 9  # seven of twenty fours read as nines
    result = analyzed(CLASSIFY, target, prediction)
    (matrix,) = result.matrices()
    errors = matrix.counts.copy()
    np.fill_diagonal(errors, 0)
    assert errors[4, 9] == errors.sum() == 7
    (pair,) = result.largest()
    assert (pair.target, pair.prediction, pair.errors, pair.total) == ("4", "9", 7, 20)
    assert pair.examples.shape[0] == 4
    numbers = result.numbers()
    assert numbers["accuracy, class"].value == 193 / 200
    assert numbers["4 taken for 9"].low < 0.35 < numbers["4 taken for 9"].high
    assert "takes 4 for 9: in 7 of 20 test images of 4 (35.00%" in render(result).claims[0].text


def test_a_class_that_does_not_occur_keeps_its_row_and_column() -> None:
    target = torch.arange(10).repeat(5)
    target[target == 3] = 5
    result = analyzed(CLASSIFY, target, target)
    (matrix,) = result.matrices()
    assert matrix.counts.shape == (10, 10)
    assert matrix.counts[3].sum() == 0
    assert matrix.rows[3] == "3"
    rendered = render(result)
    assert "none" in rendered.html
    assert "nan" not in rendered.html.lower()
    assert rendered.claims == ()


def test_cells_of_a_grid_and_the_end_of_a_sequence_are_apart() -> None:
    target = torch.randint(10, (50, 4), generator=torch.Generator().manual_seed(0))
    prediction = target.clone()
    prediction[0, 1:] = 11  # the sequence ends after its first digit
    result = analyzed(TINY, target, prediction)
    everything, *cells = result.matrices()
    assert everything.cols[-2:] == ("begin", "end")
    assert [cell.name for cell in cells] == ["row 1, col 1", "row 1, col 2", "row 2, col 1", "row 2, col 2"]
    assert everything.counts[:, -1].sum() == 3
    assert [int(cell.counts[:, -1].sum()) for cell in cells] == [0, 1, 1, 1]
    assert sum(cell.counts for cell in cells).tolist() == everything.counts.tolist()
    assert result.unit == "test cells"
    html = render(result).html
    assert ">end<" in html
    assert ">begin<" not in html  # which is never predicted


def test_examples_show_the_cell_that_was_confused() -> None:
    data, task = build_small(TINY)
    batch = data.make_batch("test", (0, 0), slice(None))
    target = batch["digits"]
    prediction = target.clone()
    prediction[2, 3] = (target[2, 3] + 1) % 10
    result = analyze(
        AnalysisInputs.from_task(task, data, predictions={"test": planted_predictions(target, prediction)})
    )
    (pair,) = result.largest()
    cell = batch["image"][2, 0, 28:, 28:]
    shown = torch.from_numpy(pair.examples[0, 0]).float()
    assert torch.corrcoef(torch.stack([cell.flatten(), shown.flatten()]))[0, 1] > 0.999


def test_every_kind_of_classes_is_counted() -> None:
    icons = torch.tensor([0, 17, 299, 16])
    result = analyzed(["task=icons"], icons, icons.roll(1))
    assert [matrix.name for matrix in result.matrices()] == ["verb", "tense", "person"]
    anchor = torch.tensor([0, 1, 1])
    (matrix,) = analyzed(["task=anchor", "dataset=uci"], anchor, torch.tensor([0, 0, 1])).matrices()
    assert matrix.rows == ("not there", "there")
    assert matrix.counts.tolist() == [[1, 0], [1, 1]]
    with pytest.raises(NotApplicableError):
        analyzed(["task=sum", "dataset=uci"], anchor, anchor)


def test_combinations_that_were_held_out_are_counted_apart() -> None:
    data, task = build_small(["task=icons", "data.holdout=combinations"])
    batch = data.make_batch("test", (0, 0), slice(None))
    target = task.target(batch)
    prediction = torch.where(batch["held_out"], 0, target)
    result = analyze(
        AnalysisInputs.from_task(task, data, predictions={"test": planted_predictions(target, prediction)})
    )
    seen, held = (
        next(m for m in result.matrices() if m.name == f"verb, {name}") for name in ("seen in training", "held out")
    )
    assert seen.counts.sum() == (~batch["held_out"]).sum() > 0
    assert held.counts.sum() == batch["held_out"].sum() > 0
    assert seen.counts.trace() == seen.counts.sum()
    assert held.counts.trace() < held.counts.sum()


def test_accuracy_is_that_of_the_run(finished_run: Path, tmp_path: Path) -> None:
    run = Run.load(finished_run)
    inputs = AnalysisInputs.from_task(run.task, run.data, predictions={"test": run.predictions("test")})
    result = analyze(inputs)
    assert result.numbers()["accuracy, all cells"].value == pytest.approx(
        run.manifest["metrics"]["test/digit_accuracy"], abs=1e-7
    )
    result.save(tmp_path)
    read = Confusion.load(tmp_path)
    assert render(read) == render(result)
    assert torch.equal(torch.from_numpy(read.counts), torch.from_numpy(result.counts))


def test_names_of_classes_are_text() -> None:
    data, task = build_small(CLASSIFY)
    task.class_names = ("<b>", *map(str, range(1, 10)))
    target = torch.tensor([0, 1])
    predictions = planted_predictions(target, target.flip(0))
    html = render(analyze(AnalysisInputs.from_task(task, data, predictions={"test": predictions}))).html
    assert "<b>" not in html.replace("<b>1</b>", "").replace("<b>0</b>", "").replace("<b>&lt;b&gt;</b>", "")
    assert "&lt;b&gt;" in html

"""A page is written whatever a run lacks, and whatever one of its figures does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from analysis_helpers import build_small, planted_predictions

from patchwork.analysis import confusion
from patchwork.analysis.inputs import AnalysisInputs
from patchwork.core.errors import PatchworkWarning
from patchwork.report.build import RunDescription, write_page
from patchwork.report.sections import SECTIONS

CONFUSION = [section for section in SECTIONS if section.name == "confusion"]


@pytest.fixture(scope="module")
def inputs() -> AnalysisInputs:
    data, task = build_small(["task=classify", "dataset=uci"])
    target = torch.arange(100) % 10
    prediction = target.where(torch.arange(100) >= 8, 0)  # 7 of the first 8 are wrong
    return AnalysisInputs.from_task(task, data, predictions={"test": planted_predictions(target, prediction)})


def page(tmp_path: Path, inputs: AnalysisInputs, manifest: dict[str, Any]) -> str:
    description = RunDescription(tmp_path, "classify", "vit", {}, "seed: 0\n", manifest)
    return write_page(description, inputs, CONFUSION).path.read_text()


def test_a_figure_that_fails_costs_no_other(
    tmp_path: Path, inputs: AnalysisInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(inputs: AnalysisInputs) -> None:
        raise ZeroDivisionError("of nothing\nby nothing")

    monkeypatch.setattr(confusion, "analyze", fail)
    with pytest.warns(PatchworkWarning, match="figure confusion failed"):
        text = page(tmp_path, inputs, {})
    assert "ZeroDivisionError: of nothing" in text
    assert "Configuration" in text


def test_a_manifest_without_anything_is_enough(tmp_path: Path, inputs: AnalysisInputs) -> None:
    text = page(tmp_path, inputs, {})
    assert "vit was trained for classify." in text
    assert "None" not in text
    assert "It has not been tested." in text


def test_an_unfinished_run_is_said_to_be_one(tmp_path: Path, inputs: AnalysisInputs) -> None:
    text = page(tmp_path, inputs, {"status": "running", "parameters": 1234, "seed": 3})
    assert "vit (1,234 parameters) was trained for classify (seed 3); it has not finished (status running)." in text


def test_the_result_is_that_of_the_samples_that_were_tested(tmp_path: Path, inputs: AnalysisInputs) -> None:
    metrics = {"test/loss": 1.0, "test/accuracy": 0.93}
    text = page(tmp_path, inputs, {"metrics": metrics, "best_epoch": 0})
    assert "All metrics of the 100 test " in text
    assert "other test samples would move that within 86.25% to 96.57% (95 %)" in text
    assert "the weights that it ended with" in text
    assert "would move that" not in page(tmp_path, inputs, {"metrics": {**metrics, "test/accuracy": 0.5}})

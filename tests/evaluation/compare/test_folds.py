"""Folds with planted answers, saved as runs save them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from patchwork.evaluation.compare import folds as module
from patchwork.evaluation.compare.folds import folds_accuracy, folds_sentence, unsaved_sentence
from patchwork.evaluation.compare.runs import Answers, FinishedRun, Setting
from patchwork.stats.intervals import wilson
from patchwork.tasks.predictions import Predictions

NUM_FOLDS, SIZE = 5, 40


def make_setting(folds: Sequence[int], seeds: Sequence[int]) -> Setting:
    config = {"dataset.folds": NUM_FOLDS}
    return Setting(
        "planted",
        [FinishedRun(Path(f"{seed}/{fold}"), seed, fold, 0.5, {}, config) for fold in folds for seed in seeds],
    )


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let fold k have k of its 40 images wrong, the same ones with every seed."""

    def read(path: Path) -> tuple[Predictions, str]:
        fold = int(path.read_text())
        index, target = torch.arange(SIZE), torch.zeros(SIZE, dtype=torch.long)
        return Predictions(index, (index + SIZE * fold)[:, None], target, (index < fold).long()), "digest"

    def find(run_dir: Path, split: str) -> Path:
        assert split == "val"
        path = tmp_path / run_dir.name
        path.write_text(run_dir.name)
        return path

    monkeypatch.setattr(module, "read_table", read)
    monkeypatch.setattr(module, "predictions_path", find)


@pytest.mark.usefixtures("planted")
def test_all_images_count_once_whatever_the_number_of_seeds() -> None:
    for seeds in ((0,), (0, 1, 2)):
        found = folds_accuracy(make_setting(range(NUM_FOLDS), seeds))
        assert found is not None
        assert found.accuracy == pytest.approx(1 - 10 / 200)
        assert (found.num_images, found.num_seeds) == (200, len(seeds))
        np.testing.assert_allclose((found.low, found.high), wilson(190, 200), atol=1e-9)
    assert "5 folds together: accuracy 0.9500" in folds_sentence("planted", found)


@pytest.mark.usefixtures("planted")
def test_a_missing_fold_is_no_cross_validation() -> None:
    assert folds_accuracy(make_setting(range(NUM_FOLDS - 1), (0,))) is None


@pytest.mark.usefixtures("planted")
def test_seeds_of_the_data_are_seeds_and_tables_of_other_weights_are_not_taken() -> None:
    config = {"dataset.folds": NUM_FOLDS}
    runs = [
        FinishedRun(Path(f"{seed}/{fold}"), 0, fold, 0.5, {}, {**config, "data.seed": seed})
        for fold in range(NUM_FOLDS)
        for seed in (0, 1)
    ]
    found = folds_accuracy(Setting("planted", runs))
    assert found is not None
    assert (found.num_folds, found.num_seeds) == (NUM_FOLDS, 2)
    assert folds_accuracy(Setting("planted", runs[:-1])) is None
    runs[0] = replace(runs[0], manifest={"weights_sha256": "another"})
    assert folds_accuracy(Setting("planted", runs)) is None


def test_predictions_that_are_not_saved_are_said_how_to_make(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = make_setting(range(NUM_FOLDS), (0,))
    one_image, grids = (np.zeros((4, parts), int) for parts in (1, 4))
    monkeypatch.setattr(FinishedRun, "answers", lambda _: Answers(one_image == 0, one_image, b""))
    runs = [replace(run, run_dir=Path("runs") / run.run_dir) for run in setting.runs]
    assert unsaved_sentence(replace(setting, runs=runs)) == (
        "planted: the folds are put together once patchwork predict run=runs/0/0 split=val out=val.csv has saved its "
        "validation predictions, and likewise of 4 more runs."
    )
    assert unsaved_sentence(make_setting(range(NUM_FOLDS - 1), (0,))) is None
    monkeypatch.setattr(FinishedRun, "answers", lambda _: Answers(grids == 0, grids, b""))
    assert unsaved_sentence(setting) is None


def test_runs_without_saved_answers_or_folds_say_nothing() -> None:
    assert folds_accuracy(make_setting(range(NUM_FOLDS), (0,))) is None
    assert folds_accuracy(Setting("one", [FinishedRun(Path("none"), 0, None, 0.5, {}, {})])) is None

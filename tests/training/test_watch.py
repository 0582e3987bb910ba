import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY, run_command

from patchwork.analysis import learning
from patchwork.analysis.learning import Learning, analyze, learned_at, spread, to_show
from patchwork.analysis.result import NotApplicableError
from patchwork.figures.learning import render
from patchwork.runs.page import make_inputs
from patchwork.runs.replay import most_often_wrong
from patchwork.runs.run import Run
from patchwork.training.checkpoint_io import read_checkpoint
from patchwork.training.watch import watched_paths


@pytest.fixture(scope="module")
def watched_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of the finished run's configuration, watched, with two validations and averaged weights."""
    directory = tmp_path_factory.mktemp("watched")
    twice = ["trainer.val_check_interval=0.5", "callbacks=default", "callbacks.progress=null"]
    for name, watch in (("run", "true"), ("other", "false")):
        assert run_command("train", *TINY, *twice, f"watch={watch}", f"run_dir={name}", cwd=directory) == 0
    return directory / "run"


def test_watching_changes_nothing_and_keeps_what_each_validation_used(watched_run: Path) -> None:
    runs = [json.loads((path / "manifest.json").read_text()) for path in (watched_run, watched_run.parent / "other")]
    assert runs[0]["weights_sha256"] == runs[1]["weights_sha256"]
    assert runs[0]["metrics"] == runs[1]["metrics"]
    paths = watched_paths(watched_run)
    assert [path.name for path in paths] == ["step_00000001.ckpt", "step_00000002.ckpt"]
    assert not watched_paths(watched_run.parent / "other")
    best = read_checkpoint(watched_run / "checkpoints" / "best.ckpt")["state_dict"]
    states = [read_checkpoint(path) for path in paths]
    assert [state["epoch"] for state in states] == [1, 1]
    assert any(all(torch.equal(state["state_dict"][name], best[name]) for name in best) for state in states)


def test_learning_is_followed_through_the_validations(watched_run: Path, tmp_path: Path) -> None:
    inputs = make_inputs(Run.load(watched_run))
    result = analyze(inputs)
    assert result.right.shape == (2, 32)
    assert result.maps.shape[0] == len(result.frames) == len(result.probed) == 2
    assert result.effective_keys.shape == (2, len(result.heads))
    with torch.no_grad():
        correct = inputs.task.predict_step(inputs.batch(torch.arange(32), "val"), 0).correct
    assert correct is not None
    best = [
        torch.equal(s.state_dict["model.head.weight"].double(), inputs.task.model.head.weight) for s in inputs.history
    ]
    assert np.array_equal(result.right[best.index(True)], correct.numpy())
    assert result.moments == ("epoch 1, step 1", "epoch 1, step 2")  # validations of one epoch are told apart
    numbers = result.numbers()
    assert {f"right after {moment}" for moment in result.moments} <= {*numbers}
    assert {numbers[name].unit for name in numbers if "effective keys" in name} == {"test grids"}
    assert {numbers[name].unit for name in numbers if "right" in name} == {"validation grids"}
    result.save(tmp_path)
    assert render(Learning.load(tmp_path)) == render(result)


def test_a_run_that_was_not_watched_is_refused(finished_run: Path) -> None:
    with pytest.raises(NotApplicableError, match="watch=true"):
        analyze(make_inputs(Run.load(finished_run)))


def test_replay_plays_every_validation(
    watched_run: Path, finished_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    capsys.readouterr()
    assert run_command("report", f"run={watched_run}", "replay=true", cwd=tmp_path) == 0
    out = capsys.readouterr().out
    assert out.index("epoch 1, step 1, ") < out.index("epoch 1, step 2, ")
    assert out.count(" right\n") == 2
    assert "\x1b" not in out  # no terminal
    assert not (watched_run / "report.html").exists()
    assert run_command("report", f"run={finished_run}", "replay=true", cwd=tmp_path) == 3
    assert "watch=true" in capsys.readouterr().err
    assert run_command("report", f"run={watched_run}", "replay=true", "figures=none", cwd=tmp_path) == 2
    assert run_command("train", *TINY, "watch=true", "trainer.strategy=fsdp", cwd=tmp_path) == 2


def test_samples_are_learned_where_they_stay_right() -> None:
    right = np.array([[1, 0, 0, 1, 0], [0, 1, 0, 1, 0], [1, 1, 0, 1, 1]], bool)
    assert learned_at(right).tolist() == [2, 1, 3, 0, 2]
    shown, kinds = to_show(right)
    assert dict(zip(shown.tolist(), kinds, strict=True)) == {
        2: "wrong in the end",
        0: "learned last",
        4: "learned last",
        1: "learned last",
    }


def test_frames_are_spread_over_the_training() -> None:
    assert spread(range(100), 5) == [0, 25, 50, 74, 99]
    assert spread(range(3), 8) == [0, 1, 2]
    assert learning.MAX_FRAMES <= learning.MAX_VALIDATIONS


def test_replay_shows_what_was_wrong_most_often() -> None:
    right = torch.ones(3, 9, dtype=torch.bool)
    right[0, 8] = right[1, 8] = right[0, 6] = False
    assert most_often_wrong([*right]).tolist() == [0, 1, 2, 6, 8]
    assert most_often_wrong([None]).tolist() == [0, 1, 2, 3, 4]

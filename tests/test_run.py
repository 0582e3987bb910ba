"""A run's folder is the run: it can be loaded, evaluated and found again, and no two runs share one."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from conftest import TINY

from patchwork.callbacks import Clock
from patchwork.checkpoints import weights_sha256
from patchwork.errors import DataError
from patchwork.run import Run, ended

Command = Callable[..., int]


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def test_folder_holds_everything(command: Command, tmp_path: Path) -> None:
    assert command("train", *TINY, "folder=run", "seed=3") == 0
    said = manifest(tmp_path / "run")
    assert said.keys() >= {
        *("task", "model", "seed", "digits", "data_digest", "parameters", "versions", "commit", "hardware"),
        *("wall_clock_seconds", "train_seconds", "epochs", "steps", "samples_per_second", "monitor", "metrics"),
        "weights_sha256",
    }
    assert said["seed"] == 3
    assert 0 <= said["metrics"]["test/sequence_accuracy"] <= said["metrics"]["test/digit_accuracy"] <= 1
    assert {f"test/cell_accuracy/{row}_{col}" for row in range(2) for col in range(2)} <= said["metrics"].keys()
    for name in ("config.yaml", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "figures/curves.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    with (tmp_path / "run" / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["test/loss"]) == pytest.approx(said["metrics"]["test/loss"], abs=1e-6)


def test_load_gives_the_model_back(command: Command, tmp_path: Path) -> None:
    assert command("train", *TINY, "folder=run") == 0
    run = Run.load("run")
    assert weights_sha256(run.task.state_dict()) == manifest(tmp_path / "run")["weights_sha256"]
    assert run.model.generate(torch.zeros(2, 1, 56, 56)).shape == (2, 4)
    assert run.evaluate() == {
        name: value for name, value in run.manifest["metrics"].items() if name.startswith("test/")
    }


def test_evaluate_command_tells_the_same_figures(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command("train", *TINY, "folder=run") == 0
    capsys.readouterr()
    assert command("evaluate", "run=run") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7
    assert all(line.endswith("as before") for line in lines)


def test_same_command_same_weights_and_other_seed_others(command: Command, tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert command("train", *TINY, "model.dropout=0.1", f"folder={folder}", f"seed={seed}") == 0
    a, b, c = (manifest(tmp_path / name) for name in "abc")
    assert a["weights_sha256"] == b["weights_sha256"] != c["weights_sha256"]
    assert (tmp_path / "a/metrics.csv").read_bytes() == (tmp_path / "b/metrics.csv").read_bytes()


def test_runs_of_one_second_have_folders_of_their_own(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.strftime", lambda *_: "now")
    assert command("train", *TINY) == 0
    assert command("train", *TINY) == 0
    assert {path.name for path in (tmp_path / "outputs/seq2seq/encoder_decoder").iterdir()} == {"now", "now-2"}


def test_auto_resume_finds_the_run_of_this_configuration(
    command: Command, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert command("train", *TINY, "resume=auto") == 0
    (folder,) = (tmp_path / "outputs/seq2seq/encoder_decoder").iterdir()
    before = (folder / "manifest.json").read_bytes()
    capsys.readouterr()
    assert command("train", *TINY, "resume=auto") == 0
    assert "nothing to go on with" in capsys.readouterr().out
    assert (folder / "manifest.json").read_bytes() == before
    assert command("train", *TINY, "resume=auto", "seed=5") == 0
    assert len(list(folder.parent.iterdir())) == 2


def test_auto_resume_passes_damaged_runs_over(command: Command, tmp_path: Path) -> None:
    folder = tmp_path / "outputs/seq2seq/encoder_decoder/9999"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("a: [1")
    assert command("train", *TINY, "resume=auto") == 0


def test_a_run_that_goes_on_keeps_where_it_began(command: Command, tmp_path: Path) -> None:
    assert command("train", *TINY, "folder=run", "seed=3") == 0
    first = manifest(tmp_path / "run")
    interrupted = {**first, "status": "running", "commit": "earlier"}
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(interrupted))
    assert command("train", "resume=run") == 0
    second = manifest(tmp_path / "run")
    assert (second["commit"], second["command"]) == ("earlier", first["command"])
    (session,) = second["resumed"]
    assert session["command"] == "python train.py resume=run"
    assert session["commit"] == first["commit"]
    assert second["metrics"] == first["metrics"]


def test_a_run_is_trained_by_one_process(command: Command, capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert command("train", *TINY, "folder=run") == 0
    (tmp_path / "run" / "manifest.json").write_text(json.dumps({**manifest(tmp_path / "run"), "status": "running"}))
    script = "import fcntl, sys; f = open('run/.lock', 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        capsys.readouterr()
        assert command("train", "resume=run") == 5
        assert "run is being trained by another process" in capsys.readouterr().err
        other.communicate(b"\n")
    assert command("train", "resume=run") == 0


def test_figures_that_could_not_be_drawn_are_drawn_when_it_goes_on(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as change:
        change.setattr("patchwork.run.draw", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert command("train", *TINY, "folder=run") == 5
    before = manifest(tmp_path / "run")
    assert before["status"] == "ResourceError: run/figures cannot be written: No space left on device"
    assert command("train", "resume=run") == 0
    after = manifest(tmp_path / "run")
    assert after["status"] == "finished"
    assert after["metrics"] == before["metrics"]
    assert (tmp_path / "run" / "figures" / "curves.png").exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, 0), (DataError("damaged"), 3), (MemoryError(), 5), (OSError(28, "full"), 5), (KeyError(), 1)],
)
def test_loggers_hear_how_a_run_ended(tmp_path: Path, error: Exception | None, code: int) -> None:
    logger, manifest = Mock(), {"seed": 0}
    raised = nullcontext() if error is None else pytest.raises(type(error))
    with raised, ended(Mock(loggers=[logger]), tmp_path, manifest, Clock(0.0)):
        if error is not None:
            raise error
    logger.end.assert_called_once_with(code)


def test_processes_of_another_launcher_are_refused(
    command: Command, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert command("train", *TINY) == 2
    assert "neither torchrun nor srun" in capsys.readouterr().err
    assert not list(tmp_path.glob("outputs/seq2seq"))


def test_logged_loss_does_not_depend_on_how_a_step_is_cut(command: Command, tmp_path: Path) -> None:
    losses = []
    for folder, batch, parts in (("whole", 16, 1), ("cut", 8, 2)):
        settings = [f"data.batch_size={batch}", f"trainer.accumulate_grad_batches={parts}", "data.fresh=false"]
        logged = ["trainer.log_every_n_steps=1", "optimizer=sgd", "optimizer.lr=0.0001"]
        assert command("train", *TINY, *settings, *logged, f"folder={folder}") == 0
        with (tmp_path / folder / "metrics.csv").open() as file:
            losses.append([float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]])
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)  # the same grids, in the same order

"""A run is its directory: it can be loaded, evaluated, resumed and found again, and no two runs share one."""

import csv
import json
import os
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from helpers import TINY, read_manifest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

import patchwork
from patchwork.core.errors import ConfigError, DataError, PatchworkWarning
from patchwork.runs.manifest import merge_manifest
from patchwork.runs.run import Run
from patchwork.runs.run_dir import make_run_dir
from patchwork.runs.train import TrainingContext, record_outcome
from patchwork.training.checkpoint_io import weights_sha256
from patchwork.training.loggers import RunLogger
from patchwork.training.timing import RunTimer

Command = Callable[..., int]


def read_rows(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def set_status(run_dir: Path, status: str, **facts: str) -> None:
    path = run_dir / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": status, **facts}))


# --- the directory ---------------------------------------------------------------------------------------------------


def test_run_dir_is_complete(finished_run: Path) -> None:
    manifest = read_manifest(finished_run)
    assert manifest.keys() >= {
        *("task", "model", "seed", "dataset", "dataset_sha256", "parameters", "versions", "commit", "hardware"),
        *("wall_clock_seconds", "train_seconds", "epochs", "steps", "samples_per_second", "monitor", "metrics"),
        *("command", "status", "weights_sha256"),
    }
    assert manifest["seed"] == 3
    assert manifest["status"] == "finished"
    assert manifest["command"].startswith("patchwork train dataset=uci ")
    assert 0 <= manifest["metrics"]["test/sequence_accuracy"] <= manifest["metrics"]["test/digit_accuracy"] <= 1
    assert {f"test/cell_accuracy/{row}_{col}" for row in range(2) for col in range(2)} <= manifest["metrics"].keys()
    for name in ("config.yaml", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt", "figures/curves.png"):
        assert (finished_run / name).stat().st_size > 0
    (row,) = read_rows(finished_run)
    assert float(row["test/loss"]) == pytest.approx(manifest["metrics"]["test/loss"], abs=1e-6)


def test_runs_of_the_same_second_get_separate_directories(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.strftime", lambda *_: "now")
    runs = Path("outputs/seq2seq/encoder_decoder")
    assert make_run_dir(None, runs) == runs / "now"
    assert command("train", *TINY) == 0
    assert read_manifest(tmp_path / runs / "now-2")["status"] == "finished"
    assert list((tmp_path / runs / "now").iterdir()) == []
    assert make_run_dir(None, runs) == runs / "now-3"


def test_run_dir_is_locked_by_the_process_that_trains(
    command: Command, run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_status(run_copy, "running")
    script = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX); print(flush=True); input()"
    )
    process = [sys.executable, "-c", script, str(run_copy / ".lock")]
    with subprocess.Popen(process, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        capsys.readouterr()
        assert command("train", f"resume={run_copy}") == 5
        assert f"{run_copy} is in use by another process" in capsys.readouterr().err
        other.communicate(b"\n")
    assert command("train", f"resume={run_copy}") == 0


# --- as a library ----------------------------------------------------------------------------------------------------


def random_states() -> tuple[bytes, ...]:
    """Return the states of torch's, NumPy's and Python's global random generators."""
    numpy_state = np.random.get_state()  # noqa: NPY002
    return (
        torch.get_rng_state().numpy().tobytes(),
        repr((numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:])).encode(),
        repr(random.getstate()).encode(),
    )


def test_library_trains_without_global_state(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`train` needs no Hydra, leaves the caller's random state alone, and gives the weights that the command gives."""
    monkeypatch.chdir(tmp_path)
    GlobalHydra.instance().clear()
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    config = patchwork.compose([*TINY, "seed=3", "run_dir=run"])
    assert not GlobalHydra.instance().is_initialized()
    before = random_states()
    run = patchwork.train(config)
    assert random_states() == before
    assert not GlobalHydra.instance().is_initialized()
    assert not HydraConfig.initialized()
    assert isinstance(run, Run)
    assert run.run_dir == Path("run")
    assert run.manifest == read_manifest(tmp_path)
    assert run.manifest["command"] is None
    assert not run.model.training
    digest = read_manifest(finished_run)["weights_sha256"]  # of the same configuration, which the command trained
    assert run.manifest["weights_sha256"] == weights_sha256(run.task.state_dict()) == digest
    assert (tmp_path / "run/metrics.csv").read_bytes() == (finished_run / "metrics.csv").read_bytes()
    assert run.evaluate() == {
        name: value for name, value in run.manifest["metrics"].items() if name.startswith("test/")
    }


def test_compose_names_what_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"model\.embed_dims=3 .*did you mean model\.embed_dim=3"):
        patchwork.compose(["model.embed_dims=3"])
    assert not GlobalHydra.instance().is_initialized()


def test_what_is_no_configuration_is_refused_with_what_to_pass() -> None:
    for overrides in ("task=classify", {"task": "classify"}.items(), [1]):
        with pytest.raises(ConfigError, match=r"pass a list of overrides, as \[\"task=classify\"\]"):
            patchwork.compose(overrides)  # type: ignore[arg-type]
    for config in (["task=classify"], {}, None):
        with pytest.raises(ConfigError, match=r"pass a configuration, as of patchwork\.compose\(\[\.\.\.\]\)"):
            patchwork.train(config)  # type: ignore[arg-type]


def test_package_lists_what_it_offers() -> None:
    assert dir(patchwork) == ["Run", "__version__", "compose", "train"]


def test_train_raises_the_errors_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = random_states()
    with pytest.raises(ConfigError, match=r"seed=-1 is not allowed"):
        patchwork.train(patchwork.compose([*TINY, "seed=-1"]))
    with pytest.raises(DataError, match="nowhere"):
        patchwork.train(patchwork.compose([*TINY, "dataset=mnist", "dataset.root=nowhere"]))
    assert random_states() == before
    assert list(tmp_path.iterdir()) == []


def test_loaded_run_has_the_weights_and_metrics(finished_run: Path) -> None:
    before, environment = random_states(), dict(os.environ)
    run = Run.load(finished_run)
    assert run.evaluate() == {
        name: value for name, value in run.manifest["metrics"].items() if name.startswith("test/")
    }
    assert random_states() == before
    assert dict(os.environ) == environment
    assert weights_sha256(run.task.state_dict()) == read_manifest(finished_run)["weights_sha256"]
    assert run.model.generate(torch.zeros(2, 1, 56, 56)).shape == (2, 4)


def test_run_is_shown_in_one_line(finished_run: Path) -> None:
    run = Run.load(finished_run)
    accuracy = f"{run.manifest['metrics']['test/sequence_accuracy']:.4f}"
    parameters = f"{run.manifest['parameters']:,}"
    assert repr(run) == (
        f"Run(task=seq2seq, model=encoder_decoder, parameters={parameters}, test/sequence_accuracy={accuracy}, "
        f"run_dir={str(finished_run)!r})"
    )
    run.manifest = {}
    assert "test/" not in repr(run)


def test_unfinished_run_is_loaded_with_a_warning(run_copy: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for status in ("finished", "evaluated"):
            set_status(run_copy, status)
            Run.load(run_copy)
    for status in ("running", "Interrupted: stopped by SIGTERM", "NumericError: loss"):
        set_status(run_copy, status)
        with pytest.warns(PatchworkWarning) as warned:
            Run.load(run_copy)
        (message,) = (str(each.message) for each in warned)
        assert message == (
            f"run={run_copy} is not finished: it stopped at step 2 of 2; patchwork train resume={run_copy} finishes "
            "it. Its best weights so far are used, of epoch 1"
        )
        assert warned[0].filename == __file__


def test_evaluate_command_measures_the_same_metrics(
    command: Command, finished_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("evaluate", f"run={finished_run}") == 0
    lines = capsys.readouterr().out.splitlines()
    for name, value in read_manifest(finished_run)["metrics"].items():
        if name.startswith("test/"):
            (line,) = (line for line in lines if line.split()[0] == name)
            assert float(line.split()[1]) == value
            assert line.endswith("as before")


def test_seed_decides_the_weights(command: Command, tmp_path: Path) -> None:
    for run_dir, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert command("train", *TINY, "model.dropout=0.1", f"run_dir={run_dir}", f"seed={seed}") == 0
    a, b, c = (read_manifest(tmp_path / name)["weights_sha256"] for name in "abc")
    assert a == b != c
    assert (tmp_path / "a/metrics.csv").read_bytes() == (tmp_path / "b/metrics.csv").read_bytes()


# --- resuming --------------------------------------------------------------------------------------------------------


def test_auto_resume_finds_the_run_of_the_same_configuration(
    command: Command, tmp_path: Path, run_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And skips a damaged one."""
    runs = tmp_path / "outputs/seq2seq/encoder_decoder"
    (runs / "9999").mkdir(parents=True)
    (runs / "9999" / "config.yaml").write_text("a: [1")
    run_copy.rename(runs / "0000")
    before = (runs / "0000" / "manifest.json").read_bytes()
    assert command("train", *TINY, "seed=3", "resume=auto") == 0
    assert "already finished; nothing to resume" in capsys.readouterr().out
    assert (runs / "0000" / "manifest.json").read_bytes() == before
    assert command("train", *TINY, "resume=auto", "seed=5") == 0
    assert len(list(runs.iterdir())) == 3


def test_resumed_run_records_each_session(command: Command, run_copy: Path) -> None:
    first = read_manifest(run_copy)
    set_status(run_copy, "running", commit="earlier")
    assert command("train", f"resume={run_copy}") == 0
    second = read_manifest(run_copy)
    assert (second["commit"], second["command"]) == ("earlier", first["command"])
    (session,) = second["resumed"]
    assert session["command"] == f"patchwork train resume={run_copy}"
    assert session["commit"] == first["commit"]
    assert second["metrics"] == first["metrics"]
    assert second["status"] == "finished"


def test_manifest_keeps_how_the_run_first_started() -> None:
    def launched(command: str) -> dict:
        return {"seed": 3, "command": command, "commit": command[0], "versions": {}, "hardware": {}}

    manifest = merge_manifest({}, launched("first"))
    assert manifest["status"] == "running"
    for command in ("second", "third"):
        manifest = merge_manifest({**manifest, "status": "Interrupted", "dataset": "uci"}, launched(command))
        assert (manifest["command"], manifest["status"], manifest["dataset"]) == ("first", "running", "uci")
    assert [session["command"] for session in manifest["resumed"]] == ["second", "third"]
    assert all(session.keys() == {"command", "commit", "versions", "hardware"} for session in manifest["resumed"])


def test_resume_writes_the_figures_that_failed(
    command: Command, run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    set_status(run_copy, "running")
    before = read_manifest(run_copy)
    (run_copy / "figures" / "curves.png").unlink()
    with monkeypatch.context() as patches:
        patches.setattr("patchwork.figures.style.save_figure", fail)
        assert command("train", f"resume={run_copy}") == 5
    failed = read_manifest(run_copy)
    assert failed["status"] == f"ResourceError: {run_copy}/figures cannot be written: No space left on device"
    assert command("train", f"resume={run_copy}") == 0
    after = read_manifest(run_copy)
    assert after["status"] == "finished"
    assert after["metrics"] == before["metrics"]
    assert (run_copy / "figures" / "curves.png").exists()


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, 0), (DataError("damaged"), 3), (MemoryError(), 5), (OSError(28, "full"), 5), (KeyError(), 1)],
)
def test_loggers_get_the_exit_code_of_the_run(tmp_path: Path, error: Exception | None, code: int) -> None:
    logger = Mock(spec=RunLogger)
    session = Mock(spec=TrainingContext, trainer=Mock(loggers=[logger]), timer=RunTimer(0.0))
    with nullcontext() if error is None else pytest.raises(type(error)), record_outcome(session, tmp_path, {"seed": 0}):
        if error is not None:
            raise error
    logger.finish.assert_called_once_with(code)
    if error is not None:
        assert read_manifest(tmp_path)["status"].startswith(f"{type(error).__name__}: ")


# --- what a step is --------------------------------------------------------------------------------------------------


def test_logged_loss_does_not_depend_on_gradient_accumulation(command: Command, tmp_path: Path) -> None:
    losses = []
    for run_dir, batch_size, accumulated in (("whole", 16, 1), ("accumulated", 8, 2)):
        overrides = [
            f"data.batch_size={batch_size}",
            f"trainer.accumulate_grad_batches={accumulated}",
            "data.resample_each_epoch=false",
            "trainer.log_every_n_steps=1",
            "optimizer=sgd",
            "optimizer.lr=0.0001",
        ]
        assert command("train", *TINY, *overrides, f"run_dir={run_dir}") == 0
        losses.append([float(row["train/loss"]) for row in read_rows(tmp_path / run_dir) if row["train/loss"]])
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], abs=1e-3)  # the same samples, in the same order


def test_a_run_without_weights_says_so(tmp_path: Path, finished_run: Path) -> None:
    for name in ("config.yaml", "manifest.json"):
        (tmp_path / name).write_bytes((finished_run / name).read_bytes())
    with pytest.raises(DataError, match="is a finished run, but its weights are gone"):
        Run.load(tmp_path)
    set_status(tmp_path, "running")
    with pytest.raises(DataError, match=f"is not finished and has no weights.*: patchwork train resume={tmp_path}"):
        Run.load(tmp_path)


def test_a_run_that_was_killed_before_its_first_epoch_ended_is_loaded(run_copy: Path) -> None:
    set_status(run_copy, "running")
    (run_copy / "checkpoints" / "last.ckpt").unlink()
    with pytest.warns(PatchworkWarning, match="it stopped at step 2 of 2"):
        Run.load(run_copy)
    (run_copy / "checkpoints" / "best.ckpt").rename(run_copy / "checkpoints" / "last.ckpt")
    with pytest.warns(PatchworkWarning, match="Its latest weights are used, as it was never validated"):
        Run.load(run_copy)

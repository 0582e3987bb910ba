"""One run from a command line: what Hydra's own keys mean, and what is refused because it would do something else."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import TINY, run_command
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from patchwork.runs import train as train_module
from patchwork.tasks import Task

Command = Callable[..., int]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[DictConfig, tuple[str, ...], str | None]]:
    """Return the list of what was to be trained since, instead of training it: configuration, overrides, `$A`."""
    calls = []

    def train(config: DictConfig, launch: Any) -> None:
        assert not HydraConfig.initialized()  # Lightning would start other processes by it
        calls.append((config, launch.overrides, os.environ.get("A")))

    monkeypatch.setattr(train_module, "train", train)
    return calls


@pytest.fixture
def conf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory for configuration files of one's own, with a space in its name."""
    directory = tmp_path_factory.mktemp("my conf")
    (directory / "experiment").mkdir()
    return directory


@pytest.mark.parametrize(
    ("args", "run_dir"),
    [
        (["hydra.run.dir=X"], "X"),
        (["hydra.run.dir=a (1)/lr=0.1"], "a (1)/lr=0.1"),
        (["hydra.run.dir=X/${hydra.job.override_dirname}", "seed=3"], "X/seed=3"),
        (["run_dir=${hydra:job.name}", "hydra.job.name=mine"], "mine"),
        (["run_dir=r${seed}"], "r0"),
        (["run_dir=r$\\{seed\\}"], "r0"),  # as Hydra passes it to a job
        (["run_dir=2026"], "2026"),
        (["run_dir=a,b"], "a,b"),
        (["run_dir=choice(a,b)"], "choice(a,b)"),
        (["run_dir=glob(*)"], "glob(*)"),
        (["hydra.verbose=true", "hydra/job_logging=stdout", "run_dir=v"], "v"),
        (["+hydra.job.env_set.A=here", "run_dir=here"], "here"),
        (["seed=1", "--config-name=train", "run_dir=x"], "x"),  # options may stand anywhere
    ],
)
def test_run_directory(command: Command, tmp_path: Path, trained: list, args: list[str], run_dir: str) -> None:
    assert command("train", *args) == 0
    ((config, overrides, variable),) = trained
    assert config.run_dir == run_dir
    assert any(override.startswith(("run_dir=", "++run_dir=")) for override in overrides)
    assert variable == ("here" if run_dir == "here" else None)
    assert "A" not in os.environ
    assert list(tmp_path.iterdir()) == []


REFUSED = [
    ("hydra.job.chdir=true", "hydra.job.chdir=true is not allowed"),
    ("-m hydra.job.chdir=true seed=0,1", "hydra.job.chdir=true is not allowed"),
    ("hydra.output_subdir=.hydra", "hydra.output_subdir=.hydra is not allowed"),
    ("hydra/job_logging=default", "hydra/job_logging=stdout"),
    ("hydra.verbose=true", "hydra/job_logging=stdout"),
    ("+hydra.callbacks.x._target_=os.system", "hydra.callbacks.x is not allowed"),
    ("hydra.run.dir=X run_dir=Y", "cannot be combined with run_dir=Y"),
    ("run_dir=${hydra:runtime.output_dir}", "hydra.run.dir="),
    ("-m hydra.run.dir=X seed=0,1", "hydra.sweep.dir="),
    ("hydra.sweep.dir=X", "add -m"),
    ("hydra/launcher=joblib", "add -m"),
    ("-m hydra/sweeper=optuna seed=0,1", "patchwork sweep"),
    ("-m hydra.sweeper.n_trials=9 seed=0,1", "patchwork sweep"),
    ("hydra.mode=both", "RUN, MULTIRUN"),
    ("logger=csv,wandb", "logger=csv,wandb lists several choices: add -m to run each"),
    ("model=glob(*)", "model=glob(*) lists several choices: add -m to run each"),
    ("seed=range(0,3)", "seed=range(0,3) lists several values: add -m to run each"),
    ("hydra.verbose=1,2", "hydra.verbose=1,2 lists several values: a key of Hydra has one"),
    ("task=[sum,classify]", "task is one choice; with -m, task=sum,classify runs each"),
    ("task=[sum,nothing]", "task is one choice, of anchor, classify"),
    ("task={a:1}", "task is one choice, of anchor, classify"),
    ("task=7", "unknown choice task=7; available: anchor"),
    ("optimizer@optimizer=adamw", "optimizer@optimizer=adamw is not allowed: write optimizer=adamw"),
    ("stem@foo=linear", "stem@foo=linear is not allowed: write stem@model.stem=linear"),
    ("run_dir=???", "run_dir=??? is not allowed"),
    ("optimizer.lr=???", "optimizer.lr=??? is not allowed"),
    ("--cfg job run_dir=a,b seed=range(0,3)", "seed=range(0,3) lists several values"),
    ("--config-dir=~nobody.here/x", "~nobody.here/x is not a directory"),
    ("trainer=gpu", "accelerator=cuda"),
    ("--experimental-rerun=config.pickle", "--experimental-rerun is not allowed"),
    ("--cfg job nonsense=1", "nonsense"),
    ("-m --cfg=job", "Only one of"),
    ("--config-dir=nowhere", "nowhere is not a directory"),
    ("--config-name=nothing", "--config-name=nothing does not exist"),
]


@pytest.mark.parametrize(("args", "fragment"), REFUSED, ids=[args for args, _ in REFUSED])
def test_refused(
    command: Command, tmp_path: Path, trained: list, capfd: pytest.CaptureFixture[str], args: str, fragment: str
) -> None:
    assert command("train", *args.split()) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert fragment in line
    assert trained == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args", ["seed=-1", "model=vit"])
def test_what_needs_no_torch_is_checked_without_it(args: str) -> None:
    script = (
        f"import sys; from patchwork.commands import train; train.command([{args!r}]); sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert f"patchwork train: {args} " in result.stderr


def test_fault_is_found_in_a_configuration_of_ones_own(
    command: Command, conf: Path, trained: list, capfd: pytest.CaptureFixture[str]
) -> None:
    (conf / "mine.yaml").write_text("defaults: [train, _self_]\nseed: 5\n")
    assert command("train", f"--config-dir={conf}", "--config-name=mine", "optimzer.lr=1") == 2
    assert "did you mean optimizer.lr=1?" in capfd.readouterr().err
    (conf / "mine.yaml").write_text("defaults: [nothing]\n")
    assert command("train", f"--config-dir={conf}", "--config-name=mine", "seed=1") == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith("In 'mine': Could not load 'nothing'.")


def test_experiment_that_changes_the_working_directory_is_refused(
    command: Command, conf: Path, trained: list, capfd: pytest.CaptureFixture[str]
) -> None:
    (conf / "experiment" / "moves.yaml").write_text("# @package _global_\nhydra: {job: {chdir: true}}\n")
    assert command("train", f"--config-dir={conf}", "experiment=moves") == 2
    assert "hydra.job.chdir=true is not allowed" in capfd.readouterr().err
    assert trained == []


def test_parameters_of_a_sweeper_are_not_ignored_silently(
    command: Command, conf: Path, trained: list, capfd: pytest.CaptureFixture[str]
) -> None:
    (conf / "experiment" / "seeds.yaml").write_text('# @package _global_\nhydra: {sweeper: {params: {seed: "0,1"}}}\n')
    assert command("train", "--config-dir", str(conf), "experiment=seeds") == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line == "warning: hydra.sweeper.params applies to several runs: -m starts them"
    assert trained[0][0].seed == 0


def test_printed_hint_resumes_a_run_in_any_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A run is stopped by SIGTERM, and what it prints is typed into a shell."""
    training_step = Task.training_step

    def stop(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return training_step(*args, **kwargs)

    run_dir = "a (copy) =ü"
    with monkeypatch.context() as patched:
        patched.setattr(Task, "training_step", stop)
        assert run_command("train", *TINY, f"run_dir={run_dir}", cwd=tmp_path) == 128 + signal.SIGTERM
    line = capfd.readouterr().err.splitlines()[-1]
    (hint,) = [word for word in shlex.split(line) if word.startswith("resume=")]
    assert run_command("train", hint, cwd=tmp_path) == 0
    printed = capfd.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == [run_dir]
    assert shlex.quote(f'run="{run_dir}"') in printed

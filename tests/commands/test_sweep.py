"""`patchwork sweep`: its file may be a packaged one, and wrong arguments are reported before anything starts."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from patchwork.commands.sweep import command, find_file, sweep
from patchwork.core.errors import DataError
from patchwork.core.schema import signature
from patchwork.runs.compose import SWEEPS_DIR
from patchwork.sweep import storage

SPACE = {
    "program": "train.py",
    "method": "random",
    "metric": {"name": "val/loss", "goal": "minimize"},
    "parameters": {"seed": {"min": 0, "max": 9}},
    "command": ["${program}", "task=classify", "dataset=uci"],
}


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the only file of an empty working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(storage, "FIRST_DELAY", 0.0)
    path = Path("space.yaml")
    path.write_text(yaml.safe_dump(SPACE))
    return path


@pytest.mark.parametrize(
    ("args", "exit_code", "message"),
    [
        (["n_trials=0"], 2, "n_trials=0 is not allowed"),
        (["sweep_dir="], 2, "sweep_dir="),
        (["job=2"], 2, "is not a key of the configuration"),
        (["seed=1"], 2, "nothing is left to search"),
        (["model.depth=1,2"], 2, "model.depth=1,2 is not allowed"),
        (["logger=none"], 2, "logger=none is not allowed"),
        (["task=nonsense"], 2, "anchor, classify"),
        (["task=sum", "model=vit"], 2, "fit"),
        (["storage=nonsense"], 2, "storage=nonsense is not allowed: use the URL of a database, as sqlite:///"),
        (["storage=sqlite:////nowhere/x.db"], 5, "cannot be opened"),
        (["sweep_dir=space.yaml"], 2, "sweep_dir=space.yaml is a file"),
        (["sweep_dir=/proc/sweep"], 5, "sweep_dir=/proc/sweep cannot be"),
        (["other.yaml"], 2, "2 files are given"),
        (["--n_trials=5"], 2, "use n_trials=5"),
        (["--n-trials", "5"], 2, "use n_trials=…"),
        (["hydra.sweeper.n_trials=5"], 2, "use n_trials=5"),
        (["count=5"], 2, "use n_trials=…"),
        (["direction=maximize"], 2, "metric.goal in the sweep's file"),
        (["study_name=mine"], 2, "sweep_dir=… or storage=…"),
        (["~logger"], 2, "~logger is not allowed"),
        (["task=pixels", "ensemble=2"], 2, "evaluates one run at a time"),
    ],
)
def test_wrong_arguments_are_reported_in_one_line(
    space: Path, capsys: pytest.CaptureFixture[str], args: list[str], exit_code: int, message: str
) -> None:
    assert command([str(space), *args]) == exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("patchwork sweep: ")
    assert message in line
    assert list(Path().iterdir()) == [space]


def test_packaged_sweeps_are_listed_without_a_file(space: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command([]) == 2
    assert "a packaged sweep, which are anchor, classify" in capsys.readouterr().err


def test_dry_run_in_which_nothing_can_be_trained_fails(space: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {"model.num_heads": {"values": [3, 5]}}
    space.write_text(yaml.safe_dump({**SPACE, "parameters": parameters}))
    assert command([str(space), "dry_run=true"]) == 2
    captured = capsys.readouterr()
    assert "2 configurations, 2 of them infeasible" in captured.out
    assert (
        "no setting of space.yaml can be trained: model: embed_dim=64 is not divisible by num_heads=3" in captured.err
    )


def test_metric_must_be_one_that_the_task_measures(space: Path, capsys: pytest.CaptureFixture[str]) -> None:
    space.write_text(yaml.safe_dump({**SPACE, "metric": {"name": "val/luck"}}))
    assert command([str(space)]) == 2
    assert "metric.name=val/luck cannot be monitored: use one of val/accuracy" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sum", "sum.yaml", "sweeps/sum.yaml"])
def test_packaged_file_is_found_by_name(space: Path, name: str) -> None:
    assert find_file(name) == SWEEPS_DIR / "sum.yaml"


@pytest.mark.parametrize("name", ["none", "none.yaml", "elsewhere/sum.yaml", "sweeps", ".", "sum.yml"])
def test_file_that_does_not_exist_is_reported_with_the_packaged_ones(space: Path, name: str) -> None:
    with pytest.raises(DataError, match="neither a file nor a packaged sweep; available: anchor, classify"):
        find_file(name)


def test_file_of_the_working_directory_comes_first(space: Path) -> None:
    assert find_file("space.yaml") == space
    Path("sum").write_text("")
    assert find_file("sum") == Path("sum")


def test_help_names_each_key_and_imports_neither_torch_nor_optuna(tmp_path: Path) -> None:
    program = (
        "import sys; from patchwork.commands.sweep import command; "
        "assert command(['--help']) == 0; assert not {'torch', 'optuna'} & {*sys.modules}"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines() if line.startswith("  ")]
    described = {line[0].partition("=")[0] for line in lines if len(line) == 2}
    assert described >= signature(sweep).keys()

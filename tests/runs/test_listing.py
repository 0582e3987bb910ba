"""A list of runs says what each is and how it ended, and takes damaged and foreign directories as they are."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from patchwork.core.errors import DataError
from patchwork.runs.listing import RunSummary, list_runs

MANIFEST = {"task": "seq2seq", "model": "encoder_decoder", "command": "patchwork train seed=1", "status": "running"}


def write_run(run_dir: Path, config: str | None = "task_name: sum\nmodel_name: vit\n", **facts: Any) -> Path:
    """Write the files of a run with a manifest of these facts."""
    run_dir.mkdir(parents=True)
    (run_dir / "manifest.json").write_text(json.dumps({**MANIFEST, **facts}))
    if config is not None:
        (run_dir / "config.yaml").write_text(config)
    return run_dir


def only_run(root: Path) -> RunSummary:
    (run,) = list_runs(root)
    return run


def test_finished_run_has_its_result(finished_run: Path) -> None:
    run = only_run(finished_run.parent)
    manifest = json.loads((finished_run / "manifest.json").read_text())
    assert (run.run_dir, run.task, run.model, run.status) == (finished_run, "seq2seq", "encoder_decoder", "finished")
    assert (run.metric, run.value) == ("test/sequence_accuracy", manifest["metrics"]["test/sequence_accuracy"])
    assert run.seconds == manifest["wall_clock_seconds"]
    assert {"seed=3", "dataset=uci", "model.stem=null"} <= {*run.overrides()}
    assert not any(override.startswith("run_dir") for override in run.overrides())
    assert run.started.isoformat(timespec="seconds") == manifest["started"]


def test_run_from_python_has_the_overrides_of_its_configuration(run_copy: Path) -> None:
    before = only_run(run_copy.parent).overrides()
    manifest = json.loads((run_copy / "manifest.json").read_text())
    (run_copy / "manifest.json").write_text(json.dumps({**manifest, "command": None}))
    assert {*only_run(run_copy.parent).overrides()} == {*before}


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("running", ("killed", "")),
        ("evaluated", ("killed", "")),
        ("Interrupted: stopped by SIGTERM", ("stopped", "")),
        ("NumericError: the loss is nan", ("failed", "the loss is nan")),
        ("KeyError: ", ("failed", "KeyError")),
        (3, ("damaged", "its manifest.json cannot be read")),
    ],
)
def test_status_says_how_a_run_ended(tmp_path: Path, status: Any, expected: tuple[str, str]) -> None:
    write_run(tmp_path / "run", status=status)
    run = only_run(tmp_path)
    assert (run.status, run.reason) == expected


def test_locked_run_is_running(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "run")
    script = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    process = [sys.executable, "-S", "-c", script, str(run_dir / ".lock")]
    with subprocess.Popen(process, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        assert only_run(tmp_path).status == "running"
        other.communicate(b"\n")
    assert only_run(tmp_path).status == "killed"


def test_runs_of_all_kinds_are_found_newest_first(tmp_path: Path) -> None:
    """Also those of sweeps, of directories that users name, and old ones without a start in their manifest."""
    write_run(tmp_path / "mine", started="2026-01-03T00:00:00+00:00")
    write_run(tmp_path / "sweeps/sum/2026-01-01_00-00-00/trials/001", started="2026-01-02T00:00:00+00:00")
    write_run(tmp_path / "sum/vit/2026-01-04_12-00-00-2")
    old = write_run(tmp_path / "sum/vit/old")
    os.utime(old / "config.yaml", (0, 0))
    (tmp_path / "multirun/2026-01-01_00-00-00-000000").mkdir(parents=True)
    (tmp_path / "multirun/2026-01-01_00-00-00-000000/0.json").write_text("{}")
    assert [run.run_dir.name for run in list_runs(tmp_path)] == ["2026-01-04_12-00-00-2", "mine", "001", "old"]


def test_damaged_runs_are_listed(tmp_path: Path) -> None:
    runs = tmp_path / "sum/vit"
    (write_run(runs / "no config", config=None) / "checkpoints").mkdir()
    write_run(runs / "no yaml", config="{{{", command=None)
    write_run(runs / "odd", metrics=[1], monitor=3, wall_clock_seconds="x", started=5, task=None)
    write_run(runs / "no manifest", command=None)
    (runs / "no manifest/manifest.json").unlink()
    (runs / "no manifest/.lock").touch()
    write_run(runs / "list")
    (runs / "list/manifest.json").write_text("[]")
    (runs / "2026-01-01_00-00-00").mkdir()
    (runs / "named/checkpoints").mkdir(parents=True)
    (runs / "named/.lock").touch()
    found = {run.run_dir.name: run for run in list_runs(tmp_path)}
    assert found.keys() == {"no config", "no yaml", "odd", "no manifest", "list", "2026-01-01_00-00-00", "named"}
    reasons = {name: run.reason for name, run in found.items() if run.status == "damaged"}
    assert reasons["no config"] == "it has no config.yaml"
    assert reasons["no manifest"] == "it has no manifest.json"
    assert reasons["list"] == "its manifest.json cannot be read"
    assert reasons["2026-01-01_00-00-00"] == reasons["named"] == "it has no config.yaml"
    assert (found["odd"].task, found["odd"].value, found["odd"].seconds) == ("sum", None, None)
    assert [run.overrides() for run in found.values() if run.run_dir.name in ("no yaml", "no manifest")] == [[], []]


@pytest.mark.parametrize("depth", range(5))
def test_runs_are_found_from_any_directory_above_and_nothing_else_is(tmp_path: Path, depth: int) -> None:
    run_dir = write_run(tmp_path / "outputs/seq2seq/encoder_decoder/2026-01-01_00-00-00")
    for name in ("a/b/c/d", "outputs/multirun/2026-01-01_00-00-00-000000", "outputs/sweeps/sum/2026-01-02_00-00-00"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("a/config.yaml", "a/b/manifest.json", "a/b/c/.lock", "outputs/config.yaml", "outputs/seq2seq/.lock"):
        (tmp_path / name).touch()
    root = [tmp_path, *[tmp_path.joinpath(*run_dir.relative_to(tmp_path).parts[:end]) for end in range(1, 5)]][depth]
    assert [run.run_dir for run in list_runs(root)] == [run_dir]


def test_runs_are_listed_below_a_directory_that_exists(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, problem in (("nowhere", "does not exist"), ("file", "is a file")):
        with pytest.raises(DataError, match=f"{name} {problem}: pass a directory of runs"):
            list_runs(tmp_path / name)


def test_listing_imports_neither_torch_nor_hydra_and_is_fast(finished_run: Path, tmp_path: Path) -> None:
    for index in range(300):
        shutil.copytree(finished_run, tmp_path / f"{index}", ignore=shutil.ignore_patterns("*.ckpt", "*.png", "*.npz"))
    script = (
        "import sys, time; from pathlib import Path; from patchwork.runs.listing import list_runs; "
        "start = time.process_time(); runs = list_runs(Path(sys.argv[1])); overrides = [r.overrides() for r in runs]; "
        "print(len(runs), time.process_time() - start, {'torch', 'hydra'} & {*sys.modules})"
    )
    result = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    count, seconds, imported = result.stdout.split()
    assert (count, imported) == ("300", "set()")
    assert float(seconds) < 5

"""What SLURM says about a process, and asking it for another turn."""

import os
from pathlib import Path

import pytest

from patchwork.core import slurm


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests begin outside of SLURM."""
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("variables", "tasks"),
    [
        ({}, 1),
        ({"NTASKS": "2", "PROCID": "0"}, 2),
        ({"NTASKS": "2"}, 1),  # a shell that salloc has started
        ({"NTASKS": "2", "PROCID": "0", "JOB_NAME": "bash"}, 1),
        ({"NTASKS": "2", "PROCID": "0", "JOB_NAME": "interactive"}, 1),
        ({"NTASKS": "", "PROCID": "0"}, 1),
        ({"NTASKS": "two", "PROCID": "0"}, 1),
    ],
)
def test_number_of_tasks(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], tasks: int) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert slurm.num_tasks() == tasks


@pytest.mark.parametrize(
    ("variables", "others"),
    [({"PROCID": "0"}, False), ({"PROCID": "1"}, True), ({"PROCID": "0", "STEP_NUM_TASKS": "2"}, True)],
)
def test_batch_script_may_be_alone_but_tasks_of_a_step_are_not(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], others: bool
) -> None:
    for name, value in {"NTASKS": "2", **variables}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert slurm.srun_started_others() == others


def make_scontrol(directory: Path, script: str) -> None:
    path = directory / "scontrol"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_job_is_requeued_by_its_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert slurm.requeue() is None
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    make_scontrol(tmp_path, f'echo "$@" >> {tmp_path / "calls"}')
    assert slurm.requeue() == "job 7 is requeued"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    assert slurm.requeue() == "job 5_2 is requeued"
    assert (tmp_path / "calls").read_text().splitlines() == ["requeue 7", "requeue 5_2"]
    make_scontrol(tmp_path, "echo Access denied >&2; exit 1")
    assert slurm.requeue() == "job 5_2 is not requeued: Access denied"


def test_missing_scontrol_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert slurm.requeue() == "job 7 is not requeued: there is no scontrol here"
    monkeypatch.setenv("SLURM_JOB_ID", "7; rm -r .")
    assert slurm.requeue() is None

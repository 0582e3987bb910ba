"""A search survives any kill, repeats nothing, prunes trials that lag, and outlives the failures of trials."""

import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from patchwork.core.errors import ResourceError
from patchwork.sweep import search, storage

TIMEOUT = 60.0


def wait_for_exit(pid: int) -> int:
    """Return the exit code of a child process; it is killed if it takes too long."""
    deadline = time.monotonic() + TIMEOUT
    while (result := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
    return os.waitstatus_to_exitcode(result[1])


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.usefixtures("lockstep")
def test_hyperband_prunes_trials_that_lag(sweep: Any) -> None:
    seeds = {"values": [1, 2, 3, 4, 5, 6]}
    hyperband = {"type": "hyperband", "min_iter": 1, "eta": 2}
    args = ["n_jobs=2", "n_trials=6", "trainer.max_epochs=8"]
    assert sweep(*args, seeds=seeds, method="grid", early_terminate=hyperband) == 0
    ends = {int(row["seed"]): (row["state"], int(row["validations"])) for row in sweep.trials()}
    assert ends[1] == ("finished", 8)
    pruned = [validations for state, validations in ends.values() if state == "pruned"]
    assert pruned
    assert max(pruned) < 8  # after the last validation a trial is finished
    assert {state for state, _ in ends.values()} == {"finished", "pruned"}


def test_failed_trial_is_recorded_and_search_continues(sweep: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("n_trials=3", seeds={"values": [12, 13, 14]}, method="grid") == 0
    ends = {row["seed"]: (row["state"], row["error"]) for row in sweep.trials()}
    assert ends == {"12": ("finished", ""), "13": ("failed", "seed=13 is unlucky"), "14": ("finished", "")}
    assert "trial 1 failed: seed=13 is unlucky" in capsys.readouterr().out


def test_run_without_the_metric_is_a_failed_trial(sweep: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("n_trials=2", seeds={"values": [15, 12]}, method="grid") == 0
    ends = {row["seed"]: (row["state"], row["error"]) for row in sweep.trials()}
    assert ends == {"15": ("failed", "the run ended without val/loss"), "12": ("finished", "")}
    assert sweep("n_trials=1", seeds={"values": [15, 13]}, method="grid", sweep_dir="other") == 1
    assert "no trial finished, the last one as the run ended without val/loss" in capsys.readouterr().err


def test_search_ends_when_the_target_is_reached(sweep: Any) -> None:
    metric = {"name": "val/loss", "target": 8.5}
    assert sweep(seeds={"values": [9, 8, 1]}, method="grid", metric=metric) == 0
    assert [row["seed"] for row in sweep.trials()] == ["9", "8"]


def test_lists_and_null_are_values(sweep: Any) -> None:
    parameters = {"seed": {"values": [1, 2]}, "optimizer.betas": {"values": [["9e-1", 0.98], [0.8, 0.9]]}}
    space = {"parameters": parameters, "method": "grid", "command": ["train.py", "optimizer=adam"]}
    for database in ([], ["storage=sqlite:///shared.db"]):
        sweep_dir = f"sweep{len(database)}"
        assert sweep(*database, sweep_dir=sweep_dir, **space) == 0
        betas = [row["optimizer.betas"] for row in sweep.trials(sweep_dir)]
        assert sorted(betas) == ["[0.8, 0.9]", "[0.8, 0.9]", "[0.9, 0.98]", "[0.9, 0.98]"]
        assert sweep(*database, sweep_dir=sweep_dir, **space) == 0
        assert len(sweep.trials(sweep_dir)) == 4


def test_names_are_what_the_shell_means(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", os.getcwd())
    names = ["lr=0.1", "my sweep (1)", "größe#2,3", "it's", "~/home"]
    for name in names:
        assert sweep("n_trials=1", sweep_dir=name) == 0
    assert [row["state"] for name in names for row in sweep.trials(name.removeprefix("~/"))] == ["finished"] * 5
    assert not Path("~").exists()


def hold_database(path: str, seconds: float) -> threading.Thread:
    """Lock a SQLite database for all others, and return the thread that does."""
    locked = threading.Event()

    def hold() -> None:
        connection = sqlite3.connect(path, isolation_level=None, timeout=TIMEOUT)
        connection.execute("BEGIN EXCLUSIVE")
        locked.set()
        time.sleep(seconds)
        connection.close()

    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait()
    return thread


def test_locked_database_is_waited_for(
    sweep: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storage, "SQLITE_TIMEOUT", 0.01)
    monkeypatch.setattr(storage, "FIRST_DELAY", 0.02)
    database = "storage=sqlite:///shared.db"
    assert sweep("n_trials=1", database) == 0
    with monkeypatch.context() as context:
        context.setattr(storage, "RETRY_TIMEOUT", 0.1)
        thread = hold_database("shared.db", 1.0)
        assert sweep("n_trials=2", database) == 5
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("patchwork sweep: storage=sqlite:///shared.db is locked by another process")
    assert sweep("n_trials=2", database) == 0
    thread.join()
    assert "is locked by another process: trying again" in capsys.readouterr().out
    assert [row["state"] for row in sweep.trials()] == ["finished"] * 2


def test_trials_elsewhere_are_named_beside_the_selection(sweep: Any, capsys: pytest.CaptureFixture[str]) -> None:
    database = "sqlite:///shared.db"
    assert sweep("n_trials=1", f"storage={database}") == 0
    assert "another process" not in capsys.readouterr().out
    optuna.load_study(study_name=None, storage=database).ask({"seed": optuna.distributions.IntDistribution(0, 9)})
    assert sweep("n_trials=2", f"storage={database}") == 0
    assert "1 trial is still running in another process" in capsys.readouterr().out


def test_infeasible_trials_are_never_started(sweep: Any, capsys: pytest.CaptureFixture[str]) -> None:
    parameters = {"model.num_heads": {"values": [3, 4, 5]}, "seed": {"value": 1}}
    assert sweep(method="grid", parameters=parameters) == 0
    assert [row["model.num_heads"] for row in sweep.trials()] == ["4"]
    assert len(sweep.started()) == 1
    reasons = [trial.user_attrs.get("infeasible", "") for trial in sweep.study().trials]
    assert "embed_dim=64 is not divisible by num_heads=3" in reasons[0]
    assert reasons[1] == ""
    assert "embed_dim=64 is not divisible by num_heads=5" in reasons[2]
    assert "1 trials: 1 finished, 2 infeasible" in capsys.readouterr().out


def test_duplicates_are_not_trained(
    sweep: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "MAX_REJECTED", 20)
    assert sweep("n_trials=9", seeds={"values": [1, 2]}) == 0
    assert sorted(row["seed"] for row in sweep.trials()) == ["1", "2"]
    assert set(sweep.num_starts().values()) == {1}
    assert "20 suggestions in a row were duplicates or infeasible; the last repeats trial" in capsys.readouterr().out


@pytest.mark.usefixtures("lockstep")
def test_resume_after_sigkill_at_random_moments(sweep: Any) -> None:
    rng = random.Random(0)
    num_starts = 0
    for _ in range(6):
        pid = sweep.fork("n_jobs=2", "n_trials=6")
        wait_until(lambda before=num_starts: len(sweep.started()) > before)
        time.sleep(rng.uniform(0.0, 0.3))
        os.kill(pid, signal.SIGKILL)
        wait_for_exit(pid)
        num_starts = len(sweep.started())
        if len(finished_trials(sweep)) == 6:
            break
    finished = finished_trials(sweep)
    before = sweep.num_starts()
    assert sweep("n_jobs=2", "n_trials=6") == 0
    rows = sweep.trials()
    assert [row["state"] for row in rows] == ["finished"] * 6
    assert len({row["seed"] for row in rows}) == 6
    assert all(sweep.num_starts()[f"{number:03}"] == before[f"{number:03}"] for number in finished)
    for row in rows:
        lines = (Path(row["run_dir"]) / "metrics.csv").read_text().splitlines()
        assert len(lines) == 5  # each epoch once
        assert float(row["val/loss"]) == int(row["seed"]) + 0.25
    assert all(
        sorted(trial.intermediate_values) == [1, 2, 3, 4] for trial in sweep.study().trials if trial.value is not None
    )


def finished_trials(sweep: Any) -> list[int]:
    return [trial.number for trial in sweep.study().trials if trial.state.name == "COMPLETE"]


@pytest.mark.usefixtures("lockstep")
@pytest.mark.parametrize(("signum", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_stops_the_trials_too(
    sweep: Any, capfd: pytest.CaptureFixture[str], signum: signal.Signals, exit_code: int
) -> None:
    pid = sweep.fork("n_jobs=2", "n_trials=4", "trainer.max_epochs=5000")
    wait_until(lambda: len(sweep.started()) == 2)
    assert all(is_alive(child) for _, child in sweep.started())
    os.kill(pid, signum)
    assert wait_for_exit(pid) == exit_code
    (line,) = capfd.readouterr().err.splitlines()
    assert "resume with the same command and sweep_dir=sweep" in line
    assert not any(is_alive(child) for _, child in sweep.started())


@pytest.mark.parametrize("database", [[], ["storage=sqlite:///shared.db"]], ids=["directory", "database"])
def test_processes_share_a_study(sweep: Any, monkeypatch: pytest.MonkeyPatch, database: list[str]) -> None:
    sweep_dirs = ["sweep", "other"] if database else ["sweep", "sweep"]
    monkeypatch.setenv("START_TOGETHER", "2")
    pids = [sweep.fork("n_trials=6", *database, sweep_dir=sweep_dir) for sweep_dir in sweep_dirs]
    assert [wait_for_exit(pid) for pid in pids] == [0, 0]
    assert sweep("n_trials=6", *database) == 0
    rows = sweep.trials()
    assert 6 <= len(rows) <= 7  # both may have started the last one
    assert {row["state"] for row in rows} == {"finished"}
    assert len({row["seed"] for row in rows}) == len(rows)
    assert {path.parts[0] for path in Path().glob("*/trials/*/manifest.json")} == {*sweep_dirs}


def test_trial_lock_is_held_by_one_process(sweep: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    locks = []

    def lock_once(directory: Path, name: str) -> Any:
        if name in locks:
            raise ResourceError("held")
        locks.append(name)
        return (directory / name).open("w")

    monkeypatch.setattr(search, "lock", lock_once)
    assert sweep("n_trials=3") == 0
    assert locks == [".000.lock", ".001.lock", ".002.lock"]
    assert [row["trial"] for row in sweep.trials()] == ["0", "1", "2"]


def test_live_table_on_a_terminal(
    sweep: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    assert sweep("n_trials=2", seeds={"values": [12, 13]}, method="grid") == 0
    output = capsys.readouterr().out
    assert "validations" in output
    assert "seed=13 is unlucky" in output
    assert "trial 1 failed" not in output  # events are printed where there is no table

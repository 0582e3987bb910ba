"""A search goes on after any kill, redoes nothing, ends what is behind, and outlives its trials' faults."""

import csv
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from conftest import ROOT

from patchwork.cli import guarded
from patchwork.config import signature
from patchwork.sweep import jobs
from patchwork.sweep.account import JOURNAL, mend
from patchwork.sweep.command import command
from patchwork.sweep.command import sweep as search

SETTINGS = ["task=classify", "digits=uci", "trainer.max_epochs=4"]


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return a function that sweeps over seeds with trainings of milliseconds, in the folder `sweep`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "ROOT", tmp_path)
    monkeypatch.setattr(jobs, "LOOK", 0.02)
    (tmp_path / "train.py").write_text((ROOT / "tests" / "sweep" / "trainer.py").read_text())

    def run(*words: str, seeds: Any = None, **content: Any) -> int:
        space = {
            "program": "train.py",
            "method": "random",
            "metric": {"name": "val/loss", "goal": "minimize"},
            "parameters": {"seed": seeds or {"min": 0, "max": 9}},
        }
        written = Path(f"space-{os.getpid()}.yaml")
        written.write_text(yaml.safe_dump({**space, **content}))
        written.replace("space.yaml")  # whole at any moment: another process may be reading it
        return guarded(lambda: command(["space.yaml", *SETTINGS, "folder=sweep", *words]))

    return run


def trials() -> list[dict[str, str]]:
    with Path("sweep/trials.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def begun() -> Counter[str]:
    return Counter(Path("sweep/trials/begun").read_text().split())


def study() -> optuna.Study:
    backend = optuna.storages.journal.JournalFileBackend(f"sweep/{JOURNAL}")
    return optuna.load_study(study_name=None, storage=optuna.storages.JournalStorage(backend))


def test_what_is_behind_is_ended(sweep: Callable[..., int]) -> None:
    seeds = {"values": [1, 2, 3, 4, 5, 6]}
    early = {"type": "hyperband", "min_iter": 1, "eta": 2}
    assert sweep("jobs=2", "count=6", "trainer.max_epochs=8", seeds=seeds, method="grid", early_terminate=early) == 0
    ends = {int(row["seed"]): (row["state"], int(row["validations"])) for row in trials()}
    assert ends[1] == ("finished", 8)
    pruned = [validations for state, validations in ends.values() if state == "pruned"]
    assert pruned
    assert max(pruned) < 8  # after the last one it is finished
    assert {state for state, _ in ends.values()} == {"finished", "pruned"}


def test_a_fault_is_recorded_and_ends_nothing(sweep: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("count=3", seeds={"values": [12, 13, 14]}, method="grid") == 0
    ends = {row["seed"]: (row["state"], row["error"]) for row in trials()}
    assert ends == {"12": ("finished", ""), "13": ("failed", "seed=13 is unlucky"), "14": ("finished", "")}
    assert "trial 1 failed: seed=13 is unlucky" in capsys.readouterr().out


def test_what_is_impossible_is_never_run(sweep: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    heads = {"model.num_heads": {"values": [3, 4, 5]}, "seed": {"value": 1}}
    assert sweep(method="grid", parameters=heads) == 0
    assert [row["model.num_heads"] for row in trials()] == ["4"]
    assert sum(begun().values()) == 1
    reasons = [trial.user_attrs.get("impossible") for trial in study().trials]
    said = "model: embed_dim=64 is not divisible by num_heads={}"
    assert reasons == [said.format(3), None, said.format(5)]
    assert "2 impossible" in capsys.readouterr().out


def test_nothing_is_trained_twice(sweep: Callable[..., int]) -> None:
    assert sweep("count=9", seeds={"values": [1, 2]}) == 0
    assert sorted(row["seed"] for row in trials()) == ["1", "2"]
    assert set(begun().values()) == {1}


def test_draws_depend_on_seed_and_number_alone(sweep: Callable[..., int]) -> None:
    wide = {"optimizer.lr": {"min": 0.001, "max": 0.1}, "seed": {"value": 1}}
    drawn = []
    for words in (["count=2"], ["count=3"], ["count=3", "trainer.max_epochs=1"]):
        place = f"folder=sweep{len(drawn) // 2}"
        assert sweep(*words, place, parameters=wide) == 0
        with Path(f"{place[7:]}/trials.csv").open(newline="") as file:
            drawn.append([row["optimizer.lr"] for row in csv.DictReader(file)])
    assert drawn[0] == drawn[1][:2]
    assert drawn[1] == drawn[2]
    assert len(set(drawn[1])) == 3


def sweep_in_another_process(sweep: Callable[..., int], *words: str) -> int:
    child = os.fork()
    if child == 0:
        os.setsid()
        os._exit(sweep(*words))
    return child


def ended(child: int, seconds: float = 120) -> int:
    """Return the exit code of a process, which is killed if it takes too long."""
    end = time.monotonic() + seconds
    while (found := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    return os.waitstatus_to_exitcode(found[1])


def wait_for(pattern: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not list(Path().glob(pattern)):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_killed_at_any_moment_it_goes_on(sweep: Callable[..., int]) -> None:
    dice = random.Random(0)
    kills = 6
    for _ in range(kills):
        child = sweep_in_another_process(sweep, "jobs=2", "count=6")
        wait_for("sweep/trials/begun")  # the first time
        time.sleep(dice.uniform(0.3, 1.0))
        os.kill(child, signal.SIGKILL)
        ended(child)
    finished = [trial.number for trial in study().trials if trial.state.name == "COMPLETE"]
    before = begun()
    assert sweep("jobs=2", "count=6") == 0
    rows = trials()
    assert [row["state"] for row in rows] == ["finished"] * 6
    assert len({row["seed"] for row in rows}) == 6
    assert all(begun()[f"{number:03}"] == before[f"{number:03}"] for number in finished)
    for row in rows:
        lines = (Path(row["folder"]) / "metrics.csv").read_text().splitlines()
        assert len(lines) == 5  # each epoch once
        assert float(row["val/loss"]) == int(row["seed"]) + 0.25
    assert all(sorted(trial.intermediate_values) == [1, 2, 3, 4] for trial in study().trials if trial.value is not None)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_its_trials_too(
    sweep: Callable[..., int], capfd: pytest.CaptureFixture[str], number: signal.Signals, code: int
) -> None:
    child = sweep_in_another_process(sweep, "jobs=2", "count=4", "trainer.max_epochs=500")
    wait_for("sweep/trials/*/metrics.csv")
    os.kill(child, number)
    assert ended(child) == code
    said = capfd.readouterr().err
    assert "go on with the same command and folder=sweep" in said
    assert len(said.splitlines()) == 1
    tables = list(Path().glob("sweep/trials/*/metrics.csv"))
    before = [table.read_bytes() for table in tables]
    time.sleep(0.3)
    assert [table.read_bytes() for table in tables] == before


@pytest.mark.parametrize("storage", [[], ["storage=sqlite:///shared.db"]], ids=["folder", "database"])
def test_processes_share_a_search(sweep: Callable[..., int], storage: list[str]) -> None:
    places = ["folder=sweep", "folder=other"] if storage else ["folder=sweep", "folder=sweep"]
    both = [sweep_in_another_process(sweep, "count=6", *storage, place) for place in places]
    assert [ended(child) for child in both] == [0, 0]
    assert sweep("count=6", *storage) == 0
    rows = trials()
    assert 6 <= len(rows) <= 7  # both may have begun the last one
    assert {row["state"] for row in rows} == {"finished"}
    assert len({row["seed"] for row in rows}) == len(rows)
    folders = {path.parts[0] for path in Path().glob("*/trials/*/manifest.json")}
    assert folders == {place.removeprefix("folder=") for place in places}


def test_chosen_and_trained_again(sweep: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("count=4", "jobs=2", "retrain=2", seeds={"values": [3, 4, 5, 6]}, method="grid") == 0
    said = capsys.readouterr().out
    assert "trial 0,1,2,3" in said  # one setting, four seeds
    assert "training it again with seeds 7 to 8" in said
    assert "val/loss                     7.750000 ± 0.7071" in said


def test_a_folder_of_another_sweep(sweep: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("count=1") == 0
    assert sweep("count=1", "trainer.max_epochs=2") == 2
    assert "folder=sweep holds another sweep" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["count=0"], "count=0 is not allowed"),
        (["job=2"], "job='2' is not a key of the configuration"),
        (["seed=1"], "nothing is left to search"),
        (["model.depth=1,2"], "model.depth=1,2 is not allowed"),
        (["logger=none"], "logger=none is not allowed"),
        (["task=nonsense"], "use one of anchor, classify"),
        (["task=sum", "model=vit"], "fit"),
        (["storage=nonsense"], "storage=nonsense cannot be opened"),
        (["other.yaml"], "2 files are named"),
        (["task=pixels", "ensemble=2"], "evaluates one run at a time"),
    ],
)
def test_wrong_words(
    sweep: Callable[..., int], capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert sweep(*words) in (2, 5)
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not list(Path("sweep").glob("trials/*"))


def test_help_names_each_argument(capsys: pytest.CaptureFixture[str]) -> None:
    command(["--help"])
    said = capsys.readouterr().out
    assert all(f"{name}:" in said for name in signature(search))


def test_a_metric_that_nobody_measures(sweep: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep(metric={"name": "val/luck"}) == 2
    assert "metric.name=val/luck cannot be monitored: use one of val/accuracy" in capsys.readouterr().err


def test_a_line_of_the_journal_that_was_not_finished_is_cut_off(sweep: Callable[..., int]) -> None:
    assert sweep("count=2") == 0
    journal = Path("sweep") / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":5,"worker')
    mend(journal)
    assert journal.read_bytes() == whole
    journal.write_bytes(whole + b'{"op_code":5,"worker')
    assert sweep("count=3") == 0
    assert len(trials()) == 3


def test_a_table_on_a_terminal(
    sweep: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    assert sweep("count=2", seeds={"values": [12, 13]}, method="grid") == 0
    said = capsys.readouterr().out
    assert "validations" in said
    assert "seed=13 is unlucky" in said
    assert "trial 1 failed" not in said  # which is for where there is no table

"""Studies: sampling depends on seed and trial number alone, values are rounded, journals are repaired."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution

from patchwork.sweep.priors import Prior
from patchwork.sweep.study import JOURNAL, PerTrialSeededSampler, repair_journal, suggest


def test_sampling_depends_on_seed_and_trial_number_alone(sweep: Any) -> None:
    parameters = {"optimizer.lr": {"min": 0.001, "max": 0.1}, "seed": {"value": 1}}
    sampled = []
    for sweep_dir, *args in (["a", "n_trials=2"], ["a", "n_trials=3"], ["b", "n_trials=3", "trainer.max_epochs=1"]):
        assert sweep(*args, sweep_dir=sweep_dir, parameters=parameters) == 0
        sampled.append([row["optimizer.lr"] for row in sweep.trials(sweep_dir)])
    assert sampled[0] == sampled[1][:2]
    assert sampled[1] == sampled[2]
    assert len(set(sampled[1])) == 3


@pytest.mark.parametrize("sampler", [optuna.samplers.TPESampler, optuna.samplers.RandomSampler])
def test_study_records_the_rounded_params(sampler: Any) -> None:
    distributions = {
        "lr": FloatDistribution(1e-5, 1e-2, log=True),
        "std": FloatDistribution(0.0, 1.5),
        "depth": IntDistribution(1, 9),
    }
    study = optuna.create_study(
        sampler=PerTrialSeededSampler(sampler, 0, {name: Prior(each) for name, each in distributions.items()})
    )
    for _ in range(15):  # TPE samples at random in the first ten
        trial = study.ask()
        params = {name: suggest(trial, name, distribution) for name, distribution in distributions.items()}
        study.tell(trial, params["lr"])
        assert study.trials[-1].params == params
        assert all(float(f"{value:.4g}") == value for value in params.values())


def test_incomplete_last_line_of_a_journal_is_cut_off(sweep: Any) -> None:
    assert sweep("n_trials=2") == 0
    journal = Path("sweep") / JOURNAL
    complete = journal.read_bytes()
    incomplete = complete + b'{"op_code":5,"worker'
    journal.write_bytes(incomplete)
    repair_journal(journal)
    assert journal.read_bytes() == complete
    journal.write_bytes(incomplete)
    assert sweep("n_trials=3") == 0
    assert len(sweep.trials()) == 3


@given(complete=st.lists(st.binary().map(lambda line: line.replace(b"\n", b""))), rest=st.binary())
@settings(max_examples=50, deadline=None)
def test_repaired_journal_is_its_complete_lines(
    tmp_path_factory: pytest.TempPathFactory, complete: list[bytes], rest: bytes
) -> None:
    journal = tmp_path_factory.getbasetemp() / JOURNAL
    lines = b"".join(line + b"\n" for line in complete)
    journal.write_bytes(lines + rest.replace(b"\n", b""))
    repair_journal(journal)
    assert journal.read_bytes() == lines


def test_directory_of_another_sweep_is_refused(sweep: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("n_trials=1") == 0
    assert sweep("n_trials=1", "trainer.max_epochs=2") == 2
    error = capsys.readouterr().err
    assert "sweep_dir=sweep holds another sweep" in error
    assert "it is space with task=classify dataset=uci trainer.max_epochs=4" in error

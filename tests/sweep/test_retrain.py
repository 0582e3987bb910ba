"""The selected parameters are trained again with new seeds."""

from typing import Any

import pytest


def test_retraining_uses_seeds_that_no_trial_had(
    sweep: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "patchwork.sweep.retrain.compare_finished", lambda run_dirs: [f"compared {run_dirs[0].name} {run_dirs[1].name}"]
    )
    assert sweep("n_trials=4", "n_jobs=2", "retrain=2", seeds={"values": [3, 4, 5, 6]}, method="grid") == 0
    output = capsys.readouterr().out
    assert "selected: trial 0,1,2,3" in output  # one result, four seeds
    assert "retraining with seeds 7 to 8" in output
    rows = [line.split() for line in output.partition("retraining")[2].splitlines()]
    assert ["val/loss", "7.750000", "0.7071"] in rows
    assert ["test/loss", "7.500000", "0.7071"] in rows
    assert rows[-1] == ["compared", "000-seed-7", "000-seed-8"]


def test_failed_retraining_is_printed(sweep: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("n_trials=1", "retrain=2", seeds={"values": [12, 14]}, method="grid") == 1
    output = capsys.readouterr().out
    assert "retraining with seeds 13 to 14" in output
    assert "sweep/retrained/000-seed-13 failed: seed=13 is unlucky" in output
    assert ["test/loss", "14.000000"] in [line.split() for line in output.splitlines()]

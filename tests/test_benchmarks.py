"""The benchmarks run: what they measure is looked at by people."""

import pytest
from conftest import ROOT
from hydra.core.global_hydra import GlobalHydra


def test_steps_and_batches_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    GlobalHydra.instance().clear()
    import benchmarks.__main__ as bench

    monkeypatch.setattr(bench, "STEPS", 4)
    monkeypatch.setattr(bench, "WARM", 1)
    monkeypatch.setattr(bench, "SETTINGS", [*bench.SETTINGS, "data.train_size=256"])
    for pair in bench.in_turns(1, *bench.steps()):
        assert all(measured > 0 for measured in pair)
    for pair in bench.in_turns(1, *bench.attention("model=pixel_decoder_tiny")):
        assert all(measured > 0 for measured in pair)
    for times in bench.in_turns(1, *bench.drawing(2, "model=pixel_decoder_tiny")):
        assert all(measured > 0 for measured in times)

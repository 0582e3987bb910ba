"""The benchmarks run, and compare what they claim to compare; the numbers themselves depend on the machine."""

import pytest
from helpers import ROOT

MODEL = "model=pixel_transformer_tiny"


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from benchmarks import timing

    monkeypatch.setattr(timing, "NUM_STEPS", 4)
    monkeypatch.setattr(timing, "NUM_WARMUP_STEPS", 1)


def test_trainer_plain_loop_and_batches_are_timed() -> None:
    from benchmarks.timing import interleave
    from benchmarks.training import training_benchmarks

    ((trainer, plain, batch),) = interleave(*training_benchmarks("data.batch_size=16", "data.val_size=16"), rounds=1)
    assert 0 < batch < plain
    assert trainer > 0


def test_fused_and_plain_attention_are_timed_with_equal_losses() -> None:
    from benchmarks.timing import interleave
    from benchmarks.training import attention_benchmarks

    ((fused, plain),) = interleave(*attention_benchmarks(MODEL), rounds=1)
    assert fused > 0
    assert plain > 0


def test_idle_interventions_are_timed() -> None:
    from benchmarks.interventions import idle_benchmarks
    from benchmarks.timing import interleave

    ((after, before, during),) = interleave(*idle_benchmarks("data.eval_batch_size=16", "data.val_size=16"), rounds=1)
    assert min(after, before, during) > 0


def test_generation_takes_longer_than_its_lower_bound() -> None:
    from benchmarks.generation import generation_benchmarks
    from benchmarks.timing import interleave

    ((cached, uncached, lower_bound),) = interleave(*generation_benchmarks(2, MODEL), rounds=1)
    assert uncached > 0
    assert cached > lower_bound > 0


def test_interleave_alternates_and_drops_the_warmup_round() -> None:
    from benchmarks.timing import interleave

    calls = iter(range(100))
    assert interleave(lambda: next(calls), lambda: next(calls), rounds=2) == [(2, 3), (4, 5)]


def test_median_ratio_is_the_median_of_the_ratios() -> None:
    from benchmarks.timing import median_ratio

    assert median_ratio([(1.0, 2.0), (30.0, 10.0), (4.0, 4.0)]) == 1.0

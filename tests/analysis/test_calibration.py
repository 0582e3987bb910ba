import math
from pathlib import Path

import pytest
import torch
from analysis_helpers import build_small, planted_predictions
from torch import Tensor

from patchwork.analysis.calibration import Calibration, analyze, part_error_probability, whole_error_probability
from patchwork.analysis.inputs import AnalysisInputs
from patchwork.analysis.result import NotApplicableError
from patchwork.figures.calibration import render
from patchwork.tasks import Predictions

CLASSIFY = ["task=classify", "dataset=uci"]


def sampled_predictions(logits: Tensor, *, sharpness: float = 1.0, seed: int = 0) -> Predictions:
    """Return predictions whose targets have the probabilities of `logits`, while the model says sharper ones."""
    target = logits.softmax(dim=-1).multinomial(1, generator=torch.Generator().manual_seed(seed)).squeeze(1)
    return planted_predictions(target, logits.argmax(dim=-1), (sharpness * logits).log_softmax(dim=-1).float())


def analyzed(**predictions: Predictions) -> Calibration:
    return analyze(AnalysisInputs.from_task(*reversed(build_small(CLASSIFY)), predictions=predictions))


def make_logits(n: int = 1000) -> Tensor:
    return torch.randn(n, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(3)) * 2.5


def test_calibrated_and_overconfident_models_are_told_apart() -> None:
    logits = make_logits(2000)
    calibrated = analyzed(test=sampled_predictions(logits))
    assert calibrated.verdict == "not distinguishable from calibrated"
    assert math.isnan(calibrated.temperature)
    sharp = sampled_predictions(logits, sharpness=2)
    overconfident = analyzed(test=sharp, val=sampled_predictions(logits, sharpness=2, seed=1))
    assert overconfident.verdict == "overconfident"
    assert overconfident.temperature == pytest.approx(2, abs=0.15)
    assert analyzed(test=sampled_predictions(logits, sharpness=0.5)).verdict == "underconfident"
    rendered = render(overconfident)
    assert "overconfident" in rendered.caption
    assert rendered.html.startswith("<svg")
    assert rendered == render(overconfident)


def test_answers_that_are_all_right_have_no_temperature(tmp_path: Path) -> None:
    logits = make_logits(200)
    right = planted_predictions(logits.argmax(dim=-1), logits.argmax(dim=-1), logits.log_softmax(dim=-1).float())
    result = analyzed(test=sampled_predictions(logits), val=right)
    assert math.isnan(result.temperature)
    assert "temperature" not in result.numbers()
    assert "temperature" not in render(result).table
    result.save(tmp_path)


def test_curve_of_a_calibrated_model_is_within_its_band() -> None:
    result = analyzed(test=sampled_predictions(make_logits(2000)))
    inside = (result.observed_error >= result.band_low - 1e-9) & (result.observed_error <= result.band_high + 1e-9)
    assert inside.mean() > 0.8
    assert (result.predicted_error[:-1] >= result.predicted_error[1:]).all()


def test_small_probabilities_of_errors_are_not_rounded_to_zero() -> None:
    log_probs = torch.tensor([[0.0, -40.0], [-1e-3, math.log(-math.expm1(-1e-3))]])
    predictions = planted_predictions(torch.tensor([0, 0]), torch.tensor([0, 0]), log_probs)
    assert whole_error_probability(part_error_probability(predictions)).tolist() == pytest.approx(
        [math.exp(-40), -math.expm1(-1e-3)], rel=1e-4
    )


def test_probability_of_a_sequence_is_the_product_over_its_tokens() -> None:
    probs = torch.tensor([[[0.9, 0.1], [0.3, 0.7]]])
    predictions = planted_predictions(torch.tensor([[0, 1]]), torch.tensor([[0, 1]]), probs.log())
    assert float(whole_error_probability(part_error_probability(predictions))) == pytest.approx(1 - 0.9 * 0.7)


def test_models_without_probabilities_are_refused() -> None:
    target = torch.arange(5)
    with pytest.raises(NotApplicableError, match="gives no probabilities"):
        analyzed(test=planted_predictions(target, target))

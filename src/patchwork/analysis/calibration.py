"""How far the probabilities of a model's answers can be trusted."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from patchwork.analysis.inputs import AnalysisInputs
from patchwork.analysis.result import Estimate, NotApplicableError, Result
from patchwork.stats.calibration import (
    brier_score,
    calibration_error,
    fit_temperature,
    isotonic_fit,
    p_value,
    perfect_outcomes,
)
from patchwork.stats.overlap import overlapping_wilson
from patchwork.tasks import Predictions

NUM_RESAMPLES = 500  # of outcomes under perfect calibration
NUM_POINTS, NUM_RUG = 60, 400  # of the curve, and of single samples that the figure shows
FLOOR = 1e-7  # smallest probability of an error that single precision tells from 0
SIGNIFICANT = 0.05


@dataclass(frozen=True, eq=False)
class Calibration(Result):
    """The reliability of the probability that a model gives to its own answer.

    Attributes:
        predicted_error: (Q,) probabilities of an error, as the model says, in descending order.
        observed_error: (Q,) share of errors there, by isotonic regression.
        band_low: (Q,) lower end of what 95 % of perfectly calibrated models of that size show.
        band_high: (Q,) upper end of it.
        rug: (R,) probabilities of an error of single samples, of which `rug_wrong` (R,) are wrong.
        rug_wrong: (R,) whether they are.
        n: number of samples.
        unit: what they are.
        shares_images: whether samples share images, so that their errors are not independent.
        accuracy: share of right answers.
        accuracy_interval: (2,) its 95 % interval, over samples that share images.
        confidence: mean probability of them.
        error: expected calibration error, 15 bins of equal mass.
        perfect_error: its mean under perfect calibration.
        perfect_limit: its 95 % quantile under perfect calibration.
        p_value: of the observed error under perfect calibration.
        brier: Brier score, with its three parts.
        miscalibration: part of it.
        discrimination: part of it.
        uncertainty: part of it.
        temperature: fitted on validation; NaN if no predictions of it are saved, or none is the best, see
            `fit_temperature`.
        temperature_n: number of answers it was fitted on.
    """

    name: ClassVar[str] = "calibration"
    predicted_error: np.ndarray
    observed_error: np.ndarray
    band_low: np.ndarray
    band_high: np.ndarray
    rug: np.ndarray
    rug_wrong: np.ndarray
    n: int
    unit: str
    shares_images: bool
    accuracy: float
    accuracy_interval: np.ndarray
    confidence: float
    error: float
    perfect_error: float
    perfect_limit: float
    p_value: float
    brier: float
    miscalibration: float
    discrimination: float
    uncertainty: float
    temperature: float
    temperature_n: int

    @property
    def is_distinguishable(self) -> bool:
        """Return whether the probabilities differ from calibrated ones by more than chance explains."""
        return self.p_value < SIGNIFICANT

    @property
    def verdict(self) -> str:
        """Return whether the probabilities are overconfident, underconfident, or neither."""
        if not self.is_distinguishable:
            return "not distinguishable from calibrated"
        return "overconfident" if self.confidence > self.accuracy else "underconfident"

    def numbers(self) -> dict[str, Estimate]:
        low, high = self.accuracy_interval.tolist()
        numbers = {
            "calibration error": Estimate(self.error, self.n, self.unit),
            "of a perfect model": Estimate(
                self.perfect_error, self.n, self.unit, 0.0, self.perfect_limit, f"{NUM_RESAMPLES} simulations"
            ),
            "p value": Estimate(self.p_value, self.n, self.unit),
            "accuracy": Estimate(self.accuracy, self.n, self.unit, low, high, "Wilson, over images"),
            "mean confidence": Estimate(self.confidence, self.n, self.unit),
            "Brier score": Estimate(self.brier, self.n, self.unit),
        }
        if math.isfinite(self.temperature):
            numbers["temperature"] = Estimate(self.temperature, self.temperature_n, "validation answers")
        return numbers


def analyze(inputs: AnalysisInputs) -> Calibration:
    """Compare the saved probabilities of a split with how often the answers are right.

    Raises:
        NotApplicableError: if the model gives no probabilities, or answers have no targets.
    """
    predictions = inputs.saved_predictions()
    correct = predictions.correct
    if correct is None or predictions.log_probs is None:
        raise NotApplicableError("the model gives no probabilities of its answers")
    part_error, right = part_error_probability(predictions), correct.numpy()
    error = whole_error_probability(part_error).numpy()
    shared, units = error_by_image(part_error, predictions.image_ids)
    outcomes = perfect_outcomes(shared.numpy(), np.random.default_rng(0), NUM_RESAMPLES, units=units)
    simulated = calibration_error(1 - error, outcomes)
    temperature, temperature_n = validation_temperature(inputs)
    measured = float(calibration_error(1 - error, right))
    score = brier_score(1 - error, right)
    shown = np.linspace(0, len(error) - 1, min(NUM_RUG, len(error))).round().astype(int)
    wrong = np.flatnonzero(~right)[:NUM_RUG]
    return Calibration(
        **reliability(error, right, outcomes),
        rug=np.concatenate([error[shown], error[wrong]]),
        rug_wrong=np.concatenate([~right[shown], np.ones(len(wrong), dtype=bool)]),
        n=len(error),
        unit=f"{inputs.split} {inputs.task.samples_name}",
        shares_images=units is not None,
        accuracy=float(right.mean()),
        accuracy_interval=np.array(overlapping_wilson(right, predictions.image_ids.numpy())),
        confidence=float(1 - error.mean()),
        error=measured,
        perfect_error=float(simulated.mean()),
        perfect_limit=float(np.quantile(simulated, 0.95)),
        p_value=p_value(measured, simulated),
        brier=score.score,
        miscalibration=score.miscalibration,
        discrimination=score.discrimination,
        uncertainty=score.uncertainty,
        temperature=temperature,
        temperature_n=temperature_n,
    )


def part_error_probability(predictions: Predictions) -> Tensor:
    """Return the probability (B, T) in double precision that an answer is wrong, or each token of a sequence.

    It is the sum of the probabilities of all others, which stays exact where 1 − p would be 0 in single precision.
    """
    assert predictions.log_probs is not None
    log_probs = predictions.log_probs.double()
    chosen = predictions.prediction.long()[..., None]
    others = log_probs.scatter(-1, chosen, -torch.inf).logsumexp(dim=-1).exp()  # (B, …)
    whole = log_probs.logsumexp(dim=-1).exp()
    return (others / whole).reshape(len(log_probs), -1)


def whole_error_probability(part_error: Tensor) -> Tensor:
    """Return the probability (B,) that any of the parts (B, T) is wrong."""
    return -torch.expm1(torch.log1p(-part_error.clamp(max=1 - 1e-12)).sum(dim=1))


def error_by_image(part_error: Tensor, image_ids: Tensor) -> tuple[Tensor, np.ndarray | None]:
    """Attribute errors to the images of samples, which others may share.

    An error of a whole sample, such as of a sum, is shared out evenly: the sample is right if each of its images is,
    all with the same probability. Errors of tokens are of one image each.

    Args:
        part_error: (B, T) probabilities of an error.
        image_ids: (B, K) of samples, padded with −1.

    Returns:
        Probabilities of an error (B, K) and the image (B, K) of each; the unchanged ones and None if no image is
        shared, or a sample has none.
    """
    known = image_ids >= 0
    ids = image_ids[known]
    if len(ids.unique()) == len(ids) or not known.any(dim=1).all():
        return part_error, None
    if part_error.shape == image_ids.shape:
        return part_error, image_ids.numpy()
    count = known.sum(dim=1, keepdim=True)
    right = torch.log1p(-whole_error_probability(part_error).clamp(max=1 - 1e-12))[:, None] / count  # of an image
    return torch.where(known, -torch.expm1(right), 0.0), image_ids.numpy()


def reliability(error: np.ndarray, right: np.ndarray, outcomes: np.ndarray) -> dict[str, np.ndarray]:
    """Return the reliability curve with its consistency band, given outcomes (m, n) under perfect calibration."""
    probs = 1 - error
    order = np.argsort(-error, kind="stable")
    points = order[np.unique(np.linspace(0, len(order) - 1, NUM_POINTS).round().astype(int))]
    perfect = np.stack([1 - isotonic_fit(probs, outcome)[points] for outcome in outcomes])
    low, high = np.quantile(perfect, [0.025, 0.975], axis=0)
    return {
        "predicted_error": error[points],
        "observed_error": 1 - isotonic_fit(probs, right)[points],
        "band_low": low,
        "band_high": high,
    }


def validation_temperature(inputs: AnalysisInputs) -> tuple[float, int]:
    """Return the temperature that fits the validation answers best, and their number; (NaN, 0) if none are saved."""
    predictions = inputs.predictions.get("val")
    if predictions is None or predictions.log_probs is None or predictions.target is None:
        return math.nan, 0
    return answer_temperature(predictions)


def answer_temperature(predictions: Predictions) -> tuple[float, int]:
    """Return the temperature that fits answers with probabilities and targets best, and their number.

    Of a sequence, the tokens up to the first error count: those after it follow from what is wrong.
    """
    assert predictions.log_probs is not None
    assert predictions.target is not None
    log_probs = predictions.log_probs.double()
    target, prediction = (
        predictions.target.reshape(len(log_probs), -1),
        predictions.prediction.reshape(len(log_probs), -1),
    )
    log_probs = log_probs.reshape(*target.shape, -1)
    wrong = (prediction != target).cumsum(dim=1) - (prediction != target).long()  # errors before each token
    reached = wrong == 0
    logits, classes = log_probs[reached].clamp_min(-1e4).numpy(), target[reached].numpy()
    return fit_temperature(logits, classes), len(classes)

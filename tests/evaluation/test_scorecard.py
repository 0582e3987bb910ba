"""The scorecard: each score against its definition, and the command that prints them all."""

import json
import math
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from patchwork.data import PixelsDataModule
from patchwork.data.sources import UCI
from patchwork.evaluation.scorecard import cas, prompts, speed
from patchwork.evaluation.scorecard.base import ReferenceImages, Score, generate_images
from patchwork.evaluation.scorecard.features import (
    FeatureClassifier,
    classifier_scores,
    frechet_distance,
    precision_recall,
)
from patchwork.evaluation.scorecard.likelihood import likelihood_scores
from patchwork.evaluation.scorecard.memorization import memorization_scores, nearest_distances
from patchwork.evaluation.scorecard.prompts import prompt_scores
from patchwork.evaluation.scorecard.report import warn_of_accuracy
from patchwork.evaluation.scorecard.speed import speed_scores
from patchwork.models import PixelTransformer
from patchwork.models.generator import SamplingOptions
from patchwork.runs.build import build
from patchwork.runs.compose import compose
from patchwork.tasks import Pixels
from patchwork.training.optimizers import adamw
from patchwork.training.schedulers import constant

SMALL = [
    "dataset=uci",
    "report=none",
    "callbacks=none",
    "trainer.max_steps=2",
    "data.samples_per_epoch=256",
    "data.eval_batch_size=16",
    "data.val_size=16",
    "data.test_size=20",
]


def normal(count: int, mean: float, std: float, size: int = 3) -> Tensor:
    rng = torch.Generator().manual_seed(int(10 * mean + std))
    return torch.randn(count, size, generator=rng) * std + mean


# --- distances and manifolds -----------------------------------------------------------------------------------------


def test_frechet_distance_of_normal_distributions() -> None:
    a, b = normal(200_000, 0.0, 1.0), normal(200_000, 2.0, 3.0)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, b) == pytest.approx(3 * (2.0**2 + (3.0 - 1.0) ** 2), rel=0.02)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_frechet_distance_of_correlated_features() -> None:
    """Σ and Σ' do not commute: tr (Σ Σ')^½ is the sum of the square roots of the eigenvalues of their product."""
    mix = torch.tensor([[1.0, 0.8, 0.0], [0.0, 1.0, -0.5], [0.3, 0.0, 2.0]])
    a, b = normal(5000, 0.0, 1.0) @ mix, normal(5000, 1.0, 2.0) @ mix.mT
    cov_a, cov_b = (features.double().mT.cov() for features in (a, b))
    common = torch.linalg.eigvals(cov_a @ cov_b).real.sqrt().sum()
    mean_term = (a.double().mean(dim=0) - b.double().mean(dim=0)).square().sum()
    assert frechet_distance(a, b) == pytest.approx(float(mean_term + (cov_a + cov_b).trace() - 2 * common))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), shift=st.floats(-5, 5), scale=st.floats(0.1, 5))
def test_frechet_distance_is_symmetric_shift_invariant_and_scales(seed: int, shift: float, scale: float) -> None:
    a, b = torch.randn(2, 50, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    distance = frechet_distance(a, b)
    assert distance >= -1e-9
    assert frechet_distance(b, a) == pytest.approx(distance, rel=1e-6)
    assert frechet_distance(a + shift, b + shift) == pytest.approx(distance, rel=1e-6)
    assert frechet_distance(a * scale, b * scale) == pytest.approx(distance * scale**2, rel=1e-6)


def test_precision_and_recall_of_normal_distributions() -> None:
    real = normal(600, 0.0, 1.0)
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(normal(600, 50.0, 1.0), real) == (0.0, 0.0)
    narrow, wide = normal(600, 0.1, 0.2), normal(600, 0.1, 4.0)
    precision, recall = precision_recall(narrow, real)
    assert precision > 0.95
    assert recall < 0.3
    assert precision_recall(wide, real)[0] < 0.5


def test_nn_distance_is_the_number_of_pixels_that_differ_from_the_nearest_image() -> None:
    rng = torch.Generator().manual_seed(0)
    images, references = (torch.randint(2, (count, 1, 5, 5), generator=rng).float() for count in (7, 40))
    expected = [min((image != reference).sum().item() for reference in references) for image in images]
    assert nearest_distances(images, references, 2).tolist() == expected
    assert nearest_distances(references[:3], references, 2).tolist() == [0, 0, 0]


def test_duplicate_rate_counts_copies_of_training_images() -> None:
    rng = torch.Generator().manual_seed(0)
    train, test, new = (torch.randint(2, (count, 1, 5, 5), generator=rng).float() for count in (40, 20, 6))
    real = ReferenceImages({"image": train}, {"image": test}, 2)
    scores = {score.name: score for score in memorization_scores(torch.cat([train[:2], new]), real)}
    assert scores["duplicate_rate"].value == 2 / 8
    assert scores["duplicate_rate"].real == 0


# --- likelihoods -----------------------------------------------------------------------------------------------------


def random_task() -> Pixels:
    """Return a task with a small generator of random weights."""
    torch.manual_seed(0)
    model = PixelTransformer(image_size=28, num_classes=10, num_levels=2, embed_dim=16, num_heads=2, depth=1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return Pixels(
        model=model,
        optimizer=partial(adamw, lr=0.01, betas=[0.9, 0.99], weight_decay=0.1),
        scheduler=constant,
        monitor="val/nll",
        mode="min",
        uncond_prob=0.5,
        prompt_prob=0.0,
        alignment_weight=0.1,
    ).eval()


def binary_digits(test_size: int) -> PixelsDataModule:
    sizes = {"batch_size": 10, "eval_batch_size": 16, "samples_per_epoch": 50, "val_size": 40, "test_size": test_size}
    data = PixelsDataModule(dataset=UCI(), num_levels=2, seed=0, **sizes)
    data.setup()
    return data


@torch.no_grad()
def test_likelihood_scores_are_those_of_the_definition() -> None:
    generator, data = random_task().generator, binary_digits(12)
    reported = likelihood_scores(generator, ReferenceImages.from_data(data), unconditional=True, class_conditional=True)
    scores = {score.name: score.value for score in reported}
    image, label = (values[:12] for values in data.full_split("test").values())
    log_probs = torch.stack([generator.log_likelihood(image, torch.full((12,), label)).double() for label in range(11)])
    assert scores["nll"] == pytest.approx(float(-log_probs[10].mean()))
    mean_probs = [sum((row - log_probs[0, i]).exp() for row in log_probs[:10, i]) / 10 for i in range(12)]
    marginal = -sum(float(mean_probs[i].log() + log_probs[0, i]) for i in range(12)) / 12
    assert scores["marginal_nll"] == pytest.approx(marginal)
    assert scores["class_nll"] == pytest.approx(float(-sum(log_probs[label[i], i] for i in range(12)) / 12))
    correct = [int(max(range(10), key=lambda label: log_probs[label, i]) == label[i]) for i in range(12)]
    assert scores["bayes_classifier_accuracy"] == pytest.approx(sum(correct) / 12)
    assert scores["bits_per_pixel"] == pytest.approx(scores["nll"] / 784 / math.log(2))


class UniformGenerator:
    """A generator of uniformly random binary images, whose likelihood is declared to be of any kind."""

    num_levels, image_size, num_classes, null_class, has_text_encoder = 2, 28, 10, 10, False

    def __init__(self, likelihood: str | None) -> None:
        self.likelihood = likelihood

    def log_likelihood(self, image: Tensor, label: Tensor, prompt: Tensor | None = None) -> Tensor:
        return torch.full((len(image),), -math.log(2) * image[0].numel())

    def sample(self, label: Tensor, rng: torch.Generator, **_: Any) -> Iterator[Tensor]:
        yield torch.randint(2, (len(label), 1, 28, 28), generator=rng).float()


@pytest.mark.parametrize(("likelihood", "mark"), [("exact", ""), ("bound", "≤ "), (None, None)])
def test_likelihood_bounds_are_marked_and_missing_likelihoods_left_out(likelihood: str, mark: str | None) -> None:
    real = ReferenceImages.from_data(binary_digits(4))
    scores = [*likelihood_scores(UniformGenerator(likelihood), real, unconditional=True, class_conditional=True)]
    if mark is None:
        assert scores == []
        return
    lines = {score.name: str(score) for score in scores}
    assert f" {mark}1 " in lines["bits_per_pixel"]
    assert ("≤" in lines["class_nll"]) is bool(mark)
    assert "≤" not in lines["bayes_classifier_accuracy"]


# --- classifiers and prompts -----------------------------------------------------------------------------------------


class PixelCounter(torch.nn.Module):
    """A classifier whose class is the number of white pixels modulo 10, so that it can be checked by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Identity()

    def features(self, image: Tensor) -> Tensor:
        count = (image > 0).flatten(1).sum(dim=1) % 10
        return F.one_hot(count, 10).float() + 0.01 * image.flatten(1)[:, 400:410]


def test_conditional_accuracy_compares_requested_and_predicted_classes() -> None:
    data = binary_digits(60)
    classifier = FeatureClassifier(PixelCounter(), data.source, 2)
    label = torch.arange(50) % 10
    image = torch.zeros(50, 1, 28, 28)
    for pixels, count in zip(image, label.tolist(), strict=True):
        pixels[0, 0, :count] = 1
    scores = {s.name: s for s in classifier_scores(classifier, image, label, ReferenceImages.from_data(data))}
    assert scores["conditional_accuracy"].value == 1.0
    test_image, test_label = (values[:60] for values in data.full_split("test").values())
    expected = (test_image.sum(dim=(1, 2, 3)) % 10 == test_label).double().mean()
    assert scores["conditional_accuracy"].real == pytest.approx(float(expected))


class PromptReader(UniformGenerator):
    """A generator whose images have as many white pixels as the digit that the prompt asks for, plus `offset`."""

    has_text_encoder = True

    def __init__(self, offset: int) -> None:
        super().__init__(None)
        self.offset = offset
        self.digits = {
            tuple(tokens): digit
            for kinds, _ in prompts.KINDS.values()
            for kind in kinds
            for tokens, digit in zip(
                prompts.prompts(kind).token_ids.tolist(), prompts.prompts(kind).digits.tolist(), strict=True
            )
        }

    def sample(self, label: Tensor, rng: torch.Generator, *, prompt: Tensor, **_: Any) -> Iterator[Tensor]:
        assert (label == self.null_class).all()
        image = torch.zeros(len(prompt), 1, 28, 28)
        for pixels, tokens in zip(image, prompt.tolist(), strict=True):
            pixels[0, 0, : (self.digits[tuple(tokens)] + self.offset) % 10] = 1
        yield image


@pytest.mark.parametrize(("offset", "accuracy"), [(0, 1.0), (1, 0.0)])
def test_prompt_accuracy_compares_requested_and_predicted_digits(
    monkeypatch: pytest.MonkeyPatch, offset: int, accuracy: float
) -> None:
    monkeypatch.setattr(prompts, "NUM_PROMPTS", 200)
    classifier = FeatureClassifier(PixelCounter(), binary_digits(4).source, 2)
    scores = [*prompt_scores(classifier, PromptReader(offset), SamplingOptions())]
    assert [score.name for score in scores] == [f"prompt_accuracy/{name}" for name in prompts.KINDS]
    assert [score.value for score in scores] == [accuracy] * len(prompts.KINDS)


# --- speed -----------------------------------------------------------------------------------------------------------


class SlowGenerator(UniformGenerator):
    """A generator that takes some seconds to sample its noise, and some for each of its steps."""

    def __init__(self, noise_seconds: float, step_seconds: float) -> None:
        super().__init__(None)
        self.noise_seconds, self.step_seconds = noise_seconds, step_seconds

    def sample(self, label: Tensor, rng: torch.Generator, **_: Any) -> Iterator[Tensor]:
        time.sleep(self.noise_seconds)

        def decode() -> Iterator[Tensor]:
            for _ in range(2):
                time.sleep(self.step_seconds)
                yield torch.zeros(len(label), 1, 28, 28)

        return decode()


def test_speed_is_that_of_all_steps_without_the_noise() -> None:
    scores = {score.name: score.value for score in speed_scores(SlowGenerator(0.2, 0.02), SamplingOptions())}
    assert 0.04 <= scores["seconds_for_one"] < 0.2
    assert 64 / 0.2 < scores["images_per_second"] <= 64 / 0.04


def test_images_are_generated_in_chunks_with_one_random_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("patchwork.evaluation.scorecard.base.CHUNK_SIZE", 3)
    label, options = torch.zeros(7, dtype=torch.long), SamplingOptions()
    images = generate_images(UniformGenerator(None), label, "key", options=options)
    assert len(images) == 7
    assert len(images.unique(dim=0)) == 7
    assert torch.equal(images, generate_images(UniformGenerator(None), label, "key", options=options))


def test_score_is_printed_beside_that_of_real_images() -> None:
    assert str(Score("recall", 0.51234, 0.75, "meaning")).split() == ["recall", "0.5123", "0.75", "meaning"]
    assert str(Score("parameters", 649_808, None, "of it")).split() == ["parameters", "649,808", "of", "it"]


# --- the command -----------------------------------------------------------------------------------------------------


def test_evaluate_command_prints_and_saves_the_scorecard(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cas, "TRAIN_STEPS", 2)
    monkeypatch.setattr(prompts, "NUM_PROMPTS", 6)
    monkeypatch.setattr(speed, "BATCH_SIZE", 4)
    assert command("train", "task=pixels", "model=pixel_transformer_tiny", *SMALL, "run_dir=run") == 0
    assert command("train", "task=classify", *SMALL, "model.embed_dim=16", "run_dir=classifier") == 0
    assert command("evaluate", "run=run", "classifier=classifier", "num_samples=20") == 0
    saved = json.loads(Path("run/scorecard.json").read_text())
    scores = {score["name"]: score["value"] for score in saved["scores"]}
    classifier = json.loads(Path("classifier/manifest.json").read_text())
    assert saved["classifier"]["weights_sha256"] == classifier["weights_sha256"]
    metrics = json.loads(Path("run/manifest.json").read_text())["metrics"]
    assert scores["nll"] == pytest.approx(metrics["test/nll"], rel=1e-5)
    assert scores["class_nll"] == pytest.approx(metrics["test/class_nll"], rel=1e-5)
    prompt_names = [f"prompt_accuracy/{name}" for name in ("train", "held_out_phrasing", "held_out_sum")]
    rates = ("bayes_classifier_accuracy", "duplicate_rate", "conditional_accuracy", "precision", "recall", "cas")
    assert all(0 <= scores[name] <= 1 for name in (*rates, *prompt_names))

    options = ["guidance=3", "temperature=0.5"]
    assert command("evaluate", "run=run", "classifier=classifier", "num_samples=20", *options) == 0
    saved = json.loads(Path("run/scorecard-temperature-0.5-guidance-3.json").read_text())
    guided = {score["name"]: score["value"] for score in saved["scores"]}
    assert (saved["guidance"], saved["temperature"]) == (3, 0.5)
    assert guided["nll"] == scores["nll"]  # the likelihood is the model's own
    assert guided["nn_distance"] != scores["nn_distance"]  # the samples are others

    capsys.readouterr()
    assert command("evaluate", "run=run", "num_samples=20") == 0
    assert "pass classifier=RUN_DIR" in capsys.readouterr().out
    for args, message in (
        (["run=classifier", "classifier=classifier"], "classifier=classifier applies only to a generative model"),
        (["run=run", "classifier=run"], "classifier=run"),
        (["run=classifier", "guidance=2.0"], "guidance=2.0 applies only to a generative model"),
        (["run=classifier", "temperature=2.0"], "temperature=2.0 applies only to a generative model"),
        (["run=classifier", "num_samples=20"], "and run=classifier is of task=classify: drop num_samples"),
        (["run=[classifier,classifier]", "num_samples=20"], "num_samples=20 applies only to a single generative model"),
        (["run=run", "temperature=0"], "temperature=0"),
        (["run=run", "num_samples=0"], "num_samples=0"),
        (["run=run", "num_samples=many"], "num_samples=many"),
    ):
        assert command("evaluate", *args) == 2
        assert message in capsys.readouterr().err


def test_a_classifier_of_double_precision_has_features() -> None:
    data, task = build(compose(["task=classify", "dataset=uci", "model.embed_dim=16"]))
    data.setup()
    image = torch.randint(2, (3, 1, 28, 28)).float()
    single = FeatureClassifier(task.model.eval(), data.source, 2).features(image)
    double = FeatureClassifier(task.model.double(), data.source, 2, torch.float64).features(image)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=0.02, atol=0.02)  # the stem computes in bfloat16


@pytest.mark.parametrize(("accuracy", "warns"), [(0.186, True), (0.95, False), (None, False)])
def test_a_weak_classifier_is_warned_of(accuracy: float | None, warns: bool) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warn_of_accuracy("judge", accuracy)
    assert [str(each.message).partition(":")[0] for each in warned] == (
        ["classifier=judge classifies only 18.6 % of the real test images correctly"] if warns else []
    )

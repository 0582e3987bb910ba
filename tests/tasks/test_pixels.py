"""Generative modeling: metrics are the model's own likelihood, and conditions are dropped as configured."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from patchwork.core.errors import ConfigError
from patchwork.models import PixelTransformer
from patchwork.tasks import Pixels

Batch = dict[str, Tensor]


@pytest.fixture
def pixels(make_task: Callable[..., Any]) -> Callable[..., Pixels]:
    """Return a function that builds the task around a small model with random weights."""

    def make(uncond_prob: float = 0.5, prompt_prob: float = 0.0, **changes: Any) -> Pixels:
        torch.manual_seed(0)
        sizes = {"image_size": 8, "num_classes": 3, "num_levels": 2, "embed_dim": 16, "num_heads": 2, "depth": 1}
        text = {"text_encoder_depth": 1, "num_words": 9, "prompt_length": 4} if prompt_prob else {}
        model = PixelTransformer(**{**sizes, **text, **changes})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.3)
        return make_task(
            Pixels,
            model,
            monitor="val/bits_per_pixel",
            mode="min",
            uncond_prob=uncond_prob,
            prompt_prob=prompt_prob,
            alignment_weight=0.1,
        )

    return make


def random_batch(num_levels: int = 2) -> Batch:
    image = torch.randint(num_levels, (6, 1, 8, 8), generator=torch.Generator().manual_seed(1)).float()
    prompt = torch.tensor([[1, 2, 0, 0], [3, 4, 5, 6], [7, 0, 0, 0]]).repeat(2, 1)
    return {"image": image, "label": torch.arange(6) % 3, "prompt": prompt}


@torch.no_grad()
def test_nll_metrics_are_the_models_likelihood(
    pixels: Callable[..., Pixels], compute_metrics: Callable[..., dict[str, float]]
) -> None:
    task, batch = pixels(), random_batch()
    metrics = compute_metrics(task, batch)
    null = torch.full_like(batch["label"], 3)
    nll, class_nll = (
        float(-task.model.eval().log_likelihood(batch["image"], label).mean()) for label in (null, batch["label"])
    )
    assert metrics["nll"] == pytest.approx(nll)
    assert metrics["class_nll"] == pytest.approx(class_nll)
    assert metrics["bits_per_pixel"] == pytest.approx(nll / 64 / math.log(2))
    assert metrics["loss"] == pytest.approx(nll / 64)


@torch.no_grad()
def test_predictions_are_the_log_likelihoods_that_the_metrics_average(
    pixels: Callable[..., Pixels], compute_metrics: Callable[..., dict[str, float]]
) -> None:
    for uncond_prob, metric in ((0.5, "nll"), (0.0, "class_nll")):
        task = pixels(uncond_prob)
        predictions = task.predict_step(random_batch(), 0)
        assert -float(predictions.prediction.mean()) == pytest.approx(compute_metrics(task, random_batch())[metric])
        assert predictions.correct is None  # a likelihood is not a class
        assert torch.equal(predictions.target, random_batch()["label"])


@torch.no_grad()
def test_autocast_in_training_does_not_round_metrics(pixels: Callable[..., Pixels]) -> None:
    exact, rounded = pixels(), pixels()
    exact.eval_step(random_batch(), "test")
    with torch.autocast("cpu", torch.bfloat16):
        rounded.step(random_batch(), "train")
        rounded.eval_step(random_batch(), "test")
    assert exact.test_metrics.compute() == rounded.test_metrics.compute()


@pytest.mark.parametrize(("uncond_prob", "trained"), [(0.0, [0, 1, 2]), (1.0, [3])])
def test_uncond_prob_replaces_classes_by_the_null_class(
    pixels: Callable[..., Pixels], uncond_prob: float, trained: list[int]
) -> None:
    task = pixels(uncond_prob)
    task.step(random_batch(), "train").backward()
    gradient = task.model.conditioning.class_embed.weight.grad
    assert gradient.norm(dim=1).nonzero().flatten().tolist() == trained


def test_prompt_prob_replaces_classes_by_prompts(pixels: Callable[..., Pixels]) -> None:
    task = pixels(0.0, prompt_prob=1.0)
    task.step(random_batch(), "train").backward()
    conditioning = task.model.conditioning
    assert not conditioning.class_embed.weight.grad.any()
    words = conditioning.text_encoder.token_embed.weight.grad
    assert words.norm(dim=1).nonzero().flatten().tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_alignment_loss_moves_prompts_towards_their_classes(pixels: Callable[..., Pixels]) -> None:
    task = pixels(0.0, prompt_prob=0.5)
    model = task.model
    alignment_loss = partial(model.prompt_alignment_loss, random_batch()["label"], random_batch()["prompt"])
    with torch.no_grad():
        prompts = model.conditioning.text_encoder(random_batch()["prompt"])
        first = (prompts - model.conditioning.class_embed(random_batch()["label"])).square().mean()
        assert torch.allclose(alignment_loss(), first)
    alignment_loss().backward()
    assert model.conditioning.class_embed.weight.grad is None  # the class is the target
    optimizer = task.optimizer(model)
    for _ in range(30):
        optimizer.zero_grad()
        alignment_loss().backward()
        optimizer.step()
    assert alignment_loss() < 0.2 * first


@pytest.mark.parametrize(
    ("probs", "depth", "message"),
    [
        ((0.8, 0.3), 1, r"task.uncond_prob \+ task.prompt_prob = 0.8 \+ 0.3 must not exceed 1"),
        ((0.0, 0.5), 0, "task.prompt_prob=0.5 needs a text encoder"),
        ((0.5, 0.0), 1, "text_encoder_depth=0"),
    ],
)
def test_condition_probabilities_that_do_not_fit_are_refused(
    pixels: Callable[..., Pixels], probs: tuple[float, float], depth: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pixels(*probs, text_encoder_depth=depth, num_words=9, prompt_length=4)


@pytest.mark.parametrize(
    ("probs", "names"),
    [((0.0, 0.0), {"class_nll"}), ((1.0, 0.0), {"nll"}), ((0.5, 0.5), {"nll"}), ((0, 1.0), set())],
)
@torch.no_grad()
def test_conditions_that_are_not_trained_are_not_evaluated(
    pixels: Callable[..., Pixels],
    compute_metrics: Callable[..., dict[str, float]],
    probs: tuple[float, float],
    names: set[str],
) -> None:
    assert compute_metrics(pixels(*probs), random_batch()).keys() == {"loss", "bits_per_pixel", *names}


@torch.no_grad()
def test_a_generator_without_likelihood_has_its_loss_alone(
    pixels: Callable[..., Pixels],
    compute_metrics: Callable[..., dict[str, float]],
    monkeypatch: pytest.MonkeyPatch,
    make_task: Callable[..., Any],
) -> None:
    model = pixels().model
    monkeypatch.setattr(type(model), "likelihood", None)
    task = make_task(Pixels, model, mode="min", uncond_prob=0.5, prompt_prob=0.0)
    assert compute_metrics(task, random_batch()).keys() == {"loss"}


@pytest.mark.parametrize(("tokenizer", "num_levels"), [("patch4x4", 2), ("gray256", 256)])
@torch.no_grad()
def test_samples_are_generated_images(pixels: Callable[..., Pixels], tokenizer: str, num_levels: int) -> None:
    task = pixels(tokenizer=tokenizer, num_levels=num_levels)
    samples = task.samples(random_batch(num_levels), 4)
    assert [sample.prediction for sample in samples] == [["0"], ["1"], ["2"], ["0"]]
    assert all(sample.target is None for sample in samples)
    for sample in samples:
        assert sample.image.shape == (1, 8, 8)
        assert 0 <= sample.image.min() <= sample.image.max() <= 1


@pytest.mark.parametrize("tokenizer", ["patch4x4", "binary"])
@torch.no_grad()
def test_tokens_stand_for_the_image_and_greedy_ones_are_the_most_probable(
    pixels: Callable[..., Pixels], tokenizer: str
) -> None:
    task, batch = pixels(tokenizer=tokenizer), random_batch()
    task.eval()
    assert torch.equal(task.detokenize(batch, task.tokens(batch)), batch["image"])
    written = task.generate_tokens(batch)
    assert torch.equal(task.logits(batch, written).argmax(dim=-1), written)
    assert task.eos_id is None

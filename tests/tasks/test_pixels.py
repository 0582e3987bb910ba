"""Drawing as a task: what is measured is the model's own likelihood."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from patchwork.errors import ConfigError
from patchwork.models import PixelDecoder
from patchwork.optim import adamw, constant
from patchwork.tasks import Pixels


def task(unlabelled: float = 0.5, prompted: float = 0.0, **changes: Any) -> Pixels:
    torch.manual_seed(0)
    settings = {"image_size": 8, "num_classes": 3, "levels": 2, "embed_dim": 16, "num_heads": 2, "depth": 1}
    reads = {"text_depth": 1, "num_words": 9, "prompt_length": 4} if prompted else {}
    model = PixelDecoder(**{**settings, **reads, **changes})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    optimizer = partial(adamw, lr=0.01, betas=[0.9, 0.99], weight_decay=0.1)
    return Pixels(
        model=model,
        optimizer=optimizer,
        scheduler=constant,
        monitor="val/bits_per_pixel",
        mode="min",
        unlabelled=unlabelled,
        prompted=prompted,
        agreement=0.1,
    )


def batch(levels: int = 2) -> dict[str, Tensor]:
    image = torch.randint(levels, (6, 1, 8, 8), generator=torch.Generator().manual_seed(1)).float()
    prompt = torch.tensor([[1, 2, 0, 0], [3, 4, 5, 6], [7, 0, 0, 0]]).repeat(2, 1)
    return {"image": image, "label": torch.arange(6) % 3, "prompt": prompt}


@torch.no_grad()
def test_measures_are_the_models_likelihood() -> None:
    subject = task()
    subject.evaluate(batch(), "test")
    found = {name: float(value) for name, value in subject.on_test.compute().items()}
    model = subject.model.eval()
    assert isinstance(model, PixelDecoder)
    image, label = batch()["image"], batch()["label"]
    alone, given = (float(-model.log_likelihood(image, told).mean()) for told in (label * 0 + 3, label))
    assert found["test/nll"] == pytest.approx(alone)
    assert found["test/class_nll"] == pytest.approx(given)
    assert found["test/bits_per_pixel"] == pytest.approx(alone / 64 / math.log(2))
    assert found["test/loss"] == pytest.approx(alone / 64)


@torch.no_grad()
def test_rounding_in_training_does_not_reach_what_is_measured() -> None:
    exact, rounded = task(), task()
    exact.evaluate(batch(), "test")
    with torch.autocast("cpu", torch.bfloat16):
        rounded.step(batch(), "train")
        rounded.evaluate(batch(), "test")
    assert exact.on_test.compute() == rounded.on_test.compute()


@pytest.mark.parametrize(("unlabelled", "trained"), [(0.0, [0, 1, 2]), (1.0, [3])])
def test_classes_are_told_as_often_as_wanted(unlabelled: float, trained: list[int]) -> None:
    subject = task(unlabelled)
    subject.step(batch(), "train").backward()
    model = subject.model
    assert isinstance(model, PixelDecoder)
    assert model.class_embed.weight.grad is not None
    assert model.class_embed.weight.grad.norm(dim=1).nonzero().flatten().tolist() == trained


def test_prompts_are_learned_in_place_of_the_class() -> None:
    subject = task(0.0, prompted=1.0)
    subject.step(batch(), "train").backward()
    model = subject.model
    assert isinstance(model, PixelDecoder)
    assert model.text is not None
    assert model.class_embed.weight.grad is not None
    assert not model.class_embed.weight.grad.any()
    words = model.text.token_embed.weight.grad
    assert words is not None
    assert words.norm(dim=1).nonzero().flatten().tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_prompts_come_to_agree_with_their_classes() -> None:
    subject = task(0.0, prompted=0.5)
    model = subject.model
    assert isinstance(model, PixelDecoder)
    label, prompt = batch()["label"], batch()["prompt"]
    with torch.no_grad():
        assert model.text is not None
        apart = (model.text(prompt) - model.class_embed(label)).square().mean()
        assert torch.allclose(model.disagreement(label, prompt), apart)
    model.disagreement(label, prompt).backward()
    assert model.class_embed.weight.grad is None  # it is the prompt that gives way
    optimizer = subject.optimizer(model)
    for _ in range(30):
        optimizer.zero_grad()
        model.disagreement(label, prompt).backward()
        optimizer.step()
    assert model.disagreement(label, prompt) < 0.2 * apart


@pytest.mark.parametrize(
    ("shares", "depth", "said"),
    [((0.8, 0.3), 1, "task.prompted=0.3"), ((0.0, 0.5), 0, "text_depth above 0"), ((0.5, 0.0), 1, "text_depth=0")],
)
def test_wrong_shares(shares: tuple[float, float], depth: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        task(*shares, text_depth=depth, num_words=9, prompt_length=4)


@pytest.mark.parametrize(
    ("shares", "measured"),
    [((0.0, 0.0), {"class_nll"}), ((1.0, 0.0), {"nll"}), ((0.5, 0.5), {"nll"}), ((0, 1.0), set())],
)
@torch.no_grad()
def test_what_is_not_learned_is_not_measured(shares: tuple[float, float], measured: set[str]) -> None:
    subject = task(*shares)
    subject.evaluate(batch(), "test")
    names = {name.removeprefix("test/") for name in subject.on_test.compute()}
    assert names == {"loss", "bits_per_pixel", *measured}


@pytest.mark.parametrize(("tokens", "levels"), [("patch4x4", 2), ("gray256", 256)])
@torch.no_grad()
def test_samples_are_pictures(tokens: str, levels: int) -> None:
    samples = task(tokens=tokens, levels=levels).samples(batch(levels), 4)
    assert [sample.predicted for sample in samples] == [["0"], ["1"], ["2"], ["0"]]
    assert all(sample.expected is None for sample in samples)
    for sample in samples:
        assert sample.image.shape == (1, 8, 8)
        assert 0 <= sample.image.min() <= sample.image.max() <= 1

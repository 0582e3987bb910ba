"""The scorecard: each measure against what it is by definition, and the command that prints them all."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from patchwork import scorecard
from patchwork.data import Drawings
from patchwork.data.digits import UCI
from patchwork.models import PixelDecoder
from patchwork.optim import adamw, constant
from patchwork.scorecard import frechet, nearest, precision_recall
from patchwork.tasks import Pixels

SMALL = ["digits=uci", "callbacks=none", "trainer.max_steps=2", "data.train_size=256", "data.eval_batch_size=16"]


def normal(count: int, mean: float, deviation: float, size: int = 3) -> torch.Tensor:
    draw = torch.Generator().manual_seed(int(10 * mean + deviation))
    return torch.randn(count, size, generator=draw) * deviation + mean


def test_frechet_distance_of_normal_laws() -> None:
    one, other = normal(200_000, 0.0, 1.0), normal(200_000, 2.0, 3.0)
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet(one, other) == pytest.approx(3 * (2.0**2 + (3.0 - 1.0) ** 2), rel=0.02)
    assert frechet(one, other) == pytest.approx(frechet(other, one))


def test_precision_and_recall() -> None:
    real = normal(600, 0.0, 1.0)
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(normal(600, 50.0, 1.0), real) == (0.0, 0.0)
    narrow, wide = normal(600, 0.1, 0.2), normal(600, 0.1, 4.0)
    assert precision_recall(narrow, real)[0] > 0.95 > 0.3 > precision_recall(narrow, real)[1]
    assert precision_recall(wide, real)[0] < 0.5


def test_nearest_is_nearest() -> None:
    draw = torch.Generator().manual_seed(0)
    images, others = (torch.randint(2, (count, 1, 5, 5), generator=draw).float() for count in (7, 40))
    wanted = [min((image != other).sum().item() for other in others) for image in images]
    assert nearest(images, others, 2).tolist() == wanted
    assert nearest(others[:3], others, 2).tolist() == [0, 0, 0]


def test_frechet_distance_of_correlated_laws() -> None:
    """Σ and Σ' do not commute: tr (Σ Σ')^½ is the sum of the roots of the eigenvalues of their product."""
    mix = torch.tensor([[1.0, 0.8, 0.0], [0.0, 1.0, -0.5], [0.3, 0.0, 2.0]])
    one, other = normal(5000, 0.0, 1.0) @ mix, normal(5000, 1.0, 2.0) @ mix.mT
    cov, cov2 = (f.double().mT.cov() for f in (one, other))
    common = torch.linalg.eigvals(cov @ cov2).real.sqrt().sum()
    gap = (one.double().mean(dim=0) - other.double().mean(dim=0)).square().sum()
    assert frechet(one, other) == pytest.approx(float(gap + (cov + cov2).trace() - 2 * common))


def small_task(**settings: Any) -> Pixels:
    torch.manual_seed(0)
    model = PixelDecoder(image_size=28, num_classes=10, levels=2, embed_dim=16, num_heads=2, depth=1, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return Pixels(
        model=model,
        optimizer=partial(adamw, lr=0.01, betas=[0.9, 0.99], weight_decay=0.1),
        scheduler=constant,
        monitor="val/nll",
        mode="min",
        unlabelled=0.5,
        prompted=0.2 if settings else 0.0,
        agreement=0.1,
    ).eval()


def drawings(count: int) -> Drawings:
    sizes = {"batch_size": 10, "eval_batch_size": 16, "train_size": 50, "val_size": 40, "test_size": count}
    data = Drawings(digits=UCI(), levels=2, seed=0, **sizes)
    data.setup()
    return data


@torch.no_grad()
def test_likelihoods_are_those_of_the_definition() -> None:
    task, data = small_task(), drawings(12)
    found = {score.name: score.value for score in scorecard.likelihood(task, scorecard.Real.of(data))}
    image, label = data.fixed["test"][:12].float()[:, None], data.parts["test"].labels[:12]
    model = task.model
    assert isinstance(model, PixelDecoder)
    laws = torch.stack([model.log_likelihood(image, torch.full((12,), kind)).double() for kind in range(11)])
    assert found["nll"] == pytest.approx(float(-laws[10].mean()))
    mean_law = [sum((law - laws[0, i]).exp() for law in laws[:10, i]) / 10 for i in range(12)]
    marginal = -sum(float(mean_law[i].log() + laws[0, i]) for i in range(12)) / 12
    assert found["marginal_nll"] == pytest.approx(marginal)
    assert found["class_nll"] == pytest.approx(float(-sum(laws[label[i], i] for i in range(12)) / 12))
    right = [int(max(range(10), key=lambda kind: laws[kind, i]) == label[i]) for i in range(12)]
    assert found["generative_accuracy"] == pytest.approx(sum(right) / 12)


class Whole(torch.nn.Module):
    """Sees all pixels, and the class in how many are set: a judge that can be checked by hand."""

    head = torch.nn.Identity()

    def features(self, image: torch.Tensor) -> torch.Tensor:
        count = (image > 0).flatten(1).sum(dim=1) % 10
        return F.one_hot(count, 10).float() + 0.01 * image.flatten(1)[:, 400:410]


def test_judge_compares_what_was_asked_with_what_is_seen() -> None:
    task, data = small_task(text_depth=1, num_words=55, prompt_length=16), drawings(60)
    judge = scorecard.Judge(SimpleNamespace(model=Whole()), 2)  # type: ignore[arg-type]
    label = torch.arange(50) % 10
    drawn = torch.zeros(50, 1, 28, 28)
    for image, kind in zip(drawn, label.tolist(), strict=True):
        image[0, 0, :kind] = 1
    seen = {score.name: score for score in scorecard.judged(judge, drawn, label, scorecard.Real.of(data))}
    assert seen["judge_accuracy"].value == 1.0
    test, truth = data.whole("test")["image"][:60], data.parts["test"].labels[:60]
    assert seen["judge_accuracy"].real == pytest.approx(float((test.sum(dim=(1, 2, 3)) % 10 == truth).double().mean()))
    model = task.model
    assert isinstance(model, PixelDecoder)
    for score in scorecard.understood(judge, model):
        assert 0 <= score.value < 0.5  # untrained: by chance


def test_command_scores_and_keeps(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scorecard, "LESSONS", 2)
    monkeypatch.setattr(scorecard, "ASKED", 6)
    assert command("train", "task=pixels", "model=pixel_decoder_tiny", *SMALL, "data.test_size=20", "folder=run") == 0
    assert command("train", "task=classify", *SMALL, "folder=judge") == 0
    assert command("evaluate", "run=run", "judge=judge", "samples=20") == 0
    kept = json.loads(Path("run/scorecard.json").read_text())
    found = {score["name"]: score["value"] for score in kept["scores"]}
    assert kept["judge"]["weights_sha256"] == json.loads(Path("judge/manifest.json").read_text())["weights_sha256"]
    measured = json.loads(Path("run/manifest.json").read_text())["metrics"]
    assert found["nll"] == pytest.approx(measured["test/nll"], rel=1e-5)
    assert found["class_nll"] == pytest.approx(measured["test/class_nll"], rel=1e-5)
    assert found["bits_per_pixel"] == pytest.approx(found["nll"] / 784 / math.log(2))
    shares = ("generative_accuracy", "copies", "judge_accuracy", "precision", "recall", "taught_accuracy", "prompts")
    assert all(0 <= found[name] <= 1 for name in (*shares, "new_phrasings", "new_sums"))
    assert command("evaluate", "run=run", "judge=judge", "samples=20", "guidance=3", "temperature=0.5") == 0
    other = json.loads(Path("run/scorecard-temperature-0.5-guidance-3.json").read_text())
    guided = {score["name"]: score["value"] for score in other["scores"]}
    assert (other["guidance"], other["temperature"]) == (3, 0.5)
    assert guided["nll"] == found["nll"]  # the law is the model's own
    assert guided["nearest"] != found["nearest"]  # what is drawn is not
    assert command("evaluate", "run=run", "samples=20") == 0
    assert "judge=FOLDER" in capsys.readouterr().out
    for words, said in (
        (["run=judge", "judge=judge"], "is for one generator"),
        (["run=run", "judge=run"], "judge=run"),
        (["run=judge", "guidance=2.0"], "guidance=2.0 is for one generator"),
        (["run=run", "temperature=0"], "temperature=0"),
        (["run=run", "samples=0"], "samples=0"),
        (["run=run", "samples=many"], "samples='many'"),
    ):
        assert command("evaluate", *words) == 2
        assert said in capsys.readouterr().err

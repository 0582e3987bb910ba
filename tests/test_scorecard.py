"""The scorecard: each measure against what it is by definition, and the command that prints them all."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from patchwork import scorecard
from patchwork.scorecard import frechet, nearest, precision_recall

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
    # the mean law over the classes gives an image at least a tenth of what its own class gives
    assert found["marginal_nll"] <= found["class_nll"] + math.log(10)
    shares = ("generative_accuracy", "copies", "judge_accuracy", "precision", "recall", "taught_accuracy", "prompts")
    assert all(0 <= found[name] <= 1 for name in (*shares, "new_phrasings", "new_sums"))
    assert command("evaluate", "run=run", "samples=20") == 0
    assert "judge=FOLDER" in capsys.readouterr().out
    for words, said in (
        (["run=judge", "judge=judge"], "is for generators"),
        (["run=run", "judge=run"], "judge=run"),
        (["run=run", "samples=0"], "samples=0"),
        (["run=run", "samples=many"], "samples='many'"),
    ):
        assert command("evaluate", *words) == 2
        assert said in capsys.readouterr().err

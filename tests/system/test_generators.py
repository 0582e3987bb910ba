"""Generators of another kind than `PixelTransformer` train, generate and are scored by their interface alone."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import read_manifest, run_command

import patchwork.models
from patchwork.core import schema
from patchwork.evaluation.scorecard import cas, speed
from patchwork.runs.run import Run
from patchwork.tasks.base import BASE_CHECKS

PLUGINS = Path(__file__).parents[1] / "plugins"
SMALL = [
    "dataset=uci",
    "report=none",
    "callbacks=none",
    "data.samples_per_epoch=256",
    "data.eval_batch_size=16",
    "data.val_size=16",
    "data.test_size=20",
]
GENERATOR = [
    "task=pixels",
    f"hydra.searchpath=[file://{PLUGINS / 'conf'}]",
    "optimizer=adamw",
    "optimizer.lr=0.1",
    "task.prompt_prob=0",
    "trainer.max_epochs=4",
    *SMALL,
]
MODELS = {
    "bernoulli": [],
    "mean_image": ["data.num_levels=256", "task.monitor=val/loss"],
}


@pytest.fixture(scope="module")
def plugins() -> Any:
    """Let `patchwork.models` hold the modules of `tests/plugins/models`, as if they were files in it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(patchwork.models, "__path__", [*patchwork.models.__path__, str(PLUGINS / "models")])
        modules = schema.modules() | {"patchwork.models.bernoulli"}
        monkeypatch.setattr(schema, "modules", lambda: modules)
        yield


@pytest.fixture(scope="module")
def trained(plugins: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a run of each generator, and one of a classifier."""
    directory = tmp_path_factory.mktemp("trained")
    for name, overrides in MODELS.items():
        assert run_command("train", f"model={name}", *GENERATOR, *overrides, f"run_dir={name}", cwd=directory) == 0
    classifier = ["task=classify", "model.embed_dim=16", "trainer.max_steps=2", "run_dir=classifier"]
    assert run_command("train", *SMALL, *classifier, cwd=directory) == 0
    return directory


@pytest.fixture
def runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the runs into the working directory."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cas, "TRAIN_STEPS", 2)
    monkeypatch.setattr(speed, "BATCH_SIZE", 4)


def read_images(name: str, number: int = 0) -> Any:
    return np.load(Path(name) / "generated" / f"{number:03}" / "images.npz")


# --- training --------------------------------------------------------------------------------------------------------


def test_generators_learn(runs: None) -> None:
    for name, metric, limit in (("bernoulli", "test/bits_per_pixel", 0.7), ("mean_image", "test/loss", 0.1)):
        metrics = read_manifest(Path(name))["metrics"]
        assert metrics[metric] < limit  # 1 bit, or a squared error of the mean square, at first
        likelihoods = ["nll", "class_nll", "bits_per_pixel"] if name == "bernoulli" else []
        assert metrics.keys() == {f"{split}/{key}" for split in ("val", "test") for key in ("loss", *likelihoods)}


def test_predictions_are_log_likelihoods_or_negative_losses(runs: None) -> None:
    for name, metric, scale in (("bernoulli", "test/nll", 1), ("mean_image", "test/loss", 784)):
        run = Run.load(name)
        predictions = run.predictions("test")
        expected = -read_manifest(Path(name))["metrics"][metric] * scale
        assert float(predictions.prediction.mean()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("plugins")
def test_model_without_the_interface_is_refused_in_one_line(
    command: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("train", "model=incomplete", *GENERATOR) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "model=Incomplete does not fit task=pixels" in line
    assert "it lacks has_text_encoder, image_size, likelihood, null_class, num_classes, num_levels" in line
    assert list(tmp_path.iterdir()) == []


def test_audit_leaves_out_checks_that_need_tokens_or_a_likelihood(command: Callable[..., int], runs: None) -> None:
    assert set(BASE_CHECKS) - {*Run.load("bernoulli").task.checks} == set()
    checks = {*Run.load("mean_image").task.checks}
    assert set(BASE_CHECKS) - checks == {"initial_loss", "overfit_one_batch"}
    assert not checks & {"causality", "kv_cache_equivalence"}
    assert command("audit", "run=mean_image") == 0


# --- generating ------------------------------------------------------------------------------------------------------


def test_generators_generate(command: Callable[..., int], runs: None, capsys: pytest.CaptureFixture[str]) -> None:
    for name, num_levels in (("bernoulli", 2), ("mean_image", 256)):
        for seed in (1, 1, 2):
            assert command("generate", f"run={name}", "num_images=5", "classes=[3,7]", f"seed={seed}") == 0
        first, same, other = (read_images(name, number)["images"] for number in range(3))
        assert first.shape == (5, 1, 28, 28)
        assert int(first.max()) == 1 if num_levels == 2 else int(first.max()) > 1
        assert (first == same).all()
        assert (first != other).any()
        assert command("generate", f"run={name}", "num_images=2", "stream=true") == 0
        assert any("\u2800" < character <= "\u28ff" for character in capsys.readouterr().out)


def test_generator_that_cannot_inpaint_or_read_prompts_says_so(
    command: Callable[..., int], runs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, kind in (("bernoulli", "Bernoulli"), ("mean_image", "MeanImage")):
        for args, message in (
            (["inpaint=0"], f"the {kind} of run={name} cannot inpaint"),
            (["prompt=draw 3"], "no text encoder"),
        ):
            assert command("generate", f"run={name}", *args) == 2
            (line,) = capsys.readouterr().err.splitlines()
            assert message in line
        assert not (Path(name) / "generated").exists()


# --- scorecard -------------------------------------------------------------------------------------------------------

LIKELIHOOD_SCORES = ["nll", "bits_per_pixel", "marginal_nll", "marginal_bits_per_pixel", "class_nll"]
SAMPLE_SCORES = [
    "parameters",
    "images_per_second",
    "seconds_for_one",
    "nn_distance",
    "duplicate_rate",
    "conditional_accuracy",
    "frechet_distance",
    "precision",
    "recall",
    "cas",
]


@pytest.mark.parametrize("name", MODELS)
def test_scorecard_has_every_score_that_the_generator_allows(
    command: Callable[..., int], runs: None, name: str
) -> None:
    assert command("evaluate", f"run={name}", "classifier=classifier", "num_samples=20") == 0
    saved = json.loads((Path(name) / "scorecard.json").read_text())["scores"]
    scores = {score["name"]: score["value"] for score in saved}
    likelihood = [*LIKELIHOOD_SCORES, "bayes_classifier_accuracy"] if name == "bernoulli" else []
    assert scores.keys() == {*SAMPLE_SCORES, *likelihood}
    assert all(math.isfinite(score) for score in scores.values())


def test_likelihood_scores_of_independent_pixels_are_those_of_the_formula(
    command: Callable[..., int], runs: None
) -> None:
    assert command("evaluate", "run=bernoulli", "num_samples=20") == 0
    saved = json.loads(Path("bernoulli/scorecard.json").read_text())["scores"]
    scores = {score["name"]: score["value"] for score in saved}
    run = Run.load("bernoulli")
    run.data.prepare_data()
    run.data.setup()
    image, label = (values[:20].double() for values in run.data.full_split("test").values())
    probs = run.model.pixel_logits.detach().double().sigmoid()  # (11, 1, 28, 28)
    log_probs = torch.stack(
        [(image * prob.log() + (1 - image) * (1 - prob).log()).sum(dim=(1, 2, 3)) for prob in probs]
    )  # (11, 20)
    assert scores["nll"] == pytest.approx(-float(log_probs[10].mean()), rel=1e-5)
    assert scores["class_nll"] == pytest.approx(-float(log_probs[label.long(), range(20)].mean()), rel=1e-5)
    marginal = -float((log_probs[:10].logsumexp(dim=0) - math.log(10)).mean())
    assert scores["marginal_nll"] == pytest.approx(marginal, rel=1e-5)

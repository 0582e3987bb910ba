"""Explanations against planted truths: a linear network, tokens that never move, a mark that is all that matters."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from analysis_helpers import build_small
from helpers import TINY
from torch import Tensor, nn

from patchwork.analysis import ablation, faithfulness, patching
from patchwork.analysis.explanations import (
    CONTROLS,
    METHODS,
    NUM_DELETIONS,
    NUM_STEPS,
    Question,
    answers_in_turn,
    ask,
    deletion_curve,
    gradient,
    greedy,
    integrated,
    relevance,
    rollout,
)
from patchwork.analysis.faithfulness import Faithfulness, analyze, explain, normalized_area, relative
from patchwork.analysis.inputs import AnalysisInputs, freeze
from patchwork.analysis.result import NotApplicableError
from patchwork.evaluation.audit import planted
from patchwork.figures.faithfulness import render

VIT = ["task=classify", "dataset=uci", "model.stem=null", "model.embed_dim=32", "model.patch_size=7", "model.depth=2"]
MODELS = {
    "vit": VIT,
    "mean": [*VIT, "model.pool=mean"],
    "cls": [*VIT, "model.pool=cls"],
    "post-norm": [*VIT, "model.norm_first=false"],
    "reader": TINY,
    "cells": [*TINY, "model=cell_pool"],
}


class Linear(nn.Module):
    """Logits that are a linear function of the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(28 * 28, 10)

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(image.flatten(1))


def make_inputs(overrides: list[str], model: nn.Module | None = None) -> AnalysisInputs:
    torch.manual_seed(0)
    data, task = build_small(overrides)
    if model is not None:
        task.model = model
    inputs = AnalysisInputs.from_task(task, data)
    for parameter in inputs.task.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return inputs


def make_question(overrides: list[str], model: nn.Module | None = None) -> Question:
    inputs = make_inputs(overrides, model)
    return ask(inputs.task, inputs.first(6))


@pytest.mark.parametrize("name", MODELS)
def test_every_method_applies_and_leaves_nothing_behind(name: str) -> None:
    question = make_question(MODELS[name])
    before = question.score(question.batch["image"])
    for method in METHODS.values():
        maps = method(question)
        assert maps.shape == (6, *question.batch["image"].shape[-2:])
        assert maps.isfinite().all()
        assert maps.abs().max() > 0
    assert torch.equal(question.score(question.batch["image"]), before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in question.task.modules())


@pytest.mark.parametrize("name", ["vit", "mean", "reader", "cells"])
def test_rollout_loses_nothing(name: str) -> None:
    """What reaches the answer adds up to 1, less what the class token or the decoder's own tokens keep."""
    total = rollout(make_question(MODELS[name])).sum(dim=(1, 2))
    if name == "mean":
        torch.testing.assert_close(total, torch.ones(6).double())
    assert ((total > 0) & (total <= 1 + 1e-9)).all()


def test_gradients_of_a_linear_network_are_its_weights() -> None:
    question = make_question(["task=classify", "dataset=uci"], Linear())
    weight = question.task.model.linear.weight
    rows = torch.arange(6)
    explained = (weight[question.predicted[rows, 0]] - weight[question.runner_up[rows, 0]]).view(6, 28, 28)
    expected = explained * (question.batch["image"][:, 0] - question.background)
    torch.testing.assert_close(gradient(question), expected)
    torch.testing.assert_close(integrated(question), expected)
    empty = torch.full_like(question.batch["image"], question.background)
    change = question.score(question.batch["image"]) - question.score(empty)
    torch.testing.assert_close(integrated(question).sum(dim=(1, 2)), change)
    with pytest.raises(NotApplicableError, match="Linear has no attention"):
        relevance(question)


def test_attributions_to_colors_add_up_to_the_difference_of_the_logits() -> None:
    """Each channel counts for itself: red may speak for an answer, and blue against it."""
    data, task = build_small(["task=classify", "dataset=uci"])
    task.model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 10))
    batch = AnalysisInputs.from_task(task, data).first(6)
    colored = batch["image"] * torch.tensor([1.0, 0.4, 0.1])[:, None, None]
    question = ask(freeze(task), {**batch, "image": colored})
    change = question.score(colored) - question.score(torch.full_like(colored, question.background))
    for method in (gradient, integrated):
        maps = method(question)
        assert maps.shape == (6, 28, 28)
        torch.testing.assert_close(maps.sum(dim=(1, 2)), change)


def test_integrated_gradients_are_those_of_captum() -> None:
    attr = pytest.importorskip("captum.attr")
    question = make_question(MODELS["vit"])
    image = question.batch["image"]
    reference = attr.IntegratedGradients(question.score).attribute(
        image,
        baselines=torch.full_like(image, question.background),
        n_steps=NUM_STEPS,
        method="riemann_middle",
        internal_batch_size=len(image),
    )
    torch.testing.assert_close(integrated(question), reference.sum(dim=1), rtol=1e-6, atol=1e-10)


def test_where_nothing_is_moved_there_is_no_relevance_though_rollout_shows_some() -> None:
    question = make_question(MODELS["vit"])
    for block in question.task.model.blocks:
        block.attn.proj.weight.zero_()
    assert relevance(question).abs().max() == 0
    assert rollout(question).max() > 0


def test_deletion_goes_from_the_whole_image_to_the_empty_one() -> None:
    question = make_question(["task=classify", "dataset=uci"], Linear())
    maps = gradient(question)
    curve = deletion_curve(question, maps)
    empty = torch.full_like(question.batch["image"], question.background)
    assert curve.shape == (6, NUM_DELETIONS + 1)
    torch.testing.assert_close(curve[:, 0], question.score(question.batch["image"]))
    torch.testing.assert_close(curve[:, -1], question.score(empty))
    assert (curve.mean(dim=1) <= deletion_curve(question, -maps).mean(dim=1)).all()  # of a linear network, the best
    assert float(relative(curve)[:, 0].mean()) == pytest.approx(1)
    inserted = deletion_curve(question, maps, insert=True)
    torch.testing.assert_close(inserted[:, 0], curve[:, -1])
    torch.testing.assert_close(inserted[:, -1], curve[:, 0])
    backwards = deletion_curve(question, -maps).flip(
        1
    )  # what is deleted last is inserted first, but for rounded shares
    torch.testing.assert_close(inserted.mean(), backwards.mean(), rtol=0.05, atol=0.05)


def test_search_finds_what_matters_and_parts_are_replaced() -> None:
    question = make_question(["task=classify", "dataset=uci"], Linear())
    exact, found = deletion_curve(question, gradient(question)), deletion_curve(question, greedy(question))
    torch.testing.assert_close(found, exact)  # of a linear network, whose parts do not depend on each other
    random = deletion_curve(question, CONTROLS["random"](question))
    ids = np.arange(len(exact))[:, None]
    assert normalized_area(exact, random, found, ids) == pytest.approx((1, 1, 1))
    assert normalized_area(random, random, found, ids) == pytest.approx((0, 0, 0))
    other = question.batch["image"].roll(1, dims=0)
    replaced = deletion_curve(question, gradient(question), replacement=other)
    torch.testing.assert_close(replaced[:, -1], question.score(other))
    single = deletion_curve(question.in_single_precision(), gradient(question))
    torch.testing.assert_close(single.double(), exact, rtol=1e-4, atol=1e-4)
    assert deletion_curve(question.of(torch.tensor([4, 1])), gradient(question)[[4, 1]]).allclose(exact[[4, 1]])


def test_exact_attributions_are_better_than_ink(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(faithfulness, "NUM_SAMPLES", 60)
    result = analyze(make_inputs(["task=classify", "dataset=uci"], Linear()))
    assert result.methods[: result.num_methods] == ("gradient", "integrated")
    assert all(result.is_better_than_ink(index) for index in range(2))
    assert not any(result.is_better_than_ink(index) for index in range(2, 6))
    assert len(result.refused) == 2
    assert result.search[:2, 0] == pytest.approx(1, abs=0.01)
    assert (result.search[:, 0] < 1.001).all()
    assert np.isfinite(result.replaced[:3]).all()
    result.save(tmp_path)
    rendered = render(Faithfulness.load(tmp_path))
    assert rendered == render(result)
    assert "gradient, integrated point to what matters" in rendered.claims[0].text


@pytest.mark.parametrize("module", [faithfulness, ablation, patching])
def test_generators_are_refused(module: Any) -> None:
    inputs = make_inputs(["task=pixels", "dataset=uci", "model=pixel_transformer_tiny"])
    with pytest.raises(NotApplicableError, match="generates images"):
        module.analyze(inputs)


def test_sequences_are_refused() -> None:
    with pytest.raises(NotApplicableError, match="sequences of images"):
        analyze(make_inputs(["task=sum", "dataset=uci"]))


def test_a_planted_mark_is_read_and_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By exchange, the network is shown to read the mark alone; integrated gradients point there, controls do not."""
    monkeypatch.setattr(planted, "STEPS", (250,))
    data, task = build_small(VIT)
    inputs = AnalysisInputs.from_task(task, data, split="val")
    before = [parameter.clone() for parameter in task.parameters()]
    plant = planted.plant(task, inputs.batch(torch.arange(48, inputs.num_samples)), inputs.first(48))
    assert min(plant.follows, plant.ignores) >= planted.MIN_LEARNED
    assert all(torch.equal(a, b) for a, b in zip(before, task.parameters(), strict=True))
    found = planted.find_marks_by(plant)
    assert found["integrated"][0] >= 0.9 * found["integrated"][1]
    assert max(found[name][0] for name in ("center", "random", "blurred_ink")) <= 0.6 * 48
    maps, refused = explain(ask(plant.task, plant.batch))
    assert {*maps} == {*METHODS}
    assert refused == []


@pytest.mark.parametrize("name", ["reader", "cls"])
def test_new_weights_owe_nothing_to_those_that_were_learned(name: str) -> None:
    _, task = build_small(MODELS[name])
    expected = planted.new_weights(task).state_dict()
    for parameter in task.parameters():
        torch.nn.init.constant_(parameter, 3.0)
    assert all(torch.equal(values, expected[key]) for key, values in planted.new_weights(task).state_dict().items())


def test_marks_differ_and_there_are_only_so_many() -> None:
    marks = planted.patterns(100).flatten(1)
    assert len(marks.unique(dim=0)) == 100
    with pytest.raises(NotApplicableError, match="no marks for 300 classes"):
        planted.patterns(300)


def test_places_cannot_be_planted_in_sequences() -> None:
    data, task = build_small(["task=sum", "dataset=uci"])
    batch = data.make_batch("val", (0, 0), slice(None))
    with pytest.raises(NotApplicableError, match="classes of one image"):
        planted.find_marks(task, batch)


def test_maps_of_an_untrained_network_are_no_better_than_the_ink(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faithfulness, "NUM_SAMPLES", 60)
    inputs = make_inputs(["task=classify", "dataset=uci"], Linear())
    control = make_inputs(["task=classify", "dataset=uci"], Linear()).task
    torch.manual_seed(1)
    control.model.linear.weight.zero_()
    result = analyze(replace(inputs, untrained=control))
    names = [name for name in result.methods if name.endswith("untrained")]
    assert names == ["gradient, untrained"]
    assert not result.is_better_than_ink(result.methods.index("gradient, untrained"))
    assert np.isfinite(result.insertion[: result.num_methods]).all()
    ink, exact = (result.insertion[result.methods.index(name), 0] for name in ("ink", "integrated"))
    assert exact > ink


def test_answers_after_an_early_end_are_not_explained() -> None:
    logits = torch.nn.functional.one_hot(torch.tensor([[1, 2, 3], [1, 0, 3], [1, 0, 3]]), 4).double()
    tokens = torch.tensor([[1, 2, 3], [1, 0, 0], [1, 0, 0]])  # the last two end with 0, and the head would go on
    assert answers_in_turn(logits, tokens).tolist() == [0, 1, 0]
    assert answers_in_turn(logits, None).tolist() == [0, 1, 2]

from pathlib import Path

import numpy as np
import pytest
import torch
from analysis_helpers import build_small
from helpers import TINY

from patchwork.analysis import ablation
from patchwork.analysis.ablation import Ablation, analyze, replacements
from patchwork.analysis.inputs import AnalysisInputs, cached_patches
from patchwork.analysis.result import NotApplicableError
from patchwork.figures.ablation import render
from patchwork.models.interventions import Edit, record_points

VIT = ["task=classify", "dataset=uci", "model.stem=null", "model.embed_dim=16", "model.patch_size=14"]
TASKS = {
    "reader": [*TINY, "model.decoder_depth=2"],
    "vit": VIT,
    "post-norm": [*VIT, "model.norm_first=false"],
    "sum": ["task=sum", "dataset=uci", "model=sequence_regressor", "data.max_length=3", "model.embed_dim=16"],
    "anchor": ["task=anchor", "dataset=uci", "model.similarity=cross_attention", "data.max_length=3"],
}


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "NUM_SAMPLES", 24)


def make_inputs(name: str) -> AnalysisInputs:
    """Return a task with weights that make every part matter."""
    data, task = build_small(TASKS[name])
    inputs = AnalysisInputs.from_task(task, data)
    torch.manual_seed(0)
    for parameter in inputs.task.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return inputs


@pytest.mark.parametrize("name", TASKS)
def test_every_part_has_an_effect_and_the_network_stays_as_it_is(name: str, tmp_path: Path) -> None:
    inputs = make_inputs(name)
    before = [parameter.clone() for parameter in inputs.task.parameters()]
    answers = inputs.task.predict_step(inputs.first(8), 0).prediction
    result = analyze(inputs)
    assert (np.abs(result.loss_rise[:, 0, 0]) > 0).all()
    assert (result.loss_rise[:, :, 1] <= result.loss_rise[:, :, 0]).all()
    assert np.allclose(result.pairs, result.pairs.T)
    assert all(torch.equal(a, b) for a, b in zip(before, inputs.task.parameters(), strict=True))
    assert torch.equal(inputs.task.predict_step(inputs.first(8), 0).prediction, answers)
    result.save(tmp_path)
    rendered = render(result)
    assert render(Ablation.load(tmp_path)) == rendered
    assert ("pairs of" in rendered.caption) == (len(result.heads) > 1)


def test_a_head_that_is_not_read_has_no_effect_at_all() -> None:
    inputs = make_inputs("reader")
    for block in inputs.task.model.decoder:
        width = block.attn.proj.weight.shape[1] // block.attn.num_heads
        block.attn.proj.weight[:, width : 2 * width] = 0
    result = analyze(inputs)
    for index in (0, 1):
        part = result.parts.index(f"decoder.{index}.attn head 2")
        assert (result.accuracy_drop[part] == 0).all()
        assert np.abs(result.loss_rise[part]).max() < 1e-12


def test_twins_cost_nothing_alone_and_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is 0 as long as either of two heads is as it was."""
    inputs = make_inputs("vit")
    point, batch = "blocks.0.attn.heads", inputs.first(24)

    def heads() -> torch.Tensor:
        with record_points(inputs.task.model, [point]) as recorded:
            inputs.task(batch)
        return recorded[point][0]

    intact = heads()

    def either(*_: object) -> tuple[torch.Tensor, torch.Tensor]:
        now = heads()
        lost = not any(torch.equal(now[:, :, head], intact[:, :, head]) for head in (0, 1))
        loss = torch.full((24,), float(lost), dtype=torch.float64)
        return 1 - loss, loss

    monkeypatch.setattr(ablation, "measure", either)
    result = analyze(inputs)
    one, other = (result.heads.index(f"blocks.0.attn head {head}") for head in (1, 2))
    expected = np.zeros_like(result.pairs)
    expected[one, other] = expected[other, one] = 1
    assert np.array_equal(result.pairs, expected)
    assert all(result.loss_rise[result.parts.index(result.heads[head]), 0, 0] == 0 for head in (one, other))


def test_replacements_are_taken_from_no_padding() -> None:
    mask = torch.tensor([[True, True], [True, False], [True, True], [True, False]])
    activation = torch.tensor([[1.0, 10], [2, 999], [3, 30], [6, 999]], dtype=torch.float64)[:, :, None]

    def put(edits: dict[str, Edit]) -> torch.Tensor:
        return edits["point"](torch.zeros(4, 2, 1, dtype=torch.float64))[:, :, 0]

    mean, other, _ = (put(edits) for edits in replacements("point", None, activation, mask))
    assert mean.tolist() == [[3, 20]] * 4
    assert other[:, 0].tolist() == [6, 1, 2, 3]
    assert other[mask[:, 1], 1].tolist() == [30, 10]
    _, rolled, _ = (put(edits) for edits in replacements("point", None, activation))
    assert torch.equal(rolled, activation[:, :, 0].roll(1, dims=0))  # without a mask, from the sample before


def test_networks_without_parts_are_refused() -> None:
    for overrides in (["task=classify", "dataset=uci", "model=cnn"], ["task=sum", "dataset=uci"]):
        data, task = build_small(overrides)
        with pytest.raises(NotApplicableError, match="has no attention"):
            analyze(AnalysisInputs.from_task(task, data))


def test_cached_patches_change_no_answer() -> None:
    inputs = make_inputs("vit")
    batch = inputs.first(8)
    expected = inputs.task(batch)
    with cached_patches(inputs.task.model):
        assert all(torch.equal(inputs.task(batch), expected) for _ in range(2))
    other = {**batch, "image": batch["image"].flip(0)}
    assert torch.equal(inputs.task(other), expected.flip(0))


def test_the_sentence_is_about_accuracy_or_there_is_none() -> None:
    """The part that costs most loss need not cost most answers."""
    drop, loss = np.zeros((2, 3, 3)), np.zeros((2, 3, 3))
    loss[0], drop[1] = 5.0, 0.25
    result = Ablation(("loss", "answers"), 1.0, drop, loss, (), np.zeros((0, 0)), 8, "test digits")
    (claim,) = render(result).claims
    assert claim.text.startswith(
        "Without answers, replaced by its mean over samples, the share of right answers about 8 test digits falls "
        "by 25.0 points"
    )
    nothing = Ablation(("loss", "answers"), 1.0, np.zeros((2, 3, 3)), loss, (), np.zeros((0, 0)), 8, "test digits")
    assert render(nothing).claims == ()

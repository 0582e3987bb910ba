from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from analysis_helpers import build_small
from helpers import TINY

from patchwork.analysis import logit_attribution
from patchwork.analysis.inputs import AnalysisInputs, top_two
from patchwork.analysis.logit_attribution import LogitAttribution, analyze, attribute, trace
from patchwork.analysis.result import NotApplicableError
from patchwork.figures.logit_attribution import render
from patchwork.models.transformer import Attention, Block

VIT = ["task=classify", "dataset=uci", "model.stem=null", "model.embed_dim=16", "model.patch_size=14"]
TASKS = {
    "reader": [*TINY, "model.decoder_depth=2"],
    "cell_pool": [*TINY, "model=cell_pool", "model.patch_size=14"],
    "vit": VIT,
    "class token": [*VIT, "model.pool=cls"],
    "rope": [*VIT, "model.pos_embed=rope"],
    "icons": ["task=icons", "model.stem=null", "model.embed_dim=16"],
}


@pytest.fixture(autouse=True)
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logit_attribution, "NUM_SAMPLES", 24)


def make_inputs(overrides: list[str]) -> AnalysisInputs:
    """Return a task with weights and biases that make every part matter."""
    data, task = build_small(overrides)
    inputs = AnalysisInputs.from_task(task, data)
    torch.manual_seed(0)
    for parameter in inputs.task.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return inputs


def last_block(inputs: AnalysisInputs) -> Block:
    return [module for module in inputs.task.model.modules() if isinstance(module, Block)][-1]


@pytest.mark.parametrize("name", TASKS)
def test_parts_add_up_to_the_logits_and_the_network_stays_as_it_is(name: str, tmp_path: Path) -> None:
    inputs = make_inputs(TASKS[name])
    before = {key: value.clone() for key, value in inputs.task.state_dict().items()}
    batch = inputs.first(24)
    predictions = inputs.task.predict_step(batch, 0)
    result = analyze(inputs)
    assert result.remainder < 1e-10
    assert result.contribution[:, 0].sum() == pytest.approx(result.difference[0], abs=1e-10)
    assert result.by_answer.mean(axis=1) == pytest.approx(result.contribution[:, 0])
    assert (np.abs(result.contribution[:, 0]) > 1e-12).all()
    assert ("position" in result.parts) == (name != "rope")
    assert result.lens_agreement[-1] == 1
    answers = predictions.prediction if predictions.prediction.ndim == 2 else None
    assert predictions.target is not None
    read = inputs.task.answer_logits(batch, answers).argmax(dim=-1)
    right = read == predictions.target.reshape(read.shape)
    assert result.lens_accuracy[-1, 0] == pytest.approx(float(right.double().mean()))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in inputs.task.modules())
    assert all(torch.equal(before[key], value) for key, value in inputs.task.state_dict().items())
    result.save(tmp_path)
    assert render(LogitAttribution.load(tmp_path)) == render(result)


def test_the_heads_and_the_bias_of_a_layer_add_what_its_output_does() -> None:
    inputs = make_inputs(TASKS["class token"])
    model: Any = inputs.task.model
    batch = inputs.first(8)
    run = trace(inputs, batch, None)
    parts, _ = attribute(model, run)
    predicted, runner_up = top_two(inputs.task.answer_logits(batch))
    direction = model.head.weight[predicted[:, 0]] - model.head.weight[runner_up[:, 0]]
    stream = run.stream[:, 0]  # of the class token
    scale = (stream.var(dim=-1, correction=0, keepdim=True) + run.norm.eps).rsqrt() * run.norm.weight
    for index in range(len(model.blocks)):
        output = run.points[f"blocks.{index}.attn"][:, 0]
        shares = [share[:, 0] for part, share in parts.items() if part.startswith(f"blocks.{index}.attn ")]
        assert len(shares) == 5
        expected = (direction * scale * (output - output.mean(dim=-1, keepdim=True))).sum(dim=1)
        assert torch.allclose(torch.stack(shares).sum(dim=0), expected, atol=1e-12)


def test_a_head_that_writes_nothing_adds_exactly_nothing() -> None:
    inputs = make_inputs(TASKS["reader"])
    attention = last_block(inputs).cross_attn
    width = attention.proj.weight.shape[1] // attention.num_heads
    attention.proj.weight[:, width : 2 * width] = 0
    result = analyze(inputs)
    part = result.parts.index("decoder.1.cross_attn head 2")
    assert (result.by_answer[part] == 0).all()
    assert (result.contribution[part] == 0).all()


def test_the_lens_reads_an_answer_from_where_it_is_written_on() -> None:
    inputs = make_inputs(TASKS["vit"])
    model: Any = inputs.task.model
    for index, block in enumerate(model.blocks):
        for linear in (block.attn.proj, block.mlp[-1]):
            if index != 1 or linear is block.attn.proj:  # only one MLP writes anything
                linear.weight.zero_()
                linear.bias.zero_()
    result = analyze(inputs)
    writes = result.places.index("blocks.1.mlp")
    assert len({*result.lens_agreement[:writes]}) == 1
    assert result.lens_agreement[0] < 1
    assert (result.lens_agreement[writes:] == 1).all()


REFUSED: dict[str, tuple[list[str], str]] = {
    "post-norm": ([*VIT, "model.norm_first=false"], "norm_first=false"),
    "no blocks": (["task=classify", "dataset=uci", "model=cnn"], "has no blocks"),
    "an MLP reads the stream": (
        ["task=sum", "dataset=uci", "model=sequence_regressor", "data.max_length=3", "model.embed_dim=16"],
        "do not add up",
    ),
    "a generator": (["task=pixels", "dataset=uci", "model=pixel_transformer_tiny"], "generates images"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_sum_is_refused(name: str) -> None:
    overrides, message = REFUSED[name]
    inputs = make_inputs(overrides)
    with pytest.raises(NotApplicableError, match=message):
        analyze(inputs)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in inputs.task.modules())
    assert all(module.calls is None for module in inputs.task.modules() if isinstance(module, Attention))

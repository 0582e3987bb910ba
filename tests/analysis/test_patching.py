from pathlib import Path

import numpy as np
import pytest
import torch
from analysis_helpers import build_small
from helpers import TINY

from patchwork.analysis import patching
from patchwork.analysis.inputs import AnalysisInputs
from patchwork.analysis.patching import Patching, analyze, make_pairs
from patchwork.analysis.result import NotApplicableError
from patchwork.figures.patching import render

VIT = ["task=classify", "dataset=uci", "model.stem=null", "model.embed_dim=16", "model.patch_size=14"]
READER = [*TINY, "model.patch_size=28", "model.decoder_depth=2"]
TASKS = {"reader": READER, "patches": TINY, "vit": VIT, "icons": ["task=icons", "model.stem=null"]}


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patching, "NUM_PAIRS", 8)


def make_inputs(*overrides: str) -> AnalysisInputs:
    """Return a task with random weights, large enough that answers depend on images."""
    data, task = build_small([*overrides])
    inputs = AnalysisInputs.from_task(task, data)
    torch.manual_seed(0)
    for parameter in inputs.task.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.4)
    return inputs


@pytest.mark.parametrize("name", TASKS)
def test_the_stream_carries_all_and_the_network_stays_as_it_is(name: str, tmp_path: Path) -> None:
    inputs = make_inputs(*TASKS[name])
    answers = inputs.task.predict_step(inputs.first(8), 0).prediction
    result = analyze(inputs)
    first = result.points.index("blocks.0.input" if name in ("vit", "icons") else "encoder.0.input")
    carried = result.effect[first, :, 0, 0]
    assert np.nansum(carried) == pytest.approx(
        1 if name in ("vit", "icons") else carried[0] + np.nan_to_num(carried[1])
    )
    if name in ("vit", "icons"):  # the whole image is exchanged: the other sample's answer
        assert result.effect[first, 0, :, 0] == pytest.approx(1)
    else:  # patches do not overlap, and nothing is exchanged that is equal in both
        assert result.effect[first, 0, :, 0] == pytest.approx(1)
        assert result.effect[first, 1, :, 0] == pytest.approx(0)
    assert result.by_position.shape[1:] == {"vit": (4, 1), "icons": (64, 1)}.get(name, (4, 4))
    assert np.isfinite(result.by_position[0]).any()
    assert torch.equal(inputs.task.predict_step(inputs.first(8), 0).prediction, answers)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in inputs.task.modules())
    result.save(tmp_path)
    assert render(Patching.load(tmp_path)) == render(result)


def test_without_an_encoder_each_memory_carries_its_cell_and_nothing_else() -> None:
    """A decoder whose heads look at the memory of the digit that they write, by weights set by hand."""
    inputs = make_inputs(*READER, "model.encoder_depth=0", "model.decoder_depth=1")
    model = inputs.task.model
    width = model.pos_embed.weight.shape[1]
    codes = 6 * torch.eye(4, width, dtype=torch.float64)
    model.pos_embed.weight.copy_(codes)  # which cell it is
    model.token_pos_embed.weight[:4] = codes  # which digit is written
    block = model.decoder[0]
    for linear in (block.cross_attn.query, block.cross_attn.key_value):
        linear.bias.zero_()
    block.cross_attn.query.weight.copy_(20 * torch.eye(width))
    block.cross_attn.key_value.weight[:width] = 20 * torch.eye(width)
    block.cross_attn.proj.weight[:, width // block.cross_attn.num_heads :] = 0  # only the first head sees the codes
    block.attn.proj.weight.zero_()
    block.attn.proj.bias.zero_()
    result = analyze(inputs)
    memory = result.points.index("decoder.0.context")
    assert result.effect[memory, 0, :, 0] == pytest.approx(1, abs=1e-6)
    assert result.effect[memory, 1, :, 0] == pytest.approx(0, abs=1e-6)
    assert result.others_changed[memory].tolist() == [0, 0]
    by_position = result.by_position[result.streams.index("decoder.0.context")]
    seen = np.isfinite(by_position)
    assert seen.any()
    assert by_position[seen] == pytest.approx(np.eye(4)[seen], abs=1e-6)  # each cell its own answer
    assert "carries 1.00 of the change" in render(result).claims[0].text  # of too few pairs for an interval


def test_pairs_differ_in_one_cell_alone() -> None:
    inputs = make_inputs(*READER)
    pairs, left_out = make_pairs(inputs)
    assert len(pairs.answer) + left_out == 8
    changed = (pairs.clean["image"] != pairs.corrupt["image"])[:, 0]
    for cells, answer in zip(changed, pairs.answer.tolist(), strict=True):
        corners = [cells[28 * (cell // 2) :, 28 * (cell % 2) :][:28, :28].any() for cell in range(4)]
        assert corners == [cell == answer for cell in range(4)]


def test_sequences_and_networks_without_blocks_are_refused() -> None:
    for overrides in (["task=classify", "dataset=uci", "model=cnn"], ["task=sum", "dataset=uci"]):
        with pytest.raises(NotApplicableError):
            analyze(make_inputs(*overrides))
    with pytest.raises(NotApplicableError, match="are not images with classes"):
        analyze(make_inputs("task=sum", "dataset=uci", "model=sequence_regressor"))

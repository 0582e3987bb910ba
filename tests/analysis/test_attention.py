from pathlib import Path

import numpy as np
import pytest
import torch
from analysis_helpers import build_small
from helpers import TINY

from patchwork.analysis import attention
from patchwork.analysis.attention import (
    AttentionMaps,
    analyze,
    mean_distance,
    moved_shares,
    own_cell_share,
    with_intervals,
)
from patchwork.analysis.inputs import AnalysisInputs
from patchwork.analysis.places import Places
from patchwork.analysis.result import NotApplicableError
from patchwork.figures.attention import heat, render
from patchwork.models.transformer import Attention, record_attention

PATCHES = Places("patches", 2, 2)
MODELS = {
    "reader": TINY,
    "cells": [*TINY, "model=cell_pool", "model.stem=null"],
    "undivided": [*TINY, "model.patch_size=8", "model.stem=null"],  # 7×7 patches in 2×2 cells
    "vit": ["task=classify", "dataset=uci", "model.stem=null"],
    "mean": ["task=classify", "dataset=uci", "model.stem=null", "model.pool=mean"],
    "sum": ["task=sum", "dataset=uci", "model=sequence_regressor", "data.max_length=3"],
    "anchor": ["task=anchor", "dataset=uci", "model.similarity=cross_attention", "data.max_length=3"],
    "generator": ["task=pixels", "dataset=uci", "model=pixel_transformer_tiny"],
}


def make_inputs(name: str) -> AnalysisInputs:
    data, task = build_small(MODELS[name])
    return AnalysisInputs.from_task(task, data)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_with_attention_has_maps(name: str, tmp_path: Path) -> None:
    inputs = make_inputs(name)
    result = analyze(inputs)
    assert not any(module._forward_hooks for module in inputs.task.modules())
    for layer in result.by_layer():
        for values in (layer.weights, layer.moved):
            np.testing.assert_allclose(values.sum(axis=-1), 1, atol=1e-5)
        value, low, high = layer.entropy.T
        assert ((low <= value) & (value <= high)).all()
        assert (value <= layer.weights.shape[-1] + 1e-9).all()
    result.save(tmp_path)
    rendered = render(result)
    assert rendered == render(AttentionMaps.load(tmp_path))
    assert len(rendered.html) < 300_000
    assert "nan" not in rendered.table
    assert ("The frame is" in rendered.caption) == ("<rect" in rendered.html)
    assert ("In matrices" in rendered.caption) == ("rows are queries" in rendered.html)


def test_layers_are_those_of_the_network() -> None:
    result = analyze(make_inputs("reader"))
    shapes = {layer.name: layer.weights.shape[1:] for layer in result.by_layer()}
    assert {name: shape[1:] for name, shape in shapes.items() if name.startswith("decoder.0")} == {
        "decoder.0.attn": (4, 4),
        "decoder.0.cross_attn": (4, 16),
    }
    assert [layer.keys.kind for layer in analyze(make_inputs("cells")).by_layer()][-1] == "cells"


def test_networks_without_attention_are_refused() -> None:
    data, task = build_small(["task=classify", "dataset=uci", "model=cnn"])
    with pytest.raises(NotApplicableError, match="CNN has no attention"):
        analyze(AnalysisInputs.from_task(task, data))


def test_a_head_that_looks_but_moves_nothing_from_there_is_told() -> None:
    torch.manual_seed(0)
    layer = Attention(embed_dim=8, num_heads=2).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        layer.key_value.weight[8:] = torch.eye(8)  # values are the inputs themselves
        layer.key_value.bias.zero_()
        layer.query.weight.zero_()
        layer.query.bias.zero_()  # every key has the same weight
        x[:, 2, :4] = 0  # the third key has no value for the first head
    with record_attention(layer) as recorded:
        layer(x)
    (call,) = recorded[""]
    moved = moved_shares(layer, call)
    assert call.weights[:, 0, :, 2].min() == pytest.approx(0.2)
    assert moved[:, 0, :, 2].max() == 0
    assert moved[:, 1, :, 2].min() > 0
    # the lengths of what is moved to a query are those of its parts of the sum that the layer computes
    parts = [layer.proj.weight[:, head * 4 : head * 4 + 4] @ call.values[0, head].T for head in range(2)]
    lengths = torch.stack([part.norm(dim=0) for part in parts]) * call.weights[0, :, 0]
    torch.testing.assert_close(moved[0, :, 0], lengths / lengths.sum(dim=1, keepdim=True))


def test_planted_weights_have_their_distance_and_cell() -> None:
    identity = torch.eye(4).expand(3, 1, 4, 4).double()
    assert mean_distance(identity, PATCHES).tolist() == [0]
    swapped_columns = identity[:, :, [1, 0, 3, 2]]
    assert mean_distance(swapped_columns, PATCHES).tolist() == pytest.approx([1], abs=1e-6)
    cross = torch.cat([identity, identity[:, :, :1]], dim=2)  # the fifth token is the end of the sequence
    assert own_cell_share(cross, PATCHES, (2, 2), torch.arange(3)[:, None])[0, 0] == 1
    assert own_cell_share(identity, PATCHES, (2, 2), torch.arange(3)[:, None])[0, 0] == 1
    assert own_cell_share(cross[:, :, [1, 2, 3, 0, 0]], PATCHES, (2, 2), torch.arange(3)[:, None])[0, 0] == 0
    even = torch.full((3, 2, 5, 16), 1 / 16).double()
    assert own_cell_share(even, Places("patches", 4, 4), (2, 2), torch.arange(3)[:, None]).tolist() == [[0.25] * 3] * 2
    assert np.isnan(own_cell_share(identity, PATCHES, None, torch.arange(3)[:, None])).all()


def test_patches_that_lie_in_several_cells_have_no_share_of_their_own_cell() -> None:
    result = analyze(make_inputs("undivided"))
    assert all(np.isnan(layer.own_cell).all() for layer in result.by_layer())
    assert not any("cell of the digit" in name for name in result.numbers())
    assert render(result).claims == ()


def test_padding_asks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sequence has as many effective keys in a batch of longer ones as alone."""
    monkeypatch.setattr(attention, "NUM_SAMPLES", 8)
    inputs = make_inputs("sum")
    together, alone = analyze(inputs).statistics[:, 0], []
    for sample in range(8):
        batch = inputs.batch(torch.tensor([sample]))
        exists = batch["mask"][0]
        with torch.no_grad(), record_attention(inputs.task.model) as recorded:
            inputs.task.model(batch["image"][:, exists], batch["mask"][:, exists])
        (weights,) = (call.weights for calls in recorded.values() for call in calls)
        alone.append((-torch.special.xlogy(weights, weights).sum(dim=-1)).exp().mean(dim=2)[0])
    assert not inputs.first(8)["mask"].all()
    assert together == pytest.approx(torch.stack(alone).mean(dim=0).numpy())


def test_equal_weights_have_all_keys_and_a_flat_map() -> None:
    even = torch.full((3, 2, 5, 16), 1 / 16).double()
    entropy = -torch.special.xlogy(even, even).sum(dim=-1).exp().mean(dim=2)
    assert with_intervals((-torch.special.xlogy(even, even).sum(dim=-1)).exp().mean(dim=2), torch.arange(3)[:, None])[
        :, 0
    ] == pytest.approx(16)
    assert entropy.shape == (3, 2)
    drawn = heat(np.full((4, 4), 1 / 16))
    assert np.ptp(drawn, axis=(0, 1)).max() == 0
    assert heat(np.array([[0.0, 0.25, 1.0]]))[0, :, 3].tolist() == pytest.approx([0, 127.5, 255], abs=2.6)

"""Attention, blocks and positional encodings: against plain references, and by their invariances."""

import math
from collections import defaultdict
from itertools import product

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.models.transformer import Attention, AxialRoPE, Block, KVCache, LearnedPosEmbed, record_attention

B, T, S, D, H = 2, 5, 7, 12, 3
close = {"rtol": 0.0, "atol": 1e-12}


def make_attention(**options: bool | float) -> Attention:
    return Attention(embed_dim=D, num_heads=H, **options).double().eval()


def randn64(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def reference_attention(layer: Attention, x: Tensor, context: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Attend with one query of one head at a time, as in the paper's formula; return output and weights."""
    size = D // H
    query = x @ layer.query.weight.T + layer.query.bias
    key = context @ layer.key_value.weight[:D].T + layer.key_value.bias[:D]
    value = context @ layer.key_value.weight[D:].T + layer.key_value.bias[D:]
    weights, mixed = x.new_zeros(len(x), H, x.shape[1], context.shape[1]), torch.zeros_like(x)
    for b, h, t in product(range(len(x)), range(H), range(x.shape[1])):
        head, visible = slice(h * size, (h + 1) * size), t + 1 if causal else context.shape[1]
        scores = (key[b, :visible, head] @ query[b, t, head] / math.sqrt(size)).exp()
        weights[b, h, t, :visible] = scores / scores.sum()
        mixed[b, t, head] = weights[b, h, t, :visible] @ value[b, :visible, head]
    return mixed @ layer.proj.weight.T + layer.proj.bias, weights


# --- attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("causal", "cross"), [(False, False), (True, False), (False, True)])
def test_attention_is_the_softmax_of_scaled_products(causal: bool, cross: bool) -> None:
    layer, x, context = make_attention(causal=causal), randn64(B, T, D), randn64(B, S, D) if cross else None
    expected, expected_weights = reference_attention(layer, x, x if context is None else context, causal)
    with record_attention(layer) as recorded:
        output = layer(x, context)
    torch.testing.assert_close(output, expected, **close)
    torch.testing.assert_close(recorded[""][0].weights, expected_weights, **close)


@pytest.mark.parametrize(("causal", "cross"), [(False, False), (True, False), (False, True)])
def test_attention_equals_torch_multihead_attention(causal: bool, cross: bool) -> None:
    layer, x = make_attention(causal=causal), randn64(B, T, D)
    context = randn64(B, S, D) if cross else x
    reference = nn.MultiheadAttention(D, H, batch_first=True, dtype=torch.float64).eval()
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([layer.query.weight, layer.key_value.weight]))
        reference.in_proj_bias.copy_(torch.cat([layer.query.bias, layer.key_value.bias]))
    reference.out_proj.load_state_dict(layer.proj.state_dict())
    mask = torch.ones(T, T, dtype=torch.bool).triu(1) if causal else None
    expected, expected_weights = reference(x, context, context, attn_mask=mask, average_attn_weights=False)
    with record_attention(layer) as recorded:
        output = layer(x, context if cross else None)
    torch.testing.assert_close(output, expected, **close)
    torch.testing.assert_close(recorded[""][0].weights, expected_weights, **close)


@pytest.mark.parametrize("heads", [5, 7, 24])
def test_num_heads_must_divide_embed_dim(heads: int) -> None:
    with pytest.raises(ValueError, match=rf"\b{D}\b.*\b{heads}\b"):
        Attention(embed_dim=D, num_heads=heads)


@pytest.mark.parametrize("sizes", [[1] * T, [T], [2, 3], [1, 3, 1], [4, 1]])
def test_kv_cache_does_not_change_self_attention(sizes: list[int]) -> None:
    layer, x, cache = make_attention(causal=True), randn64(B, T, D), KVCache(T)
    with torch.no_grad(), record_attention(layer) as recorded:
        uncached = layer(x)
        cached = [layer(chunk, cache=cache) for chunk in x.split(sizes, dim=1)]
    torch.testing.assert_close(torch.cat(cached, dim=1), uncached, **close)
    assert cache.length == T
    uncached_weights, *cached_weights = (call.weights for call in recorded[""])
    padded = torch.cat([F.pad(weights, (0, T - weights.shape[-1])) for weights in cached_weights], dim=2)
    torch.testing.assert_close(padded, uncached_weights, **close)


def test_kv_cache_does_not_change_cross_attention() -> None:
    layer, x, context, cache = make_attention(), randn64(B, T, D), randn64(B, S, D), KVCache(S)
    with torch.no_grad():
        cached = [layer(chunk, context, cache=cache) for chunk in x.split(1, dim=1)]
        torch.testing.assert_close(torch.cat(cached, dim=1), layer(x, context), **close)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_recording_attention_weights_changes_no_output_and_no_randomness(dropout: float) -> None:
    layer, x = make_attention(dropout=dropout, causal=True).train(), randn64(B, T, D)
    torch.manual_seed(1)
    plain = layer(x), layer(x), torch.rand(1)
    torch.manual_seed(1)
    with record_attention(layer) as recorded:
        recording = layer(x), layer(x), torch.rand(1)
    assert all(torch.equal(a, b) for a, b in zip(plain, recording, strict=True))
    assert torch.equal(plain[0], plain[1]) == (dropout == 0)
    assert [tuple(call.weights.shape) for call in recorded[""]] == [(B, H, T, T)] * 2
    torch.testing.assert_close(recorded[""][0].weights.sum(-1), torch.ones(B, H, T).double(), **close)


def test_recording_attention_weights_ends_with_the_context_even_on_an_error() -> None:
    layer, x = make_attention(), randn64(B, T, D)
    with pytest.raises(RuntimeError, match="shapes"), record_attention(layer) as recorded:
        layer(randn64(B, T, D + 1))
    layer(x)
    assert recorded == {"": []}
    with record_attention(layer) as second:
        layer(x)
    layer(x)
    assert (len(recorded[""]), len(second[""])) == (0, 1)


def test_recorded_attention_weights_require_no_grad() -> None:
    layer = make_attention()
    with record_attention(layer) as recorded:
        assert layer(randn64(B, T, D)).requires_grad
    assert not recorded[""][0].weights.requires_grad


@pytest.mark.parametrize("kind", ["self", "causal", "masked", "cross"])
def test_gradient_of_the_weights_is_that_of_an_explicit_softmax(kind: str) -> None:
    layer, x = make_attention(causal=kind == "causal"), randn64(B, T, D)
    context = randn64(B, S, D) if kind == "cross" else None
    mask = torch.arange(T) < torch.arange(1, B + 1)[:, None] if kind == "masked" else None
    target = randn64(B, T, D)
    with record_attention(layer) as recorded:
        loss = (layer(x, context, mask=mask) * target).sin().sum()
    (call,) = recorded[""]
    (mixed_grad,) = torch.autograd.grad(loss, call.mixed)
    weights = call.weights.clone().requires_grad_()  # the same network from the weights on, without a kernel
    output = layer.proj(rearrange(weights @ call.values, "b h t d -> b t (h d)"))
    (expected,) = torch.autograd.grad((output * target).sin().sum(), weights)
    torch.testing.assert_close(call.weights_grad(mixed_grad), expected, rtol=0, atol=1e-12)


def test_masked_keys_are_as_if_they_were_not_there() -> None:
    layer, x = make_attention(), randn64(B, T, D)
    mask = (torch.arange(T) < 3).expand(B, -1)
    torch.testing.assert_close(layer(x, mask=mask)[:, :3], layer(x[:, :3]), **close)


# --- blocks ----------------------------------------------------------------------------------------------------------


def make_block(**options: bool | float) -> Block:
    return Block(embed_dim=D, num_heads=H, **options).double().eval()


@torch.no_grad()
def zero_out(*layers: nn.Linear) -> None:
    for layer in layers:
        layer.weight.zero_()
        layer.bias.zero_()


def test_a_pre_norm_block_with_zero_sublayers_is_the_identity() -> None:
    layer, x = make_block(cross=True), randn64(B, T, D)
    zero_out(layer.attn.proj, layer.cross_attn.proj, layer.mlp[-1])
    assert torch.equal(layer(x, randn64(B, S, D)), x)


def test_a_post_norm_block_with_zero_sublayers_normalizes_its_input() -> None:
    layer, x = make_block(cross=True, norm_first=False), 5 + 3 * randn64(B, T, D)
    zero_out(layer.attn.proj, layer.cross_attn.proj, layer.mlp[-1])
    torch.testing.assert_close(layer(x, randn64(B, S, D)), F.layer_norm(x, (D,)), rtol=0, atol=1e-4)


def test_the_residual_of_a_pre_norm_block_does_not_depend_on_the_scale_of_its_input() -> None:
    layer, x = make_block(), randn64(B, T, D)
    zero_out(layer.mlp[-1])
    residual = layer(x) - x
    assert residual.abs().max() > 0.1
    torch.testing.assert_close(layer(100 * x) - 100 * x, residual, rtol=0, atol=1e-3)


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_causal_block_depends_on_earlier_positions_and_its_own_context_only(norm_first: bool) -> None:
    layer, x, context = make_block(cross=True, causal=True, norm_first=norm_first), randn64(B, T, D), randn64(B, S, D)
    before = layer(x, context)
    later = x.clone()
    later[:, 3:] += 1 + randn64(B, T - 3, D)
    torch.testing.assert_close(layer(later, context)[:, :3], before[:, :3], **close)
    other = context.clone()
    other[0] += randn64(S, D)
    after = layer(x, other)
    torch.testing.assert_close(after[1], before[1], **close)
    assert (after[0] - before[0]).abs().amax(-1).min() > 1e-6  # every position of that sample attends to its context


def test_dropout_is_active_in_training_only() -> None:
    layer, x = make_block(dropout=0.5, cross=True), randn64(B, T, D)
    assert torch.equal(layer(x, x), layer(x, x))
    layer.train()
    assert not torch.equal(layer(x, x), layer(x, x))


# --- positions -------------------------------------------------------------------------------------------------------


def test_learned_positions_start_at_the_given_offset() -> None:
    pos_embed, x = LearnedPosEmbed(length=T, embed_dim=D).double(), randn64(B, T, D)
    nn.init.normal_(pos_embed.weight)
    chunks = [pos_embed(chunk, start) for start, chunk in enumerate(x.split(1, dim=1))]
    assert torch.equal(torch.cat(chunks, dim=1), pos_embed(x))
    torch.testing.assert_close(pos_embed(x) - x, pos_embed.weight.expand(B, T, D), **close)  # the same for each sample


@pytest.mark.parametrize(("length", "start"), [(1, T), (2, T - 1), (T + 1, 0), (1, T + 3)])
def test_learned_positions_beyond_the_last_are_rejected(length: int, start: int) -> None:
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        LearnedPosEmbed(length=T, embed_dim=D)(torch.rand(B, length, D), start)


GRIDS = [(1, 5), (3, 4), (4, 1)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", [4, 8, 16])
def test_rope_preserves_the_norm_and_treats_heads_alike(grid: tuple[int, int], size: int) -> None:
    rope, x = AxialRoPE(head_dim=size, grid=grid).double(), randn64(B, H, grid[0] * grid[1], size)
    torch.testing.assert_close(rope(x).norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)
    torch.testing.assert_close(rope(x.flip(0, 1)), rope(x).flip(0, 1), **close)


@pytest.mark.parametrize("grid", GRIDS)
def test_rope_products_depend_on_the_offset_only(grid: tuple[int, int]) -> None:
    size, positions = 8, list(product(range(grid[0]), range(grid[1])))
    rope = AxialRoPE(head_dim=size, grid=grid).double()
    query, key = randn64(B, H, 1, size), randn64(B, H, 1, size)  # the same at every position
    table = (
        rope(query.expand(-1, -1, len(positions), -1)) @ rope(key.expand(-1, -1, len(positions), -1)).mT
    )  # (B, H, N, N)
    by_offset = defaultdict(list)
    for (i, (row, col)), (j, (other_row, other_col)) in product(enumerate(positions), repeat=2):
        by_offset[other_row - row, other_col - col].append(table[..., i, j])
    for products in by_offset.values():
        torch.testing.assert_close(torch.stack(products), products[0].expand(len(products), B, H), rtol=0, atol=1e-5)
    torch.testing.assert_close(by_offset[0, 0][0], (query @ key.mT)[..., 0, 0], rtol=0, atol=1e-5)
    means = torch.stack([products[0] for products in by_offset.values()]).flatten(1)  # (offsets, B · H)
    assert torch.pdist(means).min() > 1e-2  # and each offset has its own


@pytest.mark.parametrize("size", [2, 6, 10])
def test_rope_needs_a_head_dim_divisible_by_4(size: int) -> None:
    with pytest.raises(ValueError, match=rf"\b4\b.*\b{size}\b"):
        AxialRoPE(head_dim=size, grid=(2, 2))


def test_attention_with_rope_is_translation_equivariant() -> None:
    """Shift a pattern within an otherwise empty grid: the attention among its patches shifts with it."""
    grid, layer = (3, 4), make_attention()
    rope, x = AxialRoPE(head_dim=D // H, grid=grid).double(), torch.zeros(1, *grid, D, dtype=torch.float64)
    x[0, :2, :2] = randn64(2, 2, D)
    weights = {}
    for shift in [(0, 0), (1, 0), (0, 2), (1, 1)]:
        with record_attention(layer) as recorded:
            layer(rearrange(x.roll(shift, (1, 2)), "b r c d -> b (r c) d"), rope=rope)
        table = rearrange(recorded[""][0].weights, "1 h (r c) (s d) -> h r c s d", r=3, s=3)
        table = table.roll((-shift[0], -shift[1]) * 2, (1, 2, 3, 4))[:, :2, :2, :2, :2]
        weights[shift] = table / table.sum(dim=(-2, -1), keepdim=True)  # among the four: the empty patches moved, too
    for shifted in weights.values():
        torch.testing.assert_close(shifted, weights[0, 0], rtol=0, atol=1e-6)

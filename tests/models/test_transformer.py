"""Attention, blocks, patches and positions: against plain references, and by what must never change them."""

import math
from collections import defaultdict
from itertools import product

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.models.transformer import (
    Attention,
    AxialRotary,
    Block,
    Cache,
    LearnedPositions,
    PatchEmbed,
    attention_weights,
)

B, T, S, D, H = 2, 5, 7, 12, 3
close = {"rtol": 0.0, "atol": 1e-12}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def attention(**options: bool | float) -> Attention:
    return Attention(embed_dim=D, num_heads=H, **options).double().eval()


def numbers(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def by_hand(layer: Attention, x: Tensor, context: Tensor, causal: bool) -> tuple[Tensor, Tensor]:
    """Attend for one query of one head at a time, as it is written in the paper; return the output and the weights."""
    size = D // H
    query = x @ layer.query.weight.T + layer.query.bias
    key = context @ layer.key_value.weight[:D].T + layer.key_value.bias[:D]
    value = context @ layer.key_value.weight[D:].T + layer.key_value.bias[D:]
    weights, mixed = x.new_zeros(len(x), H, x.shape[1], context.shape[1]), torch.zeros_like(x)
    for b, h, t in product(range(len(x)), range(H), range(x.shape[1])):
        lane, seen = slice(h * size, (h + 1) * size), t + 1 if causal else context.shape[1]
        scores = (key[b, :seen, lane] @ query[b, t, lane] / math.sqrt(size)).exp()
        weights[b, h, t, :seen] = scores / scores.sum()
        mixed[b, t, lane] = weights[b, h, t, :seen] @ value[b, :seen, lane]
    return mixed @ layer.proj.weight.T + layer.proj.bias, weights


# --- attention -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("causal", "cross"), [(False, False), (True, False), (False, True)])
def test_attention_is_the_softmax_of_scaled_products(causal: bool, cross: bool) -> None:
    layer, x, context = attention(causal=causal), numbers(B, T, D), numbers(B, S, D) if cross else None
    expected, expected_weights = by_hand(layer, x, x if context is None else context, causal)
    with attention_weights(layer) as recorded:
        found = layer(x, context)
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(recorded[""][0], expected_weights, **close)


@pytest.mark.parametrize(("causal", "cross"), [(False, False), (True, False), (False, True)])
def test_attention_equals_torchs_own(causal: bool, cross: bool) -> None:
    layer, x = attention(causal=causal), numbers(B, T, D)
    context = numbers(B, S, D) if cross else x
    torchs = nn.MultiheadAttention(D, H, batch_first=True, dtype=torch.float64).eval()
    with torch.no_grad():
        torchs.in_proj_weight.copy_(torch.cat([layer.query.weight, layer.key_value.weight]))
        torchs.in_proj_bias.copy_(torch.cat([layer.query.bias, layer.key_value.bias]))
    torchs.out_proj.load_state_dict(layer.proj.state_dict())
    mask = torch.ones(T, T, dtype=torch.bool).triu(1) if causal else None
    expected, expected_weights = torchs(x, context, context, attn_mask=mask, average_attn_weights=False)
    with attention_weights(layer) as recorded:
        found = layer(x, context if cross else None)
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(recorded[""][0], expected_weights, **close)


@pytest.mark.parametrize("heads", [5, 7, 24])
def test_heads_must_divide_the_width(heads: int) -> None:
    with pytest.raises(ValueError, match=rf"\b{D}\b.*\b{heads}\b"):
        Attention(embed_dim=D, num_heads=heads)


@pytest.mark.parametrize("sizes", [[1] * T, [T], [2, 3], [1, 3, 1], [4, 1]])
def test_a_cache_changes_nothing_however_the_sequence_is_cut(sizes: list[int]) -> None:
    layer, x, cache = attention(causal=True), numbers(B, T, D), Cache(T)
    with torch.no_grad(), attention_weights(layer) as recorded:
        whole = layer(x)
        parts = [layer(part, cache=cache) for part in x.split(sizes, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, **close)
    assert cache.length == T
    expected, *found = recorded[""]
    padded = torch.cat([F.pad(weights, (0, T - weights.shape[-1])) for weights in found], dim=2)
    torch.testing.assert_close(padded, expected, **close)


def test_a_cache_of_cross_attention_changes_nothing() -> None:
    layer, x, context, cache = attention(), numbers(B, T, D), numbers(B, S, D), Cache(S)
    with torch.no_grad():
        parts = [layer(part, context, cache=cache) for part in x.split(1, dim=1)]
        torch.testing.assert_close(torch.cat(parts, dim=1), layer(x, context), **close)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_recording_changes_no_output_and_no_randomness(dropout: float) -> None:
    layer, x = attention(dropout=dropout, causal=True).train(), numbers(B, T, D)
    torch.manual_seed(1)
    plain = layer(x), layer(x), torch.rand(1)
    torch.manual_seed(1)
    with attention_weights(layer) as recorded:
        watched = layer(x), layer(x), torch.rand(1)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    assert torch.equal(plain[0], plain[1]) == (dropout == 0)
    assert [tuple(weights.shape) for weights in recorded[""]] == [(B, H, T, T)] * 2
    torch.testing.assert_close(recorded[""][0].sum(-1), torch.ones(B, H, T).double(), **close)


def test_recording_ends_with_the_context_even_on_an_error() -> None:
    layer, x = attention(), numbers(B, T, D)
    with pytest.raises(RuntimeError, match="shapes"), attention_weights(layer) as recorded:
        layer(numbers(B, T, D + 1))
    layer(x)
    assert recorded == {"": []}
    with attention_weights(layer) as anew:
        layer(x)
    layer(x)
    assert (len(recorded[""]), len(anew[""])) == (0, 1)


def test_recorded_weights_hold_no_graph() -> None:
    layer = attention()
    with attention_weights(layer) as recorded:
        assert layer(numbers(B, T, D)).requires_grad
    assert not recorded[""][0].requires_grad


# --- the block -------------------------------------------------------------------------------------------------------


def block(**options: bool | float) -> Block:
    return Block(embed_dim=D, num_heads=H, **options).double().eval()


@torch.no_grad()
def silence(*layers: nn.Linear) -> None:
    for layer in layers:
        layer.weight.zero_()
        layer.bias.zero_()


def test_a_silent_block_is_the_identity_if_the_norm_comes_first() -> None:
    layer, x = block(cross=True), numbers(B, T, D)
    silence(layer.attn.proj, layer.cross_attn.proj, layer.mlp[-1])
    assert torch.equal(layer(x, numbers(B, S, D)), x)


def test_a_silent_block_normalises_the_stream_if_the_norm_comes_last() -> None:
    layer, x = block(cross=True, norm_first=False), 5 + 3 * numbers(B, T, D)
    silence(layer.attn.proj, layer.cross_attn.proj, layer.mlp[-1])
    torch.testing.assert_close(layer(x, numbers(B, S, D)), F.layer_norm(x, (D,)), rtol=0, atol=1e-4)


def test_if_the_norm_comes_first_what_is_added_does_not_depend_on_the_scale_of_the_stream() -> None:
    layer, x = block(), numbers(B, T, D)
    silence(layer.mlp[-1])
    added = layer(x) - x
    assert added.abs().max() > 0.1
    torch.testing.assert_close(layer(100 * x) - 100 * x, added, rtol=0, atol=1e-3)


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_block_mixes_self_context_and_nothing_else(norm_first: bool) -> None:
    layer, x, context = block(cross=True, causal=True, norm_first=norm_first), numbers(B, T, D), numbers(B, S, D)
    before = layer(x, context)
    later = x.clone()
    later[:, 3:] += 1 + numbers(B, T - 3, D)
    torch.testing.assert_close(layer(later, context)[:, :3], before[:, :3], **close)
    other = context.clone()
    other[0] += numbers(S, D)
    after = layer(x, other)
    torch.testing.assert_close(after[1], before[1], **close)
    assert (after[0] - before[0]).abs().amax(-1).min() > 1e-6  # each position of that sample sees its context


def test_dropout_is_for_training_alone() -> None:
    layer, x = block(dropout=0.5, cross=True), numbers(B, T, D)
    assert torch.equal(layer(x, x), layer(x, x))
    layer.train()
    assert not torch.equal(layer(x, x), layer(x, x))


# --- patches ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "patch", "channels"), [((4, 4), 2, 1), ((6, 9), 3, 2), ((5, 5), 5, 3), ((2, 8), 1, 1)]
)
def test_linear_patches_are_a_matrix_product_in_reading_order(size: tuple[int, int], patch: int, channels: int) -> None:
    embed = PatchEmbed(image_size=size, patch_size=patch, in_channels=channels, embed_dim=D).double()
    image = numbers(B, channels, *size)
    pixels = F.unfold(image, patch, stride=patch).mT  # (B, N, C · patch²), patches in reading order
    torch.testing.assert_close(embed(image), pixels @ embed.proj.weight.flatten(1).T + embed.proj.bias, **close)
    assert embed.grid == (size[0] // patch, size[1] // patch)


@pytest.mark.parametrize(("size", "patch"), [((56, 28), 27), ((10, 12), 4), ((12, 10), 4), ((4, 4), 8)])
def test_patches_must_divide_the_image(size: tuple[int, int], patch: int) -> None:
    with pytest.raises(ValueError, match=rf"patch_size={patch}\b.*\b{size[0]}\D+{size[1]}\b"):
        PatchEmbed(image_size=size, patch_size=patch, in_channels=1, embed_dim=D)


@pytest.mark.parametrize(
    "stem", [[{"channels": 2, "kernel": 3, "stride": 3}], [{"channels": 2, "kernel": 3, "pool": 8}]]
)
def test_strides_must_divide_the_patches(stem: list) -> None:
    stride = stem[0].get("stride", 1) * stem[0].get("pool", 1)
    with pytest.raises(ValueError, match=rf"patch_size=4\b.*\b{stride}\b"):
        PatchEmbed(image_size=(24, 24), patch_size=4, in_channels=1, embed_dim=D, stem=stem)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "stride", "pool"),
    [(1, 1, 1), (3, 1, 1), (5, 2, 1), (3, 1, 2), (3, 3, 1), (7, 1, 1), (2, 2, 1), (4, 4, 1)],
)
def test_any_stem_that_is_accepted_gives_the_grid(kernel: int, stride: int, pool: int, layers: int) -> None:
    stem, patch = (
        [{"channels": 2, "kernel": kernel, "stride": stride, "pool": pool}] * layers,
        (stride * pool) ** layers,
    )
    try:
        embed = PatchEmbed(image_size=(2 * patch, 3 * patch), patch_size=patch, in_channels=1, embed_dim=D, stem=stem)
    except ValueError:
        assert kernel % 2 == 0, "an odd kernel, padded by half its width, always keeps the grid"
        return
    assert embed.grid == (2, 3)
    assert embed(torch.rand(B, 1, 2 * patch, 3 * patch)).shape == (B, 6, D)


def test_half_precision_stays_inside_the_stem() -> None:
    options = {"image_size": (8, 8), "patch_size": 4, "in_channels": 1, "embed_dim": D}
    stem = [{"channels": 4, "kernel": 3, "pool": 2}]
    full, half = PatchEmbed(**options, stem=stem), PatchEmbed(**options, stem=stem, bfloat16=True)
    half.load_state_dict(full.state_dict())
    image = torch.rand(B, 1, 8, 8)
    found = half.eval()(image)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, full.eval()(image), rtol=0.05, atol=0.02)
    found.sum().backward()
    assert {parameter.grad.dtype for parameter in half.parameters()} == {torch.float32}


# --- positions -------------------------------------------------------------------------------------------------------


def test_learned_positions_start_where_they_are_told() -> None:
    positions, x = LearnedPositions(length=T, embed_dim=D).double(), numbers(B, T, D)
    nn.init.normal_(positions.weight)
    parts = [positions(part, start) for start, part in enumerate(x.split(1, dim=1))]
    assert torch.equal(torch.cat(parts, dim=1), positions(x))
    torch.testing.assert_close(positions(x) - x, positions.weight.expand(B, T, D), **close)  # the same for each sample


@pytest.mark.parametrize(("length", "start"), [(1, T), (2, T - 1), (T + 1, 0), (1, T + 3)])
def test_there_are_no_positions_beyond_the_last(length: int, start: int) -> None:
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        LearnedPositions(length=T, embed_dim=D)(torch.rand(B, length, D), start)


GRIDS = [(1, 5), (3, 4), (4, 1)]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("size", [4, 8, 16])
def test_rotation_keeps_the_norm_and_treats_heads_alike(grid: tuple[int, int], size: int) -> None:
    rotary, x = AxialRotary(head_dim=size, grid=grid).double(), numbers(B, H, grid[0] * grid[1], size)
    torch.testing.assert_close(rotary(x).norm(dim=-1), x.norm(dim=-1), rtol=1e-6, atol=0)
    torch.testing.assert_close(rotary(x.flip(0, 1)), rotary(x).flip(0, 1), **close)


@pytest.mark.parametrize("grid", GRIDS)
def test_rotated_products_depend_on_the_offset_alone(grid: tuple[int, int]) -> None:
    size, places = 8, list(product(range(grid[0]), range(grid[1])))
    rotary = AxialRotary(head_dim=size, grid=grid).double()
    query, key = numbers(B, H, 1, size), numbers(B, H, 1, size)  # the same at every place
    table = (
        rotary(query.expand(-1, -1, len(places), -1)) @ rotary(key.expand(-1, -1, len(places), -1)).mT
    )  # (B, H, N, N)
    by_offset = defaultdict(list)
    for (i, (row, col)), (j, (other_row, other_col)) in product(enumerate(places), repeat=2):
        by_offset[other_row - row, other_col - col].append(table[..., i, j])
    for products in by_offset.values():
        torch.testing.assert_close(torch.stack(products), products[0].expand(len(products), B, H), rtol=0, atol=1e-5)
    torch.testing.assert_close(by_offset[0, 0][0], (query @ key.mT)[..., 0, 0], rtol=0, atol=1e-5)
    means = torch.stack([products[0] for products in by_offset.values()]).flatten(1)  # (offsets, B · H)
    assert torch.pdist(means).min() > 1e-2  # and each offset has its own


@pytest.mark.parametrize("size", [2, 6, 10])
def test_rotation_in_two_dimensions_needs_quarters(size: int) -> None:
    with pytest.raises(ValueError, match=rf"\b4\b.*\b{size}\b"):
        AxialRotary(head_dim=size, grid=(2, 2))


def test_attention_with_rotation_knows_offsets_and_no_places() -> None:
    """Shift a pattern within an otherwise empty grid: what its patches say to each other shifts with it."""
    grid, layer = (3, 4), attention()
    rotary, x = AxialRotary(head_dim=D // H, grid=grid).double(), torch.zeros(1, *grid, D, dtype=torch.float64)
    x[0, :2, :2] = numbers(2, 2, D)
    weights = {}
    for shift in [(0, 0), (1, 0), (0, 2), (1, 1)]:
        with attention_weights(layer) as recorded:
            layer(rearrange(x.roll(shift, (1, 2)), "b r c d -> b (r c) d"), rotate=rotary)
        table = rearrange(recorded[""][0], "1 h (r c) (s d) -> h r c s d", r=3, s=3)
        table = table.roll((-shift[0], -shift[1]) * 2, (1, 2, 3, 4))[:, :2, :2, :2, :2]
        weights[shift] = table / table.sum(dim=(-2, -1), keepdim=True)  # among the four, as the empty ones moved too
    for shifted in weights.values():
        torch.testing.assert_close(shifted, weights[0, 0], rtol=0, atol=1e-6)

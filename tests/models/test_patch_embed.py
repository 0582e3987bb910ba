"""Patch embeddings: against a plain reference, and the stems that fit them."""

import pytest
import torch
from torch.nn import functional as F

from patchwork.models import ConvStem
from patchwork.models.patch_embed import PatchEmbed

B, D = 2, 12


@pytest.mark.parametrize(
    ("size", "patch", "channels"), [((4, 4), 2, 1), ((6, 9), 3, 2), ((5, 5), 5, 3), ((2, 8), 1, 1)]
)
def test_linear_patch_embedding_is_a_matrix_product_in_raster_order(
    size: tuple[int, int], patch: int, channels: int
) -> None:
    embed = PatchEmbed(image_size=size, patch_size=patch, in_channels=channels, embed_dim=D).double()
    image = torch.randn(B, channels, *size, dtype=torch.float64)
    pixels = F.unfold(image, patch, stride=patch).mT  # (B, N, C · patch²), patches in raster order
    torch.testing.assert_close(
        embed(image), pixels @ embed.proj.weight.flatten(1).T + embed.proj.bias, rtol=0, atol=1e-12
    )
    assert embed.grid == (size[0] // patch, size[1] // patch)


@pytest.mark.parametrize(("size", "patch"), [((56, 28), 27), ((10, 12), 4), ((12, 10), 4), ((4, 4), 8)])
def test_patches_must_divide_the_image(size: tuple[int, int], patch: int) -> None:
    with pytest.raises(ValueError, match=rf"patch_size={patch}\b.*\b{size[0]}\D+{size[1]}\b"):
        PatchEmbed(image_size=size, patch_size=patch, in_channels=1, embed_dim=D)


@pytest.mark.parametrize(
    ("layer", "stride"), [({"channels": 2, "kernel": 3, "stride": 3}, 3), ({"channels": 2, "kernel": 3, "pool": 8}, 8)]
)
def test_stem_stride_must_divide_the_patches(layer: dict, stride: int) -> None:
    stem = ConvStem(layers=[layer])
    assert stem.stride == stride
    with pytest.raises(ValueError, match=rf"patch_size=4\b.*\b{stride}\b"):
        PatchEmbed(image_size=(24, 24), patch_size=4, in_channels=1, embed_dim=D, stem=stem)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    ("kernel", "stride", "pool"),
    [(1, 1, 1), (3, 1, 1), (5, 2, 1), (3, 1, 2), (3, 3, 1), (7, 1, 1)],
)
def test_every_stem_with_odd_kernels_gives_the_grid(kernel: int, stride: int, pool: int, layers: int) -> None:
    stem = ConvStem(layers=[{"channels": 2, "kernel": kernel, "stride": stride, "pool": pool}] * layers)
    patch = stem.stride
    embed = PatchEmbed(image_size=(2 * patch, 3 * patch), patch_size=patch, in_channels=1, embed_dim=D, stem=stem)
    assert embed.grid == (2, 3)
    assert embed(torch.rand(B, 1, 2 * patch, 3 * patch)).shape == (B, 6, D)


def test_bfloat16_stays_inside_the_stem() -> None:
    options = {"image_size": (8, 8), "patch_size": 4, "in_channels": 1, "embed_dim": D}
    layers = [{"channels": 4, "kernel": 3, "pool": 2}]
    full = PatchEmbed(**options, stem=ConvStem(layers=layers))
    half = PatchEmbed(**options, stem=ConvStem(layers=layers, precision="bf16"))
    half.load_state_dict(full.state_dict())
    image = torch.rand(B, 1, 8, 8)
    embedded, expected = half.eval()(image), full.eval()(image)
    assert embedded.dtype == torch.float32
    assert not torch.equal(embedded, expected)
    torch.testing.assert_close(embedded, expected, rtol=0.05, atol=0.02)
    embedded.sum().backward()
    assert {parameter.grad.dtype for parameter in half.parameters()} == {torch.float32}


@pytest.mark.parametrize("kernel", [2, 4])
def test_even_kernels_are_rejected(kernel: int) -> None:
    with pytest.raises(ValueError, match=rf"kernel={kernel}\b"):
        ConvStem(layers=[{"channels": 2, "kernel": kernel, "stride": kernel}])


def test_a_model_without_a_stem_equals_one_with_an_empty_stem() -> None:
    options = {"image_size": (8, 8), "patch_size": 4, "in_channels": 1, "embed_dim": D}
    image = torch.rand(B, 1, 8, 8)
    torch.manual_seed(1)
    without = PatchEmbed(**options)(image)
    torch.manual_seed(1)
    assert torch.equal(PatchEmbed(**options, stem=ConvStem(layers=[]))(image), without)

import pytest
import torch
from torch import Tensor, nn

from patchwork.analysis.places import Places, field_weights, find_places, receptive_fields
from patchwork.models import EncoderDecoder, ViT
from patchwork.models.patch_embed import ConvLayer, ConvStem, PatchEmbed

STEMS: list[list[ConvLayer]] = [
    [],
    [{"channels": 4, "kernel": 5, "stride": 2}, {"channels": 4, "kernel": 3}],
    [{"channels": 4, "kernel": 3, "pool": 2}, {"channels": 4, "kernel": 3, "stride": 2}],
]


def gradient_support(embed: PatchEmbed, token: int) -> Tensor:
    """Return the box of pixels on which a token depends in any of several random images."""
    image = torch.randn(200, 1, *embed.image_size, dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(embed(image)[:, token].abs().sum(), image)
    used = (gradient != 0).any(dim=0)[0]
    rows, cols = used.any(dim=1).nonzero(), used.any(dim=0).nonzero()
    return torch.stack([rows.min(), rows.max() + 1, cols.min(), cols.max() + 1])


@pytest.mark.parametrize("layers", STEMS, ids=["linear", "strides", "pool"])
def test_receptive_field_is_the_support_of_the_gradient(layers: list[ConvLayer]) -> None:
    torch.manual_seed(0)
    embed = PatchEmbed(image_size=(16, 24), patch_size=4, in_channels=1, embed_dim=3, stem=ConvStem(layers=layers))
    fields = receptive_fields(embed.double().eval())
    assert fields.shape == (24, 4)
    for token in (0, 8, 23):
        assert torch.equal(fields[token], gradient_support(embed, token))
    if not layers:
        assert fields[8].tolist() == [4, 8, 8, 12]


@pytest.mark.parametrize("layers", STEMS, ids=["linear", "strides", "pool"])
def test_field_weights_are_shares_of_the_paths(layers: list[ConvLayer]) -> None:
    torch.manual_seed(0)
    embed = PatchEmbed(image_size=(16, 24), patch_size=4, in_channels=1, embed_dim=3, stem=ConvStem(layers=layers))
    weights = field_weights(embed)
    torch.testing.assert_close(weights.sum(dim=(1, 2)), torch.ones(24, dtype=torch.float64))
    for token, (top, end, left, right) in enumerate(receptive_fields(embed).tolist()):
        inside = torch.zeros(16, 24, dtype=torch.bool)
        inside[top:end, left:right] = True
        assert torch.equal(weights[token] > 0, inside)
    # with equal weights and means in place of maxima, the gradient counts paths
    for module in embed.double().modules():
        if isinstance(module, nn.Conv2d):
            nn.init.ones_(module.weight)
    mean_pooled = nn.Sequential(
        *[nn.AvgPool2d(each.kernel_size) if isinstance(each, nn.MaxPool2d) else each for each in embed.stem], embed.proj
    )
    linear = nn.Sequential(*[each for each in mean_pooled if isinstance(each, nn.Conv2d | nn.AvgPool2d)])
    image = torch.zeros(1, 1, 16, 24, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(linear(image).flatten(2)[0, 0, 8], image)
    torch.testing.assert_close(weights[8], gradient[0, 0] / gradient.sum())


def test_places_of_models() -> None:
    vit = ViT(image_size=12, in_channels=1, num_classes=3, patch_size=4, stem=None, embed_dim=8, num_heads=2)
    assert find_places(vit, 10) == Places("patches", 3, 3, prefix=1)
    assert find_places(vit, 9) == Places("patches", 3, 3)
    reader = EncoderDecoder(
        rows=1, cols=5, cell_size=8, num_classes=10, patch_size=4, stem=None, embed_dim=8, num_heads=2
    )
    assert find_places(reader, 20, cells=(1, 5)) == Places("patches", 2, 10)
    assert find_places(reader, 5, cells=(1, 5)) == Places("cells", 1, 5)
    assert find_places(reader, 6, cells=(1, 5)) == Places("tokens", 1, 6)

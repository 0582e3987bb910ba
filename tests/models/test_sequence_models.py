"""Models of sequences: laws of sums as enumerated, and what an anchor attends to."""

from itertools import product

import pytest
import torch
from torch import Tensor

from patchwork.models import AnchorDetector, FullyConnected, SequenceRegressor, SumDistribution
from patchwork.models.sum_distribution import law_of_sum
from patchwork.models.transformer import Attention

IMAGES = {"image_size": 28, "in_channels": 1}
SMALL = {"image_size": 14, "in_channels": 1}


def sequences(length: int = 4, most: int = 6) -> tuple[Tensor, Tensor]:
    """Return images (3, most, 1, 14, 14) and a mask of sequences of `length`, `most` and 1."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(most) < torch.tensor([length, most, 1])[:, None]
    return torch.randn(3, most, 1, 14, 14, generator=generator) * mask[..., None, None, None], mask


@pytest.mark.parametrize("length", [1, 2, 3, 5])
@pytest.mark.parametrize("values", [2, 4])
def test_law_of_sum_is_that_of_enumeration(length: int, values: int) -> None:
    laws = torch.rand(2, length, values, dtype=torch.double, generator=torch.Generator().manual_seed(0)).softmax(-1)
    expected = torch.zeros(2, length * (values - 1) + 1, dtype=torch.double)
    for numbers in product(range(values), repeat=length):
        chances = torch.stack([laws[:, place, number] for place, number in enumerate(numbers)])
        expected[:, sum(numbers)] += chances.prod(dim=0)
    torch.testing.assert_close(law_of_sum(laws), expected)


def test_law_of_many_is_still_a_law() -> None:
    law = law_of_sum(torch.rand(2, 100, 10).softmax(dim=-1))
    assert law.shape == (2, 901)
    torch.testing.assert_close(law.sum(dim=1), torch.ones(2))
    assert (law >= 0).all()


def test_a_certain_law_gives_the_sum_for_certain() -> None:
    digits = torch.tensor([[3, 9, 0, 7, 7]])
    law = law_of_sum(torch.nn.functional.one_hot(digits, 10).float())
    assert law.argmax() == digits.sum()
    assert law.max() == 1


@pytest.mark.parametrize("kind", [SequenceRegressor, SumDistribution])
def test_sequences_of_any_length(kind: type) -> None:
    options = {"num_classes": 10} if kind is SumDistribution else {}
    model = kind(**SMALL, stem=[], embed_dim=8, **options).eval()
    image, mask = sequences()
    whole = model(image, mask)
    short = model(image[:1, :4], mask[:1, :4])
    torch.testing.assert_close(whole[:1, : short.shape[1]] if whole.ndim > 1 else whole[:1], short)
    assert model(image.repeat(1, 5, 1, 1, 1), torch.ones(3, 30, dtype=torch.bool)).isfinite().all()


def test_the_law_of_a_sequence_ends_where_its_greatest_sum_is() -> None:
    model = SumDistribution(**SMALL, stem=[], embed_dim=8, num_classes=10).eval()
    law = model(*sequences()).exp()
    assert law.shape == (3, 55)
    torch.testing.assert_close(law.sum(dim=1), torch.ones(3))
    assert law[0, 37:].max() < 1e-9  # of four digits
    assert law[2, 10:].max() < 1e-9


def test_anchors_attention_is_what_the_answer_is_made_of() -> None:
    torch.manual_seed(0)
    model = AnchorDetector(**SMALL, stem=[], embed_dim=8).eval()
    image, mask = sequences()
    said, attention = model.locate(image, mask, torch.randn(3, 1, 14, 14))
    torch.testing.assert_close(attention.sum(dim=1), said.sigmoid())  # the rest looks at nothing
    assert not attention[~mask].any()


def test_an_anchor_finds_itself() -> None:
    torch.manual_seed(0)
    model = AnchorDetector(**SMALL, stem=[], embed_dim=8).eval()
    image, mask = sequences()
    _, attention = model.locate(image, mask, image[:, 0])
    assert attention.argmax(dim=1).tolist() == [0, 0, 0]


def test_a_mask_gives_the_same_as_leaving_out() -> None:
    torch.manual_seed(0)
    layer = Attention(embed_dim=8, num_heads=2).eval()
    x, mask = torch.randn(2, 5, 8), torch.tensor([[True, True, True, False, False]]).expand(2, -1)
    torch.testing.assert_close(layer(x, mask=mask)[:, :3], layer(x[:, :3]))


def test_fully_connected_refuses_what_it_cannot_take() -> None:
    model = FullyConnected(**SMALL, max_length=6, anchored=False)
    image, mask = sequences()
    with pytest.raises(ValueError, match="max_length=6"):
        model(image.repeat(1, 2, 1, 1, 1), mask.repeat(1, 2))
    with pytest.raises(ValueError, match="anchored=False"):
        model(image, mask, image[:, 0])

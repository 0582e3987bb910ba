"""The pixel decoder: laws that sum to one, order, and drawing that is what the likelihood says."""

import itertools

import pytest
import torch
from torch import Tensor

from patchwork.models import PixelDecoder
from patchwork.models.pixel_decoder import sample

TOKENS = ["gray256", "binary", "patch2x2", "patch4x4"]


def decoder(tokens: str = "patch4x4", image_size: int = 8, **settings: object) -> PixelDecoder:
    """Return a small one in double precision, whose weights are far from where training begins."""
    torch.manual_seed(0)
    settings = {"embed_dim": 16, "num_heads": 2, "depth": 2, **settings}
    levels = 256 if tokens == "gray256" else 2
    model = PixelDecoder(image_size=image_size, num_classes=3, levels=levels, tokens=tokens, **settings).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model


def images(model: PixelDecoder, count: int = 3) -> Tensor:
    size = model.rows * model.side
    return torch.randint(model.levels, (count, 1, size, size), generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize(
    ("tokens", "size"), [("binary", 2), ("binary", 3), ("patch2x2", 2), ("patch2x2", 4), ("patch4x4", 4)]
)
@pytest.mark.parametrize("positions", ["learned", "rotary", "none"])
@torch.no_grad()
def test_probabilities_of_all_images_sum_to_one(tokens: str, size: int, positions: str) -> None:
    model = decoder(tokens, size, positions=positions)
    every = (torch.arange(2**size**2)[:, None] >> torch.arange(size**2)) & 1
    every = every.view(-1, 1, size, size).double()
    for label in range(4):  # the last is none
        total = model.log_likelihood(every, torch.full((len(every),), label)).logsumexp(dim=0)
        assert total.item() == pytest.approx(0, abs=1e-9)


@torch.no_grad()
def test_law_of_a_grey_pixel_sums_to_one() -> None:
    model = decoder("gray256", 3)
    image, label = images(model), torch.tensor([0, 1, 3])
    levels = image.repeat(256, 1, 1, 1, 1)
    levels[:, :, 0, 2, 2] = torch.arange(256.0)[:, None]  # the last pixel
    law = torch.stack([model.log_likelihood(one, label) for one in levels])
    first = model.log_likelihood(image, label)
    before = law.logsumexp(dim=0)  # the probability of all pixels before
    assert torch.all(before >= first)
    logits = model(image, label)
    assert torch.allclose(logits[:, -1, 0].log_softmax(-1).T, law - before)


@pytest.mark.parametrize("tokens", TOKENS)
@torch.no_grad()
def test_tokens_and_pictures_are_each_others_inverse(tokens: str) -> None:
    model = decoder(tokens)
    image = images(model)
    symbols = model.tokenize(image)
    assert symbols.shape == (3, model.length, model.symbols)
    assert symbols.max() < model.vocabulary
    assert torch.equal(model.picture(symbols), image.long())


@pytest.mark.parametrize("tokens", TOKENS)
@torch.no_grad()
def test_a_symbol_depends_on_those_before_alone(tokens: str) -> None:
    model = decoder(tokens)
    image, label = images(model), torch.tensor([0, 1, 3])
    symbols, plain = model.tokenize(image), model(image, label)
    for place, turn in itertools.product(range(0, model.length, max(1, model.length // 8)), range(model.symbols)):
        changed = symbols.clone()
        changed[:, place, turn:] = (changed[:, place, turn:] + 1) % model.vocabulary
        changed[:, place + 1 :] = (changed[:, place + 1 :] + 1) % model.vocabulary
        logits = model(model.picture(changed), label)
        flat, was = logits.flatten(1, 2), plain.flatten(1, 2)
        here = place * model.symbols + turn
        assert torch.allclose(flat[:, : here + 1], was[:, : here + 1], atol=1e-12)
        if here + 1 < flat.shape[1]:
            assert not torch.allclose(flat[:, here + 1], was[:, here + 1])


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("positions", ["learned", "rotary", "none"])
@pytest.mark.parametrize("guidance", [1.0, 2.5])
@torch.no_grad()
def test_drawing_with_a_cache_is_drawing_without(tokens: str, positions: str, guidance: float) -> None:
    """Without one, the logits of each symbol are read from the whole image so far, as the likelihood has them."""
    model = decoder(tokens, 4 if tokens != "patch4x4" else 8, positions=positions)
    label = torch.tensor([0, 2, 3])
    noise = torch.rand(3, model.length, model.symbols, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    symbols = torch.zeros(3, model.length, model.symbols, dtype=torch.long)
    for place, turn in itertools.product(range(model.length), range(model.symbols)):
        told = model(model.picture(symbols), label)[:, place, turn]
        untold = model(model.picture(symbols), torch.full_like(label, model.none))[:, place, turn]
        symbols[:, place, turn] = sample(untold + guidance * (told - untold), noise[:, place, turn])
    assert torch.equal(model.generate(label, noise, guidance=guidance), model.picture(symbols).double())


@torch.no_grad()
def test_drawing_follows_the_likelihood() -> None:
    """The share of each image among many drawn is its probability."""
    model = decoder("binary", 2)
    count = 40_000
    label = torch.ones(count, dtype=torch.long)
    noise = torch.rand(count, 4, 1, generator=torch.Generator().manual_seed(3), dtype=torch.double)
    drawn = model.generate(label, noise).flatten(1).long()
    share = (drawn * torch.tensor([1, 2, 4, 8])).sum(dim=1).bincount(minlength=16) / count
    every = ((torch.arange(16)[:, None] >> torch.arange(4)) & 1).view(16, 1, 2, 2).double()
    law = model.log_likelihood(every, torch.ones(16, dtype=torch.long)).exp()
    assert torch.allclose(share.double(), law, atol=0.012)


def test_choice_among_the_likeliest() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(1000, -1)
    noise = torch.linspace(0, 1, 1001)[:-1]
    counts = sample(logits, noise).bincount(minlength=4) / 1000
    assert torch.allclose(counts, torch.tensor([0.5, 0.3, 0.15, 0.05]), atol=0.002)
    assert sample(logits, noise, top_k=2).unique().tolist() == [0, 1]
    assert sample(logits, noise, top_p=0.79).unique().tolist() == [0, 1]
    assert sample(logits, noise, top_p=0.81).unique().tolist() == [0, 1, 2]
    assert sample(logits, noise, top_k=1).unique().tolist() == [0]


def test_sizes() -> None:
    assert sum(p.numel() for p in PixelDecoder(image_size=28, num_classes=10, levels=2).parameters()) <= 1_200_000


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"levels": 256}, "levels=256"),
        ({"image_size": 30}, "tokens=patch4x4"),
        ({"num_heads": 3, "positions": "learned"}, "num_heads=3"),
    ],
)
def test_wrong_settings(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PixelDecoder(**{"image_size": 28, "num_classes": 10, "levels": 2, **settings})

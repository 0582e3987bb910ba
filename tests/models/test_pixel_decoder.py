"""The pixel decoder: laws that sum to one, order, and drawing that is what the likelihood says."""

import itertools

import pytest
import torch
from torch import Tensor

from patchwork.models import PixelDecoder, pixel_decoder
from patchwork.models.pixel_decoder import gumbel, sample, systematic

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
    noise = model.noise(3, torch.Generator().manual_seed(2))
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
    noise = model.noise(count, torch.Generator().manual_seed(3))
    drawn = model.generate(label, noise).flatten(1).long()
    share = (drawn * torch.tensor([1, 2, 4, 8])).sum(dim=1).bincount(minlength=16) / count
    every = ((torch.arange(16)[:, None] >> torch.arange(4)) & 1).view(16, 1, 2, 2).double()
    law = model.log_likelihood(every, torch.ones(16, dtype=torch.long)).exp()
    assert torch.allclose(share.double(), law, atol=0.012)


def test_choice_among_the_likeliest() -> None:
    law = torch.tensor([0.15, 0.5, 0.05, 0.3])
    logits = law.log().expand(100_000, -1)
    noise = gumbel(logits.shape, torch.Generator().manual_seed(4))
    counts = sample(logits, noise).bincount(minlength=4) / len(noise)
    assert torch.allclose(counts, law, atol=0.006)
    two = sample(logits, noise, top_k=2).bincount(minlength=4) / len(noise)
    assert torch.allclose(two, torch.tensor([0, 0.5, 0, 0.3]) / 0.8, atol=0.006)
    assert sample(logits, noise, top_p=0.79).unique().tolist() == [1, 3]
    assert sample(logits, noise, top_p=0.81).unique().tolist() == [0, 1, 3]
    assert sample(logits, noise, top_k=1).unique().tolist() == [1]


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


@pytest.mark.parametrize("tokens", TOKENS)
@torch.no_grad()
def test_stepwise_logits_are_those_of_the_whole(tokens: str) -> None:
    model = decoder(tokens)
    image, label = images(model), torch.tensor([0, 1, 3])
    assert torch.allclose(model.stepwise(image, label), model(image, label), atol=1e-12)


@pytest.mark.parametrize(
    "unknown",
    [[[0, 0], [1, 1]], [[1, 1], [0, 0]], [[0, 1], [0, 1]], [[1, 0], [0, 1]], [[1, 1], [1, 1]]],
)
@pytest.mark.parametrize("tokens", ["binary", "patch2x2"])
@torch.no_grad()
def test_completions_follow_the_models_law(tokens: str, unknown: list[list[int]]) -> None:
    """The share of each completion is its probability given what is known, before it and after it."""
    model, size = decoder(tokens, 2), 2
    known = torch.tensor(unknown) == 0
    image = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]], dtype=torch.double)
    every = ((torch.arange(16)[:, None] >> torch.arange(4)) & 1).view(16, 1, size, size).double()
    fits = ((every == image) | ~known).flatten(1).all(dim=1)
    law = model.log_likelihood(every, torch.ones(16, dtype=torch.long)).exp() * fits
    drawn = model.complete(
        image, known, torch.ones(3000, dtype=torch.long), torch.Generator().manual_seed(4), particles=64
    )
    share = (drawn.flatten(1).long() * torch.tensor([1, 2, 4, 8])).sum(dim=1).bincount(minlength=16) / len(drawn)
    assert torch.allclose(share.double(), law / law.sum(), atol=0.035)


@pytest.mark.parametrize("last", [3, 15])
@torch.no_grad()
def test_completions_of_a_patch_follow_the_models_law(last: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A patch of four symbols, five pixels of it unknown; the known ones after them are unlikely, so particles die."""
    model = decoder("patch4x4", 4)
    unknown = torch.tensor([0, 1, 4, 6, last])
    image = images(model, 1)[0]
    patterns = ((torch.arange(32)[:, None] >> torch.arange(5)) & 1).double()
    every = image.flatten().repeat(32, 1)
    every[:, unknown] = patterns
    law = model.log_likelihood(every.view(32, 1, 4, 4), torch.zeros(32, dtype=torch.long)).softmax(dim=0)
    known = torch.ones(16, dtype=torch.bool)
    known[unknown] = False
    rounds = []
    monkeypatch.setattr(pixel_decoder, "systematic", lambda *given: rounds.append(1) or systematic(*given))
    label = torch.zeros(2000, dtype=torch.long)
    drawn = model.complete(image, known.view(4, 4), label, torch.Generator().manual_seed(8), particles=100)
    places = (drawn.flatten(1)[:, unknown].long() * 2 ** torch.arange(5)).sum(dim=1)
    share = places.bincount(minlength=32) / len(drawn)
    assert torch.allclose(share.double(), law, atol=0.04)
    assert rounds
    # the law without a look at what comes after is another one
    blind = model.complete(image, known.view(4, 4), label, torch.Generator().manual_seed(8), particles=1)
    places = (blind.flatten(1)[:, unknown].long() * 2 ** torch.arange(5)).sum(dim=1)
    assert not torch.allclose((places.bincount(minlength=32) / len(blind)).double(), law, atol=0.04)


@torch.no_grad()
def test_completions_keep_what_is_known() -> None:
    model = decoder("patch4x4")
    image = images(model, 1)[0]
    known = torch.rand(8, 8, generator=torch.Generator().manual_seed(5)) < 0.5
    drawn = model.complete(image, known, torch.tensor([0, 1, 3]), torch.Generator().manual_seed(6), particles=8)
    assert drawn.shape == (3, 1, 8, 8)
    assert torch.equal(drawn[..., known], image[..., known].expand(3, -1, -1))
    assert (drawn[..., ~known] != drawn[:1][..., ~known]).any()


def test_particles_are_chosen_by_their_shares() -> None:
    share = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.0, 0.0, 1.0, 0.0]], dtype=torch.double)
    draw = torch.Generator().manual_seed(7)
    counts = torch.stack([systematic(share, draw) for _ in range(500)], dim=1).flatten(1)
    assert (counts[1] == 2).all()
    assert torch.allclose(counts[0].bincount(minlength=4) / 2000, share[0].float(), atol=0.02)


@torch.no_grad()
def test_a_prompt_says_what_its_words_say() -> None:
    model = decoder(text_depth=1, num_words=9, prompt_length=5)
    image, label = images(model, 4), torch.tensor([0, 1, 3, 2])
    prompt = torch.tensor([[1, 2, 0, 0, 0], [0, 0, 0, 0, 0], [8, 2, 3, 4, 5], [1, 2, 0, 0, 0]])
    said = model.condition(label, prompt)
    assert torch.allclose(said[0], said[3])
    assert torch.equal(said[1], model.condition(label)[1])  # no words: the class
    assert torch.allclose(said[2], model.condition(label[2:3], prompt[2:3])[0])  # whatever is beside it
    assert torch.allclose(model.condition(label[:1], prompt[:1, :2]), said[:1])  # padding is not seen
    moved = prompt[:1, [1, 0, 2, 3, 4]]
    assert not torch.allclose(model.condition(label[:1], moved), said[:1])
    assert torch.allclose(model.log_likelihood(image, label, prompt)[1], model.log_likelihood(image, label)[1])

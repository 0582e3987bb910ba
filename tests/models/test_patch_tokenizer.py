"""Tokenizers: lossless, and causal in what they show of an image."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patchwork.models.patch_tokenizer import CONTEXT_RADIUS, PatchTokenizer, tokenizer_levels

TOKENIZERS = ["gray256", "binary", "patch2x2", "patch4x4"]
tokenizers = st.sampled_from(TOKENIZERS)


def make_tokenizer(name: str, image_size: int = 8) -> PatchTokenizer:
    return PatchTokenizer(name, image_size=image_size, num_levels=256 if name == "gray256" else 2)


def sample_images(tokenizer: PatchTokenizer, image_size: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(tokenizer.num_levels, (3, 1, image_size, image_size), generator=rng)


@settings(deadline=None, max_examples=50)
@given(name=tokenizers, patches=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_detokenize_inverts_tokenize(name: str, patches: int, seed: int) -> None:
    image_size = 4 * patches
    tokenizer = make_tokenizer(name, image_size)
    image = sample_images(tokenizer, image_size, seed)
    tokens = tokenizer.tokenize(image.float())
    assert tokens.shape == (3, tokenizer.seq_len, tokenizer.sub_tokens)
    assert tokens.min() >= 0
    assert tokens.max() < tokenizer.vocab_size
    assert torch.equal(tokenizer.detokenize(tokens), image)


@settings(deadline=None, max_examples=50)
@given(name=tokenizers, seed=st.integers(0, 2**32 - 1))
def test_tokenize_inverts_detokenize(name: str, seed: int) -> None:
    tokenizer = make_tokenizer(name)
    shape = (2, tokenizer.seq_len, tokenizer.sub_tokens)
    tokens = torch.randint(tokenizer.vocab_size, shape, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(tokenizer.tokenize(tokenizer.detokenize(tokens)), tokens)


def test_tokens_are_in_raster_order() -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[..., 2, 7] = (
        1  # the first row of patches, the second patch; in it the second row, second column of 2×2 blocks
    )
    tokens = make_tokenizer("patch4x4").tokenize(image)
    assert tokens.nonzero().tolist() == [[0, 1, 3]]


@settings(deadline=None, max_examples=25)
@given(name=tokenizers, seed=st.integers(0, 2**32 - 1))
def test_allowed_tokens_are_those_that_hold_the_known_pixels(name: str, seed: int) -> None:
    tokenizer = make_tokenizer(name, 4)
    image = sample_images(tokenizer, 4, seed)[0]
    known = torch.rand(4, 4, generator=torch.Generator().manual_seed(seed)) < 0.5
    allowed = tokenizer.allowed_tokens(image.float(), known)
    pixels, mask = (tokenizer.split_pixels(x[None]).flatten(1, 2)[0] for x in (image, known[None]))
    for index in range(len(allowed)):
        for token, values in enumerate(tokenizer.vocab_pixels(image.device)):
            assert allowed[index, token] == torch.equal(values[mask[index]], pixels[index][mask[index]])


@pytest.mark.parametrize("name", ["patch2x2", "patch4x4"])
def test_causal_context_holds_preceding_pixels_within_its_radius_only(name: str) -> None:
    tokenizer = make_tokenizer(name, 16)
    image = torch.zeros(1, 1, 16, 16)
    context = tokenizer.causal_context(image, torch.float32)
    assert context.shape == (1, tokenizer.seq_len, tokenizer.context_size)
    size = tokenizer.grid_size
    for changed in range(tokenizer.seq_len):
        row, col = divmod(changed, size)
        other = image.clone()
        side = tokenizer.patch_size
        other[..., row * side : (row + 1) * side, col * side : (col + 1) * side] = 1
        seen_by = (tokenizer.causal_context(other, torch.float32) != context).any(dim=-1)[0]
        expected = [
            changed < patch and abs(patch // size - row) <= CONTEXT_RADIUS and abs(patch % size - col) <= CONTEXT_RADIUS
            for patch in range(tokenizer.seq_len)
        ]
        assert seen_by.tolist() == expected


def test_causal_prefix_holds_the_pixels_of_earlier_sub_tokens_only() -> None:
    tokenizer = make_tokenizer("patch4x4", 4)
    prefix = tokenizer.causal_prefix(torch.full((1, 1, 4), 15), torch.float32).unflatten(-1, (4, 4))[0, 0]
    assert torch.equal(prefix, torch.ones(4, 4).tril(-1)[..., None].expand(-1, -1, 4))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("patch4x4", {"num_levels": 256}, r"num_levels=256\b.*\b2\b"),
        ("gray256", {"num_levels": 2}, r"num_levels=2\b.*\b256\b"),
        ("patch4x4", {"image_size": 30}, r"tokenizer=patch4x4\b.*\b30\b"),
    ],
)
def test_tokenizers_that_do_not_fit_are_rejected(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PatchTokenizer(name, **{"image_size": 28, "num_levels": 2, **options})


def test_number_of_levels_follows_from_the_tokenizer() -> None:
    assert [tokenizer_levels(name) for name in TOKENIZERS] == [256, 2, 2, 2]
    assert tokenizer_levels(None) == 2

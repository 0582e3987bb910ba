"""Inpainting by sequential Monte Carlo: completions follow the conditional distribution and hold the known pixels."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from patchwork.models import PixelTransformer, inpainting, pixel_transformer
from patchwork.models.sampling import systematic_resample


def frequencies(images: Tensor, pixels: Tensor) -> Tensor:
    """Return how often each pattern (2 ** len(pixels),) of the given pixels occurs in images (n, 1, height, width)."""
    patterns = (images.flatten(1)[:, pixels].long() * 2 ** torch.arange(len(pixels))).sum(dim=1)
    return (patterns.bincount(minlength=2 ** len(pixels)) / len(images)).double()


@pytest.mark.parametrize(
    "unknown",
    [[[0, 0], [1, 1]], [[1, 1], [0, 0]], [[0, 1], [0, 1]], [[1, 0], [0, 1]], [[1, 1], [1, 1]]],
)
@pytest.mark.parametrize("tokenizer", ["binary", "patch2x2"])
@torch.no_grad()
def test_smc_completions_follow_the_conditional_distribution(
    make_pixel_transformer: Callable[..., PixelTransformer], tokenizer: str, unknown: list[list[int]]
) -> None:
    """The frequency of each completion is its probability given all known pixels, earlier and later ones."""
    model, known = make_pixel_transformer(tokenizer, 2), torch.tensor(unknown) == 0
    image = torch.tensor([[[1.0, 0.0], [1.0, 1.0]]], dtype=torch.double)
    every_image = ((torch.arange(16)[:, None] >> torch.arange(4)) & 1).view(16, 1, 2, 2).double()
    fits = ((every_image == image) | ~known).flatten(1).all(dim=1)
    probs = model.log_likelihood(every_image, torch.ones(16, dtype=torch.long)).exp() * fits
    completions = model.inpaint(
        image, known, torch.ones(3000, dtype=torch.long), torch.Generator().manual_seed(4), num_particles=32
    )
    assert torch.allclose(frequencies(completions, torch.arange(4)), probs / probs.sum(), atol=0.035)


@pytest.mark.parametrize("last", [pytest.param(3, marks=pytest.mark.slow), 15])
@torch.no_grad()
def test_smc_completions_within_a_patch_follow_the_conditional_distribution(
    make_pixel_transformer: Callable[..., PixelTransformer],
    sample_images: Callable[..., Tensor],
    last: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Five pixels of four sub-tokens are unknown; known ones after them are unlikely, so that particles degenerate."""
    model = make_pixel_transformer("patch4x4", 4)
    unknown = torch.tensor([0, 1, 4, 6, last])
    image = sample_images(model, 1)[0]
    every_image = image.flatten().repeat(32, 1)
    every_image[:, unknown] = ((torch.arange(32)[:, None] >> torch.arange(5)) & 1).double()
    label = torch.zeros(32, dtype=torch.long)
    probs = model.log_likelihood(every_image.view(32, 1, 4, 4), label).softmax(dim=0)
    known = torch.ones(16, dtype=torch.bool)
    known[unknown] = False
    resampled = []
    monkeypatch.setattr(
        inpainting, "systematic_resample", lambda *args: resampled.append(1) or systematic_resample(*args)
    )

    def complete(num_particles: int) -> Tensor:
        label, rng = torch.zeros(2000, dtype=torch.long), torch.Generator().manual_seed(8)
        return model.inpaint(image, known.view(4, 4), label, rng, num_particles=num_particles)

    assert torch.allclose(frequencies(complete(100), unknown), probs, atol=0.04)
    assert resampled
    # one particle ignores the known pixels that come later
    assert not torch.allclose(frequencies(complete(1), unknown), probs, atol=0.04)


@torch.no_grad()
def test_completions_hold_the_known_pixels(
    make_pixel_transformer: Callable[..., PixelTransformer], sample_images: Callable[..., Tensor]
) -> None:
    model = make_pixel_transformer("patch4x4")
    image = sample_images(model, 1)[0]
    known = torch.rand(8, 8, generator=torch.Generator().manual_seed(5)) < 0.5
    completions = model.inpaint(
        image, known, torch.tensor([0, 1, 3]), torch.Generator().manual_seed(6), num_particles=8
    )
    assert completions.shape == (3, 1, 8, 8)
    assert torch.equal(completions[..., known], image[..., known].expand(3, -1, -1))
    assert (completions[..., ~known] != completions[:1][..., ~known]).any()


@torch.no_grad()
def test_an_image_without_unknown_pixels_stays_as_it_is(
    make_pixel_transformer: Callable[..., PixelTransformer], sample_images: Callable[..., Tensor]
) -> None:
    model = make_pixel_transformer("patch4x4")
    image = sample_images(model, 1)[0]
    known = torch.ones(8, 8, dtype=torch.bool)
    completions = model.inpaint(image, known, torch.tensor([0, 1]), torch.Generator(), num_particles=8)
    assert torch.equal(completions, image.expand(2, -1, -1, -1))


@torch.no_grad()
def test_completions_are_made_in_chunks_that_fit_the_cache_budget(
    make_pixel_transformer: Callable[..., PixelTransformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_pixel_transformer("patch4x4")
    monkeypatch.setattr(pixel_transformer, "INPAINT_CACHE_BYTES", 2 * 8 * model.cache_bytes())
    chunks = []
    monkeypatch.setattr(
        pixel_transformer,
        "smc_inpaint",
        lambda decoder, *args, **options: (
            chunks.append(len(decoder.image)) or inpainting.smc_inpaint(decoder, *args, **options)
        ),
    )
    known = torch.zeros(8, 8, dtype=torch.bool)
    known[4:] = True
    label = torch.arange(5) % 3
    completions = model.inpaint(torch.zeros(1, 8, 8), known, label, torch.Generator(), num_particles=8)
    assert chunks == [2, 2, 1]
    assert completions.shape == (5, 1, 8, 8)

"""Images of one's own: the same images in every form give the same pixels, and what is unclear is refused."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from patchwork.core.errors import ConfigError, PatchworkWarning
from patchwork.data.image_arrays import pad_sequences, read_pixels, warn_of_polarity

SHAPE = (1, 6, 8)
GRAY = np.random.default_rng(0).integers(0, 256, (3, 6, 8), dtype=np.uint8)
GRAY[0, 0, 0], GRAY[0, 0, 1] = 0, 255
BITS = GRAY > 127

FORMS: dict[str, Callable[[np.ndarray], Any]] = {  # of (N, H, W) uint8
    "uint8": lambda images: images,
    "int64": lambda images: images.astype(np.int64),
    "uint16, big endian": lambda images: images.astype(">u2"),
    "float64": lambda images: images / 255,
    "float32": lambda images: (images / 255).astype(np.float32),
    "float16": lambda images: (images / 255).astype(np.float16),
    "bfloat16": lambda images: torch.from_numpy(images / 255).bfloat16(),
    "ToTensor": lambda images: torch.from_numpy(images)[:, None].float().div(255).requires_grad_(),
    "channels first": lambda images: images[:, None],
    "channels last": lambda images: torch.from_numpy(images)[..., None],
    "whole float32": lambda images: images.astype(np.float32),
    "whole float32, one by one": lambda images: list(torch.from_numpy(images).float()),
    "color": lambda images: np.stack([images] * 3, axis=-1),
    "color first": lambda images: np.stack([images] * 3, axis=1) / 255,
    "opaque": lambda images: np.stack([*[images] * 3, np.full_like(images, 255)], axis=-1),
    "opaque gray": lambda images: np.stack([images / 255, np.ones(images.shape)], axis=-1),
    "flat": lambda images: images.reshape(3, -1),
    "Fortran order": lambda images: np.asfortranarray(images),
    "reversed": lambda images: images[::-1].copy()[::-1],
    "numbers": lambda images: images.tolist(),
    "list of arrays": list,
    "tuple of tensors": lambda images: tuple(map(torch.from_numpy, images)),
    "arrays of one image": lambda images: [image[None] for image in images],
    "PIL": lambda images: [Image.fromarray(image) for image in images],
    "PIL, color": lambda images: [Image.fromarray(image).convert("RGB") for image in images],
    "PIL, opaque": lambda images: [Image.fromarray(image).convert("RGBA") for image in images],
    "PIL and arrays": lambda images: [Image.fromarray(images[0]), images[1] / 255, torch.from_numpy(images[2])],
}


def read(images: Any, shape: tuple[int, int, int] = SHAPE, **options: bool) -> torch.Tensor:
    return read_pixels(images, shape, takes="task=classify", **options)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_pixels(form: str) -> None:
    assert torch.equal(read(FORMS[form](GRAY)), torch.from_numpy(GRAY)[:, None].float())


@pytest.mark.parametrize("form", ["bool", "PIL", "tensor", "fractions"])
def test_truth_values_are_black_and_white(form: str) -> None:
    forms = {
        "bool": BITS,
        "tensor": torch.from_numpy(BITS),
        "fractions": BITS.astype(np.float32),
        "PIL": [Image.fromarray(image) for image in BITS],
    }
    assert torch.equal(read(forms[form]), torch.from_numpy(BITS)[:, None] * 255.0)


@pytest.mark.parametrize("image", [GRAY[0], GRAY[:1], GRAY[0].tolist(), Image.fromarray(GRAY[0]), GRAY[0][..., None]])
def test_one_image_needs_no_axis_of_samples(image: Any) -> None:
    assert torch.equal(read(image), torch.from_numpy(GRAY[:1])[:, None].float())


def test_color_stays_color_where_the_model_takes_it_and_gray_is_repeated() -> None:
    color = np.random.default_rng(1).integers(0, 256, (2, 6, 8, 3), dtype=np.uint8)
    expected = torch.from_numpy(color).permute(0, 3, 1, 2).float()
    for images in (color, color.transpose(0, 3, 1, 2), [Image.fromarray(image) for image in color]):
        assert torch.equal(read(images, (3, 6, 8)), expected)
    assert torch.equal(read(color[0].transpose(2, 0, 1), (3, 6, 8)), expected[:1])  # not three gray images
    assert torch.equal(read(GRAY[:2], (3, 6, 8)), torch.from_numpy(GRAY[:2])[:, None].float().expand(2, 3, 6, 8))
    gray = torch.from_numpy(np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in color]))
    assert (read(color)[:, 0] - gray).abs().max() <= 1  # as PIL, which rounds otherwise


def test_sequences_have_one_more_axis() -> None:
    sequences = np.stack([GRAY, GRAY[::-1]])
    expected = torch.from_numpy(sequences)[:, :, None].float()
    for images in (
        sequences,
        sequences[:, :, None] / 255,
        [list(map(Image.fromarray, images)) for images in sequences],
    ):
        assert torch.equal(read(images, sequences=True), expected)
    assert torch.equal(read(GRAY, sequences=True), expected[:1])
    padded, mask = pad_sequences([expected[0], expected[1, :1]], 4)
    assert mask.tolist() == [[True, True, True, False], [True, False, False, False]]
    assert torch.equal(padded[mask], torch.cat([expected[0], expected[1, :1]]))
    assert padded[~mask].eq(0).all()
    assert pad_sequences([expected[0]], 2)[1].shape == (1, 3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((3, 8, 6)),
            r"shape \(3, 8, 6\) are not allowed: task=classify takes \(N, 6, 8\), or \(6, 8\) for one",
        ),
        (np.zeros((2, 2, 6, 8)), r"shape \(2, 2, 6, 8\)"),
        (np.zeros(()), r"shape \(\)"),
        (np.zeros((0, 6, 8)), "there are no images"),
        ([], r"shape \(0,\)"),
        (GRAY * np.float32(0.9), r"fractions from 0 to 230 are not allowed .*images.round\(\)"),
        (GRAY / 255 - 0.5, "fractions from -0.5 to 0.5 .*not normalized"),
        (np.full((6, 8), np.nan), "fractions from nan to nan"),
        (GRAY.astype(int) * 2, "integers from 0 to 510 are not allowed in images: use 0 to 255"),
        (GRAY.astype(int) - 300, "use 0 to 255"),
        (GRAY.astype(complex), "complex"),
        (torch.zeros(6, 8, dtype=torch.complex64), "complex"),
        (np.array([["a"]]), "pass an array, a tensor or PIL images"),
        ("digit.png", "images of str are not allowed"),
        (None, "images of NoneType are not allowed"),
        ([GRAY[0], GRAY[1, :5]], r"differ in shape, as \(6, 8\) and \(5, 8\): expected \(N, 6, 8\)"),
        ([[1, 2], [3]], "differ in length"),
    ],
)
def test_what_is_unclear_is_refused_in_one_line(images: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        read(images)
    assert "\n" not in str(error.value)


def test_dark_on_light_is_warned_of() -> None:
    light_on_dark = torch.zeros(3, 1, 6, 8)
    light_on_dark[:, :, 2:4, 3:5] = 255
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_polarity(light_on_dark)
        read(light_on_dark.byte())
        read(torch.zeros(6, 8))
    for brightness in (255, 120):  # of the paper, the other one as a phone sees it
        with pytest.warns(PatchworkWarning, match="dark on light, .* pass 255 - images, or of PIL images"):
            warn_of_polarity(brightness - light_on_dark * (100 / 255))
    with pytest.warns(PatchworkWarning, match="the brightest pixel is 1 of 255"):
        read(BITS.astype(np.uint8))


@pytest.mark.parametrize("ink", [0, 255])
def test_ink_on_transparent_is_light_on_dark_in_every_form(ink: int) -> None:
    opacity = np.zeros((6, 8), np.uint8)
    opacity[2:4, 3:5] = (100, 255)
    gray = np.stack([np.full_like(opacity, ink), opacity], axis=-1)
    color = np.stack([*[gray[..., 0]] * 3, opacity], axis=-1)
    forms = [gray, color, color[None] / 255, Image.fromarray(gray), [Image.fromarray(color)]]
    for images in forms:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            pixels = read(images)
        assert (pixels[0, 0].numpy() == opacity).all()
        assert [str(warning.message)[:24] for warning in caught] == ["images with transparency"] * (ink == 0)
    assert read(color, (3, 6, 8)).shape == read(Image.fromarray(color), (3, 6, 8)).shape == (1, 3, 6, 8)
    assert torch.equal(read(color, (3, 6, 8)), read(Image.fromarray(color), (3, 6, 8)))


def test_range_of_a_list_is_that_of_all_its_images() -> None:
    dark = np.minimum(GRAY[1], 1)
    pixels = read([GRAY[0].astype(np.float64), dark.astype(np.float64)])
    assert torch.equal(pixels[1, 0], torch.from_numpy(dark).float())

"""Brightness and polarity: ink is on the side of the ground with the larger contrast."""

import numpy as np
import pytest
from PIL import Image

from patchwork.data.grayscale import are_dark_on_light, ground_of, is_dark_on_light, luminance
from patchwork.data.sources.uci import read_digits


@pytest.mark.parametrize(("ground", "ink"), [(0, 255), (255, 0), (120, 20), (120, 220), (140, 240), (140, 30)])
def test_polarity_follows_from_the_contrast_whatever_the_ground(ground: int, ink: int) -> None:
    digits = read_digits()[0][:50]
    rng = np.random.default_rng(0)
    shadow = np.linspace(-15, 15, digits.shape[-1])
    images = (ground + digits / 255 * (ink - ground) + rng.normal(0, 4, digits.shape) + shadow).clip(0, 255)
    assert (is_dark_on_light(images.astype(np.uint8)) == (ink < ground)).all()
    assert are_dark_on_light(images.astype(np.uint8)) == (ink < ground)
    assert abs(ground_of(images) - ground).max() < 15


def test_one_color_has_no_polarity() -> None:
    assert not is_dark_on_light(np.full((3, 5, 5), 200, np.uint8)).any()


def test_luminance_is_that_of_pillow() -> None:
    color = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    assert abs(luminance(color) - np.asarray(Image.fromarray(color).convert("L"))).max() < 1
    assert (luminance(color[..., :1]) == color[..., 0]).all()

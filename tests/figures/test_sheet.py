"""Contact sheets: every image is found again where it belongs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchwork.figures.sheet import GRAY, MIN_SIDE, contact_sheet, labeled_sheet


@settings(deadline=None, max_examples=50)
@given(
    count=st.integers(1, 7),
    channels=st.sampled_from([1, 3]),
    columns=st.none() | st.integers(1, 9),
    zoom=st.integers(1, 3),
    margin=st.integers(0, 2),
)
def test_contact_sheet_shows_every_image(
    count: int, channels: int, columns: int | None, zoom: int, margin: int
) -> None:
    height, width = 3, 4
    rng = torch.Generator().manual_seed(count)
    images = torch.randint(256, (count, channels, height, width), generator=rng).byte()
    picture = contact_sheet(images, columns, zoom=zoom, margin=margin)
    assert picture.mode == ("L" if channels == 1 else "RGB")
    pixels = np.asarray(picture).reshape(picture.height, picture.width, channels)[::zoom, ::zoom].copy()
    columns = round((pixels.shape[1] - margin) / (width + margin))
    for index, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        row, col = divmod(index, columns)
        top, left = margin + row * (height + margin), margin + col * (width + margin)
        assert (pixels[top : top + height, left : left + width] == image).all()
        pixels[top : top + height, left : left + width] = GRAY
    assert (pixels == GRAY).all()  # nothing else is there


@pytest.mark.parametrize("channels", [1, 3])
def test_labeled_sheet_has_a_row_for_each_label(channels: int) -> None:
    labels = ["one", "two", "one", "three", "one", "two"]
    images = torch.full((6, channels, 28, 28), 0, dtype=torch.uint8)
    for index in range(6):
        images[index] = 30 * index + 10
    picture = labeled_sheet(images, labels, title="a title")
    plain = labeled_sheet(images, labels)
    zoom = MIN_SIDE // 28 + 1
    assert zoom * 28 >= 56
    sheet = np.asarray(picture)[picture.height - plain.height :]
    assert (sheet == np.asarray(plain)).all()  # the title is above
    assert (np.asarray(picture)[: picture.height - plain.height] > GRAY).any()
    rows = [[0, 2, 4], [1, 5], [3]]
    step = zoom * (28 + 2)
    left = picture.width - 3 * step - zoom * 2
    for row, indices in enumerate(rows):
        for column, index in enumerate(indices):
            pixel = np.asarray(plain)[row * step + step // 2, left + column * step + step // 2]
            assert (pixel == 30 * index + 10).all()
        assert (np.asarray(plain)[row * step : (row + 1) * step, :left] > GRAY).any()  # its label


def test_long_row_is_continued_in_another() -> None:
    picture = labeled_sheet(torch.zeros((64, 1, 28, 28), dtype=torch.uint8), ["7"] * 64)
    assert 0.8 < picture.width / picture.height < 1.2

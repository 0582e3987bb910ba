"""Contact sheets: every image is found again where it belongs."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchwork.figures.sheet import GRAY, contact_sheet


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

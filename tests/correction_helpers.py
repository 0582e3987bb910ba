"""Corrections as the page would keep them."""

from datetime import UTC, datetime

import numpy as np

from patchwork.data.corrections import Correction, encode_pixels


def make_correction(number: int, *, session: str = "a", label: int = 3, pixels: np.ndarray | None = None) -> Correction:
    if pixels is None:
        pixels = np.random.default_rng(number).integers(0, 256, (28, 28), np.uint8)
    return Correction(
        id=f"c{number}",
        time=datetime(2026, 1, 1, tzinfo=UTC),
        session=session,
        spec="1",
        task="classify",
        weights_sha256="0" * 64,
        strokes=[[(1.0, 2.5), (3.0, 4.0)]],
        cell_size=280.0,
        image=encode_pixels(pixels),
        prediction=5,
        probability=0.5,
        label=label,
    )

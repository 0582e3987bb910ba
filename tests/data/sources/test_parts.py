"""Names mean parts, and a part that is held out is neither lost nor repeated."""

import numpy as np
import pytest

from patchwork.data.sources.parts import hold_out, part_of, whiten_ones


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("x_train", "train"),
        ("trainingSet", "train"),
        ("t10k-images", "test"),
        ("Testing", "test"),
        ("x_val", "validation"),
        ("valid", "validation"),
        ("validation.set", "validation"),
        ("values", None),
        ("strain", None),
        ("latest", None),
    ],
)
def test_parts_of_names(name: str, part: str | None) -> None:
    assert part_of(name) == part


@pytest.mark.parametrize("count", [2, 7, 70])
def test_held_out_images_are_a_seventh(count: int) -> None:
    images, labels = np.arange(count), np.arange(count) % 10
    parts = hold_out((images, labels))
    assert len(parts["test"][0]) == max(count // 7, 1)
    assert sorted([*parts["train"][0], *parts["test"][0]]) == [*images]
    for kept, kept_labels in parts.values():
        assert (kept % 10 == kept_labels).all()
    assert (hold_out((images, labels))["test"][0] == parts["test"][0]).all()


def test_dark_images_are_said_to_be_dark() -> None:
    notes: list[str] = []
    arrays = [np.full((2, 28, 28), 16, np.uint8), np.zeros(2), np.zeros((1, 28, 28), np.uint8), np.zeros(1)]
    whiten_ones(arrays, notes)
    assert notes == ["the images are dark: the brightest pixel is 16 of 255"]
    assert arrays[0].max() == 16

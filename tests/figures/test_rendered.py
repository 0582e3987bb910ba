"""Intervals in words say no more than their digits do."""

import pytest

from patchwork.figures.rendered import interval_text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.25, 0.75, "95 % interval 25.0% to 75.0%"),
        (0.99991, 0.99999, "95 % interval narrower than these digits"),
        (1.0, 1.0, "95 % interval narrower than these digits"),
    ],
)
def test_an_interval_without_a_visible_width_is_said_to_be_narrow(low: float, high: float, text: str) -> None:
    assert interval_text(low, high, ".1%") == text

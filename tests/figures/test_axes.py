"""The labels at the ends of lines."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from patchwork.figures.axes import spread_labels


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-0.5, 1.5), max_size=50))
def test_spread_labels_preserves_order_and_minimum_gap(positions: list[float]) -> None:
    moved = spread_labels(positions, 0.05)
    gap = min(0.05, 1 / max(len(positions) - 1, 1)) - 1e-9
    assert all(-1e-9 <= position <= 1 + 1e-9 for position in moved)
    assert np.all(np.diff(sorted(moved)) >= gap)
    assert np.argsort(moved, kind="stable").tolist() == np.argsort(positions, kind="stable").tolist()


def test_spread_labels_leaves_positions_that_are_far_enough_apart() -> None:
    assert spread_labels([0.7, 0.1, 0.4], 0.1) == [0.7, 0.1, 0.4]

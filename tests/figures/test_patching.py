import numpy as np
import pytest

from patchwork.analysis.patching import Patching
from patchwork.figures.patching import render


@pytest.mark.parametrize("known", [True, False])
def test_an_effect_of_few_pairs_has_no_interval(known: bool) -> None:
    low, high = (0.875, 0.9375) if known else (np.nan, np.nan)
    result = Patching(
        points=("decoder.context",),
        tokens=("its own",),
        effect=np.array([[[[0.9, low, high]] * 2]]),
        others_changed=np.array([[0.0]]),
        streams=(),
        by_position=np.zeros((0, 0, 0)),
        n=5,
        left_out=0,
        unit="test grids",
    )
    rendered = render(result)
    assert "nan" not in rendered.html + rendered.claims[0].text
    assert ("(95 % interval 0.88 to 0.94)" in rendered.claims[0].text) is known
    assert ("(0.88 – 0.94)" in rendered.html) is known

"""MNIST with a fallback: never silently."""

from pathlib import Path

import pytest
from source_helpers import same_source, write_gzip

from patchwork.data.sources.auto import Auto
from patchwork.data.sources.mnist import MNIST
from patchwork.data.sources.uci import UCI


@pytest.mark.parametrize("folds", [{}, {"folds": 5, "fold": 2}])
def test_auto_falls_back_to_uci_with_a_framed_warning(
    world: Path, capfd: pytest.CaptureFixture[str], folds: dict[str, int]
) -> None:
    source = Auto(download=False, **folds).load()
    out, err = capfd.readouterr()
    assert same_source(source, UCI(**folds).load())
    assert not out
    lines = err.splitlines()
    assert len(lines) > 6
    assert set(lines[0]) == set(lines[-1]) == {"#"}
    assert all(line.startswith("##") for line in lines)
    assert err.isascii()
    text = " ".join(word for line in lines for word in line.strip("# ").split())
    for phrase in ("NOT MNIST results", "dataset.download is false", "data/mnist", "PATCHWORK_MNIST", "dataset.root"):
        assert phrase in text


def test_auto_loads_mnist_where_it_is_found(
    world: Path, contents: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    write_gzip(world / "data/mnist", contents)
    assert same_source(Auto(validation=7).load(), MNIST(validation=7).load())
    assert capfd.readouterr() == ("", "")

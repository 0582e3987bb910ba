"""An empty world without a network, and a small data set that is taken for MNIST."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from source_helpers import DATASET, NUM_TEST, NUM_TRAIN

from patchwork.data.sources import idx_source
from patchwork.data.sources.mnist import MNIST


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, the only one that is searched."""
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.setattr(idx_source, "search_roots", lambda: [directory])
    monkeypatch.setattr(MNIST, "dataset", replace(DATASET, mirrors=()))
    monkeypatch.delenv("PATCHWORK_MNIST", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return directory


@pytest.fixture
def contents(world: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Return four small IDX files whose MD5s are taken for MNIST's."""
    rng, files = np.random.default_rng(0), {}
    for name in DATASET.digests:
        count = NUM_TRAIN if name.startswith("train") else NUM_TEST
        if "images" in name:
            shape, values = (count, 28, 28), rng.integers(0, 256, (count, 28, 28))
        else:
            shape, values = (count,), rng.integers(0, 10, count)
        header = bytes([0, 0, 8, len(shape)]) + b"".join(axis.to_bytes(4, "big") for axis in shape)
        files[name] = header + values.astype(np.uint8).tobytes()
    digests = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(MNIST, "dataset", replace(MNIST.dataset, digests=digests))
    return files


@pytest.fixture
def set_mirrors(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return a function that sets MNIST's mirrors."""
    return lambda *urls: monkeypatch.setattr(MNIST, "dataset", replace(MNIST.dataset, mirrors=urls))

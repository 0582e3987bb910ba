"""Small data sets in the format of MNIST, in every container."""

import gzip
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from patchwork.data.sources.base import ImageSource
from patchwork.data.sources.mnist import MNIST

DATASET = MNIST.dataset  # as it is before the fixtures replace its digests and mirrors
NUM_TRAIN, NUM_TEST = 41, 13
Contents = dict[str, bytes]


def write_idx(directory: Path, contents: Contents, spell: Callable[[int, str], str] = lambda _, name: name) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for index, (name, content) in enumerate(contents.items()):
        path = directory / spell(index, name)
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_gzip(directory: Path, contents: Contents) -> None:
    write_idx(directory, contents, lambda _, name: f"{name}.gz")


def write_dotted(directory: Path, contents: Contents) -> None:
    write_idx(directory, contents, lambda _, name: name.replace("-idx", ".idx"))


def write_mixed(directory: Path, contents: Contents) -> None:
    spellings = ("{}.gz", "{}", "{}.gz", "{}")
    write_idx(directory, contents, lambda i, name: spellings[i].format(name.replace("-idx", ".idx") if i < 2 else name))


def write_shards(directory: Path, contents: Contents, shards: int = 3) -> None:
    """Write parquet files as ylecun/mnist has them, but in several shards."""
    directory.mkdir(parents=True, exist_ok=True)
    for key, split in (("train", "train"), ("t10k", "test")):
        images = np.frombuffer(contents[f"{key}-images-idx3-ubyte"], np.uint8, offset=16).reshape(-1, 28, 28)
        labels = np.frombuffer(contents[f"{key}-labels-idx1-ubyte"], np.uint8, offset=8)
        for index, indices in enumerate(np.array_split(np.arange(len(labels)), shards)):
            cells = [{"bytes": encode_png(images[i]), "path": f"{i}.png"} for i in indices]
            table = pa.table({"image": cells, "label": labels[indices].astype(np.int64)})
            pq.write_table(table, directory / f"{split}-{index:05}-of-{shards:05}.parquet")


def write_hub(directory: Path, contents: Contents) -> None:
    write_shards(directory / "mnist", contents, 1)


CONTAINERS = [write_idx, write_gzip, write_dotted, write_mixed, write_shards, write_hub]


def encode_png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=1)
    return file.getvalue()


def source_tensors(source: ImageSource) -> list[torch.Tensor]:
    splits = (source.train, source.val, source.test)
    return [tensor for split in splits for tensor in (split.images, split.labels, split.indices)]


def same_source(first: ImageSource, second: ImageSource) -> bool:
    return first.sha256 == second.sha256 and all(map(torch.equal, source_tensors(first), source_tensors(second)))


def raises_one_line(error: type[Exception], function: Callable[[], object]) -> str:
    """Check that `function` raises an error with a message of one line, and return that."""
    with pytest.raises(error) as caught:
        function()
    assert "\n" not in str(caught.value)
    return str(caught.value)

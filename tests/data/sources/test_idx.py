"""The format of MNIST: every container gives the same images, and damage is reported in one line."""

import gzip
import hashlib
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from source_helpers import (
    CONTAINERS,
    DATASET,
    encode_png,
    raises_one_line,
    same_source,
    write_gzip,
    write_hub,
    write_idx,
    write_shards,
)

from patchwork.core.errors import DataError
from patchwork.data.sources import idx
from patchwork.data.sources.auto import Auto
from patchwork.data.sources.mnist import MNIST


@pytest.mark.parametrize("write", CONTAINERS)
def test_every_container_gives_the_same_images(
    tmp_path: Path, contents: dict[str, bytes], write: Callable[[Path, dict[str, bytes]], None]
) -> None:
    write_idx(tmp_path / "reference", contents)
    write(tmp_path / "other", contents)
    reference = MNIST(root=str(tmp_path / "reference"), validation=7).load()
    other = MNIST(root=str(tmp_path / "other"), validation=7).load()
    assert same_source(reference, other)
    assert reference.name == "mnist"
    raw = b"".join(content[16 if "images" in name else 8 :] for name, content in contents.items())
    assert reference.sha256 == hashlib.sha256(raw).hexdigest()
    assert other.test.images.numpy().tobytes() == contents["t10k-images-idx3-ubyte"][16:]


def test_far_too_large_file_is_not_read_to_its_end(
    world: Path, contents: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idx, "MAX_BYTES", 50_000)
    assert max(map(len, contents.values())) < idx.MAX_BYTES
    write_gzip(world / "data/mnist", {**contents, "t10k-labels-idx1-ubyte": bytes(50_001)})
    assert "more than 50,000 bytes" in raises_one_line(DataError, MNIST(validation=7).load)


def test_swapped_files_are_recognized(world: Path, contents: dict[str, bytes]) -> None:
    swapped = dict(zip(contents, [*contents.values()][2:] + [*contents.values()][:2], strict=True))
    write_idx(world / "data/mnist", swapped)
    assert "it is t10k-images-idx3-ubyte of MNIST" in raises_one_line(DataError, MNIST(validation=7).load)
    write_idx(world / "data/mnist", dict(zip(contents, [*contents.values()][::-1], strict=True)))
    assert "it is t10k-labels-idx1-ubyte of MNIST" in raises_one_line(DataError, MNIST(validation=7).load)


def test_other_images_in_the_format_need_verify_false(world: Path, contents: dict[str, bytes]) -> None:
    name = "train-images-idx3-ubyte"
    other = {**contents, name: contents[name][:-1] + bytes([contents[name][-1] ^ 1])}
    write_idx(world / "data/mnist", other)
    assert "dataset.verify=false" in raises_one_line(DataError, MNIST(validation=7).load)
    assert MNIST(validation=7, verify=False).load().name == "unverified-mnist"
    labels = contents["t10k-labels-idx1-ubyte"]
    write_idx(world / "data/mnist", {"t10k-labels-idx1-ubyte": labels[:-1] + b"\x0a"})
    message = raises_one_line(DataError, MNIST(validation=7, verify=False).load)
    assert "label 10: expected 0 to 9" in message
    short = labels[:7] + bytes([labels[7] - 1]) + labels[8:-1]
    write_idx(world / "data/mnist", {"t10k-labels-idx1-ubyte": short})
    assert "13 test images, but 12 labels" in raises_one_line(DataError, MNIST(validation=7, verify=False).load)


def test_raw_file_takes_precedence_over_its_gzip(world: Path, contents: dict[str, bytes]) -> None:
    write_idx(world / "data/mnist", contents)
    write_gzip(world / "data/mnist", dict.fromkeys(contents, b"never read"))
    assert MNIST(validation=7).load().name == "mnist"


# --- damage ----------------------------------------------------------------------------------------------------------

DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "truncated gzip": (lambda c: gzip.compress(c)[:-20], "end-of-stream"),
    "flipped gzip": (lambda c: (z := gzip.compress(c))[:40] + bytes([z[40] ^ 255]) + z[41:], "cannot be read"),
    "padded gzip": (lambda c: gzip.compress(c) + b"more", "cannot be read"),
    "gzip of something else": (lambda c: gzip.compress(b"<html>"), "magic number is 3c68746d, expected 000008"),
    "wrong magic": (lambda c: b"\0\0\x09" + c[3:], "magic number is 000009"),
    "too short": (lambda c: c[:-1], "size in bytes is"),
    "too long": (lambda c: c + b"\0", "size in bytes is"),
    "wrong count": (lambda c: c[:4] + b"\xff\xff\xff\xff" + c[8:], "size in bytes is"),
    "no content": (lambda c: b"", "the file is empty"),
    "web page": (lambda c: gzip.compress(b"\n<!DOCTYPE html>"), "the file is a web page"),
    "pointer": (lambda c: b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 34\n", "git lfs pull"),
    "compressed twice": (lambda c: gzip.compress(gzip.compress(c)), "compressed twice"),
    "archive": (lambda c: b"PK\x03\x04" + c, "a zip archive"),
    "half a header": (lambda c: c[:6], "header is"),
    "wrong content": (lambda c: c[:-1] + bytes([c[-1] ^ 1]), "MD5 of the content is"),
}


@pytest.mark.parametrize("name", DATASET.digests)
@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_line_that_names_the_file(world: Path, contents: dict[str, bytes], kind: str, name: str) -> None:
    damage, reason = DAMAGE[kind]
    write_idx(world / "data/mnist", contents)
    path = world / "data/mnist" / name
    path.write_bytes(damage(contents[name]))
    for source in (MNIST(validation=7), Auto(validation=7)):
        message = raises_one_line(DataError, source.load)
        assert str(path) in message
        assert reason in message
        assert "expected" in message


def test_wrong_image_size_is_damage(world: Path, contents: dict[str, bytes]) -> None:
    name = "t10k-images-idx3-ubyte"
    contents[name] = contents[name][:8] + bytes([0, 0, 0, 14, 0, 0, 0, 56]) + contents[name][16:]
    write_idx(world / "data/mnist", contents)
    assert "header is" in raises_one_line(DataError, MNIST(validation=7).load)


def test_every_damaged_byte_of_a_gzip_is_detected(world: Path, contents: dict[str, bytes]) -> None:
    directory = world / "data/mnist"
    write_gzip(directory, contents)
    path = directory / "train-labels-idx1-ubyte.gz"
    intact, reference = path.read_bytes(), MNIST(validation=7).load()
    for index in range(len(intact)):
        flipped = intact[:index] + bytes([intact[index] ^ 0x55]) + intact[index + 1 :]
        for damaged in (intact[:index], flipped):
            path.write_bytes(damaged)
            try:
                harmless = same_source(reference, MNIST(validation=7).load())  # a date in the header, for example
            except DataError as error:
                harmless = str(error).startswith(str(path)) and "\n" not in str(error)
            assert harmless, index


def test_file_that_cannot_be_read_is_reported(world: Path, contents: dict[str, bytes]) -> None:
    write_idx(world / "data/mnist", contents)
    path = world / "data/mnist/train-labels-idx1-ubyte"
    path.unlink()
    path.symlink_to(path)
    assert f"{path} cannot be read" in raises_one_line(DataError, MNIST(validation=7).load)


# --- parquet ---------------------------------------------------------------------------------------------------------


def damage_rows(kind: str, cells: list, labels: list) -> tuple[list, list]:
    """Return damaged images and labels of a parquet file."""
    match kind:
        case "png":
            cells[1]["bytes"] = cells[1]["bytes"][:60]
        case "no image":
            cells[1] = None
        case "size":
            cells[1]["bytes"] = encode_png(np.zeros((28, 29), np.uint8))
        case "color":
            cells[1]["bytes"] = encode_png(np.zeros((28, 28, 3), np.uint8))
        case "label":
            labels[1] = -1
        case "other label":
            labels[1] = 9 - labels[1]
        case "other pixel":
            cells[1]["bytes"] = encode_png(np.zeros((28, 28), np.uint8))
        case "order":
            cells = cells[::-1]
        case "rows":
            cells, labels = cells[1:], labels[1:]
    return cells, labels


def damage_parquet(kind: str, path: Path) -> None:
    table = pq.read_table(path, partitioning=None)
    match kind:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-10])
        case "foreign":
            path.write_bytes(b"<html>\nnot here\n</html>")
        case "columns":
            pq.write_table(table.rename_columns(["picture", "label"]), path)
        case _:
            cells, labels = damage_rows(kind, table["image"].to_pylist(), table["label"].to_pylist())
            pq.write_table(pa.table({"image": cells, "label": labels}), path)


PARQUET_DAMAGE = ["truncated", "foreign", "columns", "png", "no image", "size", "color", "label", "other label"]
PARQUET_DAMAGE += ["other pixel", "order", "rows"]


@pytest.mark.parametrize("kind", PARQUET_DAMAGE)
def test_damaged_parquet_is_one_line_that_names_the_file(world: Path, contents: dict[str, bytes], kind: str) -> None:
    write_hub(world / "data/mnist", contents)
    path = world / "data/mnist/mnist/train-00000-of-00001.parquet"
    damage_parquet(kind, path)
    for source in (MNIST(validation=7), Auto(validation=7)):
        message = raises_one_line(DataError, source.load)
        assert str(path) in message
        assert "expected" in message


def test_missing_parquet_shard_is_damage(world: Path, contents: dict[str, bytes]) -> None:
    write_shards(world / "data/mnist", contents)
    (world / "data/mnist/train-00001-of-00003.parquet").unlink()
    assert "MD5" in raises_one_line(DataError, MNIST(validation=7).load)


@pytest.mark.parametrize("module", ["pyarrow", "PIL"])
def test_parquet_without_its_extra_says_what_to_install(
    world: Path, monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes], module: str
) -> None:
    write_hub(world / "data/mnist", contents)
    monkeypatch.setitem(sys.modules, module, None)
    assert "pip install 'patchwork[parquet]'" in raises_one_line(DataError, MNIST(validation=7).load)


def test_digests_of_all_data_sets_differ() -> None:
    from patchwork.data.sources.fashion import FashionMNIST

    digests = [*DATASET.digests.items(), *FashionMNIST.dataset.digests.items()]
    assert all(one[1] != other[1] for one, other in itertools.combinations(digests, 2))
    assert DATASET.digests.keys() == FashionMNIST.dataset.digests.keys()

"""Where a data set is searched for, how it is split, and what is reported where it is absent."""

import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from source_helpers import (
    DATASET,
    NUM_TEST,
    NUM_TRAIN,
    encode_png,
    raises_one_line,
    same_source,
    write_gzip,
    write_idx,
)

from patchwork.core.errors import ConfigError, DataError
from patchwork.data.sources import idx_source
from patchwork.data.sources.auto import Auto
from patchwork.data.sources.fashion import FashionMNIST
from patchwork.data.sources.idx import NotFoundError, read_parquet
from patchwork.data.sources.idx_source import IdxSource
from patchwork.data.sources.locate import missing_files, parquet_files
from patchwork.data.sources.mnist import MNIST

search_roots = idx_source.search_roots  # as it is before `world` replaces it


def real_directory(source: IdxSource) -> Path | None:
    """Return where the real data set is on this machine, if it is."""
    return next((path for path in source.search_path() if not missing_files(source.dataset, path)), None)


REAL = {"mnist": real_directory(MNIST()), "fashion": real_directory(FashionMNIST())}


# --- splits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [{"validation": 1}, {"validation": 7}, {"validation": NUM_TRAIN - 1}, {"folds": 3}])
def test_training_and_validation_images_partition_the_training_part(
    world: Path, contents: dict[str, bytes], split: dict[str, int]
) -> None:
    write_idx(world / "data/mnist", contents)
    arguments = {**split, "fold": 1} if "folds" in split else split
    source, again = (MNIST(**arguments).load() for _ in range(2))
    assert same_source(source, again)
    validation = split.get("validation", 14)  # 41 images in folds of 14, 14 and 13
    assert len(source.val.images) == len(source.val.labels) == validation
    joined = [image.numpy().tobytes() for part in (source.train, source.val) for image in part.images]
    pixels = contents["train-images-idx3-ubyte"][16:]
    assert sorted(joined) == sorted(pixels[i : i + 784] for i in range(0, len(pixels), 784))
    for part, count in ((source.train, NUM_TRAIN - validation), (source.val, validation), (source.test, NUM_TEST)):
        assert part.images.shape == (count, 1, 28, 28)
        assert part.images.dtype == torch.uint8
        assert part.labels.shape == (count,)
        assert part.labels.dtype == torch.int64


def test_validation_images_of_all_folds_are_the_training_part_and_the_test_is_untouched(
    world: Path, contents: dict[str, bytes]
) -> None:
    write_idx(world / "data/mnist", contents)
    default = MNIST(validation=7).load()
    sources = [MNIST(folds=5, fold=fold).load() for fold in range(5)]
    images = [image.numpy().tobytes() for source in sources for image in source.val.images]
    pixels = contents["train-images-idx3-ubyte"][16:]
    assert sorted(images) == sorted(pixels[i : i + 784] for i in range(0, len(pixels), 784))
    for source in sources:
        assert torch.equal(source.test.images, default.test.images)
        assert source.sha256 == default.sha256


def test_split_does_not_depend_on_the_global_random_state(world: Path, contents: dict[str, bytes]) -> None:
    write_idx(world / "data/mnist", contents)
    torch.manual_seed(1)
    state, source = torch.get_rng_state(), MNIST(validation=7).load()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert same_source(source, MNIST(validation=7).load())


def test_sha256_does_not_depend_on_the_split(world: Path, contents: dict[str, bytes]) -> None:
    write_idx(world / "data/mnist", contents)
    assert MNIST(validation=3).load().sha256 == MNIST(validation=9).load().sha256


@pytest.mark.parametrize("validation", [NUM_TRAIN, NUM_TRAIN + 1])
def test_validation_that_leaves_nothing_to_train_on_is_rejected(
    world: Path, contents: dict[str, bytes], validation: int
) -> None:
    write_idx(world / "data/mnist", contents)
    message = raises_one_line(ConfigError, MNIST(validation=validation).load)
    assert f"dataset.validation={validation}" in message
    assert str(NUM_TRAIN - 1) in message


@pytest.mark.skipif(REAL["mnist"] is None, reason="MNIST is not on this machine")
def test_mnist_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "dataset", DATASET)
    source = MNIST(root=str(REAL["mnist"])).load()
    assert [len(split.labels) for split in (source.train, source.val, source.test)] == [55_000, 5_000, 10_000]
    assert source.sha256 == "06b0d1f124c4e5fa796686ade41a9b778edacc8622f2195a352ef479ad44fc16"
    assert source.test.labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    images, labels = source.test.images[:, 0].numpy(), source.test.labels.numpy()
    for index, half in enumerate((slice(0, 5_000), slice(5_000, None))):
        cells = [{"bytes": encode_png(image), "path": ""} for image in images[half]]
        pq.write_table(pa.table({"image": cells, "label": labels[half]}), tmp_path / f"test-{index}.parquet")
    read = list(read_parquet(DATASET, "t10k", parquet_files(tmp_path)["t10k"]))
    assert np.array_equal(read[0], images)
    assert np.array_equal(read[1], labels)


@pytest.mark.skipif(REAL["fashion"] is None, reason="Fashion-MNIST is not on this machine")
def test_fashion_mnist_itself() -> None:
    source = FashionMNIST(root=str(REAL["fashion"]), folds=6, fold=0).load()
    assert source.name == "fashion"
    assert [len(split.labels) for split in (source.train, source.val, source.test)] == [50_000, 10_000, 10_000]
    names = [FashionMNIST.class_names[label] for label in source.test.labels[:3].tolist()]
    assert names == ["ankle boot", "pullover", "trouser"]
    pixels = torch.cat([source.train.images, source.val.images]).float() / 255
    assert pixels.mean().item() == pytest.approx(source.mean, abs=1e-4)
    assert pixels.std().item() == pytest.approx(source.std, abs=1e-4)


# --- where it is searched for ----------------------------------------------------------------------------------------


def test_search_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes]) -> None:
    roots = [tmp_path / "a/here", tmp_path / "b/checkout"]
    monkeypatch.setattr(idx_source, "search_roots", lambda: roots)
    searched = [root / path for path in ("data/mnist", "../shared/data/mnist") for root in roots]
    named, variable = tmp_path / "root", tmp_path / "variable"
    for root in roots:
        root.mkdir(parents=True)
    for directory in (named, variable, *searched):
        write_gzip(directory, contents)
    monkeypatch.setenv("PATCHWORK_MNIST", str(variable))
    assert MNIST(root=str(named)).find() == named
    assert MNIST().find() == variable
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("PATCHWORK_MNIST")
        else:
            monkeypatch.setenv("PATCHWORK_MNIST", unset)
        assert MNIST().find() == searched[0]
    for directory, following in itertools.pairwise(searched):
        next(directory.iterdir()).unlink()  # an incomplete data set does not hide a complete one
        assert MNIST().find() == following


def test_every_data_set_has_its_own_directories_and_variable(world: Path) -> None:
    assert MNIST().search_path() == [world / "data/mnist", world / "../shared/data/mnist"]
    assert FashionMNIST().search_path() == [
        world / "data/fashion",
        world / "../shared/data/fashion",
        Path("/usr/share/datasets/fashion-mnist"),
    ]
    assert MNIST.dataset.variable != FashionMNIST.dataset.variable


def test_search_roots_are_the_working_directory_and_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkout = Path(__file__).resolve().parents[3]
    assert search_roots() == [tmp_path, checkout]
    monkeypatch.chdir(checkout)
    assert search_roots() == [checkout]
    installed = tmp_path / "lib/python/site-packages/patchwork/data/sources/idx_source.py"
    monkeypatch.setattr(idx_source, "__file__", str(installed))
    assert search_roots() == [checkout]


@pytest.mark.parametrize("source", [MNIST, Auto])
@pytest.mark.parametrize("key", ["dataset.root", "PATCHWORK_MNIST"])
def test_directory_that_is_named_must_hold_the_data_set(
    world: Path, monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes], source: type[MNIST], key: str
) -> None:
    write_idx(world / "data/mnist", contents)  # complete, but not the one that is named
    directory = world / "elsewhere"
    monkeypatch.setenv("PATCHWORK_MNIST", str(directory))
    load = source(root=str(directory) if key == "dataset.root" else None).load
    assert f"{key}='{directory}' is not a directory: use" in raises_one_line(DataError, load)
    write_idx(directory, dict(list(contents.items())[:3]))
    assert f"{key}='{directory}' lacks t10k-labels-idx1-ubyte: use" in raises_one_line(DataError, load)


def test_home_directory_is_expanded(world: Path, monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes]) -> None:
    monkeypatch.setenv("HOME", str(world))
    write_idx(world / "digits", contents)
    assert MNIST(root="~/digits").find() == world / "digits"


# --- absence ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", [MNIST, FashionMNIST])
def test_absence_says_where_it_was_searched_for_and_what_to_do(
    world: Path, monkeypatch: pytest.MonkeyPatch, source: type[IdxSource]
) -> None:
    monkeypatch.setattr(idx_source, "download", no_download)
    name, variable = source.dataset.name, source.dataset.variable
    for download in (False, True):
        message = raises_one_line(NotFoundError, source(download=download).load)
        expected = (world / "data" / name, variable, "dataset.root")
        assert all(str(text) in message for text in (*expected, source.dataset.title))
        assert "shared" not in message  # it does not exist
    assert not any((world / "data").rglob("*"))


def no_download(*_: object) -> None:
    raise NotFoundError("no network")


def test_incomplete_data_set_is_damage(world: Path, contents: dict[str, bytes]) -> None:
    write_gzip(world / "data/mnist", contents)
    (world / "data/mnist/t10k-labels-idx1-ubyte.gz").unlink()
    for source in (MNIST(download=False), Auto(download=False), MNIST(), Auto()):
        message = raises_one_line(DataError, source.load)
        assert f"{world / 'data/mnist'} lacks t10k-labels-idx1-ubyte" in message

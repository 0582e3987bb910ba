"""Files are found below a directory, however they are named and nested."""

from collections.abc import Callable
from pathlib import Path

import pytest
from source_helpers import DATASET, Contents, raises_one_line, same_source, write_gzip, write_idx

from patchwork.core.errors import DataError
from patchwork.data.sources import locate
from patchwork.data.sources.auto import Auto
from patchwork.data.sources.fashion import FashionMNIST
from patchwork.data.sources.idx import NotFoundError
from patchwork.data.sources.locate import idx_files
from patchwork.data.sources.mnist import MNIST

Write = Callable[[Path, Contents], None]


def spelled(spell: Callable[[str], str], below: str = ".") -> Write:
    """Return a function that writes IDX files by the names that `spell` makes of the official ones."""
    return lambda directory, contents: write_idx(directory / below, contents, lambda _, name: spell(name))


def write_in_directories(directory: Path, contents: Contents) -> None:
    """Write each file into a directory of its name, as Kaggle's archive has them."""
    for name, content in contents.items():
        write_idx(directory / name, {name: content})


def write_twice(directory: Path, contents: Contents) -> None:
    """Write each file twice, as Kaggle's archive does on some systems; the directories may be empty."""
    spelled(lambda name: name.replace("-idx", ".idx"))(directory, contents)
    for name in contents:
        (directory / name).mkdir()


def write_apart(directory: Path, contents: Contents) -> None:
    """Write training and test files into directories of their own."""
    for name, content in contents.items():
        write_idx(directory / name.partition("-")[0], {name: content})


LAYOUTS: dict[str, Write] = {
    "torchvision": spelled(str, "MNIST/raw"),
    "torchvision, level by level": spelled(lambda name: f"{name}.gz", "a/b/MNIST/raw"),
    "directories of the same names": write_in_directories,
    "directories below": lambda directory, contents: write_in_directories(directory / "archive", contents),
    "files beside directories": write_twice,
    "parts apart": write_apart,
    "prefix": spelled(lambda name: f"emnist-mnist-{name}.gz"),
    "dots": spelled(lambda name: name.replace("-idx", ".idx") + ".gz"),
    "only dots": spelled(lambda name: name.replace("-", ".")),
    "underscores": spelled(lambda name: name.replace("-", "_")),
    "capitals": spelled(str.upper),
    "test instead of t10k": spelled(lambda name: name.replace("t10k", "test")),
    "without ubyte": spelled(lambda name: name.removesuffix("-ubyte")),
    "numbered by a browser": spelled(lambda name: f"{name} (1).gz"),
    "another suffix": spelled(lambda name: f"{name}.bin"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found_below_the_root(tmp_path: Path, contents: Contents, layout: str) -> None:
    write_idx(tmp_path / "reference", contents)
    LAYOUTS[layout](tmp_path / "root", contents)
    reference = MNIST(root=str(tmp_path / "reference"), validation=7).load()
    assert same_source(reference, MNIST(root=str(tmp_path / "root"), validation=7).load())


@pytest.mark.parametrize("below", ["", "MNIST", "MNIST/raw"])
def test_root_may_be_any_level_of_the_layout(tmp_path: Path, contents: Contents, below: str) -> None:
    write_gzip(tmp_path / "MNIST/raw", contents)
    assert MNIST(root=str(tmp_path / below), validation=7).load().name == "mnist"


@pytest.mark.parametrize("other", ["FashionMNIST/raw", "zeros"])
def test_content_decides_which_of_several_sets_is_read(tmp_path: Path, contents: Contents, other: str) -> None:
    foreign = {name: content[:-1] + bytes([content[-1] ^ 1]) for name, content in contents.items()}
    write_gzip(tmp_path / "MNIST/raw", contents)
    write_gzip(tmp_path / other, foreign)
    assert MNIST(root=str(tmp_path), validation=7).load().name == "mnist"


@pytest.mark.parametrize("below", ["data/MNIST/raw", "data/kaggle", "MNIST/raw", "archive", "."])
def test_layouts_of_others_are_found_without_being_named(
    world: Path, contents: Contents, capfd: pytest.CaptureFixture[str], below: str
) -> None:
    write_gzip(world / below, contents)
    assert Auto(validation=7, download=False).load().name == "mnist"
    assert capfd.readouterr() == ("", "")


def test_another_data_set_below_data_is_not_taken_for_it(world: Path, contents: Contents) -> None:
    write_gzip(world / "data/MNIST/raw", contents)
    with pytest.raises(NotFoundError):
        FashionMNIST(download=False, root=None).find()


def test_search_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: Contents) -> None:
    write_idx(tmp_path / "a/b/c/d/e", contents)
    assert not idx_files(DATASET, tmp_path)
    (tmp_path / "a/b/up").symlink_to(tmp_path)  # a cycle ends
    assert not idx_files(DATASET, tmp_path / "a/b", max_depth=2)
    write_idx(tmp_path / ".hidden", contents)
    assert not idx_files(DATASET, tmp_path)
    monkeypatch.setattr(locate, "MAX_DIRECTORIES", 3)
    for number in range(9):
        write_idx(tmp_path / f"wide/{number}", {} if number < 8 else contents)
    assert not idx_files(DATASET, tmp_path / "wide")


def test_what_is_missing_is_named(tmp_path: Path, contents: Contents) -> None:
    write_in_directories(tmp_path, contents)
    (tmp_path / "t10k-labels-idx1-ubyte/t10k-labels-idx1-ubyte").unlink()
    message = raises_one_line(DataError, MNIST(root=str(tmp_path)).load)
    assert "lacks t10k-labels-idx1-ubyte: use" in message

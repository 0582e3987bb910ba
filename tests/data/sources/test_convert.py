"""Conversion: each form gives the IDX files back byte for byte, and what cannot be read is refused in one line."""

import csv
import gzip
import hashlib
import io
import pickle
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from source_helpers import NUM_TRAIN, Contents, raises_one_line, write_gzip, write_idx, write_shards

from patchwork.commands.convert import command
from patchwork.core.errors import DataError, PatchworkWarning
from patchwork.data.sources import archives, convert, parts, tables
from patchwork.data.sources.auto import Auto
from patchwork.data.sources.mnist import MNIST

Arrays = dict[str, np.ndarray]
Write = Callable[[Path, Arrays], Path]


@pytest.fixture
def arrays(contents: Contents) -> Arrays:
    """Return the arrays of Keras' `mnist.npz`; the first pixel of each image is black, as in MNIST."""
    names = dict(zip(contents, ("x_train", "y_train", "x_test", "y_test"), strict=True))
    values = {}
    for name, content in contents.items():
        offset, shape = (16, (-1, 28, 28)) if "images" in name else (8, (-1,))
        values[names[name]] = np.frombuffer(content, np.uint8, offset=offset).reshape(shape)
    return values


@pytest.fixture(autouse=True)
def dark(contents: Contents, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the border of the images black, so that they are light on dark as MNIST's."""
    for name in contents:
        if "images" in name:
            pixels = np.frombuffer(contents[name], np.uint8, offset=16).reshape(-1, 784).copy()
            border = np.pad(np.zeros((26, 26), bool), 1, constant_values=True)
            pixels.reshape(-1, 28, 28)[:, border] = 0
            contents[name] = contents[name][:16] + pixels.tobytes()


def write_npz(path: Path, arrays: Arrays, change: Callable[[Arrays], Arrays] = lambda arrays: arrays) -> Path:
    np.savez_compressed(path / "mnist.npz", **change(arrays))
    return path / "mnist.npz"


def write_csv(
    path: Path,
    arrays: Arrays,
    *,
    header: bool = True,
    label_last: bool = False,
    index: bool = False,
    separator: str = ",",
    fractions: bool = False,
    suffix: str = ".csv",
) -> Path:
    for part, name in (("train", "mnist_train"), ("test", "mnist_test")):
        pixels = arrays[f"x_{part}"].reshape(-1, 784).astype(object)
        rows = np.column_stack([arrays[f"y_{part}"], pixels / 255 if fractions else pixels]).tolist()
        rows = [["label", *(f"{row}x{col}" for row in range(28) for col in range(28))], *rows]
        rows = [[*row[1:], row[0]] if label_last else row for row in rows]
        rows = [["" if number == 0 else number - 1, *row] for number, row in enumerate(rows)] if index else rows
        text = io.StringIO()
        csv.writer(text, delimiter=separator).writerows(rows if header else rows[1:])
        content = text.getvalue().replace(".", "," if separator == ";" else ".").encode()
        (path / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    return path


def csv_with(**options: Any) -> Write:
    return lambda path, arrays: write_csv(path, arrays, **options)


def write_numbered_csv(path: Path, arrays: Arrays) -> Path:
    """Write tables as pandas does whose columns have no names, but numbers."""
    for file in write_csv(path, arrays, index=True).glob("*.csv"):
        lines = file.read_text().splitlines()
        file.write_text("\n".join([",".join(["", *map(str, range(785))]), *lines[1:]]))
    return path


def write_pictures(
    path: Path, arrays: Arrays, *, parts: tuple[str, str] = ("training", "testing"), name: str = "{}.png"
) -> Path:
    for part, directory in zip(("train", "test"), parts, strict=True):
        for index, (image, label) in enumerate(zip(arrays[f"x_{part}"], arrays[f"y_{part}"], strict=True)):
            file = path / "pictures" / directory / str(label) / name.format(index)
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    return path / "pictures"


def pack(path: Path, source: Path, suffix: str) -> Path:
    archive = path / f"archive{suffix}"
    files = [file for file in sorted(source.rglob("*")) if file.is_file() and file != archive]
    if suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for file in files:
                zipped.write(file, file.relative_to(source))
            zipped.writestr("__MACOSX/._train.csv", b"\0")
    else:
        with tarfile.open(archive, "w:gz") as tarred:
            for file in files:
                tarred.add(file, file.relative_to(source))
    return archive


def packed(write: Write, suffix: str) -> Write:
    def write_archive(path: Path, arrays: Arrays) -> Path:
        (path / "unpacked").mkdir()
        write(path / "unpacked", arrays)
        archive = pack(path, path / "unpacked", suffix)
        shutil.rmtree(path / "unpacked")
        return archive

    return write_archive


def npz(change: Callable[[Arrays], Arrays]) -> Write:
    return lambda path, arrays: write_npz(path, arrays, change)


FORMS: dict[str, Write] = {
    "npz": write_npz,
    "npz, flat": npz(lambda a: {**a, "x_train": a["x_train"].reshape(-1, 784), "x_test": a["x_test"][..., None]}),
    "npz, other names": npz(
        lambda a: {
            "training_images": a["x_train"],
            "training_labels": a["y_train"].astype(np.int64),
            "test_images": a["x_test"],
            "test_labels": np.eye(10)[a["y_test"]],
        }
    ),
    "npz, fractions": npz(lambda a: {k: v / np.float32(255) if k.startswith("x") else v for k, v in a.items()}),
    "npz, white": npz(lambda a: {k: 255 - v if k.startswith("x") else v for k, v in a.items()}),
    "npz, labels as text": npz(lambda a: {k: v.astype(str) if k.startswith("y") else v for k, v in a.items()}),
    "csv": write_csv,
    "csv without header": csv_with(header=False),
    "csv, label last": csv_with(label_last=True),
    "csv without header, label last": csv_with(header=False, label_last=True),
    "csv.gz": csv_with(suffix=".csv.gz"),
    "csv with index": csv_with(index=True),
    "csv with index, label last": csv_with(index=True, label_last=True),
    "csv without header, with index": csv_with(index=True, header=False),
    "csv with numbered columns": write_numbered_csv,
    "csv of fractions": csv_with(fractions=True),
    "csv with semicolons": csv_with(separator=";", index=True),
    "csv with decimal commas": csv_with(separator=";", fractions=True),
    "csv with tabs": csv_with(separator="\t", index=True),
    "csv with spaces": csv_with(separator=" ", header=False),
    "pictures": write_pictures,
    "pictures, other names": lambda path, arrays: write_pictures(
        path, arrays, parts=("trainingSet", "testSet"), name="img_{:05}.png"
    ),
    "zip of csv": packed(write_csv, ".zip"),
    "zip of npz": packed(write_npz, ".zip"),
    "tgz of pictures": packed(write_pictures, ".tgz"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_files_back(tmp_path: Path, contents: Contents, arrays: Arrays, form: str) -> None:
    source = FORMS[form](tmp_path, arrays)
    assert command([str(source), f"out={tmp_path / 'out'}"]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == contents


@pytest.mark.parametrize("write", [write_gzip, write_shards, "zip"])
def test_idx_and_parquet_files_are_converted_too(
    tmp_path: Path, contents: Contents, write: Callable[[Path, Contents], None] | str
) -> None:
    (write_gzip if isinstance(write, str) else write)(tmp_path / "in", contents)
    source = pack(tmp_path, tmp_path / "in", ".zip") if write == "zip" else tmp_path / "in"
    assert command([f"source={source}", f"out={tmp_path / 'out'}"]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == contents


def test_one_table_of_both_parts_is_cut_in_the_official_order(
    tmp_path: Path, contents: Contents, arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "NUM_TRAIN", NUM_TRAIN)
    joined = {kind: np.concatenate([arrays[f"{kind}_train"], arrays[f"{kind}_test"]]) for kind in ("x", "y")}
    np.savez(tmp_path / "mnist_784.npz", data=joined["x"], target=joined["y"])
    assert command([str(tmp_path / "mnist_784.npz"), f"out={tmp_path / 'out'}"]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == contents


def test_what_the_files_are_is_said(
    tmp_path: Path,
    contents: Contents,
    arrays: Arrays,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = write_npz(tmp_path, arrays)
    assert command([str(source), f"out={tmp_path / 'unknown'}"]) == 0
    assert "dataset.verify=false" in capsys.readouterr().out
    digests = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(MNIST, "dataset", replace(MNIST.dataset, digests=digests))
    assert command([str(source), f"out={tmp_path / 'known'}"]) == 0
    assert "they are MNIST, byte for byte" in capsys.readouterr().out
    assert MNIST(root=str(tmp_path / "known"), validation=7).load().name == "mnist"
    assert command([str(source), f"out={tmp_path / 'known'}"]) == 2
    assert "name another directory" in capsys.readouterr().err


# --- parts -----------------------------------------------------------------------------------------------------------


def in_parts(arrays: Arrays) -> Arrays:
    """Return arrays of three parts, with 30, 11 and 13 images, in an order that is misleading."""
    cut = slice(0, 30), slice(30, None)
    return {
        "x_train": arrays["x_train"][cut[0]],
        "y_train": arrays["y_train"][cut[0]],
        "x_test": arrays["x_test"],
        "y_val": arrays["y_train"][cut[1]],
        "x_val": arrays["x_train"][cut[1]],
        "y_test": arrays["y_test"],
    }


def write_valid_pictures(path: Path, arrays: Arrays) -> Path:
    parts = in_parts(arrays)
    write_pictures(path, parts, parts=("train", "test"))
    empty = {name: array[:0] for name, array in arrays.items() if "test" in name}
    write_pictures(path / "more", {**empty, "x_train": parts["x_val"], "y_train": parts["y_val"]}, parts=("valid", ""))
    shutil.move(path / "more/pictures/valid", path / "pictures/valid")
    return path / "pictures"


def write_valid_tables(path: Path, arrays: Arrays) -> Path:
    parts = in_parts(arrays)
    write_csv(
        path, {"x_train": parts["x_val"], "y_train": parts["y_val"], **{k: parts[k] for k in ("x_test", "y_test")}}
    )
    (path / "mnist_train.csv").rename(path / "mnist_valid.csv")
    write_csv(path, parts)
    return path


THREE_PARTS: dict[str, Write] = {
    "npz": npz(in_parts),
    "pictures": write_valid_pictures,
    "csv": write_valid_tables,
}


@pytest.mark.parametrize("form", THREE_PARTS)
def test_validation_images_are_added_to_the_training_part_if_there_is_a_test_part(
    tmp_path: Path, arrays: Arrays, form: str
) -> None:
    read = convert.read_form(THREE_PARTS[form](tmp_path, arrays))
    assert pairs(*read.arrays[:2]) == pairs(arrays["x_train"], arrays["y_train"])
    assert pairs(*read.arrays[2:]) == pairs(arrays["x_test"], arrays["y_test"])
    assert read.notes == ["the 11 validation images were added to the training part, which is split anew"]


def test_validation_images_are_the_test_part_if_there_is_no_other(tmp_path: Path, arrays: Arrays) -> None:
    read = convert.read_form(
        write_npz(tmp_path, {name: array for name, array in in_parts(arrays).items() if "test" not in name})
    )
    assert pairs(*read.arrays[2:]) == pairs(arrays["x_train"][30:], arrays["y_train"][30:])
    assert read.notes == ["the 11 validation images are the test part, as there is no other"]


def pairs(images: np.ndarray, labels: np.ndarray) -> list[tuple[bytes, int]]:
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def test_test_part_is_held_out_where_its_table_has_no_labels(tmp_path: Path, arrays: Arrays) -> None:
    """As in Kaggle's competition."""
    drop_labels(write_csv(tmp_path, arrays) / "mnist_test.csv")
    read = convert.read_form(tmp_path)
    train, test = pairs(*read.arrays[:2]), pairs(*read.arrays[2:])
    assert sorted(train + test) == pairs(arrays["x_train"], arrays["y_train"])
    assert len(test) == NUM_TRAIN // 7
    assert "mnist_test.csv has no labels" in read.notes[0]
    assert "5 images of mnist_train.csv, drawn at random, are the test part" in read.notes[1]


@pytest.mark.parametrize("named", ["pictures/training", "pictures/training/3", "pictures"])
def test_nothing_outside_of_the_source_is_read(
    tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    write_pictures(tmp_path, arrays)
    for part in ("training", "testing"):  # of another data set, beside the source
        write_pictures(tmp_path / "pictures", arrays, parts=(f"other/{part}", "none"))
    if named == "pictures":
        shutil.rmtree(tmp_path / "pictures/testing")
        shutil.rmtree(tmp_path / "pictures/pictures")
    monkeypatch.chdir(tmp_path / named)
    message = raises_one_line(DataError, lambda: convert.read_form(tmp_path / named))
    assert "lacks labeled images of" in message
    assert "test part" in message
    raises_one_line(DataError, lambda: convert.read_form(Path()))


@pytest.mark.parametrize("write", [npz(lambda a: a), write_csv, write_pictures])
def test_ones_are_made_white(tmp_path: Path, arrays: Arrays, write: Write) -> None:
    bits = {name: (array > 99).astype(np.uint8) if name.startswith("x") else array for name, array in arrays.items()}
    read = convert.read_form(write(tmp_path, bits))
    assert pairs(*read.arrays[:2]) == pairs(bits["x_train"] * 255, bits["y_train"])
    assert pairs(*read.arrays[2:]) == pairs(bits["x_test"] * 255, bits["y_test"])
    assert read.notes == ["the pixels are 0 and 1: 1 was made white, 255"]


def test_of_several_data_sets_it_is_said_which_is_read(tmp_path: Path, contents: Contents, arrays: Arrays) -> None:
    for prefix in ("emnist-letters", "emnist-digits"):
        write_idx(tmp_path / "in", contents, lambda _, name, p=prefix: f"{p}-{name}")
    with pytest.warns(
        PatchworkWarning, match="emnist-digits-train-images.* is read, not of emnist-letters-train-images"
    ):
        convert.read_form(tmp_path / "in")
    write_npz(tmp_path, arrays)
    shutil.copy(tmp_path / "mnist.npz", tmp_path / "fashion.npz")
    shutil.rmtree(tmp_path / "in")
    assert re.search(r"fashion.npz is read, not .*/mnist.npz", convert.read_form(tmp_path).notes[0])


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [["{}", "{}.copy"], ["source={}", "{}"], ["source={}", "source={}"]])
def test_two_sources_are_refused(
    tmp_path: Path, arrays: Arrays, capsys: pytest.CaptureFixture[str], args: list[str]
) -> None:
    source = write_npz(tmp_path, arrays)
    assert command([*(arg.format(source) for arg in args), f"out={tmp_path / 'out'}"]) == 2
    assert "are 2 sources: name one" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_source_may_have_an_equals_sign_in_its_name(tmp_path: Path, arrays: Arrays) -> None:
    source = write_npz(tmp_path, arrays).rename(tmp_path / "mnist v=2.npz")
    assert command([str(source), f"out={tmp_path / 'out'}"]) == 0


def test_what_is_in_the_way_is_named(tmp_path: Path, arrays: Arrays, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_npz(tmp_path, arrays)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/train-labels.idx1-ubyte.gz").touch()
    assert command([str(source), f"out={tmp_path / 'out'}"]) == 2
    assert "out already holds train-labels.idx1-ubyte.gz: name another directory" in capsys.readouterr().err
    assert command([str(source), f"out={source}"]) == 2
    assert "mnist.npz is a file: name a directory" in capsys.readouterr().err


# --- refusals --------------------------------------------------------------------------------------------------------


class Evil:
    """An object whose unpickling leaves a trace."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("executed"),))


def write_file(name: str, content: bytes) -> Write:
    def write(path: Path, arrays: Arrays) -> Path:
        (path / name).write_bytes(content)
        return path / name

    return write


def write_objects(path: Path, arrays: Arrays) -> Path:
    objects = np.array([Evil()], dtype=object)
    np.savez(path / "mnist.npz", **{**arrays, "x_train": objects})
    return path / "mnist.npz"


def write_escaping_zip(path: Path, arrays: Arrays) -> Path:
    with zipfile.ZipFile(path / "archive.zip", "w") as archive:
        archive.writestr("../train.csv", "1")
    return path / "archive.zip"


def damaged_csv(old: str, new: str) -> Write:
    def write(path: Path, arrays: Arrays) -> Path:
        file = write_csv(path, arrays) / "mnist_train.csv"
        lines = file.read_text().splitlines()
        lines[3] = new if not old else lines[3].replace(old, new, 1)
        file.write_text("\n".join(lines))
        return path

    return write


def drop_labels(file: Path) -> None:
    file.write_text("\n".join(line.partition(",")[2] for line in file.read_text().splitlines()))


def write_unlabeled(path: Path, arrays: Arrays) -> Path:
    drop_labels(write_csv(path, arrays) / "mnist_test.csv")
    return path / "mnist_test.csv"


def write_twice(path: Path, arrays: Arrays) -> Path:
    shutil.copy(write_csv(path, arrays) / "mnist_train.csv", path / "mnist_train_small.csv")
    return path


def write_class_names(path: Path, arrays: Arrays) -> Path:
    """Write pictures in directories as class_3."""
    for directory in write_pictures(path, arrays).glob("*/*"):
        directory.rename(directory.with_name(f"class_{directory.name}"))
    return path / "pictures"


def odd_picture(path: Path, arrays: Arrays) -> Path:
    Image.new("L", (20, 30)).save(write_pictures(path, arrays) / "training/3/99.png")
    return path / "pictures"


REFUSED: dict[str, tuple[Write, str]] = {
    "nothing": (lambda path, arrays: path / "none.npz", "does not exist"),
    "unknown": (write_file("notes.txt", b"hello"), "holds no known form: use IDX"),
    "torchvision's pickle": (write_file("training.pt", pickle.dumps(Evil())), "pickled"),
    "pickle": (write_file("mnist.pkl.gz", gzip.compress(pickle.dumps(Evil()))), "pickled"),
    "MATLAB": (write_file("mnist.mat", b"MATLAB"), "is in a form that is not read"),
    "objects in npz": (write_objects, "expected arrays without pickles"),
    "damaged npz": (write_file("mnist.npz", b"PK\x03\x04"), "cannot be read"),
    "no test part": (npz(lambda a: {k: v for k, v in a.items() if "train" in k}), "of the test part"),
    "few labels": (npz(lambda a: {**a, "y_test": a["y_test"][1:]}), "13 test images, but 12 labels"),
    "wrong labels": (npz(lambda a: {**a, "y_test": a["y_test"] + 10}), "not from 0 to 9"),
    "normalized": (npz(lambda a: {**a, "x_test": a["x_test"] - 33.0}), "expected 0 to 255"),
    "wrong size": (npz(lambda a: {**a, "x_test": a["x_test"][:, 4:, 4:]}), "expected 28×28"),
    "no numbers": (damaged_csv(",", ",x,"), "line 4 is not a row of numbers"),
    "negative": (damaged_csv(",", ",-1,"), "line 4"),
    "short row": (damaged_csv("", "5,0,0"), "line 4 has 3 numbers"),
    "no labels": (write_unlabeled, "has no labels: expected a label and 784 pixels"),
    "a row without label": (damaged_csv("", ",".join(["0"] * 784)), "line 4 has no label"),
    "mixed fractions": (damaged_csv(",0,", ",0.5,"), "has fractions and numbers above 1"),
    "two tables of a part": (
        write_twice,
        "several tables of the train part: mnist_train.csv and mnist_train_small.csv",
    ),
    "two arrays of a part": (
        npz(lambda a: {**a, "train_images": a["x_train"]}),
        "several arrays for the train part: x_train and train_images",
    ),
    "pictures in other directories": (write_class_names, "PNGs as training/3/7.png of the digit 3"),
    "picture's size": (odd_picture, "it has 20×30 pixels; expected 28×28"),
    "damaged zip": (write_file("archive.zip", b"PK\x03\x04 and no more"), "cannot be unpacked"),
    "damaged tar": (write_file("mnist.tgz", gzip.compress(b"no")), "cannot be unpacked"),
    "escaping zip": (write_escaping_zip, "outside of it: ../train.csv"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_converted_is_refused_in_one_line(
    world: Path,
    tmp_path: Path,
    arrays: Arrays,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    monkeypatch.chdir(world)
    write, message = REFUSED[kind]
    assert command([str(write(tmp_path, arrays)), f"out={tmp_path / 'out'}"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()
    assert not any(world.iterdir())  # nothing was executed


def test_archives_are_unpacked_within_limits(tmp_path: Path, arrays: Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    source = packed(write_csv, ".zip")(tmp_path, arrays)
    for limit in ("MAX_FILES", "MAX_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(archives, limit, 1)
            assert "unpacks to more than" in raises_one_line(DataError, lambda: convert.read_form(source))
    monkeypatch.setattr(tables, "MAX_ROWS", 5)
    assert "more than 5 rows" in raises_one_line(DataError, lambda: convert.read_form(source))


# --- hints -----------------------------------------------------------------------------------------------------------

HINTED: dict[str, tuple[Write, str]] = {
    name: (FORMS[form], f"patchwork convert source={{root}}{path} out=data/mnist")
    for name, form, path in (
        ("npz", "npz", "/mnist.npz"),
        ("csv", "csv", ""),
        ("pictures", "pictures", "/pictures"),
        ("zip", "zip of csv", "/archive.zip"),
    )
} | {"pickle": (write_file("training.pt", b"\x80"), "could run code")}


@pytest.mark.parametrize("kind", HINTED)
def test_loading_another_form_says_how_to_convert_it(
    world: Path, arrays: Arrays, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    write, message = HINTED[kind]
    root = world / "data/mnist"
    root.mkdir(parents=True)
    write(root, arrays)
    expected = message.format(root=root)
    assert expected in raises_one_line(DataError, MNIST(root=str(root)).load)
    assert expected in raises_one_line(DataError, MNIST(download=False).load)
    Auto(download=False).load()
    assert "patchwork convert" in capfd.readouterr().err or kind == "pickle"


def test_one_of_the_files_named_as_root_is_recognized(tmp_path: Path, contents: Contents) -> None:
    write_idx(tmp_path, contents)
    message = raises_one_line(DataError, MNIST(root=str(tmp_path / "train-images-idx3-ubyte")).load)
    assert f"name their directory, {tmp_path}" in message

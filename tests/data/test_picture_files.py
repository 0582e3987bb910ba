"""Pictures are read from files of every format, in order, and what cannot be read is reported in its place."""

import gzip
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from drawing_helpers import drawings
from PIL import Image

from patchwork.core.errors import DataError
from patchwork.data import picture_files
from patchwork.data.drawing import bitmap_to_image, strokes_to_image
from patchwork.data.picture_files import read_pictures
from patchwork.data.strokes import Strokes

DIGIT = strokes_to_image(drawings(3)[2][1], 280).image
LARGE = np.kron(np.pad(DIGIT, 4), np.ones((4, 4), np.uint8))


def read_one(path: Path) -> np.ndarray:
    (picture,) = read_pictures([str(path)])
    assert isinstance(picture.content, np.ndarray), picture.content
    return picture.content


def error_of(path: Path) -> str:
    (picture,) = read_pictures([str(path)])
    assert isinstance(picture.content, DataError)
    return str(picture.content)


def pictures() -> dict[str, Image.Image]:
    gray = Image.fromarray(LARGE)
    white = Image.new("L", gray.size, 255)
    turned = gray.transpose(Image.Transpose.ROTATE_90)
    turned.getexif()[0x0112] = 6  # to be turned clockwise
    return {
        "a.png": gray,
        "b.bmp": gray,
        "c.gif": gray,
        "d.tif": gray,
        "e.webp": gray.convert("RGB"),
        "f.png": Image.fromarray(255 - LARGE),
        "g.png": Image.fromarray(LARGE.astype(np.uint16) * 257),
        "h.png": Image.merge("LA", (white, gray)),
        "i.png": Image.merge("LA", (Image.new("L", gray.size, 0), gray)),
        "j.png": gray.convert("P"),
        "k.png": turned,
        "l.png": Image.fromarray(np.stack([LARGE] * 3, axis=-1)),
    }


@pytest.mark.parametrize("name", [name for name in pictures() if name != "e.webp"])
def test_one_digit_in_every_format_is_one_image(tmp_path: Path, name: str) -> None:
    image = pictures()[name]
    image.save(tmp_path / name, **({"exif": image.getexif()} if name == "k.png" else {}))
    found = bitmap_to_image(read_one(tmp_path / name)).image
    assert np.abs(found.astype(int) - DIGIT).max() <= 1


@pytest.mark.parametrize("name", ["m.jpg", "e.webp"])
def test_lossy_formats_change_little(tmp_path: Path, name: str) -> None:
    Image.fromarray(LARGE).save(tmp_path / name, quality=90)
    found = bitmap_to_image(read_one(tmp_path / name)).image
    assert np.corrcoef(found.ravel(), DIGIT.ravel())[0, 1] > 0.95


def test_arrays_and_idx_files_hold_many(tmp_path: Path) -> None:
    images = np.stack([DIGIT, DIGIT.T])
    np.save(tmp_path / "many.npy", images)
    np.save(tmp_path / "one.npy", DIGIT)
    idx = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape) + images.tobytes()
    (tmp_path / "raw-ubyte").write_bytes(idx)
    (tmp_path / "z-ubyte.gz").write_bytes(gzip.compress(idx))
    found = list(read_pictures([str(tmp_path)]))
    names = ["many.npy[0]", "many.npy[1]", "one.npy", "raw-ubyte[0]", "raw-ubyte[1]", "z-ubyte.gz[0]", "z-ubyte.gz[1]"]
    assert [os.path.basename(picture.name) for picture in found] == names
    for picture, expected in zip(found, [DIGIT, DIGIT.T, DIGIT, DIGIT, DIGIT.T, DIGIT, DIGIT.T], strict=True):
        np.testing.assert_array_equal(picture.content, expected)


def test_drawings_are_read(tmp_path: Path) -> None:
    strokes = [points.tolist() for points in drawings(3)[2][1]]
    (tmp_path / "a.json").write_text(json.dumps({"strokes": strokes, "width": 280, "height": 280}))
    (picture,) = read_pictures([str(tmp_path / "a.json")])
    assert isinstance(picture.content, Strokes)
    np.testing.assert_array_equal(strokes_to_image(picture.content.strokes, 280).image, DIGIT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"nothing", "cannot be read as an image"),
        (b"\x89PNG\r\n\x1a\n", "cannot be read as an image"),
        (b"\x1f\x8bnot", "is damaged"),
        (b"\0\0\x08\x03\0\0\0\x09\0\0\0\x1c\0\0\0\x1c", "damaged IDX"),
        (b'{"strokes": [[[1, 2], [NaN, 3]]], "width": 9, "height": 9}', "no drawing: strokes"),
        (b'{"strokes": []}', "no drawing: width"),
        (b"[" * 100_000, "no drawing"),
        (b"x" * 20_000_001, "larger than 20 MB"),
        (b"\x93NUMPY\x01\x00\x76\x00{'descr': '|u1', 'fortran_order': False, 'shape': (9,", "no array"),
    ],
)
def test_broken_files_are_told(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "file").write_bytes(content)
    assert message in error_of(tmp_path / "file")


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "Object arrays cannot be loaded" in error_of(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", np.zeros((28, 28)))
    assert "use uint8" in error_of(tmp_path / "a.npy")


def test_limits_of_pixels_are_kept_before_decoding(tmp_path: Path) -> None:
    Image.new("1", (17_000, 10)).save(tmp_path / "long.png")
    Image.new("1", (8_000, 8_000)).save(tmp_path / "large.png")
    assert "17000×10" in error_of(tmp_path / "long.png")
    assert "8000×8000" in error_of(tmp_path / "large.png")


def test_inputs_keep_their_order_and_links_stay_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, outside = tmp_path / "in", tmp_path / "out"
    (folder / "sub").mkdir(parents=True)
    outside.mkdir()
    for path in (folder / "b.png", folder / "a.png", folder / "sub" / "c.png", outside / "x.png"):
        Image.fromarray(DIGIT).save(path)
    (folder / "notes.txt").write_text("no picture")
    (folder / "link.png").symlink_to(outside / "x.png")
    (folder / "d").symlink_to(outside)
    names = [str(folder / "a.png"), str(folder / "b.png"), str(folder / "sub" / "c.png")]
    assert [picture.name for picture in read_pictures([str(folder)])] == names
    patterns = [str(outside / "x.png"), str(folder / "*.png")]
    assert [Path(picture.name).name for picture in read_pictures(patterns)] == ["x.png", "a.png", "b.png", "link.png"]
    assert "No such file" in error_of(tmp_path / "none.png")
    assert "No such file" in error_of(tmp_path / "*.bmp")
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in error_of(tmp_path / "pipe")
    monkeypatch.setattr(picture_files, "MAX_FILES", 2)
    with pytest.raises(DataError, match="more than 2 files"):
        list(read_pictures([str(folder)]))

"""Own pictures: the same digit gives the same pixels in every form, and what is no picture is one line."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchwork.core.errors import DataError
from patchwork.data.image_files import read_image
from patchwork.data.sources.uci import read_digits

SIZE = 28
Save = Callable[[np.ndarray, Path], Path]


@pytest.fixture(scope="module")
def digit() -> np.ndarray:
    """Return a digit (28, 28), light on dark."""
    return read_digits()[0][5]


def saved(make: Callable[[np.ndarray], Image.Image], suffix: str = ".png", **options: object) -> Save:
    def save(digit: np.ndarray, directory: Path) -> Path:
        path = directory / f"digit{suffix}"
        make(digit).save(path, **options)
        return path

    return save


def with_alpha(digit: np.ndarray, color: int, mode: str) -> Image.Image:
    """Return the digit in one color, opaque where its ink is."""
    return Image.merge("LA", [Image.new("L", (SIZE, SIZE), color), Image.fromarray(digit)]).convert(mode)


def with_transparent_color(digit: np.ndarray) -> Image.Image:
    """Return the digit on a transparent entry of a palette, whose color is misleading."""
    image = Image.fromarray(255 - digit).convert("P")
    palette = [value for level in range(256) for value in (level,) * 3]
    palette[255 * 3 :] = [0, 0, 0]
    image.putpalette(palette)
    return image


def with_round_corners(image: np.ndarray) -> Image.Image:
    """Return an image whose corners are transparent, and black below."""
    alpha = np.full_like(image, 255)
    alpha[:3, :3] = alpha[-3:, -3:] = 0
    return Image.merge("LA", [Image.fromarray(image * (alpha > 0)), Image.fromarray(alpha)]).convert("RGBA")


def in_16_bits(digit: np.ndarray) -> Image.Image:
    return Image.fromarray(digit.astype(np.uint16) * 257)


def save_rotated(digit: np.ndarray, directory: Path) -> Path:
    """Save the digit as a phone does: lying on its side, with a tag that says so."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(digit).copy()).save(directory / "digit.png", exif=exif)
    return directory / "digit.png"


def enlarged(digit: np.ndarray, factor: int = 7) -> Image.Image:
    return Image.fromarray(digit.repeat(factor, 0).repeat(factor, 1))


FORMS: dict[str, Save] = {
    "gray": saved(Image.fromarray),
    "inverted": saved(lambda digit: Image.fromarray(255 - digit)),
    "RGB": saved(lambda digit: Image.fromarray(digit).convert("RGB")),
    "RGB, inverted": saved(lambda digit: Image.fromarray(255 - digit).convert("RGB"), ".bmp"),
    "palette": saved(lambda digit: Image.fromarray(digit).convert("P", palette=Image.Palette.ADAPTIVE, colors=256)),
    "transparent color": saved(with_transparent_color, transparency=255),
    "black on transparent": saved(lambda digit: with_alpha(digit, 0, "RGBA")),
    "white on transparent": saved(lambda digit: with_alpha(digit, 255, "RGBA")),
    "gray with alpha": saved(lambda digit: with_alpha(digit, 0, "LA")),
    "card with round corners": saved(lambda digit: with_round_corners(255 - digit)),
    "opaque": saved(lambda digit: Image.fromarray(255 - digit).convert("RGBA"), ".webp", lossless=True),
    "16 bits": saved(in_16_bits),
    "16 bits, inverted": saved(lambda digit: in_16_bits(255 - digit)),
    "16 bits, TIFF": saved(in_16_bits, ".tif"),
    "16 bits, unscaled": saved(lambda digit: Image.fromarray(digit.astype(np.uint16))),
    "32 bits": saved(lambda digit: Image.fromarray(digit.astype(np.int32) * 257), ".tif"),
    "fractions": saved(lambda digit: Image.fromarray(digit.astype(np.float32) / 255), ".tif"),
    "CMYK": saved(lambda digit: Image.fromarray(digit).convert("RGB").convert("CMYK"), ".tif"),
    "rotated": save_rotated,
    "animated": saved(
        Image.fromarray, ".gif", save_all=True, append_images=[Image.new("L", (SIZE, SIZE))], duration=100, loop=0
    ),
    "large": saved(enlarged),
    "large and inverted": saved(lambda digit: enlarged(255 - digit)),
    "large and wide": saved(lambda digit: Image.fromarray(np.pad(np.asarray(enlarged(digit)), ((0, 0), (70, 70))))),
}
DARK_ON_LIGHT = ("opaque", "transparent color", "black on transparent", "gray with alpha", "card with round corners")
SHRUNK = ("large and wide",)  # the digit is smaller, as the picture is not square


@pytest.mark.parametrize("form", FORMS)
def test_same_digit_gives_the_same_pixels_in_every_form(tmp_path: Path, digit: np.ndarray, form: str) -> None:
    result = read_image(FORMS[form](digit, tmp_path), key="inpaint", size=SIZE)
    pixels = result.pixels.numpy().astype(int)
    assert pixels.shape == (SIZE, SIZE)
    if form in SHRUNK:
        assert abs(pixels.sum() - digit.sum() / 2.94) < 0.1 * digit.sum()  # of the area
        return
    assert abs(pixels - digit).max() <= 1
    notes = " ".join(result.notes)
    assert ("dark on light" in notes) == ("inverted" in form or form in DARK_ON_LIGHT)
    assert ("resized from 196×196" in notes) == ("large" in form)
    assert ("first of 2 frames" in notes) == (form == "animated")


@pytest.mark.parametrize("threshold", [60, 128])
def test_one_bit_pictures_are_read(tmp_path: Path, digit: np.ndarray, threshold: int) -> None:
    ink = digit > threshold
    for values in (ink, ~ink):
        Image.fromarray(values).save(tmp_path / "bits.png")
        pixels = read_image(tmp_path / "bits.png", key="inpaint", size=SIZE).pixels.numpy()
        assert (pixels == ink * 255).all()


def test_gray_paper_becomes_black(tmp_path: Path, digit: np.ndarray) -> None:
    """As of a photo: dark ink of some brightness on paper of some brightness."""
    photo = (180 - digit / 255 * 140).round().astype(np.uint8)
    Image.fromarray(photo).convert("RGB").save(tmp_path / "photo.png")
    result = read_image(tmp_path / "photo.png", key="inpaint", size=SIZE)
    assert abs(result.pixels.numpy().astype(int) - digit.astype(int) * 255 // digit.max()).max() <= 4
    assert "ground of brightness 75 was made black" in " ".join(result.notes)


@pytest.mark.parametrize(("ground", "ink"), [(120, 20), (140, 40), (110, 230), (136, 250)])
def test_polarity_follows_from_the_contrast_to_the_ground(
    tmp_path: Path, digit: np.ndarray, ground: int, ink: int
) -> None:
    noise = np.random.default_rng(0).normal(0, 2, digit.shape)
    photo = ground + digit / 255 * (ink - ground) + noise
    Image.fromarray(photo.round().astype(np.uint8)).save(tmp_path / "photo.png")
    result = read_image(tmp_path / "photo.png", key="inpaint", size=SIZE)
    assert np.corrcoef(result.pixels.numpy().ravel(), digit.ravel())[0, 1] > 0.99
    assert ("dark on light" in " ".join(result.notes)) == (ink < ground)


FAINT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "0 and 1": lambda digit: (digit > 127).astype(np.uint8),
    "1 and 0": lambda digit: (digit <= 127).astype(np.uint8),
    "12 bits of 16": lambda digit: digit.astype(np.uint16) * 16,
    "12 bits of 16, inverted": lambda digit: (255 - digit).astype(np.uint16) * 16,
    "faint": lambda digit: digit // 8,
    "faint on gray": lambda digit: 20 + digit // 8,
}


@pytest.mark.parametrize("form", FAINT)
def test_faint_pictures_are_stretched_and_it_is_said(tmp_path: Path, digit: np.ndarray, form: str) -> None:
    Image.fromarray(FAINT[form](digit)).save(tmp_path / "faint.png")
    result = read_image(tmp_path / "faint.png", key="inpaint", size=SIZE)
    expected = (digit > 127) * 255.0 if len(np.unique(FAINT[form](digit))) == 2 else digit * (255 / digit.max())
    assert abs(result.pixels.numpy() - expected).max() <= 9
    assert "shows almost nothing" in " ".join(result.notes)


def test_mask_of_ones_is_white(tmp_path: Path) -> None:
    mask = np.eye(SIZE, dtype=np.uint8)
    Image.fromarray(mask).save(tmp_path / "mask.png")
    result = read_image(tmp_path / "mask.png", key="mask", size=SIZE, find_polarity=False)
    assert (result.pixels.numpy() == mask * 255).all()
    assert result.notes == ("its brightest pixel of 1 was made white",)


def test_mask_keeps_its_polarity(tmp_path: Path) -> None:
    mask = np.full((SIZE, SIZE), 255, np.uint8)
    mask[5:9] = 0
    for values in (mask, np.full_like(mask, 255), np.zeros_like(mask)):
        Image.fromarray(values).save(tmp_path / "mask.png")
        result = read_image(tmp_path / "mask.png", key="mask", size=SIZE, find_polarity=False)
        assert (result.pixels.numpy() == values).all()
        assert not result.notes


def write_bomb(path: Path, side: int) -> None:
    """Write a PNG of a few bytes that claims to have `side`×`side` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)))


def truncate(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda path: None, "does not exist"),
    "directory": (lambda path: path.mkdir(), "cannot be read"),
    "empty": (lambda path: path.write_bytes(b""), "cannot identify"),
    "text": (lambda path: path.write_text("not an image"), "cannot identify"),
    "PostScript": (lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "identify"),
    "truncated": (truncate, "truncated"),
    "large": (lambda path: write_bomb(path, 8_000), "8000×8000 pixels, more than 50,000,000"),
    "huge": (lambda path: write_bomb(path, 60_000), "exceeds limit"),
    "one color": (lambda path: Image.new("L", (9, 9), 200).save(path), "shows nothing"),
    "all transparent": (lambda path: Image.new("RGBA", (9, 9)).save(path), "shows nothing"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_picture_is_one_line(tmp_path: Path, kind: str) -> None:
    write, message = BROKEN[kind]
    write(tmp_path / "picture.png")
    with pytest.raises(DataError) as error:
        read_image(tmp_path / "picture.png", key="inpaint", size=SIZE)
    assert f"inpaint={tmp_path / 'picture.png'}" in str(error.value)
    assert message in str(error.value)
    assert "\n" not in str(error.value)

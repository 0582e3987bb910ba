"""Where digit images come from.

    UCI    scikit-learn's bundled 8×8 handwritten digits, enlarged: always there, needs no network
    MNIST  the real thing or an error: found on disk or fetched, and checked by digest whatever the container
    Auto   MNIST if it can be had, otherwise UCI under a warning that nobody can miss

A source is loaded whole, as uint8. Train and validation are cut from the official training part by a fixed seed, which
is not the run's; the test part is the official one, for the final figure only.

Sources: E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998);
Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST Database of Handwritten Digits" (1998), IDX format included.
"""

import gzip
import hashlib
import io
import os
import queue
import struct
import sys
import tempfile
import textwrap
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor

from patchwork.errors import ConfigError, DataError, ResourceError

SPLIT_SEED = 28  # cuts validation from train; constant, so that every run holds out the same images

DIGESTS = {  # MD5 of each file's content, uncompressed
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}
MIRRORS = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
TIMEOUT = (3.0, 10.0)  # seconds to connect, and to wait for the next bytes
PATIENCE = 10.0  # seconds until a mirror must have answered at all
RETRIES = 2

VARIABLE = "PATCHWORK_MNIST"
CONTAINERS = "the four IDX files (raw or gzip) or the parquet files of ylecun/mnist"
REMEDY = f"put {CONTAINERS} into data/mnist, or name their folder by {VARIABLE} or digits.root"


class NotFoundError(DataError):
    """MNIST is neither on this machine nor to be had."""


@dataclass(frozen=True, eq=False)
class Split:
    """Digits and what they are."""

    images: Tensor  # (n, 28, 28) uint8, white on black
    labels: Tensor  # (n,) int64, 0..9


@dataclass(frozen=True, eq=False)
class Digits:
    """A whole source in memory."""

    name: str  # "mnist" or "uci"
    digest: str  # sha256 over all contents, the same whatever the container and the cut
    train: Split
    val: Split
    test: Split


class UCI:
    """The digits that come with scikit-learn: 1,797 of them, 8×8.

    They are made to look like MNIST: enlarged to 20×20, centred in 28×28. Neighbours in the official order share a
    writer, so the test part is the contiguous end.

    Args:
        validation: number of images cut from the training part.
    """

    test = 360

    def __init__(self, *, validation: Annotated[int, Interval(ge=1, le=1436)] = 180) -> None:
        self.validation = validation

    def load(self) -> Digits:
        """Load and cut. Raises ConfigError if `validation` leaves nothing to train on."""
        package = find_spec("sklearn")  # its table is read without importing it all, which takes a second
        assert package is not None
        assert package.submodule_search_locations is not None
        table = np.loadtxt(Path(package.submodule_search_locations[0]) / "datasets/data/digits.csv.gz", delimiter=",")
        labels = table[:, -1].astype(np.uint8)  # (n,)
        small = torch.from_numpy(table[:, :-1]).view(-1, 1, 8, 8)  # float64, 0..16
        large = F.interpolate(small * (255 / 16), size=(20, 20), mode="bilinear")  # (n, 1, 20, 20)
        # A hair more than a half: exact ties round up on every machine, and the digest stays the same.
        images = F.pad((large + (0.5 + 1e-6)).to(torch.uint8), (4, 4, 4, 4))[:, 0].numpy()  # (n, 28, 28)
        end = len(images) - self.test
        return cut("uci", [images[:end], labels[:end], images[end:], labels[end:]], self.validation)


class MNIST:
    """MNIST: 60,000 training and 10,000 test images, or an error.

    1. `root`, then `$PATCHWORK_MNIST`: the first that is given must hold MNIST.
    2. `data/mnist`, then `../shared/data/mnist`, seen from the working directory and from the checkout.
    3. A download into `data/mnist`.

    A folder holds the four IDX files, raw or gzip, or the parquet files of Hugging Face's ylecun/mnist.

    Args:
        root: the folder to read; nothing else is tried.
        download: whether to fetch what is not found.
        validation: number of images cut from the training part.
    """

    def __init__(
        self,
        *,
        root: str | None = None,
        download: bool = True,
        validation: Annotated[int, Interval(ge=1, le=59_999)] = 5000,
    ) -> None:
        self.root = root
        self.download = download
        self.validation = validation

    def load(self) -> Digits:
        """Find, check and cut.

        Raises NotFoundError if MNIST is nowhere, DataError if it is damaged or not where it was said to be,
        ResourceError if the download cannot be written, ConfigError if `validation` leaves nothing to train on.
        """
        return cut("mnist", read(self.find()), self.validation)

    def find(self) -> Path:
        """Give the first folder that holds MNIST, fetching it if need be; what is found is not yet checked."""
        for key, value in (("digits.root", self.root), (VARIABLE, os.environ.get(VARIABLE) or None)):
            if value is not None:
                folder = Path(os.path.expanduser(value))
                if not folder.is_dir() or missing(folder):
                    fault = f"lacks {', '.join(missing(folder))}" if folder.is_dir() else "is not a folder"
                    raise DataError(f"{key}={value!r} {fault}: allowed is a folder with {CONTAINERS}")
                return folder

        places = [root / folder for folder in ("data/mnist", "../shared/data/mnist") for root in roots()]
        for folder in places:
            if not missing(folder):
                return folder
        try:
            if not self.download:
                raise NotFoundError("digits.download is false")
            return download(roots()[-1] / "data/mnist")
        except NotFoundError as reason:
            for folder in places:
                if idx_files(folder) or any(parquet_files(folder).values()):  # a part of MNIST is damage, not absence
                    raise DataError(f"{folder} lacks {', '.join(missing(folder))} ({reason}); {REMEDY}") from reason
            looked = ", ".join(map(str, places))
            raise NotFoundError(f"MNIST is not in {looked}, and was not fetched ({reason}); {REMEDY}") from reason


class Auto(MNIST):
    """MNIST where it is found or can be fetched; otherwise UCI, cut its own way, under a warning.

    Falls back where MNIST is not to be had or not to be written; files that are damaged, or not where they were said to
    be, are errors here too.
    """

    def load(self) -> Digits:
        try:
            return super().load()
        except (NotFoundError, ResourceError) as reason:
            warn(str(reason))
            return UCI().load()


def warn(reason: str) -> None:
    """Print a framed block on stderr: plain text, so that a log file shows it as a terminal does."""
    text = (
        "WARNING: THESE ARE THE UCI DIGITS, NOT MNIST",
        "Results of this run are NOT MNIST results: never publish or compare them as such.",
        f"Why: {reason}.",
        "Say digits=mnist to make this an error, digits=uci to make it no surprise.",
    )
    wrapped = [textwrap.wrap(part, 92, break_long_words=False, break_on_hyphens=False) for part in text]
    lines = [f"##  {line}".rstrip() for part in wrapped for line in ("", *part)]
    print("#" * 100, *lines, "##", "#" * 100, sep="\n", file=sys.stderr, flush=True)


def cut(name: str, parts: list[np.ndarray], validation: int) -> Digits:
    """Cut `validation` images from train, and sign the whole.

    `parts` are training images and labels, test images and labels, all uint8: (n, 28, 28), (n,), (m, 28, 28), (m,).
    """
    images, labels, test_images, test_labels = parts
    if not 0 < validation < len(images):
        raise ConfigError(f"digits.validation={validation}: allowed is 1 to {len(images) - 1} ({name})")
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.data)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED)).numpy()
    val, train = np.sort(order[:validation]), np.sort(order[validation:])

    def split(images: np.ndarray, labels: np.ndarray) -> Split:
        return Split(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64)))

    return Digits(
        name=name,
        digest=digest.hexdigest(),
        train=split(images[train], labels[train]),
        val=split(images[val], labels[val]),
        test=split(test_images.copy(), test_labels),  # a view of the file's bytes could not be written to
    )


# --- where the files are ---------------------------------------------------------------------------------------------


def roots() -> list[Path]:
    """Give the working directory and, last, the checkout that holds this package if it lies in one."""
    checkout = Path(__file__).resolve().parents[3]
    return list(dict.fromkeys([Path.cwd(), *([checkout] if (checkout / "pyproject.toml").is_file() else [])]))


def missing(folder: Path) -> list[str]:
    """Name the IDX files that a folder lacks; none if parquet files stand in for them."""
    absent = [name for name in DIGESTS if name not in idx_files(folder)]
    return absent if absent and not all(parquet_files(folder).values()) else []


def idx_files(folder: Path) -> dict[str, Path]:
    """Find the files of DIGESTS that a folder holds, in either spelling, raw or gzip."""
    there = {path.name.removesuffix(".gz").replace(".idx", "-idx"): path for path in sorted(folder.glob("*"))[::-1]}
    return {name: there[name] for name in DIGESTS if name in there}  # reversed: the raw file wins over its gzip


def parquet_files(folder: Path) -> dict[str, list[Path]]:
    """Find the shards of both parts anywhere below a folder, in order, keyed as IDX names the parts."""
    return {key: sorted(folder.rglob(f"{part}-*.parquet")) for key, part in (("train", "train"), ("t10k", "test"))}


# --- what is in them -------------------------------------------------------------------------------------------------


def read(folder: Path) -> list[np.ndarray]:
    """Read and check what `cut` takes from a folder that holds MNIST; DataError if it is damaged."""
    files = idx_files(folder)
    if len(files) == len(DIGESTS):
        return [parse(name, unpack(path, str(path)), str(path)) for name, path in files.items()]
    return [part for key, shards in parquet_files(folder).items() for part in read_parquet(key, shards)]


def unpack(path: Path, source: str) -> bytes:
    """Give a file's content, gunzipped if it is gzip; DataError, naming `source`, if it cannot be read to its end."""
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content.startswith(b"\x1f\x8b") else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{source} cannot be read: {error}; expected a whole IDX file, raw or gzip") from error


def header(name: str, n: int) -> bytes:
    """Give the header of an IDX file: 0, 0, 8 for uint8, the number of axes, then each axis in 32 bits, big-endian."""
    shape = (n, 28, 28) if "images" in name else (n,)
    return struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)


def parse(name: str, content: bytes, source: str) -> np.ndarray:
    """Turn IDX content into an array, (n, 28, 28) or (n,) uint8; DataError, naming `source`, unless it is `name`'s."""
    shape = (28, 28) if "images" in name else ()
    n = int.from_bytes(content[4:8], "big")
    head = header(name, n)
    for what, found, expected in (
        ("magic number", content[:4].hex(), head[:4].hex()),
        ("header", content[: len(head)].hex(), head.hex()),
        ("size in bytes", len(content), len(head) + n * 28 ** len(shape)),
        ("MD5 of the content", hashlib.md5(content, usedforsecurity=False).hexdigest(), DIGESTS[name]),
    ):
        if found != expected:
            raise DataError(f"{source} is damaged or foreign: {what} is {found or 'missing'}, expected {expected}")
    return np.frombuffer(content, np.uint8, offset=len(head)).reshape(n, *shape)


def read_parquet(key: str, shards: list[Path]) -> Iterator[np.ndarray]:
    """Read images, then labels, from shards with the columns image {bytes: PNG, path} and label.

    The IDX content is made again, byte for byte, so that the same check says whether it is MNIST.
    """
    try:
        import pyarrow.parquet
        from PIL import Image
    except ImportError as error:
        raise DataError(f"{shards[0]} needs pyarrow and pillow: pip install 'patchwork[parquet]'") from error

    images, labels = bytearray(), bytearray()
    for path in shards:
        try:
            table = pyarrow.parquet.ParquetFile(path).read(["image", "label"])
            labels += bytes(table["label"].to_pylist())
            for cell in table["image"].to_pylist():
                image = Image.open(io.BytesIO(cell["bytes"]), formats=["PNG"])
                if (image.size, image.mode) != ((28, 28), "L"):
                    raise ValueError(f"an image is {image.size} {image.mode}")
                images += image.tobytes()
        except Exception as error:  # decoders meet damage with errors of every type
            fault = " ".join(f"{type(error).__name__}: {error}".split())
            raise DataError(f"{path} cannot be read: {fault}; expected 28×28 grey PNGs and labels") from error
    source = f"{shards[0]}" if len(shards) == 1 else f"{shards[0]} with {len(shards) - 1} more shards"
    for name, content in ((f"{key}-images-idx3-ubyte", images), (f"{key}-labels-idx1-ubyte", labels)):
        yield parse(name, header(name, len(labels)) + content, f"{source} as {name}")


# --- the download ----------------------------------------------------------------------------------------------------


def download(folder: Path) -> Path:
    """Fetch the four files, gzipped, and put them in place when all are there and checked: whole or not at all.

    Raises NotFoundError if no mirror has them, ResourceError if they cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="partial-", dir=folder) as staging:
            for path in [fetch(name, Path(staging)) for name in DIGESTS]:
                path.replace(folder / path.name)
    except OSError as error:
        raise ResourceError(f"{folder} cannot be written: {error}; {REMEDY}") from error
    return folder


def fetch(name: str, folder: Path) -> Path:
    """Download one file from the first mirror that gives it with the right content; NotFoundError if none does."""
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")
    terminal = sys.stderr.isatty()
    http = pooch.HTTPDownloader(terminal, 1 << 16, timeout=TIMEOUT, headers={"Accept-Encoding": "identity"})

    def checked(url: str, path: str, _: object) -> None:
        http(url, path, None)
        parse(name, unpack(Path(path), url), url)

    problems: list[str] = []
    for url in offers(f"{name}.gz", problems):
        try:
            if terminal:
                print(f"Fetching {url}", file=sys.stderr)
            return Path(pooch.retrieve(url, None, f"{name}.gz", folder, downloader=checked))
        except requests.RequestException as error:
            problems.append(f"{url}: {type(error).__name__}")
        except DataError as error:
            problems.append(str(error))
    raise NotFoundError("; ".join(dict.fromkeys(problems)))


def offers(file: str, problems: list[str]) -> Iterator[str]:
    """Yield the addresses that have `file`, the quickest first, and again for each retry while any mirror answers.

    All mirrors are asked at once, in daemon threads under one deadline: without a network a name look-up, or a dozen
    addresses tried in turn, outlasts any timeout that requests knows. What went wrong is added to `problems`.
    """
    import requests

    def ask(url: str, answers: queue.SimpleQueue[tuple[str, str | None]]) -> None:
        try:
            status = requests.head(url, timeout=TIMEOUT, allow_redirects=True).status_code
            answers.put((url, None if status == 200 else f"status {status}"))
        except Exception as error:  # whatever it is, the other end waits for it
            answers.put((url, type(error).__name__))

    for _ in range(1 + RETRIES):
        answers: queue.SimpleQueue[tuple[str, str | None]] = queue.SimpleQueue()
        deadline, answered = time.monotonic() + PATIENCE, False
        for mirror in MIRRORS:
            threading.Thread(target=ask, args=(mirror + file, answers), daemon=True).start()
        for _ in MIRRORS:
            try:
                url, problem = answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                problems.append(f"no answer within {PATIENCE:g} s")
                break
            if problem:
                problems.append(f"{url}: {problem}")
            else:
                answered = True
                yield url
        if not answered:
            return

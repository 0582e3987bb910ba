"""Recognize the forms other than IDX and parquet in which MNIST is distributed, and say what to do with them.

Nothing is opened: names decide, as a hint is all that follows from them. `patchwork convert` reads the files.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from patchwork.data.sources.locate import MAX_DEPTH, walk

PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
TABLES = (".csv", ".csv.gz")
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
CONVERTIBLE = (".npz", *TABLES, *ARCHIVES)
PICKLES = (".pt", ".pth", ".pkl", ".pkl.gz", ".pickle")
OTHERS = (".mat", ".npy", ".h5", ".hdf5", ".tfrecord", ".7z", ".rar", ".arff")
DATA_NAME = re.compile(r"mnist|digit|train|test|archive|fashion", re.IGNORECASE)


def conversion_hint(name: str, source: Path) -> str:
    """Return how to convert what is found at or below a path to IDX files in `data/<name>`; empty if nothing is."""
    if source.name.lower().endswith(("-ubyte", "-ubyte.gz")) and source.is_file():
        return f"it is one of the four files: name their directory, {source.parent}"
    forms = find_forms(source)
    if not forms:
        return ""
    found = forms[0]
    if found.is_dir() or has_suffix(found, CONVERTIBLE):
        command = shlex.join(["patchwork", "convert", f"source={found}", f"out=data/{name}"])
        return f"{found} seems to hold it in another form: {command}"
    return refusal(found)


def refusal(path: Path) -> str:
    """Return why a file of a known form is not read, and what to use instead."""
    if has_suffix(path, PICKLES):
        return (
            f"{path} is pickled, and is never read as that could run code: use the IDX files, which torchvision keeps "
            "beside it in raw/"
        )
    return f"{path} is in a form that is not read: use {readable_forms()}"


def readable_forms() -> str:
    return "IDX, parquet, .npz, .csv, PNGs as training/3/7.png of the digit 3, or a zip or tar archive of those"


def find_forms(source: Path) -> list[Path]:
    """Return what may be converted: files, or directories of several tables or pictures; none if nothing is known.

    All are of the best rank, and the shallowest is the first.
    """
    if source.is_file():
        return [source] if has_suffix(source, (*CONVERTIBLE, *PICKLES, *OTHERS)) else []
    found = [form for directory, files in walk(source, MAX_DEPTH) for form in forms_in(directory, files, source)]
    best = min((rank for rank, _ in found), default=0)
    return list(dict.fromkeys(form for rank, form in found if rank == best))


def forms_in(directory: Path, files: list[Path], source: Path) -> Iterator[tuple[int, Path]]:
    """Yield what a directory's files may be converted from, with a rank: 0 can be read, 1 and 2 cannot.

    Pictures are converted from the directory of their parts, two above theirs, but never from one above `source`.
    """
    named = [path for path in files if DATA_NAME.search(path.name)]
    tables = [path for path in named if has_suffix(path, TABLES)]
    yield from ((0, path) for path in named if has_suffix(path, (".npz", *ARCHIVES)))
    yield from ((0, path) for path in ([directory] if len(tables) > 1 else tables))
    if class_of(directory) is not None and any(has_suffix(path, PICTURES) for path in files):
        yield 0, source.joinpath(*directory.relative_to(source).parts[:-2])
    yield from ((1, path) for path in named if has_suffix(path, PICKLES))
    yield from ((2, path) for path in named if has_suffix(path, OTHERS))


def class_of(directory: Path) -> int | None:
    """Return the class whose pictures a directory holds by its name, as `3`; None if it names none."""
    return int(directory.name) if re.fullmatch("[0-9]", directory.name) else None


def has_suffix(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(suffixes)

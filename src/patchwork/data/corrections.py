"""Corrections: drawings whose label somebody has set right, kept on this machine as JSON lines.

One line is one drawing: its strokes and the 28×28 pixels that the model saw, which rules made the one of the other,
which weights answered what, and the label. Nothing in it says who drew it; `session` only tells drawings of one visit
from others, so that those can be held out together.
"""

import base64
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from annotated_types import Interval
from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints, ValidationError

from patchwork.core.atomic import not_writable, write_bytes
from patchwork.core.errors import DataError, ResourceError
from patchwork.data.strokes import Length, StrokeList

CORRECTIONS_FILE = Path("outputs", "corrections.jsonl")
MAX_CORRECTIONS, MAX_BYTES = 10_000, 20_000_000
SIDE = 28  # of an image in pixels

Digit = Annotated[int, Interval(ge=0, le=9)]
Name = Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,64}$")]


class Correction(BaseModel):
    """One corrected drawing.

    Attributes:
        id: by which it can be deleted.
        time: when it was corrected.
        session: visit of the page.
        spec: version of the rules that made the image of the strokes.
        task: task of the model that answered.
        weights_sha256: its weights.
        strokes: points (x, y) of each stroke, in units of the canvas; none for a picture.
        cell_size: side of the digit's cell in the same units.
        image: the pixels (28, 28) that the model saw, in base64.
        prediction: what it answered.
        probability: that it gave its answer.
        label: what the drawing shows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    id: Name
    time: AwareDatetime
    session: Name
    spec: Name
    task: Name
    weights_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    strokes: StrokeList
    cell_size: Length
    image: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{1046}==$")]
    prediction: Digit
    probability: Annotated[float, Interval(ge=0, le=1)]
    label: Digit

    @property
    def pixels(self) -> np.ndarray:
        """Return the pixels (28, 28), uint8."""
        return np.frombuffer(base64.b64decode(self.image), np.uint8).reshape(SIDE, SIDE)


def encode_pixels(pixels: np.ndarray) -> str:
    """Return pixels (28, 28), uint8, as a correction holds them."""
    return base64.b64encode(np.ascontiguousarray(pixels, np.uint8).tobytes()).decode()


def read_corrections(path: Path) -> list[Correction]:
    """Read all corrections of a file; none if there is no file.

    Raises:
        DataError: if a line is none.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    corrections = []
    for number, line in enumerate(lines, 1):
        try:
            corrections.append(Correction.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "line"
            raise DataError(f"{path}, line {number} is no correction: {key}: {first['msg']}") from error
    return corrections


def append_correction(path: Path, correction: Correction) -> None:
    """Append a correction, and wait until it is on the disk.

    Raises:
        ResourceError: if the file is full, or cannot be written.
    """
    line = format_correction(correction)
    content = path.read_bytes() if path.exists() else b""
    if len(content) + len(line) > MAX_BYTES or content.count(b"\n") >= MAX_CORRECTIONS:
        raise ResourceError(
            f"{path} is full: it takes {MAX_CORRECTIONS:,} corrections, {MAX_BYTES / 1e6:g} MB; export and delete some"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise not_writable(path, error) from error


def delete_corrections(path: Path, ids: Iterable[str]) -> int:
    """Delete the corrections of these ids, and return how many there were.

    Raises:
        ResourceError: if the file cannot be written; it stays as it was.
        DataError: if it is damaged.
    """
    unwanted, corrections = {*ids}, read_corrections(path)
    kept = [correction for correction in corrections if correction.id not in unwanted]
    if len(kept) < len(corrections):
        write_bytes(path, b"".join(map(format_correction, kept)))
    return len(corrections) - len(kept)


def format_correction(correction: Correction) -> bytes:
    return (json.dumps(correction.model_dump(mode="json"), separators=(",", ":")) + "\n").encode()

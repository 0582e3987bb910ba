"""Corrections survive the way to the disk and back; foreign lines, full files and other values are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from correction_helpers import make_correction
from pydantic import ValidationError

from patchwork.core.errors import DataError, ResourceError
from patchwork.data import corrections
from patchwork.data.corrections import (
    Correction,
    append_correction,
    delete_corrections,
    read_corrections,
)


def test_corrections_come_back_as_they_were(tmp_path: Path) -> None:
    path, made = tmp_path / "new" / "corrections.jsonl", [make_correction(number) for number in range(5)]
    for correction in made:
        append_correction(path, correction)
    assert read_corrections(path) == made
    expected = np.random.default_rng(2).integers(0, 256, (28, 28), np.uint8)
    np.testing.assert_array_equal(read_corrections(path)[2].pixels, expected)


def test_those_that_are_named_are_deleted(tmp_path: Path) -> None:
    path = tmp_path / "corrections.jsonl"
    for number in range(4):
        append_correction(path, make_correction(number))
    assert delete_corrections(path, ["c1", "c3", "c9"]) == 2
    assert [correction.id for correction in read_corrections(path)] == ["c0", "c2"]
    assert read_corrections(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(
    "change",
    [
        {"label": 10},
        {"label": "3; DROP"},
        {"probability": float("nan")},
        {"strokes": [[(float("inf"), 0.0)]]},
        {"strokes": [[(0.0, 0.0)] * 20_001]},
        {"strokes": [[(0.0, 0.0)]] * 501},
        {"image": "AAAA"},
        {"session": "../../etc/passwd"},
        {"weights_sha256": "0"},
        {"time": "yesterday"},
        {"ip": "127.0.0.1"},
    ],
)
def test_other_values_are_refused(change: dict[str, Any]) -> None:
    values = make_correction(0).model_dump()
    with pytest.raises(ValidationError):
        Correction.model_validate({**values, **change})


def test_a_foreign_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "corrections.jsonl"
    append_correction(path, make_correction(0))
    path.write_bytes(path.read_bytes() + json.dumps({"label": 3}).encode() + b"\n")
    with pytest.raises(DataError, match="line 2 is no correction: ") as error:
        read_corrections(path)
    assert "\n" not in str(error.value)


def test_a_full_file_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "corrections.jsonl"
    monkeypatch.setattr(corrections, "MAX_CORRECTIONS", 2)
    append_correction(path, make_correction(0))
    append_correction(path, make_correction(1))
    before = path.read_bytes()
    with pytest.raises(ResourceError, match="is full"):
        append_correction(path, make_correction(2))
    assert path.read_bytes() == before

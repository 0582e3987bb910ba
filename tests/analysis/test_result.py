import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from patchwork.analysis.result import Estimate, Result
from patchwork.core.errors import DataError


@dataclass(frozen=True, eq=False)
class Example(Result):
    name: ClassVar[str] = "example"
    matrix: np.ndarray
    count: int
    share: float
    complete: bool
    title: str
    labels: tuple[str, ...]

    def numbers(self) -> dict[str, Estimate]:
        return {
            "share": Estimate(self.share, self.count, "digits", 0.1, 0.9, "Wilson"),
            "count": Estimate(3, 3, "runs"),
        }


EXAMPLE = Example(np.arange(6.0).reshape(2, 3), 7, 0.5, True, "<b>", ("a", "ü"))


def test_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    EXAMPLE.save(tmp_path)
    read = Example.load(tmp_path)
    assert np.array_equal(read.matrix, EXAMPLE.matrix)
    assert read.items()[1:] == EXAMPLE.items()[1:]
    assert [type(value) for _, value in read.items()] == [type(value) for _, value in EXAMPLE.items()]


def test_files_are_the_same_bytes_and_numbers_of_other_results_stay(tmp_path: Path) -> None:
    (tmp_path / "numbers.json").write_text(json.dumps({"other": {}}))
    EXAMPLE.save(tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    EXAMPLE.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    numbers = json.loads(first["numbers.json"])
    assert list(numbers) == ["example", "other"]
    assert numbers["example"]["share"] == {
        "value": 0.5,
        "n": 7,
        "unit": "digits",
        "low": 0.1,
        "high": 0.9,
        "interval": "Wilson",
    }


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04", b"text"])
def test_missing_or_damaged_file_is_one_line(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "example.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"example\.npz (does not exist|is damaged)"):
        Example.load(tmp_path)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    np.savez(tmp_path / "example.npz", matrix=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="is damaged"):
        Example.load(tmp_path)

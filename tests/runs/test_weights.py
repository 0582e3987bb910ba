"""A weights folder is the run, rounded to half precision; a damaged one is refused in one line."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from patchwork.core.errors import ConfigError, DataError
from patchwork.export.weights import half_precision, write_weights
from patchwork.runs import weights
from patchwork.runs.init_from import load_initial_weights
from patchwork.runs.run import Run
from patchwork.runs.weights import CHECKED_FILES, SUMS_FILE, check_weights_dir, locate_weights_dir, shipped_names


@pytest.fixture(scope="module")
def folder(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny"
    write_weights(Run.load(finished_run), path, command="patchwork train seed=3")
    return path


def test_weights_are_those_of_the_run_in_half_precision(finished_run: Path, folder: Path) -> None:
    run, loaded = Run.load(finished_run), Run.load(folder)
    expected = {name: weight.half().to(weight.dtype) for name, weight in run.task.state_dict().items()}
    torch.testing.assert_close(dict(loaded.task.state_dict()), expected, rtol=0, atol=0)
    assert loaded.config == run.config
    assert not loaded.task.training


def test_figures_are_measured_with_the_file(folder: Path) -> None:
    loaded = Run.load(folder)
    assert loaded.evaluate() == loaded.manifest["metrics"]
    assert loaded.manifest["command"] == "patchwork train seed=3"
    assert "run_dir" not in str(loaded.manifest)


def test_written_twice_it_is_the_same(finished_run: Path, folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "tiny"
    for _ in range(2):
        write_weights(Run.load(finished_run), again, command="patchwork train seed=3")
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny"]


def test_sums_are_those_of_sha256sum(folder: Path) -> None:
    lines = (folder / SUMS_FILE).read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == list(CHECKED_FILES)
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


@pytest.mark.parametrize("name", [*CHECKED_FILES, SUMS_FILE])
def test_a_flipped_byte_is_refused_in_one_line(folder: Path, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    content = (folder / name).read_bytes()
    check_weights_dir(copy)
    for position in range(0, len(content), max(len(content) // 200, 1)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        (copy / name).write_bytes(flipped)
        with pytest.raises(DataError) as error:
            check_weights_dir(copy)
        assert "\n" not in str(error.value)


def test_a_missing_file_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "config.yaml").unlink()
    with pytest.raises(DataError, match=r"config\.yaml cannot be read"):
        Run.load(copy)


def test_names_mean_what_comes_along_and_paths_come_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "SHIPPED", folder.parent)
    monkeypatch.chdir(tmp_path)
    assert shipped_names() == ["tiny"]
    assert locate_weights_dir("tiny") == folder
    assert locate_weights_dir("other") is None
    run = Run.load("tiny")
    assert run.run_dir == Path("outputs", "weights", "tiny")
    run.predictions("val")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*CHECKED_FILES, SUMS_FILE])  # nothing is written
    (tmp_path / "tiny").mkdir()
    assert locate_weights_dir("tiny") is None


def test_weights_too_large_for_half_precision_are_refused() -> None:
    with pytest.raises(ConfigError, match="do not fit half precision"):
        half_precision({"weight": torch.tensor([1e5])})


def test_a_run_begins_with_them(folder: Path, finished_run: Path) -> None:
    run = Run.load(finished_run)
    initial = load_initial_weights(run.task, str(folder), None)
    assert initial is not None
    assert initial["init_from"]["parameters_taken"] == initial["init_from"]["parameters"]
    torch.testing.assert_close(dict(run.task.state_dict()), dict(Run.load(folder).task.state_dict()), rtol=0, atol=0)

"""Checkpoints: atomic writes, checksums that detect any damage, and the previous checkpoint as a fallback."""

import errno
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from patchwork.core.atomic import write_bytes
from patchwork.core.errors import DataError, Interrupted, ResourceError
from patchwork.training.checkpoint_io import (
    SafeCheckpointIO,
    backup_path,
    read_checkpoint,
    read_latest,
    weights_sha256,
    write_checkpoint,
)


def make_state(number: int) -> dict:
    """Return the contents of a checkpoint: weights, and plain values of every kind that Lightning saves."""
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(number))
    return {"state_dict": {"weight": weight}, "epoch": number, "callbacks": {"best": None, "names": ["a", "b"]}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a checkpoint with state 2, which replaced one with state 1."""
    path = tmp_path / "checkpoints" / "last.ckpt"
    write_checkpoint(make_state(1), path)
    write_checkpoint(make_state(2), path)
    return path


def is_state(state: dict, number: int) -> bool:
    """Return whether this is the state of that number, to the bit."""
    expected = make_state(number)
    return state.pop("state_dict")["weight"].equal(expected.pop("state_dict")["weight"]) and state == expected


def file_names(path: Path) -> list[str]:
    """Return the names of all files beside `path`."""
    return sorted(sibling.name for sibling in path.parent.iterdir())


def raise_disk_full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- round trip ------------------------------------------------------------------------------------------------------


def test_checkpoint_round_trip(path: Path) -> None:
    assert is_state(read_checkpoint(path), 2)
    assert is_state(read_checkpoint(backup_path(path)), 1)
    assert file_names(path) == ["last-previous.ckpt", "last.ckpt"]


def test_same_state_writes_the_same_bytes(path: Path, tmp_path: Path) -> None:
    write_checkpoint(make_state(2), tmp_path / "again" / "last.ckpt")
    assert (tmp_path / "again" / "last.ckpt").read_bytes() == path.read_bytes()


def test_checkpoint_is_readable_by_torch_load(path: Path) -> None:
    assert is_state(torch.load(path, weights_only=True), 2)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"sha256:")


def test_lightning_checkpoint_plugin_round_trip(path: Path) -> None:
    plugin = SafeCheckpointIO()
    plugin.save_checkpoint(make_state(3), path)
    assert is_state(plugin.load_checkpoint(path), 3)
    assert is_state(read_checkpoint(backup_path(path)), 2)
    plugin.remove_checkpoint(path)
    plugin.remove_checkpoint(path)
    assert file_names(path) == ["last-previous.ckpt"]


# --- damage ----------------------------------------------------------------------------------------------------------


def is_undetected(path: Path, content: bytes) -> bool:
    """Return whether damaged contents are read without an error that names the file."""
    path.write_bytes(content)
    try:
        read_checkpoint(path)
    except DataError as error:
        return "last.ckpt is damaged" not in str(error)
    return True


def test_checksum_detects_any_flipped_bit(path: Path) -> None:
    content = path.read_bytes()
    size, tail = len(content), 96  # the last 73 bytes are the length of the archive's comment, and the comment
    positions = [*range(4), *random.Random(0).sample(range(4, size - tail), 50), *range(size - tail, size)]
    undetected = []
    for position in positions:
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        if is_undetected(path, damaged):
            undetected.append(position - size)
    assert undetected == []


def test_checksum_detects_truncated_and_extended_files(path: Path) -> None:
    content = path.read_bytes()
    size = len(content)
    lengths = [0, 1, 70, 71, 72, *random.Random(0).sample(range(size), 20), size - 2, size - 1]
    assert [length for length in lengths if is_undetected(path, content[:length])] == []
    assert not is_undetected(path, content + b"\0")
    assert not is_undetected(path, b"\0" + content)


def test_missing_and_foreign_checkpoints_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.ckpt cannot be read: No such file"):
        read_checkpoint(tmp_path / "nowhere.ckpt")
    torch.save(make_state(1), tmp_path / "foreign.ckpt")
    with pytest.raises(DataError, match=r"foreign\.ckpt is damaged or foreign"):
        read_checkpoint(tmp_path / "foreign.ckpt")


class Code:
    """An object that makes a directory when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_checkpoint_is_not_executed(path: Path, tmp_path: Path) -> None:
    write_checkpoint({"state_dict": {}, "code": Code(tmp_path / "executed")}, path)
    with pytest.raises(DataError, match=r"last\.ckpt") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "executed").exists()


# --- previous checkpoint ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 100), Path.unlink], ids=["damaged", "missing"])
def test_previous_checkpoint_is_used_with_a_warning(path: Path, damage: Callable[[Path], None]) -> None:
    damage(path)
    with pytest.warns(UserWarning, match=r"last\.ckpt .* using last-previous\.ckpt") as warnings:
        state = read_latest(path)
    assert state["epoch"] == 1
    assert "\n" not in str(warnings[0].message)


def test_intact_checkpoint_is_read_without_a_warning(path: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert read_latest(path)["epoch"] == 2
    assert not recwarn.list


def test_error_if_the_previous_checkpoint_is_damaged_too(path: Path) -> None:
    os.truncate(backup_path(path), 100)
    path.unlink()
    with pytest.raises(DataError, match=r"last-previous\.ckpt is damaged"):
        read_latest(path)
    backup_path(path).unlink()
    with pytest.raises(DataError, match=r"last\.ckpt cannot be read"):
        read_latest(path)


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:checkpoint")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", [1, 2])
def test_crash_around_any_rename_leaves_a_readable_checkpoint(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int, after: bool
) -> None:
    calls = []

    def crashing(rename: Callable[..., None]) -> Callable[..., None]:
        def rename_and_crash(source: Path, target: Path) -> None:
            calls.append(target)
            if len(calls) < number or after:
                rename(source, target)
            if len(calls) == number:
                raise SystemError

        return rename_and_crash

    with monkeypatch.context() as context:
        for name in ("replace", "rename"):
            context.setattr(os, name, crashing(getattr(os, name)))
        with pytest.raises(SystemError):
            write_checkpoint(make_state(3), path)
    assert read_latest(path)["epoch"] in (2, 3)
    write_checkpoint(make_state(4), path)
    assert read_checkpoint(path)["epoch"] == 4
    assert read_checkpoint(backup_path(path))["epoch"] in (2, 3)


def test_full_disk_leaves_checkpoints_unchanged(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", raise_disk_full)
    for _ in range(2):  # a second failure loses nothing either
        with pytest.raises(ResourceError, match=r"last\.ckpt cannot be written: the disk is full") as error:
            write_checkpoint(make_state(3), path)
    assert "\n" not in str(error.value)
    assert file_names(path) == ["last-previous.ckpt", "last.ckpt"]
    assert (read_checkpoint(backup_path(path))["epoch"], read_checkpoint(path)["epoch"]) == (1, 2)


@pytest.mark.parametrize("error", [OSError(errno.EROFS, "Read-only file system"), OSError(errno.EIO, "I/O error")])
def test_failing_rename_leaves_checkpoints_unchanged(
    path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def failing(*_: object) -> None:
        raise error

    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, failing)
    with pytest.raises(ResourceError, match=rf"last\.ckpt cannot be written: {error.strerror}"):
        write_checkpoint(make_state(3), path)
    assert file_names(path) == ["last-previous.ckpt", "last.ckpt"]


def test_interrupted_write_leaves_no_partial_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise Interrupted(15)

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(Interrupted):
        write_bytes(path.with_name("metrics.csv"), b"epoch,step\n")
    assert file_names(path) == ["last-previous.ckpt", "last.ckpt"]


def test_file_in_place_of_the_directory_is_a_resource_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"file/last\.ckpt cannot be written"):
        write_checkpoint(make_state(1), tmp_path / "file" / "last.ckpt")


def test_bytes_are_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def recorded(name: str, function: Callable[..., None]) -> Callable[..., None]:
        def record_and_call(*args: object) -> None:
            calls.append(name)
            function(*args)

        return record_and_call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
    write_bytes(tmp_path / "file", b"content")
    assert calls[:2] == ["fsync", "replace"]
    assert (tmp_path / "file").read_bytes() == b"content"
    assert file_names(tmp_path / "file") == ["file"]


# --- digest of weights -----------------------------------------------------------------------------------------------


def weights() -> dict[str, Tensor]:
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.5, dtype=torch.bfloat16), "c": torch.zeros(0)}


def test_weights_sha256_depends_on_contents_only() -> None:
    expected = weights_sha256(weights())
    assert weights_sha256(dict(reversed(weights().items()))) == expected
    a = weights()["a"].T.contiguous().T  # the same values in another memory layout
    assert not a.is_contiguous()
    assert weights_sha256({**weights(), "a": a}) == expected
    assert weights_sha256({**weights(), "a": torch.nn.Parameter(a)}) == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w["a"].view(torch.int32)[0, 1].bitwise_xor_(1),
        lambda w: w["b"].view(torch.int16).bitwise_xor_(1),
        lambda w: w.update(x=w.pop("a")),
        lambda w: w.update(a=w["a"].double()),
        lambda w: w.update(a=w["a"].view(torch.int32)),
        lambda w: w.update(a=w["a"].reshape(3, 2)),
        lambda w: w.update(a=w["b"], b=w["a"]),
        lambda w: w.update(c=torch.zeros(0, 1)),
        lambda w: w.pop("c"),
    ],
    ids=["bit", "bit of a scalar", "name", "dtype", "dtype only", "shape", "swapped", "empty shape", "missing"],
)
def test_weights_sha256_detects_any_change(change: Callable[[dict[str, Tensor]], object]) -> None:
    changed = weights()
    change(changed)
    assert weights_sha256(changed) != weights_sha256(weights())

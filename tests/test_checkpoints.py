"""A checkpoint is whole or not there, damage is found, and what it replaced is still there to go on from."""

import errno
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from patchwork.checkpoints import SafeCheckpointIO, previous, read, read_latest, weights_sha256, write
from patchwork.errors import DataError, Interrupted, ResourceError
from patchwork.files import write_bytes


def state(number: int) -> dict:
    """Make what a checkpoint holds: weights, and plain things of every kind that Lightning saves."""
    weight = torch.randn(4, 5, generator=torch.Generator().manual_seed(number))
    return {"state_dict": {"weight": weight}, "epoch": number, "callbacks": {"best": None, "names": ["a", "b"]}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the path of a checkpoint that replaced another: the states are 2 and, before it, 1."""
    path = tmp_path / "checkpoints" / "last.ckpt"
    write(state(1), path)
    write(state(2), path)
    return path


def same(found: dict, number: int) -> bool:
    """Tell whether what was read is the state of that number, to the bit."""
    expected = state(number)
    return found.pop("state_dict")["weight"].equal(expected.pop("state_dict")["weight"]) and found == expected


def names(path: Path) -> list[str]:
    return sorted(other.name for other in path.parent.iterdir())


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# --- round trip ------------------------------------------------------------------------------------------------------


def test_round_trip(path: Path) -> None:
    assert same(read(path), 2)
    assert same(read(previous(path)), 1)
    assert names(path) == ["last-previous.ckpt", "last.ckpt"]


def test_the_same_state_makes_the_same_file(path: Path, tmp_path: Path) -> None:
    write(state(2), tmp_path / "again" / "last.ckpt")
    assert (tmp_path / "again" / "last.ckpt").read_bytes() == path.read_bytes()


def test_is_an_ordinary_checkpoint_for_other_tools(path: Path) -> None:
    assert same(torch.load(path, weights_only=True), 2)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.comment.startswith(b"sha256:")


def test_lightning_writes_and_reads_the_same(path: Path) -> None:
    plugin = SafeCheckpointIO()
    plugin.save_checkpoint(state(3), path)
    assert same(plugin.load_checkpoint(path), 3)
    assert same(read(previous(path)), 2)
    plugin.remove_checkpoint(path)
    plugin.remove_checkpoint(path)
    assert names(path) == ["last-previous.ckpt"]


# --- damage ----------------------------------------------------------------------------------------------------------


def unnoticed(path: Path, content: bytes) -> bool:
    """Tell whether a damaged file is read as if it were whole."""
    path.write_bytes(content)
    try:
        read(path)
    except DataError as fault:
        return "last.ckpt is damaged" not in str(fault)
    return True


def test_any_flipped_byte_is_found(path: Path) -> None:
    whole = path.read_bytes()
    size, end = len(whole), 96  # the last 73 are the length of the archive's comment, and the comment
    positions = [*range(4), *random.Random(0).sample(range(4, size - end), 50), *range(size - end, size)]
    missed = []
    for position in positions:
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        if unnoticed(path, damaged):
            missed.append(position - size)
    assert missed == []


def test_any_shorter_or_longer_file_is_found(path: Path) -> None:
    whole = path.read_bytes()
    lengths = [0, 1, 70, 71, 72, *random.Random(0).sample(range(len(whole)), 20), len(whole) - 2, len(whole) - 1]
    assert [length for length in lengths if unnoticed(path, whole[:length])] == []
    assert not unnoticed(path, whole + b"\0")
    assert not unnoticed(path, b"\0" + whole)


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.ckpt cannot be read: No such file"):
        read(tmp_path / "nowhere.ckpt")
    torch.save(state(1), tmp_path / "foreign.ckpt")
    with pytest.raises(DataError, match=r"foreign\.ckpt is damaged or foreign"):
        read(tmp_path / "foreign.ckpt")


class Code:
    """Pickled, this is code that runs when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.folder),)


def test_nothing_in_a_file_is_executed(path: Path, tmp_path: Path) -> None:
    write({"state_dict": {}, "code": Code(tmp_path / "executed")}, path)
    with pytest.raises(DataError, match=r"last\.ckpt") as fault:
        read(path)
    assert "\n" not in str(fault.value)
    assert not (tmp_path / "executed").exists()


# --- the one before --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 100), Path.unlink], ids=["damaged", "lost"])
def test_previous_is_used_with_a_warning(path: Path, damage: Callable[[Path], None]) -> None:
    damage(path)
    with pytest.warns(UserWarning, match=r"last\.ckpt .* going on from last-previous\.ckpt") as warnings:
        found = read_latest(path)
    assert found["epoch"] == 1
    assert "\n" not in str(warnings[0].message)


def test_whole_checkpoint_is_read_without_a_warning(path: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert read_latest(path)["epoch"] == 2
    assert not recwarn.list


def test_neither_can_be_read(path: Path) -> None:
    os.truncate(previous(path), 100)
    path.unlink()
    with pytest.raises(DataError, match=r"last-previous\.ckpt is damaged"):
        read_latest(path)
    previous(path).unlink()
    with pytest.raises(DataError, match=r"last\.ckpt cannot be read"):
        read_latest(path)


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:checkpoint")
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_crash_around_any_rename_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, number: int, after: bool
) -> None:
    calls = []

    def crashing(rename: Callable[..., None]) -> Callable[..., None]:
        def renamed(source: Path, target: Path) -> None:
            calls.append(target)
            if len(calls) < number or after:
                rename(source, target)
            if len(calls) == number:
                raise SystemError

        return renamed

    with monkeypatch.context() as crash:
        for name in ("replace", "rename"):
            crash.setattr(os, name, crashing(getattr(os, name)))
        with pytest.raises(SystemError):
            write(state(3), path)
    assert read_latest(path)["epoch"] in (2, 3)
    write(state(4), path)
    assert read(path)["epoch"] == 4
    assert read(previous(path))["epoch"] in (2, 3)


def test_full_disk_leaves_all_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full)
    for _ in range(2):  # a second failure does not cost what the first one left
        with pytest.raises(ResourceError, match=r"last\.ckpt cannot be written: the disk is full") as fault:
            write(state(3), path)
    assert "\n" not in str(fault.value)
    assert names(path) == ["last-previous.ckpt", "last.ckpt"]
    assert (read(previous(path))["epoch"], read(path)["epoch"]) == (1, 2)


@pytest.mark.parametrize("fault", [OSError(errno.EROFS, "Read-only file system"), OSError(errno.EIO, "I/O error")])
def test_disk_that_cannot_be_written(path: Path, monkeypatch: pytest.MonkeyPatch, fault: OSError) -> None:
    def failing(*_: object) -> None:
        raise fault

    for name in ("replace", "rename"):
        monkeypatch.setattr(os, name, failing)
    with pytest.raises(ResourceError, match=rf"last\.ckpt cannot be written: {fault.strerror}"):
        write(state(3), path)
    assert names(path) == ["last-previous.ckpt", "last.ckpt"]


def test_an_interruption_leaves_no_part(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise Interrupted(15)

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(Interrupted):
        write_bytes(path.with_name("metrics.csv"), b"epoch,step\n")
    assert names(path) == ["last-previous.ckpt", "last.ckpt"]


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ResourceError, match=r"file/last\.ckpt cannot be written"):
        write(state(1), tmp_path / "file" / "last.ckpt")


def test_written_bytes_are_synced_before_they_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (done.append(name), real(*args))[1])
    write_bytes(tmp_path / "file", b"content")
    assert done[:2] == ["fsync", "replace"]
    assert (tmp_path / "file").read_bytes() == b"content"
    assert names(tmp_path / "file") == ["file"]


# --- the digest of weights -------------------------------------------------------------------------------------------


def weights() -> dict[str, Tensor]:
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1.5, dtype=torch.bfloat16), "c": torch.zeros(0)}


def test_digest_of_weights_is_of_contents_alone() -> None:
    expected = weights_sha256(weights())
    assert weights_sha256(dict(reversed(weights().items()))) == expected
    a = weights()["a"].T.contiguous().T  # the same values, laid out otherwise
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
    ids=["bit", "bit of a scalar", "name", "dtype", "dtype alone", "shape", "swapped", "empty shape", "one less"],
)
def test_digest_of_weights_tells_any_change(change: Callable[[dict[str, Tensor]], object]) -> None:
    changed = weights()
    change(changed)
    assert weights_sha256(changed) != weights_sha256(weights())

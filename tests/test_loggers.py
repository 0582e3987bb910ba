"""The table of metrics: what is in it, how it is written, and that a resumed run ends with the same one."""

import csv
import errno
import os
import socket
import time
from pathlib import Path

import pytest
from wandb_server import serving

from patchwork.checkpoints import read, write
from patchwork.errors import ResourceError
from patchwork.loggers import PATIENCE, MetricsTable, unusable

STEPS = range(10, 70, 10)


def train(table: MetricsTable, steps: range | list[int] = STEPS) -> MetricsTable:
    """Log as a training does: the loss every ten steps, and validation at the end of an epoch of thirty."""
    for step in steps:
        epoch = (step - 1) // 30
        table.log_metrics({"epoch": epoch, "train/loss": 2.5 / step, "lr": 0.003}, step)
        if step % 30 == 0:
            table.log_metrics({"epoch": float(epoch), "val/loss": 1 / 3, "val/accuracy": step / 100}, step)
    return table


def test_rows_and_columns(tmp_path: Path) -> None:
    table = train(MetricsTable(tmp_path), range(10, 50, 10))
    table.log_metrics({"epoch": 1.0, "test/loss": 2.0}, 40)
    table.save()
    assert (tmp_path / "metrics.csv").read_text() == (
        "epoch,step,train/loss,lr,val/loss,val/accuracy,test/loss\n"
        "0,10,0.25,0.003,,,\n"
        "0,20,0.125,0.003,,,\n"
        "0,30,0.083333333,0.003,0.33333333,0.3,\n"
        "1,40,0.0625,0.003,,,2\n"
    )


def test_is_read_as_csv_whatever_the_values(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path)
    values = {"train/loss": float("nan"), "val/loss": float("inf"), "lr": 1e-12, 'odd, "name"': 123456.75}
    table.log_metrics({"epoch": 0.0, **values}, 7)
    table.save()
    with (tmp_path / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row == {
        "epoch": "0",
        "step": "7",
        "train/loss": "nan",
        "val/loss": "inf",
        "lr": "1e-12",
        'odd, "name"': "123456.75",
    }


def test_a_later_value_of_the_same_step_counts_and_rows_are_in_order(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path)
    for step, loss in ((20, 1.0), (10, 2.0), (20, 3.0)):
        table.log_metrics({"epoch": 0, "train/loss": loss}, step)
    table.save()
    assert (tmp_path / "metrics.csv").read_text() == "epoch,step,train/loss\n0,10,2\n0,20,3\n"


def test_state_goes_through_a_checkpoint(tmp_path: Path) -> None:
    table = train(MetricsTable(tmp_path / "one"))
    write({"state_dict": {}, "records": table.state_dict()}, tmp_path / "last.ckpt")
    other = MetricsTable(tmp_path / "other")
    other.load_state_dict(read(tmp_path / "last.ckpt")["records"])
    assert other.state_dict() == table.state_dict()
    table.save()
    other.save()
    assert other.path.read_bytes() == table.path.read_bytes()


@pytest.mark.parametrize("killed", STEPS[:-1])
def test_resumed_table_is_the_uninterrupted_one(tmp_path: Path, killed: int) -> None:
    whole = train(MetricsTable(tmp_path / "whole"))
    whole.save()
    first = train(MetricsTable(tmp_path / "resumed"), [step for step in STEPS if step <= killed])
    write({"state_dict": {}, "records": first.state_dict()}, tmp_path / "last.ckpt")
    train(first, [killed + 10])  # logged and written after the last checkpoint, and done again by the resumed run
    first.log_metrics({"epoch": 9, "test/loss": 1.0}, 999)
    first.save()
    second = MetricsTable(tmp_path / "resumed")
    second.load_state_dict(read(tmp_path / "last.ckpt")["records"])
    train(second, [step for step in STEPS if step > killed]).finalize("success")
    assert second.path.read_bytes() == whole.path.read_bytes()


def test_loaded_state_is_a_copy(tmp_path: Path) -> None:
    table = train(MetricsTable(tmp_path), range(10, 30, 10))
    other = MetricsTable(tmp_path / "other")
    other.load_state_dict(table.state_dict())
    other.log_metrics({"epoch": 0, "train/loss": 9.0}, 10)
    assert table.rows[10]["train/loss"] == 0.25


def test_written_only_when_something_changed(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path)
    table.finalize("success")
    assert not table.path.exists()
    train(table).save()
    table.path.unlink()
    table.save()
    assert not table.path.exists()
    table.load_state_dict(table.state_dict())
    table.save()
    assert table.path.exists()


def test_written_in_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = train(MetricsTable(tmp_path), range(10, 30, 10))
    table.save()
    before = table.path.read_bytes()
    train(table, [30])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(ResourceError, match=r"metrics\.csv cannot be written: the disk is full"):
            table.save()
    assert table.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    table.save()
    assert table.path.read_bytes() > before


def test_nothing_from_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = train(MetricsTable(tmp_path / "now"))
    now.save()
    for name in ("time", "time_ns", "monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: 1e9)
    later = train(MetricsTable(tmp_path / "later"))
    later.save()
    assert later.path.read_bytes() == now.path.read_bytes()
    assert later.state_dict() == now.state_dict()


def test_wandb_is_offline_where_there_is_no_key_or_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "")
    assert unusable() == "no key was found"
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert unusable() is None
    assert unusable() == f"{server.url} cannot be reached"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # which takes calls and answers none
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        begin = time.monotonic()
        assert "cannot be reached" in str(unusable())
        assert time.monotonic() - begin + PATIENCE < 15  # as long again where it answers, but not as it should
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert unusable() is None

"""metrics.csv: its contents, its atomic writes and its resume; and when Weights & Biases is offline."""

import csv
import errno
import os
import socket
import time
from pathlib import Path

import pytest
from wandb_server import serving

from patchwork.core.errors import ResourceError
from patchwork.training import loggers
from patchwork.training.checkpoint_io import read_checkpoint, write_checkpoint
from patchwork.training.loggers import CSVMetricsLogger, TensorBoardRunLogger, offline_reason

STEPS = range(10, 70, 10)


def log_steps(logger: CSVMetricsLogger, steps: range | list[int] = STEPS) -> CSVMetricsLogger:
    """Log as a training does: the loss at these steps, and validation at the end of each epoch of thirty steps."""
    for step in steps:
        epoch = (step - 1) // 30
        logger.log_metrics({"epoch": epoch, "train/loss": 2.5 / step, "lr": 0.003}, step)
        if step % 30 == 0:
            logger.log_metrics({"epoch": float(epoch), "val/loss": 1 / 3, "val/accuracy": step / 100}, step)
    return logger


def test_csv_rows_are_steps_and_columns_are_metrics(tmp_path: Path) -> None:
    logger = log_steps(CSVMetricsLogger(tmp_path), range(10, 50, 10))
    logger.log_metrics({"epoch": 1.0, "test/loss": 2.0}, 40)
    logger.save()
    assert (tmp_path / "metrics.csv").read_text() == (
        "epoch,step,train/loss,lr,val/loss,val/accuracy,test/loss\n"
        "0,10,0.25,0.003,,,\n"
        "0,20,0.125,0.003,,,\n"
        "0,30,0.083333333,0.003,0.33333333,0.3,\n"
        "1,40,0.0625,0.003,,,2\n"
    )


def test_csv_holds_values_that_are_not_finite_and_names_with_quotes(tmp_path: Path) -> None:
    logger = CSVMetricsLogger(tmp_path)
    metrics = {"train/loss": float("nan"), "val/loss": float("inf"), "lr": 1e-12, 'odd, "name"': 123456.75}
    logger.log_metrics({"epoch": 0.0, **metrics}, 7)
    logger.save()
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


def test_csv_rows_are_sorted_and_the_latest_value_of_a_step_is_written(tmp_path: Path) -> None:
    logger = CSVMetricsLogger(tmp_path)
    for step, loss in ((20, 1.0), (10, 2.0), (20, 3.0)):
        logger.log_metrics({"epoch": 0, "train/loss": loss}, step)
    logger.save()
    assert (tmp_path / "metrics.csv").read_text() == "epoch,step,train/loss\n0,10,2\n0,20,3\n"


def test_csv_state_survives_a_checkpoint(tmp_path: Path) -> None:
    logger = log_steps(CSVMetricsLogger(tmp_path / "one"))
    write_checkpoint({"logger": logger.state_dict()}, tmp_path / "last.ckpt")
    other = CSVMetricsLogger(tmp_path / "other")
    other.load_state_dict(read_checkpoint(tmp_path / "last.ckpt")["logger"])
    assert other.state_dict() == logger.state_dict()
    logger.save()
    other.save()
    assert other.path.read_bytes() == logger.path.read_bytes()


@pytest.mark.parametrize("last_step", STEPS[:-1])
def test_resumed_csv_equals_the_uninterrupted_one(tmp_path: Path, last_step: int) -> None:
    uninterrupted = log_steps(CSVMetricsLogger(tmp_path / "uninterrupted"))
    uninterrupted.save()
    killed = log_steps(CSVMetricsLogger(tmp_path / "resumed"), [step for step in STEPS if step <= last_step])
    write_checkpoint({"logger": killed.state_dict()}, tmp_path / "last.ckpt")
    log_steps(killed, [last_step + 10])  # logged and written after the last checkpoint; the resumed run repeats it
    killed.log_metrics({"epoch": 9, "test/loss": 1.0}, 999)
    killed.save()
    resumed = CSVMetricsLogger(tmp_path / "resumed")
    resumed.load_state_dict(read_checkpoint(tmp_path / "last.ckpt")["logger"])
    log_steps(resumed, [step for step in STEPS if step > last_step]).finalize("success")
    assert resumed.path.read_bytes() == uninterrupted.path.read_bytes()


def test_loaded_csv_state_is_a_copy(tmp_path: Path) -> None:
    logger = log_steps(CSVMetricsLogger(tmp_path), range(10, 30, 10))
    other = CSVMetricsLogger(tmp_path / "other")
    other.load_state_dict(logger.state_dict())
    other.log_metrics({"epoch": 0, "train/loss": 9.0}, 10)
    assert logger.rows[10]["train/loss"] == 0.25


def test_csv_is_written_only_if_it_changed(tmp_path: Path) -> None:
    logger = CSVMetricsLogger(tmp_path)
    logger.finalize("success")
    assert not logger.path.exists()
    log_steps(logger).save()
    logger.path.unlink()
    logger.save()
    assert not logger.path.exists()
    logger.load_state_dict(logger.state_dict())
    logger.save()
    assert logger.path.exists()


def test_csv_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = log_steps(CSVMetricsLogger(tmp_path), range(10, 30, 10))
    logger.save()
    before = logger.path.read_bytes()
    log_steps(logger, [30])

    def raise_disk_full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as context:
        context.setattr(os, "fsync", raise_disk_full)
        with pytest.raises(ResourceError, match=r"metrics\.csv cannot be written: the disk is full"):
            logger.save()
    assert logger.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    logger.save()
    assert logger.path.read_bytes() > before


def test_csv_does_not_depend_on_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = log_steps(CSVMetricsLogger(tmp_path / "now"))
    now.save()
    for name in ("time", "time_ns", "monotonic", "perf_counter"):
        monkeypatch.setattr(time, name, lambda: 1e9)
    later = log_steps(CSVMetricsLogger(tmp_path / "later"))
    later.save()
    assert later.path.read_bytes() == now.path.read_bytes()
    assert later.state_dict() == now.state_dict()


def test_tensorboard_writes_its_files_into_the_run_directory(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    logger = TensorBoardRunLogger(tmp_path)
    logger.start({"seed": 0, "task": {"monitor": "val/loss"}}, {})
    logger.log_metrics({"epoch": 0, "train/loss": 1.0}, 1)
    logger.finalize("success")
    logger.finish(0)
    assert list((tmp_path / "tensorboard").glob("events.out.tfevents.*"))
    assert logger.manifest_entry() == {}


def test_resumed_run_has_no_step_twice_in_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def log(logger: TensorBoardRunLogger, steps: range) -> None:
        for step in steps:
            logger.log_metrics({"epoch": 0, "train/loss": 1 / step}, step)

    config = {"task": {"monitor": "val/loss", "_target_": "x"}, "model": {"stem": None, "sizes": [1, 2]}, "seed": 0}
    killed = TensorBoardRunLogger(tmp_path)
    killed.start(config, {})
    log(killed, range(1, 4))
    checkpoint = killed.state_dict()
    log(killed, range(4, 8))
    killed.save()
    resumed = TensorBoardRunLogger(tmp_path)
    resumed.start(config, {"resumed": [{}]})
    _ = resumed.experiment  # as the Trainer does before it loads the checkpoint
    resumed.load_state_dict(checkpoint)
    log(resumed, range(4, 10))
    resumed.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 10))
    assert "_hparams_/session_start_info" in events.PluginTagToContent("hparams")


def test_run_that_begins_again_has_no_step_twice_in_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for last_step in (5, 3):  # the first process was killed before its first checkpoint
        logger = TensorBoardRunLogger(tmp_path)
        for step in range(1, last_step + 1):
            logger.log_metrics({"epoch": 0, "train/loss": 1.0}, step)
        logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 2, 3]


def test_wandb_is_offline_without_an_api_key_or_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loggers, "CONNECT_TIMEOUT", 1.0)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "")
    assert offline_reason() == "no API key was found"
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    with serving() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        assert offline_reason() is None
    assert offline_reason() == f"{server.url} cannot be reached"
    with socket.create_server(("127.0.0.1", 0)) as silent_server:  # accepts connections and never answers
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{silent_server.getsockname()[1]}")
        start = time.monotonic()
        assert "cannot be reached" in str(offline_reason())
        assert time.monotonic() - start < 2 * loggers.CONNECT_TIMEOUT


def test_connecting_to_wandb_delays_a_run_by_less_than_fifteen_seconds() -> None:
    """The check that the server can be reached, and the start of a run on a server that answers wrongly."""
    assert loggers.CONNECT_TIMEOUT / 4 + loggers.CONNECT_TIMEOUT < 15

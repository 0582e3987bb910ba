"""Arguments of Lightning's Trainer, as they are typed: what a run then does and says."""

import csv
from pathlib import Path

import pytest
from helpers import TINY, read_manifest, run_command

TRIAL = "training, validation, and test work"


@pytest.mark.parametrize("override", ["trainer.fast_dev_run=true", "++trainer.fast_dev_run=2"])
def test_fast_dev_run_tries_all_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str) -> None:
    assert run_command("train", *TINY, "run_dir=run", override, cwd=tmp_path) == 0
    out = capsys.readouterr().out
    assert TRIAL in out
    assert ", not a result)" in out
    manifest = read_manifest(tmp_path)
    assert manifest["status"] == "finished"
    assert manifest["trial"].startswith(TRIAL)
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == [str(step + 1) for step in range(manifest["steps"])]
    assert rows[-1]["val/loss"]
    assert rows[-1]["test/loss"]


def test_run_without_validation_and_test_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["run_dir=run", "trainer.limit_val_batches=0", "trainer.limit_test_batches=0"]
    assert run_command("train", *TINY, *args, cwd=tmp_path) == 0
    assert "nothing was tested (last weights, as there was no validation)" in capsys.readouterr().out
    assert not any(name.startswith("test/") for name in read_manifest(tmp_path)["metrics"])


def test_end_by_max_time_says_where_the_schedule_stood(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["run_dir=run", "trainer.max_epochs=1000000", "trainer.check_val_every_n_epoch=1000"]
    args += ["trainer.max_time={seconds: 1}", "trainer.profiler=simple"]
    assert run_command("train", *TINY, *args, cwd=tmp_path) == 0
    manifest = read_manifest(tmp_path)
    out = capsys.readouterr().out
    assert f"ended by trainer.max_time at step {manifest['steps']:,} of 2,000,000; the learning rate was at" in out
    assert manifest["stopped_by"] == "max_time"
    assert manifest["best_epoch"] == manifest["epochs"]  # it was validated where it ended
    assert "FIT Profiler Report" in out
    assert (tmp_path / "run" / "profile.txt").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.logger=false", "trainer.logger=false is not set here: use logger=csv, tensorboard, wandb, or none"),
        ("+trainer.plugins=x", "trainer.plugins=x is not set here: use trainer.precision=… and accelerator=…"),
        ("trainer.val_check_interval=1", "1.0 for once an epoch"),
        ("trainer.max_time=5", "days:hours:minutes:seconds, such as 00:00:30:00"),
        ("trainer.max_epochs=-1", "max_epochs=-1 needs trainer.max_steps"),
    ],
)
def test_argument_that_is_refused_says_what_to_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert run_command("train", *TINY, "run_dir=run", override, cwd=tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "run").exists()

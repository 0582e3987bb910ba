"""Wrong input is an error of one line that names key, value and what is allowed, with an exit code by its kind.

The commands run in this process, as `sys.argv` would have them; a few run as processes of their own, to prove the same.
"""

import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import matplotlib.figure
import pytest
import torch
import yaml
from helpers import ROOT, TINY, run_command

from patchwork.core import atomic
from patchwork.core.errors import ConfigError
from patchwork.data.sources import auto, idx_source, mnist, uci
from patchwork.data.sources.idx import idx_header
from patchwork.runs.run import Run
from patchwork.training.checkpoint_io import BEST, LAST, backup_path, read_checkpoint, write_checkpoint

CONFIG, DATA, NUMERIC, RESOURCE = 2, 3, 4, 5


class Refused(Protocol):
    def __call__(
        self, name: str, *args: str, code: int, after_data: bool = False, leaves_files: bool = False
    ) -> str: ...


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the list of data sets that were read since."""
    names: list[str] = []

    def record(load: Callable) -> Callable:
        return lambda source: names.append(type(source).__name__) or load(source)

    for source in (uci.UCI, idx_source.IdxSource, auto.Auto):
        monkeypatch.setattr(source, "load", record(vars(source)["load"]))
    return names


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], loaded: list[str]) -> Refused:
    """Return a function that runs a command which must fail with `code` and one line, and returns this line.

    The command must leave no file, unless `leaves_files`; and if its configuration is wrong, it must have read no data,
    unless the error can be found only `after_data`.
    """

    def check(name: str, *args: str, code: int, after_data: bool = False, leaves_files: bool = False) -> str:
        capfd.readouterr()
        loaded.clear()
        exit_code = run_command(name, *args, cwd=tmp_path)
        stderr = capfd.readouterr().err
        assert exit_code == code, stderr
        assert "Traceback" not in stderr
        (line,) = stderr.splitlines()
        assert line.startswith("train.py: " if name == "train" else f"patchwork {name}: ")
        if not leaves_files:
            assert list(tmp_path.iterdir()) == []
        if code == CONFIG:
            assert bool(loaded) == after_data, loaded
        return line

    return check


def set_unfinished(run_dir: Path) -> Path:
    """Let a run look as if it had not finished."""
    manifest = json.loads((run_dir / "manifest.json").read_bytes())
    (run_dir / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    return run_dir


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def partial_files(directory: Path) -> list[Path]:
    return list(directory.rglob("*.part"))


# --- the command line ------------------------------------------------------------------------------------------------

WRONG: list[tuple[str, list[str]]] = [
    # unknown keys
    ("nonsense=1", ["nonsense", "1", "seed"]),
    ("+nonsense=1", ["nonsense=1", "seed"]),
    ("++nonsense.deep=1", ["nonsense", "seed"]),
    ("optimiser=adam", ["optimiser", "adam", "did you mean optimizer=adam?"]),
    ("model.embed_dims=64", ["model.embed_dims=64", "did you mean model.embed_dim=64?"]),
    ("+model.embed_dims=64", ["model.embed_dims=64", "did you mean model.embed_dim=64?"]),
    ("+trainer.nonsense=1", ["trainer.nonsense=1", "max_epochs"]),
    ("+trainer.logger=true", ["trainer.logger=true", "use logger=csv"]),
    ("+data.augment.skew=1", ["data.augment.skew=1", "degrees"]),
    ("model.stem.layers=[{channels: 8, kernel: 3, width: 1}]", ["model.stem.layers", "width"]),
    ("+model.stem.width=1", ["model.stem.width=1", "layers, precision"]),
    ("optimizer=sgd optimizer.betas=[0.9,0.9]", ["optimizer.betas", "momentum", "nesterov"]),
    ("scheduler=constant scheduler.warmup_ratio=0.1", ["scheduler.warmup_ratio"]),
    ("+callbacks.extra=3", ["callbacks.extra=3"]),
    ("+logger.extra._target_=os.system", ["logger.extra", "os.system", "patchwork.training.loggers"]),
    ("~optimizer.lr", ["optimizer.lr"]),
    ("--nonsense", ["--nonsense"]),
    ("nonsense", ["nonsense"]),
    ("seed=0,1", ["seed=0,1", "-m"]),
    ("scheduler=constant +scheduler.warmup_ratio=0.1", ["scheduler.warmup_ratio=0.1", "it has no keys"]),
    # what was meant is elsewhere, or has another name
    ("lr=0.1", ["lr=0.1", "did you mean optimizer.lr=0.1?"]),
    ("max_epochs=3", ["did you mean trainer.max_epochs=3?"]),
    ("trainer.epochs=3", ["did you mean trainer.max_epochs=3?"]),
    ("tsk=sum", ["did you mean task=sum?"]),
    ("gpus=1", ["did you mean trainer.devices=1?"]),
    ("wandb=true", ["did you mean logger=wandb?"]),
    ("stem=linear", ["write stem@model.stem=linear"]),
    ("augment=null", ["write data.augment=null"]),
    ("data.dataset.root=x", ["set that instead: dataset.root=x"]),
    ("n_trials=3", ["n_trials=3 is not a key of the configuration; it is a key of patchwork sweep"]),
    # several at once, against the keys of the task that is chosen
    ("task=icons data.val_size=64 data.test_size=64", ["data.val_size=64", "data.test_size=64", "samples_per_class"]),
    ("lr=0.1 epochs=5", ["optimizer.lr=0.1", "trainer.max_epochs=5"]),
    ("optimizer=adm lr=0.1", ["did you mean optimizer=adam?", "did you mean optimizer.lr=0.1?"]),
    # options of other tools
    ("--lr=0.1", ["--lr=0.1 is not an option of this command: write optimizer.lr=0.1"]),
    ("--epochs=5 --task=sum", ["write trainer.max_epochs=5"]),
    ("~optimizer.lr", ["optimizer.lr is missing, as every run needs the key: set it with optimizer.lr=…"]),
    ("--ckpt_path=x.ckpt", ["--ckpt_path=x.ckpt is not an option of this command: use resume=PATH to continue"]),
    ("sum", ["'sum' is not allowed", "did you mean task=sum?"]),
    ("data.dataset=mnist", ["data.dataset=mnist is not allowed: it follows from dataset; write dataset=mnist"]),
    # unknown choices
    ("task=nonsense", ["task=nonsense", "seq2seq"]),
    ("model=nonsense", ["model=nonsense", "cell_pool, cnn, encoder_decoder, "]),
    ("optimizer=nonsense", ["optimizer=nonsense", "adam, adamw, muon, sgd"]),
    ("experiment=nonsense", ["experiment=nonsense", "quickstart"]),
    ("task=vit", ["did you mean model=vit?"]),
    ("data=mnist", ["did you mean dataset=mnist?"]),
    ("optimizer=cosine", ["did you mean scheduler=cosine?"]),
    ("logger=tb", ["did you mean logger=tensorboard?"]),
    ("logger=null", ["logger=null", "csv, none, tensorboard, wandb", "did you mean logger=none?"]),
    # wrong types
    ("seed=abc", ["seed=abc", "an integer"]),
    ("seed=null", ["seed", "integer"]),
    ("model.embed_dim=64.5", ["model.embed_dim=64.5", "integer"]),
    ("model.embed_dim='64'", ["model.embed_dim='64'", "integer"]),
    ("model.norm_first=1", ["model.norm_first=1", "must be true or false"]),
    ("model.norm_first=null", ["model.norm_first=null", "true or false"]),
    ("model.stem=3", ["model.stem=3", "ConvStem"]),
    ("model.stem=[]", ["model.stem=[]", "ConvStem"]),
    ("model.stem.layers=3", ["model.stem.layers=3", "list"]),
    ("model.stem.precision=16", ["model.stem.precision=16", "bf16"]),
    ("stem@model.stem=nonsense", ["nonsense", "conv3, linear"]),
    ("augment@data.augment=nonsense", ["nonsense", "digits"]),
    ("data.augment=3", ["data.augment=3", "RandomAffineElastic"]),
    ("optimizer.lr=fast", ["optimizer.lr=fast", "a positive number"]),
    ("optimizer=adamw optimizer.betas=[0.9]", ["optimizer.betas=[0.9]", "a list of 2 numbers"]),
    ("optimizer._partial_=false", ["optimizer"]),
    ("data.dataset=null", ["data.dataset"]),
    ("trainer.max_epochs=abc", ["trainer.max_epochs=abc", "integer"]),
    ("run_dir=''", ["run_dir"]),
    # values out of range
    ("seed=-1", ["seed=-1", "an integer from 0 to 4294967295"]),
    ("seed=4294967296", ["seed=4294967296", "4294967295"]),
    ("checkpoint_every_seconds=-1", ["checkpoint_every_seconds=-1", "a number of 0 or more"]),
    ("model.embed_dim=-4", ["model.embed_dim=-4", "a positive integer"]),
    ("model.dropout=1.0", ["model.dropout=1.0", "a number from 0 to below 1"]),
    ("model.mlp_ratio=inf", ["model.mlp_ratio=inf"]),
    ("model.mlp_ratio=0.0001", ["mlp_ratio"]),
    ("model.pos_embed=nowhere", ["model.pos_embed=nowhere", "one of learned, rope"]),
    ("optimizer.lr=0", ["optimizer.lr=0", "a positive number"]),
    ("optimizer.lr=inf", ["optimizer.lr=inf", "finite"]),
    ("scheduler.warmup_ratio=2", ["scheduler.warmup_ratio=2", "a number from 0 to 1"]),
    ("data.batch_size=0", ["data.batch_size=0", "a positive integer"]),
    ("data.num_classes=11", ["data.num_classes=11", "an integer from 2 to 10"]),
    ("dataset.validation=5000", ["dataset.validation=5000", "1436"]),
    ("task.mode=best", ["task.mode=best", "one of max, min"]),
    ("trainer.precision=8", ["trainer.precision=8", "32-true"]),
    ("trainer.max_epochs=-2", ["max_epochs", "-2"]),
    ("trainer.max_epochs=0", ["trainer.max_epochs=0"]),
    ("trainer.limit_train_batches=0", ["trainer.limit_train_batches=0"]),
    ("trainer.val_check_interval=0", ["trainer.val_check_interval=0"]),
    ("trainer.log_every_n_steps=0", ["trainer.log_every_n_steps=0"]),
    ("trainer.accumulate_grad_batches=0", ["trainer.accumulate_grad_batches=0"]),
    ("trainer.check_val_every_n_epoch=0", ["trainer.check_val_every_n_epoch=0"]),
    ("trainer.gradient_clip_val=-1", ["trainer.gradient_clip_val=-1"]),
    ("trainer.accelerator=nonsense", ["trainer.accelerator=nonsense", "cpu"]),
    # values that do not fit together
    ("model.num_heads=5", ["embed_dim=16", "num_heads=5"]),
    ("model.patch_size=15", ["patch_size=15", "56×56"]),
    ("model=cell_pool data.cell_size=21", ["patch_size=14", "cell_size=21"]),
    ("model.pos_embed=rope model.num_heads=8", ["rope", "num_heads", "4"]),
    ("data.samples_per_epoch=8", ["samples_per_epoch=8", "batch_size=16"]),
    ("optimizer=sgd optimizer.momentum=0", ["momentum", "nesterov"]),
    ("task.monitor=val/nonsense", ["task.monitor=val/nonsense", "val/sequence_accuracy"]),
    ("task.monitor=val/cell_accuracy", ["task.monitor=val/cell_accuracy", "val/sequence_accuracy"]),
    (
        "data=images",
        ["data=images does not fit task=seq2seq: its batches lack digits; data that fit task=seq2seq: stitched"],
    ),
    ("task.optimizer.lr=0.1", ["task.optimizer.lr", "set that instead"]),
    # a model that does not fit the task or its data
    ("task=classify model=encoder_decoder", ["model=encoder_decoder does not fit task=classify", "are cnn, vit"]),
    ("task=sum model=vit", ["model=vit does not fit task=sum", "sum_distribution", "fits: classify, icons"]),
    ("data=sequences", ["data=sequences does not fit task=seq2seq", "data.rows", "task=seq2seq: stitched"]),
    ("model._target_=patchwork.tasks.Seq2Seq", ["model._target_=patchwork.tasks.Seq2Seq", "patchwork.models"]),
    ("model.rows=3", ["rows", "3", "2"]),
    ("model.num_classes=3", ["num_classes", "3", "10"]),
    ("model.in_channels=3", ["in_channels", "3"]),
]


@pytest.mark.parametrize(("overrides", "fragments"), WRONG, ids=[overrides for overrides, _ in WRONG])
def test_wrong_overrides(refused: Refused, overrides: str, fragments: list[str]) -> None:
    tiny = [override for override in TINY if override != "model.stem=null" or "model.stem." not in overrides]
    line = refused("train", *tiny, *re.split(r" (?=\S+=)", overrides), code=CONFIG)
    assert [fragment for fragment in fragments if fragment not in line] == [], line


@pytest.mark.parametrize(
    ("overrides", "fragment"),
    [
        ("trainer.limit_val_batches=0.0001", "trainer.limit_val_batches=0.0001 of 4 validation batches rounds to 0"),
        (
            "trainer.limit_train_batches=1 trainer.val_check_interval=0.4",
            "trainer.val_check_interval=0.4 of 1 training batch rounds to 0",
        ),
    ],
)
def test_fractions_that_leave_no_batch(refused: Refused, overrides: str, fragment: str) -> None:
    """How many batches there are is known after the data is read."""
    line = refused("train", *TINY, *overrides.split(), code=CONFIG, after_data=True)
    assert fragment in line
    assert "use a larger fraction" in line


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_accelerator_that_is_not_available(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, name: str, loaded: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    line = refused("train", *TINY, f"accelerator={name}", code=RESOURCE)
    assert f"trainer.accelerator={name}" in line
    assert "auto, cpu" in line
    assert loaded == []


@pytest.mark.parametrize("override", ["model.embed_dim=40000000", "data.val_size=1000000000000"])
def test_too_little_memory(refused: Refused, override: str) -> None:
    line = refused("train", *TINY, override, code=RESOURCE)
    assert "out of memory" in line
    assert "data.batch_size" in line


# --- data ------------------------------------------------------------------------------------------------------------


def test_missing_data(refused: Refused) -> None:
    line = refused("train", *TINY, "dataset=mnist", "dataset.root=nowhere", code=DATA)
    assert "dataset.root='nowhere'" in line
    assert "use a directory with the four IDX files" in line


@pytest.mark.parametrize("choice", ["mnist", "auto"])
def test_damaged_data(refused: Refused, tmp_path_factory: pytest.TempPathFactory, choice: str) -> None:
    directory = tmp_path_factory.mktemp("mnist")
    names = [*mnist.MNIST.dataset.digests]
    for name in names:
        (directory / name).write_bytes(idx_header(name, 2) + bytes(5))
    line = refused("train", *TINY, f"dataset={choice}", f"dataset.root={directory}", code=DATA)
    assert f"{directory / names[0]} is damaged" in line


def test_run_was_trained_on_other_data(refused: Refused, run_copy: Path) -> None:
    manifest = json.loads((run_copy / "manifest.json").read_bytes())
    (run_copy / "manifest.json").write_text(json.dumps({**manifest, "dataset": "mnist", "dataset_sha256": "0" * 64}))
    line = refused("evaluate", f"run={run_copy}", code=DATA)
    assert "dataset=uci" in line
    assert "dataset=mnist" in line


# --- the disk --------------------------------------------------------------------------------------------------------


def test_run_dir_is_a_file(refused: Refused, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("disk") / "file"
    file.touch()
    assert f"run_dir={file} is a file" in refused("train", *TINY, f"run_dir={file}", code=CONFIG)
    line = refused("train", *TINY, f"run_dir={file / 'below'}", code=RESOURCE)
    assert f"run_dir={file / 'below'} cannot be created: Not a directory" in line


def raise_disk_full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    "name", ["config.yaml", "manifest.json", "metrics.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"]
)
def test_full_disk(refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    """The file that cannot be written is named, and what was written before is whole."""
    fsync, path = os.fsync, tmp_path / "run" / name

    def fsync_unless_full(descriptor: int) -> None:
        for temporary in path.parent.glob(f".{path.name}.*.part"):
            if os.path.samestat(os.fstat(descriptor), temporary.stat()):
                raise_disk_full()
        fsync(descriptor)

    monkeypatch.setattr(atomic.os, "fsync", fsync_unless_full)
    line = refused("train", *TINY, "run_dir=run", code=RESOURCE, leaves_files=True)
    assert f"run/{name} cannot be written: the disk is full" in line
    assert partial_files(tmp_path) == []
    assert not path.exists()
    for checkpoint in tmp_path.rglob("*.ckpt"):
        assert read_checkpoint(checkpoint)


def test_full_disk_at_the_figures(refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", raise_disk_full)
    assert "run/figures" in refused("train", *TINY, "run_dir=run", code=RESOURCE, leaves_files=True)
    assert partial_files(tmp_path) == []


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_loss_that_is_not_finite(refused: Refused, tmp_path: Path) -> None:
    """The error says where it happened, and the saved weights are those from before."""
    overrides = ["data.samples_per_epoch=96", "checkpoint_every_seconds=0", "optimizer=sgd", "optimizer.lr=1e30"]
    line = refused("train", *TINY, *overrides, "run_dir=run", code=NUMERIC, leaves_files=True)
    assert "loss is nan" in line
    assert "optimizer.lr" in line
    assert "step 1" in line
    assert json.loads((tmp_path / "run" / "manifest.json").read_bytes())["status"].startswith("NumericError: ")
    weights = read_checkpoint(tmp_path / "run" / "checkpoints" / LAST)["state_dict"]
    assert all(weight.isfinite().all() for weight in weights.values())


def test_validation_that_is_not_finite(refused: Refused) -> None:
    """The only step of this epoch is finite, but the weights after it are not."""
    overrides = ["data.samples_per_epoch=32", "data.batch_size=32", "optimizer=sgd", "optimizer.lr=1e30"]
    line = refused("train", *TINY, *overrides, "run_dir=run", code=NUMERIC, leaves_files=True)
    assert "val/loss" in line
    assert "nan" in line


# --- runs and checkpoints --------------------------------------------------------------------------------------------


def test_finished_run_has_no_error(
    finished_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], loaded: list[str]
) -> None:
    """Loading a run reads no data, and evaluating it warns of nothing and writes nothing."""
    Run.load(finished_run)
    assert loaded == []
    assert run_command("evaluate", f"run={finished_run}", cwd=tmp_path) == 0
    output, errors = capfd.readouterr()
    assert all(line.endswith("as before") for line in output.splitlines() if "test/" in line)
    assert "test/loss" in output
    assert errors == ""
    assert list(tmp_path.iterdir()) == []


def test_partial_files_of_a_killed_process_are_removed(run_copy: Path, tmp_path: Path) -> None:
    partial = run_copy / "checkpoints" / ".last.ckpt.1.part"
    partial.write_bytes(b"half")
    assert run_command("train", f"resume={set_unfinished(run_copy)}", cwd=tmp_path) == 0
    assert not partial.exists()


@pytest.mark.parametrize(
    ("args", "fragments"),
    [
        ("", ["run is missing"]),
        ("runs=x", ["runs=x", "did you mean run=x?"]),
        ("run=x +seed=1", ["+seed=1", "run"]),
        ("run=x num_samples=5", ["num_samples=5", "an integer of 10 or more"]),
        ("x", ["'x'", "key=value", "run directory"]),
        ("--run=x", ["--run=x is not an option of this command: write run=x"]),
        ("n_trials=3", ["n_trials=3 is not a key of this command; it is a key of patchwork sweep"]),
        ("dataset=mnist", ["it is a key of patchwork train"]),
        ("data.batch_size=3", ["it is a key of patchwork train"]),
    ],
)
def test_wrong_arguments_of_evaluate(refused: Refused, args: str, fragments: list[str]) -> None:
    line = refused("evaluate", *args.split(), code=CONFIG)
    assert [fragment for fragment in fragments if fragment not in line] == []


@pytest.mark.parametrize(("name", "key"), [("evaluate", "run"), ("train", "resume")])
def test_run_dir_that_holds_no_run(
    refused: Refused, tmp_path_factory: pytest.TempPathFactory, name: str, key: str
) -> None:
    foreign = tmp_path_factory.mktemp("foreign")
    (foreign / "notes.txt").write_text("no run")
    for directory in ("nowhere", str(foreign)):
        line = refused(name, f"{key}={directory}", code=DATA)
        assert f"{directory} is not a run directory" in line


def test_run_dir_that_holds_another_run(refused: Refused, finished_run: Path) -> None:
    line = refused("train", *TINY, f"run_dir={finished_run}", code=CONFIG)
    assert f"run_dir={finished_run} already holds a run" in line
    assert "resume=auto" in line
    overrides = ["resume=auto", "checkpoint_every_seconds=1", "seed=7"]
    line = refused("train", *TINY, f"run_dir={finished_run}", *overrides, code=CONFIG)
    assert "seed=7" in line
    assert "use 3" in line
    line = refused("train", f"resume={finished_run}", "seed=1", code=CONFIG)
    assert "seed=1 cannot be set when a run is resumed" in line


class Code:
    """Unpickling it runs code."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


def replace(path: Path, state: dict) -> None:
    path.unlink()
    write_checkpoint(state, path)


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (flip_bit, "is damaged: its contents do not match its SHA-256"),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size - 100), "is damaged or foreign"),
    "empty": (lambda path: os.truncate(path, 0), "is damaged or foreign"),
    "foreign": (lambda path: torch.save({"state_dict": {}}, path), "is damaged or foreign"),
    "missing": (lambda path: shutil.rmtree(path.parent), "its weights are gone"),
    "without weights": (lambda path: replace(path, {"epoch": 3}), "state_dict"),
    "of another model": (lambda path: replace(path, {"state_dict": {"model.x": torch.zeros(2)}}), "another model"),
    "with code": (lambda path: replace(path, {"state_dict": {}, "code": Code()}), "is damaged or foreign"),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_damaged_checkpoint(refused: Refused, run_copy: Path, kind: str) -> None:
    damage, message = CHECKPOINTS[kind]
    damage(run_copy / "checkpoints" / BEST)
    line = refused("evaluate", f"run={run_copy}", code=DATA)
    assert str(run_copy) in line
    assert message in line


def test_best_checkpoint_lost_between_two_renames(run_copy: Path) -> None:
    """The previous best weights are loaded, with a warning, and never silently those of the last epoch."""
    best, last = (run_copy / "checkpoints" / name for name in (BEST, LAST))
    weights = read_checkpoint(best)["state_dict"]
    zeros = {name: weight * 0 for name, weight in weights.items()}
    write_checkpoint({**read_checkpoint(last), "state_dict": zeros}, last)
    best.rename(backup_path(best))
    with pytest.warns(UserWarning, match="best-previous"):
        loaded = Run.load(run_copy).task.state_dict()
    assert all(loaded[name].equal(weight) for name, weight in weights.items())


def test_damaged_checkpoint_to_resume_from(
    refused: Refused, run_copy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It is an error, unless there is a previous one."""
    last = set_unfinished(run_copy) / "checkpoints" / LAST
    intact = last.read_bytes()
    flip_bit(last)
    assert f"checkpoint {last} is damaged" in refused("train", f"resume={run_copy}", code=DATA)
    backup_path(last).write_bytes(intact)
    assert run_command("train", f"resume={run_copy}", cwd=tmp_path) == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"warning: checkpoint {last} is damaged")
    assert "last-previous.ckpt" in line


@pytest.mark.parametrize("content", [b'{"seed"', b"[]", b'"finished"', b"\xff\xfe"], ids=repr)
@pytest.mark.parametrize(("name", "key"), [("evaluate", "run"), ("train", "resume")])
def test_damaged_manifest(refused: Refused, run_copy: Path, content: bytes, name: str, key: str) -> None:
    (run_copy / "manifest.json").write_bytes(content)
    assert f"{run_copy / 'manifest.json'} is damaged" in refused(name, f"{key}={run_copy}", code=DATA)


@pytest.mark.parametrize("content", [b"{{{", b"- 1", b"3", b"\xff\xfe\x00", b"a: !!python/name:os.system"], ids=repr)
def test_damaged_config(refused: Refused, run_copy: Path, content: bytes) -> None:
    (run_copy / "config.yaml").write_bytes(content)
    assert f"{run_copy / 'config.yaml'} is damaged" in refused("evaluate", f"run={run_copy}", code=DATA)


# --- targets in the configuration of a run ---------------------------------------------------------------------------

FOREIGN = ["os.system", "patchwork.data.sources.idx_source.os.system", "torch.utils.collect_env.run", "builtins.eval"]
NODES = ["task", "model", "model.stem", "data", "data.dataset", "data.augment", "dataset", "optimizer", "trainer"]
NODES += ["logger.metrics"]
NEW_NODES = ["callbacks.extra", "model.extra", "data.extra", "data.augment.extra", "task.scheduler.extra", "extra"]


def set_target(run_dir: Path, path: str, node: dict[str, object]) -> None:
    """Put a node into the config.yaml of a run, in place of the one at a dotted path, or as a new one."""
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    *parents, name = path.split(".")
    owner = config
    for parent in parents:
        owner = owner[parent]
    owner[name] = {**(owner.get(name) or {}), **node}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def assert_refused_unexecuted(run_dir: Path, witness: Path, path: str) -> None:
    with pytest.raises(ConfigError) as error:
        Run.load(run_dir)
    assert not witness.exists()
    assert "\n" not in str(error.value)
    assert path in str(error.value)


@pytest.mark.parametrize("path", [*NODES, *NEW_NODES])
def test_foreign_target_is_refused(run_copy: Path, tmp_path: Path, path: str) -> None:
    config = (run_copy / "config.yaml").read_bytes()
    for target in FOREIGN:
        (run_copy / "config.yaml").write_bytes(config)
        set_target(run_copy, path, {"_target_": target, "command": f"touch {tmp_path / 'executed'}"})
        assert_refused_unexecuted(run_copy, tmp_path / "executed", path.removesuffix(".extra"))


@pytest.mark.parametrize("target", FOREIGN)
def test_foreign_target_in_a_list_is_refused(run_copy: Path, tmp_path: Path, target: str) -> None:
    node = {"_target_": target, "command": f"touch {tmp_path / 'executed'}"}
    layers = [{"channels": 8, "kernel": 3, "padding": node}]
    for path in ("model.stem", "task.model.stem"):
        set_target(run_copy, path, {"_target_": "patchwork.models.ConvStem", "precision": "bf16", "layers": layers})
    assert_refused_unexecuted(run_copy, tmp_path / "executed", "model.stem.layers")


def test_foreign_target_is_refused_by_the_commands(refused: Refused, run_copy: Path) -> None:
    set_target(set_unfinished(run_copy), "task", {"_target_": "os.system", "command": "touch executed"})
    for name, key in (("evaluate", "run"), ("train", "resume")):
        line = refused(name, f"{key}={run_copy}", code=CONFIG)
        assert "task._target_=os.system is not allowed" in line
        assert "patchwork.tasks" in line


# --- processes of their own ------------------------------------------------------------------------------------------


def limit_file_size() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # as on a full disk, a checkpoint does not fit


@pytest.mark.parametrize(
    ("args", "code", "fragments"),
    [
        (["model.embed_dim=-4"], CONFIG, ["model.embed_dim=-4", "a positive integer"]),
        ([*TINY, "run_dir=run"], RESOURCE, ["run/checkpoints/best.ckpt", "cannot be written"]),
    ],
    ids=["configuration", "disk"],
)
def test_train_script(tmp_path: Path, args: list[str], code: int, fragments: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, ROOT / "train.py", *args],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},  # the limit would cut .pyc files
        preexec_fn=limit_file_size,
        capture_output=True,
        text=True,
    )
    assert result.returncode == code, result.stderr
    (line,) = result.stderr.splitlines()
    assert [fragment for fragment in fragments if fragment not in line] == []
    assert partial_files(tmp_path) == []
    assert code == RESOURCE or list(tmp_path.iterdir()) == []

"""Wrong input is told in one line that names key, value and what is allowed, with an exit code by kind.

The commands run in this process, as `sys.argv` would have them; a few run as processes of their own, to prove the same.
"""

import errno
import json
import os
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import matplotlib.figure
import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra

from patchwork.checkpoints import BEST, LAST, previous, read, write
from patchwork.data import digits
from patchwork.errors import ConfigError
from patchwork.run import Run

ROOT = Path(__file__).parent.parent
TINY = [
    "task=seq2seq",
    "model=encoder_decoder",
    "digits=uci",
    "callbacks=none",
    "model.embed_dim=16",
    "model.stem=[]",
    "model.patch_size=14",
    "model.stem_bfloat16=false",
    "data.train_size=64",
    "data.batch_size=32",
    "data.val_size=32",
    "data.test_size=32",
    "data.eval_batch_size=32",
    "trainer.max_epochs=1",
]
CONFIG, DATA, NUMERIC, RESOURCE = 2, 3, 4, 5


def run(script: str, *words: str, place: Path) -> int:
    """Run a command in the folder `place` and return its exit code; what it changed in this process is put back."""
    GlobalHydra.instance().clear()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with pytest.MonkeyPatch.context() as change, patch.dict(os.environ), warnings.catch_warnings():
        change.chdir(place)
        change.setattr(sys, "argv", [str(ROOT / script), *words])
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 1
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return 0


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the list of digit sources that were read since."""
    names: list[str] = []

    def recording(load: Callable) -> Callable:
        return lambda source: names.append(type(source).__name__) or load(source)

    for source in (digits.UCI, digits.MNIST, digits.Auto):
        monkeypatch.setattr(source, "load", recording(vars(source)["load"]))
    return names


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], loaded: list[str]) -> Callable[..., str]:
    """Run a command that must end with `code`, leave no file and say one line, which is returned."""

    def check(script: str, *words: str, code: int, leaves: bool = False) -> str:
        capfd.readouterr()
        ended = run(script, *words, place=tmp_path)
        said = capfd.readouterr().err
        assert ended == code, said
        assert "Traceback" not in said
        assert len(said.splitlines()) == 1, said
        assert said.startswith(f"{script}: ")
        if not leaves:
            assert list(tmp_path.iterdir()) == []
        if code == CONFIG:
            assert loaded == [], "data was read before the configuration was known to be right"
        return said

    return check


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make one tiny run for all tests; change copies of it only."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert run("train.py", *TINY, f"folder={folder}", place=folder.parent) == 0
    return folder


@pytest.fixture
def kept(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a copy of the finished run, to damage."""
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("kept") / "run"))


def unfinished(folder: Path) -> Path:
    """Make a run look as if it had not come to its end."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "status": "running"}))
    return folder


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_what_a_killed_process_was_writing_is_removed(kept: Path, tmp_path: Path) -> None:
    part = kept / "checkpoints" / ".last.ckpt.1.part"
    part.write_bytes(b"half")
    assert run("train.py", f"resume={unfinished(kept)}", place=tmp_path) == 0
    assert not part.exists()


def parts_of(folder: Path) -> list[Path]:
    return list(folder.rglob("*.part"))


# --- the command line ------------------------------------------------------------------------------------------------

WRONG: list[tuple[str, list[str]]] = [
    # unknown keys
    ("nonsense=1", ["nonsense", "1", "seed"]),
    ("+nonsense=1", ["nonsense=1", "seed"]),
    ("++nonsense.deep=1", ["nonsense", "seed"]),
    ("optimiser=adam", ["optimiser", "adam", "did you mean optimizer"]),
    ("model.embed_dims=64", ["model.embed_dims", "64", "did you mean embed_dim"]),
    ("+model.embed_dims=64", ["model.embed_dims=64", "did you mean embed_dim"]),
    ("+trainer.nonsense=1", ["trainer.nonsense=1", "max_epochs"]),
    ("+trainer.logger=true", ["trainer.logger", "max_epochs"]),
    ("+data.augment.skew=1", ["data.augment.skew=1", "rotation"]),
    ("model.stem=[{channels: 8, kernel: 3, width: 1}]", ["model.stem", "width"]),
    ("optimizer=sgd optimizer.betas=[0.9,0.9]", ["optimizer.betas", "momentum", "nesterov"]),
    ("scheduler=constant scheduler.warmup=0.1", ["scheduler.warmup"]),
    ("+callbacks.extra=3", ["callbacks.extra=3"]),
    ("+logger.extra._target_=os.system", ["logger.extra", "os.system", "patchwork.loggers"]),
    ("~optimizer.lr", ["optimizer.lr"]),
    ("--nonsense", ["--nonsense"]),
    ("nonsense", ["nonsense"]),
    ("seed=0,1", ["seed=0,1", "-m"]),
    ("scheduler=constant +scheduler.warmup=0.1", ["scheduler.warmup=0.1", "it has no keys"]),
    # unknown choices
    ("task=nonsense", ["task=nonsense", "seq2seq"]),
    ("model=nonsense", ["model=nonsense", "encoder_decoder", "quadrant, "]),
    ("optimizer=nonsense", ["optimizer=nonsense", "adam, adamw, muon, sgd"]),
    ("experiment=nonsense", ["experiment=nonsense", "first"]),
    ("logger=null", ["logger", "null"]),
    # wrong types
    ("seed=abc", ["seed='abc'", "integer"]),
    ("seed=null", ["seed", "integer"]),
    ("model.embed_dim=64.5", ["model.embed_dim=64.5", "integer"]),
    ("model.embed_dim='64'", ["model.embed_dim='64'", "integer"]),
    ("model.norm_first=1", ["model.norm_first=1", "boolean"]),
    ("model.norm_first=null", ["model.norm_first=null", "boolean"]),
    ("model.stem=3", ["model.stem=3", "list"]),
    ("optimizer.lr=fast", ["optimizer.lr='fast'", "number"]),
    ("optimizer=adamw optimizer.betas=[0.9]", ["optimizer.betas=[0.9]", "2"]),
    ("optimizer._partial_=false", ["optimizer"]),
    ("data.digits=null", ["data.digits"]),
    ("trainer.max_epochs=abc", ["trainer.max_epochs='abc'", "integer"]),
    ("folder=3", ["folder=3", "string"]),
    ("folder=''", ["folder"]),
    # values out of range
    ("seed=-1", ["seed=-1", "greater than or equal to 0"]),
    ("seed=4294967296", ["seed=4294967296", "4294967295"]),
    ("save_seconds=-1", ["save_seconds=-1", "greater than or equal to 0"]),
    ("model.embed_dim=-4", ["model.embed_dim=-4", "greater than 0"]),
    ("model.dropout=1.0", ["model.dropout=1.0", "less than 1"]),
    ("model.mlp_ratio=inf", ["model.mlp_ratio=inf"]),
    ("model.mlp_ratio=0.0001", ["mlp_ratio"]),
    ("model.positions=nowhere", ["model.positions='nowhere'", "'learned' or 'rotary'"]),
    ("optimizer.lr=0", ["optimizer.lr=0", "greater than 0"]),
    ("optimizer.lr=inf", ["optimizer.lr=inf", "finite"]),
    ("scheduler.warmup=2", ["scheduler.warmup=2", "less than or equal to 1"]),
    ("data.batch_size=0", ["data.batch_size=0", "greater than 0"]),
    ("data.num_classes=11", ["data.num_classes=11", "less than or equal to 10"]),
    ("digits.validation=5000", ["digits.validation=5000", "1436"]),
    ("task.mode=best", ["task.mode='best'", "'max' or 'min'"]),
    ("trainer.precision=8", ["trainer.precision=8", "32-true"]),
    ("trainer.max_epochs=-2", ["max_epochs", "-2"]),
    ("trainer.max_epochs=0", ["trainer.max_epochs=0"]),
    ("trainer.limit_train_batches=0", ["trainer.limit_train_batches=0"]),
    ("trainer.limit_test_batches=0", ["trainer.limit_test_batches=0"]),
    ("trainer.val_check_interval=0", ["trainer.val_check_interval=0"]),
    ("trainer.log_every_n_steps=0", ["trainer.log_every_n_steps=0"]),
    ("trainer.accumulate_grad_batches=0", ["trainer.accumulate_grad_batches=0"]),
    ("trainer.check_val_every_n_epoch=0", ["trainer.check_val_every_n_epoch=0"]),
    ("trainer.gradient_clip_val=-1", ["trainer.gradient_clip_val=-1"]),
    ("trainer.accelerator=nonsense", ["trainer.accelerator=nonsense", "cpu"]),
    # values that do not fit together
    ("model.num_heads=5", ["embed_dim=16", "num_heads=5"]),
    ("model.patch_size=15", ["patch_size=15", "56×56"]),
    ("model=quadrant data.cell_size=21", ["patch_size=14", "cell_size=21"]),
    ("model.positions=rotary model.num_heads=8", ["rotary", "num_heads", "4"]),
    ("data.train_size=8", ["train_size=8", "batch_size=32"]),
    ("optimizer=sgd optimizer.momentum=0", ["momentum", "nesterov"]),
    ("trainer.val_check_interval=1000", ["val_check_interval", "1000", "less than or equal to 1"]),
    ("task.monitor=val/nonsense", ["task.monitor=val/nonsense", "val/sequence_accuracy"]),
    ("task.monitor=val/cell_accuracy", ["task.monitor=val/cell_accuracy", "val/sequence_accuracy"]),
    ("data=single", ["model.rows", "not fit"]),
    ("task.optimizer.lr=0.1", ["task.optimizer.lr", "set optimizer.lr"]),
    # a model that does not fit the task or its data
    ("model._target_=patchwork.tasks.Seq2Seq", ["model._target_=patchwork.tasks.Seq2Seq", "patchwork.models"]),
    ("model.rows=3", ["rows", "3", "2"]),
    ("model.num_classes=3", ["num_classes", "3", "10"]),
    ("model.in_channels=3", ["in_channels", "3"]),
]


@pytest.mark.parametrize(("words", "fragments"), WRONG, ids=[words for words, _ in WRONG])
def test_wrong_configuration(refused: Callable[..., str], words: str, fragments: list[str]) -> None:
    said = refused("train.py", *TINY, *re.split(r" (?=\S+=)", words), code=CONFIG)
    assert [fragment for fragment in fragments if fragment not in said] == [], said


@pytest.mark.parametrize(
    "words",
    ["trainer.limit_val_batches=0.0001", "trainer.limit_train_batches=1 trainer.val_check_interval=0.4"],
)
def test_shares_that_leave_no_batch(refused: Callable[..., str], loaded: list[str], words: str) -> None:
    loaded.append("whatever")  # how many batches there are is known when the data is
    with pytest.raises(AssertionError, match="data was read"):
        refused("train.py", *TINY, *words.split(), code=CONFIG)


def test_each_wrong_job_of_a_multirun_is_told_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("train.py", "-m", "seed=-1,-2", *TINY, place=tmp_path) == CONFIG
    said = capfd.readouterr().err.splitlines()
    assert [line.split(" ")[1] for line in said] == ["seed=-1", "seed=-2"], said
    assert not (tmp_path / "outputs" / "seq2seq").exists()


@pytest.mark.parametrize("name", ["cuda", "mps"])
def test_accelerator_that_is_not_there(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, name: str, loaded: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    said = refused("train.py", *TINY, f"accelerator={name}", code=RESOURCE)
    assert f"trainer.accelerator={name}" in said
    assert "auto, cpu" in said
    assert loaded == []


@pytest.mark.parametrize("word", ["model.embed_dim=40000000", "data.val_size=1000000000000"])
def test_more_than_the_memory_holds(refused: Callable[..., str], word: str) -> None:
    said = refused("train.py", *TINY, word, code=RESOURCE)
    assert "not enough memory" in said
    assert "data.batch_size" in said


# --- data ------------------------------------------------------------------------------------------------------------


def test_missing_data(refused: Callable[..., str]) -> None:
    said = refused("train.py", *TINY, "digits=mnist", "digits.root=nowhere", code=DATA)
    assert "digits.root='nowhere'" in said
    assert "allowed is a folder with the four IDX files" in said


@pytest.mark.parametrize("choice", ["mnist", "auto"])
def test_damaged_data(refused: Callable[..., str], tmp_path_factory: pytest.TempPathFactory, choice: str) -> None:
    folder = tmp_path_factory.mktemp("mnist")
    for name in digits.DIGESTS:
        (folder / name).write_bytes(digits.header(name, 2) + bytes(5))
    said = refused("train.py", *TINY, f"digits={choice}", f"digits.root={folder}", code=DATA)
    assert f"{folder / next(iter(digits.DIGESTS))} is damaged" in said


def test_other_data_than_the_run_had(refused: Callable[..., str], kept: Path) -> None:
    manifest = json.loads((kept / "manifest.json").read_bytes())
    (kept / "manifest.json").write_text(json.dumps({**manifest, "digits": "mnist", "data_digest": "0" * 64}))
    said = refused("evaluate.py", f"run={kept}", code=DATA)
    assert "digits=uci" in said
    assert "digits=mnist" in said


# --- the disk --------------------------------------------------------------------------------------------------------


def test_a_file_in_place_of_the_folder(refused: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("disk") / "file"
    file.touch()
    assert f"folder={file} is a file" in refused("train.py", *TINY, f"folder={file}", code=CONFIG)
    said = refused("train.py", *TINY, f"folder={file / 'below'}", code=RESOURCE)
    assert f"folder={file / 'below'} cannot be made: Not a directory" in said


@pytest.mark.parametrize("writes", [0, 2, 3, 4, 6], ids=["config", "metrics", "best", "last", "manifest"])
def test_full_disk(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, writes: int) -> None:
    sync, done = os.fsync, []

    def full(descriptor: int) -> None:
        if len(done) == 2 * writes:  # each syncs the file, then its folder
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done.append(descriptor)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    said = refused("train.py", *TINY, "folder=run", code=RESOURCE, leaves=True)
    assert "run/" in said
    assert "the disk is full" in said
    assert parts_of(tmp_path) == []
    for path in tmp_path.rglob("*.ckpt"):
        assert read(path)


def test_full_disk_under_the_figures(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", full)
    assert "figures" in refused("train.py", *TINY, "folder=run", code=RESOURCE, leaves=True)
    assert parts_of(tmp_path) == []


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_loss_that_is_not_finite(refused: Callable[..., str], tmp_path: Path) -> None:
    said = refused("train.py", *TINY, "optimizer=sgd", "optimizer.lr=1e30", "folder=run", code=NUMERIC, leaves=True)
    assert "loss is nan" in said
    assert "optimizer.lr" in said
    assert "step 1" in said
    assert json.loads((tmp_path / "run" / "manifest.json").read_bytes())["status"].startswith("NumericError: ")


def test_weights_kept_are_from_before_the_loss_was_not_finite(refused: Callable[..., str], tmp_path: Path) -> None:
    settings = ["data.train_size=96", "save_seconds=0", "optimizer=sgd", "optimizer.lr=1e30"]
    refused("train.py", *TINY, *settings, "folder=run", code=NUMERIC, leaves=True)
    weights = read(tmp_path / "run" / "checkpoints" / LAST)["state_dict"]
    assert all(weight.isfinite().all() for weight in weights.values())


def test_validation_that_is_not_finite(refused: Callable[..., str]) -> None:
    """The only step of this epoch is finite, and what it makes of the weights is not."""
    settings = ["data.train_size=32", "optimizer=sgd", "optimizer.lr=1e30"]
    said = refused("train.py", *TINY, *settings, "folder=run", code=NUMERIC, leaves=True)
    assert "val/loss" in said
    assert "nan" in said


# --- runs and checkpoints --------------------------------------------------------------------------------------------


def test_nothing_is_wrong_with_the_finished_run(
    finished: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], loaded: list[str]
) -> None:
    Run.load(finished)
    assert loaded == []
    assert run("evaluate.py", f"run={finished}", place=tmp_path) == 0
    said, warned = capfd.readouterr()
    assert said.count("as before") == len(said.splitlines()) == 7
    assert warned == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["", "runs=x", "run=x +seed=1"])
def test_wrong_words_of_evaluate(refused: Callable[..., str], words: str) -> None:
    assert "run" in refused("evaluate.py", *words.split(), code=CONFIG)


def test_run_that_is_not_there(refused: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> None:
    foreign = tmp_path_factory.mktemp("foreign")
    (foreign / "notes.txt").write_text("no run")
    for folder in ("nowhere", str(foreign)):
        for script, word in (("evaluate.py", "run"), ("train.py", "resume")):
            said = refused(script, f"{word}={folder}", code=DATA)
            assert f"{folder} is not a run's folder" in said
            assert "config.yaml" in said


def test_folder_that_holds_another_run(refused: Callable[..., str], finished: Path) -> None:
    said = refused("train.py", *TINY, f"folder={finished}", code=CONFIG)
    assert f"folder={finished}" in said
    assert "resume=auto" in said
    said = refused("train.py", *TINY, f"folder={finished}", "resume=auto", "save_seconds=1", "seed=7", code=CONFIG)
    assert "seed=7" in said
    assert "use 0" in said
    said = refused("train.py", f"resume={finished}", "seed=1", code=CONFIG)
    assert "seed=1" in said


class Code:
    """Pickled, this is code that runs when it is loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


def replace(path: Path, state: dict) -> None:
    path.unlink()
    write(state, path)


CHECKPOINTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (flip, "is damaged: its contents do not match its SHA-256"),
    "truncated": (lambda path: os.truncate(path, path.stat().st_size - 100), "is damaged or foreign"),
    "empty": (lambda path: os.truncate(path, 0), "is damaged or foreign"),
    "foreign": (lambda path: torch.save({"state_dict": {}}, path), "is damaged or foreign"),
    "gone": (lambda path: shutil.rmtree(path.parent), "No such file"),
    "without weights": (lambda path: replace(path, {"epoch": 3}), "state_dict"),
    "of another model": (lambda path: replace(path, {"state_dict": {"model.x": torch.zeros(2)}}), "another model"),
    "with code in it": (lambda path: replace(path, {"state_dict": {}, "code": Code()}), "is damaged or foreign"),
}


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_wrong_checkpoint(refused: Callable[..., str], kept: Path, kind: str) -> None:
    damage, fault = CHECKPOINTS[kind]
    damage(kept / "checkpoints" / BEST)
    said = refused("evaluate.py", f"run={kept}", code=DATA)
    assert str(kept) in said
    assert fault in said


def test_best_checkpoint_lost_between_two_renames(kept: Path, tmp_path: Path) -> None:
    """The best weights are then the previous best, and never those of the last epoch in silence."""
    best = kept / "checkpoints" / BEST
    weights = read(best)["state_dict"]
    state = read(kept / "checkpoints" / LAST)
    write({**state, "state_dict": {name: weight * 0 for name, weight in weights.items()}}, kept / "checkpoints" / LAST)
    best.rename(previous(best))
    with pytest.warns(UserWarning, match="best-previous"):
        loaded = Run.load(kept).task.state_dict()
    assert all(loaded[name].equal(weight) for name, weight in weights.items())


def test_damaged_state_to_resume_from(
    refused: Callable[..., str], kept: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    last = unfinished(kept) / "checkpoints" / LAST
    whole = last.read_bytes()
    flip(last)
    assert f"checkpoint {last} is damaged" in refused("train.py", f"resume={kept}", code=DATA)
    previous(last).write_bytes(whole)
    assert run("train.py", f"resume={kept}", place=tmp_path) == 0
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith(f"warning: checkpoint {last} is damaged")
    assert "last-previous.ckpt" in said


@pytest.mark.parametrize("content", ['{"seed"', "[]", '"finished"', b"\xff\xfe"], ids=repr)
@pytest.mark.parametrize(("script", "word"), [("evaluate.py", "run"), ("train.py", "resume")])
def test_damaged_manifest(
    refused: Callable[..., str], kept: Path, content: str | bytes, script: str, word: str
) -> None:
    (kept / "manifest.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert f"{kept / 'manifest.json'} is damaged" in refused(script, f"{word}={kept}", code=DATA)


@pytest.mark.parametrize("content", ["{{{", "- 1", "3", b"\xff\xfe\x00", "a: !!python/name:os.system"], ids=repr)
def test_damaged_config(refused: Callable[..., str], kept: Path, content: str | bytes) -> None:
    (kept / "config.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert f"{kept / 'config.yaml'} is damaged" in refused("evaluate.py", f"run={kept}", code=DATA)


# --- what a run's config may name ------------------------------------------------------------------------------------

FOREIGN = ["os.system", "patchwork.data.digits.os.system", "torch.utils.collect_env.run", "builtins.eval"]
PLACES = ["task", "model", "data", "data.digits", "data.augment", "digits", "optimizer", "trainer", "logger.metrics"]
NEW = ["callbacks.extra", "model.stem.extra", "data.extra", "task.scheduler.extra", "extra"]


def set_target(folder: Path, place: str, node: dict[str, object]) -> None:
    """Put a node into a run's config.yaml, in place of or into what is at `place`."""
    config = yaml.safe_load((folder / "config.yaml").read_text())
    *parents, name = place.split(".")
    owner = config
    for parent in parents:
        owner = owner[parent]
    if isinstance(owner, list):  # a layer of the stem
        owner.append({"channels": 8, "kernel": 3, "padding": node})
        config["task"]["model"] = config["model"]
    else:
        owner[name] = {**(owner.get(name) or {}), **node}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


@pytest.mark.parametrize("target", FOREIGN)
@pytest.mark.parametrize("place", [*PLACES, *NEW])
def test_foreign_target_is_refused(kept: Path, tmp_path: Path, place: str, target: str) -> None:
    witness = tmp_path / "executed"
    set_target(kept, place, {"_target_": target, "command": f"touch {witness}"})
    with pytest.raises(ConfigError) as fault:
        Run.load(kept)
    assert not witness.exists()
    assert "\n" not in str(fault.value)
    assert place.removesuffix(".extra") in str(fault.value)


def test_foreign_target_is_refused_by_the_commands(refused: Callable[..., str], kept: Path, tmp_path: Path) -> None:
    set_target(unfinished(kept), "task", {"_target_": "os.system", "command": "touch executed"})
    for script, word in (("evaluate.py", "run"), ("train.py", "resume")):
        said = refused(script, f"{word}={kept}", code=CONFIG)
        assert "task._target_=os.system is not allowed" in said
        assert "patchwork.tasks" in said


# --- the real commands -----------------------------------------------------------------------------------------------


def little_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # as on a full disk, a checkpoint does not fit


@pytest.mark.parametrize(
    ("words", "code", "fragments"),
    [
        (["train.py", "model.embed_dim=-4"], CONFIG, ["model.embed_dim=-4", "greater than 0"]),
        (["train.py", *TINY, "folder=run"], RESOURCE, ["run/checkpoints/best.ckpt", "cannot be written"]),
    ],
    ids=["configuration", "disk"],
)
def test_real_command(tmp_path: Path, words: list[str], code: int, fragments: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, ROOT / words[0], *words[1:]],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=little_files,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == code, ended.stderr
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert [fragment for fragment in fragments if fragment not in ended.stderr] == []
    assert parts_of(tmp_path) == []
    assert code == RESOURCE or list(tmp_path.iterdir()) == []

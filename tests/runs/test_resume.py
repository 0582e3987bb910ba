"""Which run a training continues, what may change on the way, and what to type instead where something may not."""

import fcntl
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers import TINY, read_manifest
from hydra.utils import get_object
from omegaconf import OmegaConf

from patchwork.core.errors import ConfigError, DataError, PatchworkWarning
from patchwork.core.schema import check_config, default_values
from patchwork.runs.compose import compose
from patchwork.runs.differences import LAUNCH_KEYS
from patchwork.runs.resume import RESUMABLE_KEYS, find_run
from patchwork.runs.run import Run
from patchwork.runs.run_dir import locate_run, read_config

Command = Callable[..., int]
SAME = [*TINY, "seed=3"]  # the overrides of the finished run


def set_status(run_dir: Path, status: str) -> None:
    path = run_dir / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": status}))


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Let another process hold the lock of a run."""
    script = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    process = [sys.executable, "-S", "-c", script, str(run_dir / ".lock")]
    with subprocess.Popen(process, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        yield
        other.communicate(b"\n")


def refusal(*overrides: str) -> str:
    """Return the line with which overrides are refused, given on the command line."""
    with pytest.raises(ConfigError) as error:
        find_run(compose([*overrides]), overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


# --- a path names its run --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["run", "run/", "./run", "~/run", "run/checkpoints/last.ckpt", "run/checkpoints", "run/config.yaml", "link.ckpt"],
)
def test_path_in_a_run_names_it(run_copy: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.chdir(run_copy.parent)
    monkeypatch.setenv("HOME", str(run_copy.parent))
    Path("link.ckpt").symlink_to(run_copy / "checkpoints/last.ckpt")
    assert locate_run(path).resolve() == run_copy.resolve()


@pytest.mark.parametrize(
    ("directory", "path"),
    [("checkpoints", "best.ckpt"), ("checkpoints", "."), ("figures", ".."), ("figures", "../checkpoints/best.ckpt")],
)
def test_relative_path_within_a_run_names_it(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch, directory: str, path: str
) -> None:
    monkeypatch.chdir(run_copy / directory)
    assert locate_run(path).resolve() == run_copy.resolve()


def test_other_paths_name_no_run(run_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_copy.parent)
    Path("config.yaml").write_text("a: 1")  # of something else
    Path("other").mkdir()
    for path in ("other", "nowhere", "run/checkpoints/nowhere.ckpt", "~no-such-user/run", "x" * 300):
        assert locate_run(path) == Path(path)
    with pytest.raises(DataError, match="is not a run directory"):
        Run.load("run/checkpoints/nowhere.ckpt")


def test_run_is_loaded_by_its_checkpoint(run_copy: Path) -> None:
    """With its best weights, and a warning where another checkpoint was named."""
    assert Run.load(run_copy / "checkpoints/best.ckpt").run_dir == run_copy
    with pytest.warns(PatchworkWarning, match=r"last\.ckpt names its run, of which best\.ckpt is used"):
        assert Run.load(run_copy / "checkpoints/last.ckpt").run_dir == run_copy
    with pytest.warns(PatchworkWarning, match=f"checkpoints is within the run {run_copy}, which is used"):
        assert Run.load(run_copy / "checkpoints").run_dir == run_copy


# --- what may change -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "changed"),
    [
        (["accelerator=cpu"], {"trainer.accelerator": "cpu"}),
        (["accelerator=ddp", "trainer.devices=3"], {"trainer.strategy": "ddp", "trainer.devices": 3}),
        (["logger=tensorboard"], {"logger.tensorboard._partial_": True}),
        (
            ["logger=none", "data.num_workers=1", "checkpoint_every_seconds=5", "trainer.accelerator=cpu"],
            {"logger": {}, "data.num_workers": 1, "checkpoint_every_seconds": 5, "trainer.accelerator": "cpu"},
        ),
        ([*SAME, "trainer.devices=2"], {"trainer.devices": 2}),
        (["seed=3", "data.batch_size=16"], {}),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_resumed_run_takes_what_changes_no_result(
    finished_run: Path, overrides: list[str], changed: dict[str, object]
) -> None:
    overrides = [*overrides, f"resume={finished_run}"]
    config, run_dir = find_run(compose(overrides), overrides)
    assert run_dir == finished_run
    expected = read_config(finished_run)
    for key, value in changed.items():
        assert OmegaConf.select(config, key) == value
    for node in (config, expected):
        for key in RESUMABLE_KEYS:
            OmegaConf.update(node, key, None, force_add=True)
    assert config == expected


@pytest.mark.parametrize("override", ["data.rows=3", "callbacks=default", "task=classify"])
def test_resumed_run_refuses_what_changes_its_result(finished_run: Path, override: str) -> None:
    line = refusal(f"resume={finished_run}", override)
    assert line.startswith(f"{override} cannot be set when a run is resumed: only accelerator, trainer.accelerator")


def test_resumed_run_takes_and_refuses_the_same_from_python(finished_run: Path) -> None:
    config, _ = find_run(compose([f"resume={finished_run}", "trainer.devices=2", "logger=tensorboard"]))
    assert config.trainer.devices == 2
    assert {*config.logger} == {"metrics", "tensorboard"}
    with pytest.raises(ConfigError, match=r"seed=1 cannot be set when a run is resumed"):
        find_run(compose([f"resume={finished_run}", "seed=1", "trainer.devices=2"]))


def test_more_epochs_are_a_new_run_with_the_weights(
    command: Command, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command that the message gives runs as it is."""
    capsys.readouterr()
    assert command("train", f"resume={finished_run}/checkpoints/last.ckpt", "trainer.max_epochs=3") == 2
    line = capsys.readouterr().err
    assert "trainer.max_epochs=3 cannot be set when a run is resumed: its learning-rate schedule is fixed" in line
    assert "ends with epoch 1; to train 2 epochs more, begin a new run: patchwork train dataset=uci" in line
    words = shlex.split(line.strip().partition("begin a new run: patchwork ")[2])
    assert command(*words, "run_dir=more") == 0
    manifest = read_manifest(tmp_path / "more")
    assert (manifest["seed"], manifest["epochs"]) == (3, 2)
    assert manifest["init_from"]["tensors_taken"] == manifest["init_from"]["tensors"]
    assert manifest["init_from"]["path"] == str(finished_run / "checkpoints/best.ckpt")


@pytest.mark.parametrize("name", ["32", "32-true"])
def test_a_precision_is_the_same_by_each_of_its_names(run_copy: Path, name: str) -> None:
    path = run_copy / "config.yaml"
    path.write_text(path.read_text().replace("precision: 32-true", "precision: '32'"))  # as runs have saved it
    same = [*SAME, f"trainer.precision={name}"]
    assert find_run(compose([*same, f"run_dir={run_copy}", "resume=auto"]), same)[1] == run_copy
    assert find_run(compose([*same, f"resume={run_copy}"]), same)[1] == run_copy


def test_only_overrides_that_differ_are_blamed(run_copy: Path) -> None:
    line = refusal(f"resume={run_copy}", *SAME, "trainer.max_epochs=2", "task=seq2seq")
    assert line.startswith("trainer.max_epochs=2 cannot be set when a run is resumed: its learning-rate schedule")
    assert "to train 1 epoch more, begin a new run" in line
    line = refusal(f"resume={run_copy}", "task=classify", *SAME)
    assert line.startswith("task=classify cannot be set")


@pytest.mark.parametrize("resume", ["last", "nope", "outputs/nope", "a,b"])
def test_run_that_does_not_exist_is_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"it does not exist; resume=auto continues .* patchwork runs lists"):
        find_run(OmegaConf.merge(compose(SAME), {"resume": resume}))
    with pytest.raises(DataError, match="it does not exist; patchwork runs lists the runs") as raised:
        Run.load(resume)
    assert "No such file" not in str(raised.value)
    assert ("several runs are written run=[a,b]" in str(raised.value)) is (resume == "a,b")
    Path("empty").mkdir()
    with pytest.raises(DataError, match=r"it has no config\.yaml"):
        Run.load("empty")


def test_unfinished_run_is_finished_first(run_copy: Path) -> None:
    set_status(run_copy, "Interrupted: stopped by SIGTERM")
    line = refusal(f"resume={run_copy}", "trainer.max_epochs=3")
    assert f"patchwork train resume={run_copy} finishes it; to train 2 epochs more, begin a new run: " in line


def test_run_from_python_is_continued_by_its_configuration(run_copy: Path) -> None:
    manifest = run_copy / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "command": None}))
    words = shlex.split(refusal(f"resume={run_copy}", "seed=5").partition("begin a new run: patchwork train ")[2])
    config = compose(words)
    expected = OmegaConf.merge(read_config(run_copy), {"seed": 5, "data": {"seed": 5}, "init_from": str(run_copy)})
    resolved = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
    for key in LAUNCH_KEYS:
        resolved.pop(key)
    assert resolved == expected


def test_keys_that_contradict_resume(finished_run: Path, run_copy: Path) -> None:
    assert "cannot be combined: resume= continues" in refusal(f"resume={run_copy}", f"init_from={finished_run}")
    assert "drop run_dir" in refusal(f"resume={run_copy}", f"run_dir={finished_run}")
    line = refusal(f"run_dir={run_copy}", "resume=auto", *SAME, "trainer.max_epochs=3")
    assert f"use 1, or another directory; init_from={run_copy} begins a new run with its weights" in line


@pytest.mark.parametrize(
    "override", ["ckpt_path=x", "+ckpt_path=x", "trainer.resume_from_checkpoint=x", "pretrained=x"]
)
def test_other_names_of_a_checkpoint_lead_to_the_keys(override: str) -> None:
    with pytest.raises(ConfigError, match="use resume=PATH to continue its run, or init_from=PATH to begin a new run"):
        check_config(compose([override]))


@pytest.mark.parametrize("name", ["evaluate", "predict", "generate"])
def test_commands_that_take_a_run_say_so(command: Command, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert command(name, "ckpt_path=x/last.ckpt") == 2
    assert "did you mean run=x/last.ckpt?" in capsys.readouterr().err.replace("'", "")


# --- resume=auto -----------------------------------------------------------------------------------------------------


def without_defaults(node: object) -> object:
    """Return a configuration without what equals its constructors' defaults, as one that is older than those keys."""
    if not isinstance(node, dict):
        return node
    defaults = default_values(get_object(node["_target_"])) if "_target_" in node else {"init_from": None}
    items = [(key, value) for key, value in node.items() if key not in defaults or value != defaults[key]]
    return {key: without_defaults(value) for key, value in items if key not in ("task_name", "model_name")}


@pytest.fixture
def older_run(finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the relative path of an unfinished run that is older than keys that have defaults."""
    monkeypatch.chdir(tmp_path)
    run_dir = Path("outputs/seq2seq/encoder_decoder/2026-01-01_00-00-00")
    shutil.copytree(finished_run, run_dir)
    set_status(run_dir, "running")
    saved = OmegaConf.to_container(read_config(run_dir))
    (run_dir / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(without_defaults(saved))))
    return run_dir


@pytest.mark.parametrize(
    "override", ["seed=3", "trainer.detect_anomaly=false", "trainer.overfit_batches=0.0", "init_from=null"]
)
def test_run_is_as_it_was_before_there_were_more_keys(older_run: Path, override: str) -> None:
    missing = [key for key in ("detect_anomaly", "overfit_batches") if key not in read_config(older_run).trainer]
    assert missing == ["detect_anomaly", "overfit_batches"]
    for named in (["resume=auto"], [f"run_dir={older_run}", "resume=auto"], [f"resume={older_run}"]):
        overrides = [*SAME, override, *named]
        assert find_run(compose(overrides), overrides)[1] == older_run


@pytest.mark.parametrize("override", ["trainer.detect_anomaly=true", "trainer.overfit_batches=2", "model.dropout=0.1"])
def test_run_without_a_key_does_not_have_another_value_than_its_default(older_run: Path, override: str) -> None:
    assert find_run(compose([*SAME, override, "resume=auto"]))[1] is None
    key, _, value = override.partition("=")
    line = refusal(*SAME, override, f"run_dir={older_run}", "resume=auto")
    assert line.startswith(f"{key}={value} differs from the run in {older_run}: use ")
    assert "use null" not in line
    assert f"{override} cannot be set" in refusal(*SAME, override, f"resume={older_run}")


@pytest.mark.skipif(not hasattr(fcntl, "lockf"), reason="needs locks")
def test_auto_resume_prefers_a_run_that_no_process_trains(
    command: Command, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = tmp_path / "outputs/seq2seq/encoder_decoder"
    older, newer = runs / "2026-01-01_00-00-00", runs / "2026-01-02_00-00-00"
    for run_dir in (older, newer):
        shutil.copytree(finished_run, run_dir)
        set_status(run_dir, "running")
    config = compose([*SAME, "resume=auto"])
    assert find_run(config)[1] == newer.relative_to(tmp_path)
    with locked(newer):
        assert find_run(config)[1] == older.relative_to(tmp_path)
        assert command("train", *SAME, "resume=auto") == 0
        assert f"resume=auto found {older.relative_to(tmp_path)}" in capsys.readouterr().out
        shutil.rmtree(older)
        assert command("train", *SAME, "resume=auto") == 5
    assert "is in use by another process" in capsys.readouterr().err
    assert not os.environ.get("PATCHWORK_RUN_DIR")

"""Weights & Biases: its real client against a local server, sweeps with agents, and runs without a server."""

import json
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import wandb
import yaml
from helpers import ROOT, TINY
from wandb import wandb_agent
from wandb_server import serving

from patchwork.core.errors import ConfigError, Interrupted
from patchwork.training import loggers
from patchwork.training.loss_logger import LossLogger

SWEEP_SETTINGS = [
    {
        "optimizer": {"lr": 0.01},
        "model.num_heads": 2,
        "seed": 1,
        "data.augment": None,
        "scheduler.warmup_ratio": "1e-1",
    },
    {"optimizer.lr": 1e30, "model.num_heads": 4, "seed": 2},  # the loss is soon not finite
]
PROJECT = {"project": "patchwork", "entity": "house"}  # of the stand-in server


@pytest.fixture(autouse=True)
def wandb_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide the user's keys and servers from the client."""
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.teardown()  # the client remembers the server


def read_manifest(run_dir: str | Path) -> dict[str, Any]:
    return json.loads((Path(run_dir) / "manifest.json").read_text())


def test_wandb_is_offline_without_a_key_or_server_and_changes_no_result(
    command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(loggers, "CONNECT_TIMEOUT", 1.0)
    assert command("train", *TINY, "run_dir=plain") == 0
    with socket.create_server(("127.0.0.1", 0)) as silent_server:  # accepts connections and never answers
        urls = {
            "without_key": None,
            "silent": f"http://127.0.0.1:{silent_server.getsockname()[1]}",
            "unreachable": "http://127.0.0.1:9",
        }
        for name, url in urls.items():
            if url is not None:
                monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
                monkeypatch.setenv("WANDB_BASE_URL", url)
            wandb.teardown()
            capsys.readouterr()
            assert command("train", *TINY, "logger=wandb", f"run_dir={name}") == 0
            (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("logger=wandb")]
            assert line.endswith(f"so the run is logged offline; later: wandb sync {name}/wandb/*run-*")
            assert read_manifest("plain")["weights_sha256"] == read_manifest(name)["weights_sha256"]
            assert Path("plain/metrics.csv").read_bytes() == (Path(name) / "metrics.csv").read_bytes()
            assert list((tmp_path / name / "wandb").glob("offline-run-*/*.wandb"))
            assert read_manifest(name)["wandb"]["url"] is None


def test_names_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_SILENT")
    values = {"PROJECT": "mine", "NAME": "my name", "ENTITY": "us", "RUN_GROUP": "ours", "JOB_TYPE": "sweep"}
    for name, value in {**values, "TAGS": "a,b", "NOTES": "first try", "DIR": str(tmp_path / "files")}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.setenv("WANDB_MODE", "offline")
    Path(tmp_path / "files").mkdir()
    logger = loggers.WandbRunLogger(tmp_path / "run")
    logger.start({}, {})
    run = logger.experiment
    assert (run.project, run.name, run.entity, run.group, run.job_type) == tuple(values.values())
    assert (run.tags, run.notes) == (("a", "b"), "first try")
    assert list((tmp_path / "files" / "wandb").glob("offline-run-*"))
    logger.finish(0)
    logger = loggers.WandbRunLogger(tmp_path / "run", project="other", group="theirs", tags=["c"])
    logger.start({}, {"wandb": {"id": "abc", "project": "earlier"}})
    run = logger.experiment
    assert (run.id, run.project, run.group, run.tags, run.entity) == ("abc", "earlier", "theirs", ("c",), "us")
    logger.finish(0)
    captured = capfd.readouterr()
    lines = [line.partition(";")[0] for line in (captured.out + captured.err).splitlines()]
    assert lines == ["logger=wandb: WANDB_MODE=offline, so the run is logged offline"] * 2  # none of the client's own


@pytest.mark.parametrize("variable", ["WANDB_MODE=disabled", "WANDB_DISABLED=true"])
def test_disabled_client_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(*variable.split("="))
    logger = loggers.WandbRunLogger(tmp_path / "run")
    logger.start({}, {})
    assert logger.offline_reason is None
    assert logger.manifest_entry() == {}
    logger.finish(0)
    assert not list(tmp_path.glob("run/*"))


def test_mode_that_the_client_does_not_have_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    with pytest.raises(ConfigError, match="WANDB_MODE=sometimes is not allowed"):
        loggers.WandbRunLogger(tmp_path / "run")


def test_resumed_run_continues_under_the_same_wandb_id(
    command: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = LossLogger.on_train_batch_end

    def log_and_stop(self: LossLogger, trainer: pl.Trainer, *args: Any) -> None:
        original(self, trainer, *args)
        if trainer.global_step == 3:
            raise Interrupted(signal.SIGTERM)

    overrides = [*TINY, "trainer.max_epochs=2", "trainer.log_every_n_steps=1"]
    with serving() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with monkeypatch.context() as context:
            context.setattr(LossLogger, "on_train_batch_end", log_and_stop)
            assert command("train", *overrides, "logger=wandb", "run_dir=run") == 128 + signal.SIGTERM
        (run_id,) = server.exits
        assert server.exits[run_id] == 128 + signal.SIGTERM
        assert command("train", "resume=run") == 0
        assert server.exits == {run_id: 0}
        url = f"{server.url}/house/patchwork/runs/{run_id}"
        assert read_manifest("run")["wandb"] == {"id": run_id, **PROJECT, "name": "run", "url": url}
        steps = [row["trainer/global_step"] for row in server.history[run_id] if "train/loss" in row]
        assert sorted(set(steps)) == [1, 2, 3, 4]
        assert server.configs[run_id]["model"]["embed_dim"] == 16


@pytest.mark.slow
def test_wandb_agents_share_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = yaml.safe_load((ROOT / "sweeps" / "classify.yaml").read_text())
    sweep["program"] = str(ROOT / "train.py")
    sweep["command"][3:-1] = ["task=classify", "logger=wandb", "optimizer=sgd", *TINY]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(wandb_agent.Agent, "POLL_INTERVAL", 0.2)  # seconds
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    with serving(SWEEP_SETTINGS) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        assert wandb.sweep(sweep, project="patchwork") == "sweep1"
        assert yaml.safe_load(server.sweep or "")["early_terminate"] == sweep["early_terminate"]
        wandb.teardown()  # agents must not share this process's connection to the server
        fork = multiprocessing.get_context("fork")  # starts at once, without imports
        agents = [fork.Process(target=wandb.agent, args=("house/patchwork/sweep1",)) for _ in range(2)]
        for agent in agents:
            agent.start()
        for agent in agents:
            agent.join(timeout=300)
        assert [agent.exitcode for agent in agents] == [0, 0]
        assert set(server.began.values()) == {"agent1", "agent2"}
    assert sorted(server.exits.values()) == [0, 4]
    manifests = {path.parent: json.loads(path.read_text()) for path in tmp_path.glob("outputs/*/*/*/manifest.json")}
    assert {manifest["wandb"]["id"] for manifest in manifests.values()} == set(server.began)
    for run_dir, manifest in manifests.items():
        run_id = manifest["wandb"]["id"]
        settings = SWEEP_SETTINGS[list(server.began).index(run_id)]
        url = f"{server.url}/house/patchwork/runs/{run_id}"
        assert manifest["wandb"] == {"id": run_id, **PROJECT, "name": run_dir.name, "url": url}
        assert server.names[run_id] == run_dir.name
        diverges = "optimizer.lr" in settings
        assert server.configs[run_id]["optimizer"]["lr"] == (1e30 if diverges else 0.01)
        assert diverges or server.configs[run_id]["data"]["augment"] is None
        assert diverges or server.configs[run_id]["scheduler"]["warmup_ratio"] == 0.1
        assert server.configs[run_id]["model"]["num_heads"] == settings["model.num_heads"]
        assert server.configs[run_id]["seed"] == settings["seed"]
        assert server.exits[run_id] == 4 * diverges
        assert manifest["status"].startswith("NumericError" if diverges else "finished")
        if not diverges:
            logged = [row["val/accuracy"] for row in server.history[run_id] if "val/accuracy" in row]
            assert logged[-1] == pytest.approx(manifest["metrics"]["val/accuracy"], abs=1e-6)

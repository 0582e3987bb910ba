"""Weights & Biases with its real client, against a server on the loopback: sweeps, agents, faults, and no server."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wandb
import yaml
from conftest import ROOT, TINY
from wandb_server import serving

from patchwork.callbacks import TrainingLog
from patchwork.errors import Interrupted

SETTINGS = [
    {"optimizer.lr": 0.01, "model.num_heads": 2, "seed": 1},
    {"optimizer.lr": 1e30, "model.num_heads": 2, "seed": 1},  # whose loss is soon not finite
    {"optimizer.lr": 0.03, "model.num_heads": 4, "seed": 2},
]


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Know of no server but the test's."""
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.teardown()  # what it knows of the server


def manifest(folder: str | Path) -> dict:
    return json.loads((Path(folder) / "manifest.json").read_text())


def test_offline_without_a_key_or_a_server(
    command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert command("train", *TINY, "folder=plain") == 0
    with socket.create_server(("127.0.0.1", 0)) as silent:  # which takes calls and answers none
        places = {
            "keyless": None,
            "silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "away": "http://127.0.0.1:9",
        }
        for name, url in places.items():
            if url is not None:
                monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
                monkeypatch.setenv("WANDB_BASE_URL", url)
            wandb.teardown()  # what it knows of the server
            capsys.readouterr()
            assert command("train", *TINY, "logger=wandb", f"folder={name}") == 0
            (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("logger=wandb")]
            assert said.endswith(f"so the run is logged offline; later: wandb sync {name}/wandb/*run-*")
            assert manifest("plain")["weights_sha256"] == manifest(name)["weights_sha256"]
            assert Path("plain/metrics.csv").read_bytes() == (Path(name) / "metrics.csv").read_bytes()
            assert list((tmp_path / name / "wandb").glob("offline-run-*/*.wandb"))
            assert manifest(name)["wandb"]["url"] is None


def test_resumed_under_the_same_id(command: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    log = TrainingLog.on_train_batch_end

    def stop(self: TrainingLog, trainer, *rest) -> None:  # type: ignore[no-untyped-def]
        log(self, trainer, *rest)
        if trainer.global_step == 3:
            raise Interrupted(signal.SIGTERM)

    words = [*TINY, "trainer.max_epochs=2", "trainer.log_every_n_steps=1"]
    with serving() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        with monkeypatch.context() as patched:
            patched.setattr(TrainingLog, "on_train_batch_end", stop)
            assert command("train", *words, "logger=wandb", "folder=run") == 128 + signal.SIGTERM
        (run,) = server.exits
        assert server.exits[run] == 128 + signal.SIGTERM
        assert command("train", "resume=run") == 0
        assert server.exits == {run: 0}
        known = manifest("run")["wandb"]
        assert known == {"id": run, "name": "run", "url": f"{server.url}/house/patchwork/runs/{run}"}
        steps = [row["trainer/global_step"] for row in server.history[run] if "train/loss" in row]
        assert sorted(set(steps)) == [1, 2, 3, 4]
        assert server.configs[run]["model"]["embed_dim"] == 16


def test_agents_run_a_sweep_together(tmp_path: Path) -> None:
    content = yaml.safe_load((ROOT / "sweeps" / "classify.yaml").read_text())
    content["program"] = str(ROOT / "train.py")
    content["command"][3:-1] = ["task=classify", "logger=wandb", "optimizer=sgd", *TINY]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
    with serving(SETTINGS) as server:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, **server.environment, "PATH": path, "OMP_NUM_THREADS": "1"}
        environment.pop("WANDB_SILENT")
        made = subprocess.run(
            ["wandb", "sweep", "sweep.yaml"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert made.returncode == 0, made.stderr
        assert "wandb agent house/patchwork/sweep1" in made.stderr
        assert yaml.safe_load(server.sweep or "")["early_terminate"] == content["early_terminate"]
        agents = [
            subprocess.Popen(
                ["wandb", "agent", "house/patchwork/sweep1"],
                cwd=tmp_path,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for _ in range(2)
        ]
        said = [agent.communicate(timeout=300)[0] for agent in agents]
        assert [agent.returncode for agent in agents] == [0, 0], said
        assert set(server.began.values()) == {"agent1", "agent2"}, said
    assert sorted(server.exits.values()) == [0, 0, 4], said
    runs = {path.parent: json.loads(path.read_text()) for path in tmp_path.glob("outputs/*/*/*/manifest.json")}
    assert {found["wandb"]["id"] for found in runs.values()} == set(server.began)
    for folder, found in runs.items():
        run = found["wandb"]["id"]
        setting = SETTINGS[list(server.began).index(run)]
        assert found["wandb"] == {"id": run, "name": folder.name, "url": f"{server.url}/house/patchwork/runs/{run}"}
        assert server.names[run] == folder.name
        assert server.configs[run]["optimizer"]["lr"] == setting["optimizer.lr"]
        assert server.configs[run]["seed"] == setting["seed"]
        fails = setting["optimizer.lr"] > 1
        assert server.exits[run] == 4 * fails
        assert found["status"].startswith("NumericError" if fails else "finished")
        if not fails:
            logged = [row["val/accuracy"] for row in server.history[run] if "val/accuracy" in row]
            assert logged[-1] == pytest.approx(found["metrics"]["val/accuracy"], abs=1e-6)

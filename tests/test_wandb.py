"""Without a key, Weights & Biases is logged to offline, and the run is the same to the bit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY


def test_offline_without_a_key(
    command: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert command("train", *TINY, "folder=plain") == 0
    assert command("train", *TINY, "logger=wandb", "folder=logged") == 0
    assert "wandb sync" in capsys.readouterr().out
    plain, logged = (json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("plain", "logged"))
    assert plain["weights_sha256"] == logged["weights_sha256"]
    assert list((tmp_path / "logged" / "wandb").glob("offline-run-*/*.wandb"))

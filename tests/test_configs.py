"""Every configuration trains: two steps, a validation and a test of each task, model, choice and experiment."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY

CONF = Path(__file__).parent.parent / "conf"
SHORT = [
    "digits=uci",
    "data.batch_size=4",
    "data.train_size=8",
    "data.val_size=4",
    "data.test_size=4",
    "data.eval_batch_size=4",
    "trainer.max_epochs=1",
]


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def trained(folder: Path) -> dict:
    """Return the manifest of the only run below a folder, which must be finished."""
    (path,) = folder.glob("**/manifest.json")
    manifest = json.loads(path.read_text())
    assert manifest["status"] == "finished"
    assert any(name.startswith("test/") for name in manifest["metrics"])
    return manifest


@pytest.mark.parametrize(("task", "model"), [("seq2seq", model) for model in choices("model")])
def test_task_and_model(command: Callable[..., int], tmp_path: Path, task: str, model: str) -> None:
    assert command("train", f"task={task}", f"model={model}", *SHORT, "callbacks=none") == 0
    manifest = trained(tmp_path)
    assert (manifest["task"], manifest["model"], manifest["steps"]) == (task, model, 2)


@pytest.mark.parametrize(
    "choice",
    [
        f"{group}={choice}"
        for group in ("optimizer", "scheduler", "callbacks", "logger")
        for choice in choices(group)
        if choice != "wandb"  # has a test of its own
    ]
    + [
        "accelerator=auto",
        "accelerator=cpu",
        "model.positions=rotary",
        "data.rows=1 data.cols=5",
        "data.num_classes=3",
    ],
)
def test_choice(command: Callable[..., int], tmp_path: Path, choice: str) -> None:
    settings = [setting for setting in TINY if setting.partition("=")[0] != choice.partition("=")[0]]
    assert command("train", *settings, *choice.split()) == 0
    trained(tmp_path)


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_experiment(command: Callable[..., int], tmp_path: Path, experiment: str) -> None:
    assert command("train", f"experiment={experiment}", *SHORT, "callbacks=none") == 0
    trained(tmp_path)


@pytest.mark.parametrize("debug", choices("debug"))
def test_debug(command: Callable[..., int], tmp_path: Path, debug: str) -> None:
    settings = [setting for setting in TINY if not setting.startswith("data.train_size")]
    assert command("train", f"debug={debug}", *settings, "+trainer.limit_train_batches=2"[1:]) == 0
    trained(tmp_path)

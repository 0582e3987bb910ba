"""Every configuration trains: two steps, a validation and a test of each task, model, choice and experiment."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY, choices, pairs

SHORT = [
    "digits=uci",
    "data.batch_size=4",
    "data.eval_batch_size=4",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
]


def trained(folder: Path) -> dict:
    """Return the manifest of the only run below a folder, which must be finished."""
    (path,) = folder.glob("**/manifest.json")
    manifest = json.loads(path.read_text())
    assert manifest["status"] == "finished"
    assert any(name.startswith("test/") for name in manifest["metrics"])
    return manifest


@pytest.mark.parametrize(("task", "model"), [pair for pair, fits in pairs().items() if fits])
def test_task_and_model(command: Callable[..., int], tmp_path: Path, task: str, model: str) -> None:
    assert command("train", f"task={task}", f"model={model}", *SHORT, "callbacks=none") == 0
    manifest = trained(tmp_path)
    assert (manifest["task"], manifest["model"], manifest["steps"]) == (task, model, 2)


@pytest.mark.parametrize(("task", "model"), [pair for pair, fits in pairs().items() if not fits])
def test_model_of_another_task(
    command: Callable[..., int], capfd: pytest.CaptureFixture[str], tmp_path: Path, task: str, model: str
) -> None:
    assert command("train", f"task={task}", f"model={model}", *SHORT) == 2
    (said,) = capfd.readouterr().err.splitlines()
    assert "not fit" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("task=anchor data=sequences", "its batches hold no anchor, match, present"),
        ("task=classify data=icons model.num_classes=10 data.num_classes=10", "its batches hold no label"),
        ("task=sum data=anchored model=fully_connected", "data.anchored=true is for task=anchor"),
        ("task=sum model=fully_connected data.test_lengths=[20]", "test_lengths=[20] is not for FullyConnected"),
        ("task=anchor data.test_lengths=[20]", "test_lengths=[20] is not for anchored sequences"),
        ("task=anchor digits.validation=10", "a class has fewer than 2 val digits"),
        ("task=sum data.sampling=consecutive data.max_length=200", "data.max_length=200"),
        ("task=icons data.difficulty=0", "data.difficulty=0"),
        ("task=icons task.monitor=val/combination_accuracy/held_out", "task.monitor"),
        ("task=sum data=anchored", "data.anchored=true is for task=anchor"),
        ("task=sum task.max_length=5", "task.max_length=5 is not what the data has: it is set by data.max_length, 10"),
        ("task=sum task.test_lengths=[20]", "task.test_lengths=[20] is not what the data has"),
        ("task=classify task.num_classes=5", "task.num_classes=5 is not what the data has"),
        ("task=icons task.holdout=combinations", "task.holdout='combinations' is not what the data has"),
        ("task=icons data.num_classes=7", "data.num_classes=7 is not 28"),
        ("task=sum data.image_size=14", "image_size=14 is not a multiple of 4"),
    ],
)
def test_data_of_another_task(
    command: Callable[..., int], capfd: pytest.CaptureFixture[str], tmp_path: Path, settings: str, said: str
) -> None:
    assert command("train", *SHORT, *settings.split()) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_every_task_and_model_is_of_use() -> None:
    fitting = [pair for pair, fits in pairs().items() if fits]
    assert {task for task, _ in fitting} == set(choices("task"))
    assert {model for _, model in fitting} == set(choices("model"))


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
        "task=sum data.test_lengths=[12,15]",
        "task=sum data.sampling=consecutive",
        "task=anchor model.matching=attention",
        "task=anchor data.balance=null",
        "task=anchor data.balance=null data.sampling=consecutive",
        "task=icons task.label=tense",
        "task=icons task.label=tense_person task.head=flat data.difficulty=2",
        "task=icons data.holdout=combinations",
        "task=classify model.pool=cls model.positions=rotary",
        "task=classify trainer.precision=64-true",
        "task=anchor trainer.precision=64-true",
        "trainer.precision=bf16-mixed",
    ],
)
def test_choice(command: Callable[..., int], tmp_path: Path, choice: str) -> None:
    settings = [setting for setting in TINY if setting.partition("=")[0] != choice.partition("=")[0]]
    if "task=" in choice:
        settings = [*SHORT, "callbacks=none", "model.stem_bfloat16=false"]
    assert command("train", *settings, *choice.split()) == 0
    trained(tmp_path)


PUBLISHED = {  # parameters of the originals
    "published_anchor": 208_141,
    "published_anchor_baseline": 322_445,
    "published_classify": 803_082,
    "published_cnn": 5_142,
    "published_grid": 249_997 - 129 + 256,  # without the id that is never used; with final norms
    "published_icons": 207_621,
    "published_pixels_large": 6_896_356,  # 6.9 M
    "published_pixels_small": 3_494_400,  # 3.5 M
    "published_quadrant": 11_161_099 + 513,  # with <finish>
    "published_sum": 735_117,
    "published_sum_baseline": 306_061,
}


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_experiment(command: Callable[..., int], tmp_path: Path, experiment: str) -> None:
    assert command("train", f"experiment={experiment}", *SHORT, "callbacks=none") == 0
    manifest = trained(tmp_path)
    assert manifest["parameters"] == PUBLISHED.get(experiment, manifest["parameters"])


def test_every_published_recipe_has_its_size() -> None:
    assert {name for name in choices("experiment") if name.startswith("published_")} == set(PUBLISHED)


@pytest.mark.parametrize("debug", choices("debug"))
def test_debug(command: Callable[..., int], tmp_path: Path, debug: str) -> None:
    settings = [setting for setting in TINY if not setting.startswith("data.train_size")]
    assert command("train", f"debug={debug}", *settings, "+trainer.limit_train_batches=2"[1:]) == 0
    trained(tmp_path)

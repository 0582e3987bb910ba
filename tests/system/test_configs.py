"""Every configuration trains: two steps, a validation and a test of each task, model, choice and experiment."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY, choices, pairs, read_manifest
from hydra.utils import instantiate

from patchwork.runs.compose import compose

Command = Callable[..., int]
SHORT = [
    "dataset=uci",
    "report=none",
    "data.batch_size=4",
    "data.eval_batch_size=4",
    "trainer.max_epochs=1",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "trainer.limit_test_batches=1",
]


def finished_manifest(directory: Path) -> dict[str, Any]:
    """Return the manifest of the only run below a directory, which must have finished."""
    manifest = read_manifest(directory)
    assert manifest["status"] == "finished"
    assert any(name.startswith("test/") for name in manifest["metrics"])
    return manifest


def without(overrides: list[str], *keys: str) -> list[str]:
    return [override for override in overrides if override.partition("=")[0] not in keys]


# --- tasks, models and data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "model"), [pair for pair, fits in pairs().items() if fits])
def test_task_and_model_train(command: Command, tmp_path: Path, task: str, model: str) -> None:
    has_prompts = task == "pixels" and compose([f"task={task}", f"model={model}"]).model.get("text_encoder_depth")
    options = ["task.prompt_prob=0"] if task == "pixels" and not has_prompts else []
    assert command("train", f"task={task}", f"model={model}", *SHORT, "callbacks=none", *options) == 0
    manifest = finished_manifest(tmp_path)
    assert (manifest["task"], manifest["model"], manifest["steps"]) == (task, model, 2)


@pytest.mark.parametrize(("task", "model"), [pair for pair, fits in pairs().items() if not fits])
def test_model_of_another_task_is_refused(
    command: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path, task: str, model: str
) -> None:
    assert command("train", f"task={task}", f"model={model}", *SHORT) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "not fit" in line or "cannot be combined" in line
    assert list(tmp_path.iterdir()) == []


def test_every_task_and_model_fits_another() -> None:
    fitting = [pair for pair, fits in pairs().items() if fits]
    assert {task for task, _ in fitting} == set(choices("task"))
    assert {model for _, model in fitting} == set(choices("model"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("task=anchor data=sequences", "its batches lack anchor, match, present"),
        ("task=classify data=icons task.num_classes=10 data.num_outputs=10", "its batches lack label"),
        ("task=sum model=fully_connected data.test_lengths=[20]", "test_lengths=[20] cannot be used with model="),
        ("task=anchor data.test_lengths=[20]", "test_lengths=[20] is not for sequences with an anchor"),
        ("task=anchor dataset.validation=10", "a class of dataset=uci has fewer than 2 val images"),
        ("task=sum data.sampling=consecutive data.max_length=200", "data.max_length=200"),
        ("task=icons data.difficulty=0", "data.difficulty=0"),
        ("task=icons task.monitor=val/combination_accuracy/held_out", "task.monitor"),
        ("task=sum task.max_length=5", "task.max_length=5 does not match the data: it is set by data.max_length"),
        ("task=sum task.test_lengths=[20]", "task.test_lengths=[20] does not match the data"),
        ("task=classify task.num_classes=5", "task.num_classes=5 does not match the data"),
        ("task=icons task.holdout=combinations", "task.holdout=combinations does not match the data"),
        ("task=icons data.num_outputs=7", "data.num_outputs=7 does not fit task.label=combination"),
        ("task=icons model.num_classes=7", "it is set by data.num_outputs, which is 28"),
        ("task=sum data.image_size=14", "image_size=14 is not a multiple of 4"),
    ],
)
def test_data_of_another_task_are_refused(
    command: Command, capfd: pytest.CaptureFixture[str], tmp_path: Path, overrides: str, message: str
) -> None:
    assert command("train", *SHORT, *overrides.split()) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert message in line
    assert list(tmp_path.iterdir()) == []


# --- choices ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "overrides",
    [
        f"{group}={choice}"
        for group in ("optimizer", "scheduler", "callbacks", "logger")
        for choice in choices(group)
        if choice != "wandb"  # has tests of its own
    ]
    + [
        "accelerator=auto",
        "accelerator=cpu",
        *(f"stem@model.stem={choice} model.patch_size=28" for choice in choices("stem")),
        *(f"augment@data.augment={choice}" for choice in choices("augment")),
        "data.augment=null",
        "model.pos_embed=rope",
        "data.rows=1 data.cols=5",
        "data.num_classes=3",
        "trainer.precision=bf16-mixed",
    ],
)
def test_choice_trains(command: Command, tmp_path: Path, overrides: str) -> None:
    args = overrides.split()
    replaced = {arg.partition("=")[0].partition("@")[2] or arg.partition("=")[0] for arg in args}
    logger = [] if "logger" in replaced else ["logger=none"]
    assert command("train", *without(TINY, *replaced), *logger, *args) == 0
    finished_manifest(tmp_path)


@pytest.mark.parametrize(
    "overrides",
    [
        "task=sum data.test_lengths=[12,15]",
        "task=sum data.sampling=consecutive",
        "task=sum data=anchor",  # which has what a sum needs, too
        "task=anchor model.similarity=cross_attention",
        "task=anchor data.positive_fraction=null",
        "task=anchor data.positive_fraction=null data.sampling=consecutive",
        "task=anchor trainer.precision=64-true model.stem.precision=32",
        "task=icons task.label=tense",
        "task=icons task.label=tense_person task.head=flat data.difficulty=2",
        "task=icons data.holdout=combinations",
        "task=classify model.pool=cls model.pos_embed=rope",
        "task=classify model.stem=null",
        "task=classify trainer.precision=64-true model.stem.precision=32",
    ],
)
def test_choice_of_a_task_trains(command: Command, tmp_path: Path, overrides: str) -> None:
    assert command("train", *SHORT, "callbacks=none", "logger=none", *overrides.split()) == 0
    finished_manifest(tmp_path)


# --- experiments -----------------------------------------------------------------------------------------------------

PAPER = {  # parameters of the papers' models
    "paper_anchor": 208_141,
    "paper_anchor_baseline": 322_445,
    "paper_cell_pool": 11_161_099 + 513,  # with <finish>
    "paper_classify": 803_082,
    "paper_cnn": 5_142,
    "paper_grid": 249_997 - 129 + 256,  # without the id that is never used; with final norms
    "paper_icons": 207_621,
    "paper_pixels_large": 6_896_356,  # 6.9 M
    "paper_pixels_small": 3_494_400,  # 3.5 M
    "paper_sum": 735_117,
    "paper_sum_baseline": 306_061,
}
SMALLER = {  # what takes long is trained with a smaller model, and in full among the slow tests
    "paper_pixels_large": ["model.depth=1", "model.embed_dim=24", "data.eval_batch_size=1"],
    "paper_pixels_small": ["model.depth=1", "model.embed_dim=32", "data.eval_batch_size=1"],
}


def test_every_paper_has_its_number_of_parameters() -> None:
    assert {name for name in choices("experiment") if name.startswith("paper_")} == set(PAPER)


@pytest.mark.parametrize("experiment", PAPER)
def test_number_of_parameters_is_that_of_the_paper(experiment: str) -> None:
    config = compose([f"experiment={experiment}"])
    with torch.device("meta"):
        model = instantiate(config.model, _convert_="all")
    assert sum(parameter.numel() for parameter in model.parameters()) == PAPER[experiment]


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_experiment_trains(command: Command, tmp_path: Path, experiment: str) -> None:
    args = [f"experiment={experiment}", *SHORT, "callbacks=none", *SMALLER.get(experiment, [])]
    assert command("train", *args) == 0
    manifest = finished_manifest(tmp_path)
    if experiment not in SMALLER:
        assert manifest["parameters"] == PAPER.get(experiment, manifest["parameters"])


@pytest.mark.slow
@pytest.mark.parametrize("experiment", SMALLER)
def test_large_experiment_trains(command: Command, tmp_path: Path, experiment: str) -> None:
    assert command("train", f"experiment={experiment}", *SHORT, "callbacks=none") == 0
    assert finished_manifest(tmp_path)["parameters"] == PAPER[experiment]


@pytest.mark.parametrize("debug", choices("debug"))
def test_debug_choice_trains(command: Command, tmp_path: Path, debug: str) -> None:
    args = without(TINY, "data.samples_per_epoch")
    assert command("train", f"debug={debug}", *args, "trainer.limit_train_batches=2") == 0
    finished_manifest(tmp_path)

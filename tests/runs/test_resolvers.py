"""Resolvers of `conf/`: each value follows from what the task or the model is."""

import pytest

from patchwork.runs.compose import compose


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["task=sum", "model=fully_connected"], "model.anchored", False),
        (["task=anchor", "model=fully_connected"], "model.anchored", True),
        (["task=pixels"], "data.num_levels", 2),
        (["task=pixels", "model.tokenizer=gray256"], "data.num_levels", 256),
        (["task=pixels", "~model.tokenizer"], "data.num_levels", 2),
        (["task=pixels"], "model.num_words", 55),
        (["task=pixels"], "model.prompt_length", 16),
        (["task=icons"], "data.num_outputs", 28),
        (["task=icons", "task.head=flat", "task.label=tense_person"], "data.num_outputs", 15),
        (["task=icons"], "model.num_classes", 28),
        (["task=icons", "model=cnn"], "model.num_classes", 28),
        (["task=classify"], "model.num_classes", 10),
    ],
)
def test_resolved_values_follow_from_task_and_model(overrides: list[str], key: str, value: int | bool) -> None:
    group, _, name = key.partition(".")
    assert compose([*overrides, "dataset=uci"])[group][name] == value

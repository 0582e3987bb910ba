"""Which key or choice was meant."""

import pytest

from patchwork.core.suggest import closest, closest_choice, closest_key, key_paths

KEYS = ["seed", "run_dir", "optimizer", "task", "data.batch_size", "optimizer.lr", "optimizer.weight_decay"]
KEYS += ["trainer.max_epochs", "trainer.max_steps", "trainer.devices", "model.embed_dim", "model.num_heads"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lr", "optimizer.lr"),
        ("LR", "optimizer.lr"),
        ("batch-size", "data.batch_size"),
        ("data.batchsize", "data.batch_size"),
        ("trainer.epochs", "trainer.max_epochs"),
        ("epochs", "trainer.max_epochs"),
        ("trainer.max_epoch", "trainer.max_epochs"),
        ("optimzer", "optimizer"),
        ("optimzer.lr", "optimizer.lr"),
        ("tsk", "task"),
        ("heads", "model.num_heads"),
        ("model.lr", "optimizer.lr"),
        ("learning_rate", "optimizer.lr"),
        ("output_dir", "run_dir"),
        ("gpus", "trainer.devices"),
        ("trainer.max_batches", None),
        ("nonsense", None),
        ("model.nonsense", None),
        ("optimizer.nonsense", None),
    ],
)
def test_key_that_was_meant(typed: str, meant: str | None) -> None:
    assert closest_key(typed, KEYS) == meant


CHOICES = {"optimizer": ["adam", "adamw"], "scheduler": ["cosine"], "dataset": ["mnist"], "logger": ["tensorboard"]}
CHOICES |= {"experiment": ["paper_icons", "paper_sum"], "callbacks": ["default", "none"]}


@pytest.mark.parametrize(
    ("group", "choice", "meant"),
    [
        ("optimizer", "adm", ("optimizer", "adam")),
        ("optimizer", "AdamW", ("optimizer", "adamw")),
        ("optimizer", "cosine", ("scheduler", "cosine")),
        ("optimizer", "cosin", ("scheduler", "cosine")),
        ("dataset", "MNIST", ("dataset", "mnist")),
        ("logger", "tb", ("logger", "tensorboard")),
        ("logger", "nonsense", None),
        ("logger", "default", None),
        ("experiment", "paper_foo", None),
        ("experiment", "paper_icon", ("experiment", "paper_icons")),
    ],
)
def test_choice_that_was_meant(group: str, choice: str, meant: tuple[str, str] | None) -> None:
    assert closest_choice(group, choice, CHOICES) == meant


def test_closest_is_what_exists() -> None:
    assert closest("trian", ["train", "evaluate"]) == "train"
    assert closest("xyz", ["train"]) is None


def test_keys_that_refer_to_others_are_the_last() -> None:
    values = {"model": {"_target_": "x", "rows": "${data.rows}"}, "data": {"rows": 2}}
    assert key_paths(values) == ["model", "data", "data.rows", "model.rows"]

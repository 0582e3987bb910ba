"""Results in plain words: percent of how many samples, with what chance gives."""

from types import SimpleNamespace
from typing import Any

import pytest

from patchwork.tasks import Anchor, Classify, Icons, Pixels, Seq2Seq, Sum, Task
from patchwork.tasks.summary import format_chance, format_percent


def make_task(kind: type[Task], **attributes: Any) -> Task:
    """Return a task with what its summary reads, without a model."""
    task = kind.__new__(kind)
    for name, value in attributes.items():
        setattr(task, name, value)
    return task


GRID = SimpleNamespace(rows=2, cols=2, bos_id=10)
PIXELS = SimpleNamespace(num_levels=2, likelihood="exact")


@pytest.mark.parametrize(
    ("task", "metrics", "sentence"),
    [
        (
            make_task(Seq2Seq, model=GRID),
            {"sequence_accuracy": 0.9868},
            "98.68 % of 10,000 test grids are read without an error (chance: 0.01 %)",
        ),
        (
            make_task(Classify, num_classes=10),
            {"accuracy": 0.996},
            "99.60 % of 10,000 test images are classified correctly (chance: 10 %)",
        ),
        (
            make_task(Icons, num_classes=300),
            {"accuracy": 1.0},
            "100 % of 10,000 test icons are classified correctly (chance: 0.33 %)",
        ),
        (
            make_task(Sum, num_classes=10, max_length=10),
            {"accuracy": 0.98},
            "98.00 % of 10,000 test sequences are added up correctly (the likeliest sum for the length: 6.5 %)",
        ),
        (
            make_task(Anchor),
            {"accuracy": 0.994, "majority_baseline": 0.61},
            "99.40 % of 10,000 test sequences are answered correctly (always the same answer: 61 %)",
        ),
        (
            make_task(Pixels, model=PIXELS),
            {"nll": 80.5, "class_nll": 78.0, "bits_per_pixel": 0.148},
            "10,000 test images take 80.50 nats each to describe: 0.1480 bits per pixel, where guessing takes 1; "
            "less is better",
        ),
        (
            make_task(Pixels, model=SimpleNamespace(num_levels=256, likelihood="bound")),
            {"class_nll": 780.0, "bits_per_pixel": 1.5},
            "10,000 test images take at most 780.00 nats each to describe, given their class: 1.5000 bits per pixel, "
            "where guessing takes 8; less is better",
        ),
        (
            make_task(Pixels, model=SimpleNamespace(num_levels=256, likelihood=None)),
            {"loss": 1.0},
            "no likelihood: look at the generated images, or score them with `patchwork evaluate`",
        ),
    ],
)
def test_a_result_is_in_plain_words(task: Task, metrics: dict[str, float], sentence: str) -> None:
    assert task.summary({f"test/{name}": value for name, value in metrics.items()}, 10_000) == sentence


def test_a_task_without_words_of_its_own_counts_what_it_answers() -> None:
    assert make_task(Task).summary({"test/accuracy": 0.25}, 8) == "25.0 % of 8 test images are answered correctly"
    assert make_task(Task).summary({"test/loss": 0.25}, 8) == ""


def test_the_chance_of_a_sum_is_that_of_the_likeliest_one() -> None:
    assert make_task(Sum, max_length=2, num_classes=2).chance == pytest.approx((1 / 2 + 2 / 4) / 2)


def test_percents_have_the_digits_that_the_samples_can_tell_apart() -> None:
    assert [format_percent(0.98756, count) for count in (360, 10_000)] == ["98.8 %", "98.76 %"]
    assert [format_percent(value, 10) for value in (0, 1)] == ["0 %", "100 %"]
    assert [format_chance(value) for value in (0.5, 1 / 3, 0.0625, 1e-4, 1e-16)] == [
        *("50 %", "33 %", "6.2 %", "0.01 %", "below 0.01 %"),
    ]

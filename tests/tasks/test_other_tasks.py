"""Classes, sums, anchors and icons: metrics as plain counts, losses as their formulas, and pictures of predictions."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.data.icons import every
from patchwork.errors import ConfigError
from patchwork.models import CNN, FullyConnected, SumDistribution
from patchwork.optim import adamw, constant
from patchwork.tasks import Anchor, Classify, Icons, Sum, Task

OPTIMIZER = partial(adamw, lr=0.01, betas=[0.9, 0.99], weight_decay=0.1)


class Said(nn.Module):
    """Says what it is told to, batch after batch."""

    def __init__(self, *answers: Tensor) -> None:
        super().__init__()
        self.answers = list(answers)

    def say(self) -> Tensor:
        return self.answers.pop(0)


class OfImage(Said):
    def forward(self, image: Tensor) -> Tensor:
        return self.say()


class OfSequence(Said):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return self.say()


class OfAnchor(Said):
    def forward(self, image: Tensor, mask: Tensor, anchor: Tensor) -> Tensor:
        return self.say()


class Seeing(OfAnchor):
    def locate(self, image: Tensor, mask: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        return self.say(), self.say()


def make(kind: type[Task], model: nn.Module, **settings: Any) -> Task:
    return kind(model=model, optimizer=OPTIMIZER, scheduler=constant, monitor="val/loss", **settings)


def measured(task: Task, *batches: dict[str, Tensor]) -> dict[str, float]:
    for batch in batches:
        task.evaluate(batch, "test")
    return {name: float(value) for name, value in task.on_test.compute().items()}


def sequence(lengths: list[int], digits: list[list[int]]) -> dict[str, Tensor]:
    size = max(map(len, digits))
    values = torch.tensor([[*row, *[0] * (size - len(row))] for row in digits])
    mask = torch.arange(size) < torch.tensor(lengths)[:, None]
    return {"image": torch.rand(*mask.shape, 1, 4, 4), "mask": mask, "digits": values}


def test_classes_are_counted() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 1.0]])
    label = torch.tensor([0, 1, 2, 2])
    found = measured(make(Classify, OfImage(logits), num_classes=3), {"image": torch.rand(4, 1, 4, 4), "label": label})
    assert found["test/accuracy"] == 0.75
    assert [found[f"test/class_accuracy/{kind}"] for kind in range(3)] == [1, 1, 0.5]
    assert found["test/loss"] == pytest.approx(float(F.cross_entropy(logits, label)))


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    chances = torch.tensor([[0.9, 0.1]] * 8 + [[0.6, 0.4]] * 2)
    label = torch.tensor([0] * 4 + [1] * 4 + [0, 1])  # half are right
    found = measured(
        make(Classify, OfImage(chances.log()), num_classes=2), {"image": torch.rand(10, 1, 4, 4), "label": label}
    )
    assert found["test/calibration_error"] == pytest.approx(0.8 * 0.4 + 0.2 * 0.1)


def test_numbers_are_rounded_and_laws_give_their_likeliest_sum() -> None:
    batch = sequence([1, 2, 2], [[3], [4, 5], [1, 1]])  # sums 3, 9, 2
    said = torch.tensor([3.4, 8.6, 2.6])
    settings = {"num_classes": 10, "max_length": 2, "test_lengths": []}
    found = measured(make(Sum, OfSequence(said), **settings), batch)
    assert found["test/accuracy"] == pytest.approx(2 / 3)
    assert found["test/mse"] == found["test/loss"] == pytest.approx((0.4**2 + 0.4**2 + 0.6**2) / 3)
    assert [found[f"test/length_accuracy/{length}"] for length in (1, 2)] == [1, 0.5]

    law = torch.full((3, 19), 0.01)
    law[torch.arange(3), [3, 9, 4]] = 0.82
    found = measured(make(Sum, OfSequence(law.log()), **settings), batch)
    assert found["test/accuracy"] == pytest.approx(2 / 3)
    assert found["test/loss"] == pytest.approx(-(2 * math.log(0.82) + math.log(0.01)) / 3)
    mean = [float(row @ torch.arange(19.0)) for row in law]
    assert found["test/mse"] == pytest.approx(sum((m - s) ** 2 for m, s in zip(mean, (3, 9, 2), strict=True)) / 3)


def test_longer_sequences_are_measured_by_their_length_alone() -> None:
    task = make(
        Sum, OfSequence(torch.tensor([3.0]), torch.tensor([7.0, 6.0])), num_classes=10, max_length=2, test_lengths=[3]
    )
    found = measured(task, sequence([1], [[3, 0]]), sequence([3, 3], [[1, 2, 3], [1, 2, 3]]))
    assert (found["test/accuracy"], found["test/loss"], found["test/length_accuracy/3"]) == (1, 0, 0.5)
    assert "test/length_accuracy/2" not in found  # none was seen


def test_chance_of_sums_is_that_of_even_digits() -> None:
    batch = sequence([1, 2], [[3], [4, 5]])
    model = SumDistribution(image_size=14, in_channels=1, num_classes=10, stem=[], embed_dim=8)
    batch["image"] = torch.rand(2, 2, 1, 14, 14)
    task = make(Sum, model, num_classes=10, max_length=2, test_lengths=[])
    assert task.chance(batch) == pytest.approx((math.log(10) + math.log(10)) / 2)  # P(3) = 1/10; P(9) = 10/100


def test_models_of_fixed_length_are_refused_where_longer_ones_are_tested() -> None:
    model = FullyConnected(image_size=14, in_channels=1, max_length=10, anchored=False)
    with pytest.raises(ConfigError, match=r"test_lengths=\[20\]"):
        make(Sum, model, num_classes=10, max_length=10, test_lengths=[20])


def anchored(match: list[list[bool]]) -> dict[str, Tensor]:
    found = torch.tensor(match)
    return {
        "image": torch.rand(*found.shape, 1, 4, 4),
        "mask": torch.ones_like(found),
        "anchor": torch.rand(len(found), 1, 4, 4),
        "match": found,
        "present": found.any(dim=1),
    }


def test_anchors_are_counted() -> None:
    batch = anchored([[True, False], [False, False], [False, True], [False, True], [False, False]])
    said = torch.tensor([1.0, -1.0, -1.0, 2.0, 0.5])
    attention = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.1, 0.9], [0.5, 0.1]])
    found = measured(make(Anchor, Seeing(said, attention)), batch)
    assert found["test/accuracy"] == pytest.approx(3 / 5)
    assert found["test/majority"] == pytest.approx(3 / 5)
    assert found["test/localisation"] == pytest.approx(2 / 3)
    assert found["test/localisation_chance"] == pytest.approx(1 / 2)
    assert found["test/auroc"] == pytest.approx(4.5 / 6)  # pairs in the right order, a tie for a half
    assert found["test/loss"] == pytest.approx(
        float(F.binary_cross_entropy_with_logits(said, batch["present"].float()))
    )


def test_where_nothing_is_attended_to_nothing_is_located() -> None:
    found = measured(make(Anchor, OfAnchor(torch.tensor([1.0, -1.0]))), anchored([[True], [False]]))
    assert "test/localisation" not in found
    assert found["test/accuracy"] == 1


def test_factored_logits_add_up() -> None:
    labels = every(1)
    logits = torch.randn(300, 28)
    task = make(Icons, OfImage(logits), label="combination", head="factored", holdout=None, num_classes=28)
    batch = {"image": torch.rand(300, 3, 4, 4), **labels, "held_out": torch.zeros(300, dtype=torch.bool)}
    combined = task.outputs(batch)
    assert combined.shape == (300, 300)
    verb, tense, person = logits.split([20, 5, 3], dim=1)
    assert isinstance(task, Icons)
    target = task.target(batch)
    assert torch.equal(target, torch.arange(300))
    expected = verb[:, labels["verb"]] + tense[:, labels["tense"]] + person[:, labels["person"]]
    torch.testing.assert_close(combined, expected)
    apart = sum(F.cross_entropy(part, labels[name]) for name, part in zip(labels, (verb, tense, person), strict=True))
    torch.testing.assert_close(F.cross_entropy(combined, target), apart)


@pytest.mark.parametrize(("label", "classes"), [("tense", 5), ("tense_person", 15), ("combination", 300)])
def test_icons_are_counted_by_factor(label: Any, classes: int) -> None:
    labels = every(1)
    batch = {"image": torch.rand(300, 3, 4, 4), **labels, "held_out": labels["verb"] == 0}
    settings: dict[str, Any] = {"label": label, "head": "flat", "holdout": "combinations", "num_classes": classes}
    guide = make(Icons, OfImage(), **settings)
    assert isinstance(guide, Icons)
    target = guide.target(batch)
    assert len(target.unique()) == classes
    wrong = torch.where(labels["verb"] == 0, (target + 1) % classes, target)
    found = measured(make(Icons, OfImage(F.one_hot(wrong, classes).float()), **settings), batch)
    assert found["test/accuracy"] == pytest.approx(0.95)
    assert found["test/combination_accuracy/seen"] == 1
    assert found["test/combination_accuracy/held_out"] == 0
    assert task_chance(guide, batch) == pytest.approx(math.log(classes))


def task_chance(task: Task, batch: dict[str, Tensor]) -> float:
    return task.chance(batch)


def test_samples_say_what_was_expected_and_what_was_said() -> None:
    image = torch.rand(2, 1, 4, 4)
    (first, second) = make(Classify, OfImage(torch.eye(3)[:2]), num_classes=3).samples(
        {"image": image, "label": torch.tensor([0, 2])}, 2
    )
    assert (first.expected, first.predicted, second.expected, second.predicted) == (["0"], ["0"], ["2"], ["1"])

    batch = sequence([1, 2], [[3], [4, 5]])
    settings = {"num_classes": 10, "max_length": 2, "test_lengths": []}
    (short, long) = make(Sum, OfSequence(torch.tensor([3.2, 8.0])), **settings).samples(batch, 2)
    assert (short.image.shape, long.image.shape) == ((1, 4, 4), (1, 4, 8))
    assert (short.predicted, long.expected, long.predicted) == (["3"], ["9"], ["8"])

    (sample,) = make(Anchor, OfAnchor(torch.tensor([-1.0]))).samples(anchored([[True, False]]), 1)
    assert (sample.image.shape, sample.cols) == ((1, 4, 12), 3)
    assert (sample.expected, sample.predicted) == (["there"], ["not there"])

    labels = {name: values[:1] for name, values in every(1).items()}
    icons = make(Icons, OfImage(torch.eye(300)[:1]), label="combination", head="flat", holdout=None, num_classes=300)
    (icon,) = icons.samples({"image": torch.rand(1, 3, 4, 4), **labels}, 1)
    assert icon.expected == icon.predicted == ["work infinitive 1sg"]


def test_models_that_take_other_things_do_not_fit() -> None:
    cnn = CNN(image_size=16, in_channels=1, num_classes=3)
    for kind, settings in ((Sum, {"num_classes": 10, "max_length": 2, "test_lengths": []}), (Anchor, {})):
        with pytest.raises(ConfigError, match="does not fit"):
            make(kind, cnn, **settings)
    with pytest.raises(ConfigError, match="does not fit"):
        make(Sum, OfAnchor(), num_classes=10, max_length=2, test_lengths=[])
    with pytest.raises(ConfigError, match="does not fit"):
        make(Classify, OfSequence(), num_classes=10)

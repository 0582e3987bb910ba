"""Icons: color, shape and pattern show tense, person and verb; the same seed gives the same bytes."""

import itertools
from collections import Counter
from functools import cache

import pytest
import torch
from torch import Tensor

from patchwork.data.rng import make_rng
from patchwork.data.sources.icons import (
    COMBINATION_NAMES,
    COMBINATIONS,
    LABELS,
    PERSONS,
    TENSES,
    VERBS,
    Icons,
    all_labels,
    combination_labels,
    num_logits,
    render,
    split_combinations,
)


@cache
def icons(difficulty: float, copies: int = 1, seed: int = 0) -> Tensor:
    return render(all_labels(copies), difficulty=difficulty, rng=make_rng("test", seed))


def test_labels_are_all_combinations_of_20_verbs_5_tenses_and_3_persons() -> None:
    assert (len(VERBS), len(TENSES), len(PERSONS), COMBINATIONS) == (20, 5, 3, 300)
    assert {"work", "play", "do", "watch", "look", "like", "be", "walk"} <= set(VERBS)
    labels = torch.stack(list(all_labels(2).values()), dim=1)
    assert Counter(map(tuple, labels.tolist())) == dict.fromkeys(map(tuple, labels.tolist()), 2)


def test_combination_labels_are_in_the_order_of_their_names() -> None:
    labels = torch.arange(COMBINATIONS)
    factors = split_combinations(labels)
    assert torch.equal(combination_labels(factors), labels)
    names = [list(group) for group in (VERBS, TENSES, PERSONS)]
    for name, verb, tense, person in zip(
        COMBINATION_NAMES, *(values.tolist() for values in factors.values()), strict=True
    ):
        assert name == f"{names[0][verb]} {names[1][tense]} {names[2][person]}"


def test_number_of_logits_follows_from_head_and_label() -> None:
    assert LABELS == {"verb": 20, "tense": 5, "person": 3}
    assert [num_logits("flat", label) for label in ("tense", "tense_person", "combination")] == [5, 15, 300]
    assert [num_logits("factored", label) for label in ("tense", "tense_person", "combination")] == [5, 8, 28]
    assert num_logits("unknown", "tense") == num_logits("flat", "unknown") == 1


@pytest.mark.parametrize("difficulty", [0.0, 1.0, 2.0])
def test_same_seed_gives_the_same_bytes(difficulty: float) -> None:
    again = render(all_labels(1), difficulty=difficulty, rng=make_rng("test", 0))
    assert again.dtype == torch.uint8
    assert torch.equal(again, icons(difficulty))
    assert torch.equal(again, icons(difficulty, seed=1)) is (difficulty == 0)


def test_icons_without_difficulty_depend_on_their_label_only() -> None:
    images = icons(0.0, copies=2).view(COMBINATIONS, 2, -1)
    assert torch.equal(images[:, 0], images[:, 1])
    assert len(images[:, 0].unique(dim=0)) == COMBINATIONS


def test_variation_grows_with_difficulty() -> None:
    std = [
        icons(difficulty, copies=2).view(COMBINATIONS, 2, -1).float().std(dim=1).mean() for difficulty in (0, 0.5, 1, 2)
    ]
    assert std == sorted(std)
    assert std[0] == 0
    assert std[1] > 1


def test_color_is_the_tense() -> None:
    labels, images = all_labels(1), icons(0.0).float()
    pixels = images.view(COMBINATIONS, 3, -1)
    for tense, color in enumerate(TENSES.values()):
        has_color = ((pixels - torch.tensor(color)[:, None]).abs().amax(dim=1) < 2).any(dim=1)
        assert torch.equal(has_color, labels["tense"] == tense)


def test_pattern_is_the_verb_and_shape_is_the_person() -> None:
    """Icons that differ in the tense alone are dark in the same places."""
    labels, images = all_labels(1), icons(0.0).float()
    gray = images.mean(dim=1)
    order = (labels["verb"] * 3 + labels["person"]) * 5 + labels["tense"]
    dark = (gray[order.argsort()] < 100).view(20, 3, 5, -1)  # the pattern within the shape
    assert (dark[:, :, 1] == dark[:, :, 2]).float().mean() > 0.9
    for one, other in itertools.combinations(range(20), 2):
        assert (dark[one, :, 1] != dark[other, :, 1]).any(dim=-1).all()
    shape = (gray[order.argsort()] < 225).view(20, 3, 5, -1).any(dim=2)
    assert (shape[:, 0] != shape[:, 1]).any(dim=-1).all()
    assert (shape[0, 0] == shape[5, 0]).all()


def test_batch_composition_does_not_change_an_icon() -> None:
    """Without jitter and noise, which are sampled for all icons at once."""
    first = {name: values[:10] for name, values in all_labels(1).items()}
    assert torch.equal(render(first, difficulty=0.0, rng=make_rng("a")), icons(0.0)[:10])


def test_source_describes_its_images() -> None:
    source = Icons().load()
    assert (source.name, source.num_channels, source.image_size) == ("icons", 3, 32)
    assert Icons.class_names == COMBINATION_NAMES
    assert [len(split.labels) for split in (source.train, source.val, source.test)] == [1200, 300, 300]
    assert Icons().num_samples == {"train": 1200, "val": 300, "test": 300}

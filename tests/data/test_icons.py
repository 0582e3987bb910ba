"""Icons: colour, shape and pattern say tense, person and verb; the same bytes again; every class on both sides."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from patchwork.cli import call
from patchwork.data import Icons
from patchwork.data.icons import COMBINATIONS, PERSONS, TENSES, VERBS, every, held_out, render
from patchwork.data.icons.__main__ import write
from patchwork.data.stream import Part, generator


def drawn(difficulty: float, copies: int = 1, seed: int = 0) -> Tensor:
    return render(every(copies), difficulty=difficulty, draw=generator("test", seed))


def icons(**changes: Any) -> Icons:
    data = Icons(
        **{"seed": 0, "batch_size": 32, "eval_batch_size": 100, "num_classes": 28, "train_size": 1200, **changes}
    )
    data.setup()
    return data


def test_there_are_as_many_as_the_document_says() -> None:
    assert (len(VERBS), len(TENSES), len(PERSONS), COMBINATIONS) == (20, 5, 3, 300)
    assert {"work", "play", "do", "watch", "look", "like", "be", "walk"} <= set(VERBS)
    labels = torch.stack(list(every(2).values()), dim=1)
    assert Counter(map(tuple, labels.tolist())) == dict.fromkeys(map(tuple, labels.tolist()), 2)


@pytest.mark.parametrize("difficulty", [0.0, 1.0, 2.0])
def test_same_seed_gives_the_same_bytes(difficulty: float) -> None:
    assert drawn(difficulty).dtype == torch.uint8
    assert torch.equal(drawn(difficulty), drawn(difficulty))
    assert torch.equal(drawn(difficulty), drawn(difficulty, seed=1)) is (difficulty == 0)


def test_without_difficulty_a_label_is_all_there_is() -> None:
    images = drawn(0.0, copies=2).view(COMBINATIONS, 2, -1)
    assert torch.equal(images[:, 0], images[:, 1])
    assert len(images[:, 0].unique(dim=0)) == COMBINATIONS


def test_more_difficulty_varies_more() -> None:
    spread = [
        drawn(difficulty, copies=8).view(COMBINATIONS, 8, -1).float().std(dim=1).mean() for difficulty in (0, 0.5, 1, 2)
    ]
    assert spread == sorted(spread)
    assert spread[0] == 0
    assert spread[1] > 1


def test_colour_is_the_tense() -> None:
    labels, images = every(1), drawn(0.0).float()
    brightest = images.view(COMBINATIONS, 3, -1)
    for tense, colour in enumerate(TENSES.values()):
        chosen = brightest[labels["tense"] == tense]
        near = (chosen - torch.tensor(colour)[:, None]).abs().amax(dim=1) < 2
        assert near.any(dim=1).all()
        others = brightest[labels["tense"] != tense]
        assert not ((others - torch.tensor(colour)[:, None]).abs().amax(dim=1) < 2).any()


def test_pattern_is_the_verb_and_shape_is_the_person() -> None:
    """Icons that differ in the tense alone have ink in the same places."""
    labels, images = every(1), drawn(0.0).float()
    grey = images.mean(dim=1)
    order = (labels["verb"] * 3 + labels["person"]) * 5 + labels["tense"]
    ink = (grey[order.argsort()] < 100).view(20, 3, 5, -1)  # dark: the pattern within the shape
    assert (ink[:, :, 1] == ink[:, :, 2]).float().mean() > 0.9
    for one, other in itertools.combinations(range(20), 2):
        assert (ink[one, :, 1] != ink[other, :, 1]).any(dim=-1).all()
    plain = (grey[order.argsort()] < 225).view(20, 3, 5, -1).any(dim=2)  # anything: the shape
    assert (plain[:, 0] != plain[:, 1]).any(dim=-1).all()
    assert (plain[0, 0] == plain[5, 0]).all()


def test_neighbours_in_a_batch_change_nothing() -> None:
    """Without jitter and noise, which are drawn for all icons of a set at once, an icon is its labels."""
    labels = every(1)
    first = render({name: values[:10] for name, values in labels.items()}, difficulty=0.0, draw=generator("a"))
    assert torch.equal(first, drawn(0.0)[:10])


@pytest.mark.parametrize("per_combination", [5, 10])
def test_every_class_is_on_both_sides(per_combination: int) -> None:
    data = icons(per_combination=per_combination)
    sizes = {part: len(data.images(part)) for part in ("train", "val", "test")}
    assert sizes == {"train": 240 * per_combination, "val": 300, "test": 60 * per_combination}
    assert data.sizes == {**sizes, "train": 1200}
    for part, values in data.parts.items():
        classes = (values["verb"] * 5 + values["tense"]) * 3 + values["person"]
        assert set(classes.bincount(minlength=300).tolist()) == {sizes[part] // 300}
        assert not values["held_out"].any()


def test_held_out_combinations_are_in_the_test_alone() -> None:
    data = icons(holdout="combinations")
    assert {part: len(data.images(part)) for part in data.sizes} == {"train": 960, "val": 240, "test": 300}
    assert (data.sizes["val"], data.sizes["test"]) == (240, 300)
    for part in ("train", "val"):
        assert not held_out(data.parts[part]).any()
        for name, count in (("verb", 20), ("tense", 5), ("person", 3)):
            times = data.parts[part][name].bincount(minlength=count)
            assert times.min() == times.max()  # every part of a combination is still learned, and as often
    assert held_out(data.parts["test"]).sum() == 60
    assert torch.equal(data.parts["test"]["held_out"], held_out(data.parts["test"]))


def test_batches_are_the_same_whatever_the_runs_seed_but_for_their_order() -> None:
    one, same, other = icons(seed=1), icons(seed=1), icons(seed=2)

    def epoch(data: Icons, part: Part) -> Tensor:
        batches = [data.make(part, (0, index), slice(None)) for index in range(data.length(part))]
        return torch.cat([batch["image"] for batch in batches])

    assert torch.equal(epoch(one, "train"), epoch(same, "train"))
    assert not torch.equal(epoch(one, "train"), epoch(other, "train"))
    assert torch.equal(epoch(one, "test"), epoch(other, "test"))
    assert one.source.digest == other.source.digest != icons(difficulty=1.1).source.digest
    image = epoch(one, "val")
    assert image.min() >= -1
    assert image.max() <= 1


def test_written_icons_are_those_rendered(tmp_path: Path) -> None:
    write(out=str(tmp_path / "icons"), per_combination=2, seed=3)
    listed = json.loads((tmp_path / "icons" / "labels.json").read_text())
    assert len(listed) == len({entry["filename"] for entry in listed}) == 600
    images = render(every(2), difficulty=1.0, draw=generator("icons", 3))
    for number in (0, 1, 299, 599):
        entry = listed[number]
        assert entry["class_id"] == (entry["verb_id"] * 5 + entry["tense_id"]) * 3 + entry["person_id"]
        verb, tense, person = (
            list(x)[entry[f"{name}_id"]] for x, name in ((VERBS, "verb"), (TENSES, "tense"), (PERSONS, "person"))
        )
        assert entry["filename"] == f"verb_{verb}_tense_{tense}_person_{person}_{number % 2}.png"
        with Image.open(tmp_path / "icons" / "icons" / entry["filename"]) as file:
            pixels = torch.tensor(list(file.getdata()), dtype=torch.uint8).view(32, 32, 3)
        assert torch.equal(pixels.permute(2, 0, 1), images[number])
    manifest = json.loads((tmp_path / "icons" / "manifest.json").read_text())
    assert (manifest["icons"], manifest["seed"]) == (600, 3)
    assert (tmp_path / "icons" / "sheet.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["icons"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "out is missing"),
        (["icons"], 2, "key=value"),
        (["out=a", "colour=1"], 2, "colour=1 is not a key of this command"),
        (["out=a", "difficulty=3"], 2, "difficulty=3 is not allowed"),
        (["out=a", "per_combination=x"], 2, "per_combination='x'"),
        (["out=there"], 2, "there already"),
        (["out=file/icons"], 5, "cannot be written"),
    ],
)
def test_wrong_words(
    words: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    assert call(write, words) == code
    assert said in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"there", "file"}

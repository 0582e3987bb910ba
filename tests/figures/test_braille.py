import re

import pytest
import torch
from torch import Tensor

from patchwork.figures.braille import braille, grid_lines, legend, render
from patchwork.tasks.base import Sample

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
GREY, GREEN, RED = "\x1b[90m", "\x1b[32m", "\x1b[1;31m"
# The dots of a character as Unicode numbers them: 1 to 6 down the columns, then 7 and 8 below.
PLACES = ((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1))


def decode(lines: list[str]) -> Tensor:
    """Read the dots (4 × lines, 2 × characters) back from Braille."""
    dots = torch.zeros(4 * len(lines), 2 * len(lines[0]), dtype=torch.bool)
    for y, line in enumerate(lines):
        for x, character in enumerate(line):
            for bit, (dy, dx) in enumerate(PLACES):
                dots[4 * y + dy, 2 * x + dx] = bool((ord(character) - 0x2800) >> bit & 1)
    return dots


def sample(rows: int = 1, cols: int = 1, size: int = 28, wrong: tuple[int, ...] = (), channels: int = 1) -> Sample:
    """Make a sample of noise whose cells expect 0, 1, 2 …; in the `wrong` ones x is said."""
    image = torch.rand(channels, rows * size, cols * size, generator=torch.Generator().manual_seed(0))
    expected = [str(i % 10) for i in range(rows * cols)]
    predicted = ["x" if i in wrong else label for i, label in enumerate(expected)]
    return Sample(image, expected, predicted, rows, cols)


@pytest.mark.parametrize("size", [(28, 28), (8, 8), (1, 1), (5, 3), (4, 2), (33, 57), (3, 140)])
@pytest.mark.parametrize("threshold", [0.5, 0.2])
def test_braille_decodes_to_the_thresholded_dots(size: tuple[int, int], threshold: float) -> None:
    images = torch.rand(3, *size)
    for image, lines in zip(images, braille(images, threshold), strict=True):
        dots = decode(lines)
        assert torch.equal(dots[: size[0], : size[1]], image > threshold)
        assert dots.sum() == (image > threshold).sum()  # the padding is blank
        assert dots.shape == (-(-size[0] // 4) * 4, -(-size[1] // 2) * 2)


def test_a_batch_is_drawn_as_its_images_one_by_one() -> None:
    images = torch.rand(7, 19, 23)
    assert braille(images) == [braille(image[None])[0] for image in images]
    assert braille(images[:0]) == []


def test_a_digit_takes_14_by_7_characters() -> None:
    (lines,) = braille(torch.zeros(1, 28, 28))
    assert [len(line) for line in lines] == [14] * 7
    assert set("".join(lines)) == {"\u2800"}


def test_a_cell_shows_its_picture_but_for_the_labels() -> None:
    one = sample(wrong=(0,))
    lines = grid_lines(one, color=False, width=80)
    (picture,) = braille(one.image)
    inside = [line[1:-1] for line in lines[1:-1]]
    assert lines[0] == "┌" + "─" * 14 + "┐"
    assert lines[-1] == "└" + "─" * 14 + "┘"
    assert inside[0] == "0" + picture[0][1:]
    assert inside[1:-1] == picture[1:-1]
    assert inside[-1] == picture[-1][:-2] + "✗x"


def test_color_tells_right_from_wrong() -> None:
    text = render([sample(2, 2, wrong=(1, 2))], color=True, width=80)
    assert [text.count(f"{GREY}{label}\x1b[0m") for label in "0123"] == [1] * 4
    assert text.count(f"{GREEN}0\x1b[0m") == text.count(f"{GREEN}3\x1b[0m") == 1
    assert text.count(f"{RED}x\x1b[0m") == 2
    assert "✗" not in text


def test_without_color_there_are_no_escapes_and_wrong_ones_are_marked() -> None:
    samples = [sample(2, 2, wrong=(1, 2)), Sample(torch.rand(1, 8, 8), ["\x1b[31mred"], ["a\nb"])]
    text = render(samples, color=False, width=80) + legend(color=False)
    assert "\x1b" not in text
    assert text.count("✗x") == 2
    assert "✗a·b" in text


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("width", [12, 40, 80, 160])
@pytest.mark.parametrize(
    "samples",
    [
        [sample(2, 2)] * 5,
        [sample()] * 10,
        [sample(1, 3), sample(3, 1), sample(2, 2, size=5)],
        [Sample(torch.rand(1, 28, 280), ["a label that is much longer than that"], ["31"])] * 2,
        [Sample(torch.rand(3, 224, 224), ["cat"], ["dog"])],
    ],
)
def test_samples_fit_the_width(samples: list[Sample], width: int, color: bool) -> None:
    lines = [ESCAPE.sub("", line) for line in render(samples, color=color, width=width).split("\n")]
    assert max(map(len, lines)) <= width
    assert sum(line.count("┌") for line in lines) == sum(one.rows * one.cols for one in samples)


def test_as_many_samples_stand_side_by_side_as_fit() -> None:
    block = 14 + 2
    for fitting in range(1, 6):
        width = fitting * block + (fitting - 1) * 4
        for given in (width, width + block + 3):
            assert render([sample()] * 6, color=True, width=given).split("\n")[0].count("┌") == fitting


def test_cells_are_drawn_in_reading_order() -> None:
    text = render([sample(2, 3)], color=False, width=80)
    assert re.findall(r"│(\d)", text) == list("012345")


@pytest.mark.parametrize(("said", "shown"), [([], ["✗"] * 4), (["0"], ["0", "✗"]), (list("01239"), ["✗3 9"])])
def test_too_few_or_too_many_labels_are_seen_to_be_wrong(said: list[str], shown: list[str]) -> None:
    one = Sample(torch.zeros(1, 56, 56), list("0123"), said, 2, 2)
    text = render([one], color=False, width=80)
    assert all(label in text for label in shown)
    assert RED in render([one], color=True, width=80)


def test_both_labels_show_on_the_smallest_picture() -> None:
    lines = grid_lines(Sample(torch.ones(1, 2, 2), ["12"], ["13"]), color=False, width=80)
    assert lines[1:-1] == ["│12⠀│", "│✗13│"]


def test_a_colour_picture_is_told_from_its_background() -> None:
    for background, shape in ((1.0, 0.2), (0.1, 0.9)):
        image = torch.full((3, 8, 8), background)
        image[1, 2:5, 3:6] = shape
        lines = grid_lines(Sample(image, [""], [""]), color=False, width=80)
        dots = decode([line[1:-1] for line in lines[1:-1]])
        assert torch.equal(dots, image[1] == shape)


def test_where_nothing_was_expected_there_is_no_verdict() -> None:
    drawn = Sample(torch.ones(1, 28, 28), None, ["3"])
    plain = "\n".join(grid_lines(drawn, color=False, width=80))
    assert plain.count("3") == 1
    assert "✗" not in plain
    painted = "\n".join(grid_lines(drawn, color=True, width=80))
    assert GREEN not in painted
    assert RED not in painted

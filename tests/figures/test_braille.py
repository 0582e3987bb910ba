"""Images and predictions in the terminal."""

import re

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from patchwork.figures.braille import HALF_BLOCK, braille, color_depth, legend, render, render_sample
from patchwork.tasks.base import Sample

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
GRAY, GREEN, RED = "\x1b[90m", "\x1b[32m", "\x1b[1;31m"
# The dots of a character as Unicode numbers them: 1 to 6 down the columns, then 7 and 8 below.
DOT_POSITIONS = ((0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 0), (3, 1))


def decode(lines: list[str]) -> Tensor:
    """Read the dots (4 × lines, 2 × characters) back from Braille."""
    dots = torch.zeros(4 * len(lines), 2 * len(lines[0]), dtype=torch.bool)
    for y, line in enumerate(lines):
        for x, character in enumerate(line):
            for bit, (dy, dx) in enumerate(DOT_POSITIONS):
                dots[4 * y + dy, 2 * x + dx] = bool((ord(character) - 0x2800) >> bit & 1)
    return dots


def make_sample(rows: int = 1, cols: int = 1, size: int = 28, wrong: tuple[int, ...] = (), channels: int = 1) -> Sample:
    """Make a sample of noise with the targets 0, 1, 2 …; the predictions of the `wrong` cells are x."""
    image = torch.rand(channels, rows * size, cols * size, generator=torch.Generator().manual_seed(0))
    target = [str(i % 10) for i in range(rows * cols)]
    prediction = ["x" if i in wrong else label for i, label in enumerate(target)]
    return Sample(image, target, prediction, rows, cols)


@settings(deadline=None, max_examples=50)
@given(height=st.integers(1, 40), width=st.integers(1, 140), threshold=st.sampled_from([0.5, 0.2]))
@example(height=28, width=28, threshold=0.5)
@example(height=1, width=1, threshold=0.5)
def test_braille_decodes_to_the_thresholded_image(height: int, width: int, threshold: float) -> None:
    images = torch.rand(3, height, width)
    for image, lines in zip(images, braille(images, threshold), strict=True):
        dots = decode(lines)
        assert torch.equal(dots[:height, :width], image > threshold)
        assert dots.sum() == (image > threshold).sum()  # the padding is blank
        assert dots.shape == (-(-height // 4) * 4, -(-width // 2) * 2)


def test_a_batch_renders_like_its_images_one_by_one() -> None:
    images = torch.rand(7, 19, 23)
    assert braille(images) == [braille(image[None])[0] for image in images]
    assert braille(images[:0]) == []


def test_a_28_by_28_digit_takes_14_by_7_characters() -> None:
    (lines,) = braille(torch.zeros(1, 28, 28))
    assert [len(line) for line in lines] == [14] * 7
    assert set("".join(lines)) == {"\u2800"}


def test_a_cell_shows_its_image_except_under_the_labels() -> None:
    sample = make_sample(wrong=(0,))
    lines = render_sample(sample, color=False, width=80)
    (image,) = braille(sample.image)
    inside = [line[1:-1] for line in lines[1:-1]]
    assert lines[0] == "┌" + "─" * 14 + "┐"
    assert lines[-1] == "└" + "─" * 14 + "┘"
    assert inside[0] == "0" + image[0][1:]
    assert inside[1:-1] == image[1:-1]
    assert inside[-1] == image[-1][:-2] + "✗x"


def test_colors_distinguish_correct_and_wrong_predictions() -> None:
    text = render([make_sample(2, 2, wrong=(1, 2))], color=True, width=80)
    assert [text.count(f"{GRAY}{label}\x1b[0m") for label in "0123"] == [1] * 4
    assert text.count(f"{GREEN}0\x1b[0m") == text.count(f"{GREEN}3\x1b[0m") == 1
    assert text.count(f"{RED}x\x1b[0m") == 2
    assert "✗" not in text


def test_without_color_there_are_no_escapes_and_a_cross_marks_errors() -> None:
    samples = [make_sample(2, 2, wrong=(1, 2)), Sample(torch.rand(1, 8, 8), ["\x1b[31mred"], ["a\nb"])]
    text = render(samples, color=False, width=80) + legend(color=False)
    assert "\x1b" not in text
    assert text.count("✗x") == 2
    assert "✗a·b" in text


@pytest.mark.parametrize("color", [True, False])
@pytest.mark.parametrize("width", [12, 40, 80, 160])
@pytest.mark.parametrize(
    "samples",
    [
        [make_sample(2, 2)] * 5,
        [make_sample()] * 10,
        [make_sample(1, 3), make_sample(3, 1), make_sample(2, 2, size=5)],
        [Sample(torch.rand(1, 28, 280), ["a label that is much longer than that"], ["31"])] * 2,
        [Sample(torch.rand(3, 224, 224), ["cat"], ["dog"])],
    ],
)
def test_samples_fit_the_terminal_width(samples: list[Sample], width: int, color: bool) -> None:
    lines = [ESCAPE.sub("", line) for line in render(samples, color=color, width=width).split("\n")]
    assert max(map(len, lines)) <= width
    assert sum(line.count("┌") for line in lines) == sum(sample.rows * sample.cols for sample in samples)


def test_as_many_samples_share_a_row_as_fit() -> None:
    block = 14 + 2
    for count in range(1, 6):
        width = count * block + (count - 1) * 4
        for available in (width, width + block + 3):
            assert render([make_sample()] * 6, color=True, width=available).split("\n")[0].count("┌") == count


def test_cells_are_in_raster_order() -> None:
    text = render([make_sample(2, 3)], color=False, width=80)
    assert re.findall(r"│(\d)", text) == list("012345")


@pytest.mark.parametrize(("prediction", "shown"), [([], ["✗"] * 4), (["0"], ["0", "✗"]), (list("01239"), ["✗3 9"])])
def test_missing_or_surplus_labels_are_marked_wrong(prediction: list[str], shown: list[str]) -> None:
    sample = Sample(torch.zeros(1, 56, 56), list("0123"), prediction, 2, 2)
    text = render([sample], color=False, width=80)
    assert all(label in text for label in shown)
    assert RED in render([sample], color=True, width=80)


def test_both_labels_fit_on_the_smallest_image() -> None:
    lines = render_sample(Sample(torch.ones(1, 2, 2), ["12"], ["13"]), color=False, width=80)
    assert lines[1:-1] == ["│12⠀│", "│✗13│"]


def test_a_color_image_is_separated_from_its_background() -> None:
    for background, shape in ((1.0, 0.2), (0.1, 0.9)):
        image = torch.full((3, 8, 8), background)
        image[1, 2:5, 3:6] = shape
        lines = render_sample(Sample(image, [""], [""]), color=False, width=80)
        dots = decode([line[1:-1] for line in lines[1:-1]])
        assert torch.equal(dots, image[1] == shape)


def test_without_a_target_nothing_is_marked_wrong() -> None:
    sample = Sample(torch.ones(1, 28, 28), None, ["3"])
    plain = "\n".join(render_sample(sample, color=False, width=80))
    assert plain.count("3") == 1
    assert "✗" not in plain
    colored = "\n".join(render_sample(sample, color=True, width=80))
    assert GREEN not in colored
    assert RED not in colored


@pytest.mark.parametrize(("environment", "depth"), [({"COLORTERM": "truecolor"}, 24), ({"TERM": "xterm-256color"}, 8)])
def test_color_images_are_shown_in_color_where_the_terminal_has_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], depth: int
) -> None:
    for name in ("COLORTERM", "TERM", "WT_SESSION"):
        monkeypatch.delenv(name, raising=False)
    image = torch.zeros(3, 12, 12)
    image[0, :6] = 1.0  # red above black
    sample = Sample(image, ["a"], ["b"])
    plain = render([sample], color=True, width=80)
    assert HALF_BLOCK not in plain
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert "\x1b" not in render([sample], color=False, width=80)
    text = render([sample], color=True, width=80)
    assert color_depth() == depth
    red = "38;2;255;0;0;48;2;255;0;0" if depth == 24 else "38;5;196;48;5;196"
    assert f"\x1b[{red}m{HALF_BLOCK}" in text
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in text.splitlines()]
    assert {len(line) for line in lines} == {14}
    assert len(lines) == 6 + 2


def test_color_images_are_small_enough_to_share_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLORTERM", "truecolor")
    text = render([Sample(torch.rand(3, 32, 32), ["a"], ["a"])] * 3, color=True, width=80)
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in text.splitlines()]
    assert len(lines) <= 12
    assert max(map(len, lines)) <= 80


def test_marks_are_written_into_the_frames() -> None:
    sample = Sample(torch.rand(1, 28, 84), ["there"], ["there"], cols=3, marks={0: "anchor", 2: "looked at"})
    for color in (False, True):
        top = render([sample], color=color, width=80).splitlines()[0]
        assert [frame.strip("┌─┐") for frame in top.split(" ┌")] == ["anchor", "", "looked at"]
        assert len(top) == 3 * 16 + 2
    assert "anc…" in render([sample], color=False, width=20)

"""Prompts: all ask for what they are said to ask for, and what is held out stays out."""

import re

import pytest
import torch

from patchwork.data.prompts import LENGTH, NEW_PHRASINGS, Kind, prompts, sums, understand, vocabulary, words_of
from patchwork.errors import ConfigError

KINDS: list[Kind] = ["numbers", "sums", "new_phrasings", "new_sums"]
SIGNS = {"plus": "+", "and": "+", "minus": "-", "less": "-"}


def worth(text: str) -> int:
    """Work out what a text asks for, in another way than the package does."""
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    kept = [SIGNS.get(word, str(names.index(word)) if word in names else word) for word in words_of(text)]
    return int(eval(" ".join(word for word in kept if re.fullmatch(r"\d|[+-]", word))))


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_ask_for_their_digit(kind: Kind) -> None:
    found = prompts(kind)
    assert set(found.digits.tolist()) == set(range(10))
    for text, digit in list(zip(found.texts, found.digits.tolist(), strict=True))[::7]:
        assert worth(text) == digit
        words, understood = understand(text.upper() + "!")
        assert understood == digit
        assert torch.equal(words[0], found.words[found.texts.index(text)])


def test_held_out_is_never_trained_on() -> None:
    trained = set(prompts("numbers").texts + prompts("sums").texts)
    assert not trained & set(prompts("new_phrasings").texts + prompts("new_sums").texts)
    assert len(trained) == len(prompts("numbers").texts) + len(prompts("sums").texts)
    for expressions, _ in sums(held_out=True):
        for expression in expressions:
            assert not any(re.search(rf"(^| ){re.escape(expression)}( |$)", text) for text in trained)
    assert sorted(digit for _, digit in sums(held_out=True)) == list(range(10))
    known = {word for text in trained for word in words_of(text)}
    assert all(word in known for text in NEW_PHRASINGS for word in words_of(text.replace("{}", "")))


def test_draw_gives_prompts_for_the_digits() -> None:
    digits = torch.arange(10).repeat(40)
    found = prompts("sums")
    drawn = found.draw(digits, torch.rand(400, generator=torch.Generator().manual_seed(0)))
    assert drawn.shape == (400, LENGTH)
    names = ["", *vocabulary()]
    texts = [" ".join(names[word] for word in words if word) for words in drawn.tolist()]
    assert [worth(text) for text in texts] == digits.tolist()
    assert len(set(texts)) > 300
    for extreme in (0.0, 1 - 2**-24):
        assert all(word > 0 for word in found.draw(digits, torch.full((400,), extreme))[:, 0].tolist())


def test_marks_say_nothing() -> None:
    for text in ("draw '3'", "Draw: 3?!", "“draw” (3)...", "What’s a 3 look like?", "5 − 2"):
        assert understand(text)[1] == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("draw a cat", "the word 'cat'"),
        ("draw", "names no digit"),
        ("draw 12", "12 is no digit"),
        ("7 plus 5", "gives 12"),
        ("three minus four", "gives -1"),
        ("1 + 2 + 3", "one digit, or two"),
        ("show 2 4", "one digit, or two"),
        ("draw a 3 +", "one digit, or two"),
        ("please " * 16 + "3", "17 words"),
        ("", "names no digit"),
        ("draw 3²", "the mark '²'"),
        ("нарисуй 3", "the mark 'н'"),
    ],
)
def test_what_cannot_be_drawn_says_why(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        understand(text)
    assert text in str(caught.value)

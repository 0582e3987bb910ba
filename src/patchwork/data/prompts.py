"""Prompts in words for a digit: a small grammar, its vocabulary, and what of it is kept from training.

    prompt     = phrasing around an expression, as "draw a {}" or "what's a {} look like"
    expression = number | number + number | number - number, where that gives a digit from 0 to 9
    number     = a numeral or its name; signs have names, too

Some phrasings and some sums and differences are held out: training never sees them, in whatever words, so that drawing
what they ask for takes more than memory. Document 002 asks for such prompts; the grammar is ours.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from patchwork.errors import ConfigError

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIGNS = {1: ("+", "plus", "and"), -1: ("-", "minus", "less")}
PHRASINGS = (
    "{}",
    "a {}",
    "draw {}",
    "draw a {}",
    "draw me a {}",
    "please draw {}",
    "show {}",
    "show me {}",
    "show me a {}",
    "paint a {}",
    "paint {} please",
    "write {}",
    "write down {}",
    "write a {} for me",
    "imagine a {}",
    "imagine {}",
    "can you draw {}",
    "can you show me a {}",
    "i want a {}",
    "i want to see {}",
    "give me {}",
    "give me the digit {}",
    "the digit {}",
    "the number {}",
    "what is {}",
    "what does {} look like",
    "what's a {} look like",
    "how do you write {}",
)
NEW_PHRASINGS = (
    "can you paint me a {} please",
    "show me what {} does look like",
    "i want you to write the number {}",
    "please imagine the digit {}",
    "can you write down a {} for me",
)
WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|[0-9]+|[+-]")
MARKS = " \t\n.,;:!?'\"()…“”‘"  # they say nothing
LENGTH = 16  # words of a prompt at most

Kind = Literal["numbers", "sums", "new_phrasings", "new_sums"]


@dataclass(frozen=True)
class Prompts:
    """Texts, their words (n, LENGTH) as numbers of the vocabulary, and the digits (n,) they ask for, in order."""

    texts: list[str]
    words: Tensor
    digits: Tensor

    def draw(self, digits: Tensor, chance: Tensor) -> Tensor:
        """Return the words (B, LENGTH) of a prompt for each of `digits` (B,), chosen by `chance` (B,) in [0, 1)."""
        begin, end = (torch.searchsorted(self.digits, digits, right=right) for right in (False, True))
        return self.words[begin + (chance * (end - begin)).long()]


@lru_cache
def prompts(kind: Kind) -> Prompts:
    """Return all prompts of a kind.

    `numbers` and `sums` (with differences) are for training; `new_phrasings` are for both, and `new_sums` are sums and
    differences, in known phrasings; these two are held out.
    """
    known = [(text, digit) for expression, digit in sums(held_out=False) for text in expression]
    plain = [(text, digit) for digit, name in enumerate(NUMBERS) for text in (str(digit), name)]
    phrasings, asked = {
        "numbers": (PHRASINGS, plain),
        "sums": (PHRASINGS, known),
        "new_phrasings": (NEW_PHRASINGS, plain + known),
        "new_sums": (PHRASINGS, [(text, digit) for texts, digit in sums(held_out=True) for text in texts]),
    }[kind]
    found = sorted(
        ((digit, phrasing.format(text)) for phrasing in phrasings for text, digit in asked), key=lambda one: one[0]
    )
    texts = [text for _, text in found]
    return Prompts(texts, encode([words_of(text) for text in texts]), torch.tensor([digit for digit, _ in found]))


def sums(*, held_out: bool) -> list[tuple[list[str], int]]:
    """Return each sum and difference that gives a digit, in all its spellings, with that digit.

    There are eleven for each digit, and one of these is held out.
    """
    found = []
    for digit in range(10):
        pairs = [(a, 1, digit - a) for a in range(digit + 1)] + [(a, -1, a - digit) for a in range(digit, 10)]
        for number, (a, sign, b) in enumerate(pairs):
            if (number == (5 * digit + 3) % len(pairs)) is held_out:
                spelled = [f"{one} {name} {other}" for name in SIGNS[sign] for one in spell(a) for other in spell(b)]
                found.append((spelled, digit))
    return found


def spell(number: int) -> tuple[str, str]:
    return str(number), NUMBERS[number]


@lru_cache
def vocabulary() -> dict[str, int]:
    """Return the number of each word of the grammar; 0 stands for no word."""
    texts = [*PHRASINGS, *NEW_PHRASINGS, *NUMBERS, *SIGNS[1], *SIGNS[-1], *map(str, range(10))]
    words = sorted({word for text in texts for word in words_of(text.replace("{}", " "))})
    return {word: number for number, word in enumerate(words, start=1)}


def words_of(text: str) -> list[str]:
    """Cut a text into words, numerals and signs; case and other marks do not matter."""
    return WORD.findall(plain(text))


def plain(text: str) -> str:
    return text.lower().replace("\u2019", "'").replace("\u2212", "-")


def encode(texts: list[list[str]]) -> Tensor:
    """Return the numbers of words (n, LENGTH), and 0 after the last."""
    known = vocabulary()
    return torch.tensor([[known[word] for word in words] + [0] * (LENGTH - len(words)) for words in texts])


def understand(text: str) -> tuple[Tensor, int]:
    """Return the words (1, LENGTH) of a prompt, and the digit that it asks for.

    Raises:
        ConfigError: if it asks for nothing that can be drawn; it says why.
    """
    words, says = words_of(text), f"prompt={text!r} cannot be drawn"
    for mark in WORD.sub("", plain(text)):
        if mark not in MARKS:
            raise ConfigError(f"{says}: the mark {mark!r} is not known")
    numbers = {name: value for value in range(10) for name in spell(value)}
    signs = {name: sign for sign, names in SIGNS.items() for name in names}
    for word in words:
        if word.isdigit() and word not in numbers:
            raise ConfigError(f"{says}: {word} is no digit, use 0 to 9 and their sums and differences")
        if word not in vocabulary():
            raise ConfigError(f"{says}: the word {word!r} is not known; known are {', '.join(vocabulary())}")
    if len(words) > LENGTH:
        raise ConfigError(f"{says}: it has {len(words)} words, use up to {LENGTH}")
    places = [place for place, word in enumerate(words) if word in numbers]
    if not places:
        raise ConfigError(f"{says}: it names no digit")
    a, b = numbers[words[places[0]]], numbers[words[places[-1]]]
    between = words[places[0] + 1 : places[-1]]
    signed = [place for place, word in enumerate(words) if word in signs]
    if len(places) == 1 and not signed:
        return encode([words]), a
    if len(places) > 2 or len(between) != 1 or between[0] not in signs or len(signed) != 1:
        raise ConfigError(f"{says}: use one digit, or two with one of {', '.join(signs)} between them")
    if not 0 <= (digit := a + signs[between[0]] * b) <= 9:
        raise ConfigError(f"{says}: {' '.join(words[places[0] : places[-1] + 1])} gives {digit}, which is no digit")
    return encode([words]), digit

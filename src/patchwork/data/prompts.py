"""Text prompts for a digit: a small grammar, its vocabulary, and what of it is held out from training.

    prompt     = phrasing around an expression, as "draw a {}" or "what's a {} look like"
    expression = number | number + number | number - number, where the result is a digit from 0 to 9
    number     = a numeral or its name; signs have names, too

Some phrasings and some sums and differences are held out: training never sees them, in whatever words, so that they
test more than memory. The pixel project (see `docs/references.md`) proposed such prompts; the grammar is our own.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from patchwork.core.errors import ConfigError

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
HELD_OUT_PHRASINGS = (
    "can you paint me a {} please",
    "show me what {} does look like",
    "i want you to write the number {}",
    "please imagine the digit {}",
    "can you write down a {} for me",
)
TOKEN = re.compile(r"[a-z]+(?:'[a-z]+)?|[0-9]+|[+-]")
PUNCTUATION = " \t\n.,;:!?'\"()…“”‘"  # ignored
LENGTH = 16  # tokens of a prompt at most

PromptKind = Literal["numbers", "sums", "held_out_phrasings", "held_out_sums"]


@dataclass(frozen=True)
class Prompts:
    """Prompts sorted by the digits that they ask for."""

    texts: list[str]
    token_ids: Tensor  # (n, LENGTH) int64, padded with 0
    digits: Tensor  # (n,) int64

    def sample(self, digits: Tensor, uniform: Tensor) -> Tensor:
        """Return the tokens (B, LENGTH) of a prompt for each of `digits` (B,), chosen by `uniform` (B,) in [0, 1)."""
        start, end = (torch.searchsorted(self.digits, digits, right=right) for right in (False, True))
        return self.token_ids[start + (uniform * (end - start)).long()]


@lru_cache
def prompts(kind: PromptKind) -> Prompts:
    """Return all prompts of a kind.

    `numbers` and `sums` (with differences) are for training. `held_out_phrasings` of both, and `held_out_sums` in the
    phrasings of training, are for evaluation.
    """
    numbers = [(text, digit) for digit in range(10) for text in spellings(digit)]
    phrasings, expressions = {
        "numbers": (PHRASINGS, numbers),
        "sums": (PHRASINGS, arithmetic_expressions(held_out=False)),
        "held_out_phrasings": (HELD_OUT_PHRASINGS, numbers + arithmetic_expressions(held_out=False)),
        "held_out_sums": (PHRASINGS, arithmetic_expressions(held_out=True)),
    }[kind]
    pairs = [(phrasing.format(text), digit) for phrasing in phrasings for text, digit in expressions]
    pairs.sort(key=lambda pair: pair[1])
    texts, digits = [text for text, _ in pairs], [digit for _, digit in pairs]
    return Prompts(texts, encode([tokenize(text) for text in texts]), torch.tensor(digits))


def arithmetic_expressions(*, held_out: bool) -> list[tuple[str, int]]:
    """Return all spellings of the sums and differences that give a digit, each with that digit.

    There are eleven for each digit, and one of these is held out.
    """
    expressions = []
    for digit in range(10):
        terms = [(a, 1, digit - a) for a in range(digit + 1)] + [(a, -1, a - digit) for a in range(digit, 10)]
        for index, (a, sign, b) in enumerate(terms):
            if (index == (5 * digit + 3) % len(terms)) is held_out:
                for name in SIGNS[sign]:
                    expressions += [(f"{one} {name} {two}", digit) for one in spellings(a) for two in spellings(b)]
    return expressions


def spellings(number: int) -> tuple[str, str]:
    return str(number), NUMBERS[number]


@lru_cache
def vocabulary() -> dict[str, int]:
    """Return the id of each token of the grammar; 0 is for padding."""
    texts = [*PHRASINGS, *HELD_OUT_PHRASINGS, *NUMBERS, *SIGNS[1], *SIGNS[-1], *map(str, range(10))]
    tokens = sorted({token for text in texts for token in tokenize(text.replace("{}", " "))})
    return {token: index for index, token in enumerate(tokens, start=1)}


def tokenize(text: str) -> list[str]:
    """Split a text into words, numerals and signs; case and punctuation are ignored."""
    return TOKEN.findall(normalize_text(text))


def normalize_text(text: str) -> str:
    """Return a text in lower case, with ASCII apostrophes and minus signs."""
    return text.lower().replace("\u2019", "'").replace("\u2212", "-")


def encode(texts: list[list[str]]) -> Tensor:
    """Return the token ids (n, LENGTH) of tokenized texts, padded with 0."""
    ids = vocabulary()
    return torch.tensor([[ids[token] for token in tokens] + [0] * (LENGTH - len(tokens)) for tokens in texts])


def parse_prompt(text: str) -> tuple[Tensor, int]:
    """Return the token ids (1, LENGTH) of a prompt, and the digit that it asks for.

    Raises:
        ConfigError: if it asks for nothing that can be generated; the message says why.
    """
    try:
        tokens = tokenize(text)
        check_tokens(text, tokens)
        return encode([tokens]), evaluate_expression(tokens)
    except ValueError as error:
        raise ConfigError(f"prompt={text!r} is not allowed: {error}") from error


def check_tokens(text: str, tokens: list[str]) -> None:
    """Raise a `ValueError` if a text holds anything outside the vocabulary, or is too long."""
    for character in TOKEN.sub("", normalize_text(text)):
        if character not in PUNCTUATION:
            raise ValueError(f"unknown character {character!r}")
    for token in tokens:
        if token.isdigit() and len(token) > 1:
            raise ValueError(f"{token} is not a digit; use 0 to 9 and their sums and differences")
        if token not in vocabulary():
            raise ValueError(f"unknown word {token!r}; the vocabulary is {', '.join(vocabulary())}")
    if len(tokens) > LENGTH:
        raise ValueError(f"it has {len(tokens)} words; use up to {LENGTH}")


def evaluate_expression(tokens: list[str]) -> int:
    """Return the digit that a prompt's expression gives.

    Raises:
        ValueError: if there is no expression, more than one, or its value is not a digit.
    """
    numbers = {name: value for value in range(10) for name in spellings(value)}
    signs = {name: sign for sign, names in SIGNS.items() for name in names}
    positions = [position for position, token in enumerate(tokens) if token in numbers]
    num_signs = sum(token in signs for token in tokens)
    if not positions:
        raise ValueError("it names no digit")
    first, last = positions[0], positions[-1]
    a, b, between = numbers[tokens[first]], numbers[tokens[last]], tokens[first + 1 : last]
    if len(positions) == 1 and num_signs == 0:
        return a
    if len(positions) > 2 or num_signs != 1 or len(between) != 1 or between[0] not in signs:
        raise ValueError(f"use one digit, or two with one of {', '.join(signs)} between them")
    digit = a + signs[between[0]] * b
    if not 0 <= digit <= 9:
        raise ValueError(f"{' '.join(tokens[first : last + 1])} gives {digit}, which is not a digit")
    return digit


def prompt_size(size: str) -> int:
    """Return what a text encoder must know of prompts.

    Args:
        size: `words` for the number of token ids, padding included; `length` for the tokens of a prompt at most.
    """
    return {"words": len(vocabulary()) + 1, "length": LENGTH}[size]

"""Prompts: each asks for its digit, and what is held out is never trained on."""

import re
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchwork.core.errors import ConfigError
from patchwork.data.prompts import (
    HELD_OUT_PHRASINGS,
    LENGTH,
    NUMBERS,
    PHRASINGS,
    SIGNS,
    PromptKind,
    arithmetic_expressions,
    parse_prompt,
    prompt_size,
    prompts,
    tokenize,
    vocabulary,
)

OPERATORS = {"plus": "+", "and": "+", "minus": "-", "less": "-"}
DIGITS = st.integers(0, 9)


def evaluate(text: str) -> int:
    """Evaluate the expression of a prompt, in another way than the package does."""
    tokens = [
        OPERATORS.get(token, str(NUMBERS.index(token)) if token in NUMBERS else token) for token in tokenize(text)
    ]
    return int(eval(" ".join(token for token in tokens if re.fullmatch(r"\d|[+-]", token))))


@pytest.mark.parametrize("kind", get_args(PromptKind))
def test_prompts_ask_for_their_digit(kind: PromptKind) -> None:
    prompt_set = prompts(kind)
    assert set(prompt_set.digits.tolist()) == set(range(10))
    pairs = list(zip(prompt_set.texts, prompt_set.digits.tolist(), strict=True))
    for index in range(0, len(pairs), 7):
        text, digit = pairs[index]
        assert evaluate(text) == digit
        token_ids, parsed = parse_prompt(text.upper() + "!")
        assert parsed == digit
        assert torch.equal(token_ids[0], prompt_set.token_ids[index])


@st.composite
def spelled_prompts(draw: st.DrawFn) -> tuple[str, int]:
    """Draw a prompt, spelled and punctuated at random, and the value of its expression, which need not be a digit."""

    def spell(number: int) -> str:
        return draw(st.sampled_from([str(number), NUMBERS[number], NUMBERS[number].upper()]))

    a, sign, b = draw(DIGITS), draw(st.sampled_from([0, 1, -1])), draw(DIGITS)
    expression = f"{spell(a)} {draw(st.sampled_from(SIGNS[sign]))} {spell(b)}" if sign else spell(a)
    text = draw(st.sampled_from(PHRASINGS + HELD_OUT_PHRASINGS)).format(expression)
    return text + draw(st.text(" .,;:!?'\"()…“”‘\t\n", max_size=5)), a + sign * b


@given(spelled_prompts())
@settings(max_examples=50, deadline=None)
def test_parsing_a_rendered_prompt_returns_its_digit(prompt: tuple[str, int]) -> None:
    text, value = prompt
    if 0 <= value <= 9:
        token_ids, digit = parse_prompt(text)
        names = ["", *vocabulary()]
        assert digit == value
        assert token_ids.shape == (1, LENGTH)
        assert [names[token] for token in token_ids[0].tolist() if token] == tokenize(text)
    else:
        with pytest.raises(ConfigError, match=f"gives {value}, which is not a digit"):
            parse_prompt(text)


@given(st.text(max_size=30))
@settings(max_examples=50, deadline=None)
def test_any_text_gives_a_digit_or_an_error_that_quotes_it(text: str) -> None:
    try:
        digit, message = parse_prompt(text)[1], None
    except ConfigError as error:
        digit, message = None, str(error)
    assert digit in range(10) if message is None else f"prompt={text!r}" in message


def test_held_out_prompts_are_never_trained_on() -> None:
    trained = set(prompts("numbers").texts + prompts("sums").texts)
    assert not trained & set(prompts("held_out_phrasings").texts + prompts("held_out_sums").texts)
    assert len(trained) == len(prompts("numbers").texts) + len(prompts("sums").texts)
    held_out = arithmetic_expressions(held_out=True)
    trained_trigrams = {
        tokens[i : i + 3] for tokens in (tuple(tokenize(text)) for text in trained) for i in range(len(tokens) - 2)
    }
    assert not trained_trigrams & {tuple(tokenize(expression)) for expression, _ in held_out}
    pairs = {evaluate_terms(expression) for expression, _ in held_out}
    assert len(pairs) == 10  # one sum or difference for each digit, in all its spellings
    assert sorted({digit for _, digit in held_out}) == list(range(10))
    trained_tokens = {token for text in trained for token in tokenize(text)}
    assert all(token in trained_tokens for text in HELD_OUT_PHRASINGS for token in tokenize(text.replace("{}", "")))


def evaluate_terms(expression: str) -> tuple[int, str, int]:
    """Return the numbers and the sign of an expression, however they are spelled."""
    a, sign, b = tokenize(expression)
    first, second = (NUMBERS.index(token) if token in NUMBERS else int(token) for token in (a, b))
    return first, OPERATORS.get(sign, sign), second


def test_sampled_prompts_ask_for_the_given_digits() -> None:
    digits = torch.arange(10).repeat(40)
    prompt_set = prompts("sums")
    token_ids = prompt_set.sample(digits, torch.rand(400, generator=torch.Generator().manual_seed(0)))
    assert token_ids.shape == (400, LENGTH)
    names = ["", *vocabulary()]
    texts = [" ".join(names[token] for token in row if token) for row in token_ids.tolist()]
    assert [evaluate(text) for text in texts] == digits.tolist()
    assert len(set(texts)) > 300
    for extreme in (0.0, 1 - 2**-24):
        assert (prompt_set.sample(digits, torch.full((400,), extreme))[:, 0] > 0).all()


def test_prompt_sizes_are_those_of_vocabulary_and_length() -> None:
    assert (prompt_size("words"), prompt_size("length")) == (55, 16)
    assert sorted(vocabulary().values()) == list(range(1, 55))
    assert all(len(tokenize(text)) <= LENGTH for kind in get_args(PromptKind) for text in prompts(kind).texts[::50])


def test_punctuation_is_ignored() -> None:
    for text in ("draw '3'", "Draw: 3?!", "“draw” (3)...", "What’s a 3 look like?", "5 − 2"):
        assert parse_prompt(text)[1] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("draw a cat", "unknown word 'cat'"),
        ("draw", "names no digit"),
        ("draw 12", "12 is not a digit"),
        ("7 plus 5", "gives 12"),
        ("three minus four", "gives -1"),
        ("1 + 2 + 3", "one digit, or two"),
        ("show 2 4", "one digit, or two"),
        ("draw a 3 +", "one digit, or two"),
        ("please " * 16 + "3", "17 words"),
        ("", "names no digit"),
        ("draw 3²", "unknown character '²'"),
        ("нарисуй 3", "unknown character 'н'"),
    ],
)
def test_prompts_that_cannot_be_parsed_are_rejected(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        parse_prompt(text)
    assert text in str(caught.value)

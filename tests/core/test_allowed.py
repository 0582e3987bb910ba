"""Annotations in words, the innermost fault of a value, and values as they are typed."""

from typing import Annotated, Any, Literal, NotRequired

import pytest
from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MinLen
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from typing_extensions import Doc, TypedDict

from patchwork.core.allowed import describe, find_fault, format_value
from patchwork.core.overrides import parse_override
from patchwork.core.schema import fits


class Layer(TypedDict):
    channels: PositiveInt
    stride: NotRequired[PositiveInt]


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "an integer"),
        (PositiveInt, "a positive integer"),
        (PositiveFloat, "a positive number"),
        (NonNegativeInt, "an integer of 0 or more"),
        (NonNegativeFloat, "a number of 0 or more"),
        (Annotated[int, Interval(ge=2, le=10)], "an integer from 2 to 10"),
        (Annotated[float, Ge(0), Lt(1)], "a number from 0 to below 1"),
        (Annotated[float, Gt(0), Le(1)], "a number above 0 and up to 1"),
        (Annotated[float, Gt(1)], "a number above 1"),
        (Annotated[float, Le(1)], "a number up to 1"),
        (bool, "true or false"),
        (bool | Literal["warn"] | None, "one of true, false, warn or null"),
        (str, "a string"),
        (Annotated[str, MinLen(1)] | None, "a non-empty string or null"),
        (Literal["max", "min"], "one of max, min"),
        (PositiveInt | Literal[-1], "a positive integer or -1"),
        (list[int], "a list of integers"),
        (Annotated[list[NonNegativeInt], MinLen(1)], "a list of one or more integers of 0 or more"),
        (Annotated[list[Annotated[float, Ge(0), Lt(1)]], Len(2, 2)], "a list of 2 numbers from 0 to below 1"),
        (list[Layer], "a list of mappings with channels, stride"),
        (Annotated[str, Doc("a time")] | None, "a time or null"),
        (Any, "any value"),
    ],
)
def test_annotations_in_words(annotation: Any, words: str) -> None:
    assert describe(annotation) == words


@pytest.mark.parametrize(
    ("value", "annotation", "path", "fault"),
    [
        ([1, -2], list[PositiveInt], "x.1", -2),
        ([1, -2], list[PositiveInt] | None, "x.1", -2),
        ([], Annotated[list[int], MinLen(1)], "x", []),
        ([{"channels": 1}, {"channels": 0}], list[Layer], "x.1.channels", 0),
        ([{"channels": 1, "stride": "a"}], list[Layer], "x.0.stride", "a"),
        ([{"stride": 1}], list[Layer], "x.0", {"stride": 1}),
        ("a", int | None, "x", "a"),
    ],
)
def test_the_innermost_fault_is_found(value: Any, annotation: Any, path: str, fault: Any) -> None:
    assert not fits(value, annotation)
    assert find_fault("x", value, annotation, fits)[:2] == (path, fault)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (1e-5, "1e-05"),
        ("adam", "adam"),
        ("val/loss", "val/loss"),
        ("64", "'64'"),
        ("true", "'true'"),
        ("", "''"),
        ([0.9, None], "[0.9, null]"),
        ({"channels": 8, "mode": "a b"}, "{channels: 8, mode: 'a b'}"),
    ],
)
def test_values_are_formatted_as_they_are_typed(value: Any, text: str) -> None:
    assert format_value(value) == text
    assert parse_override(f"key={text}").value() == value

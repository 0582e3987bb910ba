"""Which values the arguments of Lightning's Trainer take here."""

import re
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BeforeValidator, NonNegativeInt, PositiveInt
from typing_extensions import Doc

TIME_UNITS = {"weeks", "days", "hours", "minutes", "seconds"}


def check_max_time(value: Any) -> Any:
    """Raise a `ValueError` unless a value is None, or a time above 0 as text or as numbers by unit."""
    if isinstance(value, dict):
        is_time = any(value.values()) and set(value) <= TIME_UNITS
    elif isinstance(value, str):
        is_time = re.fullmatch(r"\d+:\d\d:\d\d:\d\d", value) is not None and value.strip("0:") != ""
    else:
        is_time = value is None
    if not is_time:
        raise ValueError("not a time")
    return value


def check_not_integer(value: Any) -> Any:
    """Raise a `ValueError` if a value is an integer, which a float may be otherwise."""
    if isinstance(value, int):
        raise ValueError("an integer")
    return value


PositiveFraction = Annotated[float, Gt(0), Le(1)]
BatchLimit = PositiveInt | PositiveFraction  # a number of batches, or a fraction of them
OptionalBatchLimit = NonNegativeInt | Annotated[float, Ge(0), Le(1)]  # 0 for none
MaxEpochs = Annotated[
    PositiveInt | Literal[-1], Doc("a positive integer, or -1 for as many epochs as trainer.max_steps takes")
]
MaxTime = Annotated[
    str | dict[str, NonNegativeInt] | None,
    BeforeValidator(check_max_time),
    Doc("days:hours:minutes:seconds, such as 00:00:30:00 for half an hour, {minutes: 30}, or null"),
]
ValCheckInterval = Annotated[
    Annotated[int, Ge(2)] | Annotated[PositiveFraction, BeforeValidator(check_not_integer)],
    Doc(
        "a fraction of an epoch, 1.0 for once an epoch, or an integer N from 2 on for every N batches (not 1, which "
        "would be every batch, nor a time, which would be other steps on each machine)"
    ),
]
Devices = Annotated[
    PositiveInt | Annotated[list[NonNegativeInt], MinLen(1)] | Literal["auto", -1],
    Doc("a positive integer, a list of the indices of GPUs, such as [0,1], auto, or -1 for all GPUs"),
]
PrecisionName = Annotated[
    Literal["32-true", "bf16-mixed", "64-true", "32", "bf16", "64", 32, 64],
    Doc(
        "32-true, bf16-mixed, or 64-true (32, bf16, or 64 for short); float16 overflows where bf16-mixed does not, and "
        "weights in 16 bits lose small updates"
    ),
]
FULL_PRECISION_NAMES = {"32": "32-true", "bf16": "bf16-mixed", "64": "64-true"}


def full_precision_name(name: Any) -> Any:
    """Return the one name of a precision that has several, as `64-true` for 64; others are returned as they are."""
    return FULL_PRECISION_NAMES.get(str(name), name)

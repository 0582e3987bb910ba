"""Say in words which values a type annotation allows, and where in a value it is violated."""

import re
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MinLen
from pydantic.fields import FieldInfo
from typing_extensions import Doc, is_typeddict

Fault = tuple[str, Any, Any]  # path, value and annotation


def describe(annotation: Any, *, plural: bool = False) -> str:
    """Return which values an annotation allows, as "a positive integer", "one of max, min" or "null"."""
    annotation, metadata = unwrap(annotation)
    text = next((entry for entry in map(documentation, metadata) if entry), None)
    if text is not None:
        return text
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation in (None, NoneType):
        return "null"
    if origin in (Union, UnionType):
        return describe_union(args, plural=plural)
    if origin is Literal:
        values = [format_value(value) for value in args]
        return values[0] if len(values) == 1 else f"one of {', '.join(values)}"
    if annotation is bool:
        return "true or false"
    if annotation in (int, float):
        return describe_number("integer" if annotation is int else "number", metadata, plural=plural)
    if annotation is str:
        empty = any(isinstance(entry, MinLen) and entry.min_length for entry in metadata)
        return f"{'non-empty ' if empty else ''}strings" if plural else f"a {'non-empty ' if empty else ''}string"
    if list in (annotation, origin):
        return describe_list(args, metadata, plural=plural)
    if is_typeddict(annotation):
        keys = ", ".join(get_type_hints(annotation))
        return f"mappings with {keys}" if plural else f"a mapping with {keys}"
    if dict in (annotation, origin) or origin is Mapping:
        return "mappings" if plural else "a mapping"
    if annotation is Any:
        return "any values" if plural else "any value"
    name = getattr(annotation, "__name__", str(annotation))
    return f"{name}s" if plural else f"{'an' if name[0] in 'AEIOU' else 'a'} {name}"


def documentation(metadata: Any) -> str | None:
    """Return the words that an annotation has for itself, `Annotated[str, …, Doc("a time")]`."""
    return metadata.documentation if isinstance(metadata, Doc) else None


def unwrap(annotation: Any) -> tuple[Any, list[Any]]:
    """Return the type within `Annotated`, `Required` and `NotRequired`, and the metadata."""
    metadata: list[Any] = []
    while get_origin(annotation) in (Annotated, Required, NotRequired):
        annotation, *entries = get_args(annotation)
        for entry in entries:
            metadata += entry.metadata if isinstance(entry, FieldInfo) else [entry]
    return annotation, metadata


def describe_union(kinds: tuple[Any, ...], *, plural: bool) -> str:
    """Join what the members of a union allow; all choices are one list, and null is the last."""
    literals = [value for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    rest = [kind for kind in kinds if kind not in (None, NoneType) and get_origin(kind) is not Literal]
    words = [describe(kind, plural=plural) for kind in rest]
    if len(rest) == 1 and unwrap(rest[0])[0] is bool and literals:
        words, literals = [], [True, False, *literals]
    if literals:
        words.append(describe(Literal[tuple(literals)]))
    if any(kind in (None, NoneType) for kind in kinds):
        words.append("null")
    return " or ".join(dict.fromkeys(words))


def describe_number(noun: str, metadata: list[Any], *, plural: bool) -> str:
    """Return "a positive integer", "a number from 0 to below 1" and the like."""
    bounds: dict[str, Any] = {}
    for entry in metadata:
        if isinstance(entry, Gt | Ge | Lt | Le):
            name = type(entry).__name__.lower()
            bounds[name] = getattr(entry, name)
        elif isinstance(entry, Interval):
            bounds |= {name: bound for name in ("gt", "ge", "lt", "le") if (bound := getattr(entry, name)) is not None}
    positive = bounds == {"gt": 0}
    article = "an" if noun == "integer" and not positive else "a"
    kind = f"{'positive ' if positive else ''}{noun}"
    start = f"{kind}s" if plural else f"{article} {kind}"
    low = {"ge": "from {}", "gt": "above {}"}
    lower = next((low[name].format(bounds[name]) for name in low if name in bounds), "")
    if positive or not bounds:
        return start
    if "le" in bounds or "lt" in bounds:
        upper = f"up to {bounds['le']}" if "le" in bounds else f"below {bounds['lt']}"
        upper = upper.removeprefix("up ") if "ge" in bounds and "le" in bounds else upper
        joint = " " if "ge" in bounds and "le" in bounds else " to " if "ge" in bounds else " and "
        return f"{start} {lower}{joint if lower else ''}{upper}"
    return f"{start} of {bounds['ge']} or more" if "ge" in bounds else f"{start} {lower}"


def describe_list(args: tuple[Any, ...], metadata: list[Any], *, plural: bool) -> str:
    items = describe(args[0], plural=True) if args else "values"
    lengths = [entry for entry in metadata if isinstance(entry, Len | MinLen)]
    minimum = max((entry.min_length for entry in lengths), default=0)
    maximum = next((entry.max_length for entry in lengths if isinstance(entry, Len)), None)
    count = f"{minimum} " if minimum == maximum else "one or more " if minimum == 1 else ""
    count = f"{minimum} or more " if minimum > 1 and maximum is None else count
    return f"lists of {count}{items}" if plural else f"a list of {count}{items}"


def find_fault(path: str, value: Any, annotation: Any, is_allowed: Callable[[Any, Any], bool]) -> Fault:
    """Return the innermost place of a value that is not allowed: its path, value and annotation.

    Args:
        path: Dotted path of the value.
        value: Value that is not allowed.
        annotation: Its annotation.
        is_allowed: Function that tells whether an annotation allows a value.
    """
    inner, _ = unwrap(annotation)
    if get_origin(inner) in (Union, UnionType):
        for kind in get_args(inner):
            if isinstance(value, list) and get_origin(unwrap(kind)[0]) is list:
                return find_fault(path, value, kind, is_allowed)
    elif isinstance(value, list) and get_origin(inner) is list:
        (item_type,) = get_args(inner)
        for index, item in enumerate(value):
            if not is_allowed(item, item_type):
                return find_fault(f"{path}.{index}", item, item_type, is_allowed)
    elif isinstance(value, Mapping) and is_typeddict(inner):
        for key, kind in get_type_hints(inner, include_extras=True).items():
            if key in value and not is_allowed(value[key], unwrap_required(kind)):
                return find_fault(f"{path}.{key}", value[key], unwrap_required(kind), is_allowed)
    return path, value, annotation


def unwrap_required(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) in (Required, NotRequired) else annotation


CONSTANTS = {None: "null", True: "true", False: "false"}


def format_value(value: Any, *, nested: bool = False) -> str:
    """Format a value as it is typed on the command line; a string in quotes where it would be read as another type."""
    if value is None or isinstance(value, bool):
        return CONSTANTS[value]
    if isinstance(value, list | tuple):
        return f"[{', '.join(format_value(item, nested=True) for item in value)}]"
    if isinstance(value, Mapping):
        entries = (f"{key}: {format_value(item, nested=True)}" for key, item in value.items())
        return f"{{{', '.join(entries)}}}"
    if isinstance(value, str):
        return value if is_plain(value, nested=nested) else repr(value)
    return repr(value)


def is_plain(text: str, *, nested: bool) -> bool:
    """Return whether a string is read as itself without quotes."""
    if text.lower() in ("", "null", "true", "false", "nan", "inf", "~") or text != text.strip():
        return False
    if is_number(text):
        return False
    if nested:
        return re.fullmatch(r"[A-Za-z_./][\w./-]*", text, re.ASCII) is not None
    return not any(character in text for character in "'\"[]{},")


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

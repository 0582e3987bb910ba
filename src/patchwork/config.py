"""Check a configuration before anything runs: constructors are its schema.

A node with a `_target_` may hold the arguments of that class or function and nothing else, and their annotations say
what values are allowed. So a model or a task states its configuration once, in its own signature, and a target may
only be what this package itself defines, in the room where it belongs.
"""

import builtins
import difflib
import importlib
import inspect
import math
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Annotated, Any, get_args, get_type_hints

from annotated_types import Interval, MinLen
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException
from pydantic import ConfigDict, NonNegativeFloat, PydanticUserError, TypeAdapter, ValidationError
from yaml import YAMLError

from patchwork.errors import ConfigError, one_line

ICON_CLASSES = {  # outputs of a model of icons, by the task's head and label
    "flat": {"tense": 5, "tense_person": 5 * 3, "combination": 20 * 5 * 3},
    "factored": {"tense": 5, "tense_person": 5 + 3, "combination": 20 + 5 + 3},
}
LEVELS = {"gray256": 256}  # of pixels, by the tokens of a generator; others are binary
PROMPTS = {"words": 55, "length": 16}  # their vocabulary, with no word as the first, and words of one at most
OmegaConf.register_new_resolver("levels", lambda tokens: LEVELS.get(tokens, 2))
OmegaConf.register_new_resolver("prompts", lambda size: PROMPTS[size])
OmegaConf.register_new_resolver("icon_classes", lambda head, label: ICON_CLASSES.get(head, {}).get(label, 1))

ROOMS: dict[str, str | tuple[str, ...]] = {  # top-level key: where its targets are defined
    "task": "patchwork.tasks",
    "model": "patchwork.models",
    "data": "patchwork.data",
    "digits": "patchwork.data.digits",
    "optimizer": "patchwork.optim",
    "scheduler": "patchwork.optim",
    "trainer": "patchwork.run",
    "logger": "patchwork.loggers",
    "callbacks": ("patchwork.callbacks", "patchwork.figures"),
}
PLAIN: dict[str, Any] = {
    "seed": Annotated[int, Interval(ge=0, le=2**32 - 1)],
    "save_seconds": NonNegativeFloat,
    "folder": Annotated[str, MinLen(1)] | None,
    "resume": Annotated[str, MinLen(1)] | None,
}
PARTS = ("task", "model", "data", "digits", "optimizer", "scheduler", "trainer")  # keys that must be there
LATER = ("optimizer", "scheduler", "logger")  # made when a run has what they need: `_partial_`, in Hydra's words


def check(config: DictConfig) -> None:
    """Check every key, type and value of a whole configuration.

    Raises:
        ConfigError: at the first fault; one line that names key, value and what is allowed.
    """
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except InterpolationKeyError as error:
        raise ConfigError(
            f"{error.full_key} is to be the same as a key that is not there: task, model and data do not fit together "
            f"({one_line(error)})"
        ) from error
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from error
    assert isinstance(plain, dict)
    for key, value in sorted(plain.items(), key=lambda item: item[0] == "task"):  # the task, which links others, last
        if key in PLAIN:
            check_value(key, value, PLAIN[key])
        elif key not in ROOMS:
            raise unknown(key, value, "the configuration", [*PLAIN, *ROOMS])
        elif key in ("logger", "callbacks"):
            for name, node in check_mapping(key, value or {}).items():
                if node is not None:
                    check_node(f"{key}.{name}", node, ROOMS[key])
        else:
            check_node(key, value, ROOMS[key])
    for key in (*PARTS, "seed"):
        if key not in plain:
            raise ConfigError(f"{key} is missing from the configuration")
    for group in ("model", "task"):
        for key in plain[group].keys() & plain["data"].keys() - {"_target_"}:
            if plain[group][key] != plain["data"][key]:
                raise ConfigError(
                    f"{group}.{key}={written(plain[group][key])} is not what the data has: it is set by data.{key}, "
                    f"{written(plain['data'][key])} here"
                )


def check_node(path: str, node: Any, room: str | tuple[str, ...]) -> None:
    """Check a node that has a `_target_`, and those within it."""
    check_mapping(path, node)
    target = find_target(path, node.get("_target_"), room)
    parameters = signature(target)
    later = path.rpartition("task.")[2].partition(".")[0] in LATER
    if node.get("_partial_", False) is not later:
        allowed = "true" if later else "false, or left out"
        raise ConfigError(f"{path}._partial_={written(node.get('_partial_'))} is not allowed: it is {allowed}")
    for key in [key for key, (_, needed) in parameters.items() if needed and key not in node]:
        raise ConfigError(f"{path}.{key} is missing: {name_of(target)} needs it")
    for key, value in node.items():
        if key in ("_target_", "_partial_"):
            continue
        if key not in parameters:
            raise unknown(f"{path}.{key}", value, path, parameters)
        if isinstance(value, Mapping) and "_target_" in value:
            check_node(f"{path}.{key}", value, ROOMS.get(key, room))
        else:
            check_value(f"{path}.{key}", value, parameters[key][0])


def check_mapping(path: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}={written(value)} is not allowed: a group of keys belongs here")
    return value


def check_value(path: str, value: Any, annotation: Any) -> None:
    """Check a value against a type annotation, strictly: a text is no number and a number no switch."""
    for part in parts_of(value):
        if isinstance(part, Mapping) and any(str(key).startswith("_") for key in part):
            raise ConfigError(f"{path}={written(value)} is not allowed: plain values belong here, and no _target_")
        if isinstance(part, float) and not math.isfinite(part):
            raise ConfigError(f"{path}={written(value)} is not allowed: it should be finite")
    try:
        adapter(annotation).validate_python(value, strict=True)
    except ValidationError as error:
        allowed = dict.fromkeys(said(fault) for fault in error.errors())
        raise ConfigError(f"{path}={written(value)} is not allowed: {' or '.join(allowed)}") from error


def said(fault: Mapping[str, Any]) -> str:
    """Say what pydantic finds wrong, and where in a list or group."""
    parts = [str(part) for part in fault["loc"] if isinstance(part, int) or str(part).isidentifier()]
    place = ".".join(part for part in parts if part not in vars(builtins))  # as the types of a union are
    return f"{place} {fault['msg'].replace('Input', 'it')}".strip() if place else fault["msg"].replace("Input", "it")


def parts_of(value: Any) -> Iterator[Any]:
    """Go through a value and all that it holds."""
    yield value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from parts_of(item)


def adapter(annotation: Any) -> TypeAdapter:
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True, strict=True))
    except PydanticUserError:  # a type that carries its own settings
        return TypeAdapter(annotation)


def find_target(path: str, name: Any, room: str | tuple[str, ...]) -> Any:
    """Return what `name` stands for, if this package defines it in `room`.

    Raises:
        ConfigError: if there is no such thing there; nothing outside the package is ever imported or called.
    """
    rooms = (room,) if isinstance(room, str) else room
    module, _, attribute = str(name).rpartition(".")
    found = None
    if any(f"{module}.".startswith(f"{place}.") for place in rooms) and module in modules():
        found = vars(importlib.import_module(module)).get(attribute)
    home = getattr(found, "__module__", "")
    fits = isinstance(found, type) or (inspect.isfunction(found) and room == ROOMS["optimizer"])
    if not fits or bound(found) or not any(f"{home}.".startswith(f"{place}.") for place in rooms):
        raise ConfigError(f"{path}._target_={name} is not allowed: only what is defined in {' or '.join(rooms)}")
    return found


def bound(target: Any) -> bool:
    """Return whether a target takes arguments that no configuration can give it, and so is no part of one."""
    given = {"module", "optimizer", "steps", "folder"}  # by the run
    return not given.issuperset(
        parameter.name
        for parameter in inspect.signature(target).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty
    )


def check_call(function: Any, words: list[str]) -> dict[str, Any]:
    """Read words `key=value` as the keyword arguments of a function.

    Raises:
        ConfigError: if one is unknown, missing or not allowed.
    """
    for word in words:
        if "=" not in word:
            raise ConfigError(f"{word!r} is not allowed: use key=value, with {', '.join(signature(function))}")
    try:
        given = OmegaConf.to_container(OmegaConf.from_dotlist(words))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(one_line(error)) from error
    assert isinstance(given, dict)
    for word in words:  # a text is taken as it is written, and not as YAML has it
        key, _, text = word.partition("=")
        annotation = signature(function)[key][0] if key in signature(function) else None
        if annotation is str or (str in get_args(annotation) and text != "null" and not isinstance(given[key], int)):
            given[key] = text
    for key, (annotation, needed) in signature(function).items():
        if needed and key not in given:
            raise ConfigError(f"{key} is missing: give {key}=…")
        if key in given:
            check_value(key, given[key], annotation)
    for name, value in given.items():
        if name not in signature(function):
            raise unknown(str(name), value, "this command", signature(function))
    return {str(key): value for key, value in given.items()}


def name_of(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


@cache
def modules() -> frozenset[str]:
    """Name the modules of this package, without importing them."""
    import patchwork

    return frozenset(module.name for module in pkgutil.walk_packages(patchwork.__path__, "patchwork."))


@cache
def signature(target: Any) -> dict[str, tuple[Any, bool]]:
    """Return a target's keyword parameters: annotation, and whether it is needed; `**rest` stands for the parent's."""
    makers = (
        [vars(parent)["__init__"] for parent in target.__mro__ if "__init__" in vars(parent)]
        if isinstance(target, type)
        else [target]
    )
    parameters: dict[str, tuple[Any, bool]] = {}
    for maker in makers:
        maker = inspect.unwrap(maker)
        hints = get_type_hints(maker, include_extras=True)
        kinds = inspect.signature(maker).parameters.values()
        for parameter in kinds:
            if parameter.kind is parameter.KEYWORD_ONLY:
                needed = parameter.default is parameter.empty
                parameters.setdefault(parameter.name, (hints.get(parameter.name, Any), needed))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in kinds):
            break
    return parameters


def unknown(path: str, value: Any, owner: str, known: Iterable[str]) -> ConfigError:
    """Say that a key is not known, with the likeliest one first."""
    known = sorted(name for name in known if not name.startswith("_"))
    close = difflib.get_close_matches(path.rpartition(".")[2], known, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    keys = f"its keys are {', '.join(known)}" if known else "it has no keys"
    return ConfigError(f"{path}={written(value)} is not a key of {owner}{hint}; {keys}")


def written(value: Any) -> str:
    """Write a value as the command line has it."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else repr(value)

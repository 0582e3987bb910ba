"""Check a configuration before anything runs: the signatures of constructors are its schema.

A node with a `_target_` may hold the arguments of that class or function and nothing else, and their annotations say
which values are allowed. So a model or a task states its configuration once, in its own signature. A target must be
defined in this package, in the module that belongs to its key: nothing else is imported or called.
"""

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

from annotated_types import Interval, MinLen
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue, OmegaConfBaseException
from pydantic import ConfigDict, NonNegativeFloat, PydanticUserError, TypeAdapter, ValidationError
from typing_extensions import is_protocol

from patchwork.core.allowed import describe, find_fault, format_value
from patchwork.core.errors import ConfigError, UnknownKeyError, one_line
from patchwork.core.replacements import CHECKPOINT_KEYS, find_replacement
from patchwork.core.suggest import closest_key, key_paths

TARGET_PACKAGES = {  # top-level key: the package that defines its targets
    "task": "patchwork.tasks",
    "model": "patchwork.models",
    "data": "patchwork.data",
    "dataset": "patchwork.data.sources",
    "optimizer": "patchwork.training.optimizers",
    "scheduler": "patchwork.training.schedulers",
    "trainer": "patchwork.training.trainer",
    "logger": "patchwork.training.loggers",
    "callbacks": "patchwork.training",
}
SCALAR_KEYS: dict[str, Any] = {
    "task_name": Annotated[str, MinLen(1)] | None,
    "model_name": Annotated[str, MinLen(1)] | None,
    "seed": Annotated[int, Interval(ge=0, le=2**32 - 1)],
    "checkpoint_every_seconds": NonNegativeFloat,
    "report": Literal["short", "none"],
    "watch": bool,
    "run_dir": Annotated[str, MinLen(1)] | None,
    "resume": Annotated[str, MinLen(1)] | None,
    "init_from": Annotated[str, MinLen(1)] | None,
}
REQUIRED_KEYS = ("task", "model", "data", "dataset", "optimizer", "scheduler", "trainer", "seed")
COLLECTIONS = ("logger", "callbacks")  # groups that hold nodes by name, or null to leave one out
PARTIAL_GROUPS = ("optimizer", "scheduler", "logger")  # `_partial_`: called once the run has what they need
DATA_KEYS = {"num_classes": ("num_outputs", "num_classes")}  # which key of the data sets it: the first that there is
RUNTIME_ARGS = {"module", "optimizer", "steps", "run_dir"}  # which the run passes to them


def check_config(config: DictConfig) -> None:
    """Check every key, type and value of a whole configuration.

    Raises:
        ConfigError: at the first error; one line that names the key, the value and what is allowed.
    """
    values = resolve(config)
    for key, value in sorted(values.items(), key=lambda item: item[0] == "task"):  # the task refers to the others: last
        if key in SCALAR_KEYS:
            check_value(key, value, SCALAR_KEYS[key])
        elif key not in TARGET_PACKAGES:
            raise unknown_key_error(
                key, value, "the configuration", [*SCALAR_KEYS, *TARGET_PACKAGES], known_paths(config)
            )
        elif key in COLLECTIONS:
            for name, node in check_mapping(key, value or {}).items():
                if node is not None:
                    check_is_node(key, name, node)
                    target = check_node(f"{key}.{name}", node, TARGET_PACKAGES[key])
                    check_target_type(f"{key}.{name}", target, collection_type(key))
        else:
            check_node(key, value, TARGET_PACKAGES[key])
    for key in REQUIRED_KEYS:
        if key not in values:
            raise ConfigError(f"{key} is missing from the configuration")
    check_links(values)


def check_is_node(group: str, name: str, node: Any) -> None:
    """Raise a `ConfigError` unless an entry of a collection has a `_target_`."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(
            f"{group}.{name}={format_value(node)} is not allowed: it must be a mapping with a _target_ of "
            f"{TARGET_PACKAGES[group]}, or null; {group}=CHOICE has those there are: patchwork explain {group}"
        )


def check_scalars(config: DictConfig) -> None:
    """Check the keys that belong to no constructor, except those that refer to others.

    Raises:
        ConfigError: if a value is not allowed.
    """
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    for key, annotation in SCALAR_KEYS.items():
        value = values.get(key)
        if value == MISSING:
            raise missing_value_error(key)
        if key in values and "${" not in str(value):
            check_value(key, value, annotation)


def known_paths(config: DictConfig) -> list[str]:
    """Return the dotted paths of the keys below those of the top level that exist."""
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    return key_paths({str(key): value for key, value in values.items() if key in SCALAR_KEYS or key in TARGET_PACKAGES})


def resolve(config: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain values, interpolations resolved.

    Raises:
        ConfigError: if an interpolation cannot be resolved, or a value is missing.
    """
    try:
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except InterpolationKeyError as error:
        raise ConfigError(
            f"{error.full_key} refers to a key that does not exist: this task, model and data cannot be combined "
            f"({one_line(error)})"
        ) from error
    except MissingMandatoryValue as error:
        raise missing_value_error(error.full_key) from error
    except OmegaConfBaseException as error:
        raise ConfigError(one_line(error)) from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def missing_value_error(path: str | None) -> ConfigError:
    return ConfigError(f"{path}={MISSING} is not allowed: it stands for a value that is missing")


def check_links(values: Mapping[str, Any]) -> None:
    """Check that what the model and the task share with the data is what the data has."""
    data = values["data"]
    for group in ("model", "task"):
        for key in values[group].keys() - {"_target_"}:
            data_key = next((name for name in DATA_KEYS.get(key, (key,)) if name in data), None)
            if data_key and values[group][key] != data[data_key]:
                raise ConfigError(
                    f"{group}.{key}={format_value(values[group][key])} does not match the data: it is set by "
                    f"data.{data_key}, which is {format_value(data[data_key])}"
                )


def check_node(path: str, node: Any, package: str) -> Any:
    """Check a node that has a `_target_`, and the nodes within it, and return its target."""
    check_mapping(path, node)
    target = find_target(path, node.get("_target_"), package)
    parameters = signature(target)
    partial = path.rpartition("task.")[2].partition(".")[0] in PARTIAL_GROUPS
    if node.get("_partial_", False) is not partial:
        allowed = "true" if partial else "false, or omitted"
        raise ConfigError(
            f"{path}._partial_={format_value(node.get('_partial_'))} is not allowed: it must be {allowed}"
        )
    for key in [key for key, (_, required) in parameters.items() if required and key not in node]:
        raise ConfigError(f"{path}.{key} is missing, as every run needs the key: set it with {path}.{key}=…")
    for key, value in node.items():
        if key in ("_target_", "_partial_"):
            continue
        if key not in parameters:
            raise unknown_key_error(f"{path}.{key}", value, path, parameters)
        if isinstance(value, str) and key in TARGET_PACKAGES:
            raise ConfigError(f"{path}.{key}={value} is not allowed: it follows from {key}; write {key}={value}")
        if isinstance(value, Mapping) and "_target_" in value:
            nested = check_node(f"{path}.{key}", value, TARGET_PACKAGES.get(key, package))
            check_target_type(f"{path}.{key}", nested, parameters[key][0])
        else:
            check_value(f"{path}.{key}", value, parameters[key][0])
    return target


def check_target_type(path: str, target: Any, annotation: Any) -> None:
    """Check that a target is of a class that its parent takes there."""
    allowed = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    allowed = [kind for kind in allowed if kind is not type(None) and not is_protocol(kind)]
    if isinstance(target, type) and allowed and not issubclass(target, tuple(allowed)):
        names = " or ".join(kind.__name__ for kind in allowed)
        raise ConfigError(f"{path}._target_={qualified_name(target)} is not allowed: it must be a {names}")


def collection_type(group: str) -> type:
    """Return the class of the nodes of a group."""
    from pytorch_lightning import Callback
    from pytorch_lightning.loggers import Logger

    return {"callbacks": Callback, "logger": Logger}[group]


def check_mapping(path: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path}={format_value(value)} is not allowed: it must be a mapping")
    return value


def check_value(path: str, value: Any, annotation: Any) -> None:
    """Check a value against a type annotation, without conversion between strings, numbers and booleans."""
    if is_allowed(value, annotation):
        return
    if fault := plain_fault(value):
        raise ConfigError(f"{path}={format_value(value)} is not allowed: {fault}")
    path, value, annotation = find_fault(path, value, annotation, fits)
    whole = isinstance(value, float) and value.is_integer() and fits(int(value), annotation)
    hint = f"; write {value:.0f}" if whole else ""  # 1e3 is a float
    raise ConfigError(f"{path}={format_value(value)} is not allowed: it must be {describe(annotation)}{hint}")


def is_allowed(value: Any, annotation: Any) -> bool:
    """Return whether a value is plain and finite, and an annotation allows it."""
    return not plain_fault(value) and fits(value, annotation)


def plain_fault(value: Any) -> str:
    """Return why no key may have a value, whatever its annotation; empty if one may."""
    for item in iter_nested(value):
        if isinstance(item, Mapping) and any(str(key).startswith("_") for key in item):
            return "use plain values, with no _target_"
        if isinstance(item, float) and not math.isfinite(item):
            return "it must be finite"
    return ""


def fits(value: Any, annotation: Any) -> bool:
    """Return whether an annotation allows a value."""
    try:
        adapter(annotation).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def iter_nested(value: Any) -> Iterator[Any]:
    """Yield a value and all values within it."""
    yield value
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from iter_nested(item)


def adapter(annotation: Any) -> TypeAdapter:
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True, strict=True))
    except PydanticUserError:  # a type with a configuration of its own
        return TypeAdapter(annotation)


def find_target(path: str, name: Any, package: str) -> Any:
    """Return the class or optimizer function that a `_target_` names.

    Raises:
        ConfigError: if `package` does not define it; nothing outside of this package is imported or called.
    """
    module, _, attribute = str(name).rpartition(".")
    target = None
    if within(module, package) and module in modules():
        target = vars(importlib.import_module(module)).get(attribute)
    functions = (TARGET_PACKAGES["optimizer"], TARGET_PACKAGES["scheduler"])  # other targets are classes
    is_function = inspect.isfunction(target) and package in functions
    defined_there = within(getattr(target, "__module__", ""), package)
    is_class = isinstance(target, type) and not inspect.isabstract(target)
    if not (is_class or is_function) or needs_runtime_args(target) or not defined_there:
        raise ConfigError(f"{path}._target_={name} is not allowed: it must be defined in {package}")
    return target


def within(module: str, package: str) -> bool:
    return f"{module}.".startswith(f"{package}.")


def needs_runtime_args(target: Any) -> bool:
    """Return whether a target takes positional arguments that neither a configuration nor the run can pass."""
    return not RUNTIME_ARGS.issuperset(
        parameter.name
        for parameter in inspect.signature(target).parameters.values()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is parameter.empty
    )


def choice_name(kind: type) -> str:
    """Return the name in `conf/` of a task, a model or data: that of its module, if its class begins with it."""
    module = kind.__module__.rpartition(".")[2]
    ours = within(kind.__module__, "patchwork") and kind.__name__.lower().startswith(module.replace("_", ""))
    return module if ours else kind.__name__


def qualified_name(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


@cache
def modules() -> frozenset[str]:
    """Return the names of the modules of this package, without importing them."""
    root = Path(__file__).resolve().parents[1]
    paths = (path.relative_to(root.parent).with_suffix("") for path in root.rglob("*.py"))
    return frozenset(".".join(path.parts).removesuffix(".__init__") for path in paths) - {"patchwork"}


def signature(target: Any) -> dict[str, tuple[Any, bool]]:
    """Return the annotation of each keyword parameter of a target, and whether it is required."""
    return {
        name: (annotation, default is inspect.Parameter.empty)
        for name, (annotation, default) in keyword_parameters(target).items()
    }


def default_values(target: Any) -> dict[str, Any]:
    """Return the defaults of the keyword parameters that have one, as a configuration holds them."""
    return {
        name: list(default) if isinstance(default, tuple) else default
        for name, (_, default) in keyword_parameters(target).items()
        if default is not inspect.Parameter.empty
    }


@cache
def keyword_parameters(target: Any) -> dict[str, tuple[Any, Any]]:
    """Return the annotation and the default of each keyword parameter of a target.

    Parameters of the parents are included where a constructor passes `**kwargs` on to them.
    """
    functions = (
        [vars(parent)["__init__"] for parent in target.__mro__ if "__init__" in vars(parent)]
        if isinstance(target, type)
        else [target]
    )
    parameters: dict[str, tuple[Any, Any]] = {}
    for function in functions:
        function = inspect.unwrap(function)
        hints = get_type_hints(function, include_extras=True)
        signature_parameters = inspect.signature(function).parameters.values()
        for parameter in signature_parameters:
            if parameter.kind is parameter.KEYWORD_ONLY:
                parameters.setdefault(parameter.name, (hints.get(parameter.name, Any), parameter.default))
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature_parameters):
            break
    return parameters


def unknown_key_error(
    path: str,
    value: Any,
    owner: str,
    known: Iterable[str],
    others: Iterable[str] = (),
    *,
    has_value: bool = True,
    may_mean: Callable[[str], bool] | None = None,
) -> UnknownKeyError:
    """Return the error of an unknown key, which suggests the one that was meant, or lists all.

    Args:
        path: Dotted path of the key.
        value: Its value.
        owner: What it was looked for in: a dotted path, or words.
        known: Names of the keys there.
        others: Dotted paths of the keys elsewhere, which may have been meant.
        has_value: Whether the key was typed with its value.
        may_mean: Whether a key may have been meant, as its value is of that kind; by default any may.
    """
    known, text = [*known], f"={format_value(value)}" if has_value else ""
    if path in CHECKPOINT_KEYS and "run" in known:
        return UnknownKeyError(f"{path}{text} is not a key of {owner} (did you mean run{text}?)", key=path)
    if replacement := find_replacement(path):
        return UnknownKeyError(f"{path}{text} is not set here: {replacement}", key=path)
    known = sorted(name for name in known if not name.startswith("_"))
    siblings = [f"{owner}.{name}" if path.startswith(f"{owner}.") else name for name in known]
    meant = closest_key(path, list(filter(may_mean, [*siblings, *others])))
    if meant:
        return UnknownKeyError(f"{path}{text} is not a key of {owner} (did you mean {meant}{text}?)", key=path)
    keys = f"its keys are {', '.join(known)}" if known else "it has no keys"
    return UnknownKeyError(f"{path}{text} is not a key of {owner}; {keys}", key=path)

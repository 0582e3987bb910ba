"""Which models and which data fit which task, read from the sources without importing torch.

A task says what it calls on its model and what a batch must hold; a model's methods have signatures, and its
configuration refers to keys of the data; data say what their batches hold. All of them are literals of the classes.
"""

import ast
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from patchwork.core.conf_files import default_choice, group_choices, read_choice, read_yaml
from patchwork.core.errors import ConfigError, PatchworkWarning
from patchwork.core.schema import TARGET_PACKAGES
from patchwork.runs.compose import CONF_DIR, PACKAGE


@dataclass
class ClassSource:
    """What the source of a class says: its bases, the parameters of its methods and its literal attributes."""

    bases: list[str]
    parameters: dict[str, list[tuple[str, bool]]] = field(default_factory=dict)  # without self: name, required
    attributes: dict[str, Any] = field(default_factory=dict)


@cache
def class_sources() -> dict[str, ClassSource]:
    """Return the classes of tasks, models and data by their name."""
    classes: dict[str, ClassSource] = {}
    for directory in ("tasks", "models", "data"):
        for path in sorted((PACKAGE / directory).glob("*.py")):
            for node in ast.parse(path.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ClassDef):
                    classes[node.name] = read_class(node)
    return classes


def read_class(node: ast.ClassDef) -> ClassSource:
    source = ClassSource([base.id for base in node.bases if isinstance(base, ast.Name)])
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef):
            source.parameters[statement.name] = read_parameters(statement.args)
        elif isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            try:
                value = ast.literal_eval(statement.value)
            except ValueError:  # not a literal
                continue
            if isinstance(target, ast.Name):
                source.attributes[target.id] = value
    return source


def read_parameters(arguments: ast.arguments) -> list[tuple[str, bool]]:
    """Return the name of each parameter after `self`, and whether a call must give it."""
    positional = [*arguments.posonlyargs, *arguments.args]
    first_default = len(positional) - len(arguments.defaults)
    parameters = [(argument.arg, index < first_default) for index, argument in enumerate(positional)][1:]
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return parameters + [(argument.arg, default is None) for argument, default in keywords]


def lineage(name: str) -> Iterator[ClassSource]:
    """Yield a class and its bases, as far as they are in these packages."""
    source = class_sources().get(name)
    if source is not None:
        yield source
        for base in source.bases:
            yield from lineage(base)


def attribute(name: str, key: str) -> Any:
    return next((source.attributes[key] for source in lineage(name) if key in source.attributes), None)


def class_name(node: Mapping[str, Any]) -> str:
    return str(node.get("_target_")).rpartition(".")[2]


def model_fits_task(model: Mapping[str, Any], task: Mapping[str, Any]) -> bool:
    """Return whether the class of a model has the methods that a task calls."""
    for method, arguments in (attribute(class_name(task), "model_interface") or {}).items():
        parameters = next((s.parameters[method] for s in lineage(class_name(model)) if method in s.parameters), None)
        if parameters is None or [name for name, _ in parameters[: len(arguments)]] != list(arguments):
            return False
        if any(required for _, required in parameters[len(arguments) :]):
            return False
    return True


def missing_batch_keys(data: Mapping[str, Any], task: Mapping[str, Any]) -> list[str]:
    """Return what a task needs of a batch and the data do not have."""
    held = attribute(class_name(data), "batch_keys") or ()
    return [key for key in attribute(class_name(task), "required_keys") or () if key not in held]


def missing_data_keys(node: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    """Return the keys of the data that a configuration refers to and that do not exist."""
    return [key for key in re.findall(r"\$\{data\.(\w+)\}", str(node)) if key not in data]


# --- choices ---------------------------------------------------------------------------------------------------------


def choice_path(group: str, choice: str) -> Path:
    return CONF_DIR / group / f"{choice}.yaml"


@cache
def choice_node(group: str, choice: str) -> dict[str, Any]:
    """Return the values of a choice; those of a task are its `task` node."""
    values = read_choice(choice_path(group, choice))
    return values.get("task", {}) if group == "task" else values


def task_data(task: str, data: str | None = None) -> dict[str, Any]:
    """Return the data that a task has by default, or a choice of data with the keys that the task sets."""
    path = choice_path("task", task)
    return {**choice_node("data", data or default_choice(path, "data") or ""), **read_yaml(path).get("data", {})}


@cache
def fitting_models(task: str) -> list[str]:
    """Return the choices of models that fit a choice of task with its own data."""
    if not choice_path("task", task).is_file():  # of another directory
        return []
    node, data = choice_node("task", task), task_data(task)
    models = {model: choice_node("model", model) for model in group_choices([CONF_DIR])["model"]}
    return [
        model
        for model, values in models.items()
        if model_fits_task(values, node) and not missing_data_keys(values, data)
    ]


@cache
def fitting_data(task: str) -> list[str]:
    """Return the choices of data that fit a choice of task with its own model."""
    if not choice_path("task", task).is_file():
        return []
    node = choice_node("task", task)
    model = choice_node("model", default_choice(choice_path("task", task), "model") or "")
    fitting = []
    for choice in group_choices([CONF_DIR])["data"]:
        data = task_data(task, choice)
        missing = missing_data_keys(node, data) + missing_data_keys(model, data) + missing_batch_keys(data, node)
        if not missing:
            fitting.append(choice)
    return fitting


def fitting_tasks(model: str) -> list[str]:
    """Return the choices of tasks that a choice of model fits."""
    return [task for task in group_choices([CONF_DIR])["task"] if model in fitting_models(task)]


def choice_of(group: str, node: Mapping[str, Any], name: str | None = None) -> str:
    """Return the choice that a node is of, or its class if it is of none; `name` is preferred."""
    choices = group_choices([CONF_DIR])[group]
    same = [choice for choice in choices if class_name(choice_node(group, choice)) == class_name(node)]
    return name if name in same else (same or [class_name(node)])[0]


# --- a configuration -------------------------------------------------------------------------------------------------


def check_fit(config: DictConfig) -> None:
    """Check that the model and the data of a configuration fit its task.

    Classes of other sources than this package's are left to the constructors.

    Raises:
        ConfigError: if they do not; it names the choices that do.
    """
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    task, model, data = (values.get(group, {}) for group in ("task", "model", "data"))
    if not (is_known("task", task) and is_known("model", model) and is_known("data", data)):
        return
    names = [choice_of("task", task, config.get("task_name")), choice_of("model", model, config.get("model_name"))]
    task_name, model_name, data_name = (*names, choice_of("data", data))
    if not model_fits_task(model, task):
        raise model_error(task_name, model_name)
    lacks = missing_batch_keys(data, task)
    if lacks:
        raise data_error(task_name, data_name, f"its batches lack {', '.join(lacks)}")
    missing = dict.fromkeys(missing_data_keys(task, data) + missing_data_keys(model, data))
    if missing and fitting_models(task_name) and model_name not in fitting_models(task_name):
        raise model_error(task_name, model_name)
    if missing:
        raise data_error(task_name, data_name, f"model={model_name} refers to data.{', data.'.join(missing)}")


def warn_unused(config: DictConfig, overrides: Sequence[str]) -> None:
    """Warn of overrides that have no effect: those of the data set, if the data are made and not read."""
    unused = [
        override for override in overrides if override.lstrip("+").partition("=")[0].partition(".")[0] == "dataset"
    ]
    if unused and "dataset" not in config.data:
        data = choice_of("data", config.data)
        warnings.warn(
            f"{', '.join(unused)}: no effect, as data={data} reads no data set", PatchworkWarning, stacklevel=2
        )


def is_known(group: str, node: Any) -> bool:
    """Return whether a node's target is a class of the package of its group."""
    target = str(node.get("_target_")) if isinstance(node, dict) else ""
    return target.startswith(f"{TARGET_PACKAGES[group]}.") and class_name(node) in class_sources()


def model_error(task: str, model: str) -> ConfigError:
    tasks, models = (", ".join(names) or "none" for names in (fitting_tasks(model), fitting_models(task)))
    return ConfigError(
        f"model={model} does not fit task={task}: models that fit task={task} are {models}; "
        f"tasks that model={model} fits: {tasks}"
    )


def data_error(task: str, data: str, reason: str) -> ConfigError:
    fitting = ", ".join(fitting_data(task)) or "none"
    return ConfigError(f"data={data} does not fit task={task}: {reason}; data that fit task={task}: {fitting}")

"""Say what a key, a group of choices or a choice is: its sentence, what is allowed, its value and where that is set."""

import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from patchwork.commands import FUNCTIONS, audit
from patchwork.commands.app import format_help, keyword_command, keyword_commands, print_help, run_command
from patchwork.commands.train_help import train_help
from patchwork.core.allowed import describe, format_value
from patchwork.core.conf_files import (
    PACKAGED_GROUPS,
    choice_error,
    comments,
    extended_files,
    first_sentence,
    group_choices,
    header,
    package,
    read_yaml,
)
from patchwork.core.docstrings import argument_sentences, summary
from patchwork.core.errors import ConfigError
from patchwork.core.hydra_compose import plain_values
from patchwork.core.overrides import override_key
from patchwork.core.schema import SCALAR_KEYS, TARGET_PACKAGES, find_target, signature, unknown_key_error
from patchwork.core.shell_overrides import parse_typed
from patchwork.core.suggest import key_paths
from patchwork.core.table import format_table
from patchwork.core.terminal import is_terminal
from patchwork.runs.compose import CONF_DIR, ROOT, compose_with_hydra, without_hydra

HELP_TEXT = """Say what a key, a group of choices, a choice or a metric is, what is allowed and what the default is.

  patchwork explain data.num_classes optimizer.lr      keys of `patchwork train`, at any depth
  patchwork explain data.batch_size task=sum           in the configuration of other choices
  patchwork explain optimizer                          a group: its choices, and the keys of the one that is the default
  patchwork explain optimizer=adamw                    a choice
  patchwork explain generate generate.guidance         the keys of another command
  patchwork explain test/cell_accuracy                 a metric"""
HELP_TEXTS = {"train": lambda: train_help([]), "audit": lambda: audit.USAGE}  # of commands without keys of their own
MAX_VALUE = 32  # characters of a value in a table
GLOBAL_GROUPS = (
    "debug",
    "experiment",
    "recipe",
    "accelerator",
    "task",
)  # whose files set others' keys, strongest first


def command(args: list[str]) -> int:
    if print_help(args, lambda: HELP_TEXT):
        return 0
    return run_command("explain", lambda: explain(args))


def explain(args: list[str]) -> None:
    """Print what the words among the arguments are, with the others as overrides; without words, the others.

    Raises:
        ConfigError: if there is no such key, group or choice; the explanations of the others are printed first.
    """
    if not args:
        groups = ", ".join(group_choices([CONF_DIR]))
        raise ConfigError(
            f"name what to explain, as a key (patchwork explain optimizer.lr), a choice, or one of the groups {groups}"
        )
    subjects, overrides = split_subjects(args)
    configuration: Configuration | None = None
    texts, errors = [], []
    for subject in subjects:
        try:
            text = explain_elsewhere(subject)
            if text is None or subject in SCALAR_KEYS:  # report is a key of train and a command
                configuration = configuration or Configuration.compose(overrides)
                texts.append(explain_configured(subject, configuration))
            if text is not None:
                texts.append(text)
        except ConfigError as error:
            errors.append(str(error))
    if texts:
        print("\n\n".join(texts))
    if errors:
        raise ConfigError("; ".join(dict.fromkeys(errors)))


def split_subjects(args: list[str]) -> tuple[list[str], list[str]]:
    """Return what is to be explained, and the overrides with which it is.

    Without words the subjects are the choices, and the keys of other overrides, as in `optimizer.lr=0.1`.
    """
    words = [arg for arg in args if "=" not in arg]
    settings = [arg for arg in args if "=" in arg]
    if words:
        return words, settings
    groups = group_choices([CONF_DIR])
    is_choice = {arg: override_key(arg).partition("@")[0] in groups for arg in args}
    return [arg if is_choice[arg] else override_key(arg) for arg in args], [arg for arg in args if not is_choice[arg]]


@dataclass(frozen=True)
class Key:
    """What is known of a key."""

    path: str
    sentence: str
    allowed: str
    value: str
    source: str

    def text(self) -> str:
        lines = [self.path, f"  {self.sentence}", f"  allowed: {self.allowed}", f"  default: {self.value}"]
        return "\n".join([*lines, f"  set in:  {self.source}"] if self.source else lines)


# --- commands --------------------------------------------------------------------------------------------------------


def explain_elsewhere(subject: str) -> str | None:
    """Return the text of a choice, or of a command and its keys; None for what is in the configuration."""
    if "=" in subject:
        return explain_choice(subject)
    if subject in HELP_TEXTS:
        return HELP_TEXTS[subject]()
    name, _, key = subject.partition(".")
    if name not in FUNCTIONS:
        return None
    function = keyword_command(name)
    return command_key(name, key, function).text() if key else format_help(f"patchwork {name} key=value …", function)


def command_key(name: str, key: str, function: Any) -> Key:
    """Return a key of a command.

    Raises:
        ConfigError: if there is none.
    """
    parameters = signature(function)
    if key not in parameters:
        raise ConfigError(f"{key} is not a key of patchwork {name}; its keys are {', '.join(parameters)}")
    default = inspect.signature(function).parameters[key].default
    value = "none, it must be given" if default is inspect.Parameter.empty else format_value(default)
    sentence = argument_sentence(function, key)
    return Key(f"patchwork {name} {key}=…", sentence, describe(parameters[key][0]), value, "")


# --- the configuration -----------------------------------------------------------------------------------------------


@dataclass
class Configuration:
    """A composed configuration: as it is, as plain values with their interpolations, and the choices it is made of."""

    config: DictConfig
    values: dict[str, Any]
    choices: dict[str, str]  # by group, and by `group@key`
    overrides: list[str]

    @classmethod
    def compose(cls, overrides: list[str]) -> "Configuration":
        composed = compose_with_hydra(parse_typed(overrides, sweep=False))
        choices = {str(group).strip("/"): choice for group, choice in composed.hydra.runtime.choices.items() if choice}
        config = without_hydra(composed)
        return cls(config, plain_values(config), choices, overrides)

    def source(self, path: str) -> str:
        """Return the file, or the override, that sets a key; empty if only its constructor does.

        A recipe is that of the configuration's task; others have other values.
        """
        for override in self.overrides:
            if override_key(override) == path:
                return override
        for file, prefix in [*self.files(), (CONF_DIR / "train.yaml", "")]:
            relative = path.removeprefix(f"{prefix}." if prefix else "")
            if (relative != path or not prefix) and has_key(read_yaml(file), relative):
                owner = f", of task={self.config.task_name}" if file.parent.name == "recipe" else ""
                return f"{file.relative_to(ROOT)}{owner}"
        return ""

    def files(self) -> list[tuple[Path, str]]:
        """Return the files that the configuration is made of, the strongest first, with the key that each is put at."""
        files = []
        rank = {group: index for index, group in enumerate(GLOBAL_GROUPS)}
        for group, choice in sorted(self.choices.items(), key=lambda item: rank.get(item[0], len(rank))):
            name, _, place = group.partition("@")
            path = CONF_DIR / name / f"{choice}.yaml"
            if path.is_file():
                files += [(file, place or package(path)) for file in extended_files(path)]
        return files

    def value(self, path: str) -> str:
        """Return a value as it is typed, and the key that it refers to."""
        raw = self.raw(path)
        try:
            value = OmegaConf.select(self.config, path)
        except OmegaConfBaseException:
            return str(raw)
        if isinstance(value, DictConfig) and "_target_" in value:
            group = self.group(path)
            if group in self.choices:
                return f"{group}={self.choices[group]}"
            text = f"the keys below {path}"
        else:
            text = format_value(OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)
        return f"{text}, which follows from {raw}" if isinstance(raw, str) and "${" in raw else text

    def raw(self, path: str) -> Any:
        """Return the value of a key that exists, interpolations unresolved."""
        node: Any = self.values
        for name in path.split("."):
            node = node[name]
        return node

    def group(self, path: str) -> str:
        """Return the group whose choices are put at a key, as it is typed: `stem@model.stem`; empty if there is none.

        A key that refers to another one has the group of that: `data.dataset` is set by `dataset`.
        """
        if (source := str(self.raw(path)).strip("${}")) in TARGET_PACKAGES:
            return source
        return next((typed for typed in PACKAGED_GROUPS.values() if typed.partition("@")[2] == path), "")


def has_key(values: Mapping[str, Any], path: str) -> bool:
    node: Any = values
    for name in path.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return False
        node = node[name]
    return True


def explain_configured(subject: str, configuration: Configuration) -> str:
    """Return the text of a group, a key or a metric of a configuration.

    Raises:
        ConfigError: if there is none.
    """
    choices = group_choices([CONF_DIR])
    if subject in choices:
        return explain_group(subject, choices[subject], configuration)
    if "/" in subject:
        return explain_metric(subject, configuration)
    key = find_key(subject, configuration)
    if key is not None:
        return key.text()
    functions = keyword_commands()
    owners = [name for name, function in functions.items() if subject in signature(function)]
    if owners:
        return "\n\n".join(command_key(name, subject, functions[name]).text() for name in owners)
    paths = list(dict.fromkeys([*key_paths(configuration.values), *choices]))
    parent = subject.rpartition(".")[0]
    known = [path.rpartition(".")[2] for path in paths if path.rpartition(".")[0] == parent]
    owner = parent if parent and known else "the configuration"
    raise unknown_key_error(subject, None, owner, known, paths, has_value=False)


def find_key(path: str, configuration: Configuration) -> Key | None:
    """Return what is known of a key of a configuration, or None if it has none."""
    if path in SCALAR_KEYS:
        sentence = comments(CONF_DIR / "train.yaml").get(path, "")
        return Key(path, sentence, describe(SCALAR_KEYS[path]), configuration.value(path), configuration.source(path))
    *parents, name = path.split(".")
    group, package_name = parents[0] if parents else path, ""
    node: Mapping[str, Any] = configuration.values
    for parent in parents:
        package_name = TARGET_PACKAGES.get(parent, package_name)
        child = node.get(parent) if isinstance(node, Mapping) else None
        if isinstance(child, str) and child.startswith("${"):  # another key's node
            return find_key(".".join([child.strip("${}"), *path.split(".")[len(parents) :]]), configuration)
        if not isinstance(child, Mapping):
            return None
        node = child
    if "_target_" in node:
        return constructor_key(path, import_target(".".join(parents), node, package_name), configuration)
    if name in node and isinstance(node[name], Mapping) and "_target_" in node[name]:  # one of several in a group
        target = import_target(path, node[name], TARGET_PACKAGES[group])
        allowed = "its keys, or null to leave it out"
        value = f"its keys: {', '.join(signature(target))}" if any(signature(target)) else "it has no keys"
        return Key(path, summary(target), allowed, value, configuration.source(path))
    return None


def import_target(path: str, node: Mapping[str, Any], package_name: str) -> Any:
    """Return the constructor of a node; most of them need torch, whose import takes seconds."""
    import patchwork.core.fast_import  # noqa: F401

    return find_target(path, node["_target_"], package_name)


def argument_sentence(function: Any, name: str) -> str:
    """Return what a docstring says about an argument, with constants as they are typed on the command line."""
    constants = {"None": "null", "True": "true", "False": "false"}
    sentence = argument_sentences(function).get(name, "")
    return re.sub(r"\b(None|True|False)\b", lambda match: constants[match[0]], sentence)


def constructor_key(path: str, target: Any, configuration: Configuration) -> Key | None:
    """Return a key that is an argument of a constructor, or None if it has no such argument."""
    name, parameters = path.rpartition(".")[2], signature(target)
    if name not in parameters:
        return None
    sentence, allowed = argument_sentence(target, name), describe(parameters[name][0])
    if has_key(configuration.values, path):
        if group := configuration.group(path):
            listed = ", ".join(group_choices([CONF_DIR])[group.partition("@")[0]])
            allowed = f"{group}=CHOICE, of {listed}{f'; or {path}=null' if '@' in group else ''}"
        return Key(path, sentence, allowed, configuration.value(path), configuration.source(path))
    default = argument_default(target, name)
    return Key(path, sentence, allowed, f"{format_value(default)}; set it with +{path}=…", "")


def argument_default(target: Any, name: str) -> Any:
    """Return the default of an argument of a function, or of the constructor of a class or of its parents."""
    functions = [vars(owner).get("__init__") for owner in target.__mro__] if isinstance(target, type) else [target]
    signatures = (inspect.signature(function).parameters for function in functions if function is not None)
    return next(parameters[name].default for parameters in signatures if name in parameters)


# --- groups and choices ----------------------------------------------------------------------------------------------


def explain_group(group: str, choices: list[str], configuration: Configuration) -> str:
    """Return the choices of a group with their sentences, and the keys of the one that is chosen."""
    written = PACKAGED_GROUPS.get(group, group)
    chosen = next(
        (c for key, c in configuration.choices.items() if key == written or key.partition("@")[0] == group), None
    )
    width = max(map(len, choices)) + 2
    lines = [f"{written}=…", ""]
    for choice in choices:
        sentence = first_sentence(header(CONF_DIR / group / f"{choice}.yaml"))
        lines.append(f"  {choice:<{width}}{sentence}{' (the default)' if choice == chosen else ''}")
    return "\n".join([*lines, *choice_keys(written.partition("@")[2] or group, configuration)])


def explain_choice(subject: str) -> str:
    """Return what a choice is, and its keys.

    Raises:
        ConfigError: if its group or itself does not exist.
    """
    written, _, choice = subject.partition("=")
    group, choices = written.partition("@")[0], group_choices([CONF_DIR])
    if group not in choices:
        raise ConfigError(f"{subject} is not a choice: the groups are {', '.join(choices)}")
    if choice not in choices[group]:
        raise choice_error(written, group, choice, choices)
    written = PACKAGED_GROUPS.get(group, group)
    path = CONF_DIR / group / f"{choice}.yaml"
    title = [f"{written}={choice}", f"  {header(path)}", f"  {path.relative_to(ROOT)}"]
    if package(path) != group and "@" not in written:  # sets keys of other groups
        prefix = f"{package(path)}." if package(path) else ""
        content = {key: value for key, value in read_yaml(path).items() if key != "defaults"}
        sentences = comments(path)
        settings = [
            {"key": f"{key}={shown(value)}", "": sentences.get(key.removeprefix(prefix), "")}
            for key, value in leaves(content, prefix)
            if not key.endswith(("._target_", "._partial_")) and "${" not in str(value)
        ]
        return "\n".join([*title, "", *(f"  {line}" for line in format_table(settings).splitlines()[1:])])
    return "\n".join(
        [*title, *choice_keys(written.partition("@")[2] or package(path), choice_configuration(written, choice))]
    )


def choice_configuration(group: str, choice: str) -> Configuration:
    """Compose a configuration with a choice; that of a task that it fits, where it matters."""
    from patchwork.runs.fitting import fitting_data, fitting_tasks

    tasks = group_choices([CONF_DIR])["task"]
    if group == "model":
        tasks = fitting_tasks(choice)
    elif group == "data":
        tasks = [task for task in tasks if choice in fitting_data(task)]
    task = "seq2seq" if "seq2seq" in tasks else tasks[0]
    return Configuration.compose([f"task={task}", f"{group}={choice}"])


def choice_keys(place: str, configuration: Configuration) -> list[str]:
    """Return the keys below a place as lines of a table: each with its value and its sentence."""
    node = OmegaConf.select(configuration.config, place) if place in configuration.values or "." in place else None
    if not isinstance(node, DictConfig):
        return []
    paths = [f"{place}.{name}" for name in map(str, node) if not name.startswith("_")]
    keys = [key for path in paths if (key := find_key(path, configuration)) is not None]
    if not keys:
        return []
    rows = [{"key": key.path, "default": key.value, "": key.sentence} for key in keys]
    recipes = dict.fromkeys(key.source for key in keys if key.source.startswith("conf/recipe/"))
    return ["", format_rows(rows), *(f"  some defaults are those of {recipe}" for recipe in recipes)]


def format_rows(rows: list[dict[str, str]]) -> str:
    """Lay out keys as a table; on a terminal a long value is cut."""
    values = (row["default"].partition(", which ")[0] for row in rows)
    longest = MAX_VALUE if is_terminal(sys.stdout) else sys.maxsize
    cut = (value if len(value) <= longest else f"{value[: longest - 1]}…" for value in values)
    shortened = [{**row, "default": value} for row, value in zip(rows, cut, strict=True)]
    return "\n".join(f"  {line}" for line in format_table(shortened).splitlines())


def leaves(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Return the values of nested mappings by their dotted path."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        found += leaves(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return found


def shown(value: Any) -> str:
    return value if isinstance(value, str) and "${" in value else format_value(value)


# --- metrics ---------------------------------------------------------------------------------------------------------


def explain_metric(name: str, configuration: Configuration) -> str:
    """Return what a metric of the task is.

    Raises:
        ConfigError: if the task has no such metric.
    """
    from patchwork.runs.build import build

    _, task = build(configuration.config)
    names = sorted(map(str, task.val_metrics.keys(keep_base=True)))
    metric = name.split("/")[1]
    if metric not in names:
        raise ConfigError(f"{name} is not a metric of task={configuration.config.task_name}: it has {', '.join(names)}")
    about = inspect.cleandoc(type(task).__doc__ or "").partition("\nArgs:")[0].split("\n\n")
    sentences = [" ".join(paragraph.split()) for paragraph in about if f"`{metric}" in paragraph]
    sentences = sentences or [summary(task.val_metrics[metric]) if metric != "loss" else "The mean loss."]
    monitored = " It selects the best checkpoint." if task.monitor == f"val/{metric}" else ""
    return f"{name}, of task={configuration.config.task_name}\n  {' '.join(sentences)}{monitored}"

"""Overrides as people type them into a shell, put into Hydra's grammar before Hydra reads them.

What a shell passes as one word is one value: `run_dir=runs/lr=0.1`, `run_dir=2026` and `"run_dir=r (copy)"` name
directories, though Hydra's grammar refuses the first and the last and reads a number in the second. Hydra's own forms
keep their meaning: quotes, interpolations, and with `-m` lists of values.
"""

import re

from hydra.core.override_parser.types import ChoiceSweep, Override, Quote, QuotedString

from patchwork.core.errors import ConfigError
from patchwork.core.overrides import parse_override
from patchwork.core.schema import REQUIRED_KEYS, SCALAR_KEYS, TARGET_PACKAGES

TEXT_KEYS = (  # whose values are strings, whatever they look like: those that are annotated as `str`
    "run_dir",
    "resume",
    "init_from",
    "task_name",
    "model_name",
    "task.monitor",
    "dataset.root",
    "data.dataset.root",
    "trainer.accelerator",
    "logger.wandb.project",
    "logger.wandb.entity",
    "logger.wandb.group",
    "logger.wandb.job_type",
    "logger.wandb.notes",
    "hydra.run.dir",
    "hydra.sweep.dir",
    "hydra.sweep.subdir",
)
GROUPS = (*TARGET_PACKAGES, "accelerator", "experiment", "debug")  # of which there is always a choice
EMPTY_GROUPS = ("logger", "callbacks")  # which have a choice `none`
OVERRIDE = re.compile(r"(?P<key>\+{0,2}[^=\s]+)=(?P<text>.*)", re.DOTALL)


def parse_typed(overrides: list[str], *, sweep: bool) -> list[str]:
    """Return overrides as Hydra parses them.

    Args:
        overrides: as they were typed.
        sweep: whether a list of values means a run for each, as with `-m`.

    Raises:
        ConfigError: if one is not an override, or deletes what every run needs.
    """
    return [parse_deletion(each) if each.startswith("~") else parse_setting(each, sweep) for each in overrides]


def parse_deletion(override: str) -> str:
    """Return `~logger` as `logger=none`, and other deletions as they are if they can be."""
    key, _, value = override.removeprefix("~").partition("=")
    if key in EMPTY_GROUPS:
        return f"{key}=none"
    if key in SCALAR_KEYS or key in REQUIRED_KEYS:
        raise ConfigError(f"{override} is not allowed, as every run needs the key: set it with {key}=…")
    return override if value else f"~{key}"


def parse_setting(override: str, sweep: bool) -> str:
    """Return `key=value` with a value that Hydra reads as the shell passed it.

    `+` adds a key or sets one that exists, as `++` does: which keys there may be, the schema says.
    """
    match = OVERRIDE.fullmatch(override)
    if match is None:
        return override  # Hydra's error says more
    key, text = match["key"].lstrip("+"), match["text"]
    prefix = match["key"].removesuffix(key)
    if prefix and not key.startswith("hydra"):
        prefix = "" if key in GROUPS or "@" in key else "++" if "." in key or key in SCALAR_KEYS else prefix
    if key in EMPTY_GROUPS and text.startswith(("[", "{")):
        choice = (re.findall(r"\w+", text) if text.startswith("[") else []) or ["none"]
        raise ConfigError(f"{override} is not allowed: {key} is one choice, as {key}={choice[-1]}")
    if "." in key and not key.startswith("hydra.") and re.fullmatch(r"\{\s*\}", text):
        raise ConfigError(f"{override} changes nothing: set a key of {key}, or {key}=null to leave it out")
    if text == "None":  # as W&B's agent writes null
        return f"{prefix}{key}={'none' if key in EMPTY_GROUPS else 'null'}"
    if key == "hydra.mode":
        text = text.upper()
    sweep = sweep and not key.startswith("hydra.")
    return f"{prefix}{key}={quote(text, is_text=key in TEXT_KEYS, sweep=sweep)}"


def quote(text: str, *, is_text: bool, sweep: bool) -> str:
    """Return the value of an override, in quotes if Hydra would otherwise refuse it or read it as another one.

    Args:
        text: the value as it was typed.
        is_text: whether the value is a string, whatever it looks like.
        sweep: whether commas separate the values of several runs.
    """
    parsed = try_parse(text)
    if parsed is None:
        if text.startswith(("[", "{")) and not is_text:
            return text  # a wrong list is not a string
    elif not is_text or is_hydra_form(text, parsed, sweep):
        return text
    parts = split(text) if sweep else [text]
    if len(parts) > 1:
        return ",".join(quote(part, is_text=is_text, sweep=False) for part in parts)
    return QuotedString(text, Quote.single).with_quotes()


def is_hydra_form(text: str, parsed: Override, sweep: bool) -> bool:
    """Return whether a string is meant as Hydra reads it."""
    value = parsed._value
    if isinstance(value, ChoiceSweep) and value.simple_form:
        return sweep and all(isinstance(item, QuotedString) or item == part for item, part in pairs(value, text))
    if parsed.is_sweep_override():
        return sweep  # choice(a,b)
    if text != text.strip():  # spaces around a value, which Hydra drops
        return "${" in text
    escaped = isinstance(value, str) and "\\" in text
    return value is None or value == text or escaped or isinstance(value, QuotedString) or "${" in text


def pairs(value: ChoiceSweep, text: str) -> list[tuple[object, str]]:
    """Return the parsed values of a list with their texts, which are empty if they cannot be told apart."""
    parts = split(text)
    parts = parts if len(parts) == len(value.list) else [""] * len(value.list)
    return list(zip(value.list, parts, strict=True))


def split(text: str) -> list[str]:
    """Split a list at its commas, except at those in quotes, brackets or an interpolation."""
    parts, start, depth, quotes = [], 0, 0, ""
    for index, char in enumerate(text):
        if quotes:
            quotes = "" if char == quotes and text[index - 1] != "\\" else quotes
        elif char in "'\"" and not text[start:index].strip():  # an apostrophe within a name opens nothing
            quotes = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
        elif char == "," and depth <= 0:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


def try_parse(text: str) -> Override | None:
    try:
        return parse_override(f"x={text}")
    except ConfigError:
        return None

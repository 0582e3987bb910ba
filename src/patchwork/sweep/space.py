"""The file of a sweep, in W&B's format: what is searched, by which metric, and what is the same in all trials.

Its documentation: https://docs.wandb.ai/models/sweeps/sweep-config-keys. What follows `${program}` in `command` is the
same in all trials; `logger=…` among it is for an agent of W&B alone, as a search without a server needs none.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MinLen
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StrictBool, StrictFloat, StrictInt, ValidationError
from yaml import YAMLError, safe_load

from patchwork.config import said, written
from patchwork.errors import ConfigError, DataError, one_line

Plain = StrictBool | StrictInt | StrictFloat | str | None
Number = StrictInt | StrictFloat
WORDS = ("true", "false", "null", "nan", "inf")  # that stand for something else


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Metric(Strict):
    name: Annotated[str, Field(pattern=r"^val/.")]  # nothing is selected on test
    goal: Literal["maximize", "minimize"] = "minimize"


class Hyperband(Strict):
    """When trials are ended that do worse than others: after `min_iter` validations, and each `eta` times as many."""

    type: Literal["hyperband"]
    min_iter: PositiveInt = 1
    eta: Annotated[int, Ge(2)] = 3


class Parameter(Strict):
    value: Plain = None
    values: Annotated[list[Plain], MinLen(1)] | None = None
    distribution: (
        Literal["constant", "categorical", "int_uniform", "uniform", "q_uniform", "log_uniform_values"] | None
    ) = None
    min: Number | None = None
    max: Number | None = None
    q: Annotated[Number, Gt(0)] | None = None

    def range(self, name: str) -> BaseDistribution:
        """Return what the parameter may be, one value or many.

        Raises:
            ConfigError: if that is not told, or contradictory.
        """
        if (self.values is None) + ("value" not in self.model_fields_set) + (self.min is None) != 2:
            raise ConfigError(f"parameters.{name} is not told: give value, values, or min and max")
        if self.min is None:
            return CategoricalDistribution(self.values if self.values is not None else [self.value])
        if self.max is None or self.max <= self.min:
            raise ConfigError(f"parameters.{name}.max={written(self.max)} is not allowed: it must be above min")
        whole = isinstance(self.min, int) and isinstance(self.max, int)
        kind = self.distribution or ("int_uniform" if whole else "uniform")
        if kind == "int_uniform" and whole:
            return IntDistribution(int(self.min), int(self.max))
        if kind == "q_uniform" and self.q:
            return FloatDistribution(self.min, self.max, step=self.q)
        if kind == "uniform" or (kind == "log_uniform_values" and self.min > 0):
            return FloatDistribution(self.min, self.max, log=kind != "uniform")
        raise ConfigError(f"parameters.{name}.distribution={kind} is not for what is told of it")


class Space(Strict):
    """What a sweep's file holds."""

    program: Literal["train.py"]
    method: Literal["bayes", "random", "grid"]
    metric: Metric
    parameters: Annotated[dict[str, Parameter], MinLen(1)]
    command: list[str] = Field(default_factory=list)
    early_terminate: Hyperband | None = None
    run_cap: PositiveInt | None = None
    name: str = ""
    description: str = ""
    project: str = ""
    entity: str = ""

    def ranges(self) -> dict[str, BaseDistribution]:
        """Return what is searched: the parameters that may have more than one value."""
        ranges = {name: parameter.range(name) for name, parameter in self.parameters.items()}
        return {name: found for name, found in ranges.items() if not found.single()}

    def fixed(self) -> list[str]:
        """Return the words that are the same in all trials: those of the command, and parameters of one value."""
        words = [word for word in self.command if "=" in word and not word.startswith(("$", "logger="))]
        for name, parameter in self.parameters.items():
            found = parameter.range(name)
            if isinstance(found, CategoricalDistribution) and found.single():
                words.append(word_of(name, found.choices[0]))
        return words


def read_space(path: Path) -> Space:
    """Read and check a sweep's file.

    Raises:
        DataError: if it cannot be read.
        ConfigError: if it is not a sweep's; one line that names key, value and what is allowed.
    """
    try:
        content = safe_load(path.read_bytes())
    except (OSError, YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} is not a sweep: it needs program, method, metric and parameters")
    try:
        space = Space.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"] if not str(part).startswith("function-"))
        value = "" if fault["type"] == "missing" else f"={written(fault['input'])}"
        raise ConfigError(f"{path}: {key}{value} is not allowed: {said({**fault, 'loc': ()})}") from error
    ranges = space.ranges()
    if space.method == "grid" and any(not isinstance(one, CategoricalDistribution) for one in ranges.values()):
        raise ConfigError(f"{path}: method=grid needs values for each parameter, and no min and max")
    return space


def key_of(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def read_words(words: list[str]) -> dict[str, Any]:
    """Read settings as Hydra would, and return their values by key.

    Raises:
        ConfigError: if one is no setting, or names several values.
    """
    found = {}
    for word in words:
        try:
            override = OverridesParser.create().parse_override(word)
        except HydraException as error:
            raise ConfigError(f"{word!r} is not allowed: settings are group=choice and key=value") from error
        if not override.key_or_group or override.is_delete() or override.is_sweep_override():
            raise ConfigError(f"{word} is not allowed: a setting of all trials has one value")
        found[override.key_or_group] = override.value()
    return found


def word_of(key: str, value: Plain) -> str:
    """Write a setting as the command line has it."""
    plain = isinstance(value, str) and value.isidentifier() and value.lower() not in WORDS
    return f"{key}={value if plain else written(value)}"

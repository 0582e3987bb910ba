"""The search space of a sweep: a YAML file in W&B's format, read without W&B.

The format: https://docs.wandb.ai/models/sweeps/sweep-config-keys. What follows `${program}` in `command` is the same in
all trials, except for `logger=…`, which is meant for W&B's agents alone.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MinLen
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StrictBool, StrictFloat, StrictInt, ValidationError
from yaml import YAMLError, safe_load

from patchwork.core.errors import ConfigError, DataError, one_line
from patchwork.core.overrides import format_override
from patchwork.core.schema import format_validation_error, format_value

Scalar = StrictBool | StrictInt | StrictFloat | str | None
Number = StrictInt | StrictFloat


class StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Metric(StrictModel):
    name: Annotated[str, Field(pattern=r"^val/.")]  # nothing is selected on the test split
    goal: Literal["maximize", "minimize"] = "minimize"


class Hyperband(StrictModel):
    """When to stop trials that do worse than others: after `min_iter` validations, and each `eta` times as many."""

    type: Literal["hyperband"]
    min_iter: PositiveInt = 1
    eta: Annotated[int, Ge(2)] = 3


class Parameter(StrictModel):
    value: Scalar = None
    values: Annotated[list[Scalar], MinLen(1)] | None = None
    distribution: (
        Literal["constant", "categorical", "int_uniform", "uniform", "q_uniform", "log_uniform_values"] | None
    ) = None
    min: Number | None = None
    max: Number | None = None
    q: Annotated[Number, Gt(0)] | None = None

    def to_distribution(self, name: str) -> BaseDistribution:
        """Return Optuna's distribution of the parameter `name`.

        Raises:
            ConfigError: if its keys are contradictory or too few.
        """
        if (self.values is None) + ("value" not in self.model_fields_set) + (self.min is None) != 2:
            raise ConfigError(f"parameters.{name} needs one of value, values, or min and max")
        if self.min is None:
            return CategoricalDistribution(self.values if self.values is not None else [self.value])
        if self.max is None or self.max <= self.min:
            raise ConfigError(f"parameters.{name}.max={format_value(self.max)} is not allowed: it must be above min")
        integers = isinstance(self.min, int) and isinstance(self.max, int)
        kind = self.distribution or ("int_uniform" if integers else "uniform")
        if kind == "int_uniform" and integers:
            return IntDistribution(int(self.min), int(self.max))
        if kind == "q_uniform" and self.q:
            return FloatDistribution(self.min, self.max, step=self.q)
        if kind == "uniform" or (kind == "log_uniform_values" and self.min > 0):
            return FloatDistribution(self.min, self.max, log=kind == "log_uniform_values")
        raise ConfigError(f"parameters.{name}.distribution={kind} is not allowed with its other keys")


class Space(StrictModel):
    """The content of a sweep's file."""

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

    def distributions(self) -> dict[str, BaseDistribution]:
        """Return the distributions that are searched: of the parameters with more than one value."""
        distributions = {name: parameter.to_distribution(name) for name, parameter in self.parameters.items()}
        return {name: distribution for name, distribution in distributions.items() if not distribution.single()}

    def fixed_overrides(self) -> list[str]:
        """Return the overrides that all trials share: those of the command, and the parameters of one value."""
        overrides = [word for word in self.command if "=" in word and not word.startswith(("$", "logger="))]
        for name, parameter in self.parameters.items():
            distribution = parameter.to_distribution(name)
            if isinstance(distribution, CategoricalDistribution) and distribution.single():
                overrides.append(format_override(name, distribution.choices[0]))
        return overrides


def read_space(path: Path) -> Space:
    """Read and check the file of a sweep.

    Raises:
        DataError: if it cannot be read.
        ConfigError: if a key or value is not allowed; one line that names both and says what is.
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
        raise ConfigError(f"{path}: {format_space_error(error)}") from error
    distributions = space.distributions().values()
    if space.method == "grid" and not all(isinstance(each, CategoricalDistribution) for each in distributions):
        raise ConfigError(f"{path}: method=grid needs values for each parameter, not min and max")
    return space


def format_space_error(error: ValidationError) -> str:
    """Format the first of pydantic's errors with the key and the value that it is about."""
    first: dict[str, Any] = dict(error.errors()[0])
    key = ".".join(str(name) for name in first["loc"] if not str(name).startswith("function-"))
    value = "" if first["type"] == "missing" else f"={format_value(first['input'])}"
    return f"{key}{value} is not allowed: {format_validation_error({**first, 'loc': ()})}"

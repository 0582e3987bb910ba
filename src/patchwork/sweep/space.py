"""The search space of a sweep: a YAML file in W&B's format, read without W&B.

The format: https://docs.wandb.ai/models/sweeps/sweep-config-keys. What follows `${program}` in `command` is the same in
all trials, except for `logger=…`, which is meant for W&B's agents alone.
"""

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_type_hints

from annotated_types import Ge, Gt, MinLen
from optuna.distributions import CategoricalDistribution
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    StrictFloat,
    StrictInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from typing_extensions import Doc
from yaml import YAMLError, safe_load

from patchwork.core.allowed import describe, format_value
from patchwork.core.errors import ConfigError, DataError, one_line
from patchwork.core.overrides import format_override
from patchwork.core.schema import iter_nested
from patchwork.core.shell_overrides import TEXT_KEYS
from patchwork.sweep.agent_command import parse_command, parse_text
from patchwork.sweep.priors import KINDS, LISTED, MAX_GRID, NORMAL, Prior

MAX_INTEGER = 2**63 - 1  # what the samplers compute with
OWN_MESSAGE = "own_message"  # type of the errors of these validators, among pydantic's


def read_value(value: Any) -> Any:
    """Return a value of the file as the command line of a W&B agent has it: text that is a number is one.

    YAML 1.1, which W&B reads, takes `1e-3` for text.
    """
    if isinstance(value, list):
        return [read_value(item) for item in value]
    return parse_text(value) if isinstance(value, str) else value


def read_number(value: Any) -> Any:
    """Return a number of the file, which may be written as text.

    Raises:
        PydanticCustomError: if it is not finite, or too large to compute with.
    """
    number = read_value(value)
    if isinstance(number, float) and not math.isfinite(number):
        raise PydanticCustomError(OWN_MESSAGE, "it must be finite")
    if isinstance(number, int) and abs(number) > MAX_INTEGER:
        raise PydanticCustomError(OWN_MESSAGE, "it must be below 2**63")
    return number


def check_plain(value: Any) -> Any:
    if any(isinstance(item, dict) for item in iter_nested(value)):
        raise PydanticCustomError(OWN_MESSAGE, "use numbers, text, true, false, null or lists of them")
    return value


Value = Annotated[Any, BeforeValidator(check_plain)]
IntOrFloat = Annotated[StrictInt | StrictFloat, BeforeValidator(read_number)]
Number = Annotated[IntOrFloat, Doc("a number")]
PositiveNumber = Annotated[IntOrFloat, Gt(0), Doc("a positive number")]
Probability = Annotated[IntOrFloat, Ge(0), Doc("a number of 0 or more")]
Probabilities = Annotated[list[Probability], MinLen(1), Doc("a list of numbers of 0 or more")]
Values = Annotated[list[Value], MinLen(1), Doc("a list of one or more values")]
MetricName = Annotated[str, Field(pattern=r"^val/."), Doc("a validation metric, as val/accuracy")]


class StrictModel(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Metric(StrictModel):
    name: MetricName  # nothing is selected on the test split
    goal: Literal["maximize", "minimize"] = "minimize"
    target: Number | None = None  # the search ends when it is reached


class Hyperband(StrictModel):
    """When to stop trials that do worse than others: after `min_iter` validations, and each `eta` times as many.

    With `max_iter` instead, the first time is `s` divisions by `eta` before it. `strict` is how Optuna always prunes.
    """

    type: Literal["hyperband"]
    min_iter: PositiveInt | None = None
    max_iter: PositiveInt | None = None
    s: PositiveInt | None = None
    eta: Annotated[int, Ge(2)] = 3
    strict: bool = False

    @model_validator(mode="after")
    def check_first(self) -> Self:
        if self.min_iter is None and (self.max_iter is None or self.s is None):
            raise PydanticCustomError(OWN_MESSAGE, "it needs min_iter, or max_iter and s")
        return self

    @property
    def first(self) -> int:
        """The number of validations after which trials are compared for the first time."""
        if self.min_iter is not None:
            return self.min_iter
        assert self.max_iter is not None
        assert self.s is not None
        return max(1, self.max_iter // self.eta**self.s)


class Parameter(StrictModel):
    value: Value = None
    values: Values | None = None
    probabilities: Probabilities | None = None
    distribution: str | None = None
    min: Number | None = None
    max: Number | None = None
    mu: Number | None = None
    sigma: PositiveNumber | None = None
    q: PositiveNumber | None = None

    @property
    def kind(self) -> str:
        """The name of the distribution; W&B infers one that is not given."""
        if self.distribution is not None:
            return self.distribution
        if self.values is not None:
            return "categorical"
        if "value" in self.model_fields_set:
            return "constant"
        return "int_uniform" if isinstance(self.min, int) and isinstance(self.max, int) else "uniform"

    @property
    def keys(self) -> set[str]:
        """The keys that say which values are allowed."""
        return self.model_fields_set & {"value", "values", "probabilities", "min", "max", "mu", "sigma", "q"}

    def to_prior(self, name: str) -> Prior:
        """Return from what the values of the parameter `name` are sampled.

        Raises:
            ConfigError: if its keys are contradictory or too few.
        """
        kind = self.kind
        if kind not in KINDS:
            raise ConfigError(
                f"parameters.{name}.distribution={kind} is not allowed: use one of {', '.join(sorted(KINDS))}"
            )
        needed, optional = KINDS[kind]
        if not needed <= self.keys or self.keys - needed - optional:
            allowed = " and ".join(sorted(needed | optional))
            hint = (
                f"distribution={kind} needs {allowed}"
                if self.distribution
                else "needs one of value, values, or min and max"
            )
            raise ConfigError(f"parameters.{name} {hint}, not {', '.join(sorted(self.keys)) or 'nothing'}")
        if kind in LISTED:
            return self.listed_prior(name)
        try:
            if kind in NORMAL:
                return Prior.normal(kind, mu=self.mu or 0.0, sigma=self.sigma or 1.0, quantum=self.q)
            assert self.min is not None
            assert self.max is not None
            if self.max <= self.min:
                raise ConfigError(
                    f"parameters.{name}.max={format_value(self.max)} is not allowed: it must be above min"
                )
            return Prior.between(kind, self.min, self.max, self.q)
        except OverflowError as error:
            raise ConfigError(f"parameters.{name}.distribution={kind}: the values are too large") from error
        except ValueError as error:
            raise ConfigError(f"parameters.{name}.distribution={kind}: {one_line(error)}") from error

    def listed_prior(self, name: str) -> Prior:
        """Return the prior of listed values, which are read as numbers unless the key `name` is text."""
        key = "value" if self.values is None else "values"
        listed = [self.value] if self.values is None else self.values
        values = listed if name in TEXT_KEYS else [read_value(value) for value in listed]
        for index, value in enumerate(values):
            shown = f"parameters.{name}.{key}{f'.{index}' if key == 'values' else ''}={format_value(value)}"
            if any(isinstance(item, float) and not math.isfinite(item) for item in iter_nested(value)):
                raise ConfigError(f"{shown} is not allowed: it must be finite")
            if value in values[:index]:
                raise ConfigError(f"{shown} is not allowed: it is listed twice; probabilities give values weights")
        weights = self.probabilities
        if weights is not None and (len(weights) != len(values) or not math.isclose(sum(weights), 1, abs_tol=1e-3)):
            raise ConfigError(f"parameters.{name}.probabilities={weights} is not allowed: one for each value, in sum 1")
        return Prior(CategoricalDistribution(values), probabilities=weights)


class Space(StrictModel):
    """The content of a sweep's file."""

    program: str = "train.py"
    method: Literal["bayes", "random", "grid"]
    metric: Metric
    parameters: Annotated[dict[str, Parameter], MinLen(1), Doc("a mapping of one or more keys")]
    command: list[str] = Field(default_factory=list)
    early_terminate: Hyperband | None = None
    run_cap: PositiveInt | None = None
    name: str = ""
    description: str = ""
    project: str = ""
    entity: str = ""

    @field_validator("program")
    @classmethod
    def check_program(cls, program: str) -> str:
        if Path(program).name not in ("train.py", "patchwork"):
            raise PydanticCustomError(OWN_MESSAGE, "it must be train.py, or a path to it")
        return program

    @field_validator("parameters", mode="before")
    @classmethod
    def flatten(cls, parameters: Any) -> Any:
        """Name nested parameters by their whole key."""
        return flatten_parameters(parameters) if isinstance(parameters, dict) else parameters

    @field_validator("command", mode="before")
    @classmethod
    def read_command(cls, command: Any) -> Any:
        return [str(word) for word in command] if isinstance(command, list) else command

    @model_validator(mode="after")
    def check_method(self) -> Self:
        for name, prior in self.priors.items():
            if self.method == "grid" and prior.num_values > MAX_GRID:
                raise ConfigError(f"method=grid needs values for each parameter, and {name} has too many: list them")
            if self.method != "random" and prior.is_weighted:
                kind = "probabilities" if prior.probabilities else f"distribution={self.parameters[name].kind}"
                raise ConfigError(f"parameters.{name}: {kind} needs method=random, not {self.method}")
        parse_command(self.command)
        return self

    @property
    def priors(self) -> dict[str, Prior]:
        """From what each parameter is sampled."""
        return {name: parameter.to_prior(name) for name, parameter in self.parameters.items()}

    def searched(self) -> dict[str, Prior]:
        """Return the priors of the parameters that are searched: of those with more than one value."""
        return {name: prior for name, prior in self.priors.items() if not prior.distribution.single()}

    def fixed_overrides(self) -> list[str]:
        """Return the overrides that all trials share: those of the command, and the parameters of one value."""
        overrides = parse_command(self.command)
        for name, prior in self.priors.items():
            if prior.distribution.single():
                overrides.append(format_override(name, prior.grid()[0]))
        return overrides


def flatten_parameters(parameters: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested parameters, `{optimizer: {parameters: {lr: …}}}`, as `{optimizer.lr: …}`."""
    flat: dict[str, Any] = {}
    for key, content in parameters.items():
        name = f"{prefix}{key}"
        if not isinstance(content, dict):
            raise PydanticCustomError(OWN_MESSAGE, "{name} needs one of value, values, or min and max", {"name": name})
        if isinstance(content.get("parameters"), dict) and content["parameters"] and len(content) == 1:
            flat |= flatten_parameters(content["parameters"], f"{name}.")
        else:
            flat[name] = content
    return flat


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
        return Space.model_validate(content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except ValidationError as error:
        raise ConfigError(f"{path}: {format_space_error(error)}") from error


def format_space_error(error: ValidationError) -> str:
    """Format the first of pydantic's errors with the key and the value that it is about."""
    first: dict[str, Any] = dict(error.errors()[0])
    types = ("function-", "int", "float")  # of a union, not keys
    names = [str(name) for name in first["loc"] if not str(name).startswith(types[:1]) and name not in types[1:]]
    key = ".".join(names)
    value = "" if first["type"] == "missing" else f"={format_value(first['input'])}"
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "extra_forbidden":
        return f"{key}{value} is not allowed: the keys here are {', '.join(allowed_keys(names))}"
    reason = first["msg"] if first["type"] == OWN_MESSAGE else f"it must be {describe_place(names)}"
    return f"{key}{value} is not allowed: {reason}"


def model_at(names: list[str]) -> type[StrictModel]:
    """Return the model that has the key at a place in the file."""
    models: dict[str, type[StrictModel]] = {"parameters": Parameter, "metric": Metric, "early_terminate": Hyperband}
    return models.get(names[0], Space) if len(names) > 1 else Space


def allowed_keys(names: list[str]) -> list[str]:
    """Return the keys that are allowed beside the one at a place in the file."""
    model = model_at(names)
    nested = ["parameters"] if model is Parameter else []
    return [*model.model_fields, *nested]


def describe_place(names: list[str]) -> str:
    """Return in words what is allowed at a place in the file."""
    model = model_at(names)
    depth = {Space: 0, Parameter: 2}.get(model, 1)
    if depth >= len(names):
        return "a mapping"
    annotation = get_type_hints(model, include_extras=True)[names[depth]]
    if len(names) > depth + 1:  # an item of a list
        return describe(item_type(annotation))
    return "a mapping" if model is Space and names[0] in ("metric", "early_terminate") else describe(annotation)


def item_type(annotation: Any) -> Any:
    """Return what the items of a list are, however its annotation is wrapped."""
    origin = getattr(annotation, "__origin__", None)
    if origin is list:
        return get_args(annotation)[0]
    inner = (item_type(kind) for kind in get_args(annotation))
    return next((kind for kind in inner if kind is not None), None)

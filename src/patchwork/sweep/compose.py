"""Compose the configurations of a sweep's trials, and find out which cannot be trained before any of them is."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from optuna.distributions import BaseDistribution, CategoricalDistribution

from patchwork.core.errors import ConfigError, one_line
from patchwork.core.overrides import format_override, override_key, parse_overrides
from patchwork.core.schema import check_config
from patchwork.runs.build import build
from patchwork.runs.compose import compose
from patchwork.sweep.space import Space, read_space

Params = dict[str, Any]  # the values that a trial is given, by key


@dataclass(frozen=True)
class SweepConfig:
    """What a sweep searches: the space of its file, without the keys that the command line overrides.

    Args:
        path: of the file.
        space: its content.
        overrides: that all trials share.
        distributions: of the parameters that are searched, by key.
        base_config: the configuration that all trials share.
    """

    path: Path
    space: Space
    overrides: list[str]
    distributions: dict[str, BaseDistribution]
    base_config: DictConfig

    @property
    def metric(self) -> str:
        return self.space.metric.name

    @property
    def num_validations(self) -> int:
        return num_validations(self.base_config)

    @property
    def study_name(self) -> str:
        """The name of the file with a digest of what is searched and of the overrides that trials share."""
        content = (sorted(self.overrides), sorted(self.distributions.items(), key=str))
        return f"{self.path.stem}-{hashlib.sha256(repr(content).encode()).hexdigest()[:8]}"

    def trial_overrides(self, params: Params) -> list[str]:
        """Return all overrides of a trial."""
        return [*self.overrides, *(format_override(key, value) for key, value in params.items())]


def load_sweep(path: Path, overrides: list[str]) -> SweepConfig:
    """Read the file of a sweep, apply overrides that all trials share, and check both.

    Raises:
        DataError: if the file cannot be read.
        ConfigError: if a key or value is wrong, nothing is left to search, or the metric is not measured.
    """
    space = read_space(path)
    overridden = parse_overrides(overrides)
    shared = [*(each for each in space.fixed_overrides() if override_key(each) not in overridden), *overrides]
    distributions = {key: distribution for key, distribution in space.distributions().items() if key not in overridden}
    if not distributions:
        raise ConfigError("nothing is left to search: every parameter has one value")
    config = compose(shared)
    check_config(config)
    reason = infeasible_reason([*shared, f"task.monitor={space.metric.name}"])
    if reason is not None:
        raise ConfigError(reason.replace("task.monitor=", "metric.name="))
    if "metrics" not in (config.logger or {}):
        raise ConfigError("logger=none is not allowed: a sweep reads metrics.csv; drop the override")
    first_values = [format_override(key, first_value(distribution)) for key, distribution in distributions.items()]
    compose([*shared, *first_values])  # finds keys that do not exist before the first trial
    return SweepConfig(path, space, shared, distributions, config)


def first_value(distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    return getattr(distribution, "low", None)


def infeasible_reason(overrides: list[str]) -> str | None:
    """Return why a configuration cannot be trained, or None if it can.

    Its model is built on the meta device, where tensors have shapes but no values: heads that do not divide a width and
    patches that do not fit an image are found in milliseconds, however large the model would be.
    """
    try:
        config = compose(overrides)
        check_config(config)
        with torch.device("meta"):
            build(config)
    except ConfigError as error:
        return one_line(error)
    return None


def num_validations(config: DictConfig) -> int:
    """Return how often a run validates, at least once."""
    trainer = config.trainer
    return max(1, trainer.max_epochs // trainer.check_val_every_n_epoch * int(1 / trainer.val_check_interval))


def format_params(params: Params) -> str:
    """Format the values of a trial for a table, floats with four significant digits."""
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else format_override(key, value)
        for key, value in params.items()
    )

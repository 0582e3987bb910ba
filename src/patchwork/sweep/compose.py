"""Compose the configurations of a sweep's trials, and find out which cannot be trained before any of them is."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import BaseDistribution

from patchwork.core.errors import ConfigError, one_line
from patchwork.core.overrides import format_override, override_key, parse_overrides
from patchwork.core.schema import TARGET_PACKAGES, check_config, find_target, fits, signature
from patchwork.runs.build import build
from patchwork.runs.compose import compose
from patchwork.runs.fitting import check_fit
from patchwork.runs.hydra_keys import JOB_KEYS
from patchwork.runs.init_from import locate_weights
from patchwork.sweep.priors import Prior
from patchwork.sweep.space import Space, read_space
from patchwork.training.step_counts import num_validations

Params = dict[str, Any]  # the values that a trial is given, by key


@dataclass(frozen=True)
class SweepConfig:
    """What a sweep searches: the space of its file, without the keys that the command line overrides.

    Args:
        path: of the file.
        space: its content.
        overrides: that all trials share.
        priors: of the parameters that are searched, by key.
        base_config: the configuration that all trials share.
    """

    path: Path
    space: Space
    overrides: list[str]
    priors: dict[str, Prior]
    base_config: DictConfig

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {key: prior.distribution for key, prior in self.priors.items()}

    @property
    def metric(self) -> str:
        return self.space.metric.name

    @property
    def num_validations(self) -> int:
        return count_validations(self.base_config)

    def num_trial_validations(self, params: Params) -> int:
        """Return how often a trial validates, which may depend on what is searched."""
        return count_validations(compose(self.trial_overrides(params)))

    @property
    def study_name(self) -> str:
        """The name of the file with a digest of what is searched and of the overrides that trials share."""
        content: tuple[Any, ...] = (sorted(self.overrides), sorted(self.distributions.items(), key=str))
        shaped = {key: prior for key, prior in self.priors.items() if prior.quantum is not None or prior.is_weighted}
        if shaped:
            content = (*content, sorted(shaped.items(), key=str))
        return f"{self.path.stem}-{hashlib.sha256(repr(content).encode()).hexdigest()[:8]}"

    @cached_property
    def annotations(self) -> dict[str, Any]:
        """What the searched keys allow, as far as the configuration that trials share says."""
        return {key: key_annotation(self.base_config, key) for key in self.priors}

    def trial_overrides(self, params: Params) -> list[str]:
        """Return all overrides of a trial; `32.0` is written as `32` for a key that is an integer."""
        values = {key: as_integer(value, self.annotations.get(key, Any)) for key, value in params.items()}
        return [*self.overrides, *(format_override(key, value) for key, value in values.items())]


def load_sweep(path: Path, overrides: list[str]) -> SweepConfig:
    """Read the file of a sweep, apply overrides that all trials share, and check both.

    Raises:
        DataError: if the file cannot be read, or `init_from` names no weights.
        ConfigError: if a key or value is wrong, nothing is left to search, or the metric is not measured.
    """
    space = read_space(path)
    overridden = parse_overrides(overrides)
    for override in [*overrides, *space.fixed_overrides(), *(f"{key}=…" for key in space.parameters)]:
        check_belongs_to_trials(override)
    shared = [*(each for each in space.fixed_overrides() if override_key(each) not in overridden), *overrides]
    priors = {key: prior for key, prior in space.searched().items() if key not in overridden}
    if not priors:
        raise ConfigError("nothing is left to search: every parameter has one value")
    config = compose(shared)
    check_fit(config)
    check_config(config)
    reason = infeasible_reason([*shared, f"task.monitor={space.metric.name}"])
    if reason is not None:
        raise ConfigError(reason.replace("task.monitor=", "metric.name="))
    if not config.trainer.limit_val_batches:
        raise ConfigError("trainer.limit_val_batches=0 is not allowed: a sweep compares trials by their validations")
    if "metrics" not in (config.logger or {}):
        raise ConfigError("logger=none is not allowed: a sweep reads metrics.csv; drop the override")
    sweep = SweepConfig(path, space, shared, priors, config)
    compose(sweep.trial_overrides({key: prior.grid()[0] for key, prior in priors.items()}))  # finds unknown keys
    for init_from in [config.init_from, *(priors["init_from"].grid() if "init_from" in priors else [])]:
        if init_from is not None:
            locate_weights(str(init_from))
    return sweep


def check_belongs_to_trials(override: str) -> None:
    """Raise a `ConfigError` at keys that a sweep sets itself, for each of its trials."""
    key = override_key(override)
    if key in ("run_dir", "resume", "hydra.run.dir"):
        raise ConfigError(
            f"{override} is not allowed: a sweep sets the run directory of its trials; use sweep_dir=… for its own"
        )
    if key.startswith(JOB_KEYS):
        raise ConfigError(f"{override} is not allowed: each trial is one run; use n_jobs=… to run several in parallel")


def key_annotation(config: DictConfig, path: str) -> Any:
    """Return the annotation of a key that is an argument of a constructor in a configuration; of others, Any."""
    parent, _, name = path.rpartition(".")
    node = OmegaConf.select(config, parent) if parent else None
    if not isinstance(node, DictConfig) or "_target_" not in node:
        return Any
    names = [part for part in parent.split(".") if part in TARGET_PACKAGES]
    target = find_target(parent, node._target_, TARGET_PACKAGES[names[-1]])
    return signature(target).get(name, (Any, False))[0]


def as_integer(value: Any, annotation: Any) -> Any:
    """Return a whole float as an integer where only that is allowed."""
    if isinstance(value, float) and value.is_integer() and not fits(value, annotation) and fits(int(value), annotation):
        return int(value)
    return value


def infeasible_reason(overrides: list[str]) -> str | None:
    """Return why a configuration cannot be trained, or None if it can.

    Its model is built on the meta device, where tensors have shapes but no values: heads that do not divide a width and
    patches that do not fit an image are found in milliseconds, however large the model would be.
    """
    try:
        config = compose(overrides)
        check_fit(config)
        check_config(config)
        with torch.device("meta"):
            build(config)
    except ConfigError as error:
        return one_line(error)
    return None


def count_validations(config: DictConfig) -> int:
    """Return how often a run validates, at least once."""
    num_batches = config.data.samples_per_epoch // config.data.batch_size
    return max(1, num_validations(config.trainer, num_batches))


def format_params(params: Params) -> str:
    """Format the values of a trial for a table, floats with four significant digits."""
    return " ".join(
        f"{key}={value:.4g}" if isinstance(value, float) else format_override(key, value)
        for key, value in params.items()
    )

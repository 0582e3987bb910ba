"""Compose a configuration from `conf/` and overrides, as the command line does."""

from copy import deepcopy
from pathlib import Path

from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

import patchwork.runs.resolvers  # noqa: F401  # registers them
from patchwork.core.errors import ConfigError
from patchwork.core.hydra_compose import compose_config
from patchwork.core.hydra_errors import translate_hydra_error
from patchwork.core.shell_overrides import parse_typed

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parents[1]  # installed, or in a checkout
CONF_DIR = ROOT / "conf"
SWEEPS_DIR = ROOT / "sweeps"


def compose(overrides: list[str]) -> DictConfig:
    """Return the configuration that `patchwork train` has with these overrides.

    Raises:
        ConfigError: if an override names a group, choice or key that does not exist.
    """
    return without_hydra(compose_with_hydra(parse_typed(overrides, sweep=False)))


def compose_with_hydra(
    overrides: list[str],
    *,
    conf_dir: Path = CONF_DIR,
    config_name: str = "train",
    config_dir: Path | None = None,
    multirun: bool = False,
) -> DictConfig:
    """Compose a configuration that has Hydra's own as the key `hydra`; the arguments are those of `compose_config`.

    Raises:
        ConfigError: if an override names a group, choice or key that does not exist.
    """
    try:
        return compose_config(
            conf_dir, config_name, overrides, with_hydra=True, config_dir=config_dir, multirun=multirun
        )
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        if isinstance(error, MissingConfigException) and error.missing_cfg_file == config_name:
            names = sorted(path.stem for path in (config_dir or conf_dir).glob("*.yaml"))
            available = f"; available: {', '.join(names)}" if names else ""
            raise ConfigError(
                f"--config-name={config_name} does not exist in {config_dir or conf_dir}{available}"
            ) from error
        flags = [] if config_dir is None else [f"--config-dir={config_dir}"]
        raise translate_hydra_error(error, conf_dir, config_name, [*flags, *overrides]) from error


def without_hydra(composed: DictConfig) -> DictConfig:
    """Return a configuration without Hydra's own, and with the names under which its task and model were chosen."""
    choices = composed.hydra.runtime.choices
    models = (choice for group, choice in choices.items() if group.partition("@")[0].strip("/") == "model")
    config = deepcopy(composed)
    with open_dict(config):
        del config["hydra"]
        config.task_name = config.get("task_name") or choices.get("task")
        config.model_name = config.get("model_name") or next(models, None)
    return config

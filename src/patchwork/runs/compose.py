"""Compose a configuration from `conf/` and overrides, as the command line does."""

from copy import deepcopy
from dataclasses import dataclass
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
        ConfigError: if an override names a group, choice or key that does not exist, or these are no list of strings.
    """
    if isinstance(overrides, str) or not all(isinstance(each, str) for each in overrides):
        raise ConfigError(f'compose({overrides!r}) is not allowed: pass a list of overrides, as ["task=classify"]')
    return without_hydra(compose_with_hydra(parse_typed(overrides, sweep=False)))


@dataclass(frozen=True)
class ConfigSource:
    """The files of a configuration, as Hydra's options name them; by default those of this package.

    Args:
        conf_dir: absolute path of the configuration directory.
        config_name: name of the primary configuration.
        config_dir: another configuration directory, whose files are added.
    """

    conf_dir: Path = CONF_DIR
    config_name: str = "train"
    config_dir: Path | None = None

    @property
    def conf_dirs(self) -> list[Path]:
        return [self.conf_dir] if self.config_dir is None else [self.conf_dir, self.config_dir]

    def translate(self, error: Exception, overrides: list[str]) -> ConfigError:
        """Return an error of the composition with these overrides as one of this package."""
        flags = [] if self.config_dir is None else [f"--config-dir={self.config_dir}"]
        return translate_hydra_error(error, self.conf_dir, self.config_name, [*flags, *overrides])


PACKAGED = ConfigSource()


def compose_with_hydra(overrides: list[str], source: ConfigSource = PACKAGED, *, multirun: bool = False) -> DictConfig:
    """Compose a configuration that has Hydra's own as the key `hydra`.

    Args:
        overrides: as Hydra parses them.
        source: the files.
        multirun: compose what a multirun begins with, where an override may list several values.

    Raises:
        ConfigError: if an override names a group, choice or key that does not exist.
    """
    conf_dir, config_name, config_dir = source.conf_dir, source.config_name, source.config_dir
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
        raise source.translate(error, overrides) from error


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

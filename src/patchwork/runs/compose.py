"""Compose a configuration from `conf/` and overrides, as the command line does."""

from pathlib import Path

from hydra.conf import HydraConf
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

import patchwork.runs.resolvers  # noqa: F401  # registers them
from patchwork.core.hydra_compose import compose_config
from patchwork.core.hydra_errors import translate_hydra_error

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE if (PACKAGE / "conf").is_dir() else PACKAGE.parents[1]  # installed, or in a checkout
CONF_DIR = ROOT / "conf"
SWEEPS_DIR = ROOT / "sweeps"


def compose(overrides: list[str]) -> DictConfig:
    """Return the configuration that `patchwork train` has with these overrides.

    Raises:
        ConfigError: if an override names a group, choice or key that does not exist.
    """
    try:
        config = compose_config(CONF_DIR, "train", overrides, with_hydra=True)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise translate_hydra_error(error, CONF_DIR, "train", overrides) from error
    hydra_cfg = config.hydra
    with open_dict(config):
        del config["hydra"]
    set_choice_names(config, hydra_cfg)
    return config


def set_choice_names(config: DictConfig, hydra_cfg: HydraConf) -> None:
    """Write the names under which the task and its model were chosen into a configuration that has none."""
    choices = hydra_cfg.runtime.choices
    models = (choice for group, choice in choices.items() if group.partition("@")[0].strip("/") == "model")
    with open_dict(config):
        config.task_name = config.get("task_name") or choices.get("task")
        config.model_name = config.get("model_name") or next(models, None)

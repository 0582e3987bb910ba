"""A setting, as words of the command line: compose it, and say why it cannot be trained, before it is."""

from pathlib import Path

import hydra
import torch
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from patchwork.cli import explain
from patchwork.config import check
from patchwork.errors import ConfigError, one_line
from patchwork.run import build

ROOT = Path(__file__).resolve().parents[3]
CONF = ROOT / "conf"


def composed(words: list[str]) -> DictConfig:
    """Return the configuration that `train.py` has with these words.

    Raises:
        ConfigError: if one of them names what is not there.
    """
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return hydra.compose("train", words)
    except (HydraException, OmegaConfBaseException) as error:
        raise explain(error, CONF, "train", words) from error


def impossible(words: list[str]) -> str | None:
    """Return why a setting cannot be trained, or None if it can.

    Its network is built on the meta device, where it has shapes and no numbers: heads that do not divide a width and
    patches that do not fit an image are found in milliseconds, however large it would be.
    """
    try:
        config = composed(words)
        check(config)
        with torch.device("meta"):
            build(config)
    except ConfigError as error:
        return one_line(error)
    return None


def validations(config: DictConfig) -> int:
    """Return how often a trial validates, at least once."""
    settings = config.trainer
    return max(1, settings.max_epochs // settings.check_val_every_n_epoch * int(1 / settings.val_check_interval))

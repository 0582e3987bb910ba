"""The precision of a run: `trainer.precision` for what is computed without a Trainer, and what `auto` means here."""

from copy import deepcopy
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.plugins.precision import DoublePrecision, MixedPrecision, Precision

from patchwork.models.patch_embed import resolve_precision
from patchwork.training.trainer_arguments import full_precision_name

STEM = "patchwork.models.ConvStem"


def make_precision(name: str | int, device: torch.device) -> Precision:
    """Return Lightning's plugin for a precision, as a Trainer on this device has it.

    Args:
        name: `32-true`, `64-true` or `bf16-mixed`, or one of the short names for them.
        device: Device of the model.
    """
    name = full_precision_name(name)
    if name == "64-true":
        return DoublePrecision()
    return MixedPrecision("bf16-mixed", device.type) if name == "bf16-mixed" else Precision()


def resolve_stem_precision(config: DictConfig) -> DictConfig:
    """Return a configuration in which stems of precision `auto` have the one that is faster on this machine's device.

    A run saves it, so that it computes the same wherever it is resumed or evaluated. With `64-true` it is the model's:
    autocast leaves float64 as it is.
    """
    config = deepcopy(config)
    is_double = full_precision_name(config.trainer.precision) == "64-true"
    precision = 32 if is_double else resolve_precision("auto", find_device_type(config.trainer.accelerator))
    for stem in find_nodes(config.model, STEM):
        if stem.get("precision") == "auto":
            stem.precision = precision
    return config


def find_device_type(accelerator: str) -> str:
    """Return the type of device that `trainer.accelerator` selects on this machine, as `cpu`, `cuda` or `mps`."""
    if accelerator not in ("auto", "gpu"):
        return accelerator
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def find_nodes(node: Any, target: str) -> list[DictConfig]:
    """Return the nodes within a configuration that have this `_target_`."""
    if OmegaConf.is_list(node):
        return [found for child in node for found in find_nodes(child, target)]
    if not OmegaConf.is_dict(node):
        return []
    own = [node] if node.get("_target_") == target else []
    return own + [found for child in node.values() for found in find_nodes(child, target)]

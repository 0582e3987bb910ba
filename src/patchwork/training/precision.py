"""The precision of `trainer.precision`, for what is computed without a Trainer."""

import torch
from pytorch_lightning.plugins.precision import DoublePrecision, MixedPrecision, Precision


def make_precision(name: str, device: torch.device) -> Precision:
    """Return Lightning's plugin for a precision, as a Trainer on this device has it.

    Args:
        name: `32-true`, `64-true` or `bf16-mixed`.
        device: Device of the model.
    """
    if name == "64-true":
        return DoublePrecision()
    return MixedPrecision("bf16-mixed", device.type) if name == "bf16-mixed" else Precision()

"""The size of a model: parameters and floating-point operations."""

from patchwork.data import BaseDataModule
from patchwork.evaluation.audit.base import first_batch, to_double
from patchwork.evaluation.flops import flops
from patchwork.tasks import Task


def model_size(task: Task, data: BaseDataModule) -> str:
    """Return the number of parameters, and the mean FLOP of a forward pass per validation sample."""
    num_parameters = sum(parameter.numel() for parameter in task.model.parameters())
    flop = flops(to_double(task).eval(), first_batch(data, "val"))
    return f"{num_parameters:,} parameters, {flop / 1e6:.2f} MFLOP per sample (forward)"

"""Count the floating-point operations of a forward pass."""

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from patchwork.data import Batch
from patchwork.tasks import Task


@torch.no_grad()
def flops(task: Task, batch: Batch) -> float:
    """Return the floating-point operations of a forward pass, per sample on average."""
    # the fused attention kernels have no FLOP formula on a CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        task.forward(batch)
    return counter.get_total_flops() / len(next(iter(batch.values())))

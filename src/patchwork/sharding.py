"""Parameters shared out among the processes that train a run, in place of a copy in each (FSDP).

1. Weights are made, or read, whole and alike in every process; each then keeps its part of every tensor.
2. A block is put together when it is used, forwards and backwards, and the rest of the model for a pass.
3. Gradients are averaged into such parts, and the optimizer's state is made of such parts.
4. For a checkpoint each tensor is put together: the first process writes what a single process would.

Source: Zhao et al. 2023, https://arxiv.org/abs/2304.11277, in PyTorch's second form.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

import torch
from omegaconf import DictConfig
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from patchwork.errors import ConfigError
from patchwork.models.transformer import Block
from patchwork.processes import main_process
from patchwork.tasks import Task

ENTRIES = ("training_step", "validation_step", "samples")  # what is called on a task while it is shared out
PARTWISE = ("adamw", "adam")  # optimizers whose fused kernels step with parts of tensors


class Sharded(DDPStrategy):
    """Lightning's strategy of several processes, which train what they share out; they test whole models, as ever."""

    strides: dict[Tensor, tuple[int, ...]]  # of the whole of each parameter, by the part

    def configure_ddp(self) -> None:
        """Keep this process's part of the parameters, before the optimizer is made."""
        task = cast(Task, self.lightning_module)
        strides = [parameter.stride() for parameter in task.parameters()]
        for parameter in task.parameters():
            parameter.data = parameter.data.contiguous()  # so that rows are a part, even where channels come last
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        blocks = [module for module in task.modules() if isinstance(module, Block)]
        for module in (*blocks, task):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
        for entry in ENTRIES:
            register_fsdp_forward_method(task, entry)
        self.strides = dict(zip(task.parameters(), strides, strict=True))

    def on_validation_start(self) -> None:
        """Measure with the first process's statistics of batches, which its checkpoints have."""
        for buffer in cast(Task, self.lightning_module).buffers():
            torch.distributed.broadcast(buffer, src=0)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        state = super().lightning_module_state_dict()
        for name, parameter in cast(Task, self.lightning_module).named_parameters():
            state[name] = whole(state[name], self.strides[parameter])
        return state

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        state: dict[str, Any] = super().optimizer_state(optimizer)
        parameters = parameters_of(optimizer)
        wholes = {
            index: tree_map_only(DTensor, partial(whole, strides=self.strides[parameters[index]]), values)
            for index, values in state["state"].items()
        }
        return {**state, "state": wholes}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = parameters_of(optimizer)
            parts = {
                index: tree_map_only(Tensor, partial(part_of, parameter=parameters[index]), values)
                for index, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": parts})


def parameters_of(optimizer: Optimizer) -> list[DTensor]:
    """Return an optimizer's parameters in the order in which its state numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def whole(part: DTensor, strides: tuple[int, ...]) -> Tensor | None:
    """Put a tensor together, which all processes have to do at once; the first keeps it, laid out with `strides`.

    Fused optimizers take it for granted that what they keep of a parameter is laid out as that is.
    """
    full = part.full_tensor()
    return torch.empty_strided(full.shape, strides, dtype=full.dtype).copy_(full) if main_process() else None


def part_of(full: Tensor, parameter: DTensor) -> Tensor:
    """Return the part, of what is kept of a whole parameter, that belongs to this process's part of that."""
    if full.shape != parameter.shape:  # the number of steps
        return full
    part = distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return torch.empty_like(parameter).copy_(part)  # without the memory of the whole


def check_sharded(config: DictConfig, task: Task) -> None:
    """Raise a `ConfigError` if something needs the whole of what is shared out, or is too small to be shared."""
    target = config.optimizer._target_
    if target.rpartition(".")[2] not in PARTWISE:
        raise ConfigError(
            f"optimizer._target_={target} cannot take a step with parts of weights, as trainer.strategy=fsdp has: use "
            f"optimizer={' or '.join(PARTWISE)}, or trainer.strategy=ddp"
        )
    for name, node in (config.callbacks or {}).items():
        if node is not None and node._target_.endswith(".MovingAverage"):
            raise ConfigError(
                f"callbacks.{name} cannot average parts of weights, as trainer.strategy=fsdp has: use "
                f"callbacks.{name}=null, or trainer.strategy=ddp"
            )
    for name, parameter in task.model.named_parameters():
        if not parameter.ndim:
            raise ConfigError(
                f"trainer.strategy=fsdp cannot share out {name} of {type(task.model).__name__}, a single number: "
                "use trainer.strategy=ddp"
            )

"""Fully sharded data parallel training (FSDP): each process keeps a shard of the parameters instead of a copy.

1. Every process initializes, or loads, the whole model; then it keeps its shard of every tensor.
2. The parameters of a block are gathered when it is used, forward and backward; the others once per forward pass.
3. Gradients are averaged into shards, and the optimizer's state is sharded alike.
4. Checkpoints are consolidated: the first process writes what a single process would.

Source: Zhao et al. 2023, https://arxiv.org/abs/2304.11277, in PyTorch's second implementation, `fully_shard`.
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

from patchwork.core.errors import ConfigError
from patchwork.core.rank import is_rank_zero
from patchwork.models.transformer import Block
from patchwork.tasks import Task

FORWARD_METHODS = ("training_step", "validation_step", "samples")  # called on a sharded task in place of `forward`
SHARDED_OPTIMIZERS = ("adamw", "adam")  # whose fused kernels can update shards


class FSDP2Strategy(DDPStrategy):
    """Train a sharded task in several processes; test an unsharded one, as DDP does.

    Lightning's `FSDPStrategy` uses PyTorch's first implementation; its `ModelParallelStrategy` asks every module to
    shard itself in `configure_model`.
    """

    strides: dict[Tensor, tuple[int, ...]]  # of the full tensor of each parameter, by its shard

    def configure_ddp(self) -> None:
        """Shard the parameters, before the optimizer is built."""
        task = cast(Task, self.lightning_module)
        strides = [parameter.stride() for parameter in task.parameters()]
        for parameter in task.parameters():
            parameter.data = parameter.data.contiguous()  # shards are rows, even of channels-last filters
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        blocks = [module for module in task.modules() if isinstance(module, Block)]
        for module in (*blocks, task):
            fully_shard(module, mesh=mesh, reshard_after_forward=True)
        for method in FORWARD_METHODS:
            register_fsdp_forward_method(task, method)
        self.strides = dict(zip(task.parameters(), strides, strict=True))

    def on_validation_start(self) -> None:
        """Validate with the first process's batch normalization statistics, which are the ones in its checkpoints."""
        for buffer in cast(Task, self.lightning_module).buffers():
            torch.distributed.broadcast(buffer, src=0)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        state = super().lightning_module_state_dict()
        for name, parameter in cast(Task, self.lightning_module).named_parameters():
            state[name] = gather_full_tensor(state[name], self.strides[parameter])
        return state

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        state: dict[str, Any] = super().optimizer_state(optimizer)
        parameters = optimizer_params(optimizer)
        full_state = {
            index: tree_map_only(DTensor, partial(gather_full_tensor, strides=self.strides[parameters[index]]), values)
            for index, values in state["state"].items()
        }
        return {**state, "state": full_state}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = optimizer_params(optimizer)
            sharded_state = {
                index: tree_map_only(Tensor, partial(shard_like, parameter=parameters[index]), values)
                for index, values in state["state"].items()
            }
            optimizer.load_state_dict({**state, "state": sharded_state})


def optimizer_params(optimizer: Optimizer) -> list[DTensor]:
    """Return an optimizer's parameters in the order in which its state numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def gather_full_tensor(shard: DTensor, strides: tuple[int, ...]) -> Tensor | None:
    """Gather a tensor from its shards; a collective operation, which all processes have to call.

    Args:
        shard: this process's shard.
        strides: of the result; fused optimizers require that their state is laid out in memory as the parameter is.

    Returns:
        The full tensor in the first process, None in the others.
    """
    full = shard.full_tensor()
    return torch.empty_strided(full.shape, strides, dtype=full.dtype).copy_(full) if is_rank_zero() else None


def shard_like(full: Tensor, parameter: DTensor) -> Tensor:
    """Return this process's shard of a full tensor, sharded as the parameter is.

    A tensor of another shape, such as an optimizer's step count, is returned as it is.
    """
    if full.shape != parameter.shape:
        return full
    shard = distribute_tensor(full, parameter.device_mesh, parameter.placements, src_data_rank=None)
    return torch.empty_like(parameter).copy_(shard)  # a copy, which does not keep the full tensor in memory


def check_fsdp(config: DictConfig, task: Task) -> None:
    """Check that everything in a run works on shards.

    Raises:
        ConfigError: if the optimizer or a callback needs full tensors, or a parameter is a scalar.
    """
    target = config.optimizer._target_
    if target.rpartition(".")[2] not in SHARDED_OPTIMIZERS:
        raise ConfigError(
            f"optimizer._target_={target} cannot update sharded weights, as trainer.strategy=fsdp has: use "
            f"optimizer={' or '.join(SHARDED_OPTIMIZERS)}, or trainer.strategy=ddp"
        )
    for name, node in (config.callbacks or {}).items():
        if node is not None and node._target_.endswith(".EMAWeightAveraging"):
            raise ConfigError(
                f"callbacks.{name} cannot average sharded weights, as trainer.strategy=fsdp has: use "
                f"callbacks.{name}=null, or trainer.strategy=ddp"
            )
    for name, parameter in task.model.named_parameters():
        if not parameter.ndim:
            raise ConfigError(
                f"trainer.strategy=fsdp cannot shard {name} of {type(task.model).__name__}, which is a scalar: "
                "use trainer.strategy=ddp"
            )

"""Optimizers, each a function of a module.

A module, unlike a list of parameters, tells matrices from vectors: weight decay is for matrices and convolutions alone,
never for biases, norms or positional embeddings, and Muon is for hidden matrices alone.
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Annotated, Any

import torch
from annotated_types import Interval, Len
from einops import rearrange
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw as functional_adamw

Momentum = Annotated[float, Interval(ge=0, lt=1)]
Betas = Annotated[list[Momentum], Len(2, 2)]

MAX_BLOCKS = 4  # square blocks in one weight at most: an MLP's hidden layer is usually four times as wide as its input


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two parameter groups: the weights of linear and convolutional layers, which decay, and all others."""
    decayed_ids = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) in decayed_ids], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed_ids], "weight_decay": 0.0},
    ]


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """Return the learning rates of an optimizer by the name that they are logged under.

    It is `lr` if all parameter groups begin with the same one, otherwise `lr/<name>` for each of the optimizer's
    `group_names`, or the number of the group.
    """
    groups = optimizer.param_groups
    if len({group.get("initial_lr", group["lr"]) for group in groups}) == 1:
        return {"lr": groups[0]["lr"]}
    names = getattr(optimizer, "group_names", range(len(groups)))
    return {f"lr/{name}": group["lr"] for name, group in zip(names, groups, strict=True)}


def adamw(module: nn.Module, *, lr: PositiveFloat, betas: Betas, weight_decay: NonNegativeFloat) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101).

    Args:
        module: the model to optimize.
        lr: learning rate.
        betas: decay rates of the running means of gradients and of their squares.
        weight_decay: decoupled weight decay of the weights of linear and convolutional layers.
    """
    return torch.optim.AdamW(decay_groups(module, weight_decay), lr=lr, betas=(betas[0], betas[1]), fused=True)


def adam(module: nn.Module, *, lr: PositiveFloat, betas: Betas, weight_decay: NonNegativeFloat) -> Optimizer:
    """Adam (Kingma and Ba 2015, https://arxiv.org/abs/1412.6980); its decay is an L2 penalty on all parameters.

    Args:
        module: the model to optimize.
        lr: learning rate.
        betas: decay rates of the running means of gradients and of their squares.
        weight_decay: factor of the L2 penalty.
    """
    return torch.optim.Adam(
        module.parameters(), lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay, fused=True
    )


def sgd(
    module: nn.Module, *, lr: PositiveFloat, momentum: Momentum, weight_decay: NonNegativeFloat, nesterov: bool
) -> Optimizer:
    """Stochastic gradient descent with momentum.

    Args:
        module: the model to optimize.
        lr: learning rate.
        momentum: decay rate of the running sum of gradients; 0 for none.
        weight_decay: L2 penalty on the weights of linear and convolutional layers.
        nesterov: whether the gradient is that of a step ahead (Nesterov momentum).

    Raises:
        ValueError: if `nesterov` is true and `momentum` is 0.
    """
    if nesterov and not momentum:
        raise ValueError("momentum=0 is not allowed with nesterov=true: use a momentum above 0, or nesterov=false")
    return torch.optim.SGD(decay_groups(module, weight_decay), lr=lr, momentum=momentum, nesterov=nesterov, fused=True)


class MuonWithAdamW(Optimizer):
    """Muon for the hidden matrices, AdamW for all other parameters (Jordan 2024, https://kellerjordan.github.io/posts/muon).

    1. Hidden matrices are the weights of linear and convolutional layers, except the network's first layer, embeddings
       and every layer named `head`.
    2. Their gradients get Nesterov momentum. A filter bank is one matrix (out, in · height · width); a linear weight
       that joins several square matrices, such as keys and values or an MLP's hidden layer, is updated block by block.
    3. Each update is replaced by the nearest semi-orthogonal matrix, approximated by five Newton-Schulz steps.
    4. It is scaled by √max(1, rows / columns). Weight decay is decoupled.

    `torch.optim.Muon` accepts 2-D weights only and rejects all others, so that it leaves filters and square blocks out
    and needs a second optimizer beside it; it iterates in bfloat16, and on one matrix at a time. This one iterates in
    the dtype of the weights and batches all blocks of the same shape into one product, which many small matrices need.

    Args:
        module: the model to optimize; its layers decide which parameters Muon updates.
        lr: learning rate of Muon.
        momentum: decay rate of Muon's running mean of gradients.
        weight_decay: decoupled weight decay of the hidden matrices.
        adamw_lr: learning rate of AdamW.
        adamw_betas: decay rates of AdamW's running means of gradients and of their squares.
        adamw_weight_decay: weight decay of AdamW, on the remaining matrices and filters only.
    """

    group_names = ("muon", "adamw", "adamw")  # not in the groups: checkpoints would hold them

    def __init__(
        self,
        module: nn.Module,
        *,
        lr: PositiveFloat,
        momentum: Momentum,
        weight_decay: NonNegativeFloat,
        adamw_lr: PositiveFloat,
        adamw_betas: Betas,
        adamw_weight_decay: NonNegativeFloat,
    ) -> None:
        hidden = self.hidden_matrices(module)
        hidden_ids = {id(weight) for weight in hidden}
        rest = []
        for group in decay_groups(module, adamw_weight_decay):
            others = [parameter for parameter in group["params"] if id(parameter) not in hidden_ids]
            rest.append({**group, "params": others, "lr": adamw_lr, "muon": False, "fused": True})
        super().__init__(
            [{"params": hidden, "lr": lr, "weight_decay": weight_decay, "muon": True}, *rest],
            {"momentum": momentum, "betas": tuple(adamw_betas)},
        )

    @staticmethod
    def hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
        """Return the weights of linear and convolutional layers except the first layer, embeddings and each `head`."""
        kinds = nn.Linear | nn.Conv2d | nn.Embedding
        layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, kinds)]
        return [
            layer.get_parameter("weight")
            for name, layer in layers[1:]
            if not isinstance(layer, nn.Embedding) and name.rpartition(".")[2] != "head"
        ]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have a gradient; return the loss of `closure`, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            if group["muon"]:
                self.muon_step(parameters, group)
            else:
                self.adamw_step(parameters, group)
        return loss

    def muon_step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update hidden matrices; all of them have a gradient."""
        grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        updates = [split_square_blocks(update) for update in torch._foreach_lerp(grads, momenta, group["momentum"])]
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        by_shape: dict[torch.Size, list[int]] = defaultdict(list)
        for index, update in enumerate(updates):
            by_shape[update.shape[1:]].append(index)
        for (rows, columns), indices in by_shape.items():
            blocks = orthogonalize(torch.cat([updates[index] for index in indices])) * max(1, rows / columns) ** 0.5
            num_blocks = [len(updates[index]) for index in indices]
            for index, update in zip(indices, blocks.split(num_blocks), strict=True):
                parameters[index].sub_(merge_square_blocks(update, parameters[index].shape), alpha=group["lr"])

    def adamw_step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Update all other parameters; all of them have a gradient."""
        states = [self.state[parameter] for parameter in parameters]
        for state, parameter in zip(states, parameters, strict=True):
            if not state:
                state.update(
                    step=torch.zeros((), device=parameter.device),
                    exp_avg=torch.zeros_like(parameter),
                    exp_avg_sq=torch.zeros_like(parameter),
                )
        functional_adamw(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )


def split_square_blocks(weight: Tensor) -> Tensor:
    """View a weight as matrices (n, rows, columns): as one matrix, or as the square blocks that it joins.

    A filter bank (out, in, height, width) is one matrix; a linear weight is split if its longer side is up to
    `MAX_BLOCKS` times its shorter one and divisible by it.
    """
    if weight.ndim == 4:
        return rearrange(weight, "o i h w -> 1 o (h w i)")  # a view, not a copy, of channels-last weights
    rows, columns = weight.shape
    if max(rows, columns) > MAX_BLOCKS * min(rows, columns):
        return weight[None]
    if rows % columns == 0:
        return rearrange(weight, "(n r) c -> n r c", c=columns, r=columns)
    if columns % rows == 0:
        return rearrange(weight, "r (n c) -> n r c", r=rows, c=rows)
    return weight[None]


def merge_square_blocks(blocks: Tensor, shape: torch.Size) -> Tensor:
    """Merge matrices (n, rows, columns) into a weight of this shape: the inverse of `split_square_blocks`."""
    if len(shape) == 4:
        return rearrange(blocks, "1 o (h w i) -> o i h w", h=shape[2], w=shape[3])
    return rearrange(blocks, "n r c -> (n r) c" if shape[0] >= shape[1] else "n r c -> r (n c)")


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of matrices (n, rows, columns) near to 1 by `steps` ≥ 1 quintic Newton-Schulz steps.

    X → aX + b(XXᵀ)X + c(XXᵀ)²X. All factors are polynomials of the small Gram matrix XXᵀ and commute, so that the
    iteration runs on it alone and the long side is multiplied only twice.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = x @ x.mT
    identity = torch.eye(len(gram[0]), dtype=x.dtype, device=x.device)
    product = factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * identity
    for _ in range(steps - 1):
        gram = factor @ gram @ factor
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * identity
        product = factor @ product
    x = product @ x
    return x.mT if tall else x

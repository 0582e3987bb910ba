"""Optimizers and schedules.

An optimizer here is a function of a module, so that it can treat matrices and vectors as they ought to be treated:
weight decay is for matrices and convolutions alone, never for biases, norms or positions, and Muon is for hidden
matrices alone. A schedule is a function of an optimizer and the number of its steps.
"""

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Annotated, Any

import torch
from annotated_types import Ge, Interval, Le, Len
from einops import rearrange
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adamw import adamw as adamw_update
from torch.optim.lr_scheduler import LambdaLR

Fraction = Annotated[float, Ge(0), Le(1)]
Momentum = Annotated[float, Interval(ge=0, lt=1)]
Betas = Annotated[list[Momentum], Len(2, 2)]

JOINED = 4  # square matrices in one weight at most, as an MLP four times as wide as its input has


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split a module's parameters: linear layers' matrices and filters decay, and nothing else does."""
    decaying = {id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) in decaying], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in decaying], "weight_decay": 0.0},
    ]


def adamw(module: nn.Module, *, lr: PositiveFloat, betas: Betas, weight_decay: NonNegativeFloat) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101)."""
    return torch.optim.AdamW(decay_groups(module, weight_decay), lr=lr, betas=(betas[0], betas[1]), fused=True)


def adam(module: nn.Module, *, lr: PositiveFloat, betas: Betas, weight_decay: NonNegativeFloat) -> Optimizer:
    """Adam (Kingma and Ba 2015, https://arxiv.org/abs/1412.6980); its decay is an L2 penalty on all parameters."""
    return torch.optim.Adam(
        module.parameters(), lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay, fused=True
    )


def sgd(
    module: nn.Module, *, lr: PositiveFloat, momentum: Momentum, weight_decay: NonNegativeFloat, nesterov: bool
) -> Optimizer:
    """Stochastic gradient descent with momentum.

    Raises:
        ValueError: if `nesterov` is asked for without momentum.
    """
    if nesterov and not momentum:
        raise ValueError("momentum=0 is not allowed with nesterov=true: use a momentum above 0, or nesterov=false")
    return torch.optim.SGD(decay_groups(module, weight_decay), lr=lr, momentum=momentum, nesterov=nesterov, fused=True)


class Muon(Optimizer):
    """Momentum made orthogonal for the hidden matrices, AdamW for the rest (Jordan 2024).

    1. Hidden matrices are the weights of linear layers and the filters of convolutions, but for the network's first
       layer, embeddings and every `head`.
    2. Nesterov momentum. Filters count as one matrix (out, in · height · width); a linear layer that joins several
       square matrices, as keys with values or an MLP's hidden units, counts as these.
    3. Each update becomes the nearest semi-orthogonal matrix, by five Newton-Schulz steps; all matrices of one shape
       are done in one batched product.
    4. It is scaled by √max(1, rows/columns); weight decay is decoupled.

    Source: https://kellerjordan.github.io/posts/muon
    """

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
        kinds = nn.Linear | nn.Conv2d | nn.Embedding
        layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, kinds)]
        hidden = [
            layer.weight
            for name, layer in layers[1:]
            if not isinstance(layer, nn.Embedding) and name.rpartition(".")[2] != "head"
        ]
        muon_ids = {id(weight) for weight in hidden}
        rest = []
        for group in decay_groups(module, adamw_weight_decay):
            others = [parameter for parameter in group["params"] if id(parameter) not in muon_ids]
            rest.append({**group, "params": others, "lr": adamw_lr, "muon": False, "fused": True})
        super().__init__(
            [{"params": hidden, "lr": lr, "weight_decay": weight_decay, "muon": True}, *rest],
            {"momentum": momentum, "betas": tuple(adamw_betas)},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                (self.orthogonal_step if group["muon"] else self.adamw_step)(parameters, group)
        return loss

    def orthogonal_step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter]["momentum"] = torch.zeros_like(parameter)
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = [matrices(update) for update in torch._foreach_lerp(gradients, momenta, group["momentum"])]
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        by_shape: dict[torch.Size, list[int]] = defaultdict(list)
        for index, update in enumerate(updates):
            by_shape[update.shape[1:]].append(index)
        for (rows, columns), indices in by_shape.items():
            stack = orthogonalise(torch.cat([updates[index] for index in indices])) * max(1, rows / columns) ** 0.5
            for index, update in zip(indices, stack.split([len(updates[index]) for index in indices]), strict=True):
                parameters[index].sub_(joined(update, parameters[index].shape), alpha=group["lr"])

    def adamw_step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        states = [self.state[parameter] for parameter in parameters]
        for state, parameter in zip(states, parameters, strict=True):
            if not state:
                state.update(
                    step=torch.zeros((), device=parameter.device),
                    mean=torch.zeros_like(parameter),
                    square=torch.zeros_like(parameter),
                )
        adamw_update(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["mean"] for state in states],
            [state["square"] for state in states],
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


def matrices(weight: Tensor) -> Tensor:
    """View a weight as the matrices (n, rows, columns) that it is made of: one, or the squares that it joins."""
    if weight.ndim == 4:
        return rearrange(weight, "o i h w -> 1 o (h w i)")  # free of cost where channels come last
    rows, columns = weight.shape
    if max(rows, columns) > JOINED * min(rows, columns):
        return weight[None]
    if rows % columns == 0:
        return rearrange(weight, "(n r) c -> n r c", c=columns, r=columns)
    if columns % rows == 0:
        return rearrange(weight, "r (n c) -> n r c", r=rows, c=rows)
    return weight[None]


def joined(stack: Tensor, shape: torch.Size) -> Tensor:
    """Put matrices (n, rows, columns) together to a weight again: the inverse of `matrices`."""
    if len(shape) == 4:
        return rearrange(stack, "1 o (h w i) -> o i h w", h=shape[2], w=shape[3])
    return rearrange(stack, "n r c -> (n r) c" if shape[0] >= shape[1] else "n r c -> r (n c)")


def orthogonalise(stack: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of matrices (n, rows, columns) near to 1 by a quintic Newton-Schulz iteration.

    X → aX + b(XXᵀ)X + c(XXᵀ)²X. All factors are polynomials of the small Gram matrix XXᵀ and commute, so that the
    iteration runs on it alone and the long side is touched only twice.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = stack.shape[1] > stack.shape[2]
    x = stack.mT if tall else stack
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    gram = x @ x.mT
    identity = torch.eye(len(gram[0]), dtype=x.dtype, device=x.device)
    product = identity.expand_as(gram)
    for _ in range(steps):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c) + a * identity
        product = factor @ product
        gram = factor @ gram @ factor
    x = product @ x
    return x.mT if tall else x


def cosine(optimizer: Optimizer, steps: int, *, warmup: Fraction, final: Fraction) -> LambdaLR:
    """Linear warm-up over the share `warmup` of the steps, then a half cosine down to `final` of the learning rate."""

    def factor(step: int) -> float:
        start = warmup * steps
        if step < start:
            return (step + 1) / (start + 1)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, steps - start)))

    return LambdaLR(optimizer, factor)


def linear(optimizer: Optimizer, steps: int, *, warmup: Fraction, cooldown: Fraction) -> LambdaLR:
    """Follow a trapezoid: linear warm-up, plateau, linear cool-down to zero over the last `cooldown` of the steps."""

    def factor(step: int) -> float:
        up = (step + 1) / (warmup * steps + 1)
        down = (steps - step) / max(1, cooldown * steps)
        return max(0.0, min(1.0, up, down))

    return LambdaLR(optimizer, factor)


def step(optimizer: Optimizer, steps: int, *, milestones: list[Fraction], factor: Fraction) -> LambdaLR:
    """Multiply the learning rate by `factor` at each of `milestones`, which are shares of the steps."""
    return LambdaLR(optimizer, lambda now: factor ** sum(now >= milestone * steps for milestone in milestones))


def constant(optimizer: Optimizer, steps: int) -> LambdaLR:
    """Keep the same learning rate from the first step to the last."""
    return LambdaLR(optimizer, lambda step: 1.0)

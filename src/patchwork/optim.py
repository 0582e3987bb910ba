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
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

Fraction = Annotated[float, Ge(0), Le(1)]
Momentum = Annotated[float, Interval(ge=0, lt=1)]
Betas = Annotated[list[Momentum], Len(2, 2)]


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split a module's parameters into those that decay (matrices, filters) and those that don't (everything else)."""
    decaying = {
        id(layer.weight) for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding)
    }
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if id(p) in decaying], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in decaying], "weight_decay": 0.0},
    ]


def adamw(module: nn.Module, *, lr: PositiveFloat, betas: Betas, weight_decay: NonNegativeFloat) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101)."""
    return torch.optim.AdamW(decay_groups(module, weight_decay), lr=lr, betas=(betas[0], betas[1]), foreach=True)


def adam(module: nn.Module, *, lr: PositiveFloat, betas: Betas, weight_decay: NonNegativeFloat) -> Optimizer:
    """Adam (Kingma and Ba 2015, https://arxiv.org/abs/1412.6980); its decay is an L2 penalty on all parameters."""
    return torch.optim.Adam(
        module.parameters(), lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay, foreach=True
    )


def sgd(
    module: nn.Module, *, lr: PositiveFloat, momentum: Momentum, weight_decay: NonNegativeFloat, nesterov: bool
) -> Optimizer:
    """Stochastic gradient descent with momentum."""
    return torch.optim.SGD(
        decay_groups(module, weight_decay), lr=lr, momentum=momentum, nesterov=nesterov, foreach=True
    )


class Muon(Optimizer):
    """Momentum made orthogonal for the hidden matrices, AdamW for the rest (Jordan 2024, https://kellerjordan.github.io/posts/muon).

    1. Hidden matrices are the weights of linear layers and filters of convolutions, but for the first layer of the
       network's stem, embeddings and its head, as Jordan advises.
    2. Nesterov momentum; filters are flattened to (out, in · height · width).
    3. Each update is replaced by the nearest semi-orthogonal matrix, by five Newton-Schulz steps; matrices of one shape
       are done together in one batched product.
    4. It is scaled by √max(1, rows/columns), decays its weight, and is added.
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
    ) -> None:
        layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
        hidden = [layer.weight for layer in layers[1:] if layer is not getattr(module, "head", None)]
        muon_ids = {id(weight) for weight in hidden}
        rest = []
        for group in decay_groups(module, weight_decay):
            others = [parameter for parameter in group["params"] if id(parameter) not in muon_ids]
            rest.append({**group, "params": others, "lr": adamw_lr, "muon": False})
        super().__init__(
            [{"params": hidden, "lr": lr, "weight_decay": weight_decay, "muon": True}, *rest],
            {"momentum": momentum, "betas": tuple(adamw_betas)},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                (self.orthogonal_step if group["muon"] else self.adamw_step)(parameters, group)
        return loss

    def orthogonal_step(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters]
        momenta = [self.state[parameter].setdefault("momentum", torch.zeros_like(parameter)) for parameter in parameters]
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])
        torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for index, update in enumerate(updates):
            by_shape[(len(update), update[0].numel())].append(index)
        for (rows, columns), indices in by_shape.items():
            stack = torch.stack([updates[index].view(rows, columns) for index in indices])  # (n, rows, columns)
            orthogonal = orthogonalise(stack) * (max(1, rows / columns) ** 0.5)
            for index, update in zip(indices, orthogonal.unbind(), strict=True):
                parameters[index].add_(update.view_as(parameters[index]), alpha=-group["lr"])

    def adamw_step(self, parameters: list[nn.Parameter], group: dict[str, Any]) -> None:
        states = [self.state[parameter] for parameter in parameters]
        for state, parameter in zip(states, parameters, strict=True):
            if not state:
                state.update(step=torch.tensor(0.0), mean=torch.zeros_like(parameter), square=torch.zeros_like(parameter))
        torch.optim._functional.adamw(
            parameters,
            [parameter.grad for parameter in parameters],
            [state["mean"] for state in states],
            [state["square"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Bring the singular values of matrices (n, rows, columns) near to 1 by a quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def muon(
    module: nn.Module,
    *,
    lr: PositiveFloat,
    momentum: Momentum,
    weight_decay: NonNegativeFloat,
    adamw_lr: PositiveFloat,
    adamw_betas: Betas,
) -> Optimizer:
    """Muon for hidden matrices, AdamW for the rest."""
    return Muon(
        module, lr=lr, momentum=momentum, weight_decay=weight_decay, adamw_lr=adamw_lr, adamw_betas=adamw_betas
    )


def cosine(optimizer: Optimizer, steps: int, *, warmup: Fraction, final: Fraction) -> LambdaLR:
    """Linear warm-up over the share `warmup` of the steps, then a half cosine down to `final` of the learning rate."""

    def factor(step: int) -> float:
        start = warmup * steps
        if step < start:
            return (step + 1) / (start + 1)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (step - start) / max(1, steps - start)))

    return LambdaLR(optimizer, factor)


def linear(optimizer: Optimizer, steps: int, *, warmup: Fraction, cooldown: Fraction) -> LambdaLR:
    """A trapezoid: linear warm-up, a plateau, and a linear cool-down to zero over the share `cooldown` of the steps."""

    def factor(step: int) -> float:
        up = (step + 1) / (warmup * steps + 1)
        down = (steps - step) / max(1, cooldown * steps)
        return max(0.0, min(1.0, up, down))

    return LambdaLR(optimizer, factor)


def constant(optimizer: Optimizer, steps: int) -> LambdaLR:
    """The same learning rate from the first step to the last."""
    return LambdaLR(optimizer, lambda step: 1.0)

"""Optimizers against plain references of themselves, what they decay, how they resume; and the shapes of schedules."""

import io
import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from patchwork.models import EncoderDecoder
from patchwork.optim import (
    JOINED,
    Muon,
    adam,
    adamw,
    constant,
    cosine,
    joined,
    linear,
    matrices,
    orthogonalise,
    sgd,
    step,
)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
LR, DECAY = 0.1, 0.5
MAKERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "adamw": partial(adamw, lr=LR, betas=[0.9, 0.98], weight_decay=DECAY),
    "sgd": partial(sgd, lr=LR, momentum=0.9, weight_decay=DECAY, nesterov=True),
    "muon": partial(
        Muon, lr=LR, momentum=0.9, weight_decay=DECAY, adamw_lr=LR, adamw_betas=[0.9, 0.98], adamw_weight_decay=DECAY
    ),
    "adam": partial(adam, lr=LR, betas=[0.9, 0.98], weight_decay=0.0),
}
makers = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def network(device: str = "cpu") -> EncoderDecoder:
    """Give a network that has every kind of parameter: filters, matrices, biases, norms, embeddings, positions."""
    stem = [{"channels": 4, "kernel": 3, "pool": 2}, {"channels": 6, "kernel": 1}]  # wide and tall
    sizes = {"rows": 2, "cols": 2, "cell_size": 4, "patch_size": 4, "embed_dim": 8, "num_heads": 2}
    return EncoderDecoder(**sizes, num_classes=5, stem=stem).to(device)


def matrices_of(module: nn.Module) -> set[str]:
    """Name the weights of linear layers and convolutions."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    return {f"{name}.weight" for name in layers}


def drive(module: nn.Module, optimizer: Optimizer, steps: range) -> None:
    """Take steps along gradients that depend on the number of the step alone."""
    for number in steps:
        random = torch.Generator().manual_seed(number)
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=random)
            parameter.grad = torch.empty_like(parameter).copy_(noise)
        optimizer.step()


# --- which parameter is treated how ----------------------------------------------------------------------------------


@makers
def test_every_parameter_is_in_exactly_one_group(make: Callable[[nn.Module], Optimizer]) -> None:
    model = network()
    ids = [id(parameter) for group in make(model).param_groups for parameter in group["params"]]
    assert sorted(ids) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_decay_shrinks_the_weights_of_linear_layers_and_convolutions_alone(name: str) -> None:
    model = network()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(0.5, 1.5)  # so that all could shrink
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    MAKERS[name](model).step()
    momentum = 1.9 if name == "sgd" else 1.0  # Nesterov adds the decay to the gradient, and 0.9 of it once more
    for key, parameter in model.named_parameters():
        factor = 1 - LR * DECAY * momentum if key in matrices_of(model) else 1.0
        torch.testing.assert_close(parameter.detach(), before[key] * factor, rtol=1e-6, atol=0, msg=key)


def test_muon_is_for_hidden_matrices_alone() -> None:
    model = network()
    optimizer = MAKERS["muon"](model)
    hidden = {id(p) for group in optimizer.param_groups if group["muon"] for p in group["params"]}
    expected = matrices_of(model) - {"patch_embed.stem.0.weight", "head.weight"}  # the first layer and the last
    assert {name for name, parameter in model.named_parameters() if id(parameter) in hidden} == expected


@makers
def test_what_has_no_gradient_stays(make: Callable[[nn.Module], Optimizer]) -> None:
    model = network()
    frozen = {"head.weight", "encoder.0.attn.proj.weight", "token_embed.weight"}
    optimizer, before = make(model), {name: value.detach().clone() for name, value in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.grad = None if name in frozen else torch.ones_like(parameter)
    optimizer.step()
    assert {name for name, value in model.named_parameters() if torch.equal(value, before[name])} == frozen


@makers
@pytest.mark.parametrize("device", DEVICES)
def test_every_optimizer_learns(make: Callable[[nn.Module], Optimizer], device: str) -> None:
    model = network(device)
    optimizer = make(model)
    for group in optimizer.param_groups:
        group.update(lr=0.02, weight_decay=0.0)
    image, digits = torch.randn(8, 1, 8, 8, device=device), torch.randint(5, (8, 5), device=device)
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(image, digits).flatten(0, 1), digits.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


# --- Muon ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
def test_muons_adamw_is_adamw(device: str) -> None:
    model, other = network(device), network(device)
    other.load_state_dict(model.state_dict())
    muon = MAKERS["muon"](model)
    hidden = {id(p) for group in muon.param_groups if group["muon"] for p in group["params"]}
    rest = [name for name, parameter in model.named_parameters() if id(parameter) not in hidden]
    groups = [
        {"params": [other.get_parameter(name)], "weight_decay": DECAY * (name in matrices_of(other))} for name in rest
    ]
    adamw = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98))
    drive(model, muon, range(6))
    drive(other, adamw, range(6))
    for name in rest:
        torch.testing.assert_close(model.get_parameter(name), other.get_parameter(name), rtol=1e-5, atol=1e-6, msg=name)


def quintic(matrix: Tensor, steps: int = 5) -> Tensor:
    """Iterate on the matrix itself, as the source writes it."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    if len(x) > x.shape[1]:
        return quintic(matrix.T, steps).T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


SHAPES = [(8, 8), (3, 8), (8, 3), (16, 40), (40, 16), (1, 6), (6, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_orthogonalise_is_the_plain_quintic_iteration(shape: tuple[int, int], steps: int) -> None:
    stack = torch.randn(3, *shape, dtype=torch.float64)
    expected = torch.stack([quintic(matrix, steps) for matrix in stack])
    torch.testing.assert_close(orthogonalise(stack, steps), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(orthogonalise(stack.float(), steps).double(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", [*SHAPES, (64, 64), (64, 576), (256, 64)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_orthogonalised_singular_values_are_near_one(shape: tuple[int, int], scale: float) -> None:
    """Take matrices whose singular values span a factor of 30; their directions must stay."""
    left, _, right = torch.linalg.svd(torch.randn(4, *shape), full_matrices=False)
    values = torch.logspace(-1.5, 0, min(shape)).expand(4, -1)
    found = orthogonalise(left @ torch.diag_embed(scale * values) @ right)
    rotated = left.mT @ found @ right.mT  # diagonal if the directions are kept
    diagonal = rotated.diagonal(dim1=1, dim2=2)
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3
    torch.testing.assert_close(rotated, torch.diag_embed(diagonal), rtol=0, atol=2e-3)


def test_a_gradient_of_zero_gives_no_update() -> None:
    assert torch.equal(orthogonalise(torch.zeros(2, 4, 6)), torch.zeros(2, 4, 6))


WEIGHTS = [
    (8, 8),
    (8, 16),
    (24, 8),
    (6, 4),
    (4, 6),
    (1, 5),
    (5, 1),
    (4, 3, 3, 3),
    (3, 4, 1, 1),
    (2, 8, 5, 3),
    (8, 1, 2, 2),
]


@pytest.mark.parametrize("shape", WEIGHTS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_matrices_and_joined_are_inverse(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    weight = torch.randn(shape)
    weight = weight.contiguous(memory_format=layout) if len(shape) == 4 else weight
    stack = matrices(weight)
    assert torch.equal(joined(stack, weight.shape), weight)
    assert sorted(stack.flatten()) == sorted(weight.flatten())
    if len(shape) == 4:
        assert stack.shape == (1, shape[0], math.prod(shape[1:]))
        assert torch.equal(stack[0].sort(dim=1).values, weight.flatten(1).sort(dim=1).values)  # a row is a filter
    elif max(shape) % min(shape) == 0 and max(shape) <= JOINED * min(shape):
        assert stack.shape == (max(shape) // min(shape), min(shape), min(shape))
    else:
        assert torch.equal(stack[0], weight)


def plain_parts(weight: Tensor) -> list[Tensor]:
    """Cut a weight as the docstring of Muon says, by slices that can be written to."""
    if weight.ndim == 4:
        return [weight.flatten(1)]  # the order of columns does not change the iteration
    rows, columns = weight.shape
    if rows % columns == 0:
        return [weight[start : start + columns] for start in range(0, rows, columns)]
    if columns % rows == 0:
        return [weight[:, start : start + rows] for start in range(0, columns, rows)]
    return [weight]


def test_muon_steps_as_a_plain_reference_for_each_matrix() -> None:
    model = network()
    optimizer = MAKERS["muon"](model)
    hidden = {id(p) for group in optimizer.param_groups if group["muon"] for p in group["params"]}
    chosen = {name: p for name, p in model.named_parameters() if id(p) in hidden}
    expected = {
        name: parameter.detach().double().clone(memory_format=torch.contiguous_format)
        for name, parameter in chosen.items()
    }
    momenta = {name: torch.zeros_like(weight) for name, weight in expected.items()}
    for number in range(3):
        drive(model, optimizer, range(number, number + 1))
        for name, weight in expected.items():
            gradient = chosen[name].grad.double().contiguous()
            momenta[name] = 0.9 * momenta[name] + 0.1 * gradient
            nesterov = 0.1 * gradient + 0.9 * momenta[name]
            weight *= 1 - LR * DECAY
            for target, update in zip(plain_parts(weight), plain_parts(nesterov), strict=True):
                target -= LR * max(1, update.shape[0] / update.shape[1]) ** 0.5 * quintic(update)
        for name, weight in expected.items():
            torch.testing.assert_close(chosen[name].detach().double(), weight, rtol=0, atol=2e-3, msg=name)
    assert {weight.ndim for weight in expected.values()} == {2, 4}


def test_muon_takes_a_closure() -> None:
    layer = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = MAKERS["muon"](layer)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = layer(torch.ones(1, 2)).square().sum()
        loss.backward()
        return loss

    before = layer[1].weight.detach().clone()
    assert optimizer.step(closure).requires_grad
    assert not torch.equal(layer[1].weight, before)


# --- resuming --------------------------------------------------------------------------------------------------------


@makers
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_an_optimizer_read_from_a_file_goes_on_in_the_same_way(
    make: Callable[[nn.Module], Optimizer], device: str, layout: torch.memory_format
) -> None:
    model = network(device).to(memory_format=layout)
    optimizer = make(model)
    drive(model, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    kept: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    resumed = network(device).to(memory_format=layout)
    resumed.load_state_dict(kept["model"])
    again = make(resumed)
    again.load_state_dict(kept["optimizer"])
    drive(model, optimizer, range(3, 6))
    drive(resumed, again, range(3, 6))
    for (name, expected), found in zip(model.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(found, expected), name


# --- schedules -------------------------------------------------------------------------------------------------------


def factors(schedule: Callable[[Optimizer, int], Any], steps: int) -> list[float]:
    """Give the factor of the learning rate at each step, and the one after the last."""
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": 0.5}, {"params": [torch.zeros(1)], "lr": 4.0}])
    scheduler, found = schedule(optimizer, steps), []
    for _ in range(steps + 1):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert second == pytest.approx(8 * first)  # groups keep their proportion
        found.append(first / 0.5)
        optimizer.step()
        scheduler.step()
    return found


every_length = pytest.mark.parametrize("steps", [1, 2, 7, 100, 333])
shares = [0.0, 0.1, 0.25, 0.5, 1.0]


@every_length
@pytest.mark.parametrize("warmup", shares)
@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
def test_cosine_rises_once_falls_once_and_ends_at_its_final_share(steps: int, warmup: float, final: float) -> None:
    found = factors(partial(cosine, warmup=warmup, final=final), steps)
    top = max(range(len(found)), key=found.__getitem__)
    assert all(0 <= factor <= 1 for factor in found)
    assert all(a < b for a, b in pairwise(found[: top + 1]))
    assert all(a >= b for a, b in pairwise(found[top:]))
    assert found[0] == pytest.approx(1 / (warmup * steps + 1))
    assert abs(top - warmup * steps) <= 1
    assert found[top] > 0.9 or steps < 10 or warmup == 1
    if steps * (1 - warmup) >= 1:
        assert found[-1] == pytest.approx(final, abs=1e-12)


@every_length
@pytest.mark.parametrize("final", [0.0, 0.3])
def test_a_cosine_without_warm_up_is_symmetric(steps: int, final: float) -> None:
    found = factors(partial(cosine, warmup=0.0, final=final), steps)
    for early, late in zip(found, reversed(found), strict=True):
        assert early + late == pytest.approx(1 + final)
    assert sum(found[:-1]) == pytest.approx(steps * (1 + final) / 2 + (1 - final) / 2)


@every_length
@pytest.mark.parametrize("warmup", shares)
@pytest.mark.parametrize("cooldown", shares)
def test_linear_is_a_trapezoid_that_ends_at_zero(steps: int, warmup: float, cooldown: float) -> None:
    found = factors(partial(linear, warmup=warmup, cooldown=cooldown), steps)
    assert all(0 <= factor <= 1 for factor in found)
    assert found[-1] == 0
    assert 0 < found[0] <= 1 / (warmup * steps + 1) + 1e-12
    changes = [b - a for a, b in pairwise(found)]
    assert [change < -1e-12 for change in changes] == sorted(change < -1e-12 for change in changes)  # never up again
    assert len({round(change, 9) for change in changes}) <= 5  # three straight lines, whose corners fall between steps
    if warmup + cooldown <= 1:
        plateau = found[math.ceil(warmup * steps) : min(steps, math.floor((1 - cooldown) * steps + 1e-9) + 1)]
        assert plateau == pytest.approx([1.0] * len(plateau))


@every_length
def test_constant_is_constant(steps: int) -> None:
    assert set(factors(constant, steps)) == {1.0}


def test_step_cuts_at_its_milestones() -> None:
    module = nn.Linear(2, 2)
    optimizer = sgd(module, lr=1.0, momentum=0.0, weight_decay=0.0, nesterov=False)
    schedule = step(optimizer, 10, milestones=[0.6, 0.8], factor=0.1)
    rates = []
    for _ in range(10):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([1.0] * 6 + [0.1] * 2 + [0.01] * 2)

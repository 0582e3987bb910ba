"""Optimizers against plain references: weight decay, Muon's matrices and updates, and exact resume."""

import io
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import Optimizer

from patchwork.models import EncoderDecoder
from patchwork.models.patch_embed import ConvStem
from patchwork.training.optimizers import (
    MAX_BLOCKS,
    MuonWithAdamW,
    adam,
    adamw,
    merge_square_blocks,
    orthogonalize,
    sgd,
    split_square_blocks,
)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
LR, WEIGHT_DECAY = 0.1, 0.5
OPTIMIZERS: dict[str, Callable[[nn.Module], Optimizer]] = {
    "adamw": partial(adamw, lr=LR, betas=[0.9, 0.98], weight_decay=WEIGHT_DECAY),
    "sgd": partial(sgd, lr=LR, momentum=0.9, weight_decay=WEIGHT_DECAY, nesterov=True),
    "muon": partial(
        MuonWithAdamW,
        lr=LR,
        momentum=0.9,
        weight_decay=WEIGHT_DECAY,
        adamw_lr=LR,
        adamw_betas=[0.9, 0.98],
        adamw_weight_decay=WEIGHT_DECAY,
    ),
    "adam": partial(adam, lr=LR, betas=[0.9, 0.98], weight_decay=0.0),
}
every_optimizer = pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def make_model(device: str = "cpu") -> EncoderDecoder:
    """Return a model with all kinds of parameters: filters, matrices, biases, norms, embeddings and positions."""
    stem = ConvStem(layers=[{"channels": 4, "kernel": 3, "pool": 2}, {"channels": 6, "kernel": 1}])  # wide and tall
    sizes = {"rows": 2, "cols": 2, "cell_size": 4, "patch_size": 4, "embed_dim": 8, "num_heads": 2}
    return EncoderDecoder(**sizes, num_classes=5, stem=stem).to(device)


def matrix_names(module: nn.Module) -> set[str]:
    """Return the names of the weights of linear and convolutional layers."""
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    return {f"{name}.weight" for name in layers}


def muon_names(model: nn.Module, optimizer: Optimizer) -> set[str]:
    """Return the names of the parameters that Muon updates."""
    ids = {id(parameter) for group in optimizer.param_groups if group["muon"] for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in ids}


def take_steps(module: nn.Module, optimizer: Optimizer, steps: range) -> None:
    """Take steps along random gradients, which depend on the number of the step only."""
    for number in steps:
        rng = torch.Generator().manual_seed(number)
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=rng)
            parameter.grad = torch.empty_like(parameter).copy_(noise)
        optimizer.step()


# --- parameter groups ------------------------------------------------------------------------------------------------


@every_optimizer
def test_every_parameter_is_in_exactly_one_group(make_optimizer: Callable[[nn.Module], Optimizer]) -> None:
    model = make_model()
    ids = [id(parameter) for group in make_optimizer(model).param_groups for parameter in group["params"]]
    assert sorted(ids) == sorted(map(id, model.parameters()))


@pytest.mark.parametrize("name", ["adamw", "sgd", "muon"])
def test_weight_decay_shrinks_linear_and_convolutional_weights_only(name: str) -> None:
    model = make_model()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(0.5, 1.5)  # so that all of them could shrink
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    OPTIMIZERS[name](model).step()
    momentum = 1.9 if name == "sgd" else 1.0  # Nesterov adds the decay to the gradient, and 0.9 of it once more
    for key, parameter in model.named_parameters():
        factor = 1 - LR * WEIGHT_DECAY * momentum if key in matrix_names(model) else 1.0
        torch.testing.assert_close(parameter.detach(), before[key] * factor, rtol=1e-6, atol=0, msg=key)


def test_muon_updates_hidden_matrices_only() -> None:
    model = make_model()
    first_and_last = {"patch_embed.stem.0.weight", "head.weight"}
    assert muon_names(model, OPTIMIZERS["muon"](model)) == matrix_names(model) - first_and_last


@every_optimizer
def test_parameters_without_gradient_do_not_change(make_optimizer: Callable[[nn.Module], Optimizer]) -> None:
    model = make_model()
    frozen = {"head.weight", "encoder.0.attn.proj.weight", "token_embed.weight"}
    optimizer = make_optimizer(model)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.grad = None if name in frozen else torch.ones_like(parameter)
    optimizer.step()
    unchanged = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    assert unchanged == frozen


@every_optimizer
@pytest.mark.parametrize("device", DEVICES)
def test_every_optimizer_reduces_the_loss(make_optimizer: Callable[[nn.Module], Optimizer], device: str) -> None:
    model = make_model(device)
    optimizer = make_optimizer(model)
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
def test_muon_updates_the_other_parameters_by_adamw(device: str) -> None:
    model, expected = make_model(device), make_model(device)
    expected.load_state_dict(model.state_dict())
    muon = OPTIMIZERS["muon"](model)
    others = [name for name, _ in model.named_parameters() if name not in muon_names(model, muon)]
    groups = [
        {"params": [expected.get_parameter(name)], "weight_decay": WEIGHT_DECAY * (name in matrix_names(expected))}
        for name in others
    ]
    take_steps(model, muon, range(6))
    take_steps(expected, torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98)), range(6))
    for name in others:
        torch.testing.assert_close(
            model.get_parameter(name), expected.get_parameter(name), rtol=1e-5, atol=1e-6, msg=name
        )


def newton_schulz(matrix: Tensor, steps: int = 5) -> Tensor:
    """Return the quintic iteration on the matrix itself, as the source writes it."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (matrix.norm() + 1e-7)
    if len(x) > x.shape[1]:
        return newton_schulz(matrix.T, steps).T
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


SHAPES = [(8, 8), (3, 8), (8, 3), (16, 40), (40, 16), (1, 6), (6, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_orthogonalize_equals_the_plain_newton_schulz_iteration(shape: tuple[int, int], steps: int) -> None:
    matrices = torch.randn(3, *shape, dtype=torch.float64)
    expected = torch.stack([newton_schulz(matrix, steps) for matrix in matrices])
    torch.testing.assert_close(orthogonalize(matrices, steps), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(orthogonalize(matrices.float(), steps).double(), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("shape", [*SHAPES, (64, 64), (64, 576), (256, 64)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_orthogonalize_brings_singular_values_near_one(shape: tuple[int, int], scale: float) -> None:
    """The singular values of the matrices span a factor of 30; the singular vectors must not change."""
    u, _, v = torch.linalg.svd(torch.randn(4, *shape), full_matrices=False)
    singular_values = torch.logspace(-1.5, 0, min(shape)).expand(4, -1)
    result = orthogonalize(u @ torch.diag_embed(scale * singular_values) @ v)
    rotated = u.mT @ result @ v.mT  # diagonal if the singular vectors are the same
    diagonal = rotated.diagonal(dim1=1, dim2=2)
    assert diagonal.min() > 0.6
    assert diagonal.max() < 1.3
    torch.testing.assert_close(rotated, torch.diag_embed(diagonal), rtol=0, atol=2e-3)


def test_orthogonalize_maps_zero_gradients_to_zero() -> None:
    assert torch.equal(orthogonalize(torch.zeros(2, 4, 6)), torch.zeros(2, 4, 6))


sizes = st.integers(1, 9)
weight_shapes = st.one_of(
    st.tuples(sizes, sizes),
    st.tuples(sizes, st.integers(1, 6)).map(lambda pair: (pair[0], pair[0] * pair[1])),  # one side a multiple of the
    st.tuples(sizes, st.integers(1, 6)).map(lambda pair: (pair[0] * pair[1], pair[0])),  # other, beyond MAX_BLOCKS too
    st.tuples(sizes, sizes, st.integers(1, 5), st.integers(1, 5)),
)


@settings(max_examples=50, deadline=None)
@given(shape=weight_shapes, layout=st.sampled_from(LAYOUTS))
def test_merge_square_blocks_is_the_inverse_of_split_square_blocks(
    shape: tuple[int, ...], layout: torch.memory_format
) -> None:
    weight = torch.randn(shape)
    weight = weight.contiguous(memory_format=layout) if len(shape) == 4 else weight
    blocks = split_square_blocks(weight)
    assert torch.equal(merge_square_blocks(blocks, weight.shape), weight)
    assert torch.equal(blocks.flatten().sort().values, weight.flatten().sort().values)
    if len(shape) == 4:
        assert blocks.shape == (1, shape[0], math.prod(shape[1:]))
        assert torch.equal(blocks[0].sort(dim=1).values, weight.flatten(1).sort(dim=1).values)  # a row is a filter
    elif max(shape) % min(shape) == 0 and max(shape) <= MAX_BLOCKS * min(shape):
        assert blocks.shape == (max(shape) // min(shape), min(shape), min(shape))
    else:
        assert torch.equal(blocks[0], weight)


def sliced_blocks(weight: Tensor) -> list[Tensor]:
    """Split a weight into blocks as the docstring of Muon says, by slices that can be written to."""
    if weight.ndim == 4:
        return [weight.flatten(1)]  # the order of the columns does not change the iteration
    rows, columns = weight.shape
    if rows % columns == 0:
        return [weight[start : start + columns] for start in range(0, rows, columns)]
    if columns % rows == 0:
        return [weight[:, start : start + rows] for start in range(0, columns, rows)]
    return [weight]


def test_muon_step_equals_a_plain_reference_for_each_matrix() -> None:
    model = make_model()
    optimizer = OPTIMIZERS["muon"](model)
    hidden = {name: model.get_parameter(name) for name in muon_names(model, optimizer)}
    expected = {
        name: parameter.detach().double().clone(memory_format=torch.contiguous_format)
        for name, parameter in hidden.items()
    }
    momenta = {name: torch.zeros_like(weight) for name, weight in expected.items()}
    for number in range(3):
        take_steps(model, optimizer, range(number, number + 1))
        for name, weight in expected.items():
            grad = hidden[name].grad.double().contiguous()
            momenta[name] = 0.9 * momenta[name] + 0.1 * grad
            nesterov = 0.1 * grad + 0.9 * momenta[name]
            weight *= 1 - LR * WEIGHT_DECAY
            for block, update in zip(sliced_blocks(weight), sliced_blocks(nesterov), strict=True):
                block -= LR * max(1, update.shape[0] / update.shape[1]) ** 0.5 * newton_schulz(update)
        for name, weight in expected.items():
            torch.testing.assert_close(hidden[name].detach().double(), weight, rtol=0, atol=2e-3, msg=name)
    assert {weight.ndim for weight in expected.values()} == {2, 4}


def test_muon_evaluates_a_closure() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = OPTIMIZERS["muon"](model)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(1, 2)).square().sum()
        loss.backward()
        return loss

    before = model[1].weight.detach().clone()
    assert optimizer.step(closure).requires_grad
    assert not torch.equal(model[1].weight, before)


# --- resume ----------------------------------------------------------------------------------------------------------


@every_optimizer
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_optimizer_resumes_exactly_from_a_file(
    make_optimizer: Callable[[nn.Module], Optimizer], device: str, layout: torch.memory_format
) -> None:
    model = make_model(device).to(memory_format=layout)
    optimizer = make_optimizer(model)
    take_steps(model, optimizer, range(3))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    resumed_model = make_model(device).to(memory_format=layout)
    resumed_model.load_state_dict(state["model"])
    resumed_optimizer = make_optimizer(resumed_model)
    resumed_optimizer.load_state_dict(state["optimizer"])
    take_steps(model, optimizer, range(3, 6))
    take_steps(resumed_model, resumed_optimizer, range(3, 6))
    for (name, expected), parameter in zip(model.named_parameters(), resumed_model.parameters(), strict=True):
        assert torch.equal(parameter, expected), name

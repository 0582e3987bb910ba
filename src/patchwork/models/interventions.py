"""Look at activations inside a network, or replace them, at named points; the network itself stays as it is.

A point is a tensor that flows through a block. `B.` stands for a block's name, such as `blocks.0` or `decoder.0`:

- `B.input` (B, T, D): the stream before the block,
- `B.context` (B, S, D): what its cross-attention reads,
- `B.attn.heads`, `B.cross_attn.heads` (B, T, H, D/H): the output of each head, before they are combined,
- `B.attn`, `B.cross_attn`, `B.mlp` (B, T, D): what a sublayer adds to the stream,
- `B` (B, T, D): the stream after the block.

An attention layer outside of a block has its two points as well. Points are hooks of torch, which cost nothing where
there are none, and are removed at the end, after an exception, too.
"""

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from patchwork.models.transformer import Attention, Block

Edit = Callable[[Tensor], Tensor]


def point_names(model: nn.Module) -> list[str]:
    """Return the names of the points of a network, in the order of its modules."""
    names = []
    for path, module in model.named_modules():
        if isinstance(module, Block):
            names += [f"{path}.input", *([f"{path}.context"] if hasattr(module, "cross_attn") else [])]
            sublayers = [name for name in ("attn", "cross_attn", "mlp") if hasattr(module, name)]
            names += [f"{path}.{name}{part}" for name in sublayers for part in point_parts(name)]
            names.append(path)
        elif isinstance(module, Attention) and not isinstance(parent(model, path), Block):
            names += [f"{path}{part}" for part in point_parts("attn")]
    return names


def point_parts(sublayer: str) -> tuple[str, ...]:
    return ("",) if sublayer == "mlp" else (".heads", "")


def parent(model: nn.Module, path: str) -> nn.Module:
    return model.get_submodule(path.rpartition(".")[0])


@contextmanager
def intervene(model: nn.Module, edits: Mapping[str, Edit]) -> Iterator[None]:
    """Replace the activations at points of a network while the context is open.

    Args:
        model: the network.
        edits: functions by the name of a point; each maps the activation to the one that takes its place, of the same
            shape. Contexts can be nested: the edit of the outer one is applied first.

    Raises:
        ValueError: if there is no such point, or an edit changes a shape.
    """
    known = point_names(model)
    for name in edits:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            raise ValueError(
                f"{name} is not a point of this network" + (f" (did you mean {close[0]}?)" if close else "")
            )
    with ExitStack() as stack:
        for name, edit in edits.items():
            stack.callback(add_hook(model, name, edit).remove)
        yield


def add_hook(model: nn.Module, name: str, edit: Edit) -> RemovableHandle:
    """Apply an edit at a point from now on, until the handle is removed."""
    path, _, part = name.rpartition(".")
    if part == "heads":
        attention = model.get_submodule(path)
        assert isinstance(attention, Attention)
        return attention.proj.register_forward_pre_hook(partial(edit_heads, name, edit, attention.num_heads))
    if part == "input":
        return model.get_submodule(path).register_forward_pre_hook(partial(edit_input, name, edit))
    if part == "context":
        return model.get_submodule(path).register_forward_pre_hook(partial(edit_context, name, edit), with_kwargs=True)
    return model.get_submodule(name).register_forward_hook(partial(edit_output, name, edit))


def edit_heads(name: str, edit: Edit, num_heads: int, module: nn.Module, args: tuple[Tensor]) -> Tensor:
    heads = args[0].unflatten(-1, (num_heads, -1))  # (B, T, H, D/H)
    return apply(name, edit, heads).flatten(2)


def edit_input(name: str, edit: Edit, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (apply(name, edit, args[0]), *args[1:])


def edit_context(
    name: str, edit: Edit, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if "context" in kwargs:
        return args, {**kwargs, "context": apply(name, edit, kwargs["context"])}
    return (args[0], apply(name, edit, args[1]), *args[2:]), kwargs


def edit_output(name: str, edit: Edit, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
    return apply(name, edit, output)


def apply(name: str, edit: Edit, activation: Tensor) -> Tensor:
    edited = edit(activation)
    if edited.shape != activation.shape:
        raise ValueError(f"the edit of {name} returns {tuple(edited.shape)}, but it is {tuple(activation.shape)}")
    return edited


@contextmanager
def record_points(model: nn.Module, names: list[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Record the activations at points of a network while the context is open.

    Yields:
        A dictionary from the name of a point to its activations, one for each call; they are part of the graph.

    Raises:
        ValueError: if there is no such point.
    """
    recorded: dict[str, list[Tensor]] = {name: [] for name in names}

    def record(name: str, activation: Tensor) -> Tensor:
        recorded[name].append(activation)
        return activation

    with intervene(model, {name: partial(record, name) for name in names}):
        yield recorded


# --- edits -----------------------------------------------------------------------------------------------------------


def replace_with(replacement: Tensor, *, head: int | None = None, position: int | None = None) -> Edit:
    """Return an edit that puts a replacement in the place of an activation, of one head, or at one position.

    Args:
        replacement: an activation of the same shape, or one that broadcasts to it, such as a mean.
        head: the head to replace at a point `….heads`; None for all.
        position: the position T to replace; None for all.
    """
    positions = slice(None) if position is None else position
    index = (slice(None), positions) if head is None else (slice(None), positions, head)

    def edit(activation: Tensor) -> Tensor:
        edited = activation.clone()
        edited[index] = replacement.expand_as(activation)[index]
        return edited

    return edit

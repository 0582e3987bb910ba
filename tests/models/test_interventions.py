import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from patchwork.models import EncoderDecoder, ViT
from patchwork.models.interventions import intervene, point_names, record_points, replace_with
from patchwork.models.transformer import record_attention

IMAGE = {"image_size": 12, "in_channels": 1, "num_classes": 4, "patch_size": 4, "stem": None}


def make_vit(**arguments: object) -> ViT:
    torch.manual_seed(0)
    model = ViT(**{**IMAGE, "embed_dim": 8, "num_heads": 2, "depth": 2, **arguments}).double().eval()
    return perturb(model)


def make_reader() -> EncoderDecoder:
    torch.manual_seed(0)
    model = EncoderDecoder(
        rows=2, cols=2, cell_size=4, num_classes=4, patch_size=2, stem=None, embed_dim=8, num_heads=2, decoder_depth=2
    )
    return perturb(model.double().eval())


def perturb(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    return model.requires_grad_(False)


def images(count: int = 3, size: int = 12) -> Tensor:
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def reader_inputs() -> tuple[Tensor, Tensor]:
    return images(size=8), torch.tensor([[4, 0, 1], [4, 3, 3], [4, 2, 0]])


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], tuple[Tensor, ...]]]] = {
    "vit": (make_vit, lambda: (images(),)),
    "post-norm": (lambda: make_vit(norm_first=False), lambda: (images(),)),
    "reader": (make_reader, reader_inputs),
}
cases = pytest.mark.parametrize(("make", "inputs"), CASES.values(), ids=CASES)


def test_points_of_a_block_are_named_in_the_order_of_its_modules() -> None:
    assert point_names(make_vit(depth=1)) == [
        *("blocks.0.input", "blocks.0.attn.heads", "blocks.0.attn", "blocks.0.mlp", "blocks.0"),
    ]
    assert {"decoder.1.context", "decoder.1.cross_attn.heads"} < {*point_names(make_reader())}


@cases
def test_identity_changes_no_bit_and_every_point_matters(
    make: Callable[[], nn.Module], inputs: Callable[[], tuple[Tensor, ...]]
) -> None:
    model, args = make(), inputs()
    expected = model(*args)
    for name in point_names(model):
        with intervene(model, {name: lambda x: x.clone()}):
            assert torch.equal(model(*args), expected), name
        with intervene(model, {name: lambda x: x + torch.randn_like(x)}):
            assert not torch.allclose(model(*args), expected), name
        assert torch.equal(model(*args), expected), name


@cases
def test_an_activation_of_another_sample_at_the_first_layer_gives_its_output(
    make: Callable[[], nn.Module], inputs: Callable[[], tuple[Tensor, ...]]
) -> None:
    model, args = make(), inputs()
    names = ["encoder.0.input" if isinstance(model, EncoderDecoder) else "blocks.0.input"]
    with record_points(model, names) as recorded:
        expected = model(*args)
    (source,) = recorded[names[0]]
    other = (args[0].flip(0), *args[1:])
    with intervene(model, {names[0]: replace_with(source)}):
        assert torch.equal(model(*other), expected)


def test_a_head_is_its_columns_of_the_projection() -> None:
    model = make_vit()
    without = copy.deepcopy(model)
    with torch.no_grad():
        without.blocks[0].attn.proj.weight[:, 4:] = 0  # the second of two heads of width 4
    with intervene(model, {"blocks.0.attn.heads": replace_with(torch.zeros(1, dtype=torch.float64), head=1)}):
        torch.testing.assert_close(model(images()), without(images()), rtol=0, atol=1e-14)


def test_heads_are_what_attention_mixes() -> None:
    model = make_reader()
    names = [name for name in point_names(model) if name.endswith(".heads")]
    with record_points(model, names) as points, record_attention(model) as calls:
        model(*reader_inputs())
    for name in names:
        (call,) = calls[name.removesuffix(".heads")]
        assert torch.equal(points[name][0], call.mixed.transpose(1, 2))


def test_one_position_is_replaced() -> None:
    model = make_vit(depth=1)
    with record_points(model, ["blocks.0"]) as before:
        model(images())
    zero = torch.zeros(1, dtype=torch.float64)
    with intervene(model, {"blocks.0": replace_with(zero, position=2)}), record_points(model, ["blocks.0"]) as after:
        model(images())
    expected = before["blocks.0"][0].clone()
    expected[:, 2] = 0
    assert torch.equal(after["blocks.0"][0], expected)


@torch.no_grad()
def test_cached_decoding_has_the_same_points() -> None:
    model, (image, _) = make_reader(), reader_inputs()
    zero = torch.zeros(1, dtype=torch.float64)
    edits = {f"decoder.{i}.{name}.heads": replace_with(zero, head=i) for i in (0, 1) for name in ("attn", "cross_attn")}
    plain = model.generate(image)
    with intervene(model, edits):
        tokens = model.generate(image)
        start = torch.full((len(image), 1), model.bos_id)
        logits = model(image, torch.cat([start, tokens], dim=1))
    reached = (tokens == model.eos_id).cumsum(dim=1) == 0  # what is decoded before the end
    assert torch.equal(logits.argmax(dim=-1)[:, : tokens.shape[1]][reached], tokens[reached])
    assert not torch.equal(tokens, plain)


def test_an_error_leaves_no_hook() -> None:
    model = make_vit()
    expected = model(images())

    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), intervene(model, {"blocks.0": torch.zeros_like, "blocks.1": fail}):
        model(images())
    assert torch.equal(model(images()), expected)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_wrong_points_and_shapes_are_refused() -> None:
    model = make_vit()
    with pytest.raises(ValueError, match=r"^block\.0 is not a point of this network \(did you mean blocks\.0\?\)$"):
        intervene(model, {"block.0": torch.zeros_like}).__enter__()
    message = r"edit of blocks\.0 returns \(3, 10\), but"
    with pytest.raises(ValueError, match=message), intervene(model, {"blocks.0": lambda x: x[..., 0]}):
        model(images())

"""What holds for both models that read grids: who sees what, what decoding and company never change, how they begin."""

import math
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.models import EncoderDecoder, Quadrant
from patchwork.models.transformer import Attention, Cache, LearnedPositions, attention_weights

B, CLASSES, CELL, H = 6, 5, 4, 2
CONV = [{"channels": 4, "kernel": 3, "pool": 2}, {"channels": 3, "kernel": 3}]
close = {"rtol": 0.0, "atol": 1e-10}

kinds = pytest.mark.parametrize("kind", [EncoderDecoder, Quadrant])
grids = pytest.mark.parametrize(("rows", "cols"), [(1, 5), (2, 2), (3, 1)])
stems = pytest.mark.parametrize("stem", [[], CONV], ids=["linear", "conv"])
variants = pytest.mark.parametrize(
    "variant",
    [
        {},
        {"positions": "rotary"},
        {"norm_first": False},
        {"norm_first": False, "positions": "rotary", "encoder_depth": 3, "decoder_depth": 3},
        {"encoder_depth": 0, "decoder_depth": 1, "patch_size": 4},
    ],
    ids=str,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def fresh(kind: type[EncoderDecoder] = EncoderDecoder, **changes: Any) -> EncoderDecoder:
    """Give a small model as it is before training."""
    plain = {"rows": 2, "cols": 2, "cell_size": CELL, "num_classes": CLASSES, "patch_size": 2, "stem": []}
    sizes = {"embed_dim": 16, "num_heads": H, "encoder_depth": 1, "decoder_depth": 2}
    return kind(**{**plain, **sizes, **changes}).double().eval()


@torch.no_grad()
def build(kind: type[EncoderDecoder] = EncoderDecoder, **changes: Any) -> EncoderDecoder:
    """Give a small model as if trained: no weight is at zero or one, and each image makes it say something else."""
    model = fresh(kind, **changes)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.3)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 1.5)
    for block in model.decoder:
        block.cross_attn.proj.weight.mul_(4)
    model.head.weight.normal_()
    model.head.bias.sub_(model(images(model, 64), prompts(model, 64)).mean(dim=(0, 1)))  # no token is a favourite
    return model


def images(model: EncoderDecoder, count: int = B) -> Tensor:
    """Give random images (B, 1, height, width) whose cells differ in brightness."""
    cells = 3 * torch.randn(count, 1, model.rows, model.cols, dtype=torch.float64)
    bright = cells.repeat_interleave(CELL, dim=2).repeat_interleave(CELL, dim=3)
    return bright + torch.randn_like(bright)


def prompts(model: EncoderDecoder, count: int = B) -> Tensor:
    """Give random digits after `<start>` (B, length + 1)."""
    return F.pad(torch.randint(CLASSES, (count, model.length)), (1, 0), value=model.start)


# --- who sees what ---------------------------------------------------------------------------------------------------


@kinds
@variants
@torch.no_grad()
def test_later_tokens_never_change_earlier_logits(kind: type[EncoderDecoder], variant: dict[str, Any]) -> None:
    model = build(kind, **variant)
    image, tokens = images(model), prompts(model)
    logits = model(image, tokens)
    for place in range(1, model.length + 1):
        other = torch.cat([tokens[:, :place], (tokens[:, place:] + torch.randint(1, CLASSES, (1,))) % CLASSES], dim=1)
        changed = (model(image, other) - logits).abs().amax(dim=-1)  # (B, T)
        assert changed[:, :place].max() < 1e-12
        assert changed[:, place:].min() > 1e-6


@kinds
@stems
@torch.no_grad()
def test_every_logit_depends_on_every_cell(kind: type[EncoderDecoder], stem: list) -> None:
    model = build(kind, stem=stem, rows=2, cols=3)
    image, tokens = images(model), prompts(model)
    for row in range(2):
        for col in range(3):
            other = image.clone()
            other[..., row * CELL : (row + 1) * CELL, col * CELL : (col + 1) * CELL] += 1
            assert (model(other, tokens) - model(image, tokens)).abs().amax(-1).min() > 1e-6


@kinds
@variants
@torch.no_grad()
def test_cells_are_told_apart(kind: type[EncoderDecoder], variant: dict[str, Any]) -> None:
    """Exchanging two cells changes what is read, so their places are known."""
    model = build(kind, **variant)
    image = images(model)
    swapped = image.roll(CELL, dims=-1)  # with two columns: left for right
    tokens = prompts(model)
    assert (model(image, tokens) - model(swapped, tokens)).abs().amax(dim=(1, 2)).min() > 1e-6


# --- decoding --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def recomputed(model: EncoderDecoder, image: Tensor) -> Tensor:
    """Decode greedily, reading the whole prefix anew at each step."""
    tokens = torch.full((len(image), 1), model.start)
    for _ in range(model.length):
        chosen = model(image, tokens)[:, -1].argmax(-1)
        done = (tokens == model.finish).any(dim=1)
        tokens = torch.cat([tokens, torch.where(done, model.finish, chosen)[:, None]], dim=1)
    return tokens[:, 1:]


@kinds
@grids
@stems
@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_cached_decoding_equals_recomputing(
    kind: type[EncoderDecoder], rows: int, cols: int, stem: list, positions: str
) -> None:
    model = build(kind, rows=rows, cols=cols, stem=stem, positions=positions)
    image = images(model, 32)
    found = model.generate(image)
    assert found.shape == (32, rows * cols)
    assert len(found.unique(dim=0)) > 4
    assert torch.equal(found, recomputed(model, image))


@kinds
@pytest.mark.parametrize("sizes", [[1] * 5, [2, 3], [1, 3, 1], [4, 1]])
@torch.no_grad()
def test_cached_logits_equal_those_of_the_whole_sequence(kind: type[EncoderDecoder], sizes: list[int]) -> None:
    model = build(kind)
    tokens, memory = prompts(model), model.encode(images(model))
    caches = [(Cache(model.length + 1), Cache(memory.shape[1])) for _ in model.decoder]
    parts = [model.decode(memory, part, caches) for part in tokens.split(sizes, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), model.decode(memory, tokens), **close)


def test_after_finish_comes_finish() -> None:
    model = build(rows=1, cols=5)
    image = images(model, 128)
    with torch.no_grad():
        model.head.bias[model.finish] += 2
        said = model.generate(image)
        meant = model(image, F.pad(said, (1, 0), value=model.start))[:, :-1].argmax(-1)  # without the rule
    done = (said == model.finish).cummax(dim=1).values
    assert (said[done] == model.finish).all()
    assert torch.equal(said[~done], meant[~done])
    assert (meant[done] != model.finish).any()  # the rule was needed
    assert (~done).any()


@kinds
def test_generating_keeps_no_state(kind: type[EncoderDecoder]) -> None:
    model = build(kind, stem=CONV)
    image, before = images(model), {name: value.clone() for name, value in model.state_dict().items()}
    first = model.generate(image)
    assert first.dtype == torch.long
    assert torch.equal(model.generate(image), first)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@kinds
def test_generating_remembers_nothing_for_a_gradient(kind: type[EncoderDecoder]) -> None:
    model, kept = build(kind), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape), lambda _: None):
        model.generate(images(model))
    assert kept == []


# --- company ---------------------------------------------------------------------------------------------------------


@kinds
@variants
@stems
@torch.no_grad()
def test_company_never_changes_a_prediction(kind: type[EncoderDecoder], variant: dict[str, Any], stem: list) -> None:
    model = build(kind, **variant, stem=stem)
    image, tokens, order = images(model), prompts(model), torch.randperm(B)
    logits, read = model(image, tokens), model.generate(image)
    torch.testing.assert_close(model(image[order], tokens[order]), logits[order], **close)
    assert torch.equal(model.generate(image[order]), read[order])
    for index in range(B):
        alone = slice(index, index + 1)
        torch.testing.assert_close(model(image[alone], tokens[alone]), logits[alone], **close)
        assert torch.equal(model.generate(image[alone]), read[alone])


# --- attention -------------------------------------------------------------------------------------------------------


def layers_of(model: EncoderDecoder) -> dict[str, str]:
    """Name all attention layers: what each looks at."""
    encoder = {f"encoder.{index}.attn": "patches" for index in range(len(model.encoder))}
    decoder = {f"decoder.{index}.attn": "tokens" for index in range(len(model.decoder))}
    return encoder | decoder | {f"decoder.{index}.cross_attn": "memory" for index in range(len(model.decoder))}


@kinds
@variants
@torch.no_grad()
def test_attention_of_every_layer_and_head_can_be_read(kind: type[EncoderDecoder], variant: dict[str, Any]) -> None:
    model = build(kind, **variant)
    image, tokens = images(model), prompts(model)
    plain = model(image, tokens)
    with attention_weights(model) as recorded:
        assert torch.equal(model(image, tokens), plain)
    assert set(recorded) == set(layers_of(model))
    patches, length = math.prod(model.patch_embed.grid), model.length + 1
    sources = {"patches": patches, "tokens": length, "memory": model.encode(image).shape[1]}
    for name, source in layers_of(model).items():
        (weights,) = recorded[name]
        assert weights.shape == (B, H, patches if source == "patches" else length, sources[source])
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), **close)
        assert torch.equal(weights, weights.tril()) == (source == "tokens")
        assert (weights[..., 0, :].amin() > 0) == (source != "tokens")
        assert not torch.allclose(weights[:, 0], weights[:, 1])  # heads differ


@kinds
@torch.no_grad()
def test_attention_while_decoding_is_that_of_the_whole_sequence(kind: type[EncoderDecoder]) -> None:
    model = build(kind)
    image = images(model)
    with attention_weights(model) as recorded:
        said = model.generate(image)
    assert torch.equal(said, model.generate(image))
    with attention_weights(model) as whole:
        model(image, F.pad(said, (1, 0), value=model.start)[:, :-1])
    for name, source in layers_of(model).items():
        steps = recorded[name]
        assert len(steps) == (1 if source == "patches" else model.length)
        width = steps[-1].shape[-1]
        rows = torch.cat([F.pad(step, (0, width - step.shape[-1])) for step in steps], dim=2)
        torch.testing.assert_close(rows, whole[name][0], **close)


@kinds
@variants
@pytest.mark.parametrize("decoding", [False, True])
@torch.no_grad()
def test_recorded_attention_reproduces_every_layers_output(
    kind: type[EncoderDecoder], variant: dict[str, Any], decoding: bool
) -> None:
    model = build(kind, **variant)
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers_of(model)}  # (what is seen, output)

    def listen(name: str, layer: Attention) -> None:
        def note(_: nn.Module, inputs: tuple, options: dict[str, Any], output: Tensor) -> None:
            context = options.get("context", inputs[1] if len(inputs) > 1 else None)
            past = [calls[name][-1][0]] if decoding and calls[name] and context is None else []
            calls[name].append((torch.cat([*past, inputs[0]], dim=1) if context is None else context, output))

        layer.register_forward_hook(note, with_kwargs=True)

    layers = {name: model.get_submodule(name) for name in calls}
    for name, layer in layers.items():
        listen(name, layer)
    with attention_weights(model) as recorded:
        model.generate(images(model)) if decoding else model(images(model), prompts(model))
    for name, layer in layers.items():
        assert calls[name]
        for weights, (seen, output) in zip(recorded[name], calls[name], strict=True):
            values = rearrange(layer.key_value(seen).chunk(2, dim=-1)[1], "b s (h d) -> b h s d", h=H)
            torch.testing.assert_close(layer.proj(rearrange(weights @ values, "b h t d -> b t (h d)")), output, **close)


# --- how it begins ---------------------------------------------------------------------------------------------------


@kinds
@variants
@stems
@torch.no_grad()
def test_the_first_prediction_is_uniform(kind: type[EncoderDecoder], variant: dict[str, Any], stem: list) -> None:
    model = fresh(kind, **variant, stem=stem)
    logits = model(images(model), prompts(model))
    loss = F.cross_entropy(logits.flatten(0, 1), torch.randint(CLASSES + 2, (logits[..., 0].numel(),)))
    assert loss.item() == pytest.approx(math.log(CLASSES + 2), abs=1e-12)


@kinds
@variants
@stems
def test_every_parameter_gets_a_gradient(kind: type[EncoderDecoder], variant: dict[str, Any], stem: list) -> None:
    model = build(kind, **variant, stem=stem).train()
    logits = model(images(model), prompts(model))
    (logits * torch.randn_like(logits)).sum().backward()
    without = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().max() > 0]
    assert without == []


@torch.no_grad()
def test_places_differ_from_the_start() -> None:
    """What is learned of positions does not begin at zero, where all patches of a blank image look alike."""
    model = fresh()
    for module in model.modules():
        if isinstance(module, LearnedPositions):
            assert torch.pdist(module.weight).min() > 0.1


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "numbers"),
    [
        ({"patch_size": 3}, r"\b3\b.*\b8\D8\b"),
        ({"rows": 1, "cols": 5, "patch_size": 8}, r"\b8\b.*\b4\D20\b"),
        ({"embed_dim": 15}, r"\b15\b.*\b2\b"),
        ({"num_heads": 3}, r"\b16\b.*\b3\b"),
        ({"positions": "rotary", "num_heads": 8}, r"\b4\b.*\b2\b"),
        ({"stem": [{"channels": 2, "kernel": 3, "stride": 4}]}, r"\b2\b.*\b4\b"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_with_their_numbers(changes: dict[str, Any], numbers: str) -> None:
    with pytest.raises(ValueError, match=numbers):
        fresh(**changes)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("more", [(1, 0), (0, 1), (CELL, 0), (CELL, CELL)])
def test_an_image_of_another_size_is_refused(rows: int, more: tuple[int, int]) -> None:
    model = fresh(rows=rows, cols=rows, patch_size=CELL)
    with pytest.raises((ValueError, RuntimeError)):
        model.generate(F.pad(images(model), (0, more[1], 0, more[0])))

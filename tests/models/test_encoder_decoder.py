"""What holds for both encoder-decoders: causality, cached decoding, batch independence, attention, initial state."""

import math
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from patchwork.models import CellPoolEncoderDecoder, ConvStem, EncoderDecoder
from patchwork.models.transformer import Attention, LearnedPosEmbed, record_attention

B, CLASSES, CELL, H = 6, 5, 4, 2
CONV = ConvStem(layers=[{"channels": 4, "kernel": 3, "pool": 2}, {"channels": 3, "kernel": 3}])
close = {"rtol": 0.0, "atol": 1e-10}

kinds = pytest.mark.parametrize("kind", [EncoderDecoder, CellPoolEncoderDecoder])
grids = pytest.mark.parametrize(("rows", "cols"), [(1, 5), (2, 2), (3, 1)])
stems = pytest.mark.parametrize("stem", [None, CONV], ids=["linear", "conv"])
variants = pytest.mark.parametrize(
    "variant",
    [
        {},
        {"pos_embed": "rope"},
        {"norm_first": False},
        {"norm_first": False, "pos_embed": "rope", "encoder_depth": 3, "decoder_depth": 3},
        {"encoder_depth": 0, "decoder_depth": 1, "patch_size": 4},
    ],
    ids=str,
)


def make_initial(kind: type[EncoderDecoder] = EncoderDecoder, **options: Any) -> EncoderDecoder:
    """Return a small model with its initial weights."""
    grid = {"rows": 2, "cols": 2, "cell_size": CELL, "num_classes": CLASSES, "patch_size": 2, "stem": None}
    sizes = {"embed_dim": 16, "num_heads": H, "encoder_depth": 1, "decoder_depth": 2}
    return kind(**{**grid, **sizes, **options}).double().eval()


@torch.no_grad()
def make_trained(kind: type[EncoderDecoder] = EncoderDecoder, **options: Any) -> EncoderDecoder:
    """Return a small model as if trained: no weight is zero or one, and its output depends on the image."""
    model = make_initial(kind, **options)
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
    logits = model(make_images(model, 64), make_tokens(model, 64))
    model.head.bias.sub_(logits.mean(dim=(0, 1)))  # no token is favored
    return model


def make_images(model: EncoderDecoder, count: int = B) -> Tensor:
    """Return random images (B, 1, height, width) whose cells differ in brightness."""
    cells = 3 * torch.randn(count, 1, model.rows, model.cols, dtype=torch.float64)
    brightness = cells.repeat_interleave(CELL, dim=2).repeat_interleave(CELL, dim=3)
    return brightness + torch.randn_like(brightness)


def make_tokens(model: EncoderDecoder, count: int = B) -> Tensor:
    """Return random digits after the beginning-of-sequence token (B, length + 1)."""
    return F.pad(torch.randint(CLASSES, (count, model.length)), (1, 0), value=model.bos_id)


# --- dependencies ----------------------------------------------------------------------------------------------------


@kinds
@variants
@torch.no_grad()
def test_causal_mask_hides_later_tokens(kind: type[EncoderDecoder], variant: dict[str, Any]) -> None:
    model = make_trained(kind, **variant)
    image, tokens = make_images(model), make_tokens(model)
    logits = model(image, tokens)
    for position in range(1, model.length + 1):
        later = (tokens[:, position:] + torch.randint(1, CLASSES, (1,))) % CLASSES
        other = torch.cat([tokens[:, :position], later], dim=1)
        changed = (model(image, other) - logits).abs().amax(dim=-1)  # (B, T)
        assert changed[:, :position].max() < 1e-12
        assert changed[:, position:].min() > 1e-6


@kinds
@stems
@torch.no_grad()
def test_every_logit_depends_on_every_cell(kind: type[EncoderDecoder], stem: ConvStem | None) -> None:
    model = make_trained(kind, stem=stem, rows=2, cols=3)
    image, tokens = make_images(model), make_tokens(model)
    for row in range(2):
        for col in range(3):
            other = image.clone()
            other[..., row * CELL : (row + 1) * CELL, col * CELL : (col + 1) * CELL] += 1
            assert (model(other, tokens) - model(image, tokens)).abs().amax(-1).min() > 1e-6


@kinds
@variants
@torch.no_grad()
def test_swapping_cells_changes_the_logits(kind: type[EncoderDecoder], variant: dict[str, Any]) -> None:
    model = make_trained(kind, **variant)
    image = make_images(model)
    swapped = image.roll(CELL, dims=-1)  # of two columns
    tokens = make_tokens(model)
    assert (model(image, tokens) - model(swapped, tokens)).abs().amax(dim=(1, 2)).min() > 1e-6


# --- decoding --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def decode_without_cache(model: EncoderDecoder, image: Tensor) -> Tensor:
    """Decode greedily, with the whole prefix as the input of each step."""
    tokens = torch.full((len(image), 1), model.bos_id)
    for _ in range(model.length):
        likeliest = model(image, tokens)[:, -1].argmax(-1)
        finished = (tokens == model.eos_id).any(dim=1)
        tokens = torch.cat([tokens, torch.where(finished, model.eos_id, likeliest)[:, None]], dim=1)
    return tokens[:, 1:]


@kinds
@grids
@stems
@pytest.mark.parametrize("pos_embed", ["learned", "rope"])
def test_kv_cache_does_not_change_greedy_decoding(
    kind: type[EncoderDecoder], rows: int, cols: int, stem: ConvStem | None, pos_embed: str
) -> None:
    model = make_trained(kind, rows=rows, cols=cols, stem=stem, pos_embed=pos_embed)
    image = make_images(model, 32)
    tokens = model.generate(image)
    assert tokens.shape == (32, rows * cols)
    assert len(tokens.unique(dim=0)) > 4
    assert torch.equal(tokens, decode_without_cache(model, image))


@kinds
@pytest.mark.parametrize("sizes", [[1] * 5, [2, 3], [1, 3, 1], [4, 1]])
@torch.no_grad()
def test_kv_cache_does_not_change_the_logits(kind: type[EncoderDecoder], sizes: list[int]) -> None:
    model = make_trained(kind)
    tokens, memory = make_tokens(model), model.encode(make_images(model))
    caches = model.make_caches(memory, model.length + 1)
    logits = [model.decode(memory, chunk, caches) for chunk in tokens.split(sizes, dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), model.decode(memory, tokens), **close)


def test_after_eos_only_eos_is_decoded() -> None:
    model = make_trained(rows=1, cols=5)
    image = make_images(model, 128)
    with torch.no_grad():
        model.head.bias[model.eos_id] += 2
        tokens = model.generate(image)
        likeliest = model(image, F.pad(tokens, (1, 0), value=model.bos_id))[:, :-1].argmax(-1)  # without the rule
    finished = (tokens == model.eos_id).cummax(dim=1).values
    assert (tokens[finished] == model.eos_id).all()
    assert torch.equal(tokens[~finished], likeliest[~finished])
    assert (likeliest[finished] != model.eos_id).any()  # the rule was needed
    assert (~finished).any()


@kinds
def test_generate_changes_no_state(kind: type[EncoderDecoder]) -> None:
    model = make_trained(kind, stem=CONV)
    image, before = make_images(model), {name: value.clone() for name, value in model.state_dict().items()}
    first = model.generate(image)
    assert first.dtype == torch.long
    assert torch.equal(model.generate(image), first)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@kinds
def test_generate_saves_no_tensors_for_backward(kind: type[EncoderDecoder]) -> None:
    model, saved = make_trained(kind), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.shape), lambda _: None):
        model.generate(make_images(model))
    assert saved == []


# --- batch independence ----------------------------------------------------------------------------------------------


@kinds
@variants
@stems
@torch.no_grad()
def test_batch_composition_does_not_change_predictions(
    kind: type[EncoderDecoder], variant: dict[str, Any], stem: ConvStem | None
) -> None:
    model = make_trained(kind, **variant, stem=stem)
    image, tokens, order = make_images(model), make_tokens(model), torch.randperm(B)
    logits, generated = model(image, tokens), model.generate(image)
    torch.testing.assert_close(model(image[order], tokens[order]), logits[order], **close)
    assert torch.equal(model.generate(image[order]), generated[order])
    for index in range(B):
        alone = slice(index, index + 1)
        torch.testing.assert_close(model(image[alone], tokens[alone]), logits[alone], **close)
        assert torch.equal(model.generate(image[alone]), generated[alone])


# --- attention -------------------------------------------------------------------------------------------------------


def attention_layers(model: EncoderDecoder) -> dict[str, str]:
    """Return the names of all attention layers, with what each attends to."""
    encoder = {f"encoder.{index}.attn": "patches" for index in range(len(model.encoder))}
    decoder = {f"decoder.{index}.attn": "tokens" for index in range(len(model.decoder))}
    return encoder | decoder | {f"decoder.{index}.cross_attn": "memory" for index in range(len(model.decoder))}


@kinds
@variants
@torch.no_grad()
def test_attention_weights_of_every_layer_and_head_are_recorded(
    kind: type[EncoderDecoder], variant: dict[str, Any]
) -> None:
    model = make_trained(kind, **variant)
    image, tokens = make_images(model), make_tokens(model)
    logits = model(image, tokens)
    with record_attention(model) as recorded:
        assert torch.equal(model(image, tokens), logits)
    assert set(recorded) == set(attention_layers(model))
    patches, length = math.prod(model.patch_embed.grid), model.length + 1
    sources = {"patches": patches, "tokens": length, "memory": model.encode(image).shape[1]}
    for name, source in attention_layers(model).items():
        weights = recorded[name][0].weights
        assert weights.shape == (B, H, patches if source == "patches" else length, sources[source])
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]), **close)
        assert torch.equal(weights, weights.tril()) == (source == "tokens")
        assert (weights[..., 0, :].amin() > 0) == (source != "tokens")
        assert not torch.allclose(weights[:, 0], weights[:, 1])  # heads differ


@kinds
@torch.no_grad()
def test_attention_weights_while_decoding_equal_those_of_teacher_forcing(kind: type[EncoderDecoder]) -> None:
    model = make_trained(kind)
    image = make_images(model)
    with record_attention(model) as recorded:
        tokens = model.generate(image)
    assert torch.equal(tokens, model.generate(image))
    with record_attention(model) as teacher_forced:
        model(image, F.pad(tokens, (1, 0), value=model.bos_id)[:, :-1])
    for name, source in attention_layers(model).items():
        steps = [call.weights for call in recorded[name]]
        assert len(steps) == (1 if source == "patches" else model.length)
        width = steps[-1].shape[-1]
        rows = torch.cat([F.pad(step, (0, width - step.shape[-1])) for step in steps], dim=2)
        torch.testing.assert_close(rows, teacher_forced[name][0].weights, **close)


@kinds
@variants
@pytest.mark.parametrize("decoding", [False, True])
@torch.no_grad()
def test_recorded_attention_weights_reproduce_the_output_of_every_layer(
    kind: type[EncoderDecoder], variant: dict[str, Any], decoding: bool
) -> None:
    model = make_trained(kind, **variant)
    calls: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in attention_layers(model)}  # (context, output)

    def record_calls(name: str, layer: Attention) -> None:
        def hook(_: nn.Module, inputs: tuple, options: dict[str, Any], output: Tensor) -> None:
            context = options.get("context", inputs[1] if len(inputs) > 1 else None)
            past = [calls[name][-1][0]] if decoding and calls[name] and context is None else []
            calls[name].append((torch.cat([*past, inputs[0]], dim=1) if context is None else context, output))

        layer.register_forward_hook(hook, with_kwargs=True)

    layers = {name: model.get_submodule(name) for name in calls}
    for name, layer in layers.items():
        record_calls(name, layer)
    with record_attention(model) as recorded:
        model.generate(make_images(model)) if decoding else model(make_images(model), make_tokens(model))
    for name, layer in layers.items():
        assert calls[name]
        for call, (context, output) in zip(recorded[name], calls[name], strict=True):
            values = rearrange(layer.key_value(context).chunk(2, dim=-1)[1], "b s (h d) -> b h s d", h=H)
            torch.testing.assert_close(
                layer.proj(rearrange(call.weights @ values, "b h t d -> b t (h d)")), output, **close
            )


# --- initialization and gradients ------------------------------------------------------------------------------------


@kinds
@variants
@stems
@torch.no_grad()
def test_initial_prediction_is_uniform(
    kind: type[EncoderDecoder], variant: dict[str, Any], stem: ConvStem | None
) -> None:
    model = make_initial(kind, **variant, stem=stem)
    logits = model(make_images(model), make_tokens(model))
    loss = F.cross_entropy(logits.flatten(0, 1), torch.randint(CLASSES + 2, (logits[..., 0].numel(),)))
    assert loss.item() == pytest.approx(math.log(CLASSES + 2), abs=1e-12)


@kinds
@variants
@stems
def test_every_parameter_gets_a_gradient(
    kind: type[EncoderDecoder], variant: dict[str, Any], stem: ConvStem | None
) -> None:
    model = make_trained(kind, **variant, stem=stem).train()
    logits = model(make_images(model), make_tokens(model))
    (logits * torch.randn_like(logits)).sum().backward()
    without = [name for name, value in model.named_parameters() if value.grad is None or not value.grad.abs().max() > 0]
    assert without == []


@torch.no_grad()
def test_initial_position_embeddings_differ() -> None:
    """At zero, all patches of a blank image would look alike."""
    model = make_initial()
    for module in model.modules():
        if isinstance(module, LearnedPosEmbed):
            assert torch.pdist(module.weight).min() > 0.1


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        ({"patch_size": 3}, r"\b3\b.*\b8\D8\b"),
        ({"rows": 1, "cols": 5, "patch_size": 8}, r"\b8\b.*\b4\D20\b"),
        ({"embed_dim": 15}, r"\b15\b.*\b2\b"),
        ({"num_heads": 3}, r"\b16\b.*\b3\b"),
        ({"pos_embed": "rope", "num_heads": 8}, r"\b4\b.*\b2\b"),
        ({"stem": ConvStem(layers=[{"channels": 2, "kernel": 3, "stride": 4}])}, r"\b2\b.*\b4\b"),
    ],
)
def test_sizes_that_do_not_fit_are_rejected_with_their_numbers(options: dict[str, Any], numbers: str) -> None:
    with pytest.raises(ValueError, match=numbers):
        make_initial(**options)


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("padding", [(1, 0), (0, 1), (CELL, 0), (CELL, CELL)])
def test_images_of_another_size_are_rejected(rows: int, padding: tuple[int, int]) -> None:
    model = make_initial(rows=rows, cols=rows, patch_size=CELL)
    with pytest.raises((ValueError, RuntimeError)):
        model.generate(F.pad(make_images(model), (0, padding[1], 0, padding[0])))

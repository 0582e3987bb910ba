"""A network as the page computes it: a specification, and tensors with all normalization of the stem folded in.

The stem's batch normalization is an affine map in evaluation, and is merged with the convolution before it, in double
precision. Filters are laid out (kernel, kernel, in, out) for images with the channels last.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from patchwork.core.errors import ConfigError
from patchwork.core.schema import choice_name
from patchwork.data import BaseDataModule
from patchwork.data.image_data import ImageSourceDataModule
from patchwork.models import EncoderDecoder, ViT
from patchwork.models.patch_embed import PatchEmbed
from patchwork.tasks import Classify, Seq2Seq, Task

LEFT_OUT = ("patch_embed.",)  # replaced by folded filters


@dataclass(frozen=True, eq=False)
class Bundle:
    """What the page's engine builds a network of.

    Attributes:
        spec: sizes and choices, JSON.
        tensors: by name, in single precision.
    """

    spec: dict[str, Any]
    tensors: dict[str, Tensor]


def make_bundle(task: Task, data: BaseDataModule) -> Bundle:
    """Return the bundle of a trained task.

    Raises:
        ConfigError: if the page has no engine for it.
    """
    model = task.model
    if (type(task), type(model)) not in ((Seq2Seq, EncoderDecoder), (Classify, ViT)):  # not what extends them
        raise ConfigError(
            f"task={choice_name(type(task))} model={choice_name(type(model))} does not run in the page: use "
            "task=seq2seq model=encoder_decoder or task=classify model=vit"
        )
    assert isinstance(model, EncoderDecoder | ViT)
    assert isinstance(data, ImageSourceDataModule)
    spec = {
        "task": choice_name(type(task)),
        "model": type(model).__name__,
        "mean": data.dataset.mean,
        "std": data.dataset.std,
        "classes": list(task.class_names or map(str, range(data.num_classes))),
        **network_spec(model),
    }
    return Bundle(spec, network_tensors(model))


def network_spec(model: EncoderDecoder | ViT) -> dict[str, Any]:
    """Return the sizes and choices of a network."""
    blocks = model.encoder if isinstance(model, EncoderDecoder) else model.blocks
    first = next(iter([*blocks, *(model.decoder if isinstance(model, EncoderDecoder) else [])]))
    common = {
        **stem_spec(model.patch_embed),
        "embed_dim": model.head.in_features,
        "num_heads": first.attn.num_heads,
        "norm_first": first.norm_first,
    }
    if isinstance(model, EncoderDecoder):
        return {
            **common,
            "rows": model.rows,
            "cols": model.cols,
            "num_classes": model.bos_id,
            "encoder_depth": len(model.encoder),
            "decoder_depth": len(model.decoder),
        }
    return {**common, "num_classes": model.head.out_features, "depth": len(model.blocks)}


def stem_spec(embed: PatchEmbed) -> dict[str, Any]:
    layers = []
    for conv, _, pool, _ in stem_layers(embed):
        layers.append(
            {
                "stride": conv.stride[0],
                "kernel": conv.kernel_size[0],
                "channels": conv.out_channels,
                "pool": pool.kernel_size if isinstance(pool, nn.MaxPool2d) else 1,
            }
        )
    return {
        "image_size": list(embed.image_size),
        "grid": list(embed.grid),
        "patch": embed.proj.kernel_size[0],
        "stem": layers,
    }


def stem_layers(embed: PatchEmbed) -> list[tuple[Any, ...]]:
    """Return the convolution, normalization, pooling and ReLU of each layer of a stem."""
    modules = [*embed.stem]
    return [tuple(modules[start : start + 4]) for start in range(0, len(modules), 4)]


@torch.no_grad()
def network_tensors(model: EncoderDecoder | ViT) -> dict[str, Tensor]:
    """Return the tensors of a network by name, with the stem's filters folded."""
    tensors = {name: value for name, value in model.state_dict().items() if not name.startswith(LEFT_OUT)}
    if model.rope is not None:
        tensors |= {"rope.cos": model.rope.cos, "rope.sin": model.rope.sin}
    embed = model.patch_embed
    for index, (conv, norm, _, _) in enumerate(stem_layers(embed)):
        scale = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        tensors[f"stem.{index}.weight"] = (conv.weight.double() * scale[:, None, None, None]).permute(2, 3, 1, 0)
        tensors[f"stem.{index}.bias"] = norm.bias.double() - norm.running_mean.double() * scale
    tensors["proj.weight"] = embed.proj.weight.permute(2, 3, 1, 0)
    tensors["proj.bias"] = embed.proj.bias
    return {name: value.detach().float().contiguous() for name, value in tensors.items()}

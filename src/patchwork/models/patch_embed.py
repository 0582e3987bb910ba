"""Images to patch embeddings, linearly or after a convolutional stem."""

import math
import os
import platform
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Literal, NotRequired

import torch
from einops import rearrange
from pydantic import ConfigDict, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import TypedDict

# of oneDNN's levels of instructions, those with bfloat16
BFLOAT16_ISAS = {
    *("DEFAULT", "ALL", "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16"),
    *("AVX10_1_512", "AVX10_1_512_AMX", "AVX10_1_512_AMX_FP16", "AVX10_2_512", "AVX10_2_512_AMX_2"),
}


class ConvLayer(TypedDict):
    """One layer of a stem: a convolution, its stride, and the width of a max-pool after it; both default to 1."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    channels: PositiveInt
    kernel: PositiveInt
    stride: NotRequired[PositiveInt]
    pool: NotRequired[PositiveInt]


@dataclass(frozen=True, kw_only=True)
class ConvStem:
    """Specification of a convolutional stem, from which a model builds its own layers.

    A stem sees strokes before patches are cut (Xiao et al. 2021, https://arxiv.org/abs/2106.14881). Each layer is a
    convolution, batch normalization, optional max-pooling and ReLU.

    Args:
        layers: the layers, from the image on; none embeds the pixels of a patch linearly.
        precision: `bf16` computes stem and patch projection in bfloat16, which is faster where the device has
            instructions for it, and several times slower elsewhere; 32 computes them in the precision of the model;
            `auto` is the faster one, see `has_bfloat16`. A run saves which it was.

    Raises:
        ValueError: if a kernel is even.
    """

    layers: list[ConvLayer]
    precision: Literal["auto", "bf16", 32] = 32

    def __post_init__(self) -> None:
        for layer in self.layers:
            if layer["kernel"] % 2 == 0:
                raise ValueError(f"kernel={layer['kernel']} is even: an odd kernel keeps the map centered on the image")

    @property
    def stride(self) -> int:
        """Pixels of the image per pixel of the output, along one axis."""
        return math.prod(layer.get("stride", 1) * layer.get("pool", 1) for layer in self.layers)

    def build(self, in_channels: int) -> nn.Sequential:
        """Return new layers that map (B, in_channels, height, width) to (B, C, height/stride, width/stride)."""
        modules: list[nn.Module] = []
        for layer in self.layers:
            channels, kernel, pool = layer["channels"], layer["kernel"], layer.get("pool", 1)
            modules += [
                nn.Conv2d(in_channels, channels, kernel, layer.get("stride", 1), kernel // 2, bias=False),
                nn.BatchNorm2d(channels),
                nn.MaxPool2d(pool) if pool > 1 else nn.Identity(),  # the same as after ReLU, on a smaller map
                nn.ReLU(),
            ]
            in_channels = channels
        return nn.Sequential(*modules)


def resolve_precision(precision: Literal["auto", "bf16", 32], device_type: str) -> Literal["bf16", 32]:
    """Return the precision of a stem on a type of device, as `cpu` or `cuda`: what is given, or the faster one."""
    if precision != "auto":
        return precision
    return "bf16" if has_bfloat16(device_type) else 32


@cache
def has_bfloat16(device_type: str) -> bool:
    """Return whether a type of device has instructions for bfloat16.

    Without them the convolutions of bfloat16 are emulated, at a fifth of the speed of float32 or less. Not so on MPS,
    but there float32 is as fast.
    """
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if platform.machine() not in ("x86_64", "AMD64"):  # on Arm oneDNN has just asked for the instructions
        return True
    # on x86 it has asked for AVX-512 alone, and both libraries can be told to use less than there is
    max_isa = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "DEFAULT")).upper()
    enabled = torch.backends.cpu.get_cpu_capability() == "AVX512" and max_isa in BFLOAT16_ISAS
    return enabled and torch.cpu._is_avx512_bf16_supported()


class PatchEmbed(nn.Module):
    """Cut an image into square patches and embed each of them.

    Args:
        image_size: height and width in pixels.
        patch_size: side of a patch in pixels of the image, with or without a stem.
        in_channels: channels of the image.
        embed_dim: width D of the embeddings.
        stem: convolutional stem; None embeds the pixels of a patch linearly.

    Raises:
        ValueError: if the patches do not divide the image, or the stem's stride does not divide the patches.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        patch_size: int,
        in_channels: int,
        embed_dim: int,
        stem: ConvStem | None = None,
    ) -> None:
        super().__init__()
        stem = stem or ConvStem(layers=[])
        height, width = image_size
        if height % patch_size or width % patch_size:
            raise ValueError(f"patch_size={patch_size} does not divide the image of {height}×{width} pixels")
        if patch_size % stem.stride:
            raise ValueError(f"patch_size={patch_size} is not a multiple of {stem.stride}, the stride of the stem")
        channels = stem.layers[-1]["channels"] if stem.layers else in_channels
        kernel = patch_size // stem.stride
        self.image_size = image_size
        self.grid = (height // patch_size, width // patch_size)
        self.precision = stem.precision
        self.stem = stem.build(in_channels)
        self.proj = nn.Conv2d(channels, embed_dim, kernel, kernel)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # the fastest layout for convolutions

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, C, height, width) to patch embeddings (B, N, D) in raster order.

        Raises:
            ValueError: if the images are not of `image_size`.
        """
        if image.shape[2:] != self.image_size:
            raise ValueError(f"expected images of {self.image_size} pixels, got {tuple(image.shape[2:])}")
        low_precision = resolve_precision(self.precision, image.device.type) == "bf16"
        with torch.autocast(image.device.type, torch.bfloat16) if low_precision else nullcontext():
            x = self.stem(image.contiguous(memory_format=torch.channels_last))  # (B, C', height/stride, width/stride)
            x = self.project(x)  # (B, N, D)
        return x.to(image.dtype)

    def project(self, x: Tensor) -> Tensor:
        """Apply `proj` to a map (B, C', height, width) and return its outputs (B, N, D) in raster order.

        Its windows do not overlap, so that it is one matrix product, whose gradients take a third of the time of those
        of the convolution.
        """
        side = self.proj.kernel_size[0]
        patches = rearrange(x, "b c (h p) (w q) -> b (h w) (p q c)", p=side, q=side)  # (B, N, side · side · C')
        return F.linear(patches, rearrange(self.proj.weight, "d c p q -> d (p q c)"), self.proj.bias)

"""Generating images with key-value caches, compared with recomputing the prefix, and with a lower bound."""

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from patchwork.models.pixel_transformer import DecodingState, PixelTransformer
from patchwork.models.sampling import gumbel_max_sample
from patchwork.runs.build import build

from .timing import Benchmark, make_config, milliseconds

MATMUL_SIZE = 1024  # of the square matrices that measure the speed of multiplication


class UncachedDecodingState(DecodingState):
    """Recompute the features of the whole prefix before each patch."""

    def __init__(self, model: PixelTransformer, cond: Tensor) -> None:
        super().__init__(model, cond)
        self.patches: list[Tensor] = []

    def forward_features(self) -> Tensor:
        self.patches.append(self.last_patch)  # the first is empty
        return self.model.forward_features(torch.cat(self.patches, dim=1), self.cond)[:, -1:]


def generation_benchmarks(num_images: int, *overrides: str) -> tuple[Benchmark, Benchmark, Benchmark]:
    """Return three benchmarks in milliseconds: generating with caches, without, and the lower bound."""
    _, task = build(make_config("task=pixels", *overrides))
    model = task.model.eval()
    assert isinstance(model, PixelTransformer)
    label = torch.arange(num_images) % model.num_classes
    noise = model.sample_gumbel_noise(num_images, torch.Generator().manual_seed(0))

    @torch.inference_mode()
    def generate(state_type: type[DecodingState]) -> Tensor:
        state = state_type(model, model.conditioning(label))
        for patch_noise in noise.unbind(1):
            for token_noise in patch_noise.unbind(1):
                state.append(gumbel_max_sample(state.logits(), token_noise))
        return state.image

    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # the fused kernel is not counted
        generate(DecodingState)
    flops = counter.get_total_flops()
    return (
        lambda: milliseconds(lambda: generate(DecodingState)),
        lambda: milliseconds(lambda: generate(UncachedDecodingState)),
        lambda: lower_bound(flops, num_images, model),
    )


def lower_bound(flops: int, num_images: int, model: PixelTransformer) -> float:
    """Return the milliseconds that the arithmetic or the memory traffic of generation takes at least on this machine.

    Arithmetic: at the speed of a large matrix product. Memory: each patch reads all weights and caches once, at the
    speed of a copy, which reads and writes.
    """
    square = torch.rand(MATMUL_SIZE, MATMUL_SIZE)
    matmul = min(milliseconds(lambda: square @ square) for _ in range(3))
    data = torch.rand(bytes_per_patch(num_images, model) // 4)
    copy = min(milliseconds(data.clone) for _ in range(3))
    return max(flops / (2 * MATMUL_SIZE**3) * matmul, model.tokenizer.seq_len * copy / 2)


def bytes_per_patch(num_images: int, model: PixelTransformer) -> int:
    """Return the bytes of the weights, and of the caches at half their final length."""
    tokenizer = model.tokenizer
    modules = (model.blocks, model.norm)
    weights = sum(parameter.nbytes for module in modules for parameter in module.parameters())
    head = sum(parameter.nbytes for parameter in model.patch_head.parameters()) * tokenizer.sub_tokens
    return weights + head + num_images * model.cache_bytes() // 2

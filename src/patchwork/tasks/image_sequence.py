"""Base class of tasks whose samples are sets of images, given as padded sequences."""

from collections.abc import Iterator
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from patchwork.data.base import Batch
from patchwork.models.protocols import OrderSensitive
from patchwork.tasks.base import BASE_CHECKS, Task, to_unit_range


class ImageSequenceTask(Task):
    """A task on images (B, S, C, size, size) whose order is irrelevant; `mask` (B, S) is true where there is one."""

    model_interface: ClassVar = {"forward": ("image", "mask")}
    checks: ClassVar = (*BASE_CHECKS, "padding_invariance", "permutation_invariance")
    takes_single_images: ClassVar = False
    samples_name: ClassVar = "sequences"

    @property
    def order_sensitive(self) -> bool:
        """Return whether the model is meant to depend on the order of the images."""
        return isinstance(self.model, OrderSensitive) and self.model.order_sensitive

    def permute(self, batch: Batch) -> Batch:
        """Return a batch with the images of each sequence in reverse order; padding stays at the end."""
        position = torch.arange(batch["mask"].shape[1], device=batch["mask"].device)
        length = batch["mask"].sum(dim=1, keepdim=True)
        source = torch.where(position < length, length - 1 - position, position)  # (B, S)
        return {**batch, "image": batch["image"][torch.arange(len(source))[:, None], source]}

    def fill_padding(self, batch: Batch, rng: torch.Generator) -> Batch:
        """Return a batch with noise where sequences have ended."""
        noise = torch.randn(batch["image"].shape, generator=rng, dtype=batch["image"].dtype)
        return {**batch, "image": torch.where(batch["mask"][:, :, None, None, None], batch["image"], noise)}

    def trim(self, batch: Batch) -> Batch:
        """Return a batch without the last position of its sequences."""
        return {**batch, "image": batch["image"][:, :-1], "mask": batch["mask"][:, :-1]}

    def perturbed_inputs(self, batch: Batch) -> Iterator[Batch]:
        yield from super().perturbed_inputs(batch)
        positions = torch.eye(batch["mask"].shape[1], dtype=torch.bool, device=batch["mask"].device)
        replaced = positions[:, None] & batch["mask"]  # (S, B, S)
        other = batch["image"][:, :1].roll(1, dims=0)  # the first image of the next sample: each sample has one
        for where in replaced:
            if where.any():
                yield {**batch, "image": torch.where(where[:, :, None, None, None], other, batch["image"])}


def concat_horizontally(image: Tensor) -> Tensor:
    """Return the images of sequences (B, S, C, size, size) side by side, as (B, C, size, S · size) in [0, 1]."""
    return rearrange(to_unit_range(image), "b s c h w -> b c h (s w)")

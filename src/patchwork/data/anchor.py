"""Sequences of images after an anchor image, whose class may occur in them."""

from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from patchwork.core.errors import ConfigError
from patchwork.data.base import Batch, Split
from patchwork.data.sequences import SequenceIndices, SequencesDataModule


class AnchorDataModule(SequencesDataModule):
    """Sequences of 1 to `max_length` images, each with an anchor.

    A batch holds what one of `SequencesDataModule` does, and `anchor` (B, C, image_size, image_size), normalized;
    `match` (B, S), true where an image is of the anchor's class; and `present` (B,), whether there is any. An image
    is never its own match. With `consecutive` sampling, the anchor is the image before the window. The first of
    `image_ids` (B, 1 + S) is the anchor's.

    Args:
        positive_fraction: fraction of the sequences that hold a match, or null for as many as random images give;
            `random` sampling only.

    Raises:
        ValueError: if arguments do not fit together.
    """

    batch_keys = ("image", "mask", "digits", "anchor", "match", "present")

    def __init__(
        self,
        *,
        positive_fraction: Annotated[float, Interval(gt=0, lt=1)] | None = None,
        **sequences: object,
    ) -> None:
        super().__init__(**sequences)  # type: ignore[arg-type]
        if self.test_lengths:
            raise ValueError(f"test_lengths={self.test_lengths} is not for sequences with an anchor: use []")
        if positive_fraction is not None and self.sampling != "random":
            raise ValueError(
                f"positive_fraction={positive_fraction} is not for sampling={self.sampling}: "
                "use null, or sampling=random"
            )
        self.positive_fraction = positive_fraction

    def check_splits(self) -> None:
        super().check_splits()
        for split, images in self.splits.items():
            if images.labels.bincount(minlength=self.num_classes).min() < 2:
                raise ConfigError(
                    f"a class of dataset={self.source.name} has fewer than 2 {split} images, which an anchor and "
                    "its match need: use more images"
                )

    def sample_images(self, split: Split, length: Tensor, max_length: int, rng: torch.Generator) -> SequenceIndices:
        """Sample an anchor for each of `length` (n,), and images other than it.

        With a `positive_fraction`, whether there is a match is sampled first. If so, one position, sampled uniformly,
        gets an image of the anchor's class and the others get any; if not, all positions get images of other classes.
        """
        labels = self.splits[split].labels
        order = labels.argsort(stable=True)  # images class by class; what follows are positions in it
        starts = torch.searchsorted(labels[order], torch.arange(self.num_classes + 1))
        count, total = len(length), len(labels)
        anchor = torch.randint(total, (count,), generator=rng)
        start, end = starts[labels[order[anchor]]][:, None], starts[labels[order[anchor]] + 1][:, None]
        uniform = torch.rand(count, max_length, generator=rng)
        images = (uniform * (total - 1)).long()  # any image but the anchor
        images = images + (images >= anchor[:, None])
        if self.positive_fraction is not None:
            present = torch.rand(count, 1, generator=rng) < self.positive_fraction
            other = (uniform * (total - (end - start))).long()  # any image of another class
            other = other + (other >= start) * (end - start)
            same = start + (uniform * (end - start - 1)).long()  # another image of the same class
            same = same + (same >= anchor[:, None])
            match_position = (torch.rand(count, 1, generator=rng) * length[:, None]).long()
            is_match = torch.arange(max_length) == match_position
            images = torch.where(present, torch.where(is_match, same, images), other)
        return {"images": order[images], "anchor": order[anchor]}

    def consecutive_windows(self, split: Split, rng: torch.Generator) -> SequenceIndices:
        windows = super().consecutive_windows(split, rng)
        return {**windows, "anchor": windows["images"][:, 0] - 1}

    def assemble(self, split: Split, sequences: SequenceIndices, params: Tensor | None) -> Batch:
        batch = super().assemble(split, sequences, params)
        labels, indices = self.splits[split].labels, sequences["anchor"]
        anchor = self.augmented_images(split, indices, None if params is None else params[:, -1])
        match = (batch["digits"] == labels[indices][:, None]) & batch["mask"]
        return {**batch, "anchor": self.source.normalize(anchor), "match": match, "present": match.any(dim=1)}

    def image_indices(self, sequences: SequenceIndices) -> Tensor:
        return torch.cat([sequences["anchor"][:, None], super().image_indices(sequences)], dim=1)

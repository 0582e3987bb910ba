"""Optional interfaces of models beyond the forward pass. Tasks and evaluations check for them with `isinstance`."""

from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class HasFeatures(Protocol):
    """A classifier whose logits are `head(features(image))`."""

    head: nn.Module

    def features(self, image: Tensor) -> Tensor:
        """Map images (B, C, height, width) to features (B, D)."""
        ...


@runtime_checkable
class Locates(Protocol):
    """An anchor detector that also reports where in the sequence it attends."""

    def locate(self, image: Tensor, mask: Tensor, anchor: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (B,) and the attention weight of each image (B, S)."""
        ...


@runtime_checkable
class OrderSensitive(Protocol):
    """A model of image sequences that may depend on the order of the images, even where the target does not."""

    order_sensitive: bool


@runtime_checkable
class HasMaxLength(Protocol):
    """A model of image sequences of at most `max_length` images."""

    max_length: int

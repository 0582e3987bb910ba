"""A convolutional network in the style of LeNet: the baseline of the image classifiers (see `docs/references.md`)."""

from pydantic import PositiveInt
from torch import Tensor, nn


def lenet_layers(*, image_size: int, in_channels: int, final_pool: bool) -> tuple[list[nn.Module], int]:
    """Return two 5×5 convolutions with pooling and flattening, and the number of features that they give.

    Args:
        image_size: side of the image in pixels.
        in_channels: channels of the image.
        final_pool: whether to pool after the second convolution, too.

    Raises:
        ValueError: if the image is too small.
    """
    side = (image_size - 4) // 2 - 4
    side = side // 2 if final_pool else side
    if side < 1:
        smallest = 16 if final_pool else 14
        raise ValueError(f"image_size={image_size} is too small for two 5×5 convolutions: use {smallest} or more")
    layers = [
        nn.Conv2d(in_channels, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        *([nn.MaxPool2d(2)] if final_pool else []),
        nn.Flatten(),
    ]
    return layers, 16 * side**2


class CNN(nn.Module):
    """Classify images by two 5×5 convolutions, each with pooling, and one linear layer.

    Args:
        image_size: side of the image in pixels.
        in_channels: channels of the image.
        num_classes: number of classes.

    Raises:
        ValueError: if the image is too small.
    """

    def __init__(self, *, image_size: PositiveInt, in_channels: PositiveInt, num_classes: PositiveInt) -> None:
        super().__init__()
        layers, num_features = lenet_layers(image_size=image_size, in_channels=in_channels, final_pool=True)
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(num_features, num_classes)
        nn.init.zeros_(self.head.weight)  # start with a uniform prediction
        nn.init.zeros_(self.head.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Map images (B, C, height, width) to logits (B, num_classes)."""
        return self.head(self.layers(image))

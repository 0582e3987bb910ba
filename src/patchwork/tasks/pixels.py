"""Draw digits: learn the probability of an image, with its class and without (document 002)."""

import math
from typing import Annotated, Any, ClassVar, cast

import torch
from annotated_types import Interval
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from patchwork.data.stream import generator
from patchwork.errors import ConfigError
from patchwork.models.pixel_decoder import PixelDecoder
from patchwork.tasks.base import PROBES, Batch, Sample, Split, Task

Share = Annotated[float, Interval(ge=0, le=1)]


class Pixels(Task):
    """Learn p(image), p(image | class) and p(image | prompt) with one model.

    Measured are `nll`, −log p(image) in nats an image, `class_nll`, −log p(image | class), and the first in
    `bits_per_pixel`. They are exact, and need nothing but the model's own probabilities.

    Args:
        unlabelled, prompted: share of training images of which nothing is told, and of those told by a prompt; of the
            rest the class is told.
    """

    needs: ClassVar = ("image", "label", "prompt")
    calls: ClassVar = {"log_likelihood": ("image", "label")}
    probes: ClassVar = (*PROBES, "causal", "cache")

    def __init__(self, *, unlabelled: Share, prompted: Share, **task: Any) -> None:
        super().__init__(**task)
        if prompted and cast(PixelDecoder, self.model).text is None:
            raise ConfigError(f"task.prompted={prompted} needs a model that reads: set model.text_depth, or 0 here")
        if unlabelled + prompted > 1:
            raise ConfigError(f"task.prompted={prompted} is too much beside task.unlabelled={unlabelled}: both share 1")
        self.unlabelled, self.prompted = unlabelled, prompted

    def metrics(self) -> dict[str, Metric]:
        return {"nll": MeanMetric(), "class_nll": MeanMetric(), "bits_per_pixel": MeanMetric()}

    def step(self, batch: Batch, split: Split) -> Tensor:
        """Return the loss in nats a pixel."""
        image, label = batch["image"], batch["label"]
        model = cast(PixelDecoder, self.model)
        none, pixels = torch.full_like(label, model.none), image[0].numel()
        if split == "train":
            chance = torch.rand(label.shape, device=label.device)
            spoken = (chance >= self.unlabelled) & (chance < self.unlabelled + self.prompted)
            label = torch.where(chance < self.unlabelled, none, label)
            return -model.log_likelihood(image, label, batch["prompt"] * spoken[:, None]).mean() / pixels
        with torch.autocast(
            image.device.type, enabled=False
        ):  # what is measured is exact, however training was rounded
            nll, class_nll = (-model.log_likelihood(image, told) for told in (none, label))
        self.measure(split, nll=(nll,), class_nll=(class_nll,), bits_per_pixel=(nll / pixels / math.log(2),))
        return nll.mean() / pixels

    def outputs(self, batch: Batch) -> Tensor:
        return cast(PixelDecoder, self.model).log_likelihood(batch["image"], batch["label"])  # (B,)

    def tokens(self, batch: Batch) -> Tensor:
        return cast(PixelDecoder, self.model).tokenize(batch["image"]).flatten(1)  # (B, N · K)

    def logits(self, batch: Batch, tokens: Tensor) -> Tensor:
        return cast(PixelDecoder, self.model)(self.picture(batch, tokens), batch["label"]).flatten(1, 2)

    def stepwise(self, batch: Batch, tokens: Tensor) -> Tensor:
        model = cast(PixelDecoder, self.model)
        return model.stepwise(self.picture(batch, tokens), batch["label"]).flatten(1, 2)  # (B, N · K, V)

    def picture(self, batch: Batch, tokens: Tensor) -> Tensor:
        model = cast(PixelDecoder, self.model)
        return model.picture(tokens.unflatten(1, (-1, model.symbols))).to(batch["image"].dtype)

    def written(self, batch: Batch) -> Tensor:
        model = cast(PixelDecoder, self.model)
        noise = torch.zeros(len(batch["label"]), model.length, model.symbols, device=batch["label"].device)
        return model.tokenize(model.generate(batch["label"], noise, top_k=1)).flatten(1)

    def chance(self, batch: Batch) -> float:
        return math.log(cast(PixelDecoder, self.model).levels)

    def samples(self, batch: Batch, count: int) -> list[Sample]:
        """Draw one digit of each of the first classes; they are compared with nothing."""
        model = cast(PixelDecoder, self.model)
        label = torch.arange(count) % model.none
        noise = torch.rand(count, model.length, model.symbols, generator=generator("samples"))
        image = model.generate(label.to(self.device), noise.to(self.device)) / (model.levels - 1)
        return [Sample(one.cpu(), [str(kind)], [str(kind)]) for one, kind in zip(image, label.tolist(), strict=True)]

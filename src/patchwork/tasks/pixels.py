"""Draw digits: learn the probability of an image, with its class and without (document 002)."""

import math
from typing import Annotated, Any, ClassVar, cast

import torch
from annotated_types import Interval
from pydantic import NonNegativeFloat
from torch import Tensor
from torchmetrics import MeanMetric, Metric

from patchwork.data.stream import generator
from patchwork.errors import ConfigError
from patchwork.models.pixel_decoder import PixelDecoder
from patchwork.tasks.base import PROBES, Batch, Sample, Split, Task

Share = Annotated[float, Interval(ge=0, le=1)]


class Pixels(Task):
    """Learn p(image), p(image | class) and p(image | prompt) with one model.

    Measured are `nll`, −log p(image) in nats an image, and `class_nll`, −log p(image | class), as far as they are
    learned, and the first of them in `bits_per_pixel`. They are exact, and need nothing but the model's own
    probabilities.

    A prompt learns what it says by the images that it is told of, and faster by agreeing with the class it asks for.

    Args:
        unlabelled, prompted: share of training images of which nothing is told, and of those told by a prompt; of the
            rest the class is told.
        agreement: weight of the squared distance between what a prompt and its class say; all prompts of a batch are
            read for it.
    """

    needs: ClassVar = ("image", "label", "prompt")
    calls: ClassVar = {"log_likelihood": ("image", "label")}
    probes: ClassVar = (*PROBES, "causal", "cache")
    pictured: ClassVar = "drawn, one of each class in turn"

    def __init__(self, *, unlabelled: Share, prompted: Share, agreement: NonNegativeFloat = 0.0, **task: Any) -> None:
        if unlabelled + prompted > 1:
            raise ConfigError(f"task.prompted={prompted} is too much beside task.unlabelled={unlabelled}: both share 1")
        self.unlabelled, self.prompted, self.agreement = unlabelled, prompted, agreement
        super().__init__(**task)
        reads = cast(PixelDecoder, self.model).text is not None
        if reads is not (prompted > 0):
            wanted = "a model that reads, with model.text_depth above 0" if prompted else "model.text_depth=0, too"
            raise ConfigError(f"task.prompted={prompted} wants {wanted}")

    @property
    def names_classes(self) -> bool:
        """Whether the model learns what classes are."""
        return self.unlabelled + self.prompted < 1

    def metrics(self) -> dict[str, Metric]:
        alone = {"nll": MeanMetric()} if self.unlabelled else {}
        given = {"class_nll": MeanMetric()} if self.names_classes else {}
        return {**alone, **given, "bits_per_pixel": MeanMetric()}

    def step(self, batch: Batch, split: Split) -> Tensor:
        """Return the loss in nats a pixel, and in training what prompts lack in agreement."""
        image, label = batch["image"], batch["label"]
        model = cast(PixelDecoder, self.model)
        none, pixels = torch.full_like(label, model.none), image[0].numel()
        if split == "train":
            chance = torch.rand(label.shape, device=label.device)
            spoken = (chance >= self.unlabelled) & (chance < self.unlabelled + self.prompted)
            named = torch.where(chance < self.unlabelled, none, label)
            loss = -model.log_likelihood(image, named, batch["prompt"] * spoken[:, None]).mean() / pixels
            if self.prompted and self.names_classes:
                loss = loss + self.agreement * model.disagreement(label, batch["prompt"])
            return loss
        told = {"nll": none} if self.unlabelled else {}
        told |= {"class_nll": label} if self.names_classes else {}
        with torch.autocast(image.device.type, enabled=False):  # what is measured is exact
            found = {name: -model.log_likelihood(image, what) for name, what in told.items()}
            first = next(iter(found.values())) if found else -model.log_likelihood(image, label, batch["prompt"])
        measured = {name: (values,) for name, values in found.items()}
        self.measure(split, **measured, bits_per_pixel=(first / pixels / math.log(2),))
        return first.mean() / pixels

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
        noise = torch.zeros(len(batch["label"]), model.length, model.symbols, 1, device=batch["label"].device)
        return model.tokenize(model.generate(batch["label"], noise)).flatten(1)

    def chance(self, batch: Batch) -> float:
        return math.log(cast(PixelDecoder, self.model).levels)

    def samples(self, batch: Batch, count: int) -> list[Sample]:
        """Draw one digit of each of the first classes."""
        model = cast(PixelDecoder, self.model)
        label = torch.arange(count) % model.none
        noise = model.noise(count, generator("samples"))
        image = model.generate(label.to(self.device), noise) / (model.levels - 1)
        return [Sample(one.cpu(), None, [str(kind)]) for one, kind in zip(image, label.tolist(), strict=True)]

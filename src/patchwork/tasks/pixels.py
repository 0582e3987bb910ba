"""Learn the distribution of images, with and without their class or a prompt.

Follows the pixel project, see `docs/references.md`.
"""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from patchwork.core.errors import ConfigError
from patchwork.core.schema import choice_name
from patchwork.core.types import Fraction
from patchwork.data.base import Batch, Split
from patchwork.data.rng import make_rng
from patchwork.models.generator import (
    Generator,
    LikelihoodGenerator,
    PromptGenerator,
    SamplingOptions,
    TokenGenerator,
    generate,
    missing_members,
)
from patchwork.tasks.autoregressive import AutoregressiveTask
from patchwork.tasks.base import BASE_CHECKS, Sample
from patchwork.tasks.predictions import Predictions

GREEDY = SamplingOptions(temperature=0)


class Pixels(AutoregressiveTask):
    """Learn p(image), p(image | class) and p(image | prompt) with one generator.

    Metrics are `nll`, −log p(image), and `class_nll`, −log p(image | class), in nats per image, as far as they are
    trained, and the first of them as `bits_per_pixel`. They follow from the model's likelihood alone: if it is a bound,
    so are they, and without a likelihood there are none.

    Prompts are learned from the images that they come with, and faster with a loss that aligns them with the class that
    they ask for.

    Args:
        model: a `Generator`, see `patchwork.models.generator`.
        uncond_prob: fraction of the training images without a condition, for p(image) and classifier-free guidance.
        prompt_prob: fraction of the training images with a prompt; the rest have their class.
        alignment_weight: weight of the squared distance between the embeddings of all prompts of a batch and of their
            classes.

    Raises:
        ConfigError: if the model is not a `Generator`, or the fractions exceed 1 or do not fit its text encoder.
    """

    required_keys: ClassVar = ("image", "label", "prompt")
    model_interface: ClassVar = {"loss": ("image", "label"), "sample": ("label", "rng")}
    takes_single_images: ClassVar = False
    has_answers: ClassVar = False
    saves_predictions: ClassVar = False  # a likelihood costs a pass over all tokens of an image
    samples_title: ClassVar = "generated, one of each class in turn"

    def __init__(
        self,
        *,
        model: nn.Module,
        uncond_prob: Fraction,
        prompt_prob: Fraction,
        alignment_weight: NonNegativeFloat = 0.0,
        **task: Any,
    ) -> None:
        if uncond_prob + prompt_prob > 1:
            raise ConfigError(
                f"task.uncond_prob + task.prompt_prob = {uncond_prob:g} + {prompt_prob:g} must not exceed 1"
            )
        self.uncond_prob = uncond_prob
        self.prompt_prob = prompt_prob
        self.alignment_weight = alignment_weight
        if missing := missing_members(model):
            raise ConfigError(
                f"model={choice_name(type(model))} does not fit task={choice_name(type(self))}, which needs a "
                f"generator: it lacks {', '.join(missing)}"
            )
        super().__init__(model=model, **task)
        if prompt_prob and not self.generator.has_text_encoder:
            raise ConfigError(f"task.prompt_prob={prompt_prob} needs a text encoder: set model.text_encoder_depth > 0")
        if not prompt_prob and self.generator.has_text_encoder:
            raise ConfigError("task.prompt_prob=0 leaves the text encoder untrained: set model.text_encoder_depth=0")

    @property
    def generator(self) -> Generator:
        return cast(Generator, self.model)

    @property
    def checks(self) -> tuple[str, ...]:  # type: ignore[override]
        checks = [*BASE_CHECKS]
        if self.generator.likelihood is None:  # its loss is not comparable with that of a uniform distribution
            checks = [check for check in checks if check not in ("initial_loss", "overfit_one_batch")]
        if isinstance(self.model, TokenGenerator):
            checks += ["causality", "kv_cache_equivalence"]
        return tuple(checks)

    @property
    def class_conditional(self) -> bool:
        """Return whether some training images come with their class."""
        return self.uncond_prob + self.prompt_prob < 1

    def build_metrics(self) -> dict[str, Metric]:
        metrics: dict[str, Metric] = {}
        if self.generator.likelihood is None:
            return metrics
        if self.uncond_prob:
            metrics["nll"] = MeanMetric()
        if self.class_conditional:
            metrics["class_nll"] = MeanMetric()
        return {**metrics, "bits_per_pixel": MeanMetric()}

    def step(self, batch: Batch, split: Split) -> Tensor:
        """Return the loss in nats per pixel, in training with the alignment loss of prompts."""
        num_pixels = batch["image"][0].numel()
        if split == "train":
            return self.training_loss(batch, num_pixels)
        with torch.autocast(batch["image"].device.type, enabled=False):  # metrics are not rounded to bfloat16
            losses = {name: self.loss_given(batch, name) for name in self.eval_conditions}
        first = losses[self.eval_conditions[0]]  # (B,)
        if self.generator.likelihood is not None:
            nlls = {name: (loss,) for name, loss in losses.items() if name != "prompt_nll"}
            self.update_metrics(split, **nlls, bits_per_pixel=(first / num_pixels / math.log(2),))
        return first.mean() / num_pixels

    def training_loss(self, batch: Batch, num_pixels: int) -> Tensor:
        """Return the loss with a random condition for each image: none, its prompt or its class."""
        label, prompt = batch["label"], batch["prompt"]
        choice = torch.rand(label.shape, device=label.device)
        prompted = (choice >= self.uncond_prob) & (choice < self.uncond_prob + self.prompt_prob)
        null = torch.full_like(label, self.generator.null_class)
        classes = torch.where(choice < self.uncond_prob, null, label)
        loss = self.generator.loss(batch["image"], classes, prompt * prompted[:, None]).mean() / num_pixels
        if self.prompt_prob and self.class_conditional:
            alignment_loss = cast(PromptGenerator, self.model).prompt_alignment_loss(label, prompt)
            loss = loss + self.alignment_weight * alignment_loss
        return loss

    @property
    def eval_conditions(self) -> list[str]:
        """Return the names of the negative log-likelihoods that are evaluated; the first is the validation loss."""
        names = ["nll"] if self.uncond_prob else []
        names += ["class_nll"] if self.class_conditional else []
        return names or ["prompt_nll"]

    def loss_given(self, batch: Batch, name: str) -> Tensor:
        """Return −log p, or the training loss of a model without likelihood, of each image (B,) under a condition.

        The condition is none for `nll`, the class for `class_nll` and the prompt for `prompt_nll`.
        """
        image, label, prompt = batch["image"], batch["label"], None
        if name == "nll":
            label = torch.full_like(label, self.generator.null_class)
        if name == "prompt_nll":
            prompt = batch["prompt"]
        if self.generator.likelihood is None:
            return self.generator.loss(image, label, prompt)
        return -cast(LikelihoodGenerator, self.model).log_likelihood(image, label, prompt)

    def answer_logits(self, batch: Batch, answers: Tensor | None = None) -> Tensor:
        raise NotImplementedError("a generated image is no answer")

    def forward(self, batch: Batch) -> Tensor:
        """Return log p(image | class) of each image (B,), or the negative loss of a model without likelihood."""
        return -self.loss_given(batch, "class_nll")

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Predictions:
        """Predict a log-likelihood for each image, under the first of `eval_conditions`; the targets are labels.

        It is log p in nats, or a lower bound on it, or the negative training loss of a model without likelihood.
        """
        with torch.autocast(batch["image"].device.type, enabled=False):
            log_likelihood = -self.loss_given(batch, self.eval_conditions[0])  # (B,)
        return self.make_predictions(batch, batch["label"], log_likelihood)

    def uniform_loss(self, batch: Batch) -> float:
        return math.log(self.generator.num_levels)

    # --- tokens ---

    @property
    def token_generator(self) -> TokenGenerator:
        return cast(TokenGenerator, self.model)

    def tokens(self, batch: Batch) -> Tensor:
        return self.token_generator.tokenize(batch["image"]).flatten(1)  # (B, N · K)

    def logits(self, batch: Batch, tokens: Tensor) -> Tensor:
        image = self.detokenize(batch, tokens)
        return self.token_generator(image, batch["label"]).flatten(1, 2)  # (B, N · K, V)

    def generate_tokens(self, batch: Batch) -> Tensor:
        image = generate(self.generator, batch["label"], torch.Generator(), options=GREEDY)
        return self.token_generator.tokenize(image).flatten(1)  # (B, N · K)

    def cached_logits(self, batch: Batch, tokens: Tensor) -> Tensor:
        return self.token_generator.cached_logits(self.detokenize(batch, tokens), batch["label"]).flatten(1, 2)

    def detokenize(self, batch: Batch, tokens: Tensor) -> Tensor:
        """Return the images (B, 1, height, width) that `tokens` (B, N · K) stand for."""
        num_patches = self.token_generator.tokenize(batch["image"][:1]).shape[1]
        patches = tokens.unflatten(1, (num_patches, -1))
        return self.token_generator.detokenize(patches).to(batch["image"].dtype)

    # --- display ---

    def summary(self, metrics: Mapping[str, float], num_samples: int) -> str:
        name = next((f"test/{name}" for name in ("nll", "class_nll") if f"test/{name}" in metrics), None)
        if name is None:
            return "no likelihood: look at the generated images, or score them with `patchwork evaluate`"
        bound = "at most " if self.generator.likelihood == "bound" else ""
        given = ", given their class" if name == "test/class_nll" else ""
        bits, uniform = metrics["test/bits_per_pixel"], math.log2(self.generator.num_levels)
        return (
            f"{num_samples:,} test images take {bound}{metrics[name]:.2f} nats each to describe{given}: "
            f"{bits:.4f} bits per pixel, where guessing takes {uniform:g}; less is better"
        )

    @property
    def answer_name(self) -> str:
        return "negative_loss" if self.generator.likelihood is None else "log_likelihood"

    def samples(self, batch: Batch, count: int) -> list[Sample]:
        """Generate images of the first classes in turn."""
        label = torch.arange(count) % self.generator.num_classes
        image = generate(self.generator, label.to(self.device), make_rng("samples")) / (self.generator.num_levels - 1)
        return [
            Sample(picture, None, [name]) for picture, name in zip(image.cpu(), self.format_answers(label), strict=True)
        ]

    def format_answers(self, answers: Tensor) -> list[str]:
        """Return the names of classes (B,), or log-likelihoods (B,) with two decimals."""
        if answers.is_floating_point():
            return [f"{answer:.2f}" for answer in answers.tolist()]
        return self.format_classes(answers)

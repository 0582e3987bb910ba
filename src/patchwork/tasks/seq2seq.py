"""Read the digits of a grid in reading order, as a sequence of tokens.

1. Training is teacher-forced: predict each token from the image and the true tokens before it, end-of-sequence last.
2. Validation and test decode greedily, as predictions do; with teacher forcing, accuracies would be too high.

Follows the grid project and the ViT project, see `docs/references.md`.
"""

import math
from collections.abc import Mapping
from typing import ClassVar, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from patchwork.data.base import Batch, Split
from patchwork.models import EncoderDecoder
from patchwork.models.ensemble import EncoderDecoderEnsemble
from patchwork.tasks.autoregressive import AutoregressiveTask
from patchwork.tasks.base import BASE_CHECKS, Sample, to_unit_range
from patchwork.tasks.metrics import Accuracy, RunningFraction
from patchwork.tasks.predictions import ClassAnswers, Predictions, log_softmax
from patchwork.tasks.summary import summarize_accuracy


class DigitAccuracy(RunningFraction):
    """The fraction of digits that are correct."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add sequences of tokens, both (B, T)."""
        self.correct += (preds == target).sum()
        self.total += target.numel()


class CellAccuracy(RunningFraction):
    """The fraction of digits that are correct in each cell of the grid, as `row_col` from the top left."""

    def __init__(self, rows: int, cols: int) -> None:
        super().__init__(rows * cols)
        self.cells = [f"{row}_{col}" for row in range(rows) for col in range(cols)]

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add sequences of tokens, both (B, rows·cols)."""
        self.correct += (preds == target).sum(dim=0)
        self.total += len(target)

    def compute(self) -> dict[str, Tensor]:  # type: ignore[override]
        accuracies = self.correct / self.total
        return {f"cell_accuracy/{cell}": value for cell, value in zip(self.cells, accuracies, strict=True)}


class Seq2Seq(AutoregressiveTask):
    """Predict the digits of an image in reading order, and the end of the sequence."""

    model: EncoderDecoder

    required_keys: ClassVar = ("image", "digits")
    model_interface: ClassVar = {
        "forward": ("image", "tokens"),
        "encode": ("image",),
        "decode": ("memory", "tokens"),
        "greedy_decode": ("memory",),
        "make_caches": ("memory", "length"),
    }
    model_attributes: ClassVar = ("rows", "cols", "bos_id", "eos_id")
    samples_name: ClassVar = "grids"
    solved: ClassVar = "are read without an error"
    symbols: ClassVar = {"$": "the end of the sequence, predicted too early", "^": "its beginning, predicted again"}
    checks: ClassVar = (*BASE_CHECKS, "position_sensitivity", "causality", "kv_cache_equivalence")

    def build_metrics(self) -> dict[str, Metric]:
        return {
            "sequence_accuracy": Accuracy(),
            "digit_accuracy": DigitAccuracy(),
            "cell_accuracy": CellAccuracy(self.model.rows, self.model.cols),
        }

    def forward(self, batch: Batch) -> Tensor:
        """Return the teacher-forced logits (B, T + 1, V)."""
        return self.logits(batch, self.tokens(batch))

    def step(self, batch: Batch, split: Split) -> Tensor:
        memory = self.model.encode(batch["image"])  # (B, N, D)
        target = self.tokens(batch)  # (B, T + 1)
        logits = self.model.decode(memory, self.shift_right(target))  # (B, T + 1, V)
        if split != "train":
            preds, digits = self.model.greedy_decode(memory), batch["digits"]  # (B, T), (B, T)
            self.update_metrics(
                split, sequence_accuracy=(preds, digits), digit_accuracy=(preds, digits), cell_accuracy=(preds, digits)
            )
            if self.test_predictions is not None:
                self.collect(split, self.decoded_predictions(batch, memory, preds))
        return F.cross_entropy(rearrange(logits, "b t v -> (b t) v"), target.flatten())

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Predictions:
        """Decode the images of a batch greedily; see `decoded_predictions`."""
        memory = self.model.encode(batch["image"])  # (B, N, D)
        return self.decoded_predictions(batch, memory, self.model.greedy_decode(memory))

    def decoded_predictions(self, batch: Batch, memory: Tensor, tokens: Tensor) -> Predictions:
        """Return decoded tokens (B, T) with the log-probabilities (B, T, V) of all tokens along that path."""
        logits = self.model.decode(memory, self.shift_right(tokens))  # (B, T, V)
        finished = self.shift_right(tokens) == self.model.eos_id  # (B, T)
        log_probs = log_softmax(logits)
        only_eos = torch.full_like(log_probs[0, 0], -torch.inf)
        only_eos[self.model.eos_id] = 0  # whatever follows the end-of-sequence token is that token
        log_probs = torch.where(finished[..., None], only_eos, log_probs)
        return self.make_predictions(batch, batch.get("digits"), tokens, log_probs)

    def answer_logits(self, batch: Batch, answers: Tensor | None = None) -> Tensor:
        """Return the logits (B, T, V) along decoded answers (B, T), by default those that are decoded greedily."""
        return self.logits(batch, self.generate_tokens(batch) if answers is None else answers)

    def class_answers(self, predictions: Predictions) -> dict[str, ClassAnswers]:
        """Return the answers of all cells and of each; those before the end of a sequence may be its end."""
        assert predictions.target is not None
        count, length = predictions.prediction.shape
        sample = torch.arange(count)[:, None].expand(count, length)
        cell = torch.arange(length).expand(count, length)
        image_id = predictions.image_ids.expand(-1, length)  # of whole images, if not of cells
        names = tuple(map(str, range(self.model.bos_id)))
        cells = {
            f"row {i // self.model.cols + 1}, col {i % self.model.cols + 1}": slice(i, i + 1) for i in range(length)
        }
        return {
            name: ClassAnswers(
                predictions.target[:, part].flatten(),
                predictions.prediction[:, part].flatten(),
                sample[:, part].flatten(),
                cell[:, part].flatten(),
                image_id[:, part].flatten(),
                names,
                ("begin", "end"),
            )
            for name, part in {"all cells": slice(None), **cells}.items()
        }

    def uniform_loss(self, batch: Batch) -> float:
        return math.log(self.model.eos_id + 1)

    def make_ensemble(self, models: list[nn.Module]) -> nn.Module:
        return EncoderDecoderEnsemble(cast(list[EncoderDecoder], models))

    # --- tokens ---

    @property
    def eos_id(self) -> int:
        return self.model.eos_id

    def shift_right(self, tokens: Tensor) -> Tensor:
        """Return decoder inputs (B, T) that predict `tokens` (B, T): those before each, after beginning-of-sequence."""
        return F.pad(tokens[:, :-1], (1, 0), value=self.model.bos_id)

    def tokens(self, batch: Batch) -> Tensor:
        return F.pad(batch["digits"], (0, 1), value=self.model.eos_id)  # (B, T + 1)

    def logits(self, batch: Batch, tokens: Tensor) -> Tensor:
        return self.model(batch["image"], self.shift_right(tokens))

    def generate_tokens(self, batch: Batch) -> Tensor:
        return self.model.greedy_decode(self.model.encode(batch["image"]))  # (B, T)

    def cached_logits(self, batch: Batch, tokens: Tensor) -> Tensor:
        memory = self.model.encode(batch["image"])  # (B, N, D)
        caches = self.model.make_caches(memory, tokens.shape[1])
        inputs = self.shift_right(tokens).split(1, dim=1)
        return torch.cat([self.model.decode(memory, token, caches) for token in inputs], dim=1)  # (B, T, V)

    # --- display ---

    def summary(self, metrics: Mapping[str, float], num_samples: int) -> str:
        accuracy = metrics["test/sequence_accuracy"]
        return summarize_accuracy(accuracy, num_samples, f"{self.samples_name} {self.solved}", chance=self.chance)

    @property
    def chance(self) -> float:
        num_classes = self.model.bos_id  # whose id follows theirs
        return num_classes ** -(self.model.rows * self.model.cols)

    def samples(self, batch: Batch, count: int) -> list[Sample]:
        batch = {name: values[:count] for name, values in batch.items()}
        preds = self.predict_step(batch, 0).prediction  # (B, T)
        return [
            Sample(
                picture,
                self.token_names(target),
                self.token_names(tokens),
                rows=self.model.rows,
                cols=self.model.cols,
            )
            for picture, target, tokens in zip(to_unit_range(batch["image"]), batch["digits"], preds, strict=True)
        ]

    def format_answers(self, answers: Tensor) -> list[str]:
        return ["".join(self.token_names(tokens)) for tokens in answers]

    def token_names(self, tokens: Tensor) -> list[str]:
        """Return tokens (T,) as text: digits, ^ for beginning-of-sequence and $ for end-of-sequence."""
        special = {self.model.bos_id: "^", self.model.eos_id: "$"}
        return [special.get(token, str(token)) for token in tokens.tolist()]

"""Random numbers of a training step."""

from typing import Any

import pytorch_lightning as pl
import torch

from patchwork.data.rng import derive_seed


class SeedEveryStep(pl.Callback):
    """Seed torch before every batch from (seed, epoch, batch, rank).

    Dropout in a resumed run is then the same as in an uninterrupted one, without a random state in the checkpoint.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        torch.manual_seed(derive_seed("dropout", self.seed, trainer.current_epoch, batch_idx, trainer.global_rank))

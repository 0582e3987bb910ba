"""The logged training loss and learning rate."""

from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from patchwork.training.loggers import CSVMetricsLogger
from patchwork.training.loss_logger import LossLogger


class FixedLosses(pl.LightningModule):
    """A task whose loss is the batch itself."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = batch.float() + 0 * self.weight
        self.loss = loss.detach()
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.25)


@pytest.mark.parametrize(
    ("every_n_steps", "accumulate", "expected"),
    [
        (1, 1, {1: 0.0, 2: 1.0, 3: 2.0, 4: 3.0, 5: 4.0}),
        (2, 1, {2: 1.0, 4: 3.0}),
        (1, 2, {1: 0.5, 2: 2.5, 3: 4.0}),  # the last step of an epoch may have fewer batches
    ],
)
def test_logged_loss_is_the_mean_over_accumulated_batches(
    tmp_path: Path, every_n_steps: int, accumulate: int, expected: dict[int, float]
) -> None:
    logger = CSVMetricsLogger(tmp_path)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        accumulate_grad_batches=accumulate,
        callbacks=[LossLogger(every_n_steps)],
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(FixedLosses(), DataLoader(torch.arange(5), batch_size=None))
    assert {step: row["train/loss"] for step, row in logger.rows.items()} == expected
    assert all(row["lr"] == 0.25 for row in logger.rows.values())

"""The logged training loss and learning rate."""

from pathlib import Path
from typing import Any, ClassVar

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from patchwork.training.loggers import CSVMetricsLogger
from patchwork.training.loss_logger import LossLogger
from patchwork.training.optimizers import MuonWithAdamW, adamw, learning_rates


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


def fit(task: pl.LightningModule, run_dir: Path, callback: pl.Callback, **arguments: Any) -> CSVMetricsLogger:
    """Fit a task to the losses 0 to 4 and return what was logged."""
    logger = CSVMetricsLogger(run_dir)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        callbacks=[callback],
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **arguments,
    )
    trainer.fit(task, DataLoader(torch.arange(5), batch_size=None))
    return logger


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
    logger = fit(FixedLosses(), tmp_path, LossLogger(every_n_steps), accumulate_grad_batches=accumulate)
    assert {step: row["train/loss"] for step, row in logger.rows.items()} == expected
    assert all(row["lr"] == 0.25 for row in logger.rows.values())


def test_logged_learning_rate_is_the_one_that_the_step_used(tmp_path: Path) -> None:
    class Scheduled(FixedLosses):
        used: ClassVar[list[float]] = []

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

        def on_before_zero_grad(self, optimizer: torch.optim.Optimizer) -> None:
            self.used.append(optimizer.param_groups[0]["lr"])

    logger = fit(Scheduled(), tmp_path, LossLogger(1))
    assert [row["lr"] for row in logger.rows.values()] == Scheduled.used == [1.0, 0.5, 0.25, 0.125, 0.0625]


def test_first_and_last_loss_survive_a_checkpoint(tmp_path: Path) -> None:
    callback, other = LossLogger(1000), LossLogger(1000)
    fit(FixedLosses(), tmp_path, callback)
    other.load_state_dict(callback.state_dict())
    assert (other.first_loss, other.last_loss) == (callback.first_loss, callback.last_loss) == (0.0, 4.0)


def test_each_group_with_a_learning_rate_of_its_own_has_a_column() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.LayerNorm(2))
    assert learning_rates(adamw(model, lr=0.5, betas=[0.9, 0.9], weight_decay=0.1)) == {"lr": 0.5}
    muon = MuonWithAdamW(
        model, lr=0.5, momentum=0.9, weight_decay=0, adamw_lr=0.1, adamw_betas=[0.9, 0.9], adamw_weight_decay=0
    )
    assert learning_rates(muon) == {"lr/muon": 0.5, "lr/adamw": 0.1}
    groups = [{"params": [layer.weight], "lr": lr} for layer, lr in zip(model, (1.0, 2.0), strict=False)]
    assert learning_rates(torch.optim.SGD(groups)) == {"lr/0": 1.0, "lr/1": 2.0}

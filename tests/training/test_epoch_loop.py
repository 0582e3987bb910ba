"""When a training validates and where it ends; accumulated steps; what is said of its end."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import CONF
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from torch.utils.data import DataLoader

from patchwork.core.errors import NumericError
from patchwork.tasks import Task
from patchwork.training.loss_logger import LossLogger
from patchwork.training.outcome import training_outcome
from patchwork.training.step_counts import num_steps, num_validations
from patchwork.training.trainer import Trainer, translate_lightning_errors

NUM_BATCHES = 10


class Regression(pl.LightningModule):
    """A task of one linear layer, which records after how many steps it is validated."""

    training_step = Task.training_step
    short_window_factor = Task.short_window_factor
    configure_gradient_clipping = Task.configure_gradient_clipping

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 1)
        nn.init.constant_(self.layer.weight, 0.5)
        nn.init.zeros_(self.layer.bias)
        self.validated: list[int] = []
        self.factor = 1.0  # of the loss

    def step(self, batch: Tensor, split: str) -> Tensor:
        return self.factor * (self.layer(batch) - batch.sum(dim=1, keepdim=True)).square().mean()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None: ...

    def on_validation_epoch_end(self) -> None:
        self.validated.append(self.global_step)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trainer_config(**values: Any) -> DictConfig:
    """Return the default configuration of the Trainer for three epochs on a CPU, with these values."""
    config = OmegaConf.load(CONF / "trainer" / "default.yaml")
    return OmegaConf.merge(config, {"accelerator": "cpu", "max_epochs": 3, "gradient_clip_val": None, **values})


def fit(*callbacks: pl.Callback, batches: list[Tensor] | None = None, **values: Any) -> tuple[Regression, Trainer]:
    """Fit a regression to batches (n, 3), by default to ten."""
    task = Regression()
    trainer = instantiate(trainer_config(**values), _convert_="all")
    trainer.callbacks = [*trainer.callbacks, *callbacks]
    batches = batches or [torch.ones(2, 3)] * NUM_BATCHES
    with translate_lightning_errors():
        trainer.fit(task, DataLoader(batches, batch_size=None), DataLoader([torch.ones(2, 3)], batch_size=None))
    return task, trainer


@pytest.mark.parametrize(
    ("values", "validated"),
    [
        ({}, [10, 20, 30]),
        ({"max_steps": 13}, [10, 13]),
        ({"max_steps": 5}, [5]),
        ({"max_steps": 20}, [10, 20]),
        ({"max_epochs": -1, "max_steps": 13}, [10, 13]),
        ({"check_val_every_n_epoch": 2}, [20, 30]),
        ({"check_val_every_n_epoch": 5}, [30]),
        ({"check_val_every_n_epoch": 2, "max_steps": 15}, [15]),
        ({"val_check_interval": 0.5, "max_epochs": 2}, [5, 10, 15, 20]),
        ({"val_check_interval": 0.3, "max_epochs": 2}, [3, 6, 9, 13, 16, 19, 20]),
        ({"val_check_interval": 4, "max_epochs": 2}, [4, 8, 14, 18, 20]),
        ({"val_check_interval": 7, "check_val_every_n_epoch": None}, [7, 14, 21, 28, 30]),
        ({"val_check_interval": 40, "check_val_every_n_epoch": None}, [30]),
        ({"val_check_interval": 7, "check_val_every_n_epoch": None, "max_steps": 15}, [7, 14, 15]),
        ({"limit_train_batches": 4, "max_steps": 6}, [4, 6]),
        ({"limit_train_batches": 0.5}, [5, 10, 15]),
        ({"limit_val_batches": 0}, []),
        ({"limit_val_batches": 0.0, "max_steps": 5}, []),
        ({"overfit_batches": 2}, [2, 4, 6]),
        ({"overfit_batches": 2, "limit_val_batches": 0}, [2, 4, 6]),
        ({"fast_dev_run": True}, [1]),
        ({"fast_dev_run": 3}, [3]),
        ({"accumulate_grad_batches": 4}, [3, 6, 9]),
        ({"accumulate_grad_batches": 4, "val_check_interval": 0.5, "max_epochs": 2}, [2, 3, 5, 6]),
        ({"accumulate_grad_batches": 4, "val_check_interval": 2, "max_epochs": 2}, [1, 2, 3, 4, 5, 6]),
        ({"accumulate_grad_batches": 4, "max_steps": 5}, [3, 5]),
        ({"accumulate_grad_batches": 4, "val_check_interval": 7, "check_val_every_n_epoch": None}, [2, 4, 7, 8, 9]),
        ({"accumulate_grad_batches": 20}, [1, 2, 3]),
    ],
)
def test_training_validates_after_whole_steps_and_where_it_ends(values: dict[str, Any], validated: list[int]) -> None:
    task, trainer = fit(**values)
    assert task.validated == validated
    assert num_steps(trainer_config(**values), NUM_BATCHES) == trainer.global_step
    assert num_validations(trainer_config(**values), NUM_BATCHES) == len(validated)


@pytest.mark.parametrize("accumulated", [1, 4])  # 13 batches are in the middle of a step
def test_training_that_is_stopped_validates_where_it_ends(accumulated: int) -> None:
    class StopAfter(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
            trainer.should_stop = trainer.fit_loop.total_batch_idx >= 12  # as Lightning's timer does

    task, trainer = fit(
        StopAfter(), LossLogger(1), check_val_every_n_epoch=5, accumulate_grad_batches=accumulated, max_epochs=100
    )
    assert task.validated == [13 if accumulated == 1 else 4]
    outcome = training_outcome(trainer, overfits=False)
    assert outcome["stopped_by"] == "max_time"
    assert outcome["planned_steps"] == (1000 if accumulated == 1 else 300)
    assert outcome["lr_ratio"] == pytest.approx(1 / (outcome["steps"] + 1), abs=1e-6)


def test_number_of_validations_of_a_long_training_is_known_at_once() -> None:
    config = trainer_config(max_epochs=10**9, max_steps=10**12, check_val_every_n_epoch=2, val_check_interval=0.25)
    assert num_validations(config, 1000) == 2 * 10**9
    assert num_validations(trainer_config(max_epochs=-1), 10) == 0  # which no Trainer accepts


@pytest.mark.parametrize("sizes", [(2, 2, 1), (2, 2, 2), (1,)])
def test_accumulated_step_is_the_step_of_one_large_batch(sizes: tuple[int, ...]) -> None:
    batches = list(torch.randn(sum(sizes), 4, 3, generator=torch.Generator().manual_seed(0)))
    large = [torch.cat(batches[sum(sizes[:index]) :][:size]) for index, size in enumerate(sizes)]
    accumulated, trainer = fit(batches=batches, accumulate_grad_batches=2, max_epochs=2)
    expected, _ = fit(batches=large, max_epochs=2)
    assert trainer.global_step == 2 * len(sizes)
    torch.testing.assert_close(accumulated.state_dict(), expected.state_dict())


def test_each_gradient_is_clipped_by_value() -> None:
    task, _ = fit(gradient_clip_val=0.001, gradient_clip_algorithm="value", max_steps=1)
    steps = torch.cat([task.layer.weight.flatten() - 0.5, task.layer.bias])
    torch.testing.assert_close(steps.abs(), torch.full((4,), 0.01 * 0.001), rtol=0.01, atol=0)


@pytest.mark.filterwarnings("ignore:Error detected in")
def test_detected_anomaly_is_a_numeric_error() -> None:
    with pytest.raises(NumericError, match=r"returned nan values in its 0th output; trainer\.detect_anomaly=true"):
        fit(batches=[torch.full((2, 3), torch.inf)], detect_anomaly=True)


@pytest.mark.parametrize(
    ("values", "overfits", "text"),
    [
        ({"fast_dev_run": True}, False, "tried on one batch each"),
        ({"fast_dev_run": 2}, False, "tried on up to 2 batches each"),
        ({"max_steps": 1}, True, "overfitting failed so far: on the same batches the training loss went from 2.25 to"),
        ({}, False, None),
    ],
)
def test_outcome_says_whether_a_run_that_is_no_result_did_what_it_should(
    values: dict[str, Any], overfits: bool, text: str | None
) -> None:
    _, trainer = fit(LossLogger(1000), **values)
    outcome = training_outcome(trainer, overfits=overfits)
    assert outcome["trial"].find(text) >= 0 if text else "trial" not in outcome
    assert outcome["stopped_by"] == ("max_steps" if "fast_dev_run" in values or "max_steps" in values else "max_epochs")
    assert outcome["steps"] == outcome["planned_steps"]


def test_batch_is_overfitted_once_its_loss_has_fallen_to_a_tenth() -> None:
    logger = LossLogger(1000)
    _, trainer = fit(logger, max_steps=2)
    assert logger.first_loss is not None
    logger.first_loss *= 10
    assert "overfitting works" in training_outcome(trainer, overfits=True)["trial"]

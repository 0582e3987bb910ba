"""When a training validates: as Lightning has it, and also where it ends."""

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loops.training_epoch_loop import _TrainingEpochLoop


class EpochLoop(_TrainingEpochLoop):
    """Lightning's loop over the batches of an epoch, which also validates after the last step of a training.

    A training may end within an epoch (`max_steps`, `max_time`), or with an epoch that `check_val_every_n_epoch` leaves
    out: without a validation there, its last steps, those of the lowest learning rates, would be lost.

    Validations and the end of a training wait for the optimizer step that the current batch is accumulated for.
    """

    @property
    def done(self) -> bool:
        return super().done and not self._should_accumulate()

    def validation_follows(self) -> bool:
        """Return whether a validation follows the current batch."""
        trainer = self.trainer
        if not trainer.enable_validation or self._should_accumulate():
            return False
        if self.ends_training():
            return True
        if not self._should_check_val_epoch():
            return False
        across_epochs = trainer.check_val_every_n_epoch is None
        num_batches = (self.total_batch_idx if across_epochs else self.batch_idx) + 1
        num_accumulated = self.batch_idx % trainer.accumulate_grad_batches + 1
        interval = trainer.val_check_batch or 1  # set before the first batch
        return num_batches // interval > (num_batches - num_accumulated) // interval

    def ends_training(self) -> bool:
        """Return whether the current batch is the last of the training."""
        trainer = self.trainer
        if trainer.should_stop and trainer.fit_loop._can_stop_early:
            return True
        if self.max_steps != -1 and self.global_step >= self.max_steps:
            return True
        epochs = trainer.max_epochs or -1
        return epochs > 0 and trainer.current_epoch + 1 >= epochs and self._num_ready_batches_reached()

    def can_save(self) -> bool:
        """Return whether a training that is resumed from the state after the current batch goes on exactly.

        It does after an optimizer step that neither a validation nor the end of an epoch follows.
        """
        return not (self._should_accumulate() or self._num_ready_batches_reached() or self.validation_follows())

    def _should_check_val_fx(self, data_fetcher: Any) -> bool:
        return self.validation_follows()


def install_epoch_loop(trainer: pl.Trainer) -> None:
    """Replace the epoch loop of a Trainer that has not yet started."""
    previous = trainer.fit_loop.epoch_loop
    trainer.fit_loop.epoch_loop = EpochLoop(trainer, previous.min_steps, previous.max_steps)

"""Keep the weights of every validation, from which everything about how a model learned can be computed later."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from patchwork.training.checkpoint_io import write_checkpoint
from patchwork.training.checkpointing import Checkpointer

WATCH_DIR = "watch"


def watched_paths(run_dir: Path) -> list[Path]:
    """Return the files with the weights of a run's validations, in the order of training."""
    return sorted((run_dir / WATCH_DIR).glob("step_*.ckpt"))


class Watch(pl.Callback):
    """Write the weights that each validation uses, averages of them if it uses those, as `watch/step_<step>.ckpt`.

    Nothing is computed, so that a training takes as long and gives the same as without it.

    Args:
        checkpointer: of the run, which knows its directory.
    """

    def __init__(self, checkpointer: Checkpointer) -> None:
        self.checkpointer = checkpointer

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        # not at the end of the validation, when averages are no longer in the place of the weights
        if batch_idx > 0 or dataloader_idx > 0 or trainer.sanity_checking or not trainer.is_global_zero:
            return
        path = self.checkpointer.checkpoint_dir.parent / WATCH_DIR / f"step_{trainer.global_step:08d}.ckpt"
        if trainer.state.fn == "fit" and not path.exists():  # as it does in a part that is done again
            weights = {name: value.cpu() for name, value in pl_module.state_dict().items()}
            write_checkpoint(
                {"epoch": trainer.current_epoch + 1, "step": trainer.global_step, "state_dict": weights}, path
            )

"""Grammar icons and the verb form that each stands for."""

from typing import Annotated, Literal

from annotated_types import Interval
from pydantic import NonNegativeInt, PositiveInt

from patchwork.data.base import Batch, BatchIndex, Split
from patchwork.data.images import ImagesDataModule
from patchwork.data.sources.icons import COMBINATIONS, Icons, held_out, split_combinations


class IconsDataModule(ImagesDataModule):
    """One icon and its verb form; all icons are rendered once.

    A batch holds `image` (B, 3, 32, 32) from -1 to 1; `verb`, `tense` and `person` (B,); and `held_out` (B,), whether
    their combination was held out of training.

    Args:
        num_outputs: outputs of the model, which follow from the task's label and head.
        samples_per_epoch: training icons in an epoch.
        samples_per_class: icons of each of the 300 combinations of verb, tense and person, in training and test
            together; a multiple of 5.
        difficulty: how much icons vary and how much of them is hidden; beyond 1 pixels lose their color, too.
        holdout: `combinations` keeps one combination in five out of training and validation.
    """

    batch_keys = ("image", "verb", "tense", "person", "held_out")

    def __init__(
        self,
        *,
        seed: NonNegativeInt,
        batch_size: PositiveInt,
        eval_batch_size: PositiveInt,
        num_outputs: PositiveInt,
        image_size: Literal[32] = 32,
        in_channels: Literal[3] = 3,
        samples_per_epoch: PositiveInt,
        samples_per_class: PositiveInt = 5,
        difficulty: Annotated[float, Interval(gt=0, le=2)] = 1.0,
        holdout: Literal["combinations"] | None = None,
        num_workers: Annotated[int, Interval(ge=0, le=64)] = 0,
        overfit_one_batch: bool = False,
    ) -> None:
        icons = Icons(samples_per_class=samples_per_class, difficulty=difficulty, holdout=holdout)
        super().__init__(
            dataset=icons,
            seed=seed,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_classes=COMBINATIONS,
            image_size=image_size,
            in_channels=in_channels,
            samples_per_epoch=samples_per_epoch,
            val_size=icons.num_samples["val"],
            test_size=icons.num_samples["test"],
            num_workers=num_workers,
            overfit_one_batch=overfit_one_batch,
        )
        self.num_outputs = num_outputs
        self.holdout = holdout

    def make_batch(self, split: Split, batch_index: BatchIndex, shard: slice) -> Batch:
        batch = super().make_batch(split, batch_index, shard)
        factors = split_combinations(batch["label"])
        return {
            "image": batch["image"],
            **factors,
            "held_out": held_out(factors) & (self.holdout is not None),
            **{name: batch[name] for name in ("index", "image_ids") if name in batch},
        }

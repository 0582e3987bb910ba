"""An exponential moving average (EMA) of the weights."""

from typing import Annotated

from annotated_types import Gt, Lt
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMAWeightAveraging(WeightAveraging):
    """Validate, test and save an exponential moving average of the weights and batch normalization statistics.

    Unlike in Lightning's own `EMAWeightAveraging`, the decay is not constant but grows with the number of updates n, as
    min(decay, (n + 1) / (n + 10)): the horizon of the average is about a ninth of the steps so far until it reaches
    1 / (1 - decay) steps. Otherwise the initial weights would dominate the average of a short run. All weights are
    averaged by one fused operation, not one after the other.

    Args:
        decay: the largest weight of the previous average in an update.
    """

    def __init__(self, *, decay: Annotated[float, Gt(0), Lt(1)]) -> None:
        self.decay = decay
        super().__init__(use_buffers=True, multi_avg_fn=self.average)

    def average(self, averages: list[Tensor], weights: list[Tensor], num_averaged: Tensor) -> None:
        """Update averages in place with the weights, after `num_averaged` earlier updates."""
        n = int(num_averaged)
        decay = min(self.decay, (n + 1) / (n + 10))
        get_ema_multi_avg_fn(decay)(averages, weights, num_averaged)

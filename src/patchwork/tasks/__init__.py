"""The tasks: what a model is trained for, and how well it does."""

from patchwork.tasks.anchor import Anchor
from patchwork.tasks.base import Sample, Task
from patchwork.tasks.classify import Classify
from patchwork.tasks.icons import Icons
from patchwork.tasks.pixels import Pixels
from patchwork.tasks.predictions import Predictions
from patchwork.tasks.seq2seq import Seq2Seq
from patchwork.tasks.sum import Sum

__all__ = ["Anchor", "Classify", "Icons", "Pixels", "Predictions", "Sample", "Seq2Seq", "Sum", "Task"]

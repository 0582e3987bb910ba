"""The tasks: what a model is trained for, and how well it does."""

from patchwork.tasks.base import Sample, Task
from patchwork.tasks.seq2seq import Seq2Seq

__all__ = ["Sample", "Seq2Seq", "Task"]

"""Base class of tasks whose model generates one token at a time."""

from abc import abstractmethod

from torch import Tensor

from patchwork.data.base import Batch
from patchwork.tasks.base import Task


class AutoregressiveTask(Task):
    """A task whose model predicts each token from those before it.

    The checks `causality` and `kv_cache_equivalence` compare what the four methods below return.
    """

    @property
    def eos_id(self) -> int | None:
        """Return the id of the end-of-sequence token, or None if all sequences are of one length."""
        return None

    @abstractmethod
    def tokens(self, batch: Batch) -> Tensor:
        """Return the target tokens (B, T)."""

    @abstractmethod
    def logits(self, batch: Batch, tokens: Tensor) -> Tensor:
        """Return the logits (B, T, V) of each of `tokens` (B, T), given those before it."""

    @abstractmethod
    def generate_tokens(self, batch: Batch) -> Tensor:
        """Decode greedily to tokens (B, T), with key–value caches."""

    @abstractmethod
    def cached_logits(self, batch: Batch, tokens: Tensor) -> Tensor:
        """Return what `logits` does, computed one token at a time with key–value caches."""

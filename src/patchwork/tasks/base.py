"""What all tasks share: one step for every split, metrics by name, optimizer and schedule."""

import inspect
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, Metric, MetricCollection

from patchwork.errors import ConfigError, NumericError

Batch = dict[str, Tensor]
Split = Literal["train", "val", "test"]

PROBES = (
    "companions",
    "deterministic",
    "images",
    "gradients",
    "chance",
    "overfit",
    "splits",
    "size",
)  # see `patchwork.audit`


@dataclass(frozen=True)
class Sample:
    """One prediction to look at: a picture and, per cell in reading order, what was expected and what was said.

    Where there is nothing to compare with, as the picture itself is the answer, `expected` is None.
    """

    image: Tensor  # (C, height, width), in [0, 1]
    expected: Sequence[str] | None
    predicted: Sequence[str]
    rows: int = 1
    cols: int = 1


def in_range(image: Tensor) -> Tensor:
    """Bring images of any range to [0, 1], to look at them."""
    low, high = image.amin(), image.amax()
    return ((image - low) / (high - low).clamp_min(1e-6)).cpu()


def names_of(metric: Metric, name: str) -> list[str]:
    """Return under which names a metric is logged: its own, or those of the values of a dictionary."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing was measured yet
        try:
            values = metric.compute()
        except ValueError:  # nothing was measured yet
            return [name]
    return [f"{name.partition('/')[0]}/{key}" for key in values] if isinstance(values, dict) else [name]


class Task(pl.LightningModule):
    """A model, its loss and its metrics.

    A child gives `step`, `metrics` and `samples`. It names in `needs` what a batch must hold and in `calls` the methods
    it calls on its model with their arguments, so that data or a model that don't fit are found before anything runs.
    For the auditor it names the `probes` that apply to it, and gives `outputs` and `chance`; where the model writes
    token after token, and `causal` and `cache` are among the probes, also `tokens`, `logits`, `written` and
    `stepwise`.

    Args:
        model: the network.
        optimizer: makes the optimizer of a module, see `patchwork.optim`.
        scheduler: makes the schedule of an optimizer, see `patchwork.optim`.
        monitor: the validation metric that chooses the best checkpoint.
        mode: whether more of it is better (`max`) or less (`min`).
    """

    needs: ClassVar[tuple[str, ...]] = ("image",)
    calls: ClassVar[Mapping[str, tuple[str, ...]]] = {"forward": ("image",)}
    probes: ClassVar[tuple[str, ...]] = PROBES
    pictured: ClassVar[str] = "on the test split"  # what `samples` are

    def __init__(
        self,
        *,
        model: nn.Module,
        optimizer: Callable[[nn.Module], Optimizer],
        scheduler: Callable[[Optimizer, int], LRScheduler],
        monitor: str,
        mode: Literal["max", "min"] = "max",
    ) -> None:
        super().__init__()
        self.check_fit(type(model))
        self.model = model
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.monitor = monitor
        self.mode = mode
        with torch.device("cpu"):  # even of a model on the meta device, which has no numbers
            measures = MetricCollection({"loss": MeanMetric(), **self.metrics()}, compute_groups=False)
            names = [name for title, metric in measures.items() for name in names_of(metric, f"val/{title}")]
        # not saved in checkpoints: a metric starts anew with each evaluation
        self.on_val, self.on_test = measures.clone(prefix="val/"), measures.clone(prefix="test/")
        if monitor not in names:
            raise ConfigError(f"task.monitor={monitor} cannot be monitored: use one of {', '.join(names)}")

    @classmethod
    def check_fit(cls, model: type) -> None:
        """Raise a `ConfigError` if a class of models lacks what this task calls."""
        for method, arguments in cls.calls.items():
            found = getattr(model, method, None)
            parameters = list(inspect.signature(found).parameters.values())[1:] if found else []
            rest = parameters[len(arguments) :]
            fits = [parameter.name for parameter in parameters[: len(arguments)]] == list(arguments)
            if not fits or any(parameter.default is parameter.empty for parameter in rest):
                raise ConfigError(
                    f"model={model.__name__} does not fit task={cls.__name__}, "
                    f"which calls {method}({', '.join(arguments)})"
                )

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """Make the metrics of one split, by name."""

    @abstractmethod
    def step(self, batch: Batch, split: Split) -> Tensor:
        """Return the mean loss of a batch; on validation and test also `measure` what was predicted."""

    @abstractmethod
    def outputs(self, batch: Batch) -> Tensor:
        """Return what the model says of each sample (B, ...), before any decision."""

    @abstractmethod
    def chance(self, batch: Batch) -> float:
        """Return the loss of a batch that a prediction gets which knows nothing of the images."""

    def together(self, models: list[nn.Module]) -> nn.Module:
        """Return one network that says what several of this task say on average.

        Raises:
            ConfigError: if that makes no sense.
        """
        raise ConfigError(f"task={type(self).__name__} evaluates one run at a time: it has no answers to average")

    def blind(self, batch: Batch) -> float:
        """Return the loss of a batch that the best prediction gets without its images; as `chance`, if not told."""
        return self.chance(batch)

    def tokens(self, batch: Batch) -> Tensor:
        """Return the tokens (B, T) that are to be written."""
        raise NotImplementedError

    def logits(self, batch: Batch, tokens: Tensor) -> Tensor:
        """Return the logits (B, T, V) of each of `tokens` (B, T), given those before it."""
        raise NotImplementedError

    def written(self, batch: Batch) -> Tensor:
        """Write tokens (B, T) as the model does, the likeliest each time."""
        raise NotImplementedError

    def stepwise(self, batch: Batch, tokens: Tensor) -> Tensor:
        """Return what `logits` does, computed as in writing: one token after the other, the past from caches."""
        raise NotImplementedError

    def samples(self, batch: Batch, count: int) -> list[Sample]:
        """Return up to `count` predictions of a batch to look at; none where no picture fits the task."""
        return []

    def measures(self, split: Split) -> MetricCollection:
        return self.on_val if split == "val" else self.on_test

    def measure(self, split: Split, **arguments: tuple[Tensor, ...]) -> None:
        """Add a batch to the metrics of a split: the arguments of each, by its name."""
        measures = self.measures(split)
        for name, values in arguments.items():
            measures[name].update(*values)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        loss = self.step(batch, "train")
        self.loss = loss.detach()
        return loss

    def validation_step(self, batch: Batch, index: int) -> None:
        self.evaluate(batch, "val")

    def test_step(self, batch: Batch, index: int) -> None:
        self.evaluate(batch, "test")

    def evaluate(self, batch: Batch, split: Split) -> None:
        loss = self.step(batch, split)
        self.measures(split)["loss"].update(loss, weight=len(next(iter(batch.values()))))

    def on_validation_epoch_end(self) -> None:
        self.report("val")

    def on_test_epoch_end(self) -> None:
        self.report("test")

    def report(self, split: Split) -> None:
        """Log a split's metrics; one that has many values, as a dictionary, is logged under `split/name/key`."""
        collection = self.measures(split)
        # under the name `step` Lightning takes it for the loggers' axis, which is then the same as in training
        place = {"epoch": float(self.current_epoch), "step": float(self.global_step)}
        self.log_dict({**collection.compute(), **place}, sync_dist=True)
        collection.reset()

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.model)
        schedule = self.scheduler(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of all gradients together, and stop before a step that would make the weights not finite."""
        norm = nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val or torch.inf)
        if not norm.isfinite():
            raise NumericError(
                f"the loss is {self.loss.item()} and the gradient's norm {norm.item()} at epoch "
                f"{self.current_epoch + 1}, step {self.global_step}: both must be finite; try a smaller optimizer.lr "
                f"({optimizer.param_groups[0]['lr']:g} now) or "
                f"trainer.gradient_clip_val ({gradient_clip_val} now); no weights of this step are kept"
            )

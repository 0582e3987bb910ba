"""Base class of tasks: one step for every split, metrics by name, predictions, optimizer and schedule."""

import inspect
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric, Metric, MetricCollection

from patchwork.core.errors import ConfigError, NumericError
from patchwork.core.schema import choice_name
from patchwork.data.base import Batch, Split
from patchwork.tasks.predictions import ClassAnswers, Predictions
from patchwork.tasks.summary import summarize_accuracy

BASE_CHECKS = (
    "batch_independence",
    "eval_determinism",
    "input_sensitivity",
    "gradient_flow",
    "initial_loss",
    "overfit_one_batch",
    "split_leakage",
)  # see `patchwork.evaluation.audit`


@dataclass(frozen=True)
class Sample:
    """One prediction to look at: an image and, per cell in reading order, the target and the prediction.

    `target` is None if the sample has none, as a generated image. `marks` name cells that have a part in the answer,
    and `note` is a remark on the whole sample.
    """

    image: Tensor  # (C, height, width), in [0, 1]
    target: Sequence[str] | None
    prediction: Sequence[str]
    rows: int = 1
    cols: int = 1
    marks: Mapping[int, str] = field(default_factory=dict)
    note: str = ""


def to_unit_range(image: Tensor) -> Tensor:
    """Rescale images of any range to [0, 1], for display."""
    low, high = image.amin(), image.amax()
    return ((image - low) / (high - low).clamp_min(1e-6)).cpu()


def legend(samples: Sequence[Sample], symbols: Mapping[str, str]) -> str:
    """Return the meanings of those symbols that are in the predictions of samples; empty if none is."""
    return explain_symbols((answer for sample in samples for answer in sample.prediction), symbols)


def explain_symbols(answers: Iterable[str], symbols: Mapping[str, str]) -> str:
    """Return the meanings of those symbols that are in some answers; empty if none is."""
    used = {character for answer in answers for character in answer}
    return ", ".join(f"{symbol} {meaning}" for symbol, meaning in symbols.items() if symbol in used)


def logged_names(metric: Metric, name: str) -> list[str]:
    """Return the names under which a metric is logged: its own, or those of the values of a dictionary."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # compute() before update()
        try:
            values = metric.compute()
        except ValueError:  # as some metrics raise before their first update
            return [name]
    return [f"{name.partition('/')[0]}/{key}" for key in values] if isinstance(values, dict) else [name]


class Task(pl.LightningModule):
    """A model with its loss, metrics and predictions.

    A subclass implements `step`, `build_metrics`, `uniform_loss` and `predictions` (or `predict_step`). It declares in
    `required_keys` what a batch must hold and in `model_interface` the methods that it calls on its model with their
    arguments, so that data and models that do not fit are found before anything runs, and in `checks` the checks of
    `patchwork audit` that apply to it.

    Args:
        model: Network to train.
        optimizer: Function that makes the optimizer of a module, see `patchwork.training`.
        scheduler: Function that makes the learning-rate schedule of an optimizer, see `patchwork.training`.
        monitor: Validation metric that selects the best checkpoint.
        mode: Whether a greater value of it is better (`max`) or a smaller one (`min`).

    Raises:
        ConfigError: if the model lacks a method or an attribute that the task uses, or there is no such metric.
    """

    required_keys: ClassVar[tuple[str, ...]] = ("image",)
    model_interface: ClassVar[Mapping[str, tuple[str, ...]]] = {"forward": ("image",)}
    model_attributes: ClassVar[tuple[str, ...]] = ()  # what a task reads of its model, besides calling its methods
    checks: ClassVar[tuple[str, ...]] = BASE_CHECKS
    takes_single_images: ClassVar[bool] = True  # whether an image alone can be predicted
    samples_name: ClassVar[str] = "images"  # what samples are, in the plural
    solved: ClassVar[str] = "are answered correctly"  # what is said of those that are
    saves_predictions: ClassVar[bool] = True  # whether a run saves its predictions of the test split
    has_answers: ClassVar[bool] = True  # whether samples have answers that `answer_logits` explains
    samples_title: ClassVar[str] = "on the test split"  # what `samples` shows, after the name of the task
    symbols: ClassVar[Mapping[str, str]] = {}  # meanings of the symbols that may be in the answers of `samples`
    class_names: tuple[str, ...] = ()  # as in the data, set by `patchwork.runs.build`; none if classes are numbers
    averages_log_probs = False  # whether the metrics of an ensemble follow from its members' log-probabilities
    test_predictions: list[Predictions] | None = None  # of the batches tested so far, while a run collects them

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
        self.check_model_interface(type(model))
        missing = [name for name in self.model_attributes if not hasattr(model, name)]
        if missing:
            raise ConfigError(
                f"model={choice_name(type(model))} does not fit task={choice_name(type(self))}, "
                f"which reads its {', '.join(missing)}"
            )
        self.model = model
        self.input_names = self.model_interface.get("forward", ())  # what the model's `forward` takes of a batch
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.monitor = monitor
        self.mode = mode
        with torch.device("cpu"):  # even if the model is on the meta device, which holds no values
            metrics = MetricCollection({"loss": MeanMetric(), **self.build_metrics()}, compute_groups=False)
            names = [logged for name, metric in metrics.items() for logged in logged_names(metric, f"val/{name}")]
        # not saved in checkpoints: metrics are reset before each evaluation
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")
        if monitor not in names:
            raise ConfigError(f"task.monitor={monitor} cannot be monitored: use one of {', '.join(names)}")

    @classmethod
    def check_model_interface(cls, model: type) -> None:
        """Raise a `ConfigError` if a class of models lacks a method that this task calls."""
        for method, arguments in cls.model_interface.items():
            function = getattr(model, method, None)
            parameters = list(inspect.signature(function).parameters.values())[1:] if function else []
            names = [parameter.name for parameter in parameters[: len(arguments)]]
            rest = parameters[len(arguments) :]
            if names != list(arguments) or any(parameter.default is parameter.empty for parameter in rest):
                raise ConfigError(
                    f"model={choice_name(model)} does not fit task={choice_name(cls)}, "
                    f"which calls {method}({', '.join(arguments)})"
                )

    # --- what a subclass implements ---

    @abstractmethod
    def build_metrics(self) -> dict[str, Metric]:
        """Return new metrics for one split, by name."""

    @abstractmethod
    def step(self, batch: Batch, split: Split) -> Tensor:
        """Return the mean loss of a batch; on validation and test also update the metrics."""

    @abstractmethod
    def uniform_loss(self, batch: Batch) -> float:
        """Return the expected loss of a uniform prediction, which depends on no image."""

    def forward(self, batch: Batch) -> Tensor:
        """Return the raw model outputs (B, …)."""
        return self.model(*self.model_inputs(batch))

    def model_inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Return the values of a batch that the model's `forward` takes."""
        return tuple(batch[name] for name in self.input_names)

    def answer_logits(self, batch: Batch, answers: Tensor | None = None) -> Tensor:
        """Return the logits (B, T, C) of each of the T answers that a sample has, or one number for each (C = 1).

        Unlike `predict_step` it is differentiable; what explains a model explains these.

        Args:
            batch: samples, which need not hold targets.
            answers: answers (B, T) that a model which decodes reads as if it had given them; None takes its own.

        Raises:
            NotImplementedError: if the task has no answers, as that of a generator.
        """
        outputs = self.forward(batch)
        return outputs[:, None, None] if outputs.ndim == 1 else outputs[:, None]

    def class_answers(self, predictions: Predictions) -> dict[str, ClassAnswers]:
        """Return the answers of a table that are classes, by what they are about; none if there are none.

        Args:
            predictions: with targets.
        """
        return {}

    def sample_groups(self, predictions: Predictions) -> dict[str, Tensor]:
        """Return which samples (B,) of a table belong to each group that is also looked at by itself; none by default.

        Args:
            predictions: with targets.
        """
        return {}

    def image_free_loss(self, batch: Batch) -> float:
        """Return the loss of the best prediction that depends on no image; as a rule, that of a uniform one."""
        return self.uniform_loss(batch)

    def samples(self, batch: Batch, count: int) -> list[Sample]:
        """Return up to `count` predictions of a batch to look at; by default, one image and one answer each."""
        batch = {name: values[:count] for name, values in batch.items()}
        predictions = self.predict_step(batch, 0)
        if predictions.target is None:
            return []
        targets, answers = self.format_answers(predictions.target), self.format_answers(predictions.prediction)
        return [
            Sample(image, [target], [answer])
            for image, target, answer in zip(to_unit_range(batch["image"]), targets, answers, strict=True)
        ]

    @property
    def answer_name(self) -> str:
        """Return what a prediction is, as the name of its column in a table."""
        return "prediction"

    def summary(self, metrics: Mapping[str, float], num_samples: int) -> str:
        """Return the result on the test split in plain words, with what chance gives; empty if there are none.

        Args:
            metrics: test metrics by name, as `test/accuracy`.
            num_samples: number of samples tested.
        """
        if "test/accuracy" not in metrics:
            return ""
        what = f"{self.samples_name} {self.solved}"
        return summarize_accuracy(metrics["test/accuracy"], num_samples, what, chance=self.chance)

    @property
    def chance(self) -> float | None:
        """Return the accuracy of a guess that depends on no image, or None if it is unknown."""
        return None

    def format_answers(self, answers: Tensor) -> list[str]:
        """Return targets or predictions (B, …) in human-readable form."""
        return [str(answer) for answer in answers.tolist()]

    def format_classes(self, classes: Tensor) -> list[str]:
        """Return the names of classes (B,), or their numbers if they have no names."""
        return [self.class_names[label] if self.class_names else str(label) for label in classes.tolist()]

    def perturbed_inputs(self, batch: Batch) -> Iterator[Batch]:
        """Yield batches with other inputs, on which the outputs must depend; first with the next sample's images."""
        yield {**batch, "image": batch["image"].roll(1, dims=0)}

    # --- ensembles ---

    def make_ensemble(self, models: list[nn.Module]) -> nn.Module:
        """Return one network with the mean of several networks' probabilities.

        Raises:
            ConfigError: if this task has no probabilities to average.
        """
        raise ConfigError(
            f"task={choice_name(type(self))} evaluates one run at a time: it has no probabilities to average"
        )

    def average_outputs(self, outputs: Tensor) -> Tensor:
        """Average the raw outputs (M, B, …) of M networks to those of their ensemble (B, …).

        Raises:
            NotImplementedError: if this task has no such average.
        """
        raise NotImplementedError

    def outputs_from_log_probs(self, log_probs: Tensor) -> Tensor:
        """Return raw outputs (B, …) that give these log-probabilities (B, C).

        Raises:
            NotImplementedError: if this task does not have `averages_log_probs`.
        """
        raise NotImplementedError

    # --- predictions ---

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Predictions:
        """Predict the samples of a batch, which need not hold targets."""
        return self.predictions(batch, self.forward(batch))

    def predictions(self, batch: Batch, outputs: Tensor) -> Predictions:
        """Return what the raw outputs (B, …) of `forward` predict of a batch.

        Raises:
            NotImplementedError: if this task implements `predict_step` instead.
        """
        raise NotImplementedError

    def make_predictions(
        self, batch: Batch, target: Tensor | None, prediction: Tensor, log_probs: Tensor | None = None
    ) -> Predictions:
        """Combine predictions with the samples' indices, see `Predictions`."""
        device = prediction.device
        index = batch.get("index")
        image_ids = batch.get("image_ids")
        return Predictions(
            index=torch.arange(len(prediction), device=device) if index is None else index,
            image_ids=torch.full((len(prediction), 1), -1, device=device) if image_ids is None else image_ids,
            target=target,
            prediction=prediction,
            log_probs=log_probs,
        )

    def collect(self, split: Split, predictions: Predictions) -> None:
        """Add the predictions of a test batch to those that a run collects, if it does."""
        if split == "test" and self.test_predictions is not None:
            self.test_predictions.append(predictions)

    # --- metrics ---

    def metrics_for(self, split: Split) -> MetricCollection:
        return self.val_metrics if split == "val" else self.test_metrics

    def update_metrics(self, split: Split, **arguments: tuple[Tensor, ...]) -> None:
        """Update the metrics of a split with a batch: the positional arguments of each, by its name."""
        metrics = self.metrics_for(split)
        for name, values in arguments.items():
            metrics[name].update(*values)

    def eval_step(self, batch: Batch, split: Split) -> None:
        """Update all metrics of a split with a batch, its loss weighted by its size."""
        loss = self.step(batch, split)
        self.metrics_for(split)["loss"].update(loss, weight=len(batch["image"]))

    def log_metrics(self, split: Split) -> None:
        """Log a split's metrics; the values of one that computes a dictionary are logged as `split/name/key`."""
        metrics = self.metrics_for(split)
        # Lightning takes the value named `step` for the loggers' axis, which is then the same as in training
        position = {"epoch": float(self.current_epoch), "step": float(self.global_step)}
        self.log_dict({**metrics.compute(), **position}, sync_dist=True)
        metrics.reset()

    # --- Lightning's hooks ---

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.step(batch, "train")
        self.loss = loss.detach()
        if self.trainer.accumulate_grad_batches > 1:
            loss = loss * self.short_window_factor(batch_idx)
        return loss

    def short_window_factor(self, batch_idx: int) -> float:
        """Return the factor that makes the loss of an accumulated step a mean over its batches.

        Lightning divides each loss by `accumulate_grad_batches`, but the last step of an epoch may have fewer batches.
        """
        accumulated, num_batches = self.trainer.accumulate_grad_batches, int(self.trainer.num_training_batches)
        first = batch_idx - batch_idx % accumulated
        return accumulated / min(accumulated, num_batches - first)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.eval_step(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.eval_step(batch, "test")

    def on_validation_epoch_end(self) -> None:
        self.log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self.log_metrics("test")

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.model)
        scheduler = self.scheduler(optimizer, int(self.trainer.estimated_stepping_batches))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients, by norm or value, and stop before a step that would make weights non-finite.

        Raises:
            NumericError: if the norm is infinite or NaN.
        """
        clips_values = gradient_clip_algorithm == "value"
        max_norm = torch.inf if clips_values else gradient_clip_val or torch.inf
        norm = nn.utils.clip_grad_norm_(self.parameters(), max_norm)
        if not norm.isfinite():
            raise NumericError(
                f"the loss is {self.loss.item()} and the gradient norm {norm.item()} at epoch "
                f"{self.current_epoch + 1}, step {self.global_step}: both must be finite; try a smaller optimizer.lr "
                f"({optimizer.param_groups[0]['lr']:g} now) or "
                f"trainer.gradient_clip_val ({gradient_clip_val} now); this step was not applied"
            )
        if clips_values and gradient_clip_val:
            nn.utils.clip_grad_value_(self.parameters(), gradient_clip_val)

"""Compute all scores of a generator, print them and save them in its run directory."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from torch import nn

from patchwork.core.atomic import write_bytes
from patchwork.core.errors import ConfigError, warn
from patchwork.core.malloc import tune_malloc
from patchwork.core.progress import Progress, with_progress
from patchwork.data import PixelsDataModule
from patchwork.evaluation.scorecard.base import HEADER, ReferenceImages, Score, generate_images
from patchwork.evaluation.scorecard.cas import classification_accuracy_score
from patchwork.evaluation.scorecard.features import FeatureClassifier, check_classifier, classifier_scores
from patchwork.evaluation.scorecard.likelihood import likelihood_scores
from patchwork.evaluation.scorecard.memorization import memorization_scores
from patchwork.evaluation.scorecard.prompts import prompt_scores
from patchwork.evaluation.scorecard.speed import speed_scores
from patchwork.models.generator import SamplingOptions
from patchwork.runs.run import Run
from patchwork.tasks import Pixels
from patchwork.training.checkpoint_io import weights_sha256

MIN_ACCURACY = 0.9  # of a classifier on real test images, below which its predictions tell little


@dataclass(frozen=True)
class Scorecard:
    """The evaluation of a generative model.

    Args:
        run: run of `task=pixels`.
        classifier: run of `task=classify` for the classifier-based scores; None omits these.
        num_samples: number of images to generate.
        options: sampling options; likelihoods do not depend on them.

    Raises:
        ConfigError: if these cannot be combined.
        DataError: if the classifier was trained on another data set.
    """

    run: Run
    classifier: Run | None
    num_samples: int
    options: SamplingOptions

    def __post_init__(self) -> None:
        if not isinstance(self.run.task, Pixels):
            raise ConfigError(f"run={self.run.run_dir} is not a generative model: only runs of task=pixels are scored")
        if self.options.guidance != 1 and not (self.run.task.uncond_prob and self.run.task.class_conditional):
            raise ConfigError(
                f"guidance={self.options.guidance} needs a run that was trained both with and without classes, "
                "see task.uncond_prob"
            )
        if self.classifier is not None:
            check_classifier(self.classifier, self.run)

    def scores(self) -> Iterator[Score]:
        """Yield the scores one after the other, without those of conditions that the generator was not trained on."""
        tune_malloc()
        task = cast(Pixels, self.run.task.float().eval())
        generator = task.generator
        real = ReferenceImages.from_data(cast(PixelsDataModule, self.run.data))
        yield Score("parameters", count_parameters(task.model), None, "of the generator")
        likelihoods = likelihood_scores(
            generator, real, unconditional=bool(task.uncond_prob), class_conditional=task.class_conditional
        )
        yield from with_progress(f"likelihood of {len(real.test['label']):,} test images", likelihoods)
        yield from speed_scores(generator, self.options)  # without a thread beside what is timed
        if task.class_conditional:
            label = torch.arange(self.num_samples) % generator.num_classes
            with Progress(f"generating {self.num_samples:,} images"):
                generated = generate_images(generator, label, "scorecard", options=self.options)
            yield from with_progress("nearest training images", memorization_scores(generated, real))
            if self.classifier is not None:
                features = FeatureClassifier.from_run(self.classifier, real.num_levels)
                scores = classifier_scores(features, generated, label, real)
                yield from with_progress("predictions and features of the classifier", scores)
                with Progress("training a classifier on generated images, and one on real ones"):
                    score = classification_accuracy_score(self.classifier, generated, label, real)
                yield score
        if self.classifier is not None and generator.has_text_encoder:
            features = FeatureClassifier.from_run(self.classifier, real.num_levels)
            yield from with_progress("generating by prompts", prompt_scores(features, generator, self.options))

    def write(self) -> None:
        """Print the scores line by line, and save them in the run directory after each."""
        entry: dict[str, object] = {
            "num_samples": self.num_samples,
            "temperature": self.options.temperature,
            "guidance": self.options.guidance,
            "weights_sha256": weights_sha256(self.run.task.state_dict()),
        }
        if self.classifier is None:
            print("\npass classifier=RUN_DIR (a task=classify run) for the classifier-based scores")
        else:
            accuracy = self.classifier.manifest.get("metrics", {}).get("test/accuracy")
            sha256 = weights_sha256(self.classifier.task.state_dict())
            run_dir = str(self.classifier.run_dir)
            entry["classifier"] = {"run": run_dir, "weights_sha256": sha256, "test/accuracy": accuracy}
            print(f"\nclassifier: {run_dir}, test accuracy {accuracy}, weights {sha256[:12]}…")
            warn_of_accuracy(run_dir, accuracy)
        path = self.path()
        print(f"each score is saved at once in {path}")
        print(f"\n{HEADER}")
        scores = []
        for score in self.scores():
            print(score, flush=True)
            scores.append(asdict(score))
            write_bytes(path, (json.dumps({**entry, "scores": scores}, indent=2) + "\n").encode())
        print(f"saved in {path}")

    def path(self) -> Path:
        """Return where the scores are saved: `scorecard.json`, with the options in its name if they are not default."""
        name = "scorecard"
        for key in ("temperature", "guidance"):
            value = getattr(self.options, key)
            if value != 1:
                name += f"-{key}-{value:g}"
        return Path(self.run.run_dir) / f"{name}.json"


def warn_of_accuracy(run_dir: str, accuracy: float | None) -> None:
    """Warn if a classifier is too weak for its opinion of generated images to mean much."""
    if accuracy is None or accuracy >= MIN_ACCURACY:
        return
    warn(
        f"classifier={run_dir} classifies only {100 * accuracy:.1f} % of the real test images correctly: scores that "
        f"depend on it mean little below {100 * MIN_ACCURACY:.0f} %; train a better one"
    )


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())

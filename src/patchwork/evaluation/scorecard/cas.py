"""The classification accuracy score: train on generated images, test on real ones.

Source: Ravuri and Vinyals 2019, https://arxiv.org/abs/1905.10887
"""

from typing import cast

import torch
from torch import Tensor

from patchwork.data.image_data import ImageSourceDataModule
from patchwork.data.sources.base import LabeledImages
from patchwork.evaluation.scorecard.base import CHUNK_SIZE, ReferenceImages, Score, fraction
from patchwork.evaluation.scorecard.features import normalize_levels
from patchwork.runs.build import build
from patchwork.runs.run import Run
from patchwork.training.fit_steps import fit_steps

TRAIN_STEPS = 1200


def classification_accuracy_score(classifier: Run, generated: Tensor, label: Tensor, real: ReferenceImages) -> Score:
    """Train a new classifier on generated images (n, 1, height, width), another one on as many real images.

    Args:
        classifier: run whose configuration both are trained with.
        generated: images with values from 0 to `real.num_levels - 1`.
        label: their classes (n,).
        real: images of the training split to compare with, and of the test split to test on.
    """
    real_image, real_label = real.train_subset(len(generated), "taught")
    accuracy, real_accuracy = (
        train_and_test(classifier, image, label, real)
        for image, label in ((generated, label), (real_image, real_label))
    )
    return Score("cas", accuracy, real_accuracy, "test accuracy of a classifier trained on generated images only")


def train_and_test(classifier: Run, image: Tensor, label: Tensor, real: ReferenceImages) -> float:
    """Train a new model with a run's configuration on other images (n, 1, height, width); return its test accuracy."""
    config = classifier.config.copy()
    config.seed += 1
    data, task = build(config)
    data = cast(ImageSourceDataModule, data)
    data.prepare_data()
    pixels = (image * (255 // (real.num_levels - 1))).byte()
    data.splits["train"] = LabeledImages(pixels, label, torch.arange(len(label)))
    optimizer = task.optimizer(task.model)
    scheduler = task.scheduler(optimizer, TRAIN_STEPS)
    task.train()

    def loss(index: int) -> Tensor:
        return task.step(data.make_batch("train", (0, index), slice(None)), "train")

    fit_steps(loss, task.parameters(), optimizer, scheduler, TRAIN_STEPS, config.trainer.gradient_clip_val or None)
    task.eval()
    with torch.inference_mode():
        chunks = [
            normalize_levels(chunk, real.num_levels, data.source) for chunk in real.test["image"].split(CHUNK_SIZE)
        ]
        preds = torch.cat([task.model(chunk).argmax(dim=1) for chunk in chunks])
    return fraction(preds == real.test["label"])

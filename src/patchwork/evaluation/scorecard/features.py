"""Predictions and features of generated images by a classifier that was trained on real ones."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor

from patchwork.core.errors import ConfigError, DataError
from patchwork.data.image_data import ImageSourceDataModule
from patchwork.data.sources.base import ImageSource
from patchwork.evaluation.scorecard.base import CHUNK_SIZE, ReferenceImages, Score, fraction
from patchwork.models.protocols import HasFeatures
from patchwork.runs.manifest import check_dataset
from patchwork.runs.run import Run
from patchwork.tasks import Classify

NUM_NEIGHBORS = 3  # of a feature vector, for precision and recall


def check_classifier(classifier: Run, run: Run) -> None:
    """Check that a run can score the images that another one generates.

    Raises:
        ConfigError: if it is not a classifier with features, or its images have another size or other classes.
        DataError: if the two runs were trained on different data sets, or the present data set is another one.
    """
    if not (isinstance(classifier.task, Classify) and isinstance(classifier.model, HasFeatures)):
        raise ConfigError(f"classifier={classifier.run_dir} is not a run of task=classify with model=vit")
    for key in ("num_classes", "image_size"):
        if classifier.config.data[key] != run.config.data[key]:
            raise ConfigError(
                f"classifier={classifier.run_dir} has data.{key}={classifier.config.data[key]}, "
                f"but run={run.run_dir} has data.{key}={run.config.data[key]}"
            )
    if classifier.manifest.get("dataset_sha256") != run.manifest.get("dataset_sha256"):
        raise DataError(f"classifier={classifier.run_dir} was trained on another data set than run={run.run_dir}")
    classifier.data.prepare_data()
    check_dataset(classifier.manifest, classifier.data)


class FeatureClassifier:
    """A trained classifier of images (n, 1, height, width) with values from 0 to `num_levels - 1`.

    Args:
        model: classifier of normalized images.
        source: source of the images that the model was trained on.
        num_levels: number of pixel levels of the images to classify.
        dtype: precision of the model.
    """

    def __init__(
        self, model: HasFeatures, source: ImageSource, num_levels: int, dtype: torch.dtype = torch.float32
    ) -> None:
        self.model, self.source, self.num_levels, self.dtype = model, source, num_levels, dtype

    @classmethod
    def from_run(cls, run: Run, num_levels: int) -> "FeatureClassifier":
        model, source = cast(HasFeatures, run.model.eval()), cast(ImageSourceDataModule, run.data).source
        return cls(model, source, num_levels, next(run.model.parameters()).dtype)

    @torch.inference_mode()
    def features(self, image: Tensor) -> Tensor:
        """Return the features (n, D) that the classifier's head reads."""
        chunks = [
            self.model.features(normalize_levels(chunk, self.num_levels, self.source).to(self.dtype))
            for chunk in image.split(CHUNK_SIZE)
        ]
        return torch.cat(chunks)

    @torch.inference_mode()
    def predict(self, features: Tensor) -> Tensor:
        """Return the likeliest classes (n,)."""
        return self.model.head(features).argmax(dim=1)


def normalize_levels(image: Tensor, num_levels: int, source: ImageSource) -> Tensor:
    """Normalize images with values from 0 to `num_levels - 1` as classifiers of a source's images expect."""
    return source.normalize(image * (255 / (num_levels - 1)))


def classifier_scores(
    classifier: FeatureClassifier, generated: Tensor, label: Tensor, real: ReferenceImages
) -> Iterator[Score]:
    """Score generated images (n, 1, height, width) of classes (n,) by a classifier's predictions and features."""
    train_image, _ = real.train_subset(len(generated), "judge")
    generated_features, test_features, train_features = (
        classifier.features(image) for image in (generated, real.test["image"], train_image)
    )
    accuracy = fraction(classifier.predict(generated_features) == label)
    test_accuracy = fraction(classifier.predict(test_features) == real.test["label"])
    yield Score("conditional_accuracy", accuracy, test_accuracy, "the classifier predicts the requested class")
    yield Score(
        "frechet_distance",
        frechet_distance(generated_features, test_features),
        frechet_distance(train_features, test_features),
        "to the test images, in the classifier's features (not Inception's)",
    )
    precision, recall = precision_recall(generated_features, test_features)
    train_precision, train_recall = precision_recall(train_features, test_features)
    yield Score("precision", precision, train_precision, "generated images are among the test images")
    yield Score("recall", recall, train_recall, "test images are among the generated images")


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the squared Fréchet distance between normal distributions fitted to features (n, D) and (m, D).

    |μ - μ'|² + tr(Σ + Σ' - 2 (Σ Σ')^½), as the FID (Heusel et al. 2017, https://arxiv.org/abs/1706.08500), which takes
    its features from an Inception network; so values are comparable only if the classifier is the same.
    """
    (mean_a, cov_a), (mean_b, cov_b) = (
        (features.double().mean(dim=0), features.double().mT.cov()) for features in (a, b)
    )
    eigenvalues, eigenvectors = torch.linalg.eigh(cov_a)
    root = eigenvectors * eigenvalues.clamp_min(0).sqrt() @ eigenvectors.mT  # Σ^½; Σ Σ' and Σ^½ Σ' Σ^½ are similar
    common = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * common)


def precision_recall(generated: Tensor, real: Tensor) -> tuple[float, float]:
    """Return improved precision and recall of generated features (n, D) with respect to real ones (m, D).

    Precision is the fraction of generated features in the manifold of the real ones, recall the reverse. The manifold
    of a set is the union of balls around its points that reach to the third neighbor (Kynkäänniemi et al. 2019,
    https://arxiv.org/abs/1904.06991).
    """
    return manifold_coverage(generated, real), manifold_coverage(real, generated)


def manifold_coverage(points: Tensor, others: Tensor) -> float:
    """Return the fraction of points (n, D) that lie in the manifold of others (m, D)."""
    radii = torch.cat(
        [torch.cdist(chunk, others).kthvalue(NUM_NEIGHBORS + 1).values for chunk in others.split(CHUNK_SIZE)]
    )  # (m,); the first neighbor is the point itself
    return fraction(torch.cat([(torch.cdist(chunk, others) <= radii).any(dim=1) for chunk in points.split(CHUNK_SIZE)]))

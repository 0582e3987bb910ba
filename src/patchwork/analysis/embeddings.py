"""How a network arranges images: maps of what its layers hold, and clusters that are found in the space itself.

Maps are for looking: sizes of clusters and distances between them mean nothing in t-SNE (Wattenberg et al. 2016,
https://distill.pub/2016/misread-tsne), and a map of one Gaussian may show several. So clusters are found in the space,
and each score stands beside that of raw pixels and of the network before its training.

Sources: PCA; t-SNE, van der Maaten & Hinton 2008, https://jmlr.org/papers/v9/vandermaaten08a.html; HDBSCAN, Campello
et al. 2013, https://doi.org/10.1007/978-3-642-37456-2_14; UMAP (optional), https://arxiv.org/abs/1802.03426.
"""

import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import ClassVar

import numpy as np
import torch
from torch.nn import functional as F

from patchwork.analysis.features import Samples, cell_images, first_samples, layer_features, one_of_each_image
from patchwork.analysis.inputs import AnalysisInputs
from patchwork.analysis.probes import PIXELS
from patchwork.analysis.result import Estimate, NotApplicableError, Result
from patchwork.core.cpus import single_blas_thread
from patchwork.tasks import Task

NUM_POINTS = 1000
NUM_EARLIER = 500  # of them on the maps of earlier layers, which are small
NEIGHBORS = 15
EXPLAINED = 0.95  # share of the variance that the space keeps in which clusters are found
PERPLEXITIES = (30, 8)
MIN_CLUSTER = 25  # points; sklearn's `min_samples` counts the point itself
THUMBNAIL = 14  # pixels of a side
SCORES = (
    "accuracy of 15 neighbors",
    "silhouette of classes",
    "k-means ARI",
    "k-means AMI",
    "HDBSCAN clusters",
    "HDBSCAN noise",
    "HDBSCAN ARI",
    "HDBSCAN AMI",
    "homogeneity",
    "completeness",
)


@dataclass(frozen=True, eq=False)
class Embeddings(Result):
    """Maps of all layers, clusters of the last one, and scores of every layer. No image is there twice.

    Attributes:
        layer: the last layer.
        classes: names of the classes.
        label: (n,) class of each point, as an index into `classes`.
        index: (n,) the sample of each point, by its index in the split.
        maps: names of the maps of the last layer.
        points: (M, n, 2) float32 coordinates; PCA's are in the units of the features.
        cluster: (n,) cluster of each point, found by HDBSCAN in the space itself; −1 is noise.
        explained: (2,) shares of the variance that the two directions of the PCA explain.
        earlier: names of the layers before the last one.
        earlier_points: (L, n', 2) float32 coordinates by PCA of the first n' points after each of them.
        earlier_explained: (L, 2) shares of the variance that these explain.
        kept: (M, 2) trustworthiness of each map, and the share of 15 neighbors that it keeps.
        spaces: what is scored: all layers, raw pixels, and the last layer of the untrained network.
        scores: (S, 10) of each space, see `SCORES`.
        dimensions: (S,) how many directions hold 95 % of the variance.
        thumbnails: (n, 14, 14) uint8, the images.
        notes: warnings about the maps, one sentence each.
        unit: what points are.
    """

    name: ClassVar[str] = "embeddings"
    layer: str
    classes: tuple[str, ...]
    label: np.ndarray
    index: np.ndarray
    maps: tuple[str, ...]
    points: np.ndarray
    cluster: np.ndarray
    explained: np.ndarray
    earlier: tuple[str, ...]
    earlier_points: np.ndarray
    earlier_explained: np.ndarray
    kept: np.ndarray
    spaces: tuple[str, ...]
    scores: np.ndarray
    dimensions: np.ndarray
    thumbnails: np.ndarray
    notes: tuple[str, ...]
    unit: str

    @property
    def num_clusters(self) -> int:
        return int(self.cluster.max()) + 1

    def numbers(self) -> dict[str, Estimate]:
        n = len(self.label)
        scores = {
            f"{score}, {space}": float(self.scores[row, column])
            for row, space in enumerate(self.spaces)
            for column, score in enumerate(SCORES)
        }
        scores |= {f"trustworthiness, {each}": float(self.kept[row, 0]) for row, each in enumerate(self.maps)}
        return {name: Estimate(value, n, self.unit) for name, value in scores.items() if np.isfinite(value)}


@single_blas_thread()
def analyze(inputs: AnalysisInputs) -> Embeddings:
    """Map the vectors that the layers hold of the first test samples, and score them.

    Raises:
        NotApplicableError: if samples have no classes, or layers no vectors for them.
    """
    untrained = inputs.require_untrained()
    samples = first_samples(inputs, inputs.split, NUM_POINTS)
    kind, answers = next(iter(samples.kinds.items()))
    whole = inputs.saved_predictions().image_ids.shape[1] == 1
    answers = one_of_each_image(answers, whole=whole)
    samples = samples._replace(kinds={kind: answers})
    label = answers.target.numpy()
    if len(label) < 2 * NEIGHBORS or len(np.unique(label)) < 2:
        raise NotApplicableError(f"{len(label)} samples of {len(np.unique(label))} classes are too few to map")
    layers = layer_spaces(inputs.task, samples)
    last = [*layers][-1]
    spaces = layers | {
        PIXELS: cell_images(inputs.task.model, samples).flatten(1).double().numpy(),
        f"{last}, untrained": layer_spaces(untrained, samples)[last],
    }
    reduced = {name: reduce(values) for name, values in spaces.items()}
    clusters = {name: hdbscan(values) for name, values in reduced.items()}
    explained, maps = make_maps(layers[last], reduced[last])
    earlier = {name: principal_axes(values)[1:] for name, values in layers.items() if name != last}
    scores = [score(reduced[name], label, clusters[name]) for name in spaces]
    return Embeddings(
        layer=last,
        classes=answers.names,
        label=label,
        index=answers.sample.numpy(),
        maps=tuple(maps),
        points=np.stack([*maps.values()]).astype(np.float32),
        cluster=clusters[last],
        explained=explained,
        earlier=tuple(earlier),
        earlier_points=np.array([points[:NUM_EARLIER, :2] for points, _ in earlier.values()], np.float32),
        earlier_explained=np.array([shares[:2] for _, shares in earlier.values()]),
        kept=np.array([map_quality(reduced[last], points) for points in maps.values()]),
        spaces=tuple(spaces),
        scores=np.array(scores),
        dimensions=np.array([values.shape[1] for values in reduced.values()]),
        thumbnails=make_thumbnails(inputs.task, samples),
        notes=() if find_spec("umap") else ("for a map by UMAP as well: pip install 'patchwork[umap]'",),
        unit=f"{kind}s in {inputs.split} {inputs.task.samples_name}",
    )


def layer_spaces(task: Task, samples: Samples) -> dict[str, np.ndarray]:
    """Return the features (n, D) by layer, without what is the same of all that are at one position."""
    cell = samples.answers.cell
    spaces = {}
    for name, values in layer_features(task, samples).items():
        centered = values.clone()
        for position in cell.unique():
            centered[cell == position] -= values[cell == position].mean(dim=0)
        spaces[name] = centered.numpy()
    return spaces


def make_thumbnails(task: Task, samples: Samples) -> np.ndarray:
    """Return the images of points in gray, (n, 14, 14) uint8."""
    images = cell_images(task.model, samples).double().mean(dim=1, keepdim=True)
    small = F.interpolate(images, (THUMBNAIL, THUMBNAIL), mode="bilinear", antialias=True)[:, 0]
    return (small.clamp(0, 1) * 15).round().mul(17).to(torch.uint8).numpy()


# --- spaces and maps -------------------------------------------------------------------------------------------------


def principal_axes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the directions (K, D) of a PCA of values (n, D), coordinates (n, K), and shares of the variance (K,).

    The sign of a direction is that which makes the skewness of its coordinates positive, so that a map of −X is that
    of X.
    """
    centered = values - values.mean(axis=0)
    left, singular, axes = np.linalg.svd(centered, full_matrices=False)
    shares = singular**2 / max(float((singular**2).sum()), 1e-300)
    coordinates = left * singular
    sign = np.where((coordinates**3).sum(axis=0) < 0, -1.0, 1.0)
    return axes * sign[:, None], coordinates * sign, shares


def reduce(values: np.ndarray) -> np.ndarray:
    """Return coordinates (n, K) along the directions that hold 95 % of the variance of values (n, D), two at least."""
    _, coordinates, shares = principal_axes(values)
    return coordinates[:, : max(int((np.cumsum(shares) < EXPLAINED).sum()) + 1, 2)]


def make_maps(values: np.ndarray, reduced: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the variance that PCA explains (2,), and maps (n, 2) by name: PCA, t-SNE, and UMAP if it is installed."""
    from sklearn.manifold import TSNE

    _, coordinates, shares = principal_axes(values)
    maps = {"PCA": coordinates[:, :2]}
    for perplexity in PERPLEXITIES:
        tsne = TSNE(perplexity=min(perplexity, (len(values) - 1) / 3), random_state=0, max_iter=500)
        maps[f"t-SNE, perplexity {perplexity}"] = tsne.fit_transform(reduced)
    if find_spec("umap"):
        from umap import UMAP

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a seed makes it use one thread
            maps["UMAP"] = UMAP(random_state=0).fit_transform(reduced)
    return shares[:2], maps


def map_quality(space: np.ndarray, points: np.ndarray) -> tuple[float, float]:
    """Return the trustworthiness of a map (n, 2) of a space (n, K), and the share of 15 neighbors that it keeps."""
    from sklearn.manifold import trustworthiness

    count = min(NEIGHBORS, len(points) // 2 - 1)
    same = [np.isin(*pair).mean() for pair in zip(nearest(space, count), nearest(points, count), strict=True)]
    return float(trustworthiness(space, points, n_neighbors=count)), float(np.mean(same))


def nearest(points: np.ndarray, count: int) -> np.ndarray:
    """Return the other points that are nearest to each, (n, count)."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=count).fit(points).kneighbors(return_distance=False)


# --- clusters and scores ---------------------------------------------------------------------------------------------


def hdbscan(space: np.ndarray) -> np.ndarray:
    """Return the clusters (n,) of a space (n, K), −1 for noise; all are noise if there are no clusters."""
    from sklearn.cluster import HDBSCAN

    return HDBSCAN(min_cluster_size=MIN_CLUSTER, min_samples=NEIGHBORS, copy=True).fit_predict(space)


def score(space: np.ndarray, label: np.ndarray, cluster: np.ndarray) -> list[float]:
    """Return the scores of a space (n, K), see `SCORES`; those of HDBSCAN are NaN where it finds no cluster."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import (
        adjusted_mutual_info_score,
        adjusted_rand_score,
        homogeneity_completeness_v_measure,
        silhouette_score,
    )

    num_classes = len(np.unique(label))
    votes = np.stack([(label[nearest(space, NEIGHBORS)] == each).sum(axis=1) for each in range(label.max() + 1)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where fewer points are distinct
        means = KMeans(num_classes, n_init=4, random_state=0).fit_predict(space)
    found = cluster.max() >= 0
    singletons = np.where(cluster < 0, len(cluster) + np.arange(len(cluster)), cluster)  # noise is no cluster
    homogeneity, completeness, _ = homogeneity_completeness_v_measure(label, singletons)
    scores = [adjusted_rand_score(label, singletons), adjusted_mutual_info_score(label, singletons)]
    return [
        float((votes.argmax(axis=0) == label).mean()),
        float(silhouette_score(space, label)),
        float(adjusted_rand_score(label, means)),
        float(adjusted_mutual_info_score(label, means)),
        float(cluster.max() + 1),
        float((cluster < 0).mean()),
        *(float(each) if found else np.nan for each in (*scores, homogeneity, completeness)),
    ]

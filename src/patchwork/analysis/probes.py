"""What can be read off each layer by a linear classifier, beside what could be read without any training.

A probe is a multinomial logistic regression on what a layer holds about an answer. It is fitted on samples of the
validation split, its regularization is chosen on other images of that split, and it is tested on the test split, so
that no digit is in both. What it reads need not be used by the network: patching tells that.

A probe may do by itself what one would credit the network with. The controls for that are the same probe of raw pixels
and of the untrained network. There is no control task, nor selectivity, as in Hewitt & Liang 2019
(https://arxiv.org/abs/1909.03368): it gives each type of input, as a word, a fixed random label, which a probe can have
memorized by the test. No test image is among those fitted on, so that any probe would be at chance on such labels.

Source: Alain & Bengio 2016, https://arxiv.org/abs/1610.01644.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from patchwork.analysis.features import Samples, cell_images, first_samples, independent_units, layer_features
from patchwork.analysis.inputs import AnalysisInputs
from patchwork.analysis.result import Estimate, Result
from patchwork.core.cpus import single_blas_thread
from patchwork.stats.intervals import clustered_wilson
from patchwork.tasks import Task
from patchwork.tasks.predictions import ClassAnswers

MAX_ANSWERS = 1500  # to fit on, and to test on
PENALTIES = (0.001, 0.03, 1.0)  # inverse strengths of the L2 penalty, the strongest first, of which one is chosen
HELD_OUT = 4  # every fourth image chooses it
PIXELS = "raw pixels"


@dataclass(frozen=True, eq=False)
class Probes(Result):
    """Accuracies of probes by what they read and from where.

    Attributes:
        variables: what is read, as `digit` or `digit of the next cell`.
        layers: from where, in the order of the network; the last one is the raw pixels of the image or cell.
        accuracy: (V, L, 3) test accuracy and its 95 % interval over images; NaN where there is nothing to read.
        untrained: (V, L, 3) the same of the untrained network.
        chance: (V,) test accuracy of the most frequent class of the samples fitted on.
        n_fitted: number of answers fitted on.
        n: number of answers tested on.
        unit: what they are.
    """

    name: ClassVar[str] = "probes"
    variables: tuple[str, ...]
    layers: tuple[str, ...]
    accuracy: np.ndarray
    untrained: np.ndarray
    chance: np.ndarray
    n_fitted: int
    n: int
    unit: str

    def numbers(self) -> dict[str, Estimate]:
        rows = {
            f"{variable} after {layer}{control}": values[v, index]
            for control, values in (("", self.accuracy), (", untrained", self.untrained))
            for v, variable in enumerate(self.variables)
            for index, layer in enumerate(self.layers)
        }
        return {
            name: Estimate(float(value), self.n, self.unit, float(low), float(high), "Wilson, over images")
            for name, (value, low, high) in rows.items()
            if np.isfinite(value)
        }


@dataclass(frozen=True, eq=False)
class Labels:
    """Classes that a probe predicts.

    Attributes:
        target: (n,) classes.
        valid: (n,) mask of the labels that exist; there is no cell after the last one.
        image: (n,) the image that a class is of, so that answers about one image are not taken as independent.
    """

    target: np.ndarray
    valid: np.ndarray
    image: np.ndarray


@single_blas_thread()
def analyze(inputs: AnalysisInputs) -> Probes:
    """Fit probes on the first samples of the validation split, and test them on those of the test split.

    Raises:
        NotApplicableError: if samples have no classes, or layers no vectors for them.
    """
    untrained = inputs.require_untrained()
    fit, test = first_samples(inputs, "val", MAX_ANSWERS), first_samples(inputs, "test", MAX_ANSWERS)
    labels, asked = readable(fit.kinds), readable(test.kinds)
    variables = tuple(labels)
    held, tested = read_layers(inputs.task, fit), read_layers(inputs.task, test)
    control, control_tested = read_layers(untrained, fit), read_layers(untrained, test)
    trained_rows = [[probe(held[at], labels[v], tested[at], asked[v]) for at in held] for v in variables]
    control_rows = [
        [probe(control[at], labels[v], control_tested[at], asked[v]) for at in held if at != PIXELS] for v in variables
    ]
    return Probes(
        variables=variables,
        layers=tuple(held),
        accuracy=np.array(trained_rows),
        untrained=np.array(
            [[*row, of_trained[-1]] for row, of_trained in zip(control_rows, trained_rows, strict=True)]
        ),
        chance=np.array([majority(labels[name], asked[name]) for name in variables]),
        n_fitted=len(fit.answers.target),
        n=len(test.answers.target),
        unit=f"{variables[0]}s in test {inputs.task.samples_name}",
    )


def read_layers(task: Task, samples: Samples) -> dict[str, np.ndarray]:
    """Return the features (n, D) by layer; the last are pixels."""
    layers = {name: values.float().numpy() for name, values in layer_features(task, samples).items()}
    return layers | {PIXELS: cell_images(task.model, samples).flatten(1).float().numpy()}


# --- what is read ----------------------------------------------------------------------------------------------------


def readable(kinds: Mapping[str, ClassAnswers]) -> dict[str, Labels]:
    """Return what there is to be read: each kind of class, and of the first kind those of the cells beside, if any."""
    labels, first = {}, next(iter(kinds))
    for name, answers in kinds.items():
        target, image = answers.target.numpy(), independent_units(answers).numpy()
        labels[name] = Labels(target, np.ones(len(target), bool), image)
        for which, step in (("previous", -1), ("next", 1)):
            other = beside(answers, step)
            if name == first and (other >= 0).any():
                labels[f"{name} of the {which} cell"] = Labels(target[other], other >= 0, image[other])
    return labels


def beside(answers: ClassAnswers, step: int) -> np.ndarray:
    """Return the row (n,) of the answer about the cell `step` further on in the same sample, or −1."""
    sample, cell = answers.sample.numpy(), answers.cell.numpy()
    rows = np.full((sample.max() + 1, cell.max() + 3), -1)
    rows[sample, cell + 1] = np.arange(len(sample))
    return rows[sample, cell + 1 + step]


def majority(labels: Labels, asked: Labels) -> float:
    """Return the accuracy of always answering with the most frequent class of the labels fitted on."""
    most_frequent = np.bincount(labels.target[labels.valid]).argmax()
    return float((asked.target[asked.valid] == most_frequent).mean())


# --- the probe -------------------------------------------------------------------------------------------------------


def probe(
    x: np.ndarray, labels: Labels, tested: np.ndarray, asked: Labels, *, penalty: float | None = None
) -> tuple[float, float, float]:
    """Return the test accuracy of a linear classifier of features (n, D), and its 95 % interval over images.

    Args:
        x: features (n, D) to fit on, float32.
        labels: their classes.
        tested: features (m, D) of other images.
        asked: their classes.
        penalty: inverse strength of the L2 penalty; None chooses it.
    """
    penalty = penalty or choose_penalty(x, labels)
    x, tested = standardize(x[labels.valid], tested[asked.valid])
    (predicted,) = predict(x, labels.target[labels.valid], tested, (penalty,))
    right = predicted == asked.target[asked.valid]
    return float(right.mean()), *clustered_wilson(right, asked.image[asked.valid])


def choose_penalty(x: np.ndarray, labels: Labels) -> float:
    """Return the inverse strength of the L2 penalty that reads a quarter of the images best, fitted on the others."""
    x, target, held_out = x[labels.valid], labels.target[labels.valid], labels.image[labels.valid] % HELD_OUT == 0
    if held_out.all() or not held_out.any():
        return PENALTIES[0]
    fitted, tested = standardize(x[~held_out], x[held_out])
    predicted = predict(fitted, target[~held_out], tested, PENALTIES)
    return PENALTIES[int(np.argmax([(each == target[held_out]).mean() for each in predicted]))]


def standardize(x: np.ndarray, tested: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features with the means and standard deviations of the first ones taken out of both."""
    mean, scale = x.mean(axis=0), x.std(axis=0)
    scale = np.where(scale < 1e-5 * max(float(scale.max()), 1e-12), 1, scale)  # features that do not vary
    return (x - mean) / scale, (tested - mean) / scale


def predict(
    x: np.ndarray, target: np.ndarray, tested: np.ndarray, penalties: tuple[float, ...]
) -> Iterator[np.ndarray]:
    """Yield what a logistic regression of each penalty predicts of other features, the strongest penalty first."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=60, tol=1e-3, warm_start=True)
    for penalty in penalties:
        if len(np.unique(target)) == 1:
            yield np.full(len(tested), target[0])
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where classes are separable, the last digits of weights do not matter
            yield model.set_params(C=penalty).fit(x, target).predict(tested)

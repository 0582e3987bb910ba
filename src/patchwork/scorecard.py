"""How good is a generator? Its likelihood, and what an independent judge makes of the digits that it draws.

1. The exact likelihood of the test images: alone, given their class, and averaged over all classes.
2. Digits of every class are drawn, by a fixed seed, as the model has them: no temperature, nothing cut off. Or with a
   temperature or guidance that is asked for; likelihoods are the model's own, whatever is asked.
3. A classifier of the same project, trained on real digits and never on drawn ones, says what it sees in them; its
   features tell how near the law of what is drawn comes to that of real digits.
4. A classifier of the judge's kind is taught on drawn digits alone and asked about real ones.

Each figure stands beside that of real digits where there is one: of the test digits, or of as many training digits if
there are so many.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from patchwork.data import Batch, Drawings
from patchwork.data.digits import Split
from patchwork.data.handwriting import Handwriting, normalise
from patchwork.data.prompts import Kind, prompts
from patchwork.data.stream import generator
from patchwork.errors import ConfigError, DataError
from patchwork.models import PixelDecoder
from patchwork.run import Run, build, keep_memory, same_digits
from patchwork.tasks import Classify, Pixels

CHUNK = 500  # images at a time
NEIGHBOURS = 3  # of a feature, for precision and recall
LESSONS = 1200  # steps that a classifier is taught
ASKED = 1000  # prompts of each kind


@dataclass(frozen=True)
class Score:
    """One figure of a generator, that of real digits where there is one, and what it means."""

    name: str
    value: float
    real: float | None
    meaning: str


@dataclass(frozen=True)
class Real:
    """The digits that drawn ones are compared with, all of them, as a generator of so many levels knows them."""

    train: Batch
    test: Batch
    levels: int

    @classmethod
    def of(cls, data: Drawings) -> "Real":
        test = {name: values[: data.sizes["test"]] for name, values in data.whole("test").items()}
        return cls(data.whole("train"), test, data.levels)


def check_judge(judge: Run, run: Run) -> None:
    """Check that a run can judge what another one draws.

    Raises:
        ConfigError: if it is no classifier with features, of the same images.
        DataError: if it was trained on other digits, or those found here are others.
    """
    if not (isinstance(judge.task, Classify) and hasattr(judge.model, "features")):
        raise ConfigError(f"judge={judge.folder} is no run of task=classify with model=vit, which a judge is")
    for key in ("num_classes", "image_size"):
        if judge.config.data[key] != run.config.data[key]:
            raise ConfigError(
                f"judge={judge.folder} has data.{key}={judge.config.data[key]}, run={run.folder} has others"
            )
    if judge.manifest.get("data_digest") != run.manifest.get("data_digest"):
        raise DataError(f"judge={judge.folder} was trained on other digits than run={run.folder}")
    judge.data.prepare_data()
    same_digits(judge.manifest, judge.data)


def scorecard(run: Run, judge: Run | None, count: int, **choice: Any) -> Iterator[Score]:
    """Measure a generator, whose data is loaded, on the test digits and on `count` digits that it draws.

    What it never learned is left out: images of which nothing is told, classes, or prompts. `choice` is the
    `temperature` and `guidance` that it draws with, see `PixelDecoder.draw`.
    """
    keep_memory()
    task, real = cast(Pixels, run.task.float().eval()), Real.of(cast(Drawings, run.data))
    model = cast(PixelDecoder, task.model)
    yield Score("parameters", sum(p.numel() for p in model.parameters()), None, "of the generator")
    yield from likelihood(task, real)
    yield from speed(model, **choice)
    label = torch.arange(count) % model.none
    if task.names_classes:
        drawn = draw(model, label, "scorecard", **choice)
        yield from nearness(drawn, real)
        if judge is not None:
            yield from judged(Judge(judge, model.levels), drawn, label, real)
            yield from taught(judge, drawn, label, real)
    if judge is not None and model.text is not None:
        yield from understood(Judge(judge, model.levels), model, **choice)


@torch.inference_mode()
def likelihood(task: Pixels, real: Real) -> Iterator[Score]:
    """Measure the likelihood of the test images in full."""
    model, image, label = cast(PixelDecoder, task.model), real.test["image"], real.test["label"]
    bits = 1 / image[0].numel() / math.log(2)

    def laws(told: range) -> Tensor:
        """Return log p(image | what is told), in nats (n, told)."""
        of = [
            [model.log_likelihood(part, torch.full((len(part),), one)) for one in told] for part in image.split(CHUNK)
        ]
        return torch.cat([torch.stack(part, dim=1) for part in of]).double()

    if task.unlabelled:
        alone = -float(laws(range(model.none, model.none + 1)).mean())
        yield Score("nll", alone, None, "nats an image, nothing told")
        yield Score("bits_per_pixel", alone * bits, None, "the same, in bits a pixel")
    if task.names_classes:
        classes = laws(range(model.none))
        marginal = -float((classes.logsumexp(dim=1) - math.log(model.none)).mean())
        yield Score("marginal_nll", marginal, None, "nats an image, the mean law over all classes")
        yield Score("marginal_bits_per_pixel", marginal * bits, None, "the same, in bits a pixel")
        yield Score(
            "class_nll", -float(classes[range(len(label)), label].mean()), None, "nats an image, its class told"
        )
        guessed = share(classes.argmax(dim=1) == label)
        yield Score("generative_accuracy", guessed, None, "of the likeliest class, as a classifier")


def draw(model: PixelDecoder, label: Tensor, *key: str, prompt: Tensor | None = None, **choice: Any) -> Tensor:
    """Draw images (n, 1, height, width) of levels, for classes (n,) or prompts (n, L)."""
    chance, drawn = generator(*key), []
    for start in range(0, len(label), CHUNK):
        part = slice(start, start + CHUNK)
        noise = model.noise(len(label[part]), chance)
        drawn.append(model.generate(label[part], noise, prompt=None if prompt is None else prompt[part], **choice))
    return torch.cat(drawn)


def speed(model: PixelDecoder, **choice: Any) -> Iterator[Score]:
    """Time the drawing: the best of three."""
    for size, name, meaning in ((64, "images_per_second", "64 at a time"), (1, "seconds_for_one", "one image alone")):
        label = torch.arange(size) % model.none
        noise = model.noise(size, generator("speed"))
        times = []
        for _ in range(3):
            begin = time.perf_counter()
            model.generate(label, noise, **choice)
            times.append(time.perf_counter() - begin)
        yield Score(name, size / min(times) if size > 1 else min(times), None, meaning)


@torch.inference_mode()
def nearness(drawn: Tensor, real: Real) -> Iterator[Score]:
    """Look for the training image that is nearest to each drawn one, by the pixels in which they differ."""
    train, test = real.train["image"], real.test["image"]
    ours, theirs = (nearest(images, train, real.levels) for images in (drawn, test))
    unit = "pixels that differ from" if real.levels == 2 else "squared distance to"
    yield Score("nearest", float(ours.mean()), float(theirs.mean()), f"{unit} the nearest training image")
    known = set(keys(train))
    found = [sum(key in known for key in keys(images)) / len(images) for images in (drawn, test)]
    once = ", each made binary once" if real.levels == 2 else ""
    yield Score("copies", found[0], found[1], f"are exactly a training image{once}")


def keys(images: Tensor) -> list[bytes]:
    """Return what is equal for equal images."""
    return [bytes(pixels) for pixels in images.byte().flatten(1).numpy()]


def nearest(images: Tensor, among: Tensor, levels: int) -> Tensor:
    """Return for each of `images` its distance (n,) to the nearest of others: squared, in steps of a pixel's range."""
    one, other = (pixels.flatten(1) / (levels - 1) for pixels in (images, among))
    sizes = other.square().sum(dim=1)
    found = [(sizes - 2 * part @ other.mT).amin(dim=1) + part.square().sum(dim=1) for part in one.split(CHUNK)]
    return torch.cat(found)


class Judge:
    """A trained classifier, and what it sees in images (n, 1, height, width) of levels."""

    def __init__(self, run: Run, levels: int) -> None:
        self.model, self.levels = cast(Any, run.model.eval()), levels

    @torch.inference_mode()
    def features(self, image: Tensor) -> Tensor:
        """Return what the answer is read from (n, D)."""
        return torch.cat([self.model.features(grey(part, self.levels)) for part in image.split(CHUNK)])

    @torch.inference_mode()
    def answers(self, features: Tensor) -> Tensor:
        """Return the likeliest classes (n,)."""
        return self.model.head(features).argmax(dim=1)


def grey(image: Tensor, levels: int) -> Tensor:
    """Turn levels into the normalised images that classifiers know."""
    return normalise(image * (255 / (levels - 1)))


def judged(judge: Judge, drawn: Tensor, label: Tensor, real: Real) -> Iterator[Score]:
    """Compare what the judge sees in drawn digits with what it sees in real ones."""
    train, test = real.train, real.test
    others = torch.randperm(len(train["label"]), generator=generator("judge"))[: len(drawn)]
    ours, theirs, learned = (judge.features(image) for image in (drawn, test["image"], train["image"][others]))
    seen, truly = share(judge.answers(ours) == label), share(judge.answers(theirs) == test["label"])
    yield Score("judge_accuracy", seen, truly, "the judge sees the class that was asked for")
    yield Score("frechet", frechet(ours, theirs), frechet(learned, theirs), "distance from the test digits' features")
    for name, value, floor in zip(
        ("precision", "recall"), precision_recall(ours, theirs), precision_recall(learned, theirs), strict=True
    ):
        meaning = "drawn digits are among real ones" if name == "precision" else "real digits are among drawn ones"
        yield Score(name, value, floor, meaning)


def frechet(one: Tensor, other: Tensor) -> float:
    """Return the Fréchet distance between normal laws of two sets of features (n, D) and (m, D).

    |μ - μ'|² + tr(Σ + Σ' - 2 (Σ Σ')^½), see Heusel et al. 2017, https://arxiv.org/abs/1706.08500
    """
    (mean, cov), (mean2, cov2) = ((f.double().mean(dim=0), f.double().mT.cov()) for f in (one, other))
    values, vectors = torch.linalg.eigh(cov)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.mT
    common = torch.linalg.eigvalsh(root @ cov2 @ root).clamp_min(0).sqrt().sum()
    return float((mean - mean2).square().sum() + cov.trace() + cov2.trace() - 2 * common)


def precision_recall(drawn: Tensor, real: Tensor) -> tuple[float, float]:
    """Return how many drawn features (n, D) lie among the real ones (m, D), and how many real ones among the drawn.

    A point lies among others if it is as near to one of these as its third neighbour is (Kynkäänniemi et al. 2019,
    https://arxiv.org/abs/1904.06991).
    """

    def among(points: Tensor, others: Tensor) -> float:
        reach = torch.cat(
            [torch.cdist(part, others).kthvalue(NEIGHBOURS + 1).values for part in others.split(CHUNK)]
        )  # the first neighbour is the point itself
        return share(torch.cat([(torch.cdist(part, others) <= reach).any(dim=1) for part in points.split(CHUNK)]))

    return among(drawn, real), among(real, drawn)


def taught(judge: Run, drawn: Tensor, label: Tensor, real: Real) -> Iterator[Score]:
    """Teach a classifier of the judge's kind on drawn digits, and another one on as many real ones."""
    others = torch.randperm(len(real.train["label"]), generator=generator("taught"))[: len(drawn)]
    found = []
    for images, labels in ((drawn, label), (real.train["image"][others], real.train["label"][others])):
        pupil = teach(judge, Split((images[:, 0] * (255 // (real.levels - 1))).byte(), labels))
        with torch.inference_mode():
            tests = real.test["image"].split(CHUNK)
            said = torch.cat([pupil(grey(part, real.levels)).argmax(dim=1) for part in tests])
        found.append(share(said == real.test["label"]))
    yield Score("taught_accuracy", found[0], found[1], "on test digits, of a classifier taught on drawn digits alone")


def teach(judge: Run, digits: Split) -> nn.Module:
    """Train a new model as the judge's configuration says, on other digits and for `LESSONS` steps."""
    config = judge.config.copy()
    config.seed += 1
    data, task = build(config)
    data.prepare_data()
    cast(Handwriting, data).parts["train"] = digits
    optimizer = task.optimizer(task.model)
    schedule = task.scheduler(optimizer, LESSONS)
    task.train()
    for index in range(LESSONS):
        optimizer.zero_grad()
        task.step(data.make("train", (0, index), slice(None)), "train").backward()
        nn.utils.clip_grad_norm_(task.parameters(), config.trainer.gradient_clip_val or torch.inf)
        optimizer.step()
        schedule.step()
    return task.model.eval()


def understood(judge: Judge, model: PixelDecoder, **choice: Any) -> Iterator[Score]:
    """Draw what prompts ask for, known ones and those held out, and let the judge say what it sees."""
    known: dict[str, tuple[tuple[Kind, ...], str]] = {
        "prompts": (("numbers", "sums"), "prompts of the training grammar, drawn as asked"),
        "new_phrasings": (("new_phrasings",), "prompts in phrasings that were held out"),
        "new_sums": (("new_sums",), "sums and differences that were held out"),
    }
    for name, (kinds, meaning) in known.items():
        right = []
        for kind in kinds:
            some = prompts(kind)
            possible = int((some.digits < model.none).sum())  # they come in order
            chosen = torch.randperm(possible, generator=generator("asked", kind))[: ASKED // len(kinds)]
            label = some.digits[chosen]
            none = torch.full_like(label, model.none)
            images = draw(model, none, "asked", kind, prompt=some.words[chosen], **choice)
            right.append(judge.answers(judge.features(images)) == label)
        yield Score(name, share(torch.cat(right)), None, meaning)


def share(right: Tensor) -> float:
    return float(right.double().mean())


def line(score: Score) -> str:
    """Write a score, and that of real digits, on one line."""
    real = "" if score.real is None else number(score.real)
    return f"  {score.name:<24} {number(score.value):>10} {real:>12}   {score.meaning}"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.4g}"

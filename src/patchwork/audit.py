"""Does a model do what it claims? Probes that any task puts its models to, trained or not.

A probe changes something that must not matter, or must, and measures what comes of it. All but `overfit` compute in
double precision, so that rounding can neither hide a fault nor look like one. A task's `probes` names those that apply.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from patchwork.config import check
from patchwork.data import Stream
from patchwork.data.stream import generator
from patchwork.errors import ConfigError, PatchworkError
from patchwork.models.transformer import PatchEmbed
from patchwork.optim import linear
from patchwork.run import Run, build, same_digits
from patchwork.tasks import Task
from patchwork.tasks.base import Batch

SAMPLES = 16
EXACT = 1e-8  # what rounding may do in double precision
NOTICED = 1e-3  # what a change that matters does at least
SEEN = 1e-6  # what one image of many does at least
IDLE = 1e-10  # of the largest gradient: what rounding leaves of none
BEGIN = 0.25  # how far the loss may begin from that of knowing nothing
STEPS, LEARNED = 150, 0.1  # steps to learn a batch by heart, and the share of the first loss that may be left


@dataclass(frozen=True)
class Finding:
    """What a probe found: whether that is as it should be, what was measured, and what was wanted.

    Where there is nothing to judge, `passed` is None.
    """

    passed: bool | None
    measured: str
    wanted: str


@dataclass(frozen=True)
class Subject:
    """A task with its model in double precision, evaluating; batches to probe it with; and the data they are from."""

    task: Task
    batch: Batch  # of validation
    lesson: Batch  # of training
    data: Stream
    trained: bool


def audit(config: DictConfig) -> None:
    """Probe what a configuration builds, or the run that it names, and print a table.

    Raises:
        PatchworkError: if a probe fails; its kinds as `Run.load` and `build` raise them.
    """
    if config.run:
        for word in HydraConfig.get().overrides.task:
            if not word.startswith("run="):
                raise ConfigError(f"{word} cannot be set beside run={config.run}, which has settings of its own")
        run = Run.load(Path(str(config.run)))
        task, data, title = run.task, run.data, f"{config.run}, trained"
        data.prepare_data()
        same_digits(run.manifest, data)
    else:
        settings = config.copy()
        del settings.run
        check(settings)
        data, task = build(settings)
        title = f"{type(task).__name__} with {type(task.model).__name__}, untrained"
    data.prepare_data()
    print(title)
    failed = []
    for name, finding in findings(task, data, trained=bool(config.run)):
        verdict = {True: "pass", False: "FAIL", None: "    "}[finding.passed]
        print(f"  {verdict}  {name:<14} {finding.measured:<35} {finding.wanted}")
        failed += [name] if finding.passed is False else []
    if failed:
        raise PatchworkError(f"{len(failed)} of {len(task.probes)} probes failed: {', '.join(failed)}")


def findings(task: Task, data: Stream, *, trained: bool = False) -> Iterator[tuple[str, Finding]]:
    """Put a task to all its probes, one after the other; it is left as it was."""
    exact = double(task)
    batches = [
        {name: precise(values[:SAMPLES]) for name, values in data.make(part, (0, 0), slice(None)).items()}
        for part in ("val", "train")
    ]
    subject = Subject(exact.eval(), batches[0], batches[1], data, trained)
    for name in task.probes:
        yield name, PROBES[name](subject)


def double(task: Task) -> Task:
    """Return a copy of a task that computes in double precision throughout."""
    task = deepcopy(task).double()
    for module in task.modules():
        if isinstance(module, PatchEmbed):
            module.low_precision = False
    return task


def precise(values: Tensor) -> Tensor:
    return values.double() if values.is_floating_point() else values


def stirred(task: Task) -> Task:
    """Return a copy whose parameters are a little off, as a network that begins with zeros has nothing to show."""
    task = deepcopy(task)
    draw = generator("audit")
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.02)
    return task


def at_work(subject: Subject) -> Task:
    """Return the task as probes of its outputs want it."""
    return deepcopy(subject.task) if subject.trained else stirred(subject.task)


def difference(one: Tensor, other: Tensor) -> float:
    """Return the greatest difference, relative to the outputs' mean size; infinite if anything is not a number."""
    measured = float((one - other).abs().max() / one.abs().mean().clamp_min(1e-12))
    return measured if math.isfinite(measured) else math.inf


def same(measured: float, what: str) -> Finding:
    return Finding(measured <= EXACT, f"outputs change by {measured:.1e}", f"at most {EXACT:.0e}: {what}")


@torch.no_grad()
def companions(subject: Subject) -> Finding:
    """Predict every sample alone, and with the others in reverse order."""
    task, batch = at_work(subject), subject.batch
    together = task.outputs(batch)
    alone = torch.cat([task.outputs(part(batch, slice(i, i + 1))) for i in range(len(together))])
    backwards = task.outputs(part(batch, torch.arange(len(together)).flip(0))).flip(0)
    measured = max(difference(together, alone), difference(together, backwards))
    return same(measured, "what else is in a batch does not matter")


@torch.no_grad()
def deterministic(subject: Subject) -> Finding:
    """Predict the same batch twice."""
    task = at_work(subject)
    measured = difference(task.outputs(subject.batch), task.outputs(subject.batch))
    return Finding(measured == 0, f"outputs change by {measured:.1e}", "not at all: evaluation draws nothing at random")


@torch.no_grad()
def padding(subject: Subject) -> Finding:
    """Fill what is beyond the end of sequences with noise, and then cut some of it off."""
    task, mask = at_work(subject), subject.batch["mask"]
    short = mask.sum(dim=1) < mask.shape[1]
    if not short.any():
        return Finding(None, "no sequence has padding", "nothing to measure")
    batch = part(subject.batch, short)
    plain = task.outputs(batch)
    noise = torch.randn(batch["image"].shape, generator=generator("audit"), dtype=torch.double)
    filled = {**batch, "image": torch.where(batch["mask"][:, :, None, None, None], batch["image"], noise)}
    cut = {**batch, "image": filled["image"][:, :-1], "mask": batch["mask"][:, :-1]}
    measured = max(difference(plain, task.outputs(filled)), difference(*of_one_size(plain, task.outputs(cut))))
    return same(measured, "padding is never seen, whatever it holds")


@torch.no_grad()
def order(subject: Subject) -> Finding:
    """Turn sequences around."""
    task, batch = at_work(subject), subject.batch
    place = torch.arange(batch["mask"].shape[1])
    length = batch["mask"].sum(dim=1, keepdim=True)
    turned = torch.where(place < length, length - 1 - place, place)  # (B, S)
    image = batch["image"][torch.arange(len(turned))[:, None], turned]
    if torch.equal(image, batch["image"]):
        return Finding(None, "no sequence has an order", "nothing to measure")
    measured = difference(task.outputs(batch), task.outputs({**batch, "image": image}))
    if getattr(task.model, "ordered", False):
        return Finding(
            measured >= NOTICED, f"outputs change by {measured:.1e}", "the model tells places apart, and says so"
        )
    return same(measured, "a set has no order")


@torch.no_grad()
def images(subject: Subject) -> Finding:
    """Give every sample the images of the next one: all of them, its anchor alone, one place of a sequence alone."""
    task, batch = at_work(subject), subject.batch
    if len(batch["image"]) == 1:
        return Finding(None, "there is one sample", "nothing to measure")
    changes: list[Batch] = [{name: batch[name].roll(1, dims=0)} for name in ("image", "anchor") if name in batch]
    if "mask" in batch:
        here = torch.eye(batch["mask"].shape[1], dtype=torch.bool)[:, None] & batch["mask"]  # (S, B, S)
        other = batch["image"][:, :1].roll(1, dims=0)  # its first image, as each has one
        changes += [
            {"image": torch.where(places[:, :, None, None, None], other, batch["image"])}
            for places in here
            if places.any()
        ]
    plain = task.outputs(batch)
    measured = [difference(plain, task.outputs({**batch, **change})) for change in changes]
    return Finding(
        measured[0] >= NOTICED and min(measured) >= SEEN,
        f"outputs change by {measured[0]:.1e}",
        f"at least {NOTICED:.0e}, and {SEEN:.0e} by each image alone",
    )


@torch.no_grad()
def positions(subject: Subject) -> Finding:
    """Let the patches of an image change places; where nothing cuts patches, its quarters."""
    task, batch = at_work(subject), subject.batch
    plain = task.outputs(batch)
    layers = [module for module in task.modules() if isinstance(module, PatchEmbed)]
    if layers and all(layer.grid == (1, 1) for layer in layers):
        return Finding(None, "an image is one patch", "nothing to measure")
    if layers:
        with shuffled_patches(task):
            moved = task.outputs(batch)
    else:
        halves = [size // 2 for size in batch["image"].shape[-2:]]
        moved = task.outputs({**batch, "image": batch["image"].roll(halves, dims=(-2, -1))})
    measured = difference(plain, moved)
    return Finding(measured >= NOTICED, f"outputs change by {measured:.1e}", f"at least {NOTICED:.0e}: places matter")


@contextmanager
def shuffled_patches(task: Task) -> Iterator[None]:
    """Let every `PatchEmbed` give its patches in reverse order."""
    layers = [module for module in task.modules() if isinstance(module, PatchEmbed)]
    hooks = [layer.register_forward_hook(lambda module, given, patches: patches.flip(1)) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def causal(subject: Subject) -> Finding:
    """Change the tokens from one place on, for up to 16 places, and look at the logits up to there."""
    task, batch = at_work(subject), subject.batch
    tokens, measured = task.tokens(batch), 0.0
    plain = task.logits(batch, tokens)
    for place in range(0, tokens.shape[1], -(-tokens.shape[1] // 16)):
        changed = tokens.clone()
        changed[:, place:] = (changed[:, place:] + 1) % plain.shape[-1]
        measured = max(measured, difference(plain[:, : place + 1], task.logits(batch, changed)[:, : place + 1]))
    return same(measured, "a token is never seen before its turn")


@torch.no_grad()
def cache(subject: Subject) -> Finding:
    """Write from a cache, always the likeliest, and ask without one what is to follow each prefix of it."""
    task, batch = at_work(subject), subject.batch
    written = task.written(batch)
    finished = written == getattr(task.model, "finish", -1)
    going = finished.cumsum(dim=1) - finished.long() == 0  # what comes after the end is no choice
    plain = task.logits(batch, written)
    differ = int(((written != plain.argmax(dim=-1)) & going).sum())
    measured = difference(plain, task.stepwise(batch, written))
    return Finding(
        differ == 0 and measured <= EXACT,
        f"{differ} of {int(going.sum())} differ, logits by {measured:.1e}",
        f"none, at most {EXACT:.0e}: a cache is only a shortcut",
    )


def gradients(subject: Subject) -> Finding:
    """Look for parameters that a training step leaves where they are."""
    task = at_work(subject).train()
    torch.manual_seed(0)
    task.step(subject.lesson, "train").backward()
    named = dict(task.model.named_parameters())
    sizes = {name: 0.0 if p.grad is None else float(p.grad.norm()) for name, p in named.items()}
    idle = [name for name, size in sizes.items() if size <= IDLE * max(sizes.values())]
    measured = f"{len(idle)} of {len(named)} idle{': ' if idle else ''}{', '.join(idle[:2])}"
    return Finding(not idle, measured, "none: every parameter receives gradient")


@torch.no_grad()
def chance(subject: Subject) -> Finding:
    """Compare the loss before training with that of knowing nothing."""
    if subject.trained:
        return Finding(None, "it is trained", "nothing to measure")
    wanted = subject.task.chance(subject.lesson)
    torch.manual_seed(0)
    measured = float(deepcopy(subject.task).train().step(subject.lesson, "train"))
    return Finding(
        abs(measured / wanted - 1) <= BEGIN, f"the loss begins at {measured:.3f}", f"{wanted:.3f} ± {BEGIN:.0%}"
    )


def overfit(subject: Subject) -> Finding:
    """Learn one batch by heart, and not by what can be told without its images."""
    if subject.trained:
        return Finding(None, "it is trained", "nothing to measure")
    task = deepcopy(subject.task).float().train()
    batch = {name: values.float() if values.is_floating_point() else values for name, values in subject.lesson.items()}
    torch.manual_seed(0)
    first = task.blind(batch)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3, betas=(0.9, 0.98), fused=True)
    schedule = linear(optimizer, STEPS, warmup=0.2, cooldown=0.3)  # without, wide networks lose their way
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = task.step(batch, "train")
        loss.backward()
        nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    share = float(loss.detach()) / first
    return Finding(
        share <= LEARNED,
        f"{100 * share:.1f} % of the loss are left",
        f"at most {100 * LEARNED:.0f} %, after {STEPS} steps",
    )


def splits(subject: Subject) -> Finding:
    """Look for an image that is in more than one part."""
    train, val, test = (
        {bytes(image) for image in flat(subject.data.images(name))} for name in ("train", "val", "test")
    )
    shared = len(train & val) + len(train & test) + len(val & test)
    return Finding(shared == 0, f"{shared} of {len(train | val | test)} images shared", "0: parts are disjoint")


def flat(images: Tensor) -> Any:
    return images.flatten(1).numpy()


def size(subject: Subject) -> Finding:
    """Count parameters, and the floating-point operations of one forward pass."""
    parameters = sum(parameter.numel() for parameter in subject.task.model.parameters())
    each = flops(subject.task, subject.batch)
    return Finding(None, f"{parameters:,} parameters, {each / 1e6:.2f} MFLOP", "for one sample on average, forward")


@torch.no_grad()
def flops(task: Task, batch: Batch) -> float:
    """Return the floating-point operations of a forward pass, for one sample on average."""
    # fused attention has no count on a CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        task.outputs(batch)
    return counter.get_total_flops() / len(next(iter(batch.values())))


def part(batch: Batch, chosen: Any) -> Batch:
    return {name: values[chosen] for name, values in batch.items()}


def of_one_size(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Cut outputs to what both have; a law over fewer sums ends earlier."""
    if one.ndim == 1:
        return one, other
    width = min(one.shape[1], other.shape[1])
    return one[:, :width], other[:, :width]


PROBES: dict[str, Callable[[Subject], Finding]] = {
    probe.__name__: probe
    for probe in (
        companions,
        deterministic,
        images,
        padding,
        order,
        positions,
        causal,
        cache,
        gradients,
        chance,
        overfit,
        splits,
        size,
    )
}

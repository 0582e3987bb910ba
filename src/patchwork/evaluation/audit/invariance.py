"""Checks of what changes the outputs of a model and what does not."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from patchwork.data.rng import make_rng
from patchwork.evaluation.audit.base import (
    ATOL,
    MIN_EFFECT,
    AuditContext,
    CheckResult,
    expect_changed,
    expect_unchanged,
    not_applicable,
    prepare,
    relative_difference,
)
from patchwork.models.patch_embed import PatchEmbed
from patchwork.tasks import Task
from patchwork.tasks.autoregressive import AutoregressiveTask
from patchwork.tasks.image_sequence import ImageSequenceTask

MIN_EFFECT_PER_INPUT = 1e-6  # smallest relative change of outputs that one input of many must cause
CAUSALITY_CUTS = 16  # positions from which on tokens are changed


@torch.no_grad()
def batch_independence(context: AuditContext) -> CheckResult:
    """Predict every sample alone, and the batch in reverse order."""
    task, batch = prepare(context), context.batch
    outputs = task.forward(batch)
    samples = [{name: values[i : i + 1] for name, values in batch.items()} for i in range(len(outputs))]
    alone = torch.cat([task.forward(sample) for sample in samples])
    backwards = task.forward({name: values.flip(0) for name, values in batch.items()}).flip(0)
    difference = max(relative_difference(outputs, alone), relative_difference(outputs, backwards))
    return expect_unchanged(difference, "samples of a batch are independent")


@torch.no_grad()
def eval_determinism(context: AuditContext) -> CheckResult:
    """Predict the same batch twice."""
    task = prepare(context)
    difference = relative_difference(task.forward(context.batch), task.forward(context.batch))
    return CheckResult(difference == 0, f"outputs change by {difference:.1e}", "0: evaluation is deterministic")


@torch.no_grad()
def padding_invariance(context: AuditContext) -> CheckResult:
    """Fill the padding of sequences with noise, and cut some of it off."""
    task = prepare(context)
    assert isinstance(task, ImageSequenceTask)
    padded = ~context.batch["mask"].all(dim=1)
    if not padded.any():
        return not_applicable("no sequence has padding")
    batch = {name: values[padded] for name, values in context.batch.items()}
    noisy = task.fill_padding(batch, make_rng("audit"))
    outputs = task.forward(batch)
    difference = max(
        relative_difference(outputs, task.forward(noisy)),
        relative_difference(*crop_to_common(outputs, task.forward(task.trim(noisy)))),
    )
    return expect_unchanged(difference, "padding is ignored")


def crop_to_common(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Crop outputs (B, …) whose size grows with the sequences of a batch to the size of the smaller ones."""
    common = tuple(slice(min(sizes)) for sizes in zip(a.shape, b.shape, strict=True))
    return a[common], b[common]


@torch.no_grad()
def permutation_invariance(context: AuditContext) -> CheckResult:
    """Reverse the order of sequences."""
    task, batch = prepare(context), context.batch
    assert isinstance(task, ImageSequenceTask)
    backwards = task.permute(batch)
    if torch.equal(backwards["image"], batch["image"]):
        return not_applicable("every sequence is its own reverse")
    difference = relative_difference(task.forward(batch), task.forward(backwards))
    if task.order_sensitive:
        return expect_changed(difference, "the model declares that order matters")
    return expect_unchanged(difference, "order does not matter")


@torch.no_grad()
def input_sensitivity(context: AuditContext) -> CheckResult:
    """Give every sample the inputs of the next one: all of them, and each input alone."""
    task, batch = prepare(context), context.batch
    if len(batch["image"]) == 1:
        return not_applicable("the batch has one sample")
    outputs = task.forward(batch)
    differences = [relative_difference(outputs, task.forward(other)) for other in task.perturbed_inputs(batch)]
    return CheckResult(
        differences[0] >= MIN_EFFECT and min(differences) >= MIN_EFFECT_PER_INPUT,
        f"outputs change by {differences[0]:.1e}",
        f"at least {MIN_EFFECT:.0e}, and {MIN_EFFECT_PER_INPUT:.0e} for each input alone",
    )


@torch.no_grad()
def position_sensitivity(context: AuditContext) -> CheckResult:
    """Reverse the order of an image's patches; for a model without patches, swap its quadrants."""
    task, batch = prepare(context), context.batch
    outputs = task.forward(batch)
    layers = patch_embeds(task)
    if layers and all(layer.grid == (1, 1) for layer in layers):
        return not_applicable("an image is a single patch")
    if layers:
        with reversed_patches(task):
            moved = task.forward(batch)
    else:
        height, width = batch["image"].shape[-2:]
        moved = task.forward({**batch, "image": batch["image"].roll((height // 2, width // 2), dims=(-2, -1))})
    return expect_changed(relative_difference(outputs, moved), "position matters")


def patch_embeds(task: Task) -> list[PatchEmbed]:
    return [module for module in task.modules() if isinstance(module, PatchEmbed)]


@contextmanager
def reversed_patches(task: Task) -> Iterator[None]:
    """Let every `PatchEmbed` return its patches in reverse order within the context."""
    hooks = [layer.register_forward_hook(lambda module, args, patches: patches.flip(1)) for layer in patch_embeds(task)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def causality(context: AuditContext) -> CheckResult:
    """Change all tokens from a position on, for up to 16 positions, and compare the logits up to there."""
    task, batch = prepare(context), context.batch
    assert isinstance(task, AutoregressiveTask)
    tokens = task.tokens(batch)  # (B, T)
    logits = task.logits(batch, tokens)  # (B, T, V)
    difference, length = 0.0, tokens.shape[1]
    for position in range(0, length, -(-length // CAUSALITY_CUTS)):
        changed = tokens.clone()
        changed[:, position:] = (changed[:, position:] + 1) % logits.shape[-1]
        seen = slice(position + 1)  # logits that depend on earlier tokens only
        difference = max(difference, relative_difference(logits[:, seen], task.logits(batch, changed)[:, seen]))
    return expect_unchanged(difference, "later tokens are masked")


@torch.no_grad()
def kv_cache_equivalence(context: AuditContext) -> CheckResult:
    """Decode greedily with key-value caches, and recompute without them the logits of each prefix."""
    task, batch = prepare(context), context.batch
    assert isinstance(task, AutoregressiveTask)
    tokens = task.generate_tokens(batch)  # (B, T)
    logits = task.logits(batch, tokens)  # (B, T, V)
    undecided = torch.ones_like(tokens, dtype=torch.bool)
    if task.eos_id is not None:  # what follows the end of a sequence is padding
        ended = tokens == task.eos_id
        undecided = ended.cumsum(dim=1) - ended.long() == 0
    mismatches = int(((tokens != logits.argmax(dim=-1)) & undecided).sum())
    difference = relative_difference(logits, task.cached_logits(batch, tokens))
    return CheckResult(
        mismatches == 0 and difference <= ATOL,
        f"{mismatches} of {int(undecided.sum())} tokens differ, logits by {difference:.1e}",
        f"0 tokens, logits by at most {ATOL:.0e}",
    )

"""The model checks: every model in `conf/` passes, and each planted fault is found by the check for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import TINY, pairs
from torch import Tensor
from torch.nn import functional as F

from patchwork.data import BaseDataModule
from patchwork.evaluation.audit.base import AuditContext
from patchwork.evaluation.audit.checks import CHECKS, run_checks
from patchwork.models import AnchorDetector, EncoderDecoder, FullyConnected, PixelTransformer, SequenceRegressor
from patchwork.models.transformer import Attention, AxialRoPE
from patchwork.runs.build import build
from patchwork.runs.compose import compose
from patchwork.tasks import Classify, Task

SMALL = ["dataset=uci", "data.batch_size=8"]
NARROW = "model.embed_dim=16"
SMALL_MODELS = {  # overrides of models that are made smaller otherwise
    "anchor_detector": [NARROW, "data.max_length=4", "data.batch_size=16"],
    "cnn": [],
    "sequence_regressor": [NARROW, "data.max_length=5"],
    "pixel_transformer": ["data.image_size=12", "model.embed_dim=64"],
    "pixel_transformer_tiny": ["data.image_size=12"],
}


def build_small(*overrides: str) -> tuple[BaseDataModule, Task]:
    """Return the data module, set up, and the task of a configuration."""
    data, task = build(compose([*SMALL, *overrides]))
    data.prepare_data()
    return data, task


def failed_checks(data: BaseDataModule, task: Task) -> set[str]:
    """Return which of the checks that a task declares fail."""
    return {name for name, result in run_checks(task, data) if result.passed is False}


def passes(check: str, data: BaseDataModule, task: Task) -> bool | None:
    """Return whether a single check passes, which the task has to declare."""
    assert check in task.checks
    return CHECKS[check](AuditContext.from_task(task, data, trained=False)).passed


# --- models that keep what they claim --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "model"),
    [
        pytest.param(*pair, marks=[pytest.mark.slow] if pair[0] == "anchor" else [])
        for pair, fits in pairs().items()
        if fits
    ],
)
def test_every_model_passes_all_checks(task: str, model: str) -> None:
    overrides = SMALL_MODELS.get(model, [NARROW])
    assert failed_checks(*build_small(f"task={task}", f"model={model}", *overrides)) == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        "task=sum model=fully_connected model.embed_dim=128",
        "task=sum model=sequence_regressor model.embed_dim=64 seed=2 data.max_length=5",
        "experiment=paper_sum_baseline",
    ],
)
def test_wide_models_pass_all_checks(overrides: str) -> None:
    assert failed_checks(*build_small(*overrides.split())) == set()


@pytest.mark.slow
def test_cross_attention_detector_passes_all_checks() -> None:
    assert failed_checks(*build_small("task=anchor", "model.similarity=cross_attention", NARROW)) == set()


@pytest.mark.parametrize(
    ("overrides", "check"),
    [
        ("task=sum data.max_length=1", "padding_invariance"),
        ("task=sum data.max_length=1", "permutation_invariance"),
        ("task=sum model=fully_connected data.max_length=1", "permutation_invariance"),
        ("task=classify model.patch_size=28 model.pool=cls", "position_sensitivity"),
        ("task=anchor data.eval_batch_size=1", "input_sensitivity"),
    ],
)
def test_check_that_does_not_apply_is_skipped(overrides: str, check: str) -> None:
    assert passes(check, *build_small(*overrides.split(), NARROW)) is None


def test_checks_leave_the_task_unchanged() -> None:
    data, task = build_small("task=classify", "model=cnn")
    before = {name: value.clone() for name, value in task.state_dict().items()}
    list(run_checks(task, data))
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


# --- planted faults: those of the source projects --------------------------------------------------------------------


def rotate_over_heads(rotary: AxialRoPE) -> None:
    """Let rotary embeddings depend on the attention head instead of the position."""

    def rotate(x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        cos, sin = (angle[: x.shape[1], None] for angle in (rotary.cos, rotary.sin))
        return x * cos + torch.cat([b, a], dim=-1) * sin

    rotary.at = lambda start, count: rotate


def test_rope_over_heads_equals_no_positions_in_a_generator() -> None:
    """Which is why the pixel project's generator with 57 million parameters ignored positions."""
    torch.manual_seed(0)
    model = PixelTransformer(
        image_size=8, num_classes=3, num_levels=2, embed_dim=16, num_heads=2, pos_embed="rope"
    ).double()
    torch.nn.init.normal_(model.patch_head.head.weight)
    image, label = torch.randint(2, (4, 1, 8, 8)).double(), torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        over_positions = model(image, label)
        rotate_over_heads(model.rope)
        over_heads = model(image, label)
        model.rope = None
        without = model(image, label)
    assert torch.allclose(over_heads, without, atol=1e-12)
    assert not torch.allclose(over_positions, without, atol=1e-3)


class UnmaskedRegressor(SequenceRegressor):
    """Attends to padding as to any image."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return super().forward(image, torch.ones_like(mask))


def ignore_padding_mask(task: Task) -> None:
    task.model.__class__ = UnmaskedRegressor


def rope_over_heads(task: Task) -> None:
    """Apply rotary embeddings over the head axis: they cancel between queries and keys."""
    for module in task.modules():
        if isinstance(module, AxialRoPE):
            rotate_over_heads(module)


def dropout_in_evaluation(task: Task) -> None:
    """Leave the dropout of attention on in evaluation."""
    for module in task.modules():
        if isinstance(module, Attention):
            module.proj.register_forward_hook(lambda layer, args, out: F.dropout(out, 0.1, training=True))


def no_causal_mask(task: Task) -> None:
    for module in task.modules():
        if isinstance(module, Attention):
            module.causal = False


def batch_statistics_in_evaluation(task: Task) -> None:
    for module in task.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = None


def unused_parameter(task: Task) -> None:
    task.model.unused = torch.nn.Linear(2, 2)


def large_initial_logits(task: Task) -> None:
    torch.nn.init.normal_(task.model.head.weight, std=3.0)


@pytest.mark.parametrize(
    ("plant", "overrides", "check"),
    [
        (ignore_padding_mask, "task=sum model=sequence_regressor", "padding_invariance"),
        (rope_over_heads, "task=classify model.pos_embed=rope model.stem=null", "position_sensitivity"),
        (dropout_in_evaluation, "task=seq2seq", "eval_determinism"),
        (no_causal_mask, "task=seq2seq", "causality"),
        (batch_statistics_in_evaluation, "task=classify", "batch_independence"),
        (unused_parameter, "task=classify", "gradient_flow"),
        (large_initial_logits, "task=classify", "initial_loss"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_check_finds_planted_fault(plant: Callable[[Task], Any], overrides: str, check: str) -> None:
    data, task = build_small(*overrides.split(), NARROW)
    assert passes(check, data, task)
    plant(task)
    assert passes(check, data, task) is False


# --- planted faults: wrong models ------------------------------------------------------------------------------------


class CountingRegressor(SequenceRegressor):
    """Sees how many images there are, but none of them."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return super().forward(torch.ones_like(image), mask)


class AnchorlessDetector(AnchorDetector):
    """Ignores the anchor."""

    def forward(self, image: Tensor, mask: Tensor, anchor: Tensor) -> Tensor:
        return super().forward(image, mask, torch.zeros_like(anchor))


class FirstImageOnly(FullyConnected):
    """Sees the first image of a sequence only."""

    def forward(self, image: Tensor, mask: Tensor, anchor: Tensor | None = None) -> Tensor:
        return super().forward(image, mask & (torch.arange(mask.shape[1]) == 0), anchor)


class SometimesNaN(EncoderDecoder):
    """Returns NaN for some tokens."""

    def decode(self, memory: Tensor, tokens: Tensor, caches: Any = None) -> Tensor:
        return super().decode(memory, tokens, caches) + torch.nan * (tokens[:, 1:].sum() > 40)


class OrderedDetector(AnchorDetector):
    """Weights later images more, and does not declare it."""

    def forward(self, image: Tensor, mask: Tensor, anchor: Tensor) -> Tensor:
        position = torch.arange(image.shape[1], dtype=image.dtype)[:, None, None, None]
        return super().forward(image * (1 + position), mask, anchor)


class CacheIgnorer(EncoderDecoder):
    """Is given a key-value cache and never reads it."""

    def decode(self, memory: Tensor, tokens: Tensor, caches: Any = None) -> Tensor:
        return super().decode(memory, tokens)


@pytest.mark.parametrize(
    ("wrong_class", "overrides", "checks"),
    [
        (OrderedDetector, "task=anchor", ["permutation_invariance"]),
        (CacheIgnorer, "task=seq2seq", ["kv_cache_equivalence"]),
        pytest.param(
            CountingRegressor,
            "task=sum model=sequence_regressor",
            ["input_sensitivity", "overfit_one_batch"],
            marks=pytest.mark.slow,
        ),
        (SometimesNaN, "task=seq2seq", ["causality"]),
        (AnchorlessDetector, "task=anchor", ["input_sensitivity"]),
        (AnchorlessDetector, "task=anchor model.similarity=cross_attention", ["input_sensitivity"]),
        (FirstImageOnly, "task=sum model=fully_connected", ["input_sensitivity"]),
    ],
)
def test_check_finds_wrong_model(wrong_class: type, overrides: str, checks: list[str]) -> None:
    data, task = build_small(*overrides.split(), NARROW)
    task.model.__class__ = wrong_class
    for check in checks:
        assert passes(check, data, task) is False


def test_frozen_model_fails_gradient_flow_and_overfitting() -> None:
    data, task = build_small("task=classify", NARROW)
    for parameter in task.parameters():
        parameter.requires_grad = False
    task.model.head.bias.requires_grad = True
    assert passes("gradient_flow", data, task) is False
    assert passes("overfit_one_batch", data, task) is False


def test_shared_image_fails_split_leakage() -> None:
    data, task = build_small("task=classify", NARROW)
    assert passes("split_leakage", data, task)
    data.source_images("val")[0] = data.source_images("test")[3]
    assert passes("split_leakage", data, task) is False


# --- the command -----------------------------------------------------------------------------------------------------


def test_audit_command_prints_a_table(
    command: Callable[..., int], capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert command("audit", "task=sum", "model=fully_connected", NARROW, *SMALL) == 0
    title, *lines = capfd.readouterr().out.splitlines()
    assert title.startswith("Sum with FullyConnected, untrained: ")
    assert "parameters" in title
    assert "MFLOP" in title
    assert {line.split()[0] for line in lines} == {"pass"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("override", ["model.dropout=0.1", pytest.param("model=cell_pool", marks=pytest.mark.slow)])
def test_audit_command_checks_a_run(
    command: Callable[..., int], capfd: pytest.CaptureFixture[str], override: str
) -> None:
    assert command("train", *TINY, override, "run_dir=run") == 0
    capfd.readouterr()
    assert command("audit", "run=run") == 0
    table = capfd.readouterr().out
    assert "run, trained: " in table
    assert "skip  overfit_one_batch" in table
    assert command("audit", "run=run", "data.rows=3") == 2
    assert "data.rows=3 cannot be combined with run=run" in capfd.readouterr().err


def test_audit_command_fails_with_the_check(
    command: Callable[..., int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Classify, "uniform_loss", lambda *_: 100.0)
    monkeypatch.setattr(Classify, "checks", ("split_leakage", "initial_loss"))
    assert command("audit", "task=classify", NARROW, *SMALL) == 1
    captured = capfd.readouterr()
    assert "pass  split_leakage" in captured.out
    assert "FAIL  initial_loss" in captured.out
    assert captured.err.splitlines() == ["patchwork audit: 1 of 2 checks failed: initial_loss"]


def test_audit_help_needs_no_configuration(command: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert command("audit", "--help") == 0
    assert "patchwork audit run=RUN_DIR" in capfd.readouterr().out

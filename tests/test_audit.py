"""The auditor: every model in `conf/` passes, and each fault that is planted here is found by the probe for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from conftest import CONF, TINY, pairs
from hydra.core.global_hydra import GlobalHydra
from torch import Tensor
from torch.nn import functional as F

from patchwork.audit import findings
from patchwork.models import AnchorDetector, EncoderDecoder, FullyConnected, PixelDecoder, SequenceRegressor, ViT
from patchwork.models.transformer import Attention, AxialRotary
from patchwork.run import build
from patchwork.tasks import Task

SMALL = ["digits=uci", "model.embed_dim=16", "data.batch_size=16"]


def failed(*settings: str, spoil: Callable[[Task], Any] = lambda task: None) -> set[str]:
    """Return the probes that fail for what the settings build, spoilt."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        words = [word for word in SMALL if not {"model=cnn", "task=pixels"} & {*settings} or "embed_dim" not in word]
        data, task = build(hydra.compose("train", [*words, *settings]))
    data.prepare_data()
    spoil(task)
    return {name for name, finding in findings(task, data) if finding.passed is False}


@pytest.mark.parametrize(("task", "model"), [pair for pair, fits in pairs().items() if fits])
def test_every_model_passes(task: str, model: str) -> None:
    assert failed(f"task={task}", f"model={model}") == set()


@pytest.mark.parametrize(
    "settings",
    [
        "task=sum model=fully_connected model.embed_dim=128",
        "task=sum model=sequence_regressor model.embed_dim=64 seed=2",
        "experiment=published_sum_baseline",
    ],
)
def test_wide_models_pass(settings: str) -> None:
    assert failed(*settings.split()) == set()


@pytest.mark.parametrize("matching", ["attention", "cosine"])
def test_both_kinds_of_matching_pass(matching: str) -> None:
    assert failed("task=anchor", f"model.matching={matching}") == set()


# --- the originals' faults, planted ----------------------------------------------------------------------------------


def over_heads(rotary: AxialRotary) -> None:
    def rotate(x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=-1)
        cos, sin = (angle[: x.shape[1], None] for angle in (rotary.cos, rotary.sin))
        return x * cos + torch.cat([b, a], dim=-1) * sin

    rotary.at = lambda start, count: rotate  # type: ignore[method-assign]


def test_rotation_over_the_heads_of_a_generator_is_no_position_at_all() -> None:
    """Document 002's model of 57 million parameters knew nothing of places: this is why."""
    torch.manual_seed(0)
    model = PixelDecoder(image_size=8, num_classes=3, levels=2, embed_dim=16, num_heads=2, positions="rotary").double()
    torch.nn.init.normal_(model.inner.head.weight)
    image, label = torch.randint(2, (4, 1, 8, 8)).double(), torch.tensor([0, 1, 2, 3])
    assert model.rotary is not None
    with torch.no_grad():
        rotated = model(image, label)
        over_heads(model.rotary)
        wrongly = model(image, label)
        model.rotary = None
        without = model(image, label)
    assert torch.allclose(wrongly, without, atol=1e-12)
    assert not torch.allclose(rotated, without, atol=1e-3)


class Unmasked(SequenceRegressor):
    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return super().forward(image, torch.ones_like(mask))


def ignored_mask(task: Task) -> None:
    """Build the padding mask and never use it (document 001): padding is looked at like any image."""
    task.model.__class__ = Unmasked


def rotated_heads(task: Task) -> None:
    """Rotate over the head axis instead of the positions (document 002): it cancels between queries and keys."""
    for module in task.modules():
        if isinstance(module, AxialRotary):
            over_heads(module)


def dropout_in_evaluation(task: Task) -> None:
    """Leave the dropout of attention on when evaluating (document 002)."""
    for module in task.modules():
        if isinstance(module, Attention):
            module.proj.register_forward_hook(lambda layer, given, out: F.dropout(out, 0.1, training=True))


def missing_causal_mask(task: Task) -> None:
    """Decode without a causal mask (document 003's server)."""
    for module in task.modules():
        if isinstance(module, Attention):
            module.causal = False


def companions_seen(task: Task) -> None:
    """Normalise by the batch when evaluating, too."""
    for module in task.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = None


def idle_parameter(task: Task) -> None:
    task.model.idle = torch.nn.Linear(2, 2)


def confident_start(task: Task) -> None:
    assert isinstance(task.model, ViT)
    torch.nn.init.normal_(task.model.head.weight, std=3.0)


@pytest.mark.parametrize(
    ("spoil", "settings", "found"),
    [
        (ignored_mask, "task=sum model=sequence_regressor", "padding"),
        (rotated_heads, "task=classify model.positions=rotary model.stem=[] model.patch_size=7", "positions"),
        (dropout_in_evaluation, "task=seq2seq", "deterministic"),
        (missing_causal_mask, "task=seq2seq", "causal"),
        (companions_seen, "task=classify", "companions"),
        (idle_parameter, "task=classify model=cnn", "gradients"),
        (confident_start, "task=classify", "chance"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_planted_fault_is_found(spoil: Callable[[Task], Any], settings: str, found: str) -> None:
    assert found in failed(*settings.split(), spoil=spoil)


class Counting(SequenceRegressor):
    """Sees how many images there are, and none of them."""

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        return super().forward(torch.ones_like(image), mask)


class Unanchored(AnchorDetector):
    """Never looks at its anchor."""

    def forward(self, image: Tensor, mask: Tensor, anchor: Tensor) -> Tensor:
        return super().forward(image, mask, torch.zeros_like(anchor))


class Shortsighted(FullyConnected):
    """Sees the first image alone."""

    def forward(self, image: Tensor, mask: Tensor, anchor: Tensor | None = None) -> Tensor:
        return super().forward(image, mask & (torch.arange(mask.shape[1]) == 0), anchor)


class Undefined(EncoderDecoder):
    """Says nothing that is a number where there is more than one token."""

    def decode(self, memory: Tensor, tokens: Tensor, caches: Any = None) -> Tensor:
        return super().decode(memory, tokens, caches) + torch.nan * (tokens[:, 1:].sum() > 40)


class Ordered(AnchorDetector):
    """Sees later images more strongly."""

    def forward(self, image: Tensor, mask: Tensor, anchor: Tensor) -> Tensor:
        place = torch.arange(image.shape[1], dtype=image.dtype)[:, None, None, None]
        return super().forward(image * (1 + place), mask, anchor)


class Forgetful(EncoderDecoder):
    """Has a cache and does not look into it."""

    def decode(self, memory: Tensor, tokens: Tensor, caches: Any = None) -> Tensor:
        return super().decode(memory, tokens)


@pytest.mark.parametrize(
    ("kind", "task", "found"),
    [
        (Ordered, "anchor", {"order"}),
        (Forgetful, "seq2seq", {"cache"}),
        (Counting, "sum model=sequence_regressor", {"images", "overfit"}),
        (Undefined, "seq2seq", {"causal"}),
        (Unanchored, "anchor", {"images"}),
        (Unanchored, "anchor model.matching=attention", {"images"}),
        (Shortsighted, "sum model=fully_connected", {"images"}),
    ],
)
def test_wrong_model_is_found(kind: type, task: str, found: set[str]) -> None:
    def become(task: Task) -> None:
        task.model.__class__ = kind

    assert found <= failed(*f"task={task}".split(), spoil=become)


@pytest.mark.parametrize(
    "settings",
    [
        "task=sum data.max_length=1",
        "task=sum model=fully_connected data.max_length=1",
        "task=classify model.patch_size=28 model.pool=cls",
        "task=anchor data.eval_batch_size=1",
    ],
)
def test_where_there_is_nothing_to_measure_nothing_fails(settings: str) -> None:
    assert failed(*settings.split()) == set()


def test_model_that_cannot_learn_is_found() -> None:
    def frozen(task: Task) -> None:
        for parameter in task.parameters():
            parameter.requires_grad = False
        assert isinstance(task.model, ViT)
        task.model.head.bias.requires_grad = True

    assert {"gradients", "overfit"} <= failed("task=classify", spoil=frozen)


def test_shared_image_is_found() -> None:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        data, task = build(hydra.compose("train", [*SMALL, "task=classify"]))
    data.prepare_data()
    data.images("val")[0] = data.images("test")[3]
    assert {name for name, finding in findings(task, data) if finding.passed is False} == {"splits"}


# --- the command -----------------------------------------------------------------------------------------------------


def test_command_prints_a_table(command: Callable[..., int], capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert command("audit", "task=sum", "model=fully_connected", *SMALL) == 0
    said = capfd.readouterr().out.splitlines()
    assert said[0] == "Sum with FullyConnected, untrained"
    assert {line.split()[0] for line in said[1:]} == {"pass", "size"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["model.dropout=0.1", "model=quadrant"])
def test_command_probes_a_run(command: Callable[..., int], capfd: pytest.CaptureFixture[str], model: str) -> None:
    assert command("train", *TINY, model, "folder=run") == 0
    capfd.readouterr()
    assert command("audit", "run=run") == 0
    assert "run, trained" in capfd.readouterr().out
    assert command("audit", "run=run", "data.rows=3") == 2
    assert "data.rows=3 cannot be set beside run=run" in capfd.readouterr().err


def test_command_fails_with_the_probe(
    command: Callable[..., int], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Task, "chance", lambda *_: 1.0)
    monkeypatch.setattr("patchwork.tasks.Classify.chance", lambda *_: 100.0)
    assert command("audit", "task=classify", *SMALL) == 1
    captured = capfd.readouterr()
    assert "FAIL  chance" in captured.out
    assert captured.err.splitlines() == ["audit.py: 1 of 9 probes failed: chance"]

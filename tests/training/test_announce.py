"""What is said before the wait: what is trained, on what and why not on a GPU, and about how long it takes."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import CONF
from omegaconf import OmegaConf

from patchwork.models.patch_embed import ConvStem, PatchEmbed
from patchwork.training import announce
from patchwork.training.announce import Announcement, describe_device, num_samples, typical_seconds, why_no_gpu

Capture = pytest.CaptureFixture[str]
TRAINER_CONFIG = OmegaConf.load(CONF / "trainer" / "default.yaml")


class Clock:
    """A clock that tells a tenth of a second more each time."""

    def __init__(self) -> None:
        self.time = 0.0

    def perf_counter(self) -> float:
        self.time += 0.1
        return self.time


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(announce, "time", Clock())
    monkeypatch.setattr(announce, "why_no_gpu", lambda: "")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)


def make_trainer(step: int = 0, **changes: Any) -> Any:
    data = SimpleNamespace(
        num_samples={"train": 60_000, "val": 0, "test": 0},
        batch_size=64,
        eval_batch_size=64,
        source=SimpleNamespace(name="mnist"),
        repeats_batches=False,
    )
    data.num_batches = lambda split: data.num_samples[split] // 64
    attributes = {
        "global_step": step,
        "current_epoch": step // 900,
        "max_epochs": 9,
        "estimated_stepping_batches": 8100,
        "num_devices": 1,
        "num_nodes": 1,
        "precision": "32-true",
        "accumulate_grad_batches": 1,
        "limit_train_batches": 1.0,
        "limit_val_batches": 1.0,
        "limit_test_batches": 1.0,
        "datamodule": data,
        "strategy": SimpleNamespace(root_device=torch.device("cpu")),
        "is_global_zero": True,
        "progress_bar_callback": None,
    }
    return SimpleNamespace(**{**attributes, **changes})


def take_steps(trainer: Any, count: int, model: torch.nn.Module | None = None, **values: Any) -> None:
    config = {"max_epochs": trainer.max_epochs, **values}
    announcement = Announcement("classify", "vit", OmegaConf.merge(TRAINER_CONFIG, config))
    task: Any = SimpleNamespace(model=model or torch.nn.Linear(99, 1000), samples_name="images")
    announcement.on_train_start(trainer, task)
    for _ in range(count):
        trainer.global_step += 1
        announcement.on_train_batch_end(trainer, task, None, None, 0)


def test_the_first_lines_say_what_is_trained(clock: None, capsys: Capture) -> None:
    take_steps(make_trainer(), 0)
    assert capsys.readouterr().out.splitlines() == [
        "task=classify model=vit, 100,000 parameters, on dataset=mnist: 60,000 images an epoch, 0 to validate, "
        "0 to test",
        "8,100 steps in 9 epochs on the CPU with 2 threads",
    ]


@pytest.mark.parametrize(
    ("count", "epoch"), [(1257, "60,000 samples an epoch of 1,257 images"), (60_000, "60,000 images an epoch")]
)
def test_images_that_an_epoch_shows_again_are_not_counted_twice(
    clock: None, capsys: Capture, count: int, epoch: str
) -> None:
    trainer = make_trainer()
    trainer.datamodule.splits = {"train": SimpleNamespace(labels=range(count))}
    take_steps(trainer, 0)
    assert f"dataset=mnist: {epoch}, 0 to validate" in capsys.readouterr().out


def test_once_steps_have_been_timed_it_says_how_long_the_rest_takes(clock: None, capsys: Capture) -> None:
    take_steps(make_trainer(), 100)
    (line,) = capsys.readouterr().out.splitlines()[2:]
    assert line == "this takes about 13 minutes (100 ms a step)"  # (8,100 - 23) · 0.1 s


def test_the_estimate_has_the_validations_and_the_test(clock: None, capsys: Capture) -> None:
    trainer = make_trainer(estimated_stepping_batches=323, max_epochs=3)  # 300 left: 30 s
    # four passes of 3.3 s, at a third of training's cost
    trainer.datamodule.num_samples |= {"train": 6890, "val": 6400, "test": 6400}
    take_steps(trainer, 30)
    assert capsys.readouterr().out.splitlines()[2:] == ["this takes about 45 seconds (100 ms a step)"]


@pytest.mark.parametrize(
    ("changes", "repeats_batches", "split", "count"),
    [
        ({}, False, "val", 6400),
        ({"limit_val_batches": 0.5, "limit_test_batches": 3}, False, "val", 3200),
        ({"limit_val_batches": 0.5, "limit_test_batches": 3}, False, "test", 192),
        ({"limit_val_batches": 0, "limit_test_batches": 0.0}, False, "test", 0),
        ({"limit_train_batches": 3}, False, "train", 192),
        ({"limit_train_batches": 2, "limit_val_batches": 2}, True, "val", 128),  # of the training batches
    ],
)
def test_only_the_samples_that_the_limits_leave_are_counted(
    changes: dict[str, Any], repeats_batches: bool, split: Any, count: int
) -> None:
    trainer = make_trainer(**changes)
    trainer.datamodule.num_samples |= {"val": 6400, "test": 6400}
    trainer.datamodule.repeats_batches = repeats_batches
    assert num_samples(trainer, trainer.datamodule, split) == count


def test_one_step_is_singular(clock: None, capsys: Capture) -> None:
    take_steps(make_trainer(estimated_stepping_batches=1, max_epochs=1), 0)
    assert capsys.readouterr().out.splitlines()[1].startswith("1 step in 1 epoch on ")


@pytest.mark.parametrize("steps", [23, 10])
def test_a_training_that_is_over_before_has_no_estimate(clock: None, capsys: Capture, steps: int) -> None:
    take_steps(make_trainer(estimated_stepping_batches=steps, max_epochs=1), steps)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_slow_steps_are_timed_for_a_few_seconds_only(
    clock: None, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(announce, "MAX_TIMED_SECONDS", 0.25)
    take_steps(make_trainer(), 6)
    assert "this takes about 13 minutes" in capsys.readouterr().out


def test_a_delay_of_some_steps_is_not_taken_for_the_whole() -> None:
    ends = [0.1 * step + (3.0 if step > 6 else 0.0) for step in range(21)]
    assert typical_seconds(ends) == pytest.approx(0.1)
    assert typical_seconds([0.0, 0.2, 0.6]) == pytest.approx(0.3)


def test_a_resumed_run_says_from_where(clock: None, capsys: Capture) -> None:
    take_steps(make_trainer(step=1850), 0)
    assert capsys.readouterr().out.splitlines()[2] == "going on from epoch 3, after step 1,850 of 8,100"


def test_a_training_without_an_end_is_told_without_one(clock: None, capsys: Capture) -> None:
    take_steps(make_trainer(step=5, estimated_stepping_batches=float("inf"), max_epochs=-1), 100)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "training on the CPU with 2 threads",
        "going on from epoch 1, after step 5",
    ]


def test_only_the_first_process_prints(clock: None, capsys: Capture) -> None:
    take_steps(make_trainer(is_global_zero=False), 100)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("precision", "trainer_precision", "text"),
    [
        ("bf16", "32-true", ", stem in bfloat16"),
        (32, "32-true", ""),
        ("bf16", "bf16-mixed", ", bf16-mixed"),
        ("bf16", "64-true", ", 64-true"),  # autocast leaves float64 as it is
    ],
)
def test_the_precision_of_the_stem_is_told_where_it_differs(
    clock: None, capsys: Capture, precision: Any, trainer_precision: str, text: str
) -> None:
    stem = ConvStem(layers=[{"channels": 4, "kernel": 3}], precision=precision)
    model = PatchEmbed(image_size=(8, 8), patch_size=4, in_channels=1, embed_dim=4, stem=stem)
    take_steps(make_trainer(precision=trainer_precision), 0, model)
    assert capsys.readouterr().out.splitlines()[1] == f"8,100 steps in 9 epochs on the CPU with 2 threads{text}"


# --- why there is no GPU ---------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Pretend to be a machine with a driver of NVIDIA's, a torch built for CUDA, and no CUDA."""
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return monkeypatch


def test_a_driver_that_is_too_old_is_named(machine: pytest.MonkeyPatch) -> None:
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040). Please update\nyour GPU")

    machine.setattr(torch.cuda, "init", init)
    assert why_no_gpu() == "no GPU: The NVIDIA driver on your system is too old (found version 11040)"
    trainer = make_trainer(precision="bf16-mixed", num_devices=2)
    machine.setattr(torch, "get_num_threads", lambda: 1)
    assert describe_device(trainer) == f"2 × the CPU with 1 thread ({why_no_gpu()}), bf16-mixed"


def test_a_torch_without_cuda_is_named_where_there_is_a_driver(machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine.setattr(torch.backends.cuda, "is_built", lambda: False)
    machine.setattr(torch.version, "cuda", None)
    assert why_no_gpu() == "no GPU: there is an NVIDIA driver, but this torch is built without CUDA"
    machine.setattr(shutil, "which", lambda name: None)
    machine.setattr(announce, "NVIDIA_DRIVER", tmp_path / "none")
    assert why_no_gpu() == ""  # nothing suggests that there is a GPU
    machine.setattr(torch.version, "cuda", "12.8")
    assert "there is no NVIDIA driver" in why_no_gpu()


def test_a_hidden_gpu_is_named(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("CUDA_VISIBLE_DEVICES", "")
    assert why_no_gpu() == "no GPU: CUDA_VISIBLE_DEVICES= hides it"


def test_a_gpu_that_was_not_chosen_is_named(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch.cuda, "is_available", lambda: True)
    assert why_no_gpu() == "there is a GPU: accelerator=cuda uses it"
    machine.setattr(torch.backends.mps, "is_available", lambda: True)
    assert why_no_gpu() == "there is an Apple GPU: accelerator=mps uses it"

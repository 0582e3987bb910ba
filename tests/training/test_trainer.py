"""What is checked before training starts, and Lightning's errors in one line."""

import inspect
import re
from typing import Any
from unittest.mock import Mock

import pytest
import pytorch_lightning as pl
from helpers import CONF
from omegaconf import OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from patchwork.core.errors import ConfigError, DataError, PatchworkError, PatchworkWarning, ResourceError
from patchwork.core.replacements import TRAINER_REPLACEMENTS
from patchwork.core.schema import check_value, signature, unknown_key_error
from patchwork.training import trainer
from patchwork.training.trainer import (
    Trainer,
    check_accelerator,
    check_limits,
    make_trainer,
    translate_lightning_errors,
)
from patchwork.training.trainer_arguments import (
    Devices,
    MaxEpochs,
    MaxTime,
    OptionalBatchLimit,
    PrecisionName,
    ValCheckInterval,
)

NO_LIMITS = OmegaConf.load(CONF / "trainer" / "default.yaml")


def test_each_argument_of_lightnings_trainer_is_a_key_or_has_a_replacement() -> None:
    arguments = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"}
    keys = set(signature(Trainer))
    assert keys | set(TRAINER_REPLACEMENTS) == arguments
    assert not keys & set(TRAINER_REPLACEMENTS)
    assert set(NO_LIMITS) - {"_target_"} == keys


@pytest.mark.parametrize("name", TRAINER_REPLACEMENTS)
def test_argument_that_is_not_set_here_is_answered_with_its_replacement(name: str) -> None:
    error = unknown_key_error(f"trainer.{name}", 1, "trainer", ["max_epochs"])
    assert str(error) == f"trainer.{name}=1 is not set here: {TRAINER_REPLACEMENTS[name]}"


@pytest.mark.parametrize(
    ("annotation", "allowed", "refused"),
    [
        (ValCheckInterval, [0.25, 1.0, 2, 1000], [1, 0, 0.0, 1.5, 2.0, -1, True, None, "1", "00:00:05:00"]),
        (
            MaxTime,
            ["00:00:08:00", "1:00:00:00", None, {"minutes": 5}, {"hours": 1, "minutes": 0}],
            ["00:05:00", "5", 5, 5.0, "00:00:00:00", "00:00:5:00", {"minutes": 0}, {"minute": 5}, {}, True, "x"],
        ),
        (Devices, [1, 8, -1, "auto", [0], [0, 1]], [0, -2, None, True, "0,1", [], [-1], ["0"]]),
        (MaxEpochs, [1, 100, -1], [None, 0, -2, 1.0, True, "all"]),
        (
            PrecisionName,
            ["32-true", 32, "32", "bf16", "bf16-mixed", 64],
            ["16-mixed", 16, "16", "bf16-true", None, "half"],
        ),
        (OptionalBatchLimit, [0, 0.0, 1, 5, 0.5, 1.0], [-1, 1.5, None, True, "all"]),
    ],
)
def test_values_of_an_argument(annotation: Any, allowed: list[Any], refused: list[Any]) -> None:
    for value in allowed:
        check_value("trainer.key", value, annotation)
    for value in refused:
        with pytest.raises(ConfigError, match=r"^trainer\.key[^ ]*=.* is not allowed: it must be "):
            check_value("trainer.key", value, annotation)


def test_errors_of_times_and_intervals_have_an_example() -> None:
    with pytest.raises(ConfigError, match=r"days:hours:minutes:seconds, such as 00:00:30:00"):
        check_value("trainer.max_time", 5, MaxTime)
    for value in (1, "00:00:00:10", {"minutes": 10}):
        with pytest.raises(ConfigError, match=r"1\.0 for once an epoch, or an integer N .* nor a time"):
            check_value("trainer.val_check_interval", value, ValCheckInterval)
    with pytest.raises(ConfigError, match=r"'?0,1'? is not allowed: .* such as \[0,1\]"):
        check_value("trainer.devices", "0,1", Devices)


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, None),
        ({"limit_train_batches": 1, "limit_val_batches": 1000}, None),
        ({"limit_val_batches": 0.1}, None),
        ({"limit_val_batches": 0.09}, "trainer.limit_val_batches=0.09 of 10 validation batches rounds to 0"),
        ({"limit_train_batches": 0.01}, "trainer.limit_train_batches=0.01 of 10 training batches rounds to 0"),
        ({"val_check_interval": 0.4}, None),
        ({"val_check_interval": 0.4, "limit_train_batches": 2}, "trainer.val_check_interval=0.4 of 2 training batches"),
        ({"val_check_interval": 10}, None),
        ({"val_check_interval": 11}, "trainer.val_check_interval=11 is more than the 10 batches of an epoch"),
        ({"val_check_interval": 11, "check_val_every_n_epoch": None}, None),
        ({"val_check_interval": 11, "limit_val_batches": 0}, None),
        ({"val_check_interval": 3, "overfit_batches": 2}, "trainer.val_check_interval=3 is more than the 2 batches"),
        ({"val_check_interval": 0.4, "limit_train_batches": 1}, "=0.4 of 1 training batch rounds to 0"),
        ({"val_check_interval": 3, "overfit_batches": 2, "limit_val_batches": 0}, "is more than the 2 batches"),
        ({"overfit_batches": 0.01}, "trainer.overfit_batches=0.01 of 10 training batches rounds to 0"),
        ({"limit_val_batches": 0, "limit_test_batches": 0.0}, None),
        ({"fast_dev_run": True, "limit_val_batches": 0.01}, None),
    ],
)
def test_fraction_that_rounds_to_zero_batches_is_a_config_error(limits: dict[str, Any], message: str | None) -> None:
    config = OmegaConf.merge(NO_LIMITS, limits)
    data = Mock(num_batches=lambda split: 10)
    if message is None:
        check_limits(config, data)
    else:
        with pytest.raises(ConfigError, match=message):
            check_limits(config, data)


def test_validation_of_overfitting_takes_no_validation_batches() -> None:
    data = Mock(num_batches=lambda split: 10 if split == "train" else 4)
    check_limits(OmegaConf.merge(NO_LIMITS, {"overfit_batches": 0.2}), data)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"min_epochs": 3, "max_epochs": 1},
            "min_epochs=3 is never reached: trainer.max_epochs=1 ends training after 10",
        ),
        (
            {"min_steps": 20, "max_steps": 10},
            "min_steps=20 is never reached: trainer.max_steps=10 ends training after 10",
        ),
        (
            {"min_steps": 20, "max_epochs": 1},
            "min_steps=20 is never reached: trainer.max_epochs=1 ends training after 10",
        ),
        (
            {"min_epochs": 2, "max_steps": 1},
            "min_epochs=2 is never reached: trainer.max_steps=1 ends training after 1 step;",
        ),
        ({"min_epochs": 1, "min_steps": 10, "max_epochs": 1}, None),
        ({"min_epochs": 2, "max_epochs": -1, "max_steps": 20}, None),
        ({"min_steps": 99, "max_epochs": 1, "fast_dev_run": True}, None),
    ],
)
def test_a_minimum_that_is_never_reached_is_a_config_error(values: dict[str, Any], message: str | None) -> None:
    config, data = OmegaConf.merge(NO_LIMITS, values), Mock(num_batches=lambda split: 10)
    if message is None:
        check_limits(config, data)
    else:
        with pytest.raises(ConfigError, match=re.escape(f"trainer.{message}")):
            check_limits(config, data)


@pytest.mark.parametrize("interval", [1.0, 0.5])
def test_batches_across_epochs_have_no_fraction_of_an_epoch(interval: float) -> None:
    values = {"check_val_every_n_epoch": None, "val_check_interval": interval}
    with pytest.raises(
        ConfigError, match=rf"=null counts .* trainer\.val_check_interval={interval} cannot be .* integer"
    ):
        make_trainer(OmegaConf.create({"trainer": OmegaConf.merge(NO_LIMITS, values)}), [])


def test_max_epochs_that_ends_before_max_steps_is_said() -> None:
    data = Mock(num_batches=lambda split: 10)
    with pytest.warns(
        PatchworkWarning, match=r"trainer\.max_epochs=3 ends training after 9 steps, before .*max_steps=10"
    ):
        check_limits(OmegaConf.merge(NO_LIMITS, {"max_epochs": 3, "max_steps": 10, "accumulate_grad_batches": 4}), data)
    for values in ({"max_epochs": -1}, {"max_epochs": 4}):
        check_limits(OmegaConf.merge(NO_LIMITS, {"max_steps": 40, **values}), data)


def test_training_without_end_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"max_epochs=-1 needs trainer\.max_steps"):
        make_trainer(OmegaConf.create({"trainer": OmegaConf.merge(NO_LIMITS, {"max_epochs": -1})}), [])


@pytest.mark.parametrize(
    ("name", "devices", "error"),
    [
        ("auto", 1, None),
        ("cpu", 4, None),
        ("cpu", 5, ResourceError),
        ("auto", 5, ResourceError),
        ("cuda", 1, ResourceError),
        ("mps", [0], ResourceError),
        ("abacus", 1, ConfigError),
        ("cpu", "auto", None),
        ("cpu", -1, ConfigError),
        ("auto", [0], ConfigError),
        ("auto", OmegaConf.create([0, 1]), ConfigError),
    ],
)
def test_accelerator_must_be_available(
    monkeypatch: pytest.MonkeyPatch, name: str, devices: Any, error: type[PatchworkError] | None
) -> None:
    monkeypatch.setattr(trainer, "available_cpus", lambda: 4)
    monkeypatch.setattr(trainer.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(trainer.torch.backends.mps, "is_available", lambda: False)
    if error is None:
        check_accelerator(name, devices)
    else:
        with pytest.raises(error, match=r"use (1, or up to 4|up to 4|one of auto, cpu)$"):
            check_accelerator(name, devices)


def test_gpus_are_not_limited_by_cpu_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "available_cpus", lambda: 1)
    monkeypatch.setattr(trainer.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(trainer.torch.cuda, "device_count", lambda: 8)
    for name in ("cuda", "auto", "gpu"):
        for devices in (8, -1, "auto", [0, 7]):
            check_accelerator(name, devices)
        with pytest.raises(ResourceError, match=r"trainer\.devices=9 .* use up to 8"):
            check_accelerator(name, 9)
        with pytest.raises(ResourceError, match=r"trainer\.devices=\[8\] .* \[0, 1, 2, 3, 4, 5, 6, 7\]"):
            check_accelerator(name, [8])
    with pytest.raises(ResourceError, match="use up to 2"):
        check_accelerator("cpu", 8)
    monkeypatch.setattr(trainer.torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError, match="use up to 2"):
        check_accelerator("auto", 8)


def test_lightning_errors_are_translated_to_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^trainer: no such precision here$"), translate_lightning_errors():
        raise MisconfigurationException("no such\n precision   here")
    with pytest.raises(DataError, match=r"another model's: Error\(s\) in loading"), translate_lightning_errors():
        raise RuntimeError("Error(s) in loading state_dict for Model:\n\tMissing key")


def test_other_errors_are_not_translated() -> None:
    with pytest.raises(RuntimeError, match="bug"), translate_lightning_errors():
        raise RuntimeError("bug")

"""What is checked before training starts, and Lightning's errors in one line."""

from typing import Any
from unittest.mock import Mock

import pytest
from omegaconf import OmegaConf
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from patchwork.core.errors import ConfigError, DataError, PatchworkError, ResourceError
from patchwork.training import trainer
from patchwork.training.trainer import check_accelerator, check_limits, translate_lightning_errors

NO_LIMITS = {f"limit_{split}_batches": 1.0 for split in ("train", "val", "test")} | {"val_check_interval": 1.0}


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, None),
        ({"limit_train_batches": 1, "limit_val_batches": 1000}, None),
        ({"limit_val_batches": 0.1}, None),
        ({"limit_val_batches": 0.09}, "trainer.limit_val_batches=0.09 of 10 batches rounds to 0"),
        ({"limit_train_batches": 0.01}, "trainer.limit_train_batches=0.01 of 10 batches rounds to 0"),
        ({"val_check_interval": 0.4}, None),
        ({"val_check_interval": 0.4, "limit_train_batches": 2}, "trainer.val_check_interval=0.4 of 2 batches"),
    ],
)
def test_fraction_that_rounds_to_zero_batches_is_a_config_error(limits: dict[str, Any], message: str | None) -> None:
    config = OmegaConf.create(NO_LIMITS | limits)
    data = Mock(num_batches=lambda split: 10)
    if message is None:
        check_limits(config, data)
    else:
        with pytest.raises(ConfigError, match=message):
            check_limits(config, data)


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
    ],
)
def test_accelerator_must_be_available(
    monkeypatch: pytest.MonkeyPatch, name: str, devices: Any, error: type[PatchworkError] | None
) -> None:
    monkeypatch.setattr(trainer.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(trainer.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(trainer.torch.backends.mps, "is_available", lambda: False)
    if error is None:
        check_accelerator(name, devices)
    else:
        with pytest.raises(error, match=r"use (up to 4|one of auto, cpu)$"):
            check_accelerator(name, devices)


def test_gpus_are_not_limited_by_cpu_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(trainer.torch.cuda, "is_available", lambda: True)
    check_accelerator("cuda", 8)
    check_accelerator("auto", 8)
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

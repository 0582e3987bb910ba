"""Hydra's flags are told apart from overrides and from the options of other tools."""

from pathlib import Path

import pytest

from patchwork.core.hydra_flags import config_dirs, is_flag, override_args, takes_value


@pytest.mark.parametrize("arg", ["--multirun", "-m", "--multi", "--cfg=job", "-cn", "-sc", "--help", "--info"])
def test_flags(arg: str) -> None:
    assert is_flag(arg)


@pytest.mark.parametrize("arg", ["--seed", "--lr=0.1", "-lr", "-x", "seed=1", "multirun"])
def test_other_arguments_are_no_flags(arg: str) -> None:
    assert not is_flag(arg)


def test_values_of_flags_are_no_overrides(tmp_path: Path) -> None:
    args = ["seed=1", "--cfg", "job", "-m", "--config-dir", str(tmp_path), "-cn=x", "task=sum"]
    assert override_args(args) == ["seed=1", "task=sum"]
    assert config_dirs([*args, f"--config-dir={tmp_path / 'none'}"]) == [tmp_path]
    assert [arg for arg in args if takes_value(arg)] == ["--cfg", "--config-dir"]

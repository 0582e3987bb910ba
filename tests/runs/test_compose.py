"""Compositions leave Hydra's global state alone, and every error is one of this package."""

import random
import subprocess
import sys

import hydra
import pytest
from helpers import CONF
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase

from patchwork import compose
from patchwork.core.errors import ConfigError
from patchwork.core.schema import check_config


def test_compose_works_inside_an_application_that_uses_hydra() -> None:
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.2"):
        version_base = VersionBase.instance().version_base
        state = GlobalHydra.instance().hydra
        assert compose(["task=classify"]).task_name == "classify"
        assert GlobalHydra.instance().hydra is state
        assert VersionBase.instance().version_base == version_base


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task=null"], "task=null is not allowed: a group needs a choice"),
        (["logger=null"], "logger=null is not allowed: a group needs a choice"),
        (["foo"], "'foo' is not allowed: use group=choice and key=value"),
        (["data.rows=[1"], r"'data.rows=\[1' is not allowed"),
        (["nonsense=1"], "nonsense=1 is not a key of the configuration"),
        (["model.nonsense=1"], "model.nonsense=1 is not a key of model"),
        (["model=nonsense"], "unknown choice model=nonsense; available: "),
        (["~task"], "~task is not allowed, as every run needs the key"),
    ],
)
def test_wrong_overrides_are_config_errors(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        check_config(compose(overrides))


def test_import_leaves_the_random_state_alone() -> None:
    random.seed(7)
    expected = random.random()
    script = "import random; random.seed(7); from patchwork import Run, compose, train; print(random.random())"
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert float(output) == expected

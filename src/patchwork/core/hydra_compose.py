"""Compose configurations without leaving a trace in Hydra's global state, which an application may be using."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase
from omegaconf import DictConfig

VERSION_BASE = "1.3"


def compose_config(conf_dir: Path, config_name: str, overrides: list[str], *, with_hydra: bool = False) -> DictConfig:
    """Compose a configuration.

    Args:
        conf_dir: absolute path of the configuration directory.
        config_name: name of the primary configuration.
        overrides: as on the command line.
        with_hydra: whether the result has Hydra's own configuration as the key `hydra`.

    Raises:
        HydraException, OmegaConfBaseException, ValueError: if it cannot be composed.
    """
    with isolated_hydra(), hydra.initialize_config_dir(str(conf_dir), version_base=VERSION_BASE):
        return hydra.compose(config_name, overrides, return_hydra_config=with_hydra)


@contextmanager
def isolated_hydra() -> Iterator[None]:
    """Clear Hydra's global state for the context, and restore it."""
    state, version_base = GlobalHydra.instance().hydra, VersionBase.instance().version_base
    GlobalHydra.instance().clear()
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = state
        VersionBase.instance().version_base = version_base

"""Compose configurations without leaving a trace in Hydra's global state, which an application may be using."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from hydra.version import VersionBase, setbase
from omegaconf import DictConfig, open_dict

VERSION_BASE = "1.3"


def compose_config(
    conf_dir: Path,
    config_name: str,
    overrides: list[str],
    *,
    with_hydra: bool = False,
    config_dir: Path | None = None,
    multirun: bool = False,
) -> DictConfig:
    """Compose a configuration.

    Args:
        conf_dir: absolute path of the configuration directory.
        config_name: name of the primary configuration.
        overrides: as on the command line.
        with_hydra: whether the result has Hydra's own configuration as the key `hydra`.
        config_dir: another configuration directory, whose files are added.
        multirun: compose what a multirun begins with, where an override may list several values.

    Raises:
        HydraException, OmegaConfBaseException, ValueError: if it cannot be composed.
    """
    search_path = create_config_search_path(str(conf_dir))
    if config_dir is not None:
        search_path.prepend("command-line", f"file://{config_dir}", SearchPathQuery(provider="schema"))
    with isolated_hydra():
        setbase(VERSION_BASE)
        config = Hydra.create_main_hydra2(config_name, search_path).compose_config(
            config_name,
            overrides,
            RunMode.MULTIRUN if multirun else RunMode.RUN,
            from_shell=False,
            validate_sweep_overrides=not multirun,
        )
    if not with_hydra:
        with open_dict(config):
            del config["hydra"]
    return config


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

"""Compose configurations without leaving a trace in Hydra's global state, which an application may be using."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.version import VersionBase, setbase
from omegaconf import DictConfig, OmegaConf, open_dict

from patchwork.core.errors import ConfigError, one_line

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
    with isolated_hydra():
        setbase(VERSION_BASE)
        config = Hydra.create_main_hydra2(config_name, search_path(conf_dir, config_dir)).compose_config(
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


def search_path(conf_dir: Path, config_dir: Path | None) -> ConfigSearchPath:
    path = create_config_search_path(str(conf_dir))
    if config_dir is not None:
        path.prepend("command-line", f"file://{config_dir}", SearchPathQuery(provider="schema"))
    return path


def split_jobs(overrides: list[str], *, conf_dir: Path, config_dir: Path | None = None) -> list[list[str]]:
    """Return the overrides of each job of a multirun, as Hydra's sweeper makes them.

    Raises:
        ConfigError: if an override has no values to run.
        HydraException: if one is not an override.
    """
    loader = ConfigLoaderImpl(search_path(conf_dir, config_dir))  # which has the files that glob(…) looks for
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    for override in parsed:
        if override.is_sweep_override():
            check_sweep(override)
    return BasicSweeper.split_arguments(parsed, None)[0]


def check_sweep(override: Override) -> None:
    """Check that an override with several values has at least one, and not a whole range of real numbers."""
    text = override.input_line
    if not override.is_discrete_sweep():
        raise ConfigError(f"{text} is not allowed: list the values, or search with patchwork sweep")
    try:
        is_empty = next(override.sweep_iterator(), None) is None
    except (HydraException, ValueError) as error:  # range(0,1,0)
        raise ConfigError(f"{text} is not allowed: {one_line(error)}") from error
    if is_empty:
        fault = "matches no choice" if isinstance(override.value(), Glob) else "has no values"
        raise ConfigError(f"{text} {fault}")


def plain_values(config: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain values, interpolations unresolved."""
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


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

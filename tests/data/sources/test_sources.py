"""What all configured sources share."""

import ast
import inspect
import sys
from pathlib import Path

import pytest
from helpers import choices
from omegaconf import OmegaConf
from source_helpers import raises_one_line

from patchwork.core.errors import ConfigError
from patchwork.data import sources
from patchwork.data.sources import MNIST, UCI, Auto, FashionMNIST, Icons, ImageSourceConfig, idx, idx_source

CONF = Path(__file__).parents[3] / "conf/dataset"


def test_constructing_a_source_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for method in ("glob", "rglob", "is_dir", "is_file", "exists", "open", "read_bytes", "mkdir"):
        monkeypatch.setattr(Path, method, lambda *_, name=method, **__: calls.append(name))
    monkeypatch.setattr("builtins.open", lambda *_, **__: calls.append("open"))
    configured = [UCI(validation=3), Icons(), *(source(root="/nowhere") for source in (MNIST, FashionMNIST, Auto))]
    assert all(isinstance(source, ImageSourceConfig) for source in configured)
    assert all(len(set(source.class_names)) == len(source.class_names) >= 10 for source in configured)
    assert calls == []


def test_splitting_is_configured_alike_in_all_sources() -> None:
    for source in (UCI, MNIST, FashionMNIST, Auto):
        default = source()
        assert (default.folds, default.fold) == (None, None)
        message = raises_one_line(ConfigError, lambda source=source: source(folds=3, fold=3))
        assert message == "dataset.fold=3 is not allowed: use 0 to 2 with dataset.folds=3"
        message = raises_one_line(ConfigError, lambda source=source: source(fold=1))
        assert message == "dataset.fold=1 needs dataset.folds, the number of folds"


@pytest.mark.parametrize("module", [idx, idx_source])
def test_importing_a_source_imports_no_decoder_or_http_library(module: object) -> None:
    tree = ast.parse(inspect.getsource(module))
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)]
    third_party = {name.split(".")[0] for name in names} - sys.stdlib_module_names
    assert third_party <= {"numpy", "torch", "annotated_types", "pydantic", "patchwork"}


@pytest.mark.parametrize("name", choices("dataset"))
def test_config_keys_are_the_arguments_and_defaults_of_the_constructor(name: str) -> None:
    config = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    module, _, source = config.pop("_target_").rpartition(".")
    assert module == sources.__name__
    parameters = inspect.signature(getattr(sources, source)).parameters
    assert config == {key: parameter.default for key, parameter in parameters.items()}

"""What all configured sources share."""

import ast
import inspect
import sys
from pathlib import Path

import pytest
from helpers import choices
from omegaconf import OmegaConf

from patchwork.data import sources
from patchwork.data.sources import MNIST, UCI, Auto, FashionMNIST, idx, idx_source

CONF = Path(__file__).parents[3] / "conf/dataset"


def test_constructing_a_source_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for method in ("glob", "rglob", "is_dir", "read_bytes", "mkdir"):
        monkeypatch.setattr(Path, method, None)
    UCI(validation=3), MNIST(root="/nowhere"), FashionMNIST(root="/nowhere"), Auto(root="/nowhere", download=True)


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

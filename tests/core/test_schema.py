"""Checking a configuration: every composition passes, every error is found, and no foreign target is imported."""

import copy
import importlib
import math
import re
from collections.abc import Iterator
from functools import cache
from itertools import product
from types import ModuleType
from typing import Any

import hydra
import pytest
from helpers import CONF, choices
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from patchwork.core.errors import ConfigError
from patchwork.core.schema import TARGET_PACKAGES, check_config, check_node, find_target, modules, signature

TASKS = choices("task")
TASK_SPECIFIC = ("model", "data")  # groups whose choices need not fit every task
NESTED = {"stem": "model.stem", "augment": "data.augment"}  # groups below the key of another one
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name != "hydra")


@pytest.fixture(scope="module", autouse=True)
def conf() -> Iterator[None]:
    """Let all tests here compose from `conf/`."""
    GlobalHydra.instance().clear()
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@cache
def compose(*overrides: str) -> DictConfig:
    """Compose a configuration, once for all tests; only copies of it may be changed."""
    return hydra.compose("train", list(overrides))


@pytest.fixture
def valid() -> DictConfig:
    """Return a valid configuration to change, in which other keys link to each value."""
    overrides = ["task=seq2seq", "model=encoder_decoder", "dataset=uci", "optimizer=adamw", "scheduler=cosine"]
    return copy.deepcopy(compose(*overrides))


def is_valid(*overrides: str) -> bool:
    try:
        check_config(compose(*overrides))
    except ConfigError:
        return False
    return True


def resolved(config: DictConfig) -> DictConfig:
    return OmegaConf.create(OmegaConf.to_container(config, resolve=True))


# --- compositions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("group", "choice"), [(group, choice) for group in GROUPS for choice in choices(group)])
def test_every_choice_is_valid(group: str, choice: str) -> None:
    if group in NESTED:
        config = compose(f"{group}@{NESTED[group]}={choice}")
        assert OmegaConf.select(config, NESTED[group]) is not None
        check_config(config)
    elif group not in TASK_SPECIFIC:
        check_config(compose(f"{group}={choice}"))
    else:
        assert any(is_valid(f"task={task}", f"{group}={choice}") for task in TASKS)


@pytest.mark.parametrize(("experiment", "debug"), list(product(choices("experiment"), choices("debug"))))
def test_every_experiment_can_be_debugged(experiment: str, debug: str) -> None:
    check_config(compose(f"experiment={experiment}", f"debug={debug}"))


@pytest.mark.parametrize("task", TASKS)
def test_interpolations_share_each_value(task: str) -> None:
    config = compose(f"task={task}", "seed=3")
    assert config.data.seed == 3
    for name in ("model", "optimizer", "scheduler"):
        assert config.task[name] == config[name]
    assert config.data.get("dataset", config.dataset) == config.dataset


def test_config_of_a_run_is_valid_without_launch_keys(valid: DictConfig) -> None:
    saved = resolved(valid)
    del saved.run_dir, saved.resume
    check_config(saved)
    del saved.seed
    with pytest.raises(ConfigError, match="seed is missing"):
        check_config(saved)


@pytest.mark.parametrize("path", NESTED.values())
def test_nested_group_can_be_null(valid: DictConfig, path: str) -> None:
    OmegaConf.update(valid, path, None)
    check_config(valid)
    OmegaConf.update(valid, path, 3)
    with pytest.raises(ConfigError, match=rf"{path}=3 is not allowed"):
        check_config(valid)


# --- errors ----------------------------------------------------------------------------------------------------------


def change(config: DictConfig, path: str, value: Any) -> None:
    """Set the value at a dotted path; `...` deletes it."""
    with open_dict(config):
        OmegaConf.update(config, path, value if value is not ... else None, merge=False)
        if value is ...:
            parent, _, name = path.rpartition(".")
            del OmegaConf.select(config, parent)[name]


@pytest.mark.parametrize(
    ("path", "value", "allowed"),
    [
        ("nonsense", 1, "seed"),
        ("seed", True, "integer"),
        ("seed", "0", "integer"),
        ("run_dir", ["a"], "string"),
        ("model", [1], "a mapping"),
        ("model", None, "a mapping"),
        ("model.embed_dim", None, "integer"),
        ("model.embed_dim", 64.0, "integer"),
        ("model.embed_dim", True, "integer"),
        ("model.dropout", "0.1", "number"),
        ("model.dropout", math.nan, "finite"),
        ("model.norm_first", "true", "true or false"),
        ("model.stem", 3, "ConvStem"),
        ("model.stem", [{"channels": 8, "kernel": 3}], "ConvStem"),
        ("model.stem", {"channels": 8}, "ConvStem"),
        ("model.stem", ..., "model.stem"),
        ("model.stem._target_", ..., "ConvStem"),
        ("model.stem._target_", "patchwork.data.RandomAffineElastic", "patchwork.models"),
        ("model.stem._target_", "torch.nn.Conv2d", "patchwork.models"),
        ("model.stem.layers", {"channels": 8}, "list"),
        ("model.stem.layers", [{"channels": 8}], "kernel"),
        ("model.stem.layers", [{"channels": 8, "kernel": 3.5}], "integer"),
        ("model.stem.layers", [{"channels": 8, "kernel": 3, "_target_": "os.system"}], "_target_"),
        ("model.stem.width", 8, "layers"),
        ("model._target_", ..., "patchwork.models"),
        ("model._args_", [1], "embed_dim"),
        ("model._recursive_", False, "embed_dim"),
        ("model._partial_", True, "model"),
        ("optimizer._partial_", False, "optimizer"),
        ("optimizer._partial_", 3, "optimizer"),
        ("optimizer.betas", [0.9, 0.9, 0.9], "2"),
        ("optimizer.betas", [0.9, "0.9"], "number"),
        ("optimizer.lr", ..., "optimizer.lr"),
        ("optimizer.lr", math.inf, "finite"),
        ("optimizer.module", None, "optimizer.module"),
        ("data.augment", {"translate": 1.0}, "RandomAffineElastic"),
        ("data.augment", 3, "RandomAffineElastic"),
        ("data.augment._target_", "patchwork.models.ConvStem", "patchwork.data"),
        ("data.augment.translate", "2", "number"),
        ("data.augment.skew", 1.0, "degrees"),
        ("logger", ["metrics"], "a mapping"),
        ("logger.metrics", "csv", "a mapping"),
        ("callbacks.progress.color", True, "callbacks.progress"),
        ("trainer.callbacks", [], "callbacks"),
    ],
)
def test_errors_are_found(valid: DictConfig, path: str, value: Any, allowed: str) -> None:
    change(valid, path, value)
    with pytest.raises(ConfigError) as error:
        check_config(valid)
    message = str(error.value)
    assert "\n" not in message
    assert allowed in message
    assert path.rpartition(".")[2].strip("_") in message or path.rpartition(".")[0] in message


@pytest.mark.parametrize("value", ["${nowhere}", "${model.embed_dim}", "${env:HOME}", "???"])
def test_broken_interpolations(valid: DictConfig, value: str) -> None:
    change(valid, "model.embed_dim", value)
    with pytest.raises(ConfigError, match=r"model\.embed_dim") as error:
        check_config(valid)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["task", "model", "data", "dataset", "optimizer", "scheduler", "trainer", "seed"])
def test_missing_groups(valid: DictConfig, key: str) -> None:
    saved = resolved(valid)
    del saved[key]
    with pytest.raises(ConfigError, match=rf"^{key} is missing"):
        check_config(saved)


@pytest.mark.parametrize(("path", "value"), [("optimizer.lr", 1), ("model.dropout", ...), ("logger", None)])
def test_values_that_are_allowed(valid: DictConfig, path: str, value: Any) -> None:
    """An integer for a float, nothing for what has a default, and no loggers."""
    change(valid, path, value)
    check_config(valid)


# --- targets ---------------------------------------------------------------------------------------------------------

FOREIGN = [
    "os.system",
    "builtins.eval",
    "torch.utils.collect_env.run",
    "torch.nn.Linear",
    "patchwork.data.sources.idx.os.system",  # imported by a module
    "patchwork.data.sources.idx.np",
    "patchwork.data.sources.idx.gzip.open",
    "patchwork.models.transformer.rearrange",
    "patchwork.training.optimizers.torch.optim.AdamW",
    "patchwork.tasks.base.Task.step",  # a method
    "patchwork.models_.Evil",  # a similar name
    "patchwork_evil.models.Evil",
    "patchwork.models.nowhere.Evil",
    "patchwork.models.EncoderDecoder.",
    "patchwork.models",
    "patchwork.models.",
    ".EncoderDecoder",
    "EncoderDecoder",
    "..models.EncoderDecoder",
    "patchwork.models.__builtins__",
    "patchwork.models.__name__",
    "",
    None,
    3,
    ["os.system"],
]


@pytest.mark.parametrize("name", FOREIGN, ids=str)
def test_foreign_targets_are_refused_without_an_import(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    import_module = importlib.import_module

    def record(module: str, package: str | None = None) -> ModuleType:
        imported.append(module)
        return import_module(module, package)

    monkeypatch.setattr(importlib, "import_module", record)
    for key, package in TARGET_PACKAGES.items():
        with pytest.raises(ConfigError, match=rf"is not allowed: it must be defined in {re.escape(package)}$"):
            find_target(key, name, package)
    assert set(imported) <= modules()


def test_target_must_be_of_the_package_of_its_key(valid: DictConfig) -> None:
    names = {key: valid[key]._target_ for key in TARGET_PACKAGES if key not in ("logger", "callbacks")}
    for key, package in TARGET_PACKAGES.items():
        for owner, name in names.items():
            if owner == key:
                assert find_target(key, name, package).__module__.startswith(package)
            elif not name.startswith(package):
                with pytest.raises(ConfigError, match=rf"{re.escape(name)} is not allowed: it must be defined in"):
                    find_target(key, name, package)


def iter_nodes(path: str, value: Any, package: str) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield each node with a `_target_` at or below a value: its path, itself and the package of its target."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield path, value, package
        for key, child in value.items():
            yield from iter_nodes(f"{path}.{key}", child, TARGET_PACKAGES.get(key, package))


def valid_values(group: str, choice: str) -> dict[str, Any]:
    """Return the values of the first valid configuration with a choice."""
    key = f"{group}@{NESTED[group]}" if group in NESTED else group
    for task in TASKS if group in TASK_SPECIFIC else [None]:
        overrides = [f"task={task}"] if task else []
        if is_valid(*overrides, f"{key}={choice}"):
            return OmegaConf.to_container(compose(*overrides, f"{key}={choice}"), resolve=True)
    raise AssertionError(f"{group}={choice} is not valid for any task")


def valid_nodes() -> dict[str, tuple[str, dict[str, Any], str]]:
    """Return a valid node of every target that a choice names."""
    nodes = {}
    for group in (*TARGET_PACKAGES, *NESTED):
        for choice in choices(group):
            for path, value in valid_values(group, choice).items():
                for node in iter_nodes(path, value, TARGET_PACKAGES.get(path, "")):
                    nodes.setdefault(node[1]["_target_"], node)
    return nodes


FOREIGN_NODE = {"_target_": "os.system", "command": "true"}
LAYER = {"channels": 8, "kernel": 3, "hidden": FOREIGN_NODE}
HIDDEN = [FOREIGN_NODE, {"hidden": FOREIGN_NODE}, [FOREIGN_NODE], [[FOREIGN_NODE]], [{"hidden": FOREIGN_NODE}], LAYER]


def test_no_value_can_hide_a_foreign_target() -> None:
    """Hydra instantiates every node that has a `_target_`, however deep: none may be where the check does not look."""
    nodes = valid_nodes()
    assert {"patchwork.models.ConvStem", "patchwork.data.RandomAffineElastic", "patchwork.tasks.Seq2Seq"} <= {*nodes}
    accepted, messages = [], []
    for name, (path, node, package) in nodes.items():
        check_node(path, node, package)
        special = {key: value for key, value in node.items() if key.startswith("_")}
        for parameter, value in product(signature(find_target(path, name, package)), [*HIDDEN, [LAYER]]):
            others = {key: value for key, value in node.items() if key not in {parameter, *special}}
            try:
                check_node(path, {**special, parameter: value, **others}, package)
                accepted.append(f"{name} accepts {parameter}={value}")
            except ConfigError as error:
                messages.append((f"{path}.{parameter}", str(error)))
    assert accepted == []
    assert [message for key, message in messages if key not in message] == []


@pytest.mark.parametrize(
    ("key", "name", "arguments"),
    [
        ("dataset", "patchwork.data.sources.idx_source.search_roots", {}),
        ("dataset", "patchwork.data.sources.auto.print_warning", {"reason": "none"}),
        ("trainer", "patchwork.core.malloc.tune_malloc", {}),
        ("trainer", "patchwork.training.trainer.check_accelerator", {"name": "cpu", "devices": 1}),
        ("callbacks", "patchwork.training.seeding.SeedEveryStep", {}),
        ("callbacks", "patchwork.training.show_samples.trim", {"batch": {}, "count": 3}),
        ("callbacks", "patchwork.figures.samples.plot_samples", {}),
        ("model", "patchwork.models.sampling.gumbel", {"shape": [1], "rng": None}),
    ],
)
def test_helper_functions_cannot_be_targets(key: str, name: str, arguments: dict[str, Any]) -> None:
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)
    with pytest.raises(ConfigError):
        check_node(key, {"_target_": name, **arguments}, TARGET_PACKAGES[key])


def test_modules_are_listed_without_importing_them() -> None:
    assert {"patchwork.runs.train", "patchwork.models.cell_pool", "patchwork.figures.samples"} <= modules()
    assert all(name.startswith("patchwork.") for name in modules())

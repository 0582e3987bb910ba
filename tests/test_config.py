"""The configuration: every composition is right, every fault is found, and nothing outside the package is named."""

import copy
import importlib
import math
import re
from collections.abc import Iterator
from itertools import chain, product
from pathlib import Path
from types import ModuleType
from typing import Any

import hydra
import pytest
import yaml
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationKeyError

from patchwork.config import PLAIN, ROOMS, check, check_node, find_target, modules, signature
from patchwork.errors import ConfigError

CONF = Path(__file__).parent.parent / "conf"
CHOICES = {
    group.name: sorted(choice.stem for choice in group.glob("*.yaml"))
    for group in sorted(CONF.iterdir())
    if group.is_dir() and group.name != "hydra"
}
OF_TASK = ("model", "data")  # groups whose choices need not fit every task


@pytest.fixture(scope="module", autouse=True)
def conf() -> Iterator[None]:
    """Let all tests here compose from `conf/`."""
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def compose(*overrides: str) -> DictConfig:
    return hydra.compose("train", list(overrides))


@pytest.fixture(scope="module")
def composed() -> DictConfig:
    return compose("task=seq2seq", "model=encoder_decoder", "digits=uci", "optimizer=adamw", "scheduler=cosine")


@pytest.fixture
def good(composed: DictConfig) -> DictConfig:
    """Give a right configuration to spoil, whose links lead from one place to all where a value stands."""
    return copy.deepcopy(composed)


def resolved(config: DictConfig) -> DictConfig:
    return OmegaConf.create(OmegaConf.to_container(config, resolve=True))


# --- compositions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("group", "choice"), [(group, choice) for group, choices in CHOICES.items() for choice in choices]
)
def test_every_choice_is_right(group: str, choice: str) -> None:
    if group not in OF_TASK:
        check(compose(f"{group}={choice}"))
        return
    faults = []
    for task in CHOICES["task"]:  # at least one task takes it
        try:
            check(compose(f"task={task}", f"{group}={choice}"))
        except ConfigError as fault:
            faults.append(str(fault))
    assert len(faults) < len(CHOICES["task"]), faults


@pytest.mark.parametrize(("experiment", "debug"), list(product(CHOICES["experiment"], CHOICES["debug"])))
def test_every_experiment_can_be_debugged(experiment: str, debug: str) -> None:
    check(compose(f"experiment={experiment}", f"debug={debug}"))


@pytest.mark.parametrize("task", CHOICES["task"])
def test_what_is_stated_once_is_linked(task: str) -> None:
    whole = compose(f"task={task}", "seed=3")
    assert whole.data.seed == 3
    for name in ("model", "optimizer", "scheduler"):
        assert whole.task[name] == whole[name]
    assert whole.data.get("digits", whole.digits) == whole.digits


def test_what_a_run_keeps_of_it_is_right(good: DictConfig) -> None:
    kept = resolved(good)
    del kept.folder, kept.resume
    check(kept)


# --- help ------------------------------------------------------------------------------------------------------------


def help_text() -> str:
    return yaml.safe_load((CONF / "hydra" / "help" / "patchwork.yaml").read_text())["template"]


def defaults() -> dict[str, str | None]:
    """Give each group's choice where the command line names none."""
    lists = [yaml.safe_load((CONF / name).read_text())["defaults"] for name in ("train.yaml", "task/seq2seq.yaml")]
    entries = [item for entry in chain(*lists) if isinstance(entry, dict) for item in entry.items()]
    return {re.sub(r"^/|@.*", "", group): choice for group, choice in entries if not group.startswith("override")}


def test_help_names_every_group_and_every_choice() -> None:
    groups = re.sub(r" \|\n +", " | ", help_text().partition("Groups")[2].partition("Keys:")[0])
    named = dict(re.findall(r"^  (\w+) +(\w+(?: \| \w+)*)$", groups, re.MULTILINE))
    assert {group: sorted(choices.split(" | ")) for group, choices in named.items()} == {
        group: sorted([*choices, "null"] if defaults()[group] is None else choices)
        for group, choices in CHOICES.items()
    }
    firsts = {group: choices.split(" | ")[0] for group, choices in named.items()}
    assert firsts == {group: choice or "null" for group, choice in defaults().items()}


def test_help_names_every_plain_key() -> None:
    keys = help_text().partition("Keys:")[2]
    assert {key for key in PLAIN if not re.search(rf"^ *{key}=", keys, re.MULTILINE)} == set()


# --- faults ----------------------------------------------------------------------------------------------------------


def spoil(config: DictConfig, path: str, value: Any) -> None:
    """Set what is at a dotted path; `...` takes it away."""
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
        ("folder", ["a"], "string"),
        ("model", [1], "a group of keys"),
        ("model", None, "a group of keys"),
        ("model.embed_dim", None, "integer"),
        ("model.embed_dim", 64.0, "integer"),
        ("model.embed_dim", True, "integer"),
        ("model.dropout", "0.1", "number"),
        ("model.dropout", math.nan, ""),
        ("model.norm_first", "true", "boolean"),
        ("model.stem", {"channels": 8}, "list"),
        ("model.stem", [{"channels": 8}], "kernel"),
        ("model.stem", [{"channels": 8, "kernel": 3.5}], "integer"),
        ("model.stem", ..., "model.stem"),
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
        ("data.augment", {"shift": 1.0}, "data.augment"),
        ("logger", ["metrics"], "a group of keys"),
        ("logger.metrics", "csv", "a group of keys"),
        ("callbacks.progress.color", True, "callbacks.progress"),
        ("trainer.callbacks", [], "max_epochs"),
    ],
)
def test_faults_are_found(good: DictConfig, path: str, value: Any, allowed: str) -> None:
    spoil(good, path, value)
    with pytest.raises(ConfigError) as fault:
        check(good)
    said = str(fault.value)
    assert "\n" not in said
    assert allowed in said
    assert path.rpartition(".")[2].strip("_") in said or path.rpartition(".")[0] in said


@pytest.mark.parametrize("value", ["${nowhere}", "${model.embed_dim}", "${env:HOME}", "???"])
def test_links_that_lead_nowhere(good: DictConfig, value: str) -> None:
    spoil(good, "model.embed_dim", value)
    with pytest.raises(ConfigError, match=r"model\.embed_dim") as fault:
        check(good)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("key", ["task", "model", "data", "digits", "optimizer", "scheduler", "trainer", "seed"])
def test_missing_parts(good: DictConfig, key: str) -> None:
    kept = resolved(good)
    del kept[key]
    with pytest.raises(ConfigError, match=rf"^{key} is missing"):
        check(kept)


@pytest.mark.parametrize(("path", "value"), [("optimizer.lr", 1), ("model.dropout", ...), ("logger", None)])
def test_what_is_no_fault(good: DictConfig, path: str, value: Any) -> None:
    """A whole number for a number, nothing for what has a default, and no loggers."""
    spoil(good, path, value)
    check(good)


# --- targets ---------------------------------------------------------------------------------------------------------

FOREIGN = [
    "os.system",
    "builtins.eval",
    "torch.utils.collect_env.run",
    "torch.nn.Linear",
    "patchwork.data.digits.os.system",  # what a module imports
    "patchwork.data.digits.np",
    "patchwork.data.digits.gzip.open",
    "patchwork.models.transformer.rearrange",
    "patchwork.optim.torch.optim.AdamW",
    "patchwork.tasks.base.Task.step",  # what belongs to a class
    "patchwork.models_.Evil",  # what only looks like ours
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
def test_no_module_outside_the_package_is_imported(name: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    imported: list[str] = []
    real = importlib.import_module

    def recording(module: str, package: str | None = None) -> ModuleType:
        imported.append(module)
        return real(module, package)

    monkeypatch.setattr(importlib, "import_module", recording)
    for key, room in ROOMS.items():
        with pytest.raises(ConfigError, match="is not allowed: only what is defined in patchwork"):
            find_target(key, name, room)
    assert set(imported) <= modules()


def test_a_target_stays_in_its_room(composed: DictConfig) -> None:
    names = {key: composed[key]._target_ for key in ROOMS if key not in ("logger", "callbacks")}
    for key, room in ROOMS.items():
        for name in names.values():
            if name.startswith(room):
                assert find_target(key, name, room).__module__.startswith("patchwork.")
            else:
                with pytest.raises(ConfigError, match=rf"{re.escape(name)} is not allowed: only what is defined in"):
                    find_target(key, name, room)
        assert key not in names or names[key].startswith(room)


def nodes() -> dict[str, tuple[str, dict[str, Any]]]:
    """Give a right node of every target that any choice names, and its top-level key."""
    found = {}
    choices = [(key, choice) for key in ROOMS for choice in CHOICES[key]]
    for (group, choice), task in product(choices, CHOICES["task"]):
        tasks = [] if group == "task" else [f"task={task}"]
        try:
            whole = OmegaConf.to_container(compose(*tasks, f"{group}={choice}"), resolve=True)
        except InterpolationKeyError:  # this model or data is not for this task
            continue
        assert isinstance(whole, dict)
        for key, node in whole.items():
            for one in node.values() if key in ("logger", "callbacks") else [node]:
                if isinstance(one, dict) and "_target_" in one:
                    found[one["_target_"]] = (key, one)
    return found


NODE = {"_target_": "os.system", "command": "true"}
LAYER = {"channels": 8, "kernel": 3, "hidden": NODE}
HIDING = [NODE, {"hidden": NODE}, [NODE], [[NODE]], [{"hidden": NODE}], LAYER, [LAYER]]


def test_no_value_hides_a_target() -> None:
    """Hydra makes every node that has a `_target_`, however deep: none may lie where the check does not look."""
    faults = []
    for name, (key, node) in nodes().items():
        check_node(key, node, ROOMS[key])
        for parameter, value in product(signature(find_target(key, name, ROOMS[key])), HIDING):
            try:
                check_node(key, {**node, parameter: value}, ROOMS[key])
                faults.append(f"{name} takes {parameter}={value}")
            except ConfigError:
                continue
    assert faults == []


@pytest.mark.parametrize(
    ("key", "node"),
    [
        ("digits", {"_target_": "patchwork.data.digits.roots"}),
        ("digits", {"_target_": "patchwork.data.digits.warn", "reason": "none"}),
        ("trainer", {"_target_": "patchwork.run.keep_memory"}),
        ("trainer", {"_target_": "patchwork.run.check_accelerator", "name": "cpu"}),
        ("callbacks", {"_target_": "patchwork.callbacks.Seeds"}),
        ("callbacks", {"_target_": "patchwork.figures.samples.trim", "batch": {}, "count": 3}),
        ("callbacks", {"_target_": "patchwork.figures.samples.picture"}),
    ],
    ids=lambda value: value["_target_"] if isinstance(value, dict) else value,
)
def test_helpers_of_a_room_are_no_parts(key: str, node: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        check_node(key, node, ROOMS[key])


def test_modules_are_listed_without_importing_them() -> None:
    assert {"patchwork.run", "patchwork.models.quadrant", "patchwork.figures.samples"} <= modules()
    assert all(name.startswith("patchwork.") for name in modules())

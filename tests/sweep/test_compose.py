"""Trials are composed from the file and the command line, and infeasible ones are found before they are trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import DictConfig

from patchwork.core.errors import ConfigError, DataError
from patchwork.sweep import compose as sweep_compose
from patchwork.sweep.compose import format_params, infeasible_reason, load_sweep

SPACE: dict[str, Any] = {
    "program": "train.py",
    "method": "bayes",
    "metric": {"name": "val/accuracy", "goal": "maximize"},
    "command": ["${program}", "task=classify", "dataset=uci", "logger=wandb"],
    "parameters": {"optimizer.lr": {"min": 0.01, "max": 0.1}, "model.num_heads": {"values": [2, 4]}},
}


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached_compose: Callable[[list[str]], DictConfig]) -> Path:
    """Return the file of a small space."""
    monkeypatch.setattr(sweep_compose, "compose", cached_compose)
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(SPACE))
    return path


def test_overridden_parameters_are_not_searched(path: Path) -> None:
    sweep = load_sweep(path, ["model.num_heads=8", "trainer.max_epochs=3", "dataset=mnist"])
    assert list(sweep.distributions) == ["optimizer.lr"]
    assert sweep.overrides == ["task=classify", "model.num_heads=8", "trainer.max_epochs=3", "dataset=mnist"]
    assert sweep.trial_overrides({"optimizer.lr": 0.02})[-1] == "optimizer.lr=0.02"
    assert sweep.base_config.model_name == "vit"
    assert sweep.num_validations == 3


def test_study_name_depends_on_space_and_overrides(path: Path) -> None:
    names = [load_sweep(path, overrides).study_name for overrides in ([], ["seed=1"], ["model.num_heads=2"], [])]
    assert len(set(names)) == 3
    assert names[0] == names[3]
    assert all(name.startswith("space-") for name in names)


def test_searched_key_must_exist(path: Path) -> None:
    path.write_text(yaml.safe_dump({**SPACE, "parameters": {"model.widht": {"values": [1, 2]}}}))
    with pytest.raises(ConfigError, match="widht"):
        load_sweep(path, [])


@pytest.mark.parametrize("override", ["run_dir=runs", "resume=auto", "++hydra.run.dir=x", "hydra.mode=RUN"])
def test_directories_of_trials_are_set_by_the_sweep(path: Path, override: str) -> None:
    key, _, value = override.lstrip("+").partition("=")
    with pytest.raises(ConfigError, match=r"run_dir=runs is|resume=auto is|hydra\.run\.dir=x is|hydra\.mode=RUN is"):
        load_sweep(path, [override])
    for content in (
        {"command": ["${program}", override.lstrip("+")]},
        {"parameters": {key: {"value": value}}},
        {"parameters": {key: {"values": [value, "other"]}}},
    ):
        path.write_text(yaml.safe_dump({**SPACE, **content}))
        with pytest.raises(ConfigError, match=r"a sweep sets the run directory of its trials|each trial is one run"):
            load_sweep(path, [])


def test_whole_numbers_of_an_integer_key_are_integers(path: Path) -> None:
    parameters = {
        "data.batch_size": {"distribution": "q_uniform", "min": 32, "max": 64, "q": 32.0},
        "model.num_heads": {"values": [2.0, 4.0]},
        "optimizer.lr": {"values": [1.0, 0.1]},
        "trainer.limit_train_batches": {"values": [1.0, 0.5]},
    }
    path.write_text(yaml.safe_dump({**SPACE, "parameters": parameters}))
    sweep = load_sweep(path, [])
    params = {key: prior.grid()[0] for key, prior in sweep.priors.items()}
    overrides = sweep.trial_overrides(params)
    assert overrides[-4:] == [
        "data.batch_size=32",
        "model.num_heads=2",
        "optimizer.lr=1.0",
        "trainer.limit_train_batches=1.0",  # all batches, which 1 is not
    ]
    assert infeasible_reason(overrides) is None


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.embed_dim=30", "model.num_heads=4"], "30"),
        (["model=cell_pool", "model.patch_size=8"], "patch_size=8 does not divide"),
        (["task=classify", "model.patch_size=5"], "patch_size=5 does not divide"),
        (["model.dropout=1.5"], "model.dropout=1.5"),
        (["model.widht=3"], "is not a key of model"),
        (["task=sum", "model=vit"], "not fit"),
        (["data.samples_per_epoch=32", "data.batch_size=64"], "samples_per_epoch=32"),
    ],
)
def test_infeasible_configuration_is_found_without_building_it(overrides: list[str], message: str) -> None:
    reason = infeasible_reason(overrides)
    assert reason is not None
    assert message in reason


def test_validations_of_a_trial_depend_on_what_is_searched(path: Path) -> None:
    shared = ["data.samples_per_epoch=640", "data.batch_size=64", "trainer.max_epochs=6"]
    sweep = load_sweep(path, [*shared, "trainer.check_val_every_n_epoch=2"])
    assert sweep.num_validations == 3
    assert sweep.num_trial_validations({"trainer.val_check_interval": 0.5}) == 6
    assert sweep.num_trial_validations({"trainer.check_val_every_n_epoch": 10}) == 1
    assert sweep.num_trial_validations({"trainer.max_steps": 5}) == 1
    with pytest.raises(ConfigError, match="limit_val_batches=0 is not allowed"):
        load_sweep(path, [*shared, "trainer.limit_val_batches=0"])


@pytest.mark.parametrize("searched", [False, True])
def test_weights_to_begin_with_must_exist(path: Path, searched: bool) -> None:
    overrides = ["init_from=nowhere"]
    if searched:
        path.write_text(path.read_text().replace("parameters:", "parameters:\n  init_from: {values: [null, nowhere]}"))
        overrides = []
    with pytest.raises(DataError, match="init_from=nowhere does not exist"):
        load_sweep(path, overrides)


def test_floats_are_formatted_with_four_digits() -> None:
    assert format_params({"a": 0.123456, "b": 123456, "c": "x y", "d": None}) == "a=0.1235 b=123456 c='x y' d=null"

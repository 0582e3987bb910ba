"""Of the settings that were found one is chosen by accuracy, stability, speed and size, and can be run by its name."""

import json
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import yaml
from conftest import TINY
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from patchwork.cli import guarded
from patchwork.sweep.command import command as sweep
from patchwork.sweep.results import choose, experiment_of, importances, settings_of
from patchwork.sweep.setting import composed

RANGE = {name: optuna.distributions.FloatDistribution(0, 1) for name in ("x", "y")}


def study(*trials: tuple[float, float, float, int], seeds: bool = False) -> optuna.Study:
    """Make an account of trials: accuracy, unsteadiness, seconds and parameters of each."""
    account = optuna.create_study(direction="maximize")
    for number, (value, unsteadiness, seconds, parameters) in enumerate(trials):
        params = {"x": 0.0 if seeds else number / 100, "y": 0.0}
        notes = {"unsteadiness": unsteadiness, "seconds": seconds, "parameters": parameters}
        extra = {"seed": optuna.distributions.IntDistribution(0, 9)} if seeds else {}
        account.add_trial(
            optuna.trial.create_trial(
                params={**params, **({"seed": number} if seeds else {})},
                distributions={**RANGE, **extra},
                value=value,
                user_attrs=notes,
            )
        )
    return account


@pytest.mark.parametrize(
    ("trials", "chosen", "why"),
    [
        ([(0.90, 0.01, 9, 9), (0.95, 0.01, 9, 9)], "1", "no other is within its spread of 0.01"),
        ([(0.95, 0.01, 9, 9), (0.945, 0.001, 99, 99), (0.90, 0.0, 1, 1)], "1", "the steadiest"),
        ([(0.95, 0.01, 9, 9), (0.945, 0.01, 5, 99), (0.90, 0.0, 1, 1)], "1", "the fastest"),
        ([(0.95, 0.01, 9, 9), (0.945, 0.01, 9, 5), (0.90, 0.0, 1, 1)], "1", "the smallest"),
        ([(0.95, 0.01, 9, 9)], "0", "the only one"),
    ],
)
def test_choice_by_accuracy_stability_speed_size(trials: list, chosen: str, why: str) -> None:
    setting, reason = choose(settings_of(study(*trials)))
    assert setting.numbers == chosen
    assert why in reason


def test_trials_that_differ_in_their_seed_are_one_setting() -> None:
    (setting,) = settings_of(study((0.9, 0.01, 1, 1), (0.8, 0.01, 1, 1), seeds=True))
    assert setting.mean == pytest.approx(0.85)
    assert setting.spread == pytest.approx(0.0707, abs=1e-4)
    assert "seed" not in setting.params


def test_importance_is_that_of_what_matters() -> None:
    account = optuna.create_study()
    for number in range(60):
        params = {"x": (number * 7 % 60) / 60, "y": (number * 11 % 60) / 60}
        account.add_trial(
            optuna.trial.create_trial(params=params, distributions=RANGE, value=params["x"] + 0.1 * params["y"])
        )
    found = importances(account)
    assert sum(found.values()) == pytest.approx(1)
    assert found["x"] > 0.9
    assert importances(study((0.9, 0, 1, 1), (0.8, 0, 1, 1))) == {}


@pytest.mark.parametrize(
    "words",
    [
        ["task=sum", "model=sequence_regressor", "optimizer=adam", "optimizer.lr=0.001", "model.embed_dim=32"],
        ["experiment=published_quadrant", "optimizer=muon", "data.batch_size=32", "callbacks=none"],
        ["task=classify", "data.augment=null", "debug=fast", "model.stem=[{channels: 8, kernel: 5, stride: 4}]"],
        ["seed=3", "accelerator=cpu", "callbacks.samples=null"],
    ],
)
def test_an_experiment_says_what_the_command_says(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    written = Path("found/experiment/best.yaml")
    written.parent.mkdir(parents=True)
    written.write_text(experiment_of(words, Path("found"), "Found."))
    assert command("train", "--config-dir=found", "experiment=best", "--cfg", "job", "--resolve") == 0
    said = yaml.safe_load(capsys.readouterr().out)
    GlobalHydra.instance().clear()
    assert said == OmegaConf.to_container(composed(words), resolve=True)


def test_a_search_from_end_to_end(
    command: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    space = {
        "program": "train.py",
        "method": "bayes",
        "metric": {"name": "val/accuracy", "goal": "maximize"},
        "parameters": {"optimizer.lr": {"min": 0.01, "max": 0.03}, "model.num_heads": {"values": [2, 4]}},
        "command": ["${program}", "task=classify", "logger=wandb", "${args_no_hyphens}"],
    }
    Path("space.yaml").write_text(yaml.safe_dump(space))
    words = [*TINY, "trainer.max_epochs=2", "data.train_size=256", "count=2", "jobs=2", "retrain=1", "ensemble=2"]
    assert guarded(lambda: sweep(["space.yaml", "folder=found", *words])) == 0
    said = capsys.readouterr().out
    assert "2 trials: 2 finished" in said
    assert "test/accuracy" in said.partition("as one")[2]
    runs = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("found/trials/*/manifest.json"))]
    assert [run["status"] for run in runs] == ["finished"] * 2
    again = json.loads(next(Path("found/retrained").glob("*-seed-1/manifest.json")).read_text())
    assert command("train", "--config-dir=found", "experiment=best", "folder=best") == 0
    best = json.loads(Path("best/manifest.json").read_text())
    assert best["weights_sha256"] in [run["weights_sha256"] for run in runs]
    assert again["weights_sha256"] != best["weights_sha256"]
    ready = next(line for line in said.splitlines() if line.strip().startswith("python train.py task=classify"))
    assert all(f"{key}=" in ready for key in space["parameters"])

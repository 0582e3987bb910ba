"""What the page of a run is made of: its description, and its task with saved predictions."""

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

from omegaconf import DictConfig, OmegaConf

from patchwork.analysis.inputs import AnalysisInputs, Snapshot
from patchwork.data import BaseDataModule
from patchwork.report.build import RunDescription
from patchwork.runs.build import build, preserve_rng
from patchwork.runs.differences import config_overrides, to_plain
from patchwork.runs.manifest import check_dataset, read_manifest
from patchwork.runs.predictions import predictions_path, read_table
from patchwork.runs.run import Run
from patchwork.runs.run_dir import choice_names
from patchwork.tasks import Predictions, Task
from patchwork.training.checkpoint_io import read_checkpoint
from patchwork.training.watch import watched_paths


def describe_run(run_dir: Path, config: DictConfig, manifest: dict[str, Any]) -> RunDescription:
    """Return the description of a run on its page."""
    task, model = choice_names(config)
    plain = to_plain(config)
    return RunDescription(
        run_dir=run_dir,
        task=task,
        model=model,
        config=plain,
        config_text=OmegaConf.to_yaml(config),
        manifest=manifest,
        overrides=config_overrides(plain),
    )


def make_inputs(run: Run) -> AnalysisInputs:
    """Return the inputs of analyses of a run; predictions of validation and test that are not saved are made now.

    Raises:
        DataError: if the data set on this machine is not that of the run.
    """
    run.data.prepare_data()
    check_dataset(run.manifest, run.data)
    saves = run.task.saves_predictions
    predictions = {"val": run.predictions("val"), "test": run.predictions("test")} if saves else {}
    with preserve_rng():
        _, untrained = build(run.config)
    return AnalysisInputs.from_task(
        run.task, run.data, predictions=predictions, untrained=untrained, history=read_history(run.run_dir)
    )


def read_history(run_dir: Path) -> list[Snapshot]:
    """Return the weights of the validations of a run's training, in order; none if they were not kept.

    Raises:
        DataError: if one of them is damaged.
    """
    states = [read_checkpoint(path) for path in watched_paths(run_dir)]
    return [Snapshot(state["epoch"], state["step"], state["state_dict"]) for state in states]


def inputs_without_weights(run_dir: Path, config: DictConfig) -> AnalysisInputs:
    """Return what a page without figures is made of: saved predictions, and a task with the weights it begins with.

    Raises:
        DataError: if the data set on this machine is not that of the run.
    """
    with preserve_rng(), patch.dict(os.environ):
        data, task = build(config)
    data.prepare_data()
    check_dataset(read_manifest(run_dir), data)
    return saved_inputs(run_dir, task, data)


def saved_inputs(run_dir: Path, task: Task, data: BaseDataModule) -> AnalysisInputs:
    """Return the inputs of analyses with the predictions that a training has saved."""
    predictions: dict[str, Predictions] = {}
    for split in ("val", "test"):
        path = predictions_path(run_dir, split)
        if path.exists():
            predictions[split] = read_table(path)[0]
    return AnalysisInputs.from_task(task, data, predictions=predictions)

"""The stages of a training: check → build → fit → test → predict → report.

A run is its directory: `config.yaml` (resolved), `manifest.json`, `metrics.csv`, `checkpoints/`, `predictions/` and
`figures/`.
"""

import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from omegaconf import DictConfig, OmegaConf

from patchwork.core.atomic import write_bytes
from patchwork.core.errors import ConfigError, Interrupted, ResourceError, exit_code, one_line
from patchwork.core.job import update_job_status
from patchwork.core.lock import lock
from patchwork.core.overrides import shell_override
from patchwork.core.progress import Progress
from patchwork.core.rank import is_rank_zero
from patchwork.core.schema import check_config
from patchwork.data import BaseDataModule
from patchwork.runs.build import build, build_callbacks, check_loggers, instantiate_group, preserve_rng
from patchwork.runs.fitting import check_fit, warn_unused
from patchwork.runs.gate import check_gate, describe_verdict, judge, needs_gate
from patchwork.runs.init_from import INIT, describe_taken, load_initial_weights
from patchwork.runs.manifest import check_dataset, make_manifest, merge_manifest, read_manifest, write_manifest
from patchwork.runs.predictions import save_predictions
from patchwork.runs.rendezvous import Rendezvous, check_processes
from patchwork.runs.report import print_report, save_figures
from patchwork.runs.resume import find_run
from patchwork.runs.run import Run, load_best, run_test
from patchwork.runs.run_dir import CONFIG_FILE, LOCK_FILE, make_run_dir, runs_root
from patchwork.tasks import Predictions, Sample, Task
from patchwork.training.checkpoint_io import (
    BEST,
    LAST,
    backup_path,
    read_checkpoint,
    remove_partial_files,
    weights_sha256,
    write_checkpoint,
)
from patchwork.training.checkpointing import Checkpointer
from patchwork.training.cluster import count_processes
from patchwork.training.fsdp import check_fsdp
from patchwork.training.loggers import RunLogger
from patchwork.training.outcome import training_outcome
from patchwork.training.precision import make_precision, resolve_stem_precision
from patchwork.training.profiling import profiled
from patchwork.training.timing import RunTimer
from patchwork.training.trainer import (
    Trainer,
    check_accelerator,
    check_limits,
    make_trainer,
    translate_lightning_errors,
)


@dataclass(frozen=True)
class Launch:
    """How a training was started; by default from Python.

    Args:
        command: the command line, for the manifest.
        overrides: of the command line; they decide what a resumed run changes.
        start_time: when the command started, by `time.time`.
    """

    command: str | None = None
    overrides: tuple[str, ...] = ()
    start_time: float = field(default_factory=time.time)


@dataclass
class TrainingContext:
    """What the stages of a training share in this process."""

    config: DictConfig
    data: BaseDataModule
    task: Task
    trainer: Trainer
    timer: RunTimer
    checkpointer: Checkpointer
    logger_factories: list[Any]
    initial: dict[str, Any] | None = None  # the weights that the run begins with, if they are another run's
    test_predictions: list[Predictions] = field(default_factory=list)  # of the test batches, if this process has all


def train(config: DictConfig, launch: Launch | None = None) -> Run:
    """Train a configuration, or resume a run, and return the run with its best weights.

    The caller's random state, environment variables and warning filters are restored at the end. During the training,
    signals (SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2) save a checkpoint and stop it.

    Raises:
        ConfigError: if the configuration is wrong, or differs from that of the run to resume.
        DataError: if the data or a checkpoint is missing or damaged.
        NumericError: if the loss, a gradient or a validation metric is not finite.
        ResourceError: if memory, a device or the disk does not suffice.
        Interrupted: if a signal stopped it; a `BaseException`. Nothing is written before everything is checked.
    """
    if not isinstance(config, DictConfig):
        raise ConfigError(f"train({config!r}) is not allowed: pass a configuration, as of patchwork.compose([...])")
    with preserve_rng(), patch.dict(os.environ), warnings.catch_warnings():
        check_fit(config)
        check_config(config)
        launch = launch or Launch()
        rendezvous = Rendezvous.join(lambda: num_processes(config, launch))
        with rendezvous.propagate_errors():
            return train_rank(config, launch, rendezvous)


def num_processes(config: DictConfig, launch: Launch) -> int:
    """Return how many processes a training has, which may be that of a run to resume."""
    run_config, _ = find_run(config, launch.overrides)
    return count_processes(run_config.trainer.devices, run_config.trainer.num_nodes)


def train_rank(config: DictConfig, launch: Launch, rendezvous: Rendezvous) -> Run:
    """Train as one of the processes that were started to train a run, which is mostly the only one."""
    rendezvous.receive_run_dir()
    run_config, run_dir = find_run(config, launch.overrides)
    run_config = resolve_stem_precision(run_config)
    if run_dir is not None and read_manifest(run_dir).get("status") == "finished":
        rendezvous.broadcast_run_dir(run_dir)
        if is_rank_zero():
            update_job_status(run_dir=str(run_dir))
            print(f"{run_dir} is already finished; nothing to resume.")
        return Run.load(run_dir)
    if run_dir is not None and config.resume == "auto" and config.run_dir is None and is_rank_zero():
        print(f"resume=auto found {run_dir}", flush=True)
    context = prepare(run_config, launch, rendezvous, run_dir)
    run_dir = run_dir or make_run_dir(config.run_dir, runs_root(run_config))
    with lock(run_dir, LOCK_FILE):
        manifest = open_run_dir(context, run_dir, launch)
        rendezvous.broadcast_run_dir(run_dir)
        with record_outcome(context, run_dir, manifest):
            start_loggers(context, run_dir, manifest)
            rendezvous.barrier()
            manifest |= fit(context, run_dir)
            manifest |= test(context, run_dir)
            samples = finish_run(context, run_dir, manifest) if is_rank_zero() else []
    if is_rank_zero():
        print_report(run_dir, manifest, samples, context.task, context.data)
    return Run(run_dir, run_config, read_manifest(run_dir), context.task.eval(), context.data)


def prepare(config: DictConfig, launch: Launch, rendezvous: Rendezvous, run_dir: Path | None) -> TrainingContext:
    """Build everything and check that it can be trained here; nothing is written."""
    check_accelerator(config.trainer.accelerator, config.trainer.devices)
    data, task = build(config)
    if config.trainer.strategy == "fsdp":
        check_fsdp(config, task)
        if config.get("watch"):
            raise ConfigError(
                "watch=true is not allowed with trainer.strategy=fsdp, which has no whole model: use false"
            )
    timer, checkpointer = RunTimer(launch.start_time), Checkpointer(config.checkpoint_every_seconds)
    trainer = make_trainer(config, build_callbacks(config, timer, checkpointer))
    check_gate(data, config.get("init_from"), trainer.num_devices * trainer.num_nodes)
    trainer.precision_plugin.convert_module(task)  # Lightning converts only after weights are read and averages made
    initial = load_initial_weights(task, config.get("init_from"), run_dir)
    check_processes(config.trainer.strategy, trainer.num_devices, trainer.num_nodes, rendezvous)
    logger_factories = instantiate_group(config, "logger")
    check_loggers(logger_factories)
    data.prepare_data()
    data.check_shards(trainer.num_devices * trainer.num_nodes)  # now that the sizes of its splits are known
    check_limits(config.trainer, data)
    warn_unused(config, launch.overrides)
    return TrainingContext(config, data, task, trainer, timer, checkpointer, logger_factories, initial)


def open_run_dir(context: TrainingContext, run_dir: Path, launch: Launch) -> dict[str, Any]:
    """Write what the run is into its directory, and return its manifest."""
    saved = read_manifest(run_dir)
    check_dataset(saved, context.data)
    new = make_manifest(context.config, context.task, context.data, context.trainer, launch.command)
    if context.initial is not None:
        new["init_from"] = context.initial["init_from"]
    manifest = merge_manifest(saved, new)
    if is_rank_zero():
        update_job_status(run_dir=str(run_dir))
        remove_partial_files(run_dir)
        write_bytes(run_dir / CONFIG_FILE, OmegaConf.to_yaml(context.config).encode())
        if context.initial is not None:
            print(describe_taken(context.initial["init_from"]), flush=True)
            write_checkpoint(context.initial, run_dir / "checkpoints" / INIT)
        write_manifest(run_dir, manifest)
    context.checkpointer.checkpoint_dir = run_dir / "checkpoints"
    return manifest


def start_loggers(context: TrainingContext, run_dir: Path, manifest: dict[str, Any]) -> None:
    """Start the loggers, and add to the manifest what they say of themselves."""
    config = cast(dict[str, Any], OmegaConf.to_container(context.config))
    for make_logger in context.logger_factories:
        logger: RunLogger = make_logger(run_dir)
        logger.start(config, manifest)
        context.trainer.loggers = [*context.trainer.loggers, logger]
        manifest |= logger.manifest_entry()
    write_manifest(run_dir, manifest)


def fit(context: TrainingContext, run_dir: Path) -> dict[str, Any]:
    """Train from the start, or from the latest checkpoint if there is one, and return how it ended for the manifest."""
    trainer, data = context.trainer, context.data
    latest = context.checkpointer.checkpoint_dir / LAST
    resumable = latest.exists() or backup_path(latest).exists()
    with profiled(trainer, run_dir), translate_lightning_errors():
        trainer.fit(context.task, data, ckpt_path=latest if resumable else None, weights_only=True)
    return training_outcome(trainer, overfits=data.overfit_one_batch or data.repeats_batches)


def test(context: TrainingContext, run_dir: Path) -> dict[str, Any]:
    """Load the best weights, measure the test split, and return the results for the manifest."""
    trainer, timer = context.trainer, context.timer
    if context.config.trainer.strategy == "fsdp":
        _, context.task = build(context.config)  # a whole model, for the best weights
        trainer.precision_plugin.convert_module(context.task)
    best = load_best(context.task, run_dir)
    verdict = apply_gate(context, best, run_dir)
    collects = context.task.saves_predictions and trainer.world_size == 1
    test_metrics = run_test(trainer, context.task, context.data, context.test_predictions if collects else None)
    state = best["callbacks"][context.checkpointer.state_key]  # at the validation that found these weights
    return {
        **timer.summary(),
        "monitor": context.task.monitor,
        "best_epoch": state["best_epoch"] + 1,
        "metrics": {**state["best_metrics"], **test_metrics},
        **verdict,
        "weights_sha256": weights_sha256(best["state_dict"]),
    }


def apply_gate(context: TrainingContext, best: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """Of weights that were tuned to corrections and those that they began with, keep the better ones as the best.

    Returns:
        The verdict for the manifest; empty if the run needs none.
    """
    if not needs_gate(context.data):
        return {}
    initial = read_checkpoint(run_dir / "checkpoints" / INIT)
    verdict = judge(context.task, context.data, initial["state_dict"])
    if not verdict["passed"]:
        best["state_dict"] = initial["state_dict"]
        best["callbacks"][context.checkpointer.state_key]["best_metrics"] = {}  # which are those of the new weights
        write_checkpoint(best, run_dir / "checkpoints" / BEST)
    print(describe_verdict(verdict, initial["init_from"]["path"]), flush=True)
    return {"gate": verdict}


def finish_run(context: TrainingContext, run_dir: Path, manifest: dict[str, Any]) -> list[Sample]:
    """Write the finished manifest, the predictions and the figures, and return the samples to print."""
    write_manifest(run_dir, {**manifest, "status": "evaluated"})
    precision = make_precision(context.config.trainer.precision, context.task.device)
    batches = [predictions.cpu() for predictions in context.test_predictions]
    save_predictions(context.task, context.data, run_dir, "test", batches=batches, precision=precision)
    is_fold = OmegaConf.select(context.config, "dataset.fold") is not None  # all of which are put together
    if makes_page(context, manifest) or is_fold:  # the temperature of the page's calibration is fitted on them
        save_predictions(context.task, context.data, run_dir, "val", precision=precision)
    with Progress("drawing figures"):
        samples = save_figures(run_dir, context.task, context.data, precision)
    write_manifest(run_dir, {**manifest, "status": "finished"})
    if makes_page(context, manifest):
        save_page(context, run_dir)
    return samples


def makes_page(context: TrainingContext, manifest: dict[str, Any]) -> bool:
    """Return whether the run ends with a page: if it is asked for, and there is a result."""
    is_result = "test/loss" in manifest["metrics"] and "trial" not in manifest
    return is_result and context.config.get("report", "none") == "short"


def save_page(context: TrainingContext, run_dir: Path) -> None:
    """Write the short page of a run."""
    from patchwork.report.build import write_short_page
    from patchwork.runs.page import describe_run, saved_inputs

    inputs = saved_inputs(run_dir, context.task, context.data)
    write_short_page(describe_run(run_dir, context.config, read_manifest(run_dir)), inputs)


@contextmanager
def record_outcome(context: TrainingContext, run_dir: Path, manifest: dict[str, Any]) -> Iterator[None]:
    """Write the status of a run that fails into its manifest, and close the loggers with the exit code.

    Raises:
        Interrupted: with the run in its message, if a signal stopped it.
    """
    code = 0
    try:
        yield
    except BaseException as error:
        code = exit_code(error)
        status = f"{type(error).__name__}: {one_line(error)}"
        with suppress(ResourceError):  # the error of the run matters more
            write_manifest(run_dir, {**manifest, **context.timer.summary(), "status": status})
        if isinstance(error, Interrupted) and not error.hint:  # not at a step whose state was saved
            raise Interrupted(error.signum, f"; {shell_override('resume', str(run_dir))} continues it") from None
        raise
    finally:
        for logger in context.trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.finish(code)

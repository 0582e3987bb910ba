"""The life of a training: check → build → fit → test → predict → report.

A run is its directory: `config.yaml` (resolved), `manifest.json`, `metrics.csv`, `checkpoints/`, `predictions/` and
`figures/`.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from patchwork.core.atomic import write_bytes
from patchwork.core.errors import exit_code, one_line
from patchwork.core.job import update_job_status
from patchwork.core.rank import is_rank_zero
from patchwork.core.schema import check_config
from patchwork.data import BaseDataModule
from patchwork.runs.build import build, check_loggers, instantiate_group, preserve_rng
from patchwork.runs.manifest import check_dataset, make_manifest, merge_manifest, read_manifest, write_manifest
from patchwork.runs.predictions import save_predictions
from patchwork.runs.rendezvous import Rendezvous, check_processes
from patchwork.runs.report import print_report, save_figures
from patchwork.runs.run import Run, load_best, run_test
from patchwork.runs.run_dir import CONFIG_FILE, find_run, lock, make_run_dir, runs_root
from patchwork.tasks import Sample, Task
from patchwork.training.checkpoint_io import LAST, backup_path, remove_partial_files, weights_sha256
from patchwork.training.checkpointing import Checkpointer
from patchwork.training.fsdp import check_fsdp
from patchwork.training.loggers import RunLogger
from patchwork.training.loss_logger import LossLogger
from patchwork.training.seeding import SeedEveryStep
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
class Session:
    """The objects of a training in this process."""

    config: DictConfig
    data: BaseDataModule
    task: Task
    trainer: Trainer
    timer: RunTimer
    checkpointer: Checkpointer
    logger_factories: list[Any]


def train(config: DictConfig, launch: Launch | None = None) -> Run:
    """Train a configuration, or resume a run, and return the run with its best weights.

    The random state of the caller is left as it is.

    Raises:
        PatchworkError: its kind says what is wrong. Nothing is written before everything is checked.
    """
    with preserve_rng():
        check_config(config)
        rendezvous = Rendezvous.join()
        with rendezvous.propagate_errors():
            return train_rank(config, launch or Launch(), rendezvous)


def train_rank(config: DictConfig, launch: Launch, rendezvous: Rendezvous) -> Run:
    """Train as one of the processes that were started to train a run, which is mostly the only one."""
    rendezvous.receive_run_dir()
    run_config, run_dir = find_run(config, launch.overrides)
    if run_dir is not None and read_manifest(run_dir).get("status") == "finished":
        rendezvous.broadcast_run_dir(run_dir)
        if is_rank_zero():
            update_job_status(run_dir=str(run_dir))
            print(f"{run_dir} is already finished; nothing to resume.")
        return Run.load(run_dir)
    session = prepare(run_config, launch, rendezvous)
    run_dir = run_dir or make_run_dir(config.run_dir, runs_root(run_config))
    with lock(run_dir):
        manifest = open_run_dir(session, run_dir, launch)
        rendezvous.broadcast_run_dir(run_dir)
        manifest = start_loggers(session, run_dir, manifest)
        with record_outcome(session, run_dir, manifest):
            rendezvous.barrier()
            fit(session, run_dir)
            manifest |= test(session, run_dir)
            samples = save_results(session, run_dir, manifest) if is_rank_zero() else []
    if is_rank_zero():
        print_report(run_dir, manifest, samples)
    return Run(run_dir, run_config, read_manifest(run_dir), session.task.eval(), session.data)


def prepare(config: DictConfig, launch: Launch, rendezvous: Rendezvous) -> Session:
    """Build everything and check that it can be trained here; nothing is written."""
    check_accelerator(config.trainer.accelerator, config.trainer.devices)
    data, task = build(config)
    if config.trainer.strategy == "fsdp":
        check_fsdp(config, task)
    timer, checkpointer = RunTimer(launch.start_time), Checkpointer(config.checkpoint_every_seconds)
    callbacks = [
        SeedEveryStep(config.seed),
        timer,
        LossLogger(config.trainer.log_every_n_steps),
        *instantiate_group(config, "callbacks"),
        checkpointer,  # last, so that it saves what the others made of the batch
    ]
    trainer = make_trainer(config, callbacks)
    trainer.precision_plugin.convert_module(task)  # Lightning converts only after weights are read and averages made
    check_processes(config.trainer.strategy, trainer.num_devices, trainer.num_nodes, rendezvous)
    data.check_shards(trainer.num_devices * trainer.num_nodes)
    logger_factories = instantiate_group(config, "logger")
    check_loggers(logger_factories)
    data.prepare_data()
    check_limits(config.trainer, data)
    return Session(config, data, task, trainer, timer, checkpointer, logger_factories)


def open_run_dir(session: Session, run_dir: Path, launch: Launch) -> dict[str, Any]:
    """Write what the run is into its directory, and return its manifest."""
    saved = read_manifest(run_dir)
    check_dataset(saved, session.data)
    new = make_manifest(session.config, session.task, session.data, session.trainer, launch.command)
    manifest = merge_manifest(saved, new)
    if is_rank_zero():
        update_job_status(run_dir=str(run_dir))
        remove_partial_files(run_dir)
        write_bytes(run_dir / CONFIG_FILE, OmegaConf.to_yaml(session.config).encode())
        write_manifest(run_dir, manifest)
    session.checkpointer.checkpoint_dir = run_dir / "checkpoints"
    return manifest


def start_loggers(session: Session, run_dir: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Start the loggers, and return the manifest with what they add to it."""
    config = cast(dict[str, Any], OmegaConf.to_container(session.config))
    loggers: list[RunLogger] = [make_logger(run_dir) for make_logger in session.logger_factories]
    for logger in loggers:
        logger.start(config, manifest)
        manifest = {**manifest, **logger.manifest_entry()}
    session.trainer.loggers = [*loggers]
    write_manifest(run_dir, manifest)
    return manifest


def fit(session: Session, run_dir: Path) -> None:
    """Train from the start, or from the latest checkpoint if there is one."""
    latest = session.checkpointer.checkpoint_dir / LAST
    resumable = latest.exists() or backup_path(latest).exists()
    with translate_lightning_errors():
        session.trainer.fit(session.task, session.data, ckpt_path=latest if resumable else None, weights_only=True)


def test(session: Session, run_dir: Path) -> dict[str, Any]:
    """Load the best weights, measure the test split, and return the results for the manifest."""
    trainer, timer = session.trainer, session.timer
    if session.config.trainer.strategy == "fsdp":
        _, session.task = build(session.config)  # a whole model, for the best weights
        trainer.precision_plugin.convert_module(session.task)
    best = load_best(session.task, run_dir)
    test_metrics = run_test(trainer, session.task, session.data)
    state = best["callbacks"][session.checkpointer.state_key]  # at the validation that found these weights
    return {
        **timer.summary(),
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
        "monitor": session.task.monitor,
        "best_epoch": state["best_epoch"] + 1,
        "metrics": {**state["best_metrics"], **test_metrics},
        "weights_sha256": weights_sha256(best["state_dict"]),
    }


def save_results(session: Session, run_dir: Path, manifest: dict[str, Any]) -> list[Sample]:
    """Write the finished manifest, the predictions and the figures, and return the samples to print."""
    write_manifest(run_dir, {**manifest, "status": "evaluated"})
    save_predictions(session.task, session.data, run_dir, "test")
    samples = save_figures(run_dir, session.task, session.data)
    write_manifest(run_dir, {**manifest, "status": "finished"})
    return samples


@contextmanager
def record_outcome(session: Session, run_dir: Path, manifest: dict[str, Any]) -> Iterator[None]:
    """Write the status of a run that fails into its manifest, and close the loggers with the exit code."""
    code = 0
    try:
        yield
    except BaseException as error:
        code = exit_code(error)
        status = f"{type(error).__name__}: {one_line(error)}"
        write_manifest(run_dir, {**manifest, **session.timer.summary(), "status": status})
        raise
    finally:
        for logger in session.trainer.loggers:
            if isinstance(logger, RunLogger):
                logger.finish(code)

"""The life of a run: build it, keep it, load it again.

A run is its folder: `config.yaml` (resolved), `manifest.json`, `metrics.csv`, `checkpoints/` and `figures/`. `train`
makes one from a configuration, or goes on with one; `Run.load` gives its model, data and configuration back.
"""

import ctypes
import logging
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
from annotated_types import Gt, Le
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, StringConstraints
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from patchwork import STARTED
from patchwork.callbacks import Checkpoints, Clock, Seeds, TrainingLog
from patchwork.checkpoints import (
    BEST,
    LAST,
    SafeCheckpointIO,
    previous,
    read_latest,
    sweep,
    weights_sha256,
)
from patchwork.config import check
from patchwork.data import Part, Stream
from patchwork.errors import ConfigError, DataError, PatchworkError, ResourceError, exit_code, one_line
from patchwork.files import write_bytes
from patchwork.folder import (
    CONFIG,
    chosen,
    find_run,
    lock,
    new_folder,
    read_config,
    read_manifest,
    write_manifest,
)
from patchwork.multirun import note
from patchwork.processes import Team, check_processes, main_process
from patchwork.sharding import Sharded, check_sharded
from patchwork.tasks import Sample, Task

PARTS: tuple[Part, ...] = ("train", "val", "test")
PACKAGES = ("torch", "pytorch-lightning", "torchmetrics", "hydra-core", "omegaconf", "numpy")


Share = Annotated[float, Gt(0), Le(1)]
Batches = PositiveInt | Share  # a number of batches, or a share of them all


class Trainer(pl.Trainer):
    """Lightning's Trainer with the settings that a configuration chooses; its documentation explains each."""

    def __init__(
        self,
        *,
        accelerator: str,
        devices: PositiveInt | list[NonNegativeInt] | Literal["auto"],
        num_nodes: PositiveInt = 1,
        strategy: Literal["auto", "ddp", "fsdp"],
        precision: Literal["32-true", "bf16-mixed", "64-true"],
        deterministic: bool | Literal["warn"] | None,
        max_epochs: PositiveInt,
        max_steps: PositiveInt | Literal[-1],
        max_time: Annotated[str, StringConstraints(pattern=r"^\d+:\d\d:\d\d:\d\d$")] | None,
        gradient_clip_val: PositiveFloat | None,
        accumulate_grad_batches: PositiveInt,
        val_check_interval: Share,
        check_val_every_n_epoch: PositiveInt,
        limit_train_batches: Batches,
        limit_val_batches: Batches,
        limit_test_batches: Batches,
        log_every_n_steps: PositiveInt,
        profiler: Literal["simple", "advanced"] | None,
    ) -> None:
        settings = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        if strategy == "fsdp":
            settings["strategy"] = Sharded()
        super().__init__(
            **settings,
            plugins=[SafeCheckpointIO()],
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            inference_mode=strategy != "fsdp",  # in which no tensor can be made that training goes on with
        )


@dataclass
class Run:
    """A run that was kept: what is needed to use its model, or to evaluate it again."""

    folder: Path
    config: DictConfig
    manifest: dict[str, Any]
    task: Task
    data: Stream

    @property
    def model(self) -> nn.Module:
        return self.task.model

    @classmethod
    def load(cls, folder: str | Path) -> "Run":
        """Build the run in `folder` again, with its best weights; its data is read when first used.

        Raises:
            DataError: if the folder holds no run, or a damaged one.
            ConfigError: if its configuration is not one of this package, as when it names a target outside of it.
        """
        folder = Path(folder)
        config = read_config(folder)
        data, task = build(config)
        load_best(task, folder)
        return cls(folder, config, read_manifest(folder), task.eval(), data)

    def evaluate(self) -> dict[str, float]:
        """Measure the test split again, and return its metrics by name.

        Raises:
            DataError: if the digits found here are not those of the run.
        """
        self.data.prepare_data()
        same_digits(self.manifest, self.data)
        config = self.config.copy()
        config.trainer.devices, config.trainer.num_nodes, config.trainer.strategy = 1, 1, "auto"
        if not there().get(config.trainer.accelerator):
            config.trainer.accelerator = "auto"
        return test(make_trainer(config, []), self.task, self.data)


def train(config: DictConfig) -> None:
    """Train as the configuration says: check → build → fit → test → report.

    Raises:
        PatchworkError: its kind says what is at fault. Nothing is written before everything is known to fit.
    """
    check(config)
    team = Team.meet()
    with team.starting():
        train_together(config, team)


def train_together(config: DictConfig, team: Team) -> None:
    """Train as one of the processes that were started to train a run: mostly, as the only one."""
    team.follow()
    config, folder, wanted = *find_run(config), config.folder
    if folder and read_manifest(folder).get("status") == "finished":
        team.share(folder)
        if main_process():
            note(folder=str(folder))
            print(f"{folder} is finished: there is nothing to go on with.")
        return
    check_accelerator(config.trainer.accelerator, config.trainer.devices)
    data, task = build(config)
    sharded = config.trainer.strategy == "fsdp"
    if sharded:
        check_sharded(config, task)
    clock, checkpoints = Clock(STARTED), Checkpoints(config.save_seconds)
    watchers = [Seeds(config.seed), clock, TrainingLog(config.trainer.log_every_n_steps)]
    # checkpoints come last, so that what they save holds what the others made of the batch
    trainer = make_trainer(config, [*watchers, *parts(config, "callbacks"), checkpoints])
    trainer.precision_plugin.convert_module(task)  # Lightning would do so only after weights are read and averages made
    check_processes(config.trainer.strategy, trainer.num_devices, trainer.num_nodes, team)
    data.check_shards(trainer.num_devices * trainer.num_nodes)
    loggers = parts(config, "logger")
    check_loggers(loggers)
    data.prepare_data()
    check_limits(config.trainer, data)

    folder = folder or new_folder(wanted)
    keep_lock = lock(folder)
    same_digits(read_manifest(folder), data)
    manifest = continued(read_manifest(folder), describe(config, task, data, trainer))
    start(folder, config, manifest)
    team.share(folder)
    checkpoints.folder = folder / "checkpoints"
    trainer.loggers = [make_logger(folder) for make_logger in loggers]
    for logger in trainer.loggers:
        manifest |= logger.about() if main_process() and hasattr(logger, "about") else {}
    write_manifest(folder, manifest)
    latest = checkpoints.folder / LAST
    resumable = latest.exists() or previous(latest).exists()
    with ended(trainer, folder, manifest, clock):
        team.agree()
        with lightning_faults():
            trainer.fit(task, data, ckpt_path=latest if resumable else None, weights_only=True)
        if sharded:
            _, task = build(config)  # a whole one, for the best weights
            trainer.precision_plugin.convert_module(task)
        best = load_best(task, folder)
        measured = test(trainer, task, data)
        chosen = best["callbacks"][checkpoints.state_key]  # what was known when these weights were kept
        manifest |= {
            **clock.figures(),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "monitor": task.monitor,
            "best_epoch": chosen["best_epoch"] + 1,
            "metrics": {**chosen["best_metrics"], **measured},
            "weights_sha256": weights_sha256(best["state_dict"]),
        }
        if main_process():
            write_manifest(folder, {**manifest, "status": "measured"})
            try:
                samples = draw(folder, task, data)
            except OSError as error:
                raise ResourceError(f"{folder / 'figures'} cannot be written: {error.strerror}") from error
            write_manifest(folder, {**manifest, "status": "finished"})
    if main_process():
        tell(folder, manifest, samples)
    keep_lock.close()


@contextmanager
def ended(trainer: pl.Trainer, folder: Path, manifest: dict[str, Any], clock: Clock) -> Iterator[None]:
    """Put down how the run ended, if not well, and tell the loggers that send what they log elsewhere."""
    code = 0
    try:
        yield
    except BaseException as error:
        code = exit_code(error)
        write_manifest(folder, {**manifest, **clock.figures(), "status": f"{type(error).__name__}: {one_line(error)}"})
        raise
    finally:
        for logger in trainer.loggers:
            if hasattr(logger, "end"):
                logger.end(code)


def build(config: DictConfig) -> tuple[Stream, Task]:
    """Make the data module, which reads nothing yet, and the task with its model; the seed decides the weights.

    Raises:
        ConfigError: if values do not fit together.
    """
    pl.seed_everything(config.seed, verbose=False)
    try:
        data, task = instantiate(config.data, _convert_="all"), instantiate(config.task, _convert_="all")
        task.optimizer(task.model)  # its faults are found now, not at the first step
        if lacking := [name for name in task.needs if name not in data.gives]:
            raise ConfigError(
                f"data={type(data).__name__} does not fit task={type(task).__name__}: its batches hold no "
                f"{', '.join(lacking)}"
            )
        return data, task
    except ValueError as error:
        raise ConfigError(f"optimizer: {one_line(error)}") from error
    except InstantiationException as error:
        cause = error.__cause__
        if isinstance(cause, ValueError) and not isinstance(cause, PatchworkError):
            key = re.search(r"full_key: (\S+)", str(error))
            name = key[1].removeprefix("task.") if key else "configuration"
            raise ConfigError(f"{name}: {one_line(cause)}") from error
        raise cause or error from None


def parts(config: DictConfig, group: str) -> list[Any]:
    """Make all that a group lists by name, but for those set to null."""
    nodes = config[group] or {}
    return [instantiate(nodes[name], _convert_="all") for name in nodes if nodes[name] is not None]


def make_trainer(config: DictConfig, callbacks: list[pl.Callback]) -> Trainer:
    """Make the Trainer, which logs nowhere yet.

    Raises:
        ConfigError: if it refuses its settings.
    """
    keep_memory()
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)  # their notices are advertisements and hints
    warnings.filterwarnings("ignore", module="pytorch_lightning|torchmetrics|torch")
    with lightning_faults():
        trainer = instantiate(config.trainer, _convert_="all")
    trainer.callbacks = [*trainer.callbacks, *callbacks]
    return trainer


def keep_memory() -> None:
    """Ask glibc to keep freed memory for the next step: returning it and taking it back costs a step 10 to 20 %."""
    m_trim_threshold, m_mmap_threshold = -1, -3
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(m_mmap_threshold, 1 << 30)
        libc.mallopt(m_trim_threshold, (1 << 31) - 1)


@contextmanager
def lightning_faults() -> Iterator[None]:
    """Tell what Lightning finds wrong with the settings as a `ConfigError`."""
    try:
        yield
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        raise DataError(f"the checkpoint to go on from is of another model: {one_line(error)[:200]}") from error
    except (MisconfigurationException, InstantiationException) as error:
        cause = error.__cause__ or error
        if isinstance(cause, MisconfigurationException | ValueError | TypeError):
            raise ConfigError(f"trainer: {one_line(cause)}") from error
        raise


def check_accelerator(name: str, devices: Any) -> None:
    """Check that the accelerator is there, and that the processor is not asked for more processes than it has cores.

    Raises:
        ResourceError: if it is not on this machine.
        ConfigError: if there is none of that name.
    """
    cores = os.cpu_count() or 1
    gpu = name in ("cuda", "mps", "gpu") or torch.cuda.is_available() or torch.backends.mps.is_available()
    if not gpu and isinstance(devices, int) and devices > max(2, cores):
        raise ResourceError(f"trainer.devices={devices} is more than this machine has: use up to {max(2, cores)}")
    usable = ", ".join(name for name, found in there().items() if found)
    if name not in there():
        raise ConfigError(f"trainer.accelerator={name} is not known: use one of {usable}")
    if not there()[name]:
        raise ResourceError(f"trainer.accelerator={name} is not there on this machine: use one of {usable}")


def there() -> dict[str, bool]:
    """Return all accelerators by name, and whether this machine has them."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    return {"auto": True, "cpu": True, "cuda": cuda, "mps": mps, "gpu": cuda or mps}


def check_loggers(loggers: list[Any]) -> None:
    """Raise a `ConfigError` if a logger needs a package that is not installed."""
    for make_logger in loggers:
        package = getattr(make_logger.func, "package", None)
        if package and find_spec(package) is None:
            raise ConfigError(f"logger={package} needs the package {package}, which is not installed")


def check_limits(settings: DictConfig, data: Stream) -> None:
    """Raise a `ConfigError` if a share of an epoch's batches is none of them."""
    for part in PARTS:
        key, batches = f"limit_{part}_batches", data.length(part)
        share = settings[key]
        left = min(share, batches) if isinstance(share, int) else int(share * batches)
        if left and part == "train":
            key, share, batches = "val_check_interval", settings.val_check_interval, left
            left = int(share * batches)
        if not left:
            raise ConfigError(f"trainer.{key}={share} of {batches} batches is none: use a larger share, 1.0 for all")


def load_best(task: Task, folder: Path) -> dict[str, Any]:
    """Load the best weights of a run, or the latest if it never validated, and return the checkpoint they are from.

    Raises:
        DataError: if there are none, or they belong to another model.
    """
    best, last = folder / "checkpoints" / BEST, folder / "checkpoints" / LAST
    validated = best.exists() or previous(best).exists()
    path = best if validated else last
    checkpoint = read_latest(path)
    weights = checkpoint.get("state_dict")
    if not isinstance(weights, dict):
        raise DataError(f"checkpoint {path} is damaged or foreign: it holds no state_dict")
    try:
        task.load_state_dict(weights)
    except RuntimeError as error:
        raise DataError(f"checkpoint {path} is of another model: {one_line(error)[:200]}") from error
    return checkpoint


def test(trainer: Trainer, task: Task, data: Stream) -> dict[str, float]:
    """Measure the test split once, and return its metrics by name."""
    (measured,) = trainer.test(task, data, verbose=False)
    return {name: round(value, 6) for name, value in measured.items() if name.startswith("test/")}


def same_digits(manifest: dict[str, Any], data: Stream) -> None:
    """Raise a `DataError` if the source found now has other contents than the run's."""
    if manifest.get("data_digest", data.source.digest) != data.source.digest:
        raise DataError(
            f"digits={data.source.name} here, but the run was made with others, digits={manifest.get('digits')} "
            f"(data_digest {manifest['data_digest'][:12]}…): put those where they can be found"
        )


def continued(earlier: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a run that begins, or that goes on: where and how it first began stays what it was."""
    if not earlier:
        return {**now, "status": "running"}
    session = {key: now[key] for key in ("command", "commit", "versions", "hardware")}
    return {**now, **earlier, "resumed": [*earlier.get("resumed", []), session], "status": "running"}


def describe(config: DictConfig, task: Task, data: Stream, trainer: pl.Trainer) -> dict[str, Any]:
    """Say what a run is and where it was made, as its manifest does."""
    task_name, model_name = chosen()
    device = trainer.strategy.root_device
    return {
        "task": task_name,
        "model": model_name,
        "seed": config.seed,
        "digits": data.source.name,
        "data_digest": data.source.digest,
        "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
        "command": shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "commit": commit(),
        "hardware": {
            "machine": platform.machine(),
            "system": platform.system(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "devices": trainer.num_devices * trainer.num_nodes,
        },
    }


def commit() -> str | None:
    """Return the commit that this package is at, with a + if anything is changed or new; None if it is not in git."""

    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()

    try:
        known = ask("rev-parse", "--verify", "HEAD")
        return known + ("+" if ask("status", "--porcelain") else "") if known else None
    except OSError:
        return None


def start(folder: Path, config: DictConfig, manifest: dict[str, Any]) -> None:
    """Put down what the run is before it begins."""
    if main_process():
        note(folder=str(folder))
        sweep(folder)
        write_bytes(folder / CONFIG, OmegaConf.to_yaml(config).encode())
        write_manifest(folder, manifest)


def draw(folder: Path, task: Task, data: Stream) -> list[Sample]:
    """Draw the run's figures, and return predictions of the test split to show."""
    from patchwork.figures.curves import curves
    from patchwork.figures.samples import picture

    batch = next(iter(data.test_dataloader()))
    batch = {name: values[:24].to(task.device) for name, values in batch.items()}
    precise = next(task.parameters()).dtype
    batch = {name: values.to(precise) if values.is_floating_point() else values for name, values in batch.items()}
    samples = task.eval().samples(batch, 24)
    if (folder / "metrics.csv").exists():
        curves(folder / "metrics.csv", folder / "figures" / "curves.png", monitor=task.monitor, mode=task.mode)
    if samples:
        picture(samples, folder / "figures" / "samples.png", title=f"{type(task).__name__} {task.pictured}")
    return samples


def tell(folder: Path, manifest: dict[str, Any], samples: list[Sample]) -> None:
    """Print the held-out result, a few predictions and where everything is."""
    from patchwork.figures.braille import render

    if samples:
        print(render(samples[:5], color=sys.stdout.isatty(), width=shutil.get_terminal_size((120, 24)).columns))
    epoch = manifest["best_epoch"]
    weights = f"the weights of epoch {epoch}" if epoch else "the last weights, as there was no validation"
    print(f"held-out result on {manifest['digits']}, by {weights}:")
    groups: dict[str, list[str]] = {}
    for name, value in sorted(manifest["metrics"].items(), key=lambda item: item[0].count("/")):
        if name.startswith("test/"):
            title, _, part = name.removeprefix("test/").partition("/")
            groups.setdefault(title, []).append(f"{part} {value:.4f}".strip())
    for title, values in groups.items():
        print(f"  {'test/' + title:<24} {' · '.join(values)}")
    print(f"trained {manifest['train_seconds']:.0f} s, {manifest['parameters']:,} parameters, seed {manifest['seed']}")
    print(f"kept in {folder}")

"""Where metrics are logged: metrics.csv, TensorBoard and Weights & Biases."""

import csv
import io
import os
import shlex
from collections.abc import Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import StrictStr
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from patchwork.core.atomic import write_bytes
from patchwork.core.errors import ConfigError, one_line
from patchwork.core.mappings import flatten
from patchwork.core.rank import is_rank_zero

CONNECT_TIMEOUT = 8.0  # seconds to wait for a server of Weights & Biases
UPLOAD_TIMEOUT = 60.0  # seconds to wait at the end for what is not yet sent


class RunLogger(Logger):
    """A logger of a run: what a run asks of it beyond Lightning's interface, by default nothing.

    A configuration makes it from the run directory alone: `logger(run_dir)`. It reads nothing there.
    """

    package: ClassVar[str | None] = None  # to be installed for it

    def start(self, config: dict[str, Any], manifest: dict[str, Any]) -> None:
        """Start logging, in every process, before the fit.

        Args:
            config: the configuration of the run.
            manifest: its manifest; of a resumed run, with the entries that this logger made.
        """

    def manifest_entry(self) -> dict[str, Any]:
        """Return what the manifest of the run says about this logger, once it is started."""
        return {}

    def finish(self, exit_code: int) -> None:
        """Close the logger, however the run ended."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state to save in checkpoints."""
        return {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the state of a checkpoint."""


class CSVMetricsLogger(RunLogger):
    """Log to `metrics.csv` in the run directory: one row per step, one column per metric, blank if there is no value.

    Unlike Lightning's `CSVLogger`, it keeps the whole table in every checkpoint, so that a resumed run ends with the
    same file as an uninterrupted one. Nothing in it depends on the clock.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.path = run_dir / "metrics.csv"
        self.rows: dict[int, dict[str, float]] = {}  # metrics by step
        self.changed = False  # since the file was written

    name = "metrics"
    version = ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml in the run directory has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = self.rows.setdefault(int(step or 0), {"epoch": float(metrics["epoch"])})
        row.update({name: float(value) for name, value in metrics.items() if name != "epoch"})
        self.changed = True

    @rank_zero_only
    def save(self) -> None:
        """Write the table atomically, if it has changed."""
        if not self.changed:
            return
        columns = list(dict.fromkeys(name for row in self.rows.values() for name in row if name != "epoch"))
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(["epoch", "step", *columns])
        for step in sorted(self.rows):
            row = self.rows[step]
            values = [f"{row[name]:.8g}" if name in row else "" for name in columns]
            writer.writerow([int(row["epoch"]), step, *values])
        write_bytes(self.path, buffer.getvalue().encode())
        self.changed = False

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.rows = {step: dict(row) for step, row in state_dict["rows"].items()}
        self.changed = True


class TensorBoardRunLogger(TensorBoardLogger, RunLogger):
    """Log to TensorBoard files in the run directory's `tensorboard`, with the configuration as hyperparameters.

    A resumed run tells TensorBoard to forget the steps that it takes again.
    """

    package = "tensorboard"

    def __init__(self, run_dir: Path) -> None:
        super().__init__(save_dir=run_dir, name="tensorboard", version="")
        self.last_step = -1  # that was logged
        self.purged = False  # whether this process has said from which step on it logs

    @rank_zero_only
    def start(self, config: dict[str, Any], manifest: dict[str, Any]) -> None:
        """Log the configuration, unless the run is resumed and has done so."""
        from torch.utils.tensorboard.summary import hparams

        if "resumed" in manifest:
            return
        flat = {key: value for key, value in flatten(config).items() if not key.rpartition(".")[2].startswith("_")}
        values = {key: value if isinstance(value, bool | int | float) else str(value) for key, value in flat.items()}
        for summary in hparams(values, {config["task"]["monitor"]: 0.0}):  # the metric is named, its value not logged
            self.experiment._get_file_writer().add_summary(summary)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if not self.purged:
            self.purge(self.last_step + 1)
        self.last_step = max(self.last_step, int(step or 0))
        super().log_metrics(dict(metrics), step)

    def purge(self, first_step: int) -> None:
        """Let TensorBoard ignore what earlier processes of the run logged of `first_step` and those after it."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        event = Event(step=first_step, session_log=SessionLog(status=SessionLog.START))
        self.experiment._get_file_writer().add_event(event, step=first_step)
        self.purged = True

    def state_dict(self) -> dict[str, Any]:
        return {"last_step": self.last_step}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.last_step = state_dict.get("last_step", self.last_step)


class WandbRunLogger(WandbLogger, RunLogger):
    """Log to Weights & Biases, with files in the run directory's `wandb`.

    What is not given here is taken from the environment, as WANDB_PROJECT, WANDB_NAME and WANDB_TAGS. If there is no
    API key or the server cannot be reached, the run is logged offline; `wandb sync` sends it later. The x-axis is
    `trainer/global_step`. A resumed run continues under the id and in the project of its manifest.

    Args:
        run_dir: of the run; its last component is the name of the run there, unless WANDB_NAME is set.
        project: to log to, otherwise that of the environment, or patchwork.
        entity: user or team that owns the project.
        group: of runs that belong together.
        job_type: kind of the run.
        tags: of the run.
        notes: a description of the run.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        project: StrictStr | None = None,
        entity: StrictStr | None = None,
        group: StrictStr | None = None,
        job_type: StrictStr | None = None,
        tags: list[StrictStr] | None = None,
        notes: StrictStr | None = None,
    ) -> None:
        mode = environment_mode()
        self.offline_reason = (
            "WANDB_MODE=offline" if mode == "offline" else offline_reason() if mode == "online" else None
        )
        given = {"entity": entity, "group": group, "job_type": job_type, "tags": tags, "notes": notes}
        super().__init__(
            name=os.environ.get("WANDB_NAME") or run_dir.name,
            save_dir=os.environ.get("WANDB_DIR") or run_dir,
            project=project or os.environ.get("WANDB_PROJECT") or "patchwork",
            settings={"init_timeout": CONNECT_TIMEOUT, "finish_timeout": UPLOAD_TIMEOUT, "quiet": True},
            mode="offline" if self.offline_reason else "disabled" if mode == "disabled" else None,
        )
        self._wandb_init.update({key: value for key, value in given.items() if value is not None})
        del self._wandb_init["anonymous"]  # of which the client warns whatever it is
        if "WANDB_SWEEP_ID" in os.environ:  # the sweep has a project and an owner
            self._wandb_init.update(project=None, entity=None)

    @rank_zero_only
    def start(self, config: dict[str, Any], manifest: dict[str, Any]) -> None:
        """Start the run on the server, or offline if there is a reason to or the server refuses it."""
        from wandb.errors import Error

        entry = manifest.get("wandb", {})
        self._wandb_init.update(config=config, id=entry.get("id"))
        self._wandb_init.update({key: entry[key] for key in ("project", "entity") if entry.get(key)})
        try:
            self.connect()
        except Error as error:
            self.offline_reason = one_line(error)[:120]
            self._wandb_init["mode"] = "offline"
            self.connect()
        if self.offline_reason:
            sync = f"wandb sync {shlex.quote(str(self.save_dir))}/wandb/*run-*"
            print(f"logger=wandb: {self.offline_reason}, so the run is logged offline; later: {sync}", flush=True)

    def connect(self) -> None:
        """Start the run of the client, which says nothing itself of a run that is logged offline."""
        self._wandb_init["settings"]["silent"] = self._wandb_init["mode"] == "offline"
        _ = self.experiment

    def manifest_entry(self) -> dict[str, Any]:
        """Return the id, project, owner, name and URL of the run."""
        if not is_rank_zero():
            return {}
        run = self.experiment
        if run.disabled:
            return {}
        entry = {"id": run.id, "project": run.project, "entity": run.entity or None, "name": run.name}
        return {"wandb": {**entry, "url": None if run.offline else run.url}}

    @rank_zero_only
    def finish(self, exit_code: int) -> None:
        """Send what is left, and the exit code."""
        self.experiment.finish(exit_code=exit_code)


def environment_mode() -> str:
    """Return whether the environment wants runs online, offline, disabled or shared.

    Raises:
        ConfigError: if it wants something else.
    """
    if os.environ.get("WANDB_DISABLED", "").lower() not in ("", "0", "false"):  # which the client itself does not read
        return "disabled"
    mode = os.environ.get("WANDB_MODE") or "online"
    mode = {"dryrun": "offline", "run": "online"}.get(mode, mode)
    if mode not in ("online", "offline", "disabled", "shared"):
        raise ConfigError(f"WANDB_MODE={mode} is not allowed: use online, offline or disabled")
    return mode


def offline_reason() -> str | None:
    """Return why runs cannot be logged online; None if they can."""
    if not (os.environ.get("WANDB_API_KEY") or has_api_key()):
        return "no API key was found"
    import requests

    try:
        requests.get(base_url(), timeout=CONNECT_TIMEOUT / 4)
    except requests.RequestException:
        return f"{base_url()} cannot be reached"
    return None


def base_url() -> str:
    """Return the URL of the server."""
    from wandb import Settings

    return os.environ.get("WANDB_BASE_URL") or Settings().base_url


def has_api_key() -> bool:
    """Return whether `wandb login` has saved a key for the server."""
    try:
        return netrc(os.environ.get("NETRC")).authenticators(urlsplit(base_url()).hostname or "") is not None
    except (OSError, NetrcParseError):
        return False

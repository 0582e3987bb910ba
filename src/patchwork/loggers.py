"""Where metrics go: a table in the run's folder, and beside it what one likes to look at them with."""

import csv
import io
import os
from collections.abc import Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from omegaconf import OmegaConf
from pydantic import StrictStr
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from patchwork.errors import one_line
from patchwork.files import write_bytes
from patchwork.folder import read_config, read_manifest
from patchwork.processes import main_process

PATIENCE, SENDING = 8.0, 60.0  # seconds to wait for a server of Weights & Biases, and to send what is left in the end


class MetricsTable(Logger):
    """`metrics.csv` in a run's folder: one row a step, one column a metric, blank where it was not measured.

    The table is kept whole in memory and in every checkpoint, so that a resumed run ends with the same file as one
    that was never interrupted; it holds nothing that depends on the clock.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.path = folder / "metrics.csv"
        self.rows: dict[int, dict[str, float]] = {}
        self.changed = False

    name = "metrics"
    version = ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the run's config.yaml has them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = self.rows.setdefault(int(step or 0), {"epoch": float(metrics["epoch"])})
        row.update({name: float(value) for name, value in metrics.items() if name != "epoch"})
        self.changed = True

    @rank_zero_only
    def save(self) -> None:
        """Write the table, in one step."""
        if not self.changed:
            return
        names = {name: None for row in self.rows.values() for name in row if name != "epoch"}
        buffer = io.StringIO()
        table = csv.writer(buffer, lineterminator="\n")
        table.writerow(["epoch", "step", *names])
        for step in sorted(self.rows):
            row = self.rows[step]
            values = [f"{row[name]:.8g}" if name in row else "" for name in names]
            table.writerow([int(row["epoch"]), step, *values])
        write_bytes(self.path, buffer.getvalue().encode())
        self.changed = False

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rows = {step: dict(row) for step, row in state["rows"].items()}
        self.changed = True


class TensorBoard(TensorBoardLogger):
    """TensorBoard's files, in the run's folder `tensorboard`."""

    package = "tensorboard"

    def __init__(self, folder: Path) -> None:
        super().__init__(save_dir=folder, name="tensorboard", version="")


class Wandb(WandbLogger):
    """Weights & Biases, in the run's folder `wandb`; offline where its server cannot be had, for `wandb sync` to send.

    The axis is `trainer/global_step`. A run that is resumed goes on under the id that its manifest has.
    """

    def __init__(self, folder: Path, *, project: StrictStr) -> None:
        reason = unusable()
        super().__init__(
            name=folder.name,
            save_dir=folder,
            project=project,
            id=read_manifest(folder).get("wandb", {}).get("id"),
            config=OmegaConf.to_container(read_config(folder)),
            settings={"init_timeout": PATIENCE, "finish_timeout": SENDING, "quiet": True},
            mode="offline" if reason else None,
        )
        if main_process():
            self.begin(folder, reason)

    def begin(self, folder: Path, reason: str | None) -> None:
        """Begin the run there; offline if there is a reason, or the server gives one."""
        from wandb.errors import Error

        try:
            _ = self.experiment
        except Error as error:
            reason = one_line(error)[:120]
            self._wandb_init["mode"] = "offline"
        if reason:
            sync = f"wandb sync {folder}/wandb/*run-*"
            print(f"logger=wandb: {reason}, so the run is logged offline; later: {sync}", flush=True)

    def about(self) -> dict[str, Any]:
        """Return what the run's manifest says of it: its id, its name and its link."""
        run = self.experiment
        return {"wandb": {"id": run.id, "name": run.name, "url": None if run.offline else run.url}}

    @rank_zero_only
    def end(self, code: int) -> None:
        """Send what is left, and how the run ended."""
        self.experiment.finish(exit_code=code)


def unusable() -> str | None:
    """Return why runs cannot be logged online, or None if they can, or are not to be."""
    if os.environ.get("WANDB_MODE", "online") != "online":
        return None
    if not (os.environ.get("WANDB_API_KEY") or key_is_kept()):
        return "no key was found"
    import requests

    try:
        requests.get(server(), timeout=PATIENCE / 4)
    except requests.RequestException:
        return f"{server()} cannot be reached"
    return None


def server() -> str:
    from wandb import Settings

    return os.environ.get("WANDB_BASE_URL") or Settings().base_url


def key_is_kept() -> bool:
    """Return whether `wandb login` has left a key for the server."""
    try:
        return netrc(os.environ.get("NETRC")).authenticators(urlsplit(server()).hostname or "") is not None
    except (OSError, NetrcParseError):
        return False

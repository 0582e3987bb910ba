"""Where metrics go: a table in the run's folder, and beside it what one likes to look at them with."""

import csv
import io
import os
from collections.abc import Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import StrictStr
from pytorch_lightning.loggers import Logger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from patchwork.files import write_bytes


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
    """Weights & Biases, in the run's folder `wandb`; offline where there is no key, for `wandb sync` to send later."""

    def __init__(self, folder: Path, *, project: StrictStr) -> None:
        offline = not (os.environ.get("WANDB_API_KEY") or key_is_kept())
        if offline:
            print(
                f"logger=wandb: no key was found, so the run is logged offline; later: wandb sync {folder}/wandb/*run-*"
            )
        super().__init__(name=folder.name, save_dir=folder, project=project, offline=offline)


def key_is_kept() -> bool:
    """Return whether `wandb login` has left a key for the server."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return netrc().authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False

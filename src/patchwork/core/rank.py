"""Which of the processes that train together this is, read from the environment alone: no torch has to be imported."""

import os

RUN_DIR = "PATCHWORK_RUN_DIR"  # passes the run directory to the processes that do not choose it
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # in the order in which Lightning reads them


def is_rank_zero() -> bool:
    """Return whether this process writes and prints, of those that train together."""
    return next((os.environ[name] for name in RANKS if name in os.environ), "0") == "0"

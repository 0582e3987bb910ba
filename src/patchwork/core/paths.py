"""Paths as users write them."""

import os
from pathlib import Path


def exists(path: str | Path) -> bool:
    return os.path.exists(path)  # unlike Path.exists, it raises nothing for names that cannot be


def expand_home(path: str | Path) -> Path:
    """Return a path with a leading `~` replaced by the home directory, unless something has this very name.

    Shells leave `~` alone after `=`. The path of a user who does not exist is returned as it is.
    """
    return Path(path if os.path.lexists(path) else os.path.expanduser(path))

"""Start a command of this package as a process that ends with its parent."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import IO

from patchwork.core.malloc import load_libc

LIBC = load_libc()  # before the fork, where little is allowed
PR_SET_PDEATHSIG = 1


def start(
    command: str, args: Iterable[object], env: Mapping[str, str], output: IO[bytes] | None = None
) -> subprocess.Popen:
    """Start `patchwork <command>` with its arguments.

    Signals of the terminal go to the parent alone, which passes them on once; and when the parent is killed, Linux
    sends SIGTERM to the child, which saves its state.

    Args:
        command: its name.
        args: the arguments after it.
        env: environment variables in addition to those of this process.
        output: the file for stdout and stderr; those of this process if None.
    """
    return subprocess.Popen(
        # -P: a file of the working directory must not stand in for a module of the same name
        [sys.executable, "-P", "-m", "patchwork", command, *map(str, args)],
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=os.name == "posix",
        preexec_fn=setup_child if os.name == "posix" else None,
    )


def setup_child() -> None:
    """Before the program starts: restore the default handler of SIGINT, and end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if LIBC is not None and hasattr(LIBC, "prctl"):
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

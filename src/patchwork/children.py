"""Commands of this project that others start as processes of their own."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from typing import IO

LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


def start(words: Iterable[object], environment: dict[str, str], output: IO[bytes] | None = None) -> subprocess.Popen:
    """Start a script with its words.

    What a terminal sends goes to the process that started it, which passes it on once; and when that one is killed,
    Linux asks this one to end, which saves its state.
    """
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        preexec_fn=settle,
    )


def settle() -> None:
    """Before the script begins: hear Ctrl-C, whatever the parent does with it, and end with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(LIBC, "prctl"):
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

"""The signals that stop a command: those of a terminal, a scheduler and the system."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from patchwork.core.errors import Interrupted

Handler = Callable[[int, FrameType | None], Any]

ALWAYS_HANDLED = (signal.SIGTERM, signal.SIGINT)
# Windows lacks some: the end of a terminal or ssh session, and what sbatch --signal sends before the time limit
STOP_SIGNALS: tuple[signal.Signals, ...] = (
    *ALWAYS_HANDLED,
    *(getattr(signal, name) for name in ("SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)),
)
REQUEUE_SIGNALS = frozenset(signum for signum in STOP_SIGNALS if signum.name.startswith("SIGUSR"))


def install(handler: Handler) -> dict[signal.Signals, Any]:
    """Handle the signals that stop a command, and return the handlers that were there before.

    What was ignored stays ignored, as SIGHUP under nohup; but not SIGINT, which shells ignore in background jobs.
    Python allows handlers in the main thread only: elsewhere nothing is installed.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    handled = [each for each in STOP_SIGNALS if each in ALWAYS_HANDLED or signal.getsignal(each) != signal.SIG_IGN]
    return {signum: signal.signal(signum, handler) for signum in handled}


def restore(handlers: Mapping[signal.Signals, Any]) -> None:
    """Install handlers again that `install` has returned."""
    for signum, handler in handlers.items():
        signal.signal(signum, signal.SIG_DFL if handler is None else handler)


@contextmanager
def handle_stop_signals(handler: Handler) -> Iterator[None]:
    """Handle the signals that stop a command within the context."""
    handlers = install(handler)
    try:
        yield
    finally:
        restore(handlers)


def leave_signals_to_parent(_: int = 0) -> None:
    """Ignore in a worker what a terminal sends to all processes: the one that trains stops, and its workers with it."""
    for signum in STOP_SIGNALS:
        if signum != signal.SIGTERM:
            signal.signal(signum, signal.SIG_IGN)


class Interrupter:
    """A handler that raises `Interrupted` at the first signal, and ends the process at a second Ctrl-C.

    Other signals after the first are ignored: the end of a terminal sends SIGHUP twice, and schedulers add SIGTERM.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signum
            raise Interrupted(signum)
        if signum == signal.SIGINT:
            exit_at_once(signum, frame)


def exit_at_once(signum: int, frame: FrameType | None) -> NoReturn:
    """End this process with one line, as a handler while modules are imported, which must not be interrupted half."""
    error = Interrupted(signum)
    with suppress(OSError, ValueError):
        sys.stderr.write(f"\n{error}\n")
        sys.stderr.flush()
    os._exit(error.exit_code)

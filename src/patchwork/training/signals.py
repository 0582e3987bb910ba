"""Signals while training: remembered until the state can be saved."""

import signal
from types import FrameType
from typing import Any

from patchwork.core import signals
from patchwork.core.errors import Interrupted


class SignalHandler:
    """Remember the first signal, for training to stop at a step whose state can be saved; raise at a second Ctrl-C.

    Other signals after the first are ignored: the end of a terminal sends SIGHUP twice, and schedulers add SIGTERM.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.previous: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Handle the signals until `restore`."""
        if not self.previous:
            self.previous = signals.install(self.handle)

    def restore(self) -> None:
        """Install the handlers again that were there before `install`."""
        previous, self.previous = self.previous, {}
        signals.restore(previous)

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Remember the signal.

        Raises:
            Interrupted: at a Ctrl-C if a signal was received before: the user does not want to wait.
        """
        if self.received is None:
            self.received = signum
        elif signum == signal.SIGINT:
            raise Interrupted(signum)

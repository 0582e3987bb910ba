"""SIGTERM and SIGINT while training: remembered until the state can be saved."""

import signal
import threading
from types import FrameType

from patchwork.core.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class SignalHandler:
    """Remember the first signal, for training to stop at a step whose state can be saved; raise at the second.

    Python allows signal handlers in the main thread only: elsewhere nothing is installed and no signal is received.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.previous: dict[signal.Signals, signal._HANDLER] = {}

    def install(self) -> None:
        """Handle the signals until `restore`."""
        if threading.current_thread() is threading.main_thread() and not self.previous:
            self.previous = {signum: signal.signal(signum, self.handle) for signum in SIGNALS}

    def restore(self) -> None:
        """Install the handlers again that were there before `install`."""
        previous, self.previous = self.previous, {}
        for signum, handler in previous.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Remember the signal.

        Raises:
            Interrupted: if one was received before: the user does not want to wait.
        """
        if self.received is not None:
            raise Interrupted(signum)
        self.received = signum

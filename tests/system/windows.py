"""Import every module and train where the system lacks what Windows lacks: `windows.py RUN_DIR OVERRIDE …`.

What libraries have is imported first, as their own modules tell the systems apart.
"""

import ctypes
import os
import pkgutil
import signal
import sys
from importlib import import_module
from typing import Any

import optuna  # noqa: F401
import pytorch_lightning.trainer.connectors.signal_connector as lightning_signals

load_library = ctypes.CDLL.__init__


def load_named_library(self: ctypes.CDLL, name: str | None, *args: Any, **kwargs: Any) -> None:
    if name is None:
        raise TypeError("argument of type 'NoneType' is not iterable")
    load_library(self, name, *args, **kwargs)


def remove_what_windows_lacks() -> None:
    for name in ("fcntl", "resource", "termios", "pwd", "grp"):
        sys.modules[name] = None  # type: ignore[assignment]  # importing it is an error
    for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGPIPE", "SIGALRM", "pthread_sigmask"):
        delattr(signal, name)
    for name in ("sched_getaffinity", "fork", "getuid", "geteuid", "uname", "killpg", "getpgid", "O_DIRECTORY"):
        delattr(os, name)
    ctypes.CDLL.__init__ = load_named_library  # type: ignore[method-assign]
    signal.valid_signals = lambda: {signal.SIGINT, signal.SIGTERM, signal.SIGABRT}  # type: ignore[assignment]
    lightning_signals._IS_WINDOWS = True


def main() -> None:
    remove_what_windows_lacks()
    import patchwork

    for module in pkgutil.walk_packages(patchwork.__path__, "patchwork."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    from patchwork.__main__ import main as run

    run(["train", *sys.argv[2:], f"run_dir={sys.argv[1]}"])


if __name__ == "__main__":
    main()

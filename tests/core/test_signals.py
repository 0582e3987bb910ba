"""The signals that stop a command."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from patchwork.core.errors import Interrupted
from patchwork.core.signals import STOP_SIGNALS, Interrupter, handle_stop_signals


@pytest.fixture(autouse=True)
def previous_handlers() -> Iterator[None]:
    """Put the handlers of this process back at the end."""
    handlers = {signum: signal.getsignal(signum) for signum in STOP_SIGNALS}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def test_every_way_to_stop_a_command_is_handled_within_the_context() -> None:
    assert {signum.name for signum in STOP_SIGNALS} == {"SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"}
    before = [signal.getsignal(signum) for signum in STOP_SIGNALS]
    for signum in STOP_SIGNALS:
        with pytest.raises(Interrupted) as error, handle_stop_signals(Interrupter()):
            signal.raise_signal(signum)
        assert error.value.exit_code == 128 + signum
    assert [signal.getsignal(signum) for signum in STOP_SIGNALS] == before


@pytest.mark.parametrize(("signum", "heard"), [(signal.SIGHUP, False), (signal.SIGUSR1, False), (signal.SIGINT, True)])
def test_what_was_ignored_stays_ignored_except_for_ctrl_c(signum: signal.Signals, heard: bool) -> None:
    signal.signal(signum, signal.SIG_IGN)  # as nohup does
    interrupter = Interrupter()
    try:
        with handle_stop_signals(interrupter):
            signal.raise_signal(signum)
    except Interrupted:
        pass
    assert (interrupter.received is not None) == heard
    assert signal.getsignal(signum) is signal.SIG_IGN


def test_only_ctrl_c_counts_after_the_first_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with handle_stop_signals(Interrupter()):
        with pytest.raises(Interrupted):
            signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)  # the shell and the system both send it when a terminal closes
        signal.raise_signal(signal.SIGTERM)
        assert ended == []
        signal.raise_signal(signal.SIGINT)
    assert ended == [128 + signal.SIGINT]


def test_nothing_is_installed_outside_of_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGTERM)
    handlers = []

    def install() -> None:
        with handle_stop_signals(Interrupter()):
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=install)
    thread.start()
    thread.join()
    assert handlers == [before]


def test_signal_while_modules_are_imported_ends_in_one_line() -> None:
    program = (
        "import os, signal, sys; sys.argv = ['patchwork', 'train']\n"
        "import importlib, patchwork.__main__ as main\n"
        "main.import_module = lambda name: os.kill(os.getpid(), signal.SIGINT)\n"
        "main.main()"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 128 + signal.SIGINT
    assert result.stderr.strip() == "stopped by SIGINT"

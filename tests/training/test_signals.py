"""Signals while training."""

import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest

from patchwork.core.errors import Interrupted
from patchwork.core.signals import STOP_SIGNALS
from patchwork.training.signals import SignalHandler


def ignore(signum: int, frame: FrameType | None) -> None:
    """Do nothing."""


@pytest.fixture(autouse=True)
def previous_handlers() -> Iterator[None]:
    """Install a handler for each signal, and put back those of this process at the end."""
    handlers = {signum: signal.signal(signum, ignore) for signum in STOP_SIGNALS}
    yield
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


def current_handlers() -> list[Any]:
    return [signal.getsignal(signum) for signum in STOP_SIGNALS]


@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_first_signal_is_remembered_and_a_second_ctrl_c_raises(signum: signal.Signals) -> None:
    handler = SignalHandler()
    handler.install()
    assert handler.received is None
    signal.raise_signal(signum)
    signal.raise_signal(signal.SIGHUP)  # the end of a terminal sends it twice, and the state is still to be saved
    signal.raise_signal(signal.SIGTERM)
    assert handler.received == signum
    with pytest.raises(Interrupted) as error:
        signal.raise_signal(signal.SIGINT)
    assert error.value.exit_code == 128 + signal.SIGINT
    assert handler.received == signum


def test_previous_signal_handlers_are_restored() -> None:
    handler = SignalHandler()
    handler.install()
    handler.install()  # a second time changes nothing
    assert ignore not in current_handlers()
    handler.restore()
    assert set(current_handlers()) == {ignore}
    signal.raise_signal(signal.SIGTERM)
    assert handler.received is None
    handler.restore()
    assert set(current_handlers()) == {ignore}

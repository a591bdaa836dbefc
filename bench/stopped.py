"""SIGTERM and SIGHUP end a command as Ctrl-C does: schedulers, systemd and terminals that close send those."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """One of these signals; the message says which."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Raise Stopped in the main thread on the first of these signals. One that is ignored stays so, as under nohup."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, kept in before.items():
        if kept is signal.SIG_DFL:
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, kept in before.items():
            signal.signal(number, kept)


def _stop(number: int, frame: FrameType | None) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # a second one must not cut the ending short
    raise Stopped(number)

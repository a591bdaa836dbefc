"""Rank failures: a thread in each rank looks at the others (bench/sight.py), the first cause is kept, and no rank stays behind.

A dead, frozen or failed rank leaves its peers inside a collective, where no Python runs on their main thread; so a thread
watches, and ends the process itself. The lowest living rank closes the record and says the one message.
"""

import contextlib
import os
import signal
import threading
import time
import traceback as tracebacks
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.failure import PASSING, Cause, Failure, cause_of
from bench.sight import Sight

TICK_S = 0.25
BEATS = 2  # ticks from sign of life to sign of life
LOOKS = 4  # ticks from look to look: one is a millisecond of a core whose caches hold something else
LULL_S = 0.25  # before looking again for a first cause; a launcher that ends its ranks gives them a second in all
GRACE_S = 3.0  # how long the others wait for the record to be closed before they leave, and for a late first cause
SIGNALS = (signal.SIGTERM, signal.SIGINT)
GONE = "its launcher is gone"
EXIT_FAILED = 1
EXIT_AGAIN = 75  # what another start may not meet again (sysexits.h: EX_TEMPFAIL)

CloseRecord = Callable[[Failure, Mapping[int, Any]], None]


def _ending(taken: signal.struct_siginfo | None) -> str:
    """Why this process is to end: the signal that it took, or else its launcher."""
    return GONE if taken is None else f"ended by {signal.Signals(taken.si_signo).name}"


class Watch:
    """One rank's eyes. `at` is called by the training loop; everything else happens on the thread.

    `close_record` writes the failure into the record and says the message; it is called on one rank only. `launched`: a
    launcher is this process's parent, and its end is the run's. `again`: that parent starts this rank anew where it ends with
    EXIT_AGAIN.
    """

    def __init__(self, rank: int, size: int, limit_s: float, *, launched: bool, again: bool = False) -> None:
        self.rank, self.size = rank, size
        self.sight = Sight(rank, size, limit_s)
        self.parent = os.getppid() if launched else None
        self.again = again
        self.measured: dict[str, Any] = {}  # what this rank has so far; kept when the run fails
        self.joined = False
        self.pid = os.getpid()
        self._leaving = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)

    def start(self) -> None:
        """Begin to take signals. Call before any library starts threads: they inherit what is blocked here.

        The watching thread takes them, since the main one may be inside a collective and would never see them.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self._thread.start()

    def join(self, folder: Path, close_record: CloseRecord) -> None:
        """Show this rank to the others and begin to look at them, once all have agreed on the folder."""
        self.close_record = close_record
        self.sight.open(folder)
        self.at(0, "build")
        self.joined = True

    @property
    def thread_id(self) -> int:
        """Of the watching thread, for whoever wants to know what it costs."""
        assert self._thread.ident is not None
        return self._thread.ident

    def at(self, step: int, phase: str) -> None:
        """The main thread has come to this place."""
        self.sight.place = (time.time(), step, phase)

    def finish(self) -> None:
        """The run is complete: from here on a peer that leaves has done so rightly."""
        self._stop.set()
        self._thread.join()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if self.joined:
            self.sight.close()

    def failed(self, error: BaseException) -> None:
        """End this process for an error of its own main thread; does not return."""
        _, step, phase = self.sight.place
        cause, said = cause_of(error), str(error) or type(error).__name__
        if cause == "error":
            said = f"{type(error).__name__}: {said}"
            if self._orphaned():  # what is asked of a launcher that is gone fails before the thread looks
                cause, said = "launcher", f"{GONE}; {said}"
        text = "".join(tracebacks.format_exception(error))
        self._leave(Failure(self.rank, step, phase, cause, said, text, time.time()))

    # ---- on the thread -------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        tick = 0
        while not self._stop.is_set():
            taken, orphaned = signal.sigtimedwait(SIGNALS, TICK_S), self._orphaned()
            if not self.joined:
                if taken is not None or orphaned:
                    why = _ending(taken)
                    with contextlib.suppress(OSError):
                        os.write(2, f"rank {self.rank}: {why} before the run began\n".encode())
                    os._exit(EXIT_FAILED)  # nothing has begun, so there is nothing to close
                continue
            tick += 1
            if not tick % BEATS:
                self.sight.beat()
            if taken is None and not orphaned and tick % LOOKS and not self.sight.ended():
                continue
            failure = self.sight.look()
            if failure is None and (taken is not None or orphaned):
                if taken is not None:
                    time.sleep(LULL_S)  # a launcher that ends us has usually seen a rank die: look again for the cause
                cause: Cause = "launcher" if taken is None else "interrupted"
                why = _ending(taken)
                _, step, phase = self.sight.place
                failure = self.sight.look() or Failure(self.rank, step, phase, cause, why, None, time.time())
            if failure is not None and not self._stop.is_set():
                self._leave(failure)

    def _orphaned(self) -> bool:
        return self.parent is not None and os.getppid() != self.parent

    # ---- leaving -------------------------------------------------------------------------------------------------

    def _leave(self, failure: Failure) -> None:
        """Tell the others, have the record closed once, and end this process, whatever its main thread is doing."""
        if not self._leaving.acquire(blocking=False):
            time.sleep(2 * GRACE_S)  # the other thread of this rank is about to end the process
            return
        status = EXIT_FAILED
        try:
            self.sight.write("measured", self.measured)
            self.sight.write("failed", asdict(failure))  # of whichever rank: what this one takes for the first cause
            if (
                failure.cause != "peer lost"
            ):  # nothing comes before a death, and its launcher ends the rest within a second
                time.sleep(LULL_S)  # a peer's error can arrive before its reason: look again
            first = self.sight.look() or failure
            self.sight.write(
                "failed", asdict(first)
            )  # for whoever closes the record, should this rank be ended meanwhile
            if self.again and first.cause in PASSING:
                status = EXIT_AGAIN
            if self.sight.lowest() and not self.sight.any_wrote("closed"):
                ranks = {rank: self.sight.read("measured", rank) for rank in range(self.size)}
                self.close_record(first, ranks)
                self.sight.write("closed", {})
            else:
                deadline = time.time() + GRACE_S
                while time.time() < deadline and not self.sight.any_wrote("closed"):
                    time.sleep(0.05)
        finally:
            os._exit(status)  # collectives, hooks and finalisers would wait for peers that are gone

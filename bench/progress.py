"""The progress line: step, loss, samples a second, time left; rank 0 alone, between steps, seldom enough not to be felt."""

import contextlib
import sys
import time
from collections.abc import Callable
from typing import TextIO

EVERY_S = 0.5


class Progress:
    """Rewrites one line on a terminal; prints a line now and then where output is piped by a launcher."""

    def __init__(self, title: str, steps: int, global_batch: int, *, show: bool, stream: TextIO = sys.stderr) -> None:
        self.title, self.steps, self.global_batch = title, steps, global_batch
        self.show, self.stream, self.live = show, stream, stream.isatty()
        self.begun = self.last = time.monotonic()
        self.done = 0

    def step(self, loss: Callable[[], float] | None) -> None:
        """One more step is done; `loss` gives this rank's, asked when it is shown; None where asking would wait for the device."""
        self.done += 1
        now = time.monotonic()
        final = self.done == self.steps
        if not self.show or (now - self.last < (EVERY_S if self.live else 4 * EVERY_S) and not final):
            return
        self.last = now
        rate = self.done / (now - self.begun)
        told = "" if loss is None else f"  loss {loss():.4f}"
        left = (self.steps - self.done) / rate
        text = f"{self.title}  step {self.done}/{self.steps}{told}  {rate * self.global_batch:.1f} samples/s  {left:.0f} s left"
        with contextlib.suppress(OSError):  # whoever read it is gone; if that was the launcher, the watch ends the run
            self.stream.write(f"\r\x1b[2K{text}" + ("\n" if final else "") if self.live else text + "\n")
            self.stream.flush()

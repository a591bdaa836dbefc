"""Phases of a step, under clocks that wait for the device at every border: never the clock of a speed."""

import time
from typing import Any

import torch

from bench.loop import Watcher

PHASES = ("data", "forward", "backward", "update")  # as the loop announces them


class PhaseClock:
    """Hears from the loop where it is, passes that on, and keeps the seconds in between: `samples`, raw, one a step.

    A phase that comes several times in a step, once a micro-batch, is summed. What an engine does behind a phase's back
    (an all-reduce under backward) counts where the loop waits for it.
    """

    def __init__(self, device: torch.device, watch: Watcher) -> None:
        self.device, self.watch = device, watch
        self.samples: dict[str, list[float]] = {name: [] for name in PHASES}
        self._sums = dict.fromkeys(PHASES, 0.0)
        self._phase: str | None = None
        self._since = 0.0

    def at(self, step: int, phase: str) -> None:
        """The loop enters a phase."""
        self._close()
        self.watch.at(step, phase)
        self._phase, self._since = phase, time.perf_counter()

    def end_step(self, step: Any) -> None:
        """The update is over; for the loop's `after_step`."""
        self._close()
        for name, seconds in self._sums.items():
            self.samples[name].append(seconds)
        self._sums = dict.fromkeys(PHASES, 0.0)

    def _close(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        if self._phase is not None:
            self._sums[self._phase] += time.perf_counter() - self._since
        self._phase = None

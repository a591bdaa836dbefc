"""The one clock of all engines: a mark at each end of a step, and no synchronisation in between."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Batch = Mapping[str, Tensor]


class Clock:
    """Seconds of each step of this rank, from before its first micro-batch is fetched to the end of its update.

    On a GPU the marks are events on the current stream, read after the window; on a CPU they are `time.perf_counter`.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.data_s: list[float] = []  # host seconds inside each step in which the batch was made
        self.step_s: list[float] = []  # raw, one a step that is over; on a GPU empty until `finish`
        self._marks: list[tuple[Any, Any]] = []  # of a GPU: the two events of each step
        self._begin: Any = None
        self._data = 0.0

    def begin_step(self) -> None:
        """A whole step begins."""
        self._data = 0.0
        self._begin = self._mark()

    def end_step(self) -> None:
        """The step is over; one that never comes here is no measurement."""
        end = self._mark()
        if self.cuda:
            self._marks.append((self._begin, end))
        else:
            self.step_s.append(end - self._begin)
        self.data_s.append(self._data)

    def data(self, make: Callable[[int, int], Batch], step: int, micro: int) -> Batch:
        """The micro-batch that `make` makes, inside a step."""
        begin = time.perf_counter()
        made = make(step, micro)
        self._data += time.perf_counter() - begin
        return made

    def _mark(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def finish(self) -> None:
        """Wait for the device: the end of the window."""
        if self.cuda:
            torch.cuda.synchronize()
            self.step_s[:] = [first.elapsed_time(last) / 1e3 for first, last in self._marks]

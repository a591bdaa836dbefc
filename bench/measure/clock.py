"""The one clock of all engines: a mark at each end of a step, and no synchronisation in between."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Seconds of each step of this rank, from before its first micro-batch is fetched to the end of its update.

    On a GPU the marks are events on the current stream, read after the window; on a CPU they are `time.perf_counter`.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.data_s: list[float] = []  # host seconds inside each step in which the batch was made
        self._marks: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self.step_s: list[float] = []  # raw, one a step that is over; on a GPU empty until `finish`
        self._data = 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around one whole step."""
        self._data = 0.0
        if self.cuda:
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            yield
            last.record()
            self._marks.append((first, last))
        else:
            begin = time.perf_counter()
            yield
            self.step_s.append(time.perf_counter() - begin)
        self.data_s.append(self._data)

    @contextmanager
    def data(self) -> Iterator[None]:
        """Around the making of one micro-batch, inside a step."""
        begin = time.perf_counter()
        yield
        self._data += time.perf_counter() - begin

    def finish(self) -> None:
        """Wait for the device: the end of the window."""
        if self.cuda:
            torch.cuda.synchronize()
            self.step_s[:] = [first.elapsed_time(last) / 1e3 for first, last in self._marks]

"""The timed window: what is counted while the clock runs. Opened around each stretch of steps, told once at the end."""

import contextlib
import gc
import socket
from collections.abc import Iterator
from typing import Any

from backends.base import Backend
from bench.measure import interface, traffic
from bench.measure.allocator import Allocator
from bench.measure.clock import Clock
from bench.measure.energy import Energy, gpu_names
from bench.measure.load import Load


class Window:
    """Clock and counters of one rank. Made by all ranks together, who then begin together.

    `clock`: seconds of each step. `load`: who else worked on the cores. `allocator`: whether a GPU's was short of memory.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.clock, self.load, self.allocator = Clock(backend.device), Load(), Allocator(backend.device)
        gpus = gpu_names(backend.world.local_size) if backend.device.type == "cuda" else []
        self._energy, self._sockets = Energy(gpus), traffic.Traffic()
        self._interface = interface.Interface(len(set(backend.gather(socket.gethostname()))))
        self._sent: int | None = 0

    @contextlib.contextmanager
    def open(self) -> Iterator[None]:
        """Around a stretch of steps. No garbage is collected inside: that would fall on one step of one rank."""
        before = self.backend.sent_bytes()
        with self._interface:
            with quiet_collector(), self.allocator, self._sockets, self.load, self._energy:
                yield
            if self._interface.reason is None:
                self.backend.gather(None)  # everybody has got everything: nothing of it waits before the link any more
        after = self.backend.sent_bytes()
        self._sent = None if None in (self._sent, before, after) else self._sent + after - before  # type: ignore[operator]

    def counted(self, steps: int) -> dict[str, Any]:
        """Record fields `traffic` and `energy` of all that was open, over so many steps. Collective."""
        gather = self.backend.gather
        sent = traffic.told(gather(self._sockets.counts()), gather(self._sent), steps, self.backend.past_sockets())
        sent |= interface.told(gather(self._interface.seen(socket.gethostname())), steps)
        return {"traffic": sent, "energy": {"joules": self._energy.joules, "joules_reason": self._energy.reason}}


@contextlib.contextmanager
def quiet_collector() -> Iterator[None]:
    """No garbage collection, but once before."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

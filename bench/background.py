"""Work beside the training: one job on one thread, waited for before the next; what went wrong in it is raised there."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Background:
    """At most one job in flight. Seconds of each job are kept, and those that somebody had to wait for it."""

    def __init__(self, name: str) -> None:
        self.worked_s: list[float] = []
        self.waited_s: list[float] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._job: Future[float] | None = None

    @property
    def busy(self) -> bool:
        """A job was begun and nobody has waited for it yet."""
        return self._job is not None

    def begin(self, job: Callable[[], None]) -> None:
        """Start a job. Raises RuntimeError while another one is in flight."""
        if self._job is not None:
            raise RuntimeError("one job at a time: wait for the one before")
        self._job = self._thread.submit(_timed, job)

    def wait(self) -> None:
        """Until the job in flight is over; at once where there is none. Raises what the job raised."""
        if self._job is None:
            return
        begin = time.perf_counter()
        job, self._job = self._job, None
        self.worked_s.append(job.result())
        self.waited_s.append(time.perf_counter() - begin)

    def close(self) -> None:
        """Wait, and let go of the thread."""
        self.wait()
        self._thread.shutdown()


def _timed(job: Callable[[], None]) -> float:
    begin = time.perf_counter()
    job()
    return time.perf_counter() - begin

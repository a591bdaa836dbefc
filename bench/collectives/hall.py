"""All pools of a measurement: opened, asked, and opened again for the others where a library takes its pool down."""

from collections.abc import Callable, Sequence
from typing import Any

from bench.collectives import catalog
from bench.collectives.catalog import Library
from bench.collectives.plan import VALUE_BYTES, Plan
from bench.collectives.pool import Pool, PoolFailed

COPY_BYTES = 64 * 2**20  # of each of the two buffers: several times what a processor caches
COPY_ITERATIONS = 5
Tell = Callable[[str], None]
Open = Callable[[str, list[str]], Pool]


class Hall:
    """The pools that are open, and why libraries fell out. A pool that fails takes down the library whose turn it was only:
    it is opened again for the others."""

    def __init__(self, plan: Plan, open_: Open, tell: Tell) -> None:
        self.plan, self.open, self.tell = plan, open_, tell
        self.pools: dict[str, Pool] = {}
        self.reasons: dict[str, str] = {}
        self.found: dict[str, dict[str, Any]] = {}  # settings of the libraries that are ready
        self.told: dict[str, dict[str, Any]] = {}  # pids, cores and threads of a pool's ranks

    def __enter__(self) -> "Hall":
        try:
            for name in dict.fromkeys(library.pool for library in self.plan.libraries):
                if (why := catalog.unavailable(name)) is not None:
                    self._lose(self._of(name), why)
                else:
                    self._start(name)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for pool in self.pools.values():
            pool.close()
        self.pools.clear()

    def living(self, operation: str) -> list[Library]:
        """Libraries that offer the operation and are ready."""
        return [each for each in self.plan.libraries if each.name not in self.reasons and operation not in each.lacks]

    def turn(self, library: Library, operation: str, values: int, iterations: int, checks: int) -> Any:
        """Every rank's answer; None where the library fell out, now or before."""
        if library.name in self.reasons:
            return None
        try:
            return self.pools[library.pool].ask(
                "turn",
                library=library.name,
                operation=operation,
                values=values,
                iterations=iterations,
                checks=checks,
            )
        except PoolFailed as failed:
            self._lose([library], f"{operation} of {values * VALUE_BYTES} bytes: {failed}")
            self._end(library.pool)
            self._start(library.pool)
            return None

    def copy(self) -> list[dict[str, Any]] | None:
        """Every rank's copies, by any pool; None where there is no pool."""
        for name in list(self.pools):
            try:
                return self.pools[name].ask("copy", size=COPY_BYTES, iterations=COPY_ITERATIONS)
            except PoolFailed as failed:  # no library's fault
                self.tell(f"copying failed: {failed}")
                self._end(name)
                self._start(name)
        return None

    def _of(self, pool: str) -> list[Library]:
        return [each for each in self.plan.libraries if each.pool == pool and each.name not in self.reasons]

    def _start(self, name: str) -> None:
        """Open a pool for its libraries that are left; one that fails while it is made ready leaves the others another try."""
        while wanted := [library.name for library in self._of(name)]:
            self.tell(f"starting {self.plan.ranks} ranks for {', '.join(wanted)}")
            try:
                pool = self.pools[name] = self.open(name, wanted)
            except PoolFailed as failed:
                self._lose(self._of(name), str(failed))
                return
            self.told[name] = {"ranks": pool.hellos, "threads": pool.threads}
            for library in self._of(name):
                try:
                    answers = pool.ask("have", library=library.name)
                except PoolFailed as failed:
                    self._lose([library], str(failed))
                    self._end(name)
                    break
                if (why := next((answer["reason"] for answer in answers if answer["reason"]), None)) is not None:
                    self._lose([library], why)
                else:
                    self.found[library.name] = answers[0]["settings"]
            else:
                return

    def _end(self, name: str) -> None:
        if (pool := self.pools.pop(name, None)) is not None:
            pool.close()

    def _lose(self, libraries: Sequence[Library], why: str) -> None:
        for library in libraries:
            self.reasons[library.name] = why
            self.tell(f"{library.name} is left out: {why}")


def opened(plan: Plan) -> Open:
    """How pools of this plan are opened: with their launchers."""
    return lambda name, wanted: Pool(
        name,
        catalog.command(name, plan.ranks),
        plan.ranks,
        values=plan.longest,
        libraries=wanted,
        limit_s=plan.limit_s,
    )

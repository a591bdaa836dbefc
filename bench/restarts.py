"""Whether ranks that are lost are started again: flags of `ringzero launch`."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench import launchers
from bench.config import ConfigError, RunConfig
from bench.hosts.description import Host, slots


@dataclass(frozen=True, kw_only=True)
class Restarts:
    """What becomes of a run that loses ranks."""

    elastic: bool = False
    """Start the ranks again where some are lost, from the newest checkpoint: it costs at most --checkpoint-every steps."""
    max_restarts: int = 3
    """elastic: so many starts after the first, at most."""
    min_ranks: int | None = None
    """elastic: with fewer ranks after each loss, down to this many; by default with as many as before."""
    host_wait_s: float = 60.0
    """elastic: wait so many seconds for a host that does not answer, where the others have no room for its ranks."""

    def check(self, config: RunConfig, ranks: int) -> None:
        """Raise ConfigError for flags that make no sense together."""
        if not self.elastic:
            return
        if not config.checkpoints.checkpoint_every:
            raise ConfigError("--elastic goes on from checkpoints; add --checkpoint-every 10, say")
        if self.max_restarts < 1:
            raise ConfigError(f"--max-restarts is {self.max_restarts}; it must be at least 1")
        if self.min_ranks is not None and not 1 <= self.min_ranks <= ranks:
            raise ConfigError(f"--min-ranks is {self.min_ranks}; it lies between 1 and --ranks, which is {ranks}")
        if not 0 <= self.host_wait_s < float("inf"):
            raise ConfigError(f"--host-wait-s is {self.host_wait_s:g}; it must be 0 or more seconds")

    def by_launcher(self, config: RunConfig, ranks: int) -> bool:
        """Whether the launcher itself starts the ranks again: torchrun does, but never fewer of them on one host."""
        return self.elastic and launchers.launcher(config, ranks) == "torchrun" and self.min_ranks in (None, ranks)

    def by_driver(self, config: RunConfig, hosts: Sequence[Host], ranks: int) -> bool:
        """Whether Horovod Elastic moves them: over hosts, where others may take the places. Of one host alone it gives up all."""
        others = slots(hosts) > ranks or (self.min_ranks or ranks) < ranks
        elastic = self.elastic and self.max_restarts > 0 and launchers.launcher(config, ranks) == "horovodrun"
        return elastic and len(hosts) > 1 and others

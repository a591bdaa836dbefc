"""What the loop calls so that a training can go on after a loss: a snapshot after every Nth step, written while the next one runs.

The next update waits until the checkpoint is complete on all ranks. So at any moment at most N steps lie behind the newest
complete one, however slow the disk: those are done again, never more.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.base import Backend
from bench import checkpoints
from bench.background import Background
from bench.config import RunConfig
from bench.loop import Step, Watcher, settle
from bench.proof import over_ranks, refuse_skipped
from bench.restart import Start, identity


class Keeper:
    """Checkpoints of one run on one rank; does nothing where none were asked for.

    `losses` and `norms` are those of the steps before this run began, of the global batch, taken from its checkpoint.
    """

    def __init__(self, backend: Backend, config: RunConfig, watch: Watcher, start: Start, run_id: str) -> None:
        self.backend, self.config, self.watch, self.start, self.run_id = backend, config, watch, start, run_id
        self.every = config.checkpoints.checkpoint_every
        self.folder = config.checkpoints.checkpoint_folder
        self.writer = Background("checkpoint")
        self.losses: list[dict[str, float]] = []
        self.norms: list[float | None] = []
        self.steps: list[int] = []  # of which checkpoints were written
        self.snapshot_s: list[float] = []
        self.last = 0
        self._new: list[Step] = []  # since the checkpoint before: read from the device only here
        self._own: list[dict[str, float]] = []
        self._own_norms: list[float | None] = []

    def go_on(self, last: int) -> None:
        """Bring the engine, set up already, to where this run begins; `last` is the training's last step, counted from 1.

        Collective. Raises CheckpointError where no step is left to take.
        """
        self.last = last
        if self.start.path is None:
            return
        if self.start.step >= last:
            raise checkpoints.CheckpointError(
                f"{self.start.path} has taken {self.start.step} of {last} steps: nothing is left to do; give more --steps"
            )
        parts = checkpoints.read(Path(self.start.path), self.start.ranks)
        self.losses = parts[0]["past_losses"] + over_ranks([part["losses"] for part in parts])
        self.norms = parts[0]["norms"]
        self.backend.restore(parts)

    def before_update(self) -> None:
        """The checkpoint of the step before is complete, or this waits. Raises what went wrong in writing it."""
        if self.writer.busy:
            self.watch.at(self.backend.steps, "checkpoint")
            self.writer.wait()

    def after_update(self, step: Step) -> None:
        """Take a snapshot where one is due; not of the last step, which the record itself keeps."""
        if not self.every:
            return
        self._new.append(step)
        number = self.backend.steps
        if number % self.every or number >= self.last:
            return
        self.watch.at(number - 1, "checkpoint")
        begin = time.perf_counter()
        refuse_skipped(self._new)
        settle(self._new)  # of no loss that is none should anybody go on
        self._own += [each.losses for each in self._new]
        self._own_norms += [each.grad_norm for each in self._new]
        self._new.clear()
        content = self.backend.snapshot() | {
            "past_losses": self.losses,
            "losses": list(self._own),
            "norms": [*self.norms, *self._own_norms],
        }
        self.snapshot_s.append(time.perf_counter() - begin)
        self.steps.append(number)
        self.writer.begin(lambda: self._write(number, content))

    def _write(self, step: int, content: Mapping[str, Any]) -> None:
        world = self.backend.world
        partial = checkpoints.unfinished(self.folder, step, self.run_id)
        checkpoints.write_part(partial, world.rank, content)
        if world.rank:
            checkpoints.wait_for(checkpoints.place(self.folder, step))
            return
        checkpoints.publish(
            partial,
            self.folder,
            step=step,
            ranks=world.size,
            engine=self.config.engine.label,
            run_id=self.run_id,
            experiment=identity(self.config),
        )
        checkpoints.prune(self.folder, self.config.checkpoints.checkpoint_keep)

    def close(self) -> dict[str, Any] | None:
        """Wait for the last one. What this rank spent on checkpoints, in seconds, one entry each; None where none were asked for."""
        self.before_update()
        self.writer.close()
        if not self.every:
            return None
        return {
            "steps": self.steps,
            "snapshot_s": self.snapshot_s,
            "write_s": self.writer.worked_s,
            "waited_s": self.writer.waited_s,
        }

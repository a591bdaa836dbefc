"""Steps before the clock, with memory watched: what they change is undone afterwards."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from backends.base import Backend
from bench.config import RunConfig
from bench.hosts.sharing import hand_out
from bench.loop import train
from bench.measure.clock import Clock
from bench.measure.makeup import AtPeak
from bench.measure.memory import Activations, PeakMemory, bytes_held, device_memory, give_back_freed
from bench.proof import refuse_skipped
from bench.watch import Watch
from bench.workload import Workload

WATCHED = "memory is watched during warm-up"
MISSED = 0.045  # of the peak: where more is not explained, its moment was missed, and a step more is watched,
AGAIN = 3  # so many times at most


def warm_up(
    backend: Backend,
    workload: Workload,
    config: RunConfig,
    watch: Watch,
    scratch: Path,
    peak: PeakMemory,
    moment: AtPeak,
) -> dict[str, Any]:
    """Steps that are not timed, with memory watched; afterwards the state is what it was before. Returns bytes by name.

    A single step has no peak to tell: the optimizer's state comes into being at its end.
    """
    if not config.measure.warmup:
        return {"peak_bytes": None, "peak_bytes_reason": f"{WATCHED}, and --warmup is 0"}
    saved = scratch / "before_warmup"
    backend.save(saved)
    hand_out(backend, saved)  # only some ranks write it, and every rank loads it
    give_back_freed()
    peak.take()
    held: dict[str, int] = {}
    kept = Activations(moment.look)
    data = {"data": workload.kept_bytes()}
    moment.begin(
        lambda: {**bytes_held(backend.holdings()), "activations": kept.alive(), **data}, backend.shared_bytes()
    )

    def batches(step: int, micro: int) -> Mapping[str, Tensor]:
        kept.next_micro_batch()
        return workload.batches(step, micro)

    def look() -> None:
        held.update(bytes_held(backend.holdings()))
        moment.look()

    def watched(count: int) -> int:
        refuse_skipped(
            train(
                backend,
                batches,
                steps=count,
                accumulation=config.training.accumulation,
                clock=Clock(backend.device),
                watch=watch,
                before_update=look,
                after_step=lambda step: moment.look(),
            )
        )
        return peak.take()

    with kept, moment:
        most = watched(config.measure.warmup)
        for _ in range(AGAIN):
            if all(backend.gather(explained(moment.parts(), most))):
                break
            most = max(most, watched(1))
    found: dict[str, Any] = {"peak_bytes": most, **held, "activations": kept.peak_bytes, **data}
    found["at_peak"] = moment.parts()
    if found["at_peak"] is None:
        found["at_peak_reason"] = (
            "needs the CPU, Linux and glibc 2.33: the kernel's mappings and malloc's own count are read"
        )
    found |= device_memory(backend.device)
    if config.measure.warmup == 1:
        found = {
            "peak_bytes": None,
            "peak_bytes_reason": f"{WATCHED}: its first step knows no optimizer state, give --warmup 2",
        }
    watch.at(backend.steps, "setup")
    backend.load(saved)
    backend.gather(None)
    if backend.world.local_rank == 0:
        shutil.rmtree(saved, ignore_errors=True)  # several do this at once where hosts share it
    return found


def explained(parts: Mapping[str, int] | None, peak_bytes: int) -> bool:
    """Whether what was seen makes up the peak; where nothing can be seen, there is nothing to see again."""
    return parts is None or sum(parts.values()) >= (1 - MISSED) * peak_bytes

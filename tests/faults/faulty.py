"""bench.run with a fault on rank 1, at step 2: what FAULT in the environment says."""

import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import bench.run
from backends.world import World

FAULT, MARK = os.environ["FAULT"], Path(os.environ["FAULT_MARK"])


def come_to_it(step: int, batch: dict[str, Any]) -> dict[str, Any]:
    """Do to this rank what was asked."""
    if step != 2 or World.from_env().rank != World.from_env().size - 1:
        return batch
    MARK.with_suffix(".tmp").write_text(str(os.getpid()))
    MARK.with_suffix(".tmp").replace(MARK)
    if FAULT == "raise":
        raise RuntimeError("planted: the disk of this rank is gone")
    if FAULT == "nan":
        batch["image"] = batch["image"] * float("nan")
    if FAULT in ("hang", "kill", "freeze"):
        time.sleep(80)  # killed or frozen from outside, or found by the watch
    if FAULT == "fill":
        with open(MARK.parent / "results" / "filler", "wb") as filler:
            while filler.write(b"x" * 65536):
                filler.flush()
    return batch


def main() -> int:
    """Plant the fault, then run."""
    from bench import workload

    made = workload.Workload.batches

    def batches(self: Any, step: int, micro: int) -> dict[str, Any]:
        return come_to_it(step, made(self, step, micro))

    workload.Workload.batches = batches  # type: ignore[method-assign]
    return bench.run.main()


if __name__ == "__main__":
    sys.exit(main())

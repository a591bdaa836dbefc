"""What each rank does under its launcher: `worker.py PART FOLDER first` trains all cases; `... second`, a new process, goes on
from the checkpoints and does what the other tests of engines ask for: a launch costs more than they do. `... fewer`, one rank
alone, goes on from the checkpoints of two.
"""

import gc
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

gc.disable()  # what is imported stays: looking through it again and again would be a fifth of the time it takes
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

import backends
from backends.base import Backend, BackendError
from backends.saving import write_rng
from backends.world import World
from tests.parity import cases, exchange, held, tuned
from tests.parity.cases import CASES
from tests.parity.planted import FAULTS, deepspeed_default_clipping_refused

# ZeRO-3 has processes of its own: it replaces torch.nn.functional.linear for the whole process.
STAGES = {
    "zero-0": (0, False),
    "zero-1": (1, False),
    "zero-2": (2, False),
    "zero-2-offload": (2, True),
    "zero-3": (3, False),
    "zero-3-offload": (3, True),
}


def variants(part: str) -> dict[str, dict[str, Any]]:
    """Labels of what one process tries, with the settings that make them. `deepspeed-3` is its third stage alone.

    The ring takes its transport from the launcher, so `ring-torch` needs no setting.
    """
    if not part.startswith("deepspeed"):
        return {part: {}}
    third = part.endswith("-3")
    return {
        label: {"zero_stage": stage, "offload_optimizer": offload}
        for label, (stage, offload) in STAGES.items()
        if (stage == 3) is third
    }


def sharded_values(backend: Backend) -> int:
    """Parameter values that this rank holds, frozen ones included."""
    return sum(tensor.numel() for tensor in backend.holdings()["parameters"])


def first(backend: Backend, folder: Path) -> None:
    """All cases, six steps in one go with a checkpoint after the third, and the planted faults."""
    accumulation = 1 if backend.world.size == 1 else cases.ACCUMULATION
    for label, settings in variants(sys.argv[1]).items():
        found = {}
        for name, case in CASES.items():
            backend.release()
            backend.config = cases.engine_config(backend.world, case, accumulation, **settings)
            found[name] = cases.result(backend, case, kept=folder / f"{label}-sgd.x" if name == "sgd" else None)
        shares = backend.gather(sharded_values(backend))
        backend.release()
        backend.config = cases.engine_config(backend.world, CASES["adamw"], accumulation, **settings)
        cases.setup(backend, CASES["adamw"])
        cases.run(backend, cases.KEPT_AT)
        backend.save(folder / f"{label}.checkpoint")
        cases.keep(backend, folder / f"{label}-adamw.x")
        losses = cases.run(backend, 3)
        straight = {"losses": losses, "state": backend.full_state(), "steps": backend.steps}
        cases.write(folder / f"{label}.pt", {"cases": found, "straight": straight, "held": shares}, backend)
        if label in ("ddp", "horovod", "ring", "zero-1"):
            faulty = {}
            for name, (case_name, fault) in FAULTS[backend.name].items():
                backend.release()
                backend.config = replace(backend.config, clip_norm=CASES[case_name].clip_norm)
                faulty[name] = fault(backend)
            if backend.name == "deepspeed":
                backend.release()
                backend.config = replace(backend.config, clip_norm=0.0)
                faulty["refusal"] = deepspeed_default_clipping_refused(backend)
            cases.write(folder / f"{label}.faults.pt", faulty, backend)


def second(backend: Backend, folder: Path) -> None:
    """A new process goes on from step 3: from its engine's own checkpoint, from its pieces, from those of one plain process."""
    for label, settings in variants(sys.argv[1]).items():
        backend.release()
        backend.config = cases.engine_config(backend.world, CASES["adamw"], cases.ACCUMULATION, **settings)
        cases.setup(backend, CASES["adamw"])
        torch.manual_seed(99)  # whatever came before must not matter
        backend.load(folder / f"{label}.checkpoint")
        losses = cases.run(backend, 3)
        content = {"losses": losses, "state": backend.full_state(), "steps": backend.steps}
        for source in (label, "single"):  # again on the engine that has gone on meanwhile: nothing of that may be left
            torch.manual_seed(99)
            backend.restore(cases.parts(folder / f"{source}-adamw.x"))
            content[f"from {source}"] = {"losses": cases.run(backend, 3), "state": backend.full_state()}
        cases.write(folder / f"{label}.resumed.pt", content, backend)
    held.tasks(backend, sys.argv[1], folder)
    if sys.argv[1] not in tuned.FIXED:
        tuned.tasks(backend, sys.argv[1], folder)
    if sys.argv[1] != "ring-torch":
        exchange.tasks(backend, sys.argv[1], folder)


def fewer(backend: Backend, folder: Path) -> None:
    """On another number of ranks than wrote the engine's own checkpoint; what is then saved takes the place of theirs."""
    for label, settings in variants(sys.argv[1]).items():
        backend.release()
        backend.config = cases.engine_config(backend.world, CASES["adamw"], 1, **settings)
        cases.setup(backend, CASES["adamw"])
        own = shutil.copytree(folder / f"{label}.checkpoint", folder / f"{label}.replaced")
        backend.load(own)
        content = {"losses": cases.run(backend, 3), "state": backend.full_state(), "steps": backend.steps}
        backend.save(own)
        cases.run(backend, 1)
        backend.load(own)
        content["again"] = {"losses": content["losses"], "state": backend.full_state(), "steps": backend.steps}
        if label in ("zero-2", "zero-3"):
            content["refusal"] = sgd_refused(backend, folder / f"{label}.sgd")
        cases.write(folder / f"{label}.fewer.pt", content, backend)


def sgd_refused(backend: Backend, folder: Path) -> str:
    """What DeepSpeed's checkpoint of SGD is answered with on another number of ranks; on as many it is taken as it is."""
    backend.release()
    backend.config = replace(backend.config, clip_norm=CASES["sgd"].clip_norm)
    cases.setup(backend, CASES["sgd"])
    backend.save(folder)
    backend.load(folder)
    write_rng(folder, 1, 2)  # as if two had written it
    try:
        backend.load(folder)
    except BackendError as error:
        return str(error)
    return "not refused"


def main() -> None:
    """One rank."""
    gc.enable()
    torch.set_num_threads(1)
    name, folder, part = sys.argv[1].partition("-")[0], Path(sys.argv[2]), sys.argv[3]
    world = World.from_env()
    accumulation = 1 if world.size == 1 else cases.ACCUMULATION
    backend = backends.load(name)(world, cases.engine_config(world, CASES["sgd"], accumulation))
    {"first": first, "second": second, "fewer": fewer}[part](backend, folder)
    if name == "single":
        tuned.tasks(backend, name, folder)
    backend.gather(None)
    backend.close()


if __name__ == "__main__":
    main()

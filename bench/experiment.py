"""What is done with one engine: set up, warm up, restore, train under the clock, and prove that it was the same training."""

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from backends.base import Backend
from bench.config import RunConfig
from bench.curve import Curve
from bench.keeper import Keeper
from bench.loop import Step, train
from bench.measure.clock import Clock
from bench.measure.makeup import AtPeak
from bench.measure.memory import Activations, PeakMemory, bytes_held, device_memory, give_back_freed
from bench.memory_model import Shapes, derived, paper
from bench.perturbed import perturbed
from bench.progress import Progress
from bench.proof import mean_losses, prove, refuse_skipped, summary
from bench.schedule import lr_at
from bench.trained import evaluate_trained
from bench.watch import Watch
from bench.window import Window
from bench.workload import Workload, optimizer_factory
from model.checkpoints import save_delta


def measure(
    backend: Backend, workload: Workload, config: RunConfig, watch: Watch, scratch: Path, keeper: Keeper
) -> dict[str, Any]:
    """Everything that one run measures, as record fields; whole on rank 0, the other ranks help. `scratch` is shared by all."""
    training = config.training
    factory = optimizer_factory(
        training.optimizer,
        lr=training.lr,
        weight_decay=training.weight_decay,
        device=backend.device,
        fused=config.tuning.fused_optimizer,
    )
    give_back_freed()
    peak, moment = PeakMemory(backend.device), AtPeak(backend.device)
    watch.at(0, "setup")
    built = workload.build()
    model = expected(Shapes.of(built), config, backend)
    backend.setup(built, factory)
    del built
    memory: dict[str, Any] = {"setup_peak_bytes": peak.take(), **model}
    if config.output.load is not None:
        backend.load(config.output.load)
    last = backend.steps + workload.steps
    keeper.go_on(last)
    left = last - backend.steps
    workload.make_ahead(range(backend.steps, backend.steps + max(left, config.measure.warmup)))
    memory |= warm_up(backend, workload, config, watch, scratch, peak, moment)

    window, curve, steps = Window(backend), Curve(backend, workload, watch), list[Step]()
    clock = window.clock
    watch.measured |= {"step_s": clock.step_s, "data_s": clock.data_s}
    progress = Progress(
        f"{config.engine.label} x{backend.world.size}",
        left,
        training.global_batch,
        show=backend.world.rank == 0,
    )
    tell = backend.device.type == "cpu"
    lr = partial(lr_at, total=last, peak=training.lr, kind=training.schedule)
    for count in curve.windows(left):
        with window.open():
            steps += train(
                backend,
                workload.batches,
                steps=count,
                accumulation=training.accumulation,
                clock=clock,
                watch=watch,
                lr=lr,
                before_update=keeper.before_update,
                after_update=keeper.after_update,
                after_step=lambda step: progress.step(step.losses["total"].item() if tell else None),
            )
    refuse_skipped(steps)
    kept = keeper.close()
    memory |= window.allocator.fields

    watch.at(backend.steps, "gather")
    rank = {
        "step_s": clock.step_s,
        "data_s": clock.data_s,
        "load": window.load.seconds,
        "memory": memory,
        "checkpoints": kept,
    }
    watch.measured |= rank
    losses = mean_losses(backend, steps)
    state = backend.full_state()
    parameters = summary(state)
    result: dict[str, Any] = {
        "asked": backend.asked(),
        "applied": backend.applied(),
        "native": getattr(backend, "native", None),
        "losses": keeper.losses + losses,
        "grad_norms": keeper.norms + [step.info.grad_norm for step in steps],
        "skipped_steps": 0,
        "parameters": parameters,
        **window.counted(len(steps)),
        "checkpoint": None,
        "export": None,
    }
    if config.output.save is not None:
        backend.save(config.output.save)
        result["checkpoint"] = str(config.output.save)
    if config.output.export is not None:
        if backend.world.rank == 0:
            save_delta(state, config.output.export, config=workload.model_config)
        result["export"] = str(config.output.export)
    result |= perturbed(backend, workload, config, watch)
    result["proof"] = prove(backend, workload, config, watch)
    backend.release()
    result["evaluation"] = evaluate_trained(backend, workload, state, watch)
    result["ranks"] = backend.gather(rank)
    result["curve"] = curve.record(result["ranks"])
    return result


def expected(shapes: Shapes, config: RunConfig, backend: Backend) -> dict[str, Any]:
    """Bytes by category that this rank should hold: as `bench/memory_model.py` derives them, and by the ZeRO paper."""
    label, rule, world = config.engine.label, config.training.optimizer, backend.world
    return {
        "derived": derived(label, shapes, optimizer=rule, rank=world.rank, ranks=world.size),
        "paper": paper(label, shapes, optimizer=rule, ranks=world.size),
    }


def warm_up(
    backend: Backend,
    workload: Workload,
    config: RunConfig,
    watch: Watch,
    scratch: Path,
    peak: PeakMemory,
    moment: AtPeak,
) -> dict[str, Any]:
    """Steps that are not timed, with memory watched; afterwards the state is what it was before. Returns bytes by name."""
    if not config.measure.warmup:
        return {"peak_bytes": None, "peak_bytes_reason": "memory is watched during warm-up, and --warmup is 0"}
    saved = scratch / "before_warmup"
    backend.save(saved)
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

    with kept, moment:
        steps = train(
            backend,
            batches,
            steps=config.measure.warmup,
            accumulation=config.training.accumulation,
            clock=Clock(backend.device),
            watch=watch,
            before_update=look,
            after_step=lambda step: moment.look(),
        )
    refuse_skipped(steps)
    found: dict[str, Any] = {"peak_bytes": peak.take(), **held, "activations": kept.peak_bytes, **data}
    found["at_peak"] = moment.parts()
    if found["at_peak"] is None:
        found["at_peak_reason"] = (
            "needs the CPU, Linux and glibc 2.33: the kernel's mappings and malloc's own count are read"
        )
    found |= device_memory(backend.device)
    watch.at(backend.steps, "setup")
    backend.load(saved)
    backend.gather(None)
    if backend.world.rank == 0:
        shutil.rmtree(saved)
    return found

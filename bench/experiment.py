"""What is done with one engine: set up, warm up, restore, train under the clock, and prove that it was the same training."""

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
from bench.measure.makeup import AtPeak
from bench.measure.memory import PeakMemory, give_back_freed
from bench.memory_model import Shapes, derived, paper
from bench.perturbed import perturbed
from bench.progress import Progress
from bench.proof import mean_losses, prove, refuse_skipped, summary
from bench.schedule import lr_at
from bench.trained import evaluate_trained
from bench.warmup import warm_up
from bench.watch import Watch
from bench.window import Window
from bench.workload import Workload, optimizer_factory
from model.checkpoints import save_delta


def measure(
    backend: Backend, workload: Workload, config: RunConfig, watch: Watch, scratch: Path, keeper: Keeper
) -> dict[str, Any]:
    """Everything that one run measures, as record fields; whole on rank 0, the other ranks help. `scratch` is shared by all."""
    memory, last = set_up(backend, workload, config, watch, scratch, keeper)
    window, curve = Window(backend), Curve(backend, workload, watch)
    steps = timed(backend, workload, config, watch, keeper, window, curve, last)
    kept = keeper.close()

    watch.at(backend.steps, "gather")
    clock = window.clock
    rank = {
        "step_s": clock.step_s,
        "data_s": clock.data_s,
        "load": window.load.seconds,
        "memory": memory | window.allocator.fields,
        "checkpoints": kept,
    }
    watch.measured |= rank
    losses = mean_losses(backend, steps)
    state = backend.full_state()
    result: dict[str, Any] = {
        "asked": backend.asked(),
        "applied": backend.applied(),
        "native": getattr(backend, "native", None),
        "losses": keeper.losses + losses,
        "grad_norms": keeper.norms + [step.grad_norm for step in steps],
        "skipped_steps": 0,
        "parameters": summary(state),
        **window.counted(len(steps)),
        **save(backend, workload, config, state),
    }
    result |= perturbed(backend, workload, config, watch)
    result["proof"] = prove(backend, workload, config, watch)
    backend.release()
    result["evaluation"] = evaluate_trained(backend, workload, state, watch)
    result["ranks"] = backend.gather(rank)
    result["curve"] = curve.record(result["ranks"])
    return result


def set_up(
    backend: Backend, workload: Workload, config: RunConfig, watch: Watch, scratch: Path, keeper: Keeper
) -> tuple[dict[str, Any], int]:
    """Model and engine, ready for the first timed step: this rank's memory fields, and the number of the step to end at."""
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
    workload.make_ahead(range(backend.steps, max(last, backend.steps + config.measure.warmup)))
    return memory | warm_up(backend, workload, config, watch, scratch, peak, moment), last


def timed(
    backend: Backend,
    workload: Workload,
    config: RunConfig,
    watch: Watch,
    keeper: Keeper,
    window: Window,
    curve: Curve,
    last: int,
) -> list[Step]:
    """The steps up to number `last`, under the clock of `window`, which stands while the curve evaluates."""
    steps: list[Step] = []
    training, left, clock = config.training, last - backend.steps, window.clock
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
                after_step=lambda step: progress.step((lambda: step.losses["total"]) if tell else None),
            )
    refuse_skipped(steps)
    return steps


def save(backend: Backend, workload: Workload, config: RunConfig, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write what the flags ask for; where it went, as record fields."""
    checkpoint, export = config.output.save, config.output.export
    if checkpoint is not None:
        backend.save(checkpoint)
    if export is not None and backend.world.rank == 0:
        save_delta(state, export, config=workload.model_config)
    return {
        name: None if path is None else str(path) for name, path in (("checkpoint", checkpoint), ("export", export))
    }


def expected(shapes: Shapes, config: RunConfig, backend: Backend) -> dict[str, Any]:
    """Bytes by category that this rank should hold: as `bench/memory_model.py` derives them, and by the ZeRO paper."""
    label, rule, world = config.engine.label, config.training.optimizer, backend.world
    return {
        "derived": derived(label, shapes, optimizer=rule, rank=world.rank, ranks=world.size),
        "paper": paper(label, shapes, optimizer=rule, ranks=world.size),
    }

"""What is done with one engine: set up, warm up, restore, train under the clock, and prove that it was the same training."""

import contextlib
import gc
import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from backends.base import Backend
from bench.config import RunConfig
from bench.curve import Curve
from bench.loop import Step, train
from bench.measure.allocator import Allocator
from bench.measure.clock import Clock
from bench.measure.energy import Energy, gpu_names
from bench.measure.load import Load
from bench.measure.makeup import AtPeak
from bench.measure.memory import Activations, PeakMemory, bytes_held, device_memory, give_back_freed
from bench.measure.traffic import Traffic, told
from bench.memory_model import Shapes, derived, paper
from bench.perturbed import perturbed
from bench.progress import Progress
from bench.schedule import lr_at
from bench.trained import evaluate_trained
from bench.watch import Watch
from bench.workload import Workload, optimizer_factory
from model.checkpoints import save_delta

PROOF_LR = 0.01
PROOF_CLIP = 0.1  # small enough to bind: a limit that never acts proves nothing about clipping


class SkippedStep(RuntimeError):
    """The engine left out an update: its seconds would be those of another training."""


def measure(backend: Backend, workload: Workload, config: RunConfig, watch: Watch, scratch: Path) -> dict[str, Any]:
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
    workload.make_ahead(range(backend.steps, backend.steps + max(workload.steps, config.measure.warmup)))
    memory |= warm_up(backend, workload, config, watch, scratch, peak, moment)

    clock = Clock(backend.device)
    watch.measured |= {"step_s": clock.step_s, "data_s": clock.data_s}
    progress = Progress(
        f"{config.engine.label} x{backend.world.size}",
        workload.steps,
        training.global_batch,
        show=backend.world.rank == 0,
    )
    tell = backend.device.type == "cpu"
    sent, traffic = backend.sent_bytes(), Traffic()
    backend.gather(None)
    gpus = gpu_names(backend.world.local_size) if backend.device.type == "cuda" else []
    energy, load, curve, steps = Energy(gpus), Load(), Curve(backend, workload, watch), list[Step]()
    allocator = Allocator(backend.device)
    lr = partial(lr_at, total=backend.steps + workload.steps, peak=training.lr, kind=training.schedule)
    for count in curve.windows():
        with quiet_collector(), allocator, traffic, load, energy:
            steps += train(
                backend,
                workload.batches,
                steps=count,
                accumulation=training.accumulation,
                clock=clock,
                watch=watch,
                lr=lr,
                after_step=lambda step: progress.step(step.losses["total"].item() if tell else None),
            )
    refuse_skipped(steps)
    memory |= allocator.fields
    sent_now = backend.sent_bytes()
    own = None if sent is None or sent_now is None else sent_now - sent

    watch.at(backend.steps, "gather")
    rank = {"step_s": clock.step_s, "data_s": clock.data_s, "load": load.seconds, "memory": memory}
    watch.measured |= rank
    losses = mean_losses(backend, steps)
    state = backend.full_state()
    parameters = summary(state)
    result: dict[str, Any] = {
        "asked": backend.asked(),
        "applied": backend.applied(),
        "native": getattr(backend, "native", None),
        "losses": losses,
        "grad_norms": [step.info.grad_norm for step in steps],
        "skipped_steps": 0,
        "parameters": parameters,
        "traffic": told(backend.gather(traffic.counts()), backend.gather(own), len(steps), backend.past_sockets()),
        "energy": {"joules": energy.joules, "joules_reason": energy.reason},
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
    moment.begin(lambda: {**bytes_held(backend.holdings()), "activations": kept.alive(), **data})

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


def prove(backend: Backend, workload: Workload, config: RunConfig, watch: Watch) -> list[dict[str, Any]]:
    """Train anew under SGD, clipping off and then on. AdamW forgives every error of scale, SGD none."""
    told = backend.config
    legs = []
    for clip_norm in (0.0, PROOF_CLIP) if config.measure.proof_steps else ():
        watch.at(0, "setup")
        backend.release()
        backend.config = replace(told, clip_norm=clip_norm)
        backend.setup(workload.build(), optimizer_factory("sgd", lr=PROOF_LR, weight_decay=0.0, device=backend.device))
        steps = train(
            backend,
            workload.batches,
            steps=config.measure.proof_steps,
            accumulation=config.training.accumulation,
            clock=Clock(backend.device),
            watch=watch,
        )
        refuse_skipped(steps)
        watch.at(backend.steps, "gather")
        legs.append(
            {
                "optimizer": "sgd",
                "lr": PROOF_LR,
                "clip_norm": clip_norm,
                "losses": mean_losses(backend, steps),
                "grad_norms": [step.info.grad_norm for step in steps],
                "parameters": summary(backend.full_state()),
            }
        )
    backend.config = told
    return legs


def refuse_skipped(steps: Sequence[Step]) -> None:
    """Raise SkippedStep if an update was left out."""
    skipped = [step.number for step in steps if step.info.skipped]
    if skipped:
        raise SkippedStep(
            f"the engine skipped the update of step {', '.join(map(str, skipped))}: its gradients were not finite"
        )


def mean_losses(backend: Backend, steps: Sequence[Step]) -> list[dict[str, float]]:
    """Losses of the global batch, one entry a step: the mean over ranks, whose shares are equal."""
    own = [{name: value.item() for name, value in step.losses.items()} for step in steps]
    everyone = backend.gather(own)
    return [{name: sum(rank[i][name] for rank in everyone) / len(everyone) for name in own[i]} for i in range(len(own))]


def summary(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Trained parameters in few numbers: `sha256` of all values, per tensor its L2 `norm` and a `projection` on fixed signs.

    The projection, a sum with random signs drawn from the tensor's place, changes with any direction of change, and by about
    the L2 norm of that change.
    """
    digest = hashlib.sha256()
    tensors = {}
    for index, (name, value) in enumerate(sorted(state.items())):
        digest.update(name.encode() + value.contiguous().numpy().tobytes())
        flat = value.double().flatten()
        signs = torch.randint(0, 2, flat.shape, generator=torch.Generator().manual_seed(index)).double() * 2 - 1
        tensors[name] = {"norm": flat.norm().item(), "projection": (flat * signs).sum().item()}
    return {"sha256": digest.hexdigest(), "tensors": tensors}


@contextlib.contextmanager
def quiet_collector() -> Iterator[None]:
    """No garbage collection inside the window: it would fall on one step of one rank."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

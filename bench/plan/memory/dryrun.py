"""A step of the real model on tensors without storage, with a process group that sends nothing: peak at any number of ranks.

Everything is what a run has: our model, our adapter, the engine's own wrapper, torch's optimizer. Only the values are missing
(FakeTensorMode), so nothing may depend on one: how many tokens have a target is told. The peak is that of torch's own tracker of
tensors (torch.distributed._tools), at the resolution of storages: no allocator, no library.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.distributed._tools.mem_tracker import MemTracker
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import distributed as ddp_module
from transformers import masking_utils

import model
from backends import fsdp as fsdp_adapter
from backends.base import Backend, EngineConfig
from backends.ddp import DDP
from backends.fsdp import FSDP
from backends.world import World
from bench.config import ConfigError
from bench.plan.memory.network import Anomaly, Network
from bench.plan.memory.onlookers import Known, ShardTracker, Tracker
from bench.plan.rows import gib
from bench.plan.setup import OPTIMIZERS, Setup
from bench.workload import optimizer_factory
from model.presets import ModelConfig

ENGINES: dict[str, type[Backend]] = {"ddp": DDP, "fsdp": FSDP}


@dataclass(frozen=True)
class Peak:
    """Bytes at the peak by torch's own categories, and all together."""

    parts: Mapping[str, int]
    total: int


def dry_run(network: Anomaly, setup: Setup) -> Peak:
    """Peak of rank 0 in one optimizer step, optimizer state being there already. Raises ConfigError for what can't be dry-run."""
    if setup.engine not in ENGINES:
        raise ConfigError(f"a dry run knows {' and '.join(ENGINES)}, not {setup.engine}")
    if setup.recipe not in model.PRECISIONS:
        raise ConfigError(
            f"a dry run has the model's own precisions, {' and '.join(model.PRECISIONS)}, not {setup.recipe}"
        )
    if setup.checkpointing != "none":
        raise ConfigError("the model recomputes nothing, so neither does a dry run: --checkpointing none")
    if dist.is_initialized():
        raise ConfigError(
            "a dry run needs a process without a process group: start it on its own, not under a launcher"
        )
    engine = EngineConfig(
        accumulation=setup.accumulation, micro_batch=setup.micro_batch, bucket_mb=setup.bucket_mb, device="cpu"
    )
    with _group(setup.ranks), FakeTensorMode(allow_non_fake_inputs=True), _lenient(setup.ranks):
        net = _built(network, setup.recipe)
        backend = _adapter(setup.engine, World(rank=0, size=setup.ranks), engine)
        backend.model = net
        make = optimizer_factory(OPTIMIZERS[setup.optimizer], lr=1e-3, weight_decay=0.0, device=backend.device)
        seen = Tracker()  # DDP's buckets are made in C++ at setup; FSDP's tracker wants the wrapped model
        with seen if setup.engine == "ddp" else nullcontext():
            backend._own(make)
        if isinstance(backend, DDP):  # the fake group's result is no tensor, which DDP's reducer asks for
            backend.wrapped.register_comm_hook(None, _unchanged)
        _first_update(backend)
        batch = _batch(network, setup.micro_batch)
        tracker = _tracker(backend, net, seen)
        with tracker, Known(round(setup.micro_batch * network.answer_tokens)):
            for micro in range(setup.accumulation):
                tracker.reset_mod_stats()  # it follows one forward of each module
                losses = backend.forward(batch, sync=micro == setup.accumulation - 1)
                backend.backward(losses.total / setup.accumulation)
                del losses
            backend.step()
        found = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
        backend.release()
    parts = {str(getattr(name, "value", name)): int(size) for name, size in found.items() if size}
    total = parts.pop("Total")
    return Peak(parts, total)


@contextmanager
def _lenient(ranks: int) -> Iterator[None]:
    """Where others read values, or take fake tensors for something else.

    DDP compares shapes with other ranks in C++: here are none. The mesh is a table of real numbers, made outside the fake tensors.
    transformers takes them for a trace, and would keep a mask in each layer that no run has.
    """
    with unset_fake_temporarily():
        mesh = init_device_mesh("cpu", (ranks,))
    with ExitStack() as stack:
        for place, name, instead in (
            (ddp_module, "_verify_param_shape_across_processes", lambda *_, **__: None),
            (fsdp_adapter, "init_device_mesh", lambda *_, **__: mesh),
            (masking_utils, "is_tracing", lambda *_: False),
        ):
            stack.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, instead)
        yield


def _unchanged(_: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """The exchange of one bucket: nothing. DDP reads the annotations."""
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


@contextmanager
def _group(ranks: int) -> Iterator[None]:
    """A default process group of `ranks` ranks, of which only this one is there."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # registers the backend `fake`

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _adapter(engine: str, world: World, config: EngineConfig) -> Backend:
    """Our adapter, joined to the group that is already there instead of making one."""
    backend = ENGINES[engine].__new__(ENGINES[engine])
    Backend.__init__(backend, world, config)
    backend.local = {}  # type: ignore[attr-defined]
    return backend


def _built(network: Anomaly, precision: str) -> nn.Module:
    """The preset's model without files: random towers of the same sizes, bytes for tokens, constants of `prepare` as they lie."""
    c: ModelConfig = replace(
        network.config, vision_asset=None, text_asset=None, llm_asset=None, from_folder=True, weights=None
    )
    with torch.device("meta"), unset_fake_temporarily():
        net = model.build(c, precision=precision)
    net.to_empty(device="cpu")
    if c.llm_tied:
        net.llm.llama.tie_weights()  # what was one tensor has become two
    net.text_features = torch.empty(network.classes, 2, c.text_width)
    net.banks = torch.empty(network.classes, len(c.taps), c.bank_patches, c.vision_width)
    return net


def _first_update(backend: Backend) -> None:
    """Optimizer state exists after the first update only: one without gradients of a model."""
    assert backend.optimizer is not None
    for group in backend.optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    backend.optimizer.step()
    backend.optimizer.zero_grad()


def _batch(network: Anomaly, samples: int) -> dict[str, Tensor]:
    side, text = network.config.image_size, network.text_tokens
    index = torch.zeros(samples, dtype=torch.int64)
    ids = torch.zeros(samples, text, dtype=torch.int64)
    truth = torch.zeros(samples, dtype=torch.bool)
    return {
        "image": torch.zeros(samples, 3, side, side),
        "mask": torch.zeros(samples, side, side),
        "class_id": index,
        "few_shot": truth,
        "pixel": truth,
        "index": index,
        "ids": ids,
        "labels": ids,
    }


def _tracker(backend: Backend, net: nn.Module, seen: Tracker) -> MemTracker:
    if isinstance(backend, FSDP):
        return ShardTracker(net, backend.optimizer)
    assert backend.optimizer is not None
    seen.track_external(net, backend.optimizer)
    return seen


def report(setups: Iterable[Setup], network: Network) -> Table:
    """Peak of each setup that can be dry-run, beside the closed form. Raises ConfigError where none can, or for a plain transformer."""
    from bench.plan.memory.closed_form import predict

    if not isinstance(network, Anomaly):
        raise ConfigError("--dry-run runs a preset's real model; add --preset tiny, say")
    chosen = [setup for setup in setups if setup.engine in ENGINES]
    if not chosen:
        raise ConfigError(f"--dry-run knows {' and '.join(ENGINES)}; name one with --engines")
    drawn = Table(title="dry run of the real model on fake tensors, GiB", title_justify="left")
    for heading in ("GPUs", "engine", "dry run", "closed form", "difference", "made of"):
        drawn.add_column(heading, justify="left" if heading in ("engine", "made of") else "right")
    for setup in chosen:
        found, closed = dry_run(network, setup), predict(network, setup).peak
        parts = ", ".join(f"{name} {gib(size)}" for name, size in sorted(found.parts.items(), key=lambda p: -p[1]))
        drawn.add_row(
            str(setup.ranks), setup.engine, gib(found.total), gib(closed), f"{closed / found.total - 1:+.1%}", parts
        )
    return drawn

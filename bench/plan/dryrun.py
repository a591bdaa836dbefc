"""A step of the real model on tensors without storage, with a process group that sends nothing: peak at any number of ranks.

Everything is what a run has: our model, our adapter, the engine's own wrapper, torch's optimizer. Only the values are missing
(FakeTensorMode), so nothing may depend on one: how many tokens have a target is told. The peak is that of torch's own tracker of
tensors (torch.distributed._tools), at the resolution of storages: no allocator, no library.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from rich.table import Table
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils._python_dispatch import TorchDispatchMode

import model
from backends.base import Backend, EngineConfig
from backends.ddp import DDP
from backends.fsdp import FSDP
from backends.world import World
from bench.config import ConfigError
from bench.plan.network import Anomaly, Network
from bench.plan.rows import gib
from bench.plan.setup import OPTIMIZERS, Setup
from bench.workload import optimizer_factory
from model.presets import ModelConfig

ENGINES: dict[str, type[Backend]] = {"ddp": DDP, "fsdp": FSDP}
STEPS = 2  # optimizer state exists from the second on
aten = torch.ops.aten


class Known(TorchDispatchMode):
    """Answers what depends on values: every truth is true, and a mask selects `count` of its elements."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return True
        if func is aten.masked_select.default:
            return args[0].new_empty(self.count)
        if func is aten.index.Tensor and (mask := _mask(args[1])) is not None:
            return args[0].new_empty((self.count, *args[0].shape[mask.dim() :]))
        puts = (aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
        if func in puts and _mask(args[1]) is not None:
            return torch.empty_like(args[0]) if func is aten.index_put.default else args[0]
        return func(*args, **named)


def _mask(indices: Sequence[Tensor | None]) -> Tensor | None:
    first = indices[0] if indices else None
    return first if first is not None and first.dtype == torch.bool else None


@dataclass(frozen=True)
class Peak:
    """Bytes at the peak by torch's own categories, and all together."""

    parts: Mapping[str, int]
    total: int


def dry_run(network: Anomaly, setup: Setup) -> Peak:
    """Peak of rank 0 in STEPS optimizer steps. Raises ConfigError for what can't be dry-run."""
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
    with _group(setup.ranks), FakeTensorMode(allow_non_fake_inputs=True):
        net = _built(network, setup.recipe)
        backend = _adapter(setup.engine, World(rank=0, size=setup.ranks), engine)
        backend.model = net
        backend._own(optimizer_factory(OPTIMIZERS[setup.optimizer], lr=1e-3, weight_decay=0.0, device=backend.device))
        batch = _batch(network, setup.micro_batch)
        tracker = _tracker(backend, net)
        with tracker, Known(round(setup.micro_batch * network.answer_tokens)):
            for _ in range(STEPS):
                for micro in range(setup.accumulation):
                    losses = backend.forward(batch, sync=micro == setup.accumulation - 1)
                    backend.backward(losses.total / setup.accumulation)
                    del losses
                backend.step()
                if isinstance(tracker, FSDPMemTracker):
                    tracker.reset_mod_stats()
        found = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
        backend.release()
    parts = {str(getattr(name, "value", name)): int(size) for name, size in found.items() if size}
    total = parts.pop("Total")
    return Peak(parts, total)


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
    net = model.build(c, precision=precision)
    net.text_features = torch.empty(network.classes, 2, c.text_width)
    net.banks = torch.empty(network.classes, len(c.taps), c.bank_patches, c.vision_width)
    return net


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


def _tracker(backend: Backend, net: nn.Module) -> MemTracker:
    if isinstance(backend, FSDP):
        return FSDPMemTracker(net, backend.optimizer)
    tracker = MemTracker()
    assert backend.optimizer is not None
    tracker.track_external(net, backend.optimizer)
    return tracker


def report(setups: Iterable[Setup], network: Network) -> Table:
    """Peak of each setup that can be dry-run, beside the closed form. Raises ConfigError where none can, or for a plain transformer."""
    from bench.plan.memory import predict

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

"""Bytes of one rank by category, in closed form, and its peak: the largest of three moments of a step.

States follow bench/memory_model.py, which derives them from each engine's source; the ZeRO paper's own equations (arXiv
1910.02054, sections 3 and 5) are in bench/plan/validation/conventions.py. Activations follow Korthikanti et al. 2022 (arXiv 2205.05198)
for a plain transformer, model/activations.py for AnomalyGPT. What an engine holds for its exchange (section 3.2 of the ZeRO
paper calls it temporary buffers) follows each adapter in backends/.

The moments: `forward`, when all activations are kept and no gradient of this micro-batch is there; `backward`, when all gradients
are there and no activation; `update`. In between one falls as the other rises, so neither moment is exceeded.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from backends.ring.buckets import plan
from backends.ring.pipeline import scratch_values
from backends.ring.shared import meeting_bytes
from bench.memory_model import VALUE, Shape, Shapes, derived
from bench.plan.memory.network import Network, largest_tensor
from bench.plan.memory.recipe import Recipe, recipe
from bench.plan.setup import OPTIMIZERS, Setup

LOOKED_AT = 64  # ranks whose flat parts are derived: the largest is what must fit
CATEGORIES = ("parameters", "gradients", "optimizer", "activations", "buffers", "gathered", "workspace")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of the rank that holds most. `gradients`: at the end of backward. `buffers`: the model's own and those of the
    exchange. `gathered`: whole parameters and gradients beside the shards. `host`: of this rank, on the CPU."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    buffers: int
    gathered: int
    workspace: int
    host: int
    moments: dict[str, int]

    @property
    def moment(self) -> str:
        """Where the peak is: forward, backward or update."""
        return max(self.moments, key=lambda name: self.moments[name])

    @property
    def peak(self) -> int:
        return self.moments[self.moment]


@dataclass(frozen=True)
class Exchange:
    """Bytes that an engine holds to exchange: always, in backward alone, gathered parameters, whole gradients of what is reduced."""

    always: int = 0
    backward: int = 0
    gathered: int = 0
    whole: int = 0


def predict(network: Network, setup: Setup) -> Memory:
    """What one rank of `setup` holds of `network`."""
    kind, shapes = recipe(setup.recipe), network.shapes
    states = held(shapes, setup)
    exchange = exchanged(network, setup, kind)
    kept = network.activations(setup.micro_batch, kind, setup.checkpointing, saves_inputs=setup.base == "zero-3")
    activations, workspace = sum(kept.values()), network.workspace(setup.micro_batch, kind)
    own = network.buffer_bytes + exchange.always
    stay = states["parameters"] + states["optimizer"] + own
    before = _standing_gradients(setup, states["gradients"], kind.widths.gradient * shapes.trained_values)
    update = stay + states["gradients"] + _update_bytes(shapes, setup, kind)
    moments = {
        "forward": stay + exchange.gathered + before + activations + workspace,
        "backward": stay + exchange.gathered + states["gradients"] + exchange.whole + exchange.backward,
        "update": update,
    }
    return Memory(
        parameters=states["parameters"],
        gradients=states["gradients"],
        optimizer=states["optimizer"],
        activations=activations,
        buffers=own + exchange.backward,
        gathered=exchange.gathered + exchange.whole,
        workspace=workspace,
        host=states["host"],
        moments=moments,
    )


def held(shapes: Shapes, setup: Setup) -> dict[str, int]:
    """Parameters, gradients and optimizer state at the end of backward, of the rank with most, and `host` on the CPU.

    Offloading moves what a rank updates: fp32 master, moments and gradients, 16 bytes a value under Adam, and with them the
    shards of parameters (`stage3.py: estimate_zero3_model_states_mem_needs`: 16 and 18).
    """
    found = None
    for rank in _ranks(setup.ranks):
        one = derived(
            setup.base,
            shapes,
            optimizer=OPTIMIZERS[setup.optimizer],
            rank=rank,
            ranks=setup.ranks,
            widths=recipe(setup.recipe).widths,
        )
        assert one is not None
        if found is None or sum(one.values()) > sum(found.values()):
            found = one
    assert found is not None
    if setup.offload == "none":
        return {**found, "host": 0}
    part = math.ceil(shapes.trained_values / setup.ranks)
    host = found["optimizer"] + VALUE * part
    found = {**found, "gradients": 0, "optimizer": 0}
    if setup.offload == "all":
        host += found["parameters"]
        found["parameters"] = 0
    return {**found, "host": host}


def exchanged(network: Network, setup: Setup, kind: Recipe) -> Exchange:
    """What the exchange of gradients and the gathering of parameters need beside the states."""
    shapes, engine = network.shapes, setup.base
    trained = shapes.trained_values
    own = max(
        1, min(int(setup.bucket_mb * 2**20) // VALUE, trained)
    )  # values in a bucket, as the adapters translate it
    bucket = kind.widths.gradient * own
    if engine == "horovod":
        return Exchange(always=bucket)  # its fusion buffer
    if engine == "ring" and setup.shared:
        return Exchange(always=meeting_bytes())
    if engine == "ring":
        sizes = [math.prod(shape) for shape in shapes.trained]
        longest = max(sum(sizes[i] for i in group) for group in plan(sizes, own))
        return Exchange(always=kind.widths.gradient * scratch_values(longest, setup.ranks, kind.widths.gradient))
    if engine == "zero-0":
        return Exchange(backward=bucket)  # gradients are copied together, bucket by bucket
    if engine in ("zero-1", "zero-2"):
        buckets = bucket * (2 if setup.overlap else 1)
        whole = trained if engine == "zero-1" else largest_tensor(shapes, trained_only=True)
        return Exchange(backward=buckets, whole=kind.widths.gradient * whole)
    if engine == "zero-3":
        # its coordinator fetches ahead only below `live`, so that bounds all that is gathered but the layer in use
        gathered = min(max(largest_tensor(shapes), setup.live), shapes.trained_values + shapes.frozen_values)
        whole = kind.widths.gradient * largest_tensor(shapes, trained_only=True)
        return Exchange(always=bucket, gathered=kind.widths.parameter * gathered, whole=whole)
    if engine == "fsdp" and setup.ranks > 1:
        units = [_padded(unit, setup.ranks) for unit in network.units]
        unit, root = max(units, default=0), _padded(network.root, setup.ranks)
        gathered = kind.widths.parameter * (root + 2 * unit)  # the block in use and the one fetched ahead
        return Exchange(gathered=gathered, whole=kind.widths.gradient * min(trained, max(unit, root)))
    return Exchange()  # ddp: gradients are views of its buckets


def _padded(shapes: Iterable[Shape], ranks: int) -> int:
    """Values of tensors gathered whole: each first dimension is rounded up to what all ranks' shards hold."""
    return sum(math.ceil(shape[0] / ranks) * ranks * math.prod(shape[1:]) for shape in shapes)


def _standing_gradients(setup: Setup, kept: int, whole: int) -> int:
    """Of earlier micro-batches, or always there: buckets of DDP (gradients are views of them once they are exchanged, and tensors of
    their own before) and of the ring, ZeRO-3's flat part. FSDP adds up whole gradients until it exchanges them."""
    if setup.offload != "none":
        return 0
    always = kept if setup.base in ("ddp", "ring", "zero-3") else 0
    if setup.accumulation == 1 or setup.base in ("ring", "zero-3"):
        return always
    return whole + always if setup.base in ("ddp", "zero-1", "fsdp") else kept


def _update_bytes(shapes: Shapes, setup: Setup, kind: Recipe) -> int:
    """Of the update: fp32 copies of 16-bit gradients that are updated here, and one temporary of torch's AdamW over all of them."""
    if setup.offload != "none":
        return 0
    sharded = setup.base in ("zero-1", "zero-2", "zero-3", "fsdp")
    part = math.ceil(shapes.trained_values / (setup.ranks if sharded else 1))
    copies = VALUE * part if kind.widths.gradient < VALUE and setup.base != "fsdp" else 0
    return copies + (VALUE * part if setup.moments else 0)


def _ranks(ranks: int) -> list[int]:
    if ranks <= LOOKED_AT:
        return list(range(ranks))
    return sorted({round(i * (ranks - 1) / (LOOKED_AT - 1)) for i in range(LOOKED_AT)})

"""Bytes of parameters, gradients and optimizer state that a rank must hold under each engine, derived from the sources.

Counted at the end of backward, before the update: the moment when all three exist. The derivation follows DeepSpeed 0.19.8
(`runtime/zero/stage_1_and_2.py`, `stage3.py`, `partition_parameters.py`) and torch 2.13's FSDP2 (`_fsdp_param.py`), not the
paper; `paper` is what the ZeRO paper (Rajbhandari et al. 2020, arXiv 1910.02054, sections 3.1 and 5) gives for the same model.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import nn

STATES = ("parameters", "gradients", "optimizer")
VALUE = 4  # bytes: our engines are given fp32 tensors, precision is decided inside the model
MOMENTS = {"sgd": 0, "adamw": 2}  # values that the update rule keeps for each trained one (no momentum under SGD)
COUNTER = 4  # AdamW's step number, an fp32 tensor of its own for each tensor that the optimizer sees
ALIGNMENT = 2  # DeepSpeed's `nccl_start_alignment_factor`, values
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Widths:
    """Bytes of one value as an engine holds it. `master`: of a replica's own fp32 copy beside reduced parameters, else 0."""

    parameter: int = VALUE
    gradient: int = VALUE
    master: int = 0

    @property
    def kept(self) -> int:
        """Of a parameter where the engine keeps shards and reduces only what it gathers (FSDP2's mixed precision)."""
        return max(self.parameter, self.master)


FULL = Widths()


@dataclass(frozen=True)
class Shapes:
    """A model's parameters in its own order: what is trained, what is frozen."""

    trained: tuple[Shape, ...]
    frozen: tuple[Shape, ...]

    @classmethod
    def of(cls, model: nn.Module) -> "Shapes":
        """Before an engine has replaced anything."""
        known = [(tuple(p.shape), p.requires_grad) for p in model.parameters()]
        return cls(
            tuple(shape for shape, trained in known if trained), tuple(shape for shape, trained in known if not trained)
        )

    @cached_property
    def trained_values(self) -> int:
        """Of all trained tensors together; kept, since a prediction asks for each of many ranks."""
        return values(self.trained)

    @cached_property
    def frozen_values(self) -> int:
        """Of all frozen tensors together."""
        return values(self.frozen)


def derived(
    engine: str, shapes: Shapes, *, optimizer: str, rank: int, ranks: int, widths: Widths = FULL
) -> dict[str, int] | None:
    """Bytes by category of this rank, exact, by engine label (`zero-2`, `fsdp`, ...); None for offloading, which has no derivation.

    `optimizer`: sgd or adamw; its moments are fp32. `widths`: of a recipe that holds parameters and gradients in 16 bits.
    """
    if engine in ("zero-1", "zero-2"):
        return _flat_partition(shapes, MOMENTS[optimizer], rank, ranks, widths)
    if engine == "zero-3":
        return _tensor_partition(shapes, MOMENTS[optimizer], ranks, widths)
    if engine == "fsdp":
        return _row_partition(shapes, MOMENTS[optimizer], rank, ranks, widths)
    if engine.startswith("zero-") and engine != "zero-0":
        return None
    return _replica(shapes, MOMENTS[optimizer], widths)


def paper(engine: str, shapes: Shapes, *, optimizer: str, ranks: int) -> dict[str, int]:
    """Bytes by category by the paper's formulas, with N ranks and Psi trained values: stage 1 shards optimizer state (K Psi / N),
    stage 2 gradients as well, stage 3 parameters as well.

    Its 2 + 2 + K = 12 bytes of mixed precision are 4 + 4 + K here: values are fp32, so K = 8 under AdamW (two moments, no
    master copy) and 0 under SGD. It has no frozen parameters; here they are parameters that have nothing else. FSDP2 is its
    stage 3. Fractions of a byte are rounded up.
    """
    trained, frozen = VALUE * shapes.trained_values, VALUE * shapes.frozen_values
    stage = 3 if engine == "fsdp" else int(engine.split("-")[1]) if engine.startswith("zero-") else 0
    whole = {
        "parameters": (trained + frozen, 3),
        "gradients": (trained, 2),
        "optimizer": (MOMENTS[optimizer] * trained, 1),
    }
    return {name: math.ceil(size / ranks) if stage >= first else size for name, (size, first) in whole.items()}


REASONS = {
    "whole": "nothing is sharded; AdamW's step number is counted (4 bytes a tensor)",
    "flat": "parameters: one flat buffer, padded to 2N values; gradients: stage 1 too keeps only its part, but every tensor "
    "that touches the part is kept whole, and the padding is tensors of its own; optimizer: an fp32 copy of the rank's part "
    "is kept although parameters are fp32 (Psi/N), and AdamW's step number",
    "tensors": "each tensor is cut alone, so each rounds up to a multiple of N values; optimizer: an fp32 copy of the rank's "
    "part is kept although parameters are fp32 (Psi/N), and AdamW's step number",
    "rows": "each tensor is cut along its first dimension, rounded up to a multiple of N rows; the optimizer keeps no padding, "
    "but AdamW's step number for each tensor",
}


def reason(engine: str) -> str:
    """Why `derived` differs from `paper`."""
    kind = {"zero-1": "flat", "zero-2": "flat", "zero-3": "tensors", "fsdp": "rows"}.get(engine, "whole")
    return "offloading: not derived" if engine.endswith("-offload") else REASONS[kind]


def values(shapes: Iterable[Shape]) -> int:
    """Of all tensors together."""
    return sum(math.prod(shape) for shape in shapes)


def _replica(shapes: Shapes, moments: int, widths: Widths) -> dict[str, int]:
    trained = shapes.trained_values
    counters = COUNTER * len(shapes.trained) if moments else 0
    return {
        "parameters": widths.parameter * (trained + shapes.frozen_values),
        "gradients": widths.gradient * trained,
        "optimizer": (widths.master + VALUE * moments) * trained + counters,
    }


def _flat_partition(shapes: Shapes, moments: int, rank: int, ranks: int, widths: Widths) -> dict[str, int]:
    """ZeRO 1 and 2. All trained parameters lie in one flat buffer of a multiple of 2N values, cut into N equal parts
    (`flatten_dense_tensors_aligned`). A rank clones its part as fp32 master (line 561, in fp32 too: engines differ here), over
    which the optimizer has one tensor. `grads_in_partition` copies every gradient that touches the part, whole, in both
    stages; what is padding gets zeros (`get_flat_partition`). Frozen parameters are whole on every rank. The reduction
    buckets (`setup_buckets`) live during backward only, so no bucket size enters.
    """
    step = ALIGNMENT * ranks
    trained = shapes.trained_values
    flat = math.ceil(trained / step) * step
    part = flat // ranks
    begin, end = rank * part, (rank + 1) * part
    touched = covered = at = 0
    for shape in shapes.trained:
        size = math.prod(shape)
        inside = min(end, at + size) - max(begin, at)
        if inside > 0:
            touched += size
            covered += inside
        at += size
    return {
        "parameters": widths.parameter * (flat + shapes.frozen_values),
        "gradients": widths.gradient * (touched + part - covered),
        "optimizer": VALUE * (1 + moments) * part + (COUNTER if moments else 0),
    }


def _tensor_partition(shapes: Shapes, moments: int, ranks: int, widths: Widths) -> dict[str, int]:
    """ZeRO 3 with persistence threshold 0. Every tensor, frozen ones too, is cut alone into N parts of ceil(n / N) values
    (`_partition_param`); gradients lie in one flat buffer of those parts (`grad_partitions_flat_buffer`). The master copy is
    cloned in fp32 too: `_create_fp32_partitions` spares it only where a tensor's device equals the accelerator's name, and a
    torch.device never equals a string.
    """
    trained = sum(math.ceil(math.prod(shape) / ranks) for shape in shapes.trained)
    frozen = sum(math.ceil(math.prod(shape) / ranks) for shape in shapes.frozen)
    return {
        "parameters": widths.parameter * (trained + frozen),
        "gradients": widths.gradient * trained,
        "optimizer": VALUE * (1 + moments) * trained + (COUNTER if moments else 0),
    }


def _row_partition(shapes: Shapes, moments: int, rank: int, ranks: int, widths: Widths) -> dict[str, int]:
    """FSDP2. Every tensor is cut along its first dimension into chunks of ceil(rows / N) rows, as torch.chunk does; a rank that
    has fewer rows pads its shard, so parameters and gradients take a whole chunk everywhere. The optimizer's state follows
    the rows that are there.
    """

    def shard(shape: Shape, *, padded: bool) -> int:
        rows, rest = shape[0], math.prod(shape[1:])
        chunk = math.ceil(rows / ranks)
        return rest * (chunk if padded else max(0, min(chunk, rows - rank * chunk)))

    def total(chosen: Sequence[Shape], *, padded: bool) -> int:
        return sum(shard(shape, padded=padded) for shape in chosen)

    return {
        "parameters": widths.kept * total((*shapes.trained, *shapes.frozen), padded=True),
        "gradients": widths.kept * total(shapes.trained, padded=True),
        "optimizer": VALUE * moments * total(shapes.trained, padded=False)
        + (COUNTER * len(shapes.trained) if moments else 0),
    }

"""What may be tried of each engine, as data: setting, values, why it matters, and who says so."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from backends.tuning import OWNERS
from bench import machine, matrix
from bench.config import ConfigError, RunConfig

STAGED = "deepspeed"  # the engine whose stage is itself tried; `zero-2` and the like keep theirs
Chosen = Mapping[str, Any]
Applies = Callable[[Chosen, RunConfig], bool]


def _always(chosen: Chosen, config: RunConfig) -> bool:
    return True


@dataclass(frozen=True)
class Knob:
    """`values` begin with the controlled one. `applies`: whether it means anything beside what was chosen before it."""

    name: str
    values: tuple[Any, ...]
    why: str
    source: str
    applies: Applies = _always


KNOBS = (
    Knob("zero_stage", (2, 0, 1, 3), "what is sharded decides what must travel: 2 reduces each micro-batch, 1 only the last",
         "Rajbhandari et al. 2020, arXiv 1910.02054, section 7; DeepSpeed issue 2252"),
    Knob("offload_optimizer", (False, True), "the update on the CPU frees device memory and costs two copies",
         "Ren et al. 2021, arXiv 2101.06840", lambda chosen, config: chosen.get("zero_stage", 0) > 0 and has_gpu()),
    Knob("own_bucket_mb", (None, 0.25, 1.0, 5.0, 100.0), "small buckets start early and overlap, large ones cost fewer calls",
         "Li et al. 2020, arXiv 2006.15704, section 5.3; Horovod: docs/tensor-fusion.rst",
         lambda chosen, config: not chosen.get("autotune")),
    Knob("fused_optimizer", (False, True), "one kernel over all parameters instead of a loop over them",
         "PyTorch: torch.optim.AdamW, fused", lambda chosen, config: config.training.optimizer == "adamw"),
    Knob("engine_adam", (False, True), "DeepSpeed's own kernel, on the CPU vectorised for offloaded state",
         "DeepSpeed: docs/optimizers.rst",
         lambda chosen, config: config.training.optimizer == "adamw" and not chosen["fused_optimizer"] and has_gpu()),
    Knob("compression", ("none", "fp16"), "half the bytes on the wire, for a cast on either side",
         "PyTorch: ddp_comm_hooks; Horovod: hvd.Compression; DeepSpeed: communication_data_type; FSDP2: reduce_dtype",
         lambda chosen, config: config.engine.backend != "fsdp" or config.training.accumulation == 1),
    Knob("gradient_as_bucket_view", (True, False), "views save a copy of all gradients, and their memory",
         "PyTorch: DistributedDataParallel"),
    Knob("static_graph", (False, True), "no search for what takes part in backward, less bookkeeping a step",
         "PyTorch: DistributedDataParallel", lambda chosen, config: config.training.accumulation == 1),
    Knob("autotune", (False, True), "Horovod looks for fusion size and cycle time itself; a run pays for its search",
         "Horovod: docs/autotune.rst"),
    Knob("cycle_ms", (None, 0.2, 3.0, 10.0), "short cycles answer early, long ones fuse more and look less often",
         "Horovod: docs/tensor-fusion.rst", lambda chosen, config: not chosen.get("autotune")),
    Knob("overlap_comm", (True, False), "reduces while backward runs, with a second bucket and a stream",
         "DeepSpeed: docs/config-json, overlap_comm", lambda chosen, config: chosen.get("zero_stage", 1) > 0),
    Knob("multi_rank_allreduce", (True, False), "one all-reduce a bucket is one call; a reduce to each owner is half the bytes",
         "DeepSpeed pull request 4946", lambda chosen, config: chosen.get("zero_stage", 1) in (1, 2)),
    Knob("one_unit", (False, True), "on a small model the calls of many units cost more than their overlap saves",
         "Zhao et al. 2023, arXiv 2304.11277, section 3.2.1"),
    Knob("reshard", (True, False), "keeping what was gathered saves a second gather, for the memory of whole parameters",
         "Zhao et al. 2023, arXiv 2304.11277, section 3.2.2",
         lambda chosen, config: not chosen.get("one_unit") and chosen.get("zero_stage", 3) == 3),
)  # fmt: skip
STAGE_KNOBS = ("zero_stage", "offload_optimizer")
ORDER = ("autotune", "one_unit")  # chosen before what depends on them


def has_gpu() -> bool:
    """Whether this machine has one."""
    return bool(machine.look().gpus)


def base(engine: str, config: Mapping[str, Any]) -> RunConfig:
    """The controlled run of an engine under a matrix's overrides. Raises MatrixError for an unknown engine."""
    label = "zero-2" if engine == STAGED else engine
    engines = tuple(dict.fromkeys((matrix.REFERENCE, label)))
    return matrix.Matrix(name="tuned", engines=engines, config=config).run_config(label)


def knobs(engine: str) -> list[Knob]:
    """What is tried of an engine, in the order in which it is chosen."""
    if engine == STAGED:
        mine = [each for each in KNOBS if each.name in STAGE_KNOBS or set(OWNERS[each.name]) & set(_stages())]
    else:
        owner = engine.removesuffix("-offload")
        mine = [each for each in KNOBS if each.name not in STAGE_KNOBS and owner in OWNERS[each.name]]
    return sorted(mine, key=lambda each: each.name not in ORDER)


def apply(config: RunConfig, chosen: Chosen) -> RunConfig:
    """A configuration with settings of its own. Raises ConfigError where they don't go together."""
    groups = {group.name: getattr(config, group.name) for group in dataclasses.fields(config)}
    for name in ("engine", "tuning"):
        own = {key: value for key, value in chosen.items() if hasattr(groups[name], key)}
        groups[name] = dataclasses.replace(groups[name], **own)
    return RunConfig(**groups)


def allowed(config: RunConfig, chosen: Chosen) -> bool:
    """Whether settings go together."""
    try:
        apply(config, chosen)
    except ConfigError:
        return False
    return True


def _stages() -> tuple[str, ...]:
    return tuple(f"zero-{stage}" for stage in range(4))

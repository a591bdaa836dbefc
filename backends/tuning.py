"""What an engine can do for its own speed. In a controlled comparison all of it stays as every engine has it: the defaults here."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

ZERO = ("zero-0", "zero-1", "zero-2", "zero-3")
# Whose setting it is, by the engine's name in tables; of zero-N-offload as of zero-N.
OWNERS: dict[str, tuple[str, ...]] = {
    "own_bucket_mb": ("ddp", *ZERO, "horovod", "ring"),
    "fused_optimizer": ("ddp", "fsdp", *ZERO, "horovod", "ring"),
    "compression": ("ddp", "fsdp", *ZERO, "horovod", "ring"),
    "gradient_as_bucket_view": ("ddp",),
    "static_graph": ("ddp",),
    "cycle_ms": ("horovod",),
    "autotune": ("horovod",),
    "overlap_comm": ("zero-1", "zero-2", "zero-3"),
    "multi_rank_allreduce": ("zero-1", "zero-2"),
    "engine_adam": ZERO,
    "reshard": ("fsdp", "zero-3"),
    "one_unit": ("fsdp",),
}
INEXACT = ("compression",)  # the others leave what is computed as it is


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Settings of one engine. A run that changes any of them is on the tuned track, apart from controlled ones."""

    own_bucket_mb: float | None = None
    """ddp, deepspeed, horovod, ring: this engine's own bucket or fusion size in MiB, instead of --bucket-mb."""
    fused_optimizer: bool = False
    """all but single: torch's fused update, one kernel over all parameters, instead of a loop over them."""
    compression: Literal["none", "fp16", "bf16"] = "none"
    """all but single (bf16: ring): gradients travel as 16 bits. Half the bytes, another result: such a run is never verified.
    The ring then sends messages between ranks of one host too."""
    gradient_as_bucket_view: bool = True
    """ddp: gradients are views of the buckets; without, they are copied in and out."""
    static_graph: bool = False
    """ddp: the graph is the same in each step, so what was seen in the first is not looked for again."""
    cycle_ms: float | None = None
    """horovod: milliseconds between two looks at the queue of gradients; 1 where it is not given."""
    autotune: bool = False
    """horovod: it chooses its own fusion size and cycle time, by trying some while the run goes on."""
    overlap_comm: bool = True
    """deepspeed, stages 1 to 3: gradients are reduced while backward goes on."""
    multi_rank_allreduce: bool = True
    """deepspeed, stages 1 and 2: one all-reduce a bucket; without, a reduce to each owner, and half the bytes."""
    engine_adam: bool = False
    """deepspeed: its own AdamW (fused, or for the CPU with --offload-optimizer), compiled at first use."""
    reshard: bool = True
    """fsdp, deepspeed stage 3: give gathered parameters up after forward, and gather them again in backward."""
    one_unit: bool = False
    """fsdp: the whole model is one unit: one gather and one reduction, nothing overlapped."""

    def changed(self) -> dict[str, Any]:
        """What differs from the controlled setting, by name; empty on the controlled track."""
        values = {each.name: (getattr(self, each.name), each.default) for each in dataclasses.fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    def wrong(self, label: str) -> str | None:
        """Why these settings can't be those of an engine: in one line that says whose they are; None where they can."""
        engine = label.removesuffix("-offload")
        for name in self.changed():
            if engine not in OWNERS[name]:
                return f"{flag(name, getattr(self, name))} belongs to {', '.join(OWNERS[name])}, not to {label}"
        for name in ("own_bucket_mb", "cycle_ms"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                return f"{flag(name, value)} is {value}; it must be above 0"
        if self.compression == "bf16" and engine != "ring":
            return f"--compression bf16 belongs to ring; for {label} type: --compression fp16"
        if self.autotune and (self.own_bucket_mb, self.cycle_ms) != (None, None):
            return "--autotune chooses bucket size and cycle time; leave --own-bucket-mb and --cycle-ms out"
        if self.one_unit and not self.reshard:
            return "--one-unit has no blocks to gather again; leave --no-reshard out"
        if self.engine_adam and self.fused_optimizer:
            return "--engine-adam replaces torch's optimizer; leave --fused-optimizer out"
        return None


def flag(name: str, value: Any) -> str:
    """The flag that makes a setting."""
    return f"--{'no-' if value is False else ''}{name.replace('_', '-')}"


def words(changed: dict[str, Any]) -> str:
    """Settings in a line, for tables: `compression fp16, no reshard`."""
    return ", ".join(
        name.replace("_", " ") if value is True else f"no {name.replace('_', ' ')}" if value is False
        else f"{name.replace('_', ' ')} {value:g}" if isinstance(value, float) else f"{name.replace('_', ' ')} {value}"
        for name, value in changed.items()
    )  # fmt: skip

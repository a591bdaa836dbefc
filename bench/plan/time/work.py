"""What one rank has to compute and exchange in one optimizer step, whatever the machine."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from bench import wire
from bench.config import ConfigError
from model.cost import Cost

ENGINES = ("ddp", "horovod", "ring", "zero-0", "zero-1", "zero-2", "zero-3", "fsdp")
WIRE_VALUE = wire.BYTES
TRAFFIC = 108  # bytes a token, layer and unit of width
When = Literal["backward", "pass", "after"]  # beside which work it may go on: backward, forward and backward, none


@dataclass(frozen=True, kw_only=True)
class Work:
    """A model and its step. `cost` has the fields of a record's `workload.cost`; FLOPs are those of one sample."""

    cost: Mapping[str, Any]
    micro_batch: int
    accumulation: int = 1
    precision: Literal["bf16", "fp16", "tf32", "fp32"] = "fp32"
    gradient_bytes: int = 4
    """Bytes a gradient value takes on the wire."""
    parameter_bytes: int = 4
    """Bytes a gathered parameter takes on the wire."""
    recomputed: bool = False
    """Forward is done again in backward (activation checkpointing)."""
    traffic: float = 0.0
    """Bytes a sample that layers without products move to and from device memory, forward and backward; 0: not modelled."""
    bucket_mb: float = 25.0
    real_scatter: bool = True
    """Reduce-scatter is one; gloo does an all-reduce and keeps its part."""

    def __post_init__(self) -> None:
        for name, least in (("micro_batch", 1), ("accumulation", 1), ("gradient_bytes", 1), ("parameter_bytes", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if not self.bucket_mb > 0:
            raise ConfigError(f"bucket_mb is {self.bucket_mb}; it must be above 0")

    @property
    def samples(self) -> int:
        """That one rank takes in a step."""
        return self.micro_batch * self.accumulation

    @property
    def forward_flops(self) -> float:
        """Of one rank's step."""
        return float(self.samples * sum(self.cost["forward"].values()))

    @property
    def backward_flops(self) -> float:
        """Of one rank's step, what is computed again included."""
        again = self.forward_flops if self.recomputed else 0.0
        return float(self.samples * sum(self.cost["backward"].values())) + again


def of(cost: Cost, **settings: Any) -> Work:
    """A preset's, from its closed-form cost."""
    return Work(cost=asdict(cost) | {"gradient_bytes": cost.gradient_bytes}, **settings)


def plain(parameters: float, forward_flops: float, *, layers: int = 1, **settings: Any) -> Work:
    """A model all of which is trained: backward costs twice forward, `layers` equal blocks hold every parameter."""
    if not parameters > 0 or not forward_flops > 0 or layers < 1:
        raise ConfigError(f"a model of {parameters} parameters, {forward_flops} FLOPs and {layers} layers can't be")
    nothing = {"count": 1, "parameters": 0}
    cost = {
        "trainable": {"llm": parameters},
        "frozen": {},
        "forward": {"llm": forward_flops},
        "backward": {"llm": 2 * forward_flops},
        "blocks": {"vision": nothing, "llm": {"count": layers, "parameters": parameters}},
        "thin": 0,
        "tied": 0,
        "gradient_bytes": WIRE_VALUE * parameters,
    }
    return Work(cost=cost, **settings)


def transformer(
    layers: int, hidden: int, sequence: int, vocabulary: int, *, parameters: float | None = None, **settings: Any
) -> Work:
    """A plain GPT, a sample of `sequence` tokens: 2 P s + 4 L h s^2 FLOPs forward (Chowdhery et al. 2022, appendix B).

    Traffic of its layers without products, 2-byte values, a token: in units of h bytes two norms 2 x 4, two residual sums 2 x 6,
    GELU over 4h 16, backward twice that: 108 h a layer; and 20 V of the logits, their fp32 copy, softmax and its gradient.
    """
    if min(layers, hidden, sequence, vocabulary) < 1:
        raise ConfigError(
            f"{layers} layers, width {hidden}, {sequence} tokens, {vocabulary} words: each must be at least 1"
        )
    values = 12 * layers * hidden**2 + vocabulary * hidden if parameters is None else parameters
    forward = 2 * values * sequence + 4 * layers * hidden * sequence**2
    traffic = sequence * (TRAFFIC * layers * hidden + 20 * vocabulary)
    return plain(values, forward, layers=layers, traffic=traffic, **settings)


@dataclass(frozen=True)
class Exchange:
    """`times` collectives of `size` bytes in a step, and the work beside which they may go on."""

    collective: Literal["all-reduce", "reduce-scatter", "all-gather"]
    size: float
    times: float
    beside: When


def exchanges(work: Work, engine: str, ranks: int) -> tuple[Exchange, ...]:
    """What `engine` exchanges in a step: the bytes are those of bench/wire.py, cut into the engine's buckets or layers.

    Raises ConfigError for an unknown engine.
    """
    if engine not in ENGINES:
        raise ConfigError(f"no engine {engine!r} to predict; there are: {', '.join(ENGINES)}")
    if ranks < 1:
        raise ConfigError(f"{ranks} ranks: there must be at least 1")
    if ranks == 1:
        return ()
    sent = wire.expected(_record(work, engine, ranks))
    share = (ranks - 1) / ranks
    gradients = sent.gradients * work.gradient_bytes / WIRE_VALUE
    gathered = (sent.trainable + sent.frozen) / share * work.parameter_bytes / WIRE_VALUE
    rounds = work.accumulation if engine in ("zero-2", "zero-3") else 1
    used = {part: block for part, block in work.cost["blocks"].items() if part not in wire.UNUSED}
    blocks = sum(block["count"] for block in used.values() if block["parameters"])
    if engine in ("zero-3", "fsdp"):
        scattered = gradients / share if work.real_scatter else gradients / (2 * share)
        kind: Literal["reduce-scatter", "all-reduce"] = "reduce-scatter" if work.real_scatter else "all-reduce"
        count = max(1, blocks)
        return (
            _cut("all-gather", gathered, 2 * count * work.accumulation, "pass"),
            _cut(kind, scattered, count * rounds, "backward"),
        )
    whole = gradients / (2 * share)
    buckets = max(1.0, round(whole / rounds / (work.bucket_mb * 2**20)))
    found = [_cut("all-reduce", whole, buckets * rounds, "after" if engine == "zero-0" else "backward")]
    if engine in ("zero-1", "zero-2"):
        found.append(_cut("all-gather", gathered, buckets, "after"))
    return tuple(found)


def _cut(collective: Any, size: float, times: float, beside: When) -> Exchange:
    return Exchange(collective, size / times, times, beside)


def _record(work: Work, engine: str, ranks: int) -> dict[str, Any]:
    """As much of a record as bench/wire.py reads."""
    stage = int(engine[-1]) if engine.startswith("zero-") else 2
    return {
        "world": {"size": ranks, "device": "cuda" if work.real_scatter else "cpu"},
        "workload": {"cost": work.cost},
        "config": {
            "training": {"accumulation": work.accumulation},
            "engine": {"backend": "deepspeed" if engine.startswith("zero-") else engine, "zero_stage": stage},
        },
        "engine": {"applied": {"reshard_after_forward": [True]}},
    }

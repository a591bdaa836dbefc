"""Bytes that a rank should send in a step, derived from the setting in use; the bound beside it. Pure functions of a record.

N ranks; a ring sends (N-1)/N of the whole for an all-gather or a reduce-scatter and twice that for an all-reduce
(Patarasuk & Yuan 2009, section 3). G: bytes of the gradients, and of the trained parameters, which are fp32 too; A:
micro-batches a rank takes one after the other.

- ddp, horovod, ring, zero-0: one all-reduce of G, after the last micro-batch.
- zero-1: the same, and an all-gather of what each rank has updated. DeepSpeed 0.19.8 reduces by all-reduce here whatever
  `reduce_scatter` says (`average_tensor`); the ZeRO paper (arXiv 1910.02054, section 7) has a reduce-scatter.
- zero-2: the same, but reduced after each micro-batch: gradients that a rank does not own are thrown away.
- zero-3: gradients reduce-scattered after each micro-batch, every parameter gathered where its module runs: forward, and
  again in backward where gradients pass. Frozen parameters are sharded too, so they travel.
- fsdp: gradients reduce-scattered after the last micro-batch; per micro-batch, the root gathered once, each block in
  forward and again in backward where gradients pass. It shards the first dimension: one of 1 is padded to N. Backward
  fetches the block that ran before ahead of its need, so the last block of the vision tower comes once for nothing.

In this model gradients pass the decoder, the prompt learner and the LLM; towers and projection run without. The text tower
runs before training only, but fsdp's root holds what of it lies outside its blocks. Gloo does a reduce-scatter as an
all-reduce and keeps its part (ProcessGroupGloo); NCCL has a real one. Left out: message headers, the norm of the
gradients, Horovod's negotiation each cycle.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BYTES = 4  # fp32 in every precision profile
PASSED = ("image_decoder", "prompt_learner", "llm", "lora")  # backward goes through them
UNUSED = ("text",)  # in `prepare` only
WHOLE = (
    "param_persistence_threshold",
    "max_live_parameters",
    "max_reuse_distance",
)  # ZeRO-3: 0 where all is gathered anew
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Expected:
    """Bytes a rank sends in a step: gradients of what is trained, its parameters, and frozen parameters. Or why not known."""

    gradients: float = 0.0
    trainable: float = 0.0
    frozen: float = 0.0
    reason: str | None = None

    @property
    def total(self) -> float | None:
        """All three; None where they can't be derived."""
        return None if self.reason else self.gradients + self.trainable + self.frozen


def bound_bytes(ranks: int, gradient_bytes: float) -> float:
    """Least bytes that a rank sends so that all ranks hold the mean of the gradients (Patarasuk & Yuan 2009, section 3)."""
    return 2 * (ranks - 1) / ranks * gradient_bytes


def paper_bytes(record: Record) -> float | None:
    """What the ZeRO paper (arXiv 1910.02054, section 7) has a rank send in a step, (N-1)/N written out: a reduce-scatter of the
    gradients and an all-gather of what was updated; where parameters are sharded (stage 3; FSDP2 does it the same way) a
    reduce-scatter and two all-gathers. One micro-batch, everything trained: there is nothing frozen in it. None where the record
    does not hold the gradients' bytes."""
    ranks, cost = record["world"]["size"], (record.get("workload") or {}).get("cost") or {}
    if cost.get("gradient_bytes") is None:
        return None
    engine = record["config"]["engine"]
    sharded = engine["backend"] == "fsdp" or (engine["backend"] == "deepspeed" and engine["zero_stage"] == 3)
    sent: float = (3 if sharded else 2) * (ranks - 1) / ranks * cost["gradient_bytes"]
    return sent


def expected(record: Record) -> Expected:
    """What a rank of this run should have sent, by the settings that the engine read back."""
    ranks, cost = record["world"]["size"], (record.get("workload") or {}).get("cost") or {}
    if ranks == 1:
        return Expected()
    if not cost.get("blocks"):
        return Expected(reason="the record does not hold the model's parameters by block")
    applied = record["engine"].get("applied") or {}
    accumulation = record["config"]["training"]["accumulation"]
    share, updated = (ranks - 1) / ranks, cost["gradient_bytes"]  # what is updated is handed round in fp32, always
    gradients = updated / 2 if _halved(record["config"], applied) else updated
    scatter = 1 if (record["world"].get("device") or "cpu") == "cuda" else 2
    backend, stage = record["config"]["engine"]["backend"], record["config"]["engine"]["zero_stage"]
    if backend == "fsdp":
        times = {part: 2 if part in PASSED and True in applied.get("reshard_after_forward", ()) else 1
                 for part in cost["blocks"]}  # fmt: skip
        sent = {name: accumulation * share * BYTES * size for name, size in _fsdp(cost, ranks, times).items()}
        return Expected(scatter * share * gradients, **sent)
    if backend != "deepspeed" or stage == 0:
        return Expected(2 * share * gradients)
    if stage < 3:
        if not applied.get("use_multi_rank_bucket_allreduce", True):
            return Expected(reason="use_multi_rank_bucket_allreduce is off: what each rank sends depends on its share")
        return Expected(2 * share * gradients * (accumulation if stage == 2 else 1), share * updated)
    if kept := [name for name in WHOLE if applied.get(name)]:
        return Expected(reason=f"{', '.join(kept)} above 0: what stays gathered depends on the order of use")
    sent = {name: accumulation * share * BYTES * size for name, size in _zero3(cost).items()}
    return Expected(accumulation * scatter * share * gradients, **sent)


def _halved(config: Mapping[str, Any], applied: Mapping[str, Any]) -> bool:
    """Whether gradients travel as 16 bits. Each engine reads its setting back in words of its own; setup has compared them with
    what was asked, so that is looked at, and Horovod's word where a record has no more."""
    asked = (config.get("tuning") or {}).get("compression", "none")
    return asked != "none" or applied.get("compression") == "FP16Compressor"


def _fsdp(cost: Mapping[str, Any], ranks: int, times: Mapping[str, int]) -> dict[str, float]:
    """Parameters gathered in one micro-batch; `times`: how often the blocks of a part are."""
    found = {}
    for kind in ("trainable", "frozen"):
        found[kind] = 0.0
        for part, parameters in cost[kind].items():
            blocks = cost["blocks"].get(part, {"count": 0, "parameters": 0})
            found[kind] += parameters - blocks["parameters"]  # in the root
            if part not in UNUSED:
                found[kind] += times.get(part, 0) * blocks["parameters"]
    vision = cost["blocks"]["vision"]
    fetched = vision["parameters"] / vision["count"] if True in (count > 1 for count in times.values()) else 0.0
    found["frozen"] += fetched + (ranks - 1) * cost["thin"]
    return found


def _zero3(cost: Mapping[str, Any]) -> dict[str, float]:
    """Parameters gathered in one micro-batch. A table that the LLM's head shares is gathered for each of its two uses."""
    found = {}
    for kind in ("trainable", "frozen"):
        used = {part: size for part, size in cost[kind].items() if part not in UNUSED}
        found[kind] = float(sum(size * (2 if part in PASSED else 1) for part, size in used.items()))
    found["frozen"] += cost["tied"]
    return found


def measured(record: Record) -> float | None:
    """Bytes a step of the rank that sent most; None where they were not measured."""
    sent = (record.get("traffic") or {}).get("sent_bytes")
    return max(sent) if sent else None

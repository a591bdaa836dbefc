"""What ran must fit: each published FSDP run of MPT against the peak predicted for it. A predicted peak above the device is a miss;
one far below says nothing, for nobody printed what was free. llm-foundry takes flash attention and a fused loss by default, and
reduces after each micro-batch, so how many there are does not matter.
"""

import statistics

from bench.plan.machines.hardware import machine
from bench.plan.memory.closed_form import predict
from bench.plan.memory.transformer import Transformer
from bench.plan.setup import Setup
from bench.plan.validation.flops import MPT, named
from bench.plan.validation.published import Row, chosen

HEADS = {"125m": 12, "350m": 16, "760m": 12, "1b": 16, "3b": 20, "7b": 32, "13b": 40, "30b": 56, "70b": 64}
VOCABULARY = 50_368


def share(row: Row) -> float | None:
    """Predicted peak as a share of the device's memory; None where no engine of ours shards so."""
    c = row.conditions
    if c["sharding"] != "FULL_SHARD":
        return None
    layers, hidden = MPT[c["model"]]
    net = Transformer(
        hidden=hidden, layers=layers, heads=HEADS[c["model"]], sequence=c["seq"], vocabulary=VOCABULARY, loss="fused",
        dropout=False,
    )  # fmt: skip
    setup = Setup(
        engine="fsdp", ranks=c["gpus"], recipe="mixed_bf16", micro_batch=c["micro_batch"],
        checkpointing="full" if c["act_ckpt"] else "none",
    )  # fmt: skip
    size = str(c["gpu"]).split("_")[1].removesuffix("b")
    device = machine("h100" if str(c["gpu"]).startswith("h100") else f"a100-{size}").device
    return predict(net, setup).peak / device.memory_bytes


def report() -> tuple[str, list[tuple[str, float]]]:
    """A sentence, and (row, share) of those that are predicted not to fit though they ran."""
    found = [(f"{row.id} {named(row.conditions)}", part) for row in chosen("MPT") if (part := share(row)) is not None]
    misses = [(name, part) for name, part in found if part > 1]
    shares = [part for _, part in found]
    words = (
        f"of {len(found)} published FSDP runs of MPT, which all ran, {len(found) - len(misses)} are predicted to fit their "
        f"device; predicted peaks are {min(shares):.0%} to {max(shares):.0%} of it, median {statistics.median(shares):.0%}"
    )
    return words, misses

"""The families of published numbers about FLOPs, and whose convention reproduces each."""

from typing import Any

from bench.plan.validation import conventions as by
from bench.plan.validation.judged import Family, Judged, told
from bench.plan.validation.published import Row, rows

# (layers, hidden) of MosaicML's MPT; with them 12 L d^2 + V d gives each row's printed parameters
MPT = {"125m": (12, 768), "350m": (24, 1024), "760m": (24, 1536), "1b": (24, 2048), "3b": (32, 2560), "7b": (32, 4096),
       "13b": (40, 5120), "30b": (48, 7168), "70b": (80, 8192)}  # fmt: skip
PEAKS = {"a100": 312.0, "h100": 989.5}  # 10^12 FLOP/s, dense bf16; twice that for fp8
MEGATRON = {174.6: (96, 12_288), 529.6: (105, 20_480)}  # (layers, hidden), arXiv 2104.04473, table 1
MEGATRON_VOCABULARY = 51_200


def palm(row: Row) -> Judged | str:
    """C4: the MFU column from the token rate beside it."""
    c = row.conditions
    layers, hidden = MPT[c["model"]]
    peak = PEAKS[c["gpu"].split("_")[0]] * (2 if "fp8" in c["precision"] else 1)
    each = by.palm_flops_per_token(c["params"], layers, hidden, c["seq"])
    found = each * (row.value or 0.0) / (peak * 1e12) * 100
    limit = None if c["seq"] != 2048 else 0.115 if c["model"] == "70b" else 0.045  # 0.11 and 0.04 to two decimals
    return told(
        row, found, f"PaLM: 6 N + 12 L H Q T; peak {peak:g} TFLOP/s", named(c), published=c["MFU_pct"], limit=limit,
        unit="% MFU",
    )  # fmt: skip


def megatron(row: Row) -> Judged | str:
    """C5: DeepSpeed's TFLOP/s of the 18e9 run from its own step time."""
    if row.quantity != "tflops_per_gpu":
        return ""
    c = row.conditions
    same = [each for each in rows() if each.quantity == "samples_per_s" and each.conditions == c and each.value]
    if not same:
        return "its step time is not among the rows"
    flops = by.megatron_flops(c["global_batch"], 512, 40, 6144, 50_304)
    seconds = c["global_batch"] / (same[0].value or 1.0)
    return told(
        row, flops / seconds / c["gpus"] / 1e12, "Megatron eq. 3, recomputation included", c["scheme"], limit=0.05
    )


def days(row: Row) -> Judged | str:
    """C6: days for a number of tokens from the TFLOP/s of the same row, by eq. 3."""
    c = row.conditions
    if row.quantity == "train_days":
        found = by.megatron_days(c["T"], c["P"], c["n"], c["X_TF"])
        return told(row, found, "Megatron eq. 4: 8 T P / n X", f"{c['P'] / 1e9:g}e9 on {c['n']}", limit=1)
    if row.quantity != "days_for_300B_tokens":
        return ""
    rate = [each for each in rows() if each.quantity == "tflops_per_gpu" and each.conditions == c and each.value]
    if not rate:
        return "its TFLOP/s is not among the rows"
    layers, hidden = MEGATRON[c["params_B"]]
    flops = by.megatron_flops(c["batch"], c["seq"], layers, hidden, MEGATRON_VOCABULARY)
    found = flops * 300e9 / (c["batch"] * c["seq"]) / (c["gpus"] * (rate[0].value or 1.0) * 1e12) / 86400
    return told(row, found, "Megatron eq. 3", f"{c['params_B']:g}e9 on {c['gpus']}", limit=1)


def named(c: Any) -> str:
    """An MPT row in a few words."""
    return f"MPT-{c['model']} on {c['gpus']} {c['gpu']}, sequence {c['seq']}, micro-batch {c['micro_batch']}"


FAMILIES = (
    Family("PaLM's FLOPs (MFU of MPT)", ("MPT",), palm),
    Family("Megatron's FLOPs (TFLOP/s)", ("ZPP-TUT",), megatron),
    Family("Megatron's days", ("MEGT2", "MEGX"), days),
)

"""The end of one run, for the person who typed it: a short table and where the record lies."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.report.rows import memory_bytes
from bench.stats import step_s, throughput

MIB = 2**20


def print_summary(record: Mapping[str, Any], path: Path | None) -> None:
    """What was measured, each number with its unit, denominator and statistic over ranks. `path`: None where it will not stay."""
    console = Console(file=sys.stdout, highlight=False)
    table = Table(
        title=f"{record['engine']['label']}, {record['world']['size']} ranks", show_header=False, title_justify="left"
    )
    rate, step = throughput([record]), step_s([record])
    peak = memory_bytes(record)
    losses = record["losses"]
    table.add_row(
        "throughput",
        f"{rate.median:.2f} samples/s  [{rate.low:.2f}, {rate.high:.2f}]",
        "global batch / step; median, 95% interval",
    )
    table.add_row(
        "step",
        f"{step.median * 1e3:.1f} ms  [{step.low * 1e3:.1f}, {step.high * 1e3:.1f}]",
        "slowest rank of each step",
    )
    table.add_row(
        "peak memory",
        "not watched" if peak is None else f"{peak / MIB:.1f} MiB",
        "a rank, most of all ranks, above the level before the model",
    )
    table.add_row(
        "loss",
        f"{losses[0]['total']:.4f} -> {losses[-1]['total']:.4f}",
        f"first and last of {len(losses)} steps, mean over the global batch",
    )
    if record["evaluation"]:
        found = record["evaluation"]["text"]
        names = {"pixel_auroc": "pixel AUROC", "image_auroc": "image AUROC", "balanced_accuracy": "balanced accuracy"}
        told = [f"{name} {found['macro'][key]:.3f}" for key, name in names.items() if found["macro"][key] is not None]
        table.add_row(
            "detection", ", ".join(told) or "nothing to tell", f"{found['images']} test images, the text's map"
        )
    if record["world"]["oversubscribed"]:
        table.add_row("oversubscribed", "yes", "more ranks than cores or GPUs: no claim about efficiency")
    console.print(table)
    if path is not None:
        console.print(f"record: {path}", soft_wrap=True)

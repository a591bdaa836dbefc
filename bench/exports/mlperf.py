"""MLPerf logging lines (`:::MLLOG` and a JSON object), one file a run, keys of mlperf_logging.mllog.constants (MLCommons).

A log for tools that read such lines, no submission: AnomalyGPT is none of MLPerf's benchmarks, and caches were not cleared.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from bench import stats
from bench.record import first_step
from bench.report.rows import machine

TOKEN = ":::MLLOG"
POINT, START, END = "POINT_IN_TIME", "INTERVAL_START", "INTERVAL_END"
BENCHMARK = "anomalygpt"
PRECISION = {"fp32": "fp32", "amp_bf16": "bfloat16"}  # of linear layers and attention; gradients travel in fp32 always
# Records keep durations: the clock's start is not among them, so the timed window is laid at the run's start.
TIMELINE = "steps follow the run's start by their durations; set-up and warm-up are left out"
Record = Mapping[str, Any]


def write(records: Sequence[Record], folder: Path) -> list[Path]:
    """`<run_id>.txt` for each record, in `folder`, which is made. Returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for record in records:
        path = folder / f"{record['run_id']}.txt"
        path.write_text("\n".join(lines(record)) + "\n")
        written.append(path)
    return written


def lines(record: Record) -> Iterator[str]:
    """One run's events in the order of time. A run that is not done is `aborted` after the steps that it measured."""
    start = round(datetime.fromisoformat(record["started"]).timestamp() * 1000)
    metadata = {"file": f"{record['run_id']}.json"}

    def line(key: str, value: Any = None, kind: str = POINT, after_s: float = 0.0, **more: Any) -> str:
        event = {"namespace": "", "time_ms": start + round(after_s * 1000), "event_type": kind, "key": key, "value": value,
                 "metadata": metadata | more}  # fmt: skip
        return f"{TOKEN} {json.dumps(event)}"

    yield from (line(key, value) for key, value in settings(record).items())
    yield line("init_start", kind=START)
    yield line("init_stop", kind=END)
    yield line("run_start", kind=START, timeline=TIMELINE)
    batch = record["config"]["training"]["global_batch"]
    seconds = _steps(record)
    ends = np.cumsum(seconds)
    begun = first_step(record)
    yield line("block_start", kind=START, samples_count=begun * batch)
    for step, (took, end) in enumerate(zip(seconds, ends, strict=True), begun):
        tracked = {"throughput": batch / took}
        if step < len(losses := record["losses"] or ()):
            tracked |= {f"{name}_loss": value for name, value in losses[step].items()}
        yield line("tracked_stats", tracked, after_s=end, step=step + 1, samples_count=(step + 1) * batch)
    last = float(ends[-1]) if len(ends) else 0.0
    seen = (begun + len(ends)) * batch
    yield line("block_stop", kind=END, after_s=last, samples_count=seen)
    yield from _evaluation(record, line, last, seen)
    yield line("run_stop", kind=END, after_s=last, status="success" if record["status"] == "done" else "aborted")


def settings(record: Record) -> dict[str, Any]:
    """What ran, under MLPerf's keys; a key of which the record knows nothing is left out."""
    workload, training = record["config"]["workload"], record["config"]["training"]
    evaluated = (record.get("evaluation") or {}).get("text", {}).get("images")
    wire = record["config"].get("tuning", {}).get("compression", "none")
    known = {
        "submission_benchmark": BENCHMARK,
        "submission_org": "not a submission",
        "submission_division": "open",
        "submission_status": "research",
        "submission_platform": f"{record['world']['size']} x {record['world'].get('device')} on {machine(record)}",
        "submission_entry": record["engine"]["label"],
        "cache_clear": False,
        "seed": workload["seed"],
        "global_batch_size": training["global_batch"],
        "micro_batch_size": (record.get("workload") or {}).get("micro_batch"),
        "gradient_accumulation_steps": training["accumulation"],
        "max_steps": len(record["losses"]) if record["status"] == "done" else _asked(training),
        "trained_samples": len(_steps(record)) * training["global_batch"],
        "eval_samples": evaluated,
        "opt_name": training["optimizer"],
        "opt_base_learning_rate": training["lr"],
        "opt_adamw_weight_decay" if training["optimizer"] == "adamw" else "opt_weight_decay": training["weight_decay"],
        "opt_gradient_clip_norm": training["clip_norm"] or None,
        "lowest_numerical_precision_in_linear": PRECISION.get(workload["precision"]),
        "lowest_numerical_precision_in_attn": PRECISION.get(workload["precision"]),
        "lowest_numerical_precision_in_comm": "fp32" if wire == "none" else wire,
        "tensor_parallelism": 1,
        "pipeline_parallelism": 1,
        "context_parallelism": 1,
        "expert_parallelism": 1,
        "config_filename": f"{record['run_id']}.json",
    }
    return {key: value for key, value in known.items() if value is not None}


def _asked(training: Mapping[str, Any]) -> int | None:
    """Steps of a run that did not come to its end; None where it was told passes over the data instead."""
    return training["steps"] if training.get("epochs") is None else None


def _steps(record: Record) -> Sequence[float]:
    """Seconds of each step on its slowest rank; of a failed run the steps that every rank measured, if any."""
    ranks = record["ranks"]
    count = min((len(rank.get("step_s") or ()) for rank in ranks), default=0)
    return stats.slowest([{"step_s": rank["step_s"][:count]} for rank in ranks]).tolist() if count else []


def _evaluation(record: Record, line: Any, at: float, samples: int) -> Iterator[str]:
    """Macro means of the decoder's maps and the LLM's answers; the clock stands while they are made."""
    found = (record.get("evaluation") or {}).get("text")
    if not found:
        return
    yield line("eval_start", kind=START, after_s=at, samples_count=samples)
    for metric, value in found["macro"].items():
        if value is not None and not metric.endswith(("_reason", "_error", "_classes")):
            yield line("eval_accuracy", value, after_s=at, samples_count=samples, metric=metric)
    yield line("eval_stop", kind=END, after_s=at, samples_count=samples)

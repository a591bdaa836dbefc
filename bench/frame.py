"""A folder of records as pandas tables: a row a run (`load`), a row a step of a rank (`steps`). Units stand in the names."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray

from bench import stats
from bench.derived import NOTHING, Stated, derive
from bench.exposed import steps_by_kind
from bench.record import first_step
from bench.report.load import Loaded
from bench.report.load import load as read
from bench.report.rows import cause, device, machine, memory_bytes, track
from bench.verify import Verdict, against, references
from bench.wire import expected

CATEGORIES = ("parameters", "gradients", "optimizer", "buffers", "activations")  # of a rank's memory, in bytes
AT_PEAK = (*CATEGORIES, "data", "workspace", "allocator", "mapped", "runtime")  # at the moment of its peak
MODES = ("text", "bank")  # ways in which a trained model is evaluated
Record = Mapping[str, Any]


def load(folder: Path | str, names: Sequence[str] | None = None) -> pandas.DataFrame:
    """The records of a folder, oldest first; with `names`, those files. Columns: see `frame`.

    What can't be read is warned of by name, and stands in `attrs["unreadable"]` as [file, reason].
    Raises Unreadable where the folder does not exist.
    """
    found = read(Path(folder), names)
    _warn(found)
    return frame(found.records, found.unreadable)


def steps(folder: Path | str, names: Sequence[str] | None = None) -> pandas.DataFrame:
    """Raw samples: a row for each timed step of each rank of each run, failed runs up to where they came.

    Columns: run_id, engine, ranks, rank, step (from 0), step_s, data_s, and loss_* (of the global batch, so equal on all
    ranks). Warns and raises as `load` does.
    """
    found = read(Path(folder), names)
    _warn(found)
    table = pandas.DataFrame(row for record in found.records for row in _steps(record))
    table.attrs["unreadable"] = _unreadable(found.unreadable)
    return table


def frame(
    records: Sequence[Record], unreadable: Iterable[tuple[Path, str]] = (), *, stated: Stated = NOTHING
) -> pandas.DataFrame:
    """A row a run. What a run did not measure is missing (NaN, None), never 0; `record` holds the whole record.

    samples_per_s and step_s are medians of the slowest rank's steps, *_low and *_high the ends of their bootstrap 95 %
    interval. A run that is void has none: its raw samples are in `record`. *_bytes are of the largest rank, at_peak_* of the
    one with the highest peak. exposed_s: communication that shows in a step's length. Metrics of an evaluation are macro
    means over classes, fractions of 1, `text_*` and `bank_*` for the two ways of looking. `config.*` are the settings under
    the names of bench/config.py.
    """
    judges = {experiment: against(reference) for experiment, reference in references(records).items()}
    nobody = against(None)
    table = pandas.DataFrame([_row(record, judges.get(record["experiment"], nobody), stated) for record in records])
    if not table.empty:
        for name in ("started", "finished"):
            table[name] = pandas.to_datetime(table[name], utc=True, format="ISO8601")
    table.attrs["unreadable"] = _unreadable(unreadable)
    return table


def _row(record: Record, judge: Callable[[Record], Verdict], stated: Stated) -> dict[str, Any]:
    environment = record["environment"] or {}
    done = record["status"] == "done"
    verdict = judge(record) if done else None
    speed, trouble = _speed(record, spoken=verdict is not None and verdict.status != "void")
    return {
        "run_id": record["run_id"],
        "engine": record["engine"]["label"],
        "ranks": record["world"]["size"],
        "status": record["status"],
        "verdict": verdict.status if verdict else "failed",
        "why": trouble or (verdict.why if verdict else cause(record)),
        "experiment": record["experiment"],
        "track": track(record),
        "oversubscribed": record["world"].get("oversubscribed"),
        **_numbers(speed),
        **_numbers(_memory(record)),
        **_numbers(_rest(record)),
        **_numbers({name: each.value for name, each in derive(record, speed["samples_per_s"], stated).items()}),
        **_numbers(_evaluation(record.get("evaluation") or {})),
        "device": device(record),
        "machine": machine(record),
        "hosts": len(record["world"].get("hosts") or ()) or None,
        "commit": environment.get("commit"),
        "dirty": environment.get("dirty"),
        "started": record["started"],
        "finished": record.get("finished"),
        **_flat(record["config"], "config"),
        "record": record,
    }


def _speed(record: Record, *, spoken: bool) -> tuple[dict[str, Any], str | None]:
    """The numbers, None each where the run may not speak; and what is wrong with its step times, if anything."""
    names = [f"{what}{end}" for what in ("samples_per_s", "step_s") for end in ("", "_low", "_high")]
    nothing: dict[str, Any] = dict.fromkeys([*names, "data_s"])
    if not spoken:
        return nothing, None
    try:
        step = interval(stats.slowest(record["ranks"]))
    except ValueError as error:
        return nothing, str(error)
    rate = step.over(record["config"]["training"]["global_batch"])
    loading = np.max([rank["data_s"] for rank in record["ranks"]], axis=0)
    numbers = (rate.median, rate.low, rate.high, step.median, step.low, step.high, float(np.median(loading)))
    return dict(zip(nothing, numbers, strict=True)), None


def interval(samples: NDArray[np.float64]) -> stats.Estimate:
    """`stats.median_interval` of one run, at a twentieth of its cost: which order statistics a resample's median takes
    depends on the number of samples alone, so they are drawn once for all runs of as many steps."""
    ordered = np.sort(samples)
    low, high = _middles(len(ordered))
    tail = (1 - stats.CONFIDENCE) / 2
    ends = np.quantile((ordered[low] + ordered[high]) / 2, [tail, 1 - tail])
    return stats.Estimate(float(np.median(ordered)), float(ends[0]), float(ends[1]))


@cache
def _middles(count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places, among sorted samples, of the two middle ones of each resample: shapes (resamples,)."""
    drawn = np.sort(np.random.default_rng(0).integers(count, size=(stats.RESAMPLES, count)), axis=1)
    return drawn[:, (count - 1) // 2], drawn[:, count // 2]


def _memory(record: Record) -> dict[str, int | None]:
    held = [rank.get("memory") or {} for rank in record["ranks"]]
    largest = {
        f"memory_{name}_bytes": max((memory[name] for memory in held if memory.get(name) is not None), default=None)
        for name in CATEGORIES
    }
    fullest = max((memory for memory in held if memory.get("at_peak")), key=lambda each: each["peak_bytes"], default={})
    made = fullest.get("at_peak") or {}
    return {
        "peak_bytes": memory_bytes(record),
        **largest,
        **{f"at_peak_{name}_bytes": made.get(name) for name in AT_PEAK},
    }


def _rest(record: Record) -> dict[str, Any]:
    sent = (record.get("traffic") or {}).get("sent_bytes")
    finished = record["status"] == "done" and record["losses"]
    return {
        "exposed_s": _exposed(record),
        "sent_bytes": max(sent) if sent else None,
        "expected_sent_bytes": expected(record).total,
        "gradient_bytes": ((record.get("workload") or {}).get("cost") or {}).get("gradient_bytes"),
        "time_to_target_s": (record.get("curve") or {}).get("time_to_target_s"),
        "final_loss": record["losses"][-1].get("total") if finished else None,
        "skipped_steps": record.get("skipped_steps"),
        "joules": (record.get("energy") or {}).get("joules"),
    }


def _exposed(record: Record) -> float | None:
    """As `exposed.exposed` of this run alone, without its interval."""
    kinds = steps_by_kind([record])
    return None if kinds is None else float(np.median(kinds[0][0]) - np.median(kinds[1][0]))


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """NaN for what is missing, and for a number that the record had to spell (`"nan"`, `"inf"`)."""
    return {name: math.nan if value is None else float(value) if isinstance(value, str) else value
            for name, value in values.items()}  # fmt: skip


def _evaluation(found: Mapping[str, Any]) -> dict[str, float | None]:
    """Macro means of both ways of looking; no column where no run was evaluated."""
    metrics = {
        f"{mode}_{name}": value
        for mode in MODES
        for name, value in found.get(mode, {}).get("macro", {}).items()
        if not name.endswith(("_reason", "_error", "_classes"))
    }
    return {"evaluation_images": found["text"]["images"], **metrics} if found else {}


def _flat(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{name}.{key}") if isinstance(value, Mapping) else {f"{name}.{key}": value}
    return flat


def _steps(record: Record) -> Iterable[dict[str, Any]]:
    run = {"run_id": record["run_id"], "engine": record["engine"]["label"], "ranks": record["world"]["size"]}
    losses, begun = record["losses"] or [], first_step(record)
    for place, rank in enumerate(record["ranks"]):
        loading = rank.get("data_s") or []
        for step, seconds in enumerate(rank.get("step_s") or []):
            own = {"rank": rank.get("rank", place), "step": begun + step, "step_s": seconds}
            data = loading[step] if step < len(loading) else None
            parts = losses[begun + step].items() if begun + step < len(losses) else ()
            yield run | own | {"data_s": data} | {f"loss_{name}": value for name, value in parts}


def _warn(found: Loaded) -> None:
    for _, why in found.unreadable:
        warnings.warn(f"unreadable: {why}", stacklevel=4)  # who called bench.record.load


def _unreadable(found: Iterable[tuple[Path, str]]) -> list[list[str]]:
    return [[path.name, why] for path, why in found]

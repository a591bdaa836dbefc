"""TensorBoard scalars: a folder a run, with losses, step times, throughput and what the evaluation found."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from bench import stats
from bench.config import ConfigError
from bench.record import first_step
from bench.report.rows import memory_bytes

Record = Mapping[str, Any]
Scalar = tuple[str, float, int, float]  # tag, value, step, seconds since 1970


def write(records: Sequence[Record], folder: Path) -> list[Path]:
    """`folder`/<run_id>/events...; one file a run. Files of an earlier export of the same runs are replaced.

    Raises ConfigError where tensorboard is not installed.
    """
    if find_spec("tensorboard") is None:
        raise ConfigError("tensorboard is not installed; type: pip install -c constraints.txt -e '.[exports]'")
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    written = []
    for record in records:
        place = folder / record["run_id"]
        for old in place.glob("events.out.tfevents.*"):
            old.unlink()
        writer = EventFileWriter(str(place))
        for tag, value, step, when in scalars(record):
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
            writer.add_event(Event(wall_time=when, step=step, summary=summary))
        writer.close()
        written += sorted(place.glob("events.out.tfevents.*"))
    return written


def scalars(record: Record) -> Iterator[Scalar]:
    """Every number of a run that has a step; results of the whole run stand at its last step.

    Wall time: the run's start and the slowest rank's steps, added up; set-up and warm-up are left out.
    """
    start = datetime.fromisoformat(record["started"]).timestamp()
    ranks = record["ranks"]
    count = min((len(rank.get("step_s") or ()) for rank in ranks), default=0)
    seconds = stats.slowest([{"step_s": rank["step_s"][:count]} for rank in ranks]) if count else np.empty(0)
    times = start + np.cumsum(seconds)
    batch = record["config"]["training"]["global_batch"]
    begun = first_step(record)
    for step, (took, when) in enumerate(zip(seconds.tolist(), times.tolist(), strict=True), begun + 1):
        yield "time/step_s", took, step, when
        yield "time/samples_per_s", batch / took, step, when
        loading = [rank["data_s"][step - begun - 1] for rank in ranks if len(rank.get("data_s") or ()) >= step - begun]
        if loading:
            yield "time/data_s", max(loading), step, when
        for name, value in (record["losses"][step - 1] if step <= len(record["losses"] or ()) else {}).items():
            yield f"loss/{name}", float(value), step, when
        norms = record.get("grad_norms") or ()
        if step <= len(norms) and norms[step - 1] is not None:
            yield "gradient/norm", float(norms[step - 1]), step, when
    last = float(times[-1]) if count else start
    for tag, found in _results(record):
        yield tag, float(found), begun + count, last


def _results(record: Record) -> Iterator[tuple[str, float]]:
    if (peak := memory_bytes(record)) is not None:
        yield "memory/peak_bytes", peak
    for mode in ("text", "bank"):
        for metric, value in (record.get("evaluation") or {}).get(mode, {}).get("macro", {}).items():
            if value is not None and not metric.endswith(("_reason", "_error", "_classes")):
                yield f"evaluation/{mode}/{metric}", value

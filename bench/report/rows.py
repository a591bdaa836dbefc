"""From records to rows: grouped by what may be compared, repeats pooled, each with its verdict. Pure functions."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backends.tuning import words
from bench import exposed, stats
from bench.report import conditions
from bench.report.conditions import Conditions
from bench.report.look import MEMORY
from bench.stats import Estimate
from bench.verify import GRAVEST, Verdict, against, changed, references

ORDER = (
    "single",
    "ddp",
    "fsdp",
    "zero-0",
    "zero-1",
    "zero-2",
    "zero-3",
    "zero-1-offload",
    "zero-2-offload",
    "zero-3-offload",
    "horovod",
    "ring",
)
Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One engine at one rank count. A number is None where no run gave it, or where the verdict forbids it."""

    label: str
    ranks: int
    files: tuple[str, ...]  # of the finished runs
    verdict: Verdict | None  # None: no run finished
    failures: tuple[str, ...]  # one cause for each run that failed
    lost: tuple[str, ...]  # their run ids
    throughput: Estimate | None  # samples a second
    step_s: Estimate | None
    vs_single: float | None  # ratio of the throughputs
    memory_bytes: int | None  # largest rank's peak above its level before the model was built, largest of the runs
    final_loss: float | None  # total loss of the last step, median of the runs
    oversubscribed: bool
    exposed: Estimate | None = None  # communication that shows in a step's length, in seconds
    exposed_share: Estimate | None = None  # of the step
    phases: Mapping[str, float] | None = None  # seconds a step, perturbed
    thrashing: bool = False  # a GPU allocator was short of memory in the window
    evaluations: tuple[Mapping[str, Any], ...] = ()  # of the finished runs that evaluated what they trained
    warnings: tuple[str, ...] = ()  # of its runs, each once: what may have made a number wrong
    tuned: str = ""  # settings of its own, in words

    @property
    def name(self) -> str:
        """The engine, with the settings of its own."""
        return f"{self.label} ({self.tuned})" if self.tuned else self.label


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows that may be compared: one experiment on one machine and device, one track of it, and one of each condition of which
    there were several."""

    experiment: str
    config: Mapping[str, Any]
    machine: str
    device: str
    rows: list[Row] = field(default_factory=list)
    commits: tuple[str, ...] = ()  # of this project, each once
    dates: tuple[str, str] = ("", "")  # first and last start, UTC
    runs: int = 0  # most finished runs of a row
    track: str = "controlled"  # or tuned: engines with settings of their own, never in one table with the others
    under: Conditions = ()  # those that tell its rows from others of the experiment


def groups(records: Sequence[Record]) -> list[Group]:
    """All records, sorted into tables: a table holds one experiment and track, on one machine and kind of device."""
    tables: dict[tuple[str, str, str, str], list[Record]] = {}
    for record in sorted(records, key=lambda each: each["status"] != "done"):
        place = (record["experiment"], track(record), device(record), machine(record))
        if record["status"] != "done":  # it may have ended before it knew its device and machine
            place = next((known for known in tables if known[:2] == place[:2]), place)
        tables.setdefault(place, []).append(record)
    known, made = references(records), []
    for place, members in tables.items():
        single = [each for each in tables.get((place[0], "controlled", *place[2:]), []) if _plain(each)]
        for under, each in conditions.cuts(members):
            made.append(_group(each, known, _base(single, under), under))
    return made


def track(record: Record) -> str:
    """controlled or tuned."""
    return "tuned" if changed(record) else "controlled"


def _plain(record: Record) -> bool:
    return record["engine"]["label"] == "single" and record["status"] == "done" and not record.get("resumed")


def _base(single: Sequence[Record], under: Conditions) -> list[Record]:
    """The plain runs beside which a table's speeds stand: those under its own conditions, else those with its micro-batch."""
    cut = tuple(each for each in under if each[0] == "micro_batch")
    for wanted in (under, cut):
        if found := [each for each in single if conditions.alike(each, wanted)]:
            return conditions.cuts(found)[0][1]
    return []


def device(record: Record) -> str:
    """cpu or cuda, as the run resolved it."""
    return str(record["world"].get("device") or record["config"]["engine"]["device"])


def machine(record: Record) -> str:
    """The machine's hardware in words."""
    seen = (record["environment"] or {}).get("machine") or {}
    return ", ".join([str(seen.get("cpu", "unknown machine")), *seen.get("gpus", ())])


def commit(record: Record) -> str:
    environment = record["environment"] or {}
    return f"{environment.get('commit') or 'unknown'}{' (modified)' if environment.get('dirty') else ''}"


def memory_bytes(record: Record) -> int | None:
    """Peak, above the level before the model was built, of the rank that took most; None where a rank was not measured."""
    peaks: list[Any] = [(rank.get("memory") or {}).get("peak_bytes") for rank in record["ranks"]]
    return max(peaks) if peaks and None not in peaks else None


def memory_parts(memory: Mapping[str, Any]) -> dict[str, int]:
    """Bytes by category of a rank's peak, in the order of MEMORY: what was there at that moment, or, in records that did not
    look then, the most that each ever was."""
    found = memory.get("at_peak") or memory
    return {name: found[name] for name in MEMORY if found.get(name) is not None}


def thrashing(record: Record) -> bool:
    """Whether a rank's allocator had to retry in the window, or had nearly the whole GPU reserved: its speed is memory's."""
    return any(((rank.get("memory") or {}).get("cuda_allocator") or {}).get("thrashing") for rank in record["ranks"])


def _group(records: list[Record], known: Mapping[str, Record], single: Sequence[Record], under: Conditions) -> Group:
    """`single`: runs of one plain process on the same machine, whichever track the group is."""
    first = records[0]
    cells: dict[tuple[int, int, str, str], list[Record]] = {}
    for record in records:
        label, size = record["engine"]["label"], record["world"]["size"]
        place = ORDER.index(label) if label in ORDER else len(ORDER)
        cells.setdefault((0 if label == "single" else size, place, label, words(changed(record))), []).append(record)
    base = stats.throughput(single).median if single else None
    judge = against(known.get(first["experiment"]))
    rows = [_row(key[2], members, judge, base) for key, members in sorted(cells.items())]
    started = sorted(str(record["started"]) for record in records)
    return Group(
        experiment=first["experiment"],
        config=first["config"],
        machine=machine(first),
        device=device(first),
        rows=rows,
        commits=tuple(sorted({commit(record) for record in records})),
        dates=(started[0], started[-1]),
        runs=max(len(row.files) for row in rows),
        track=track(first),
        under=under,
    )


def _row(label: str, records: Sequence[Record], judge: Callable[[Record], Verdict], base: float | None) -> Row:
    done = [record for record in records if record["status"] == "done"]
    lost = [record for record in records if record["status"] != "done"]
    verdicts = sorted(map(judge, done), key=lambda verdict: GRAVEST.index(verdict.status))
    verdict = verdicts[0] if verdicts else None
    spoken = bool(done) and verdict is not None and verdict.status != "void"  # a wrong answer has no speed
    step = stats.step_s(done) if spoken else None
    throughput = step.over(done[0]["config"]["training"]["global_batch"]) if step else None
    memory = [memory_bytes(record) for record in done]
    final = [record["losses"][-1]["total"] for record in done if record["losses"]]
    return Row(
        label=label,
        ranks=records[0]["world"]["size"],
        files=tuple(f"{record['run_id']}.json" for record in done),
        verdict=verdict,
        failures=tuple(map(cause, lost)),
        lost=tuple(record["run_id"] for record in lost),
        throughput=throughput,
        step_s=step,
        vs_single=throughput.median / base if throughput and base else None,
        memory_bytes=max(m for m in memory if m is not None) if memory and None not in memory else None,
        final_loss=statistics.median(final) if final else None,
        oversubscribed=any(record["world"].get("oversubscribed") for record in records),
        exposed=exposed.exposed(done) if spoken else None,
        exposed_share=exposed.share(done) if spoken else None,
        phases=exposed.phases(done) if spoken else None,
        thrashing=any(thrashing(record) for record in done),
        warnings=tuple(dict.fromkeys(said for record in records for said in record.get("warnings") or ())),
        evaluations=tuple(found for record in done if (found := record.get("evaluation"))),
        tuned=words(changed(records[0])),
    )


def cause(record: Record) -> str:
    """One line: why a run is not done."""
    failure = record.get("failure") or {}
    if record["status"] == "running":
        return "unfinished: it was killed, or still runs"
    where = f", rank {failure['rank']}" if failure.get("rank") is not None else ""
    message = (str(failure.get("message") or "").strip().splitlines() or [""])[0]
    return f"{failure.get('cause', 'unknown cause')}{where}: {message}"

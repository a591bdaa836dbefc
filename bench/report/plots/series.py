"""What the figures draw, from groups and records: a row's records, and rows that scale together. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench import stats
from bench.config import ConfigError
from bench.report.rows import Group, Row
from bench.report.table import title
from bench.stats import Estimate

Record = Mapping[str, Any]


class NothingToDraw(ConfigError):
    """The records hold nothing of what a figure shows; the message says what would."""


@dataclass(frozen=True)
class Scaling:
    """Rows over ranks: `strong` with one global batch, `weak` with one batch a rank; `batch` is that one's size."""

    kind: Literal["strong", "weak"]
    batch: int
    rows: dict[str, list[Row]] = field(default_factory=dict)  # engine: by ranks, each once; `single` apart
    single: Row | None = None  # one plain process on the batch that one rank has
    groups: list[Group] = field(default_factory=list)

    @property
    def heading(self) -> str:
        return f"{self.kind} scaling: {self.batch} samples " + ("in all" if self.kind == "strong" else "a rank")

    @property
    def counts(self) -> list[int]:
        """Rank counts, each once."""
        return sorted({row.ranks for rows in self.rows.values() for row in rows})


def only(groups: Sequence[Group], name: str) -> Group:
    """The one group of a figure that compares rows of one experiment. Raises ValueError for none or several."""
    if len(groups) != 1:
        raise ValueError(f"the figure {name!r} shows one experiment, {len(groups)} were given")
    return groups[0]


def records_of(row: Row, records: Sequence[Record], *, void: bool = False) -> list[Record]:
    """The finished runs behind a row, in its order; none of a void row, unless `void`: a wrong answer costs nothing."""
    if row.throughput is None and not void:
        return []
    by_name = {f"{record['run_id']}.json": record for record in records}
    return [by_name[name] for name in row.files if name in by_name]


def slowest(record: Record) -> NDArray[np.float64]:
    """Seconds of each step on its slowest rank, shape (steps,)."""
    return stats.slowest(record["ranks"])


def families(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups that differ in their global batch at most: what weak scaling is drawn from."""
    found: dict[str, list[Group]] = {}
    for group in groups:
        training = {
            key: value for key, value in group.config["training"].items() if key not in ("global_batch", "accumulation")
        }
        key = repr(
            (
                group.machine,
                group.device,
                group.track,
                group.under,
                sorted(group.config["workload"].items(), key=str),
                sorted(training.items()),
            )
        )
        found.setdefault(key, []).append(group)
    return list(found.values())


def scalings(groups: Sequence[Group]) -> list[Scaling]:
    """Every way in which rows of one family scale, at two rank counts or more; strong ones first.

    A weak one needs more than one global batch: with one, it would be no other than the strong one's single point.
    """
    strong = [_gather("strong", group.config["training"]["global_batch"], _all([group])) for group in groups]
    shares = sorted({row_batch // row.ranks for _, row_batch, row in _all(groups) if row_batch % row.ranks == 0})
    weak = [
        _gather("weak", share, [each for each in _all(groups) if each[1] == share * each[2].ranks]) for share in shares
    ]
    several = [each for each in weak if len({group.config["training"]["global_batch"] for group in each.groups}) > 1]
    return [each for each in (*strong, *several) if len(each.counts) > 1]


def fair(rows: Sequence[Row]) -> list[Row]:
    """Rows that a claim may rest on: with a speed, no more ranks than cores; the first has one rank, or there are none."""
    kept = [row for row in rows if row.throughput and not row.oversubscribed]
    return kept if kept and kept[0].ranks == 1 else []


def efficiency(row: Row, base: Row) -> Estimate | None:
    """Throughput over ranks times the base's. Its ends come from the ends of both intervals: wider than 95 %."""
    if row.throughput is None or base.throughput is None:
        return None
    mine, its = row.throughput, base.throughput
    return Estimate(
        mine.median / its.median / row.ranks, mine.low / its.high / row.ranks, mine.high / its.low / row.ranks
    )


def _all(groups: Sequence[Group]) -> list[tuple[Group, int, Row]]:
    return [(group, group.config["training"]["global_batch"], row) for group in groups for row in group.rows]


def _gather(kind: Literal["strong", "weak"], batch: int, members: Sequence[tuple[Group, int, Row]]) -> Scaling:
    made = Scaling(kind, batch)
    single = None
    for group, _, row in members:
        if group not in made.groups:
            made.groups.append(group)
        if row.label == "single":
            single = single or row
        else:
            rows = made.rows.setdefault(row.label, [])
            if row.ranks not in {each.ranks for each in rows}:
                rows.append(row)
                rows.sort(key=lambda each: each.ranks)
    return Scaling(kind, batch, made.rows, single, made.groups)


def title_of(groups: Sequence[Group]) -> str:
    """What all rows of a family have in common."""
    batches = sorted({group.config["training"]["global_batch"] for group in groups})
    text = title(groups[0])
    return (
        text
        if len(batches) == 1
        else text.replace(
            f"global batch {groups[0].config['training']['global_batch']}",
            f"global batches {', '.join(map(str, batches))}",
        )
    )

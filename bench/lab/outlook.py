"""What the network experiment says: step time against bandwidth, where two engines cross, and which to use below and above.

Between two measured links a step is taken as a straight line of log seconds over log bandwidth; beyond them nothing is said.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

from bench import exposed, stats, wire
from bench.stats import Estimate
from bench.verify import references as plain
from bench.verify import verify

Record = Mapping[str, Any]
Line = Mapping[float, Estimate]  # bits a second of the link -> seconds of a step


@dataclass(frozen=True)
class Point:
    """One engine on one link. Seconds and bytes are of a step; None where they were not measured or can't be told.

    `busy_s`: what the payload takes at the rate of the link; `shows_s`: communication in the step's length; what is left of
    `busy_s` is hidden behind computation. `expected` and `moved`: bytes of payload that a host sends, derived and counted; `paper`:
    what the ZeRO paper gives.
    """

    label: str
    hosts: int
    rate: float | None
    step: Estimate
    shows: Estimate | None
    busy_s: float | None
    paper: float | None
    expected: float | None
    moved: float | None
    sent: float | None
    verdict: str
    shared_cores: bool

    @property
    def hidden_s(self) -> float | None:
        """Seconds of sending that computation covers; at least 0: waiting and latency show without any sending."""
        if self.busy_s is None or self.shows is None:
            return None
        return max(0.0, self.busy_s - max(0.0, self.shows.median))


def points(records: Sequence[Record]) -> list[Point]:
    """All runs that finished in a laboratory, repeats together; engines, hosts and links in order."""
    groups: dict[tuple[str, int, float], list[Record]] = {}
    for record in records:
        if record["status"] == "done" and record.get("lab"):
            rate = record["lab"]["rate_bits"] or math.inf
            groups.setdefault((record["engine"]["label"], record["world"]["size"], rate), []).append(record)
    known = plain(records)
    return [point(groups[key], known) for key in sorted(groups, key=lambda key: (key[1], key[2], key[0]))]


def point(runs: Sequence[Record], known: Mapping[str, Any]) -> Point:
    """One engine on one link, from its repeats."""
    first = runs[0]
    carried = [record["traffic"].get("interface") for record in runs]
    hosts = [host for each in carried if each for host in each["hosts"].values()]
    whole = bool(hosts) and all(carried)
    moved = max(host["payload_bytes"] for host in hosts) if whole else None
    payload_rate = first["lab"]["payload_rate_bits"]
    verdicts = [verify(record, known.get(record["experiment"])).status for record in runs]
    return Point(
        label=first["engine"]["label"],
        hosts=first["world"]["size"],
        rate=first["lab"]["rate_bits"],
        step=stats.step_s(runs),
        shows=exposed.exposed(runs),
        busy_s=moved * 8 / payload_rate if moved is not None and payload_rate else None,
        paper=wire.paper_bytes(first),
        expected=wire.expected(first).total,
        moved=moved,
        sent=max(host["sent_bytes"] for host in hosts) if whole else None,
        verdict=next((each for each in verdicts if each != "verified"), "verified"),
        shared_cores=first["lab"]["shared_cores"],
    )


def lines(found: Sequence[Point], hosts: int) -> dict[str, dict[float, Estimate]]:
    """Engine -> link -> seconds of a step, of that many hosts, on links with a bandwidth, for engines whose answer is right."""
    made: dict[str, dict[float, Estimate]] = {}
    for each in found:
        if each.hosts == hosts and each.rate is not None and each.verdict != "void":
            made.setdefault(each.label, {})[each.rate] = each.step
    return made


def crossings(one: Line, other: Line) -> list[tuple[float, float]]:
    """(bandwidth, seconds) where two lines cross, links that both were measured on."""
    found = []
    for low, high in pairwise(sorted(one.keys() & other.keys())):
        before = math.log(one[low].median / other[low].median)
        after = math.log(one[high].median / other[high].median)
        if before * after < 0:
            share = before / (before - after)
            rate = low * (high / low) ** share
            found.append((rate, one[low].median * (one[high].median / one[low].median) ** share))
    return found


def best(made: Mapping[str, Line]) -> list[tuple[str, float, float]]:
    """(engine, from, to): who takes the shortest step over which bandwidths, of those measured on both links around them.

    Nothing of a stretch between two links that no engine has both of; one link alone is a stretch without a length.
    """
    rates = sorted({rate for line in made.values() for rate in line})
    if len(rates) < 2:
        return [(_shortest(made, rates[0]), rates[0], rates[0])] if rates else []
    found: list[tuple[str, float, float]] = []
    for low, high in pairwise(rates):
        there = {label: {low: line[low], high: line[high]} for label, line in made.items() if {low, high} <= set(line)}
        for label, begin, end in _between(there, low, high):
            if found and found[-1][0] == label and found[-1][2] == begin:
                found[-1] = (label, found[-1][1], end)
            else:
                found.append((label, begin, end))
    return found


def _between(there: Mapping[str, Line], low: float, high: float) -> list[tuple[str, float, float]]:
    """The same between two links that all of these were measured on."""
    if not there:
        return []
    places = {rate for one, other in combinations(there.values(), 2) for rate, _ in crossings(one, other)}
    return [
        (min(there, key=lambda label: at(there[label], math.sqrt(begin * end))), begin, end)
        for begin, end in pairwise(sorted({low, high, *places}))
    ]


def turns(made: Mapping[str, Line]) -> list[tuple[float, float]]:
    """(bandwidth, seconds) where the shortest step changes its engine; not where one of them merely was not measured further."""
    links = {rate for line in made.values() for rate in line}
    return [(end, at(made[label], end)) for label, _, end in best(made)[:-1] if end not in links]


def at(line: Line, rate: float) -> float:
    """Seconds of a step on a link between two that were measured."""
    for low, high in pairwise(sorted(line)):
        if low <= rate <= high:
            share = math.log(rate / low) / math.log(high / low)
            return line[low].median * (line[high].median / line[low].median) ** share
    raise ValueError(f"{rate:g} bit/s is beyond the links that were measured")


def _shortest(made: Mapping[str, Line], rate: float) -> str:
    return min((label for label in made if rate in made[label]), key=lambda label: made[label][rate].median)


def level(made: Mapping[str, Line], label: str, low: float, high: float) -> list[str]:
    """Engines whose interval meets that of `label` on every link from `low` to `high` that both were measured on: not told apart.

    Where no link lies there, the two around it decide: a crossing between them is no surer than what it was drawn through.
    """
    line = made[label]
    rates = [rate for rate in line if low <= rate <= high]
    rates = rates or [max(rate for rate in line if rate < low), min(rate for rate in line if rate > high)]
    found = []
    for other, steps in made.items():
        meets = [
            steps[rate].low <= line[rate].high and line[rate].low <= steps[rate].high for rate in rates if rate in steps
        ]
        if other != label and meets and all(meets):
            found.append(other)
    return sorted(found)


def left_out(found: Sequence[Point], hosts: int) -> str:
    """Which engines have no valid run on which links, of all that were measured; empty where none lacks one."""
    made, here = lines(found, hosts), [each for each in found if each.hosts == hosts]
    rates = sorted({each.rate for each in here if each.rate is not None})
    lacks = {}
    for label in sorted({each.label for each in here}):
        lacks[label] = ", ".join(rate_in_words(rate) for rate in rates if rate not in made.get(label, {}))
    return "; ".join(f"{label} at {links}" for label, links in lacks.items() if links)


def rate_in_words(rate: float) -> str:
    """350e6 -> 350 Mbit/s"""
    return f"{rate / 1e9:.3g} Gbit/s" if rate >= 1e9 else f"{rate / 1e6:.3g} Mbit/s"


def sentence(found: Sequence[Point], hosts: int) -> str:
    """Which engine over which bandwidths, by the length of a step alone, and which engines had no say where."""
    made = lines(found, hosts)
    said = []
    for label, low, high in best(made):
        same = level(made, label, low, high)
        where = f"at {rate_in_words(low)}" if low == high else f"from {rate_in_words(low)} to {rate_in_words(high)}"
        said.append(f"{where} use {label}" + (f" (not told apart from it: {', '.join(same)})" if same else ""))
    if said:
        begun = f"Over {hosts} hosts, by the length of a step: {'; '.join(said)}."
    else:
        begun = f"Over {hosts} hosts no engine has a valid run on two neighbouring links, so none is named."
    lacks = left_out(found, hosts)
    lost = f" Left out next to a link that they have no valid run on: {lacks}." if lacks else ""
    shared = any(each.shared_cores for each in found if each.hosts == hosts)
    return begun + lost + (" Hosts shared cores, so this is no measure of scaling." if shared else "")

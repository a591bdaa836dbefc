"""What the network experiment says: step time against bandwidth, where two engines cross, and which to use below and above.

Between two measured links a step is taken as a straight line of log seconds over log bandwidth; beyond them nothing is said.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
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
    """(engine, from, to): who takes the shortest step over which bandwidths, from the slowest link measured to the fastest."""
    rates = sorted({rate for line in made.values() for rate in line})
    if len(rates) < 2:
        return [(_shortest(made, rates[0]), rates[0], rates[0])] if rates else []
    whole = {label: line for label, line in made.items() if set(line) == set(rates)}
    places = {
        rate for one in whole for other in whole if one < other for rate, _ in crossings(whole[one], whole[other])
    }
    edges = sorted({rates[0], rates[-1], *places})
    found: list[tuple[str, float, float]] = []
    for low, high in pairwise(edges):
        label = min(whole, key=lambda label: at(whole[label], math.sqrt(low * high)))
        if found and found[-1][0] == label:
            found[-1] = (label, found[-1][1], high)
        else:
            found.append((label, low, high))
    return found


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
    """Engines whose interval meets that of `label` on every measured link from `low` to `high`: not told apart from it."""
    rates = [rate for rate in made[label] if low <= rate <= high]
    found = []
    for other, line in made.items():
        meets = [
            rate in line and line[rate].low <= made[label][rate].high and made[label][rate].low <= line[rate].high
            for rate in rates
        ]
        if other != label and meets and all(meets):
            found.append(other)
    return sorted(found)


def rate_in_words(rate: float) -> str:
    """350e6 -> 350 Mbit/s"""
    return f"{rate / 1e9:.3g} Gbit/s" if rate >= 1e9 else f"{rate / 1e6:.3g} Mbit/s"


def sentence(found: Sequence[Point], hosts: int) -> str:
    """Which engine below and above which bandwidth, by the length of a step alone."""
    made = lines(found, hosts)
    parts = best(made)
    if not parts:
        return f"Over {hosts} hosts nothing was measured."
    said = []
    for place, (label, low, high) in enumerate(parts):
        where = (
            f"at {rate_in_words(low)}" if low == high
            else f"from {rate_in_words(low)} to {rate_in_words(high)}" if len(parts) == 1
            else f"below {rate_in_words(high)}" if place == 0
            else f"above {rate_in_words(low)}" if place == len(parts) - 1
            else f"from {rate_in_words(low)} to {rate_in_words(high)}"
        )  # fmt: skip
        same = level(made, label, low, high)
        said.append(f"{where} use {label}" + (f" (not told apart from it: {', '.join(same)})" if same else ""))
    shared = any(each.shared_cores for each in found if each.hosts == hosts)
    note = " Hosts shared cores, so this is no measure of scaling." if shared else ""
    return f"Over {hosts} hosts, by the length of a step: {'; '.join(said)}.{note}"

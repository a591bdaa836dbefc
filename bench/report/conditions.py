"""Under what a run was taken, besides its engine and ranks: what must be equal before runs are pooled, or compared."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bench.record import first_step

Record = Mapping[str, Any]


def micro_batch(record: Record) -> int:
    """Samples in one micro-batch of one rank."""
    training = record["config"]["training"]
    return int(training["global_batch"] // (record["world"]["size"] * training["accumulation"]))


def _hosts(record: Record) -> int | None:
    hosts = record["world"].get("hosts")
    return len(hosts) if hosts else None


def _link(record: Record) -> str | None:
    if record["status"] != "done" and not record.get("lab"):
        return None
    return str((record.get("lab") or {"link": "the hosts' own"})["link"])


def _rate(record: Record) -> float:
    """Bits a second; what is not shaped comes last."""
    return float((record.get("lab") or {}).get("rate_bits") or "inf")


def _checkpoints(record: Record) -> int:
    return int((record["config"].get("checkpoints") or {}).get("checkpoint_every", 0))


# Each with its words in a title. None: the run ended before it knew. In this order tables are cut.
KNOWN: dict[str, tuple[Callable[[Record], Any], str]] = {
    "micro_batch": (micro_batch, "micro-batches of {}"),
    "hosts": (_hosts, "hosts: {}"),
    "link": (_link, "link: {}"),
    "bucket_mb": (lambda record: float(record["config"]["engine"].get("bucket_mb", 25)), "buckets of {:g} MiB"),
    "transport": (lambda record: record["config"]["engine"].get("transport", "auto"), "ring's transport: {}"),
    "bind": (lambda record: bool(record["config"]["measure"].get("bind", True)), "ranks bound to cores: {}"),
    "checkpoint_every": (_checkpoints, "a checkpoint every {} steps"),
    "first_step": (first_step, "begun after step {}"),  # a run that went on timed its own steps alone
}
NONE = {"checkpoint_every": "no checkpoints", "first_step": "begun at the first step"}  # in words where the value is 0
Conditions = tuple[tuple[str, Any], ...]


def of(record: Record) -> Conditions:
    """All of them, as name and value."""
    return tuple((name, look(record)) for name, (look, _) in KNOWN.items())


def words(conditions: Conditions) -> list[str]:
    """For a title, one each."""
    return [NONE[name] if name in NONE and not value else KNOWN[name][1].format(value) for name, value in conditions]


def alike(record: Record, conditions: Conditions) -> bool:
    """Whether a run was taken under them, as far as it knew."""
    return all(KNOWN[name][0](record) in (value, None) for name, value in conditions)


def cuts(records: Sequence[Record]) -> list[tuple[Conditions, list[Record]]]:
    """Records by a condition wherever an engine was run under several values of it on one rank count; else all together.

    What one row would pool must be repeats of one run: another micro-batch is another shape for every kernel, another link
    another network. With the first goes a run that ended before it knew, and one plain process that has none of the values.
    """
    for name, (look, _) in KNOWN.items():
        seen: dict[tuple[str, int], set[Any]] = {}
        for record in records:
            seen.setdefault((record["engine"]["label"], record["world"]["size"]), set()).add(look(record))
        if all(len(values - {None}) < 2 for values in seen.values()):
            continue
        own = [  # one plain process has no network and no ring: it need not have a table for that
            cell
            for (label, _), cell in seen.items()
            if label != "single" or name == "micro_batch" or len(cell - {None}) > 1
        ]
        values = set().union(*own) - {None}
        parts: dict[Any, list[Record]] = {}
        for record in sorted((each for each in records if look(each) in values), key=_rate if name == "link" else look):
            parts.setdefault(look(record), []).append(record)
        next(iter(parts.values())).extend(record for record in records if look(record) not in values)
        return [
            (((name, value), *further), members) for value, part in parts.items() for further, members in cuts(part)
        ]
    return [((), list(records))]

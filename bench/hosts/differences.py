"""What hosts must have in common, and which one has it not."""

import collections
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.hosts.preflight import Seen

CLOCKS_S = 2.0  # ranks judge each other's heartbeats, which are a minute and more apart
CLOCKS_NOTED_S = 0.1
GIB = 2**30
INSTALL = "type there: pip install -c constraints.txt -e '.[all]', and for Horovod: python -m backends.build"


@dataclass(frozen=True)
class Network:
    """What a run uses: an interface with one name on every host, and the first host's address on it."""

    interface: str
    address: str


def compare(seen: "Sequence[Seen]") -> tuple[list[str], list[str]]:
    """(problems, notes) of hosts that all answered."""
    problems = [
        *_differ(seen, lambda facts: facts["python"], "Python {}", "install the same one"),
        *_differ(
            seen,
            lambda facts: facts["code"],
            "other source files ({})",
            "copy this checkout there, or share its folder",
        ),
        *(
            problem
            for name in seen[0].facts["packages"]
            for problem in _differ(seen, lambda facts: facts["packages"][name], f"{name} {{}}", INSTALL)  # noqa: B023
        ),
        *_differ(seen, lambda facts: len(facts["machine"]["gpus"]), "{} GPUs", "use hosts of one kind"),
        *_clocks(seen),
        *_folders(seen),
    ]
    notes = [
        *_differ(seen, lambda facts: facts["commit"], "commit {}, although with the same source files", "pull there"),
        *_differ(seen, lambda facts: facts["kernel"], "kernel {}", "a difference in speed may be that"),
        *_differ(seen, lambda facts: facts["machine"]["cpu"], "a {}", "the slowest host decides how long a step is"),
        *_differ(
            seen, lambda facts: facts["machine"]["gpus"], "GPUs {}", "the slowest host decides how long a step is"
        ),
        *_memory(seen),
        *_crowded(seen),
    ]
    return problems, notes


def _differ(seen: "Sequence[Seen]", value: Callable[[dict[str, Any]], Any], words: str, remedy: str) -> list[str]:
    """A line for each host whose value is not that of most; the first host's where there is no majority."""
    texts = [json.dumps(value(each.facts), sort_keys=True) for each in seen]
    usual = max(dict.fromkeys(texts), key=texts.count)  # of equals the first
    return [
        f"host {each.host.name}: {words.format(_plain(text))}, where the others have {_plain(usual)}; {remedy}"
        for each, text in zip(seen, texts, strict=True)
        if text != usual
    ]


def _plain(text: str) -> str:
    value = json.loads(text)
    return "none" if value in (None, []) else ", ".join(value) if isinstance(value, list) else str(value)


def _clocks(seen: "Sequence[Seen]") -> list[str]:
    """Hosts whose clocks are certainly too far from the first one's."""
    found = []
    for each in seen[1:]:
        if each.clock and (first := seen[0].clock):
            apart, bound = each.clock.offset_s - first.offset_s, each.clock.bound_s + first.bound_s
            if abs(apart) - bound > CLOCKS_S:
                found.append(
                    f"host {each.host.name}: its clock is {abs(apart):.2f} s {'ahead of' if apart > 0 else 'behind'} that of "
                    f"{seen[0].host.name} (known to {bound * 1e3:.1f} ms); set it, as root there: chronyc makestep"
                )
    return found


def _folders(seen: "Sequence[Seen]") -> list[str]:
    """The record is written on the first host, and looked for here; a private folder is made on the others."""
    first = seen[0]
    found = [
        f"host {each.host.name}: there is no folder {each.facts['missing_cwd']}, from which this is started; start from one that "
        "all hosts have"
        for each in seen
        if each.facts["missing_cwd"]
    ]
    found += [
        f"host {each.host.name}: the results folder can't be written; give another --results, that all hosts can write"
        for each in seen
        if not each.facts["writes_results"]
    ]
    if not first.facts["shares_results"]:
        found.append(
            f"host {first.host.name}: rank 0 writes its record there, but its results folder is not this host's; start from "
            f"{first.host.name}, or give --results a folder that both share"
        )
    return found


def _memory(seen: "Sequence[Seen]") -> list[str]:
    free = [each.facts["machine"]["available"] for each in seen]
    return [
        f"host {each.host.name}: {mine / GIB:.1f} GiB of memory are free, half of what {seen[free.index(max(free))].host.name} "
        f"has ({max(free) / GIB:.1f}); other work may run there"
        for each, mine in zip(seen, free, strict=True)
        if mine < max(free) / 2
    ]


def _crowded(seen: "Sequence[Seen]") -> list[str]:
    return [
        f"host {each.host.name}: {each.host.slots} ranks on {len(each.facts['machine']['allowed'])} cores; such runs are kept, "
        "marked, and left out of every claim"
        for each in seen
        if each.host.slots > len(each.facts["machine"]["allowed"])
    ]


def network(seen: "Sequence[Seen]", asked: str) -> tuple[Network | None, list[str]]:
    """What a run uses, and why it can't. `asked`: the interface to use; empty is the one that holds the hosts' addresses."""
    if asked:
        lack = [each for each in seen if asked not in each.facts["interfaces"]]
        if lack:
            return None, [
                f"host {each.host.name}: no interface {asked} with an address is up; there are "
                f"{', '.join(each.facts['interfaces'])}: name one that all hosts have with --interface"
                for each in lack
            ]
        return Network(asked, seen[0].facts["interfaces"][asked][0]), []
    problems, found = [], []
    for each in seen:
        name = each.host.name
        addresses = collections.Counter(other.facts["resolved"][name] for other in seen)
        usual = max(addresses, key=lambda one: (one is not None, not (one or "").startswith("127."), addresses[one]))
        others = [one for one in addresses if one != usual]
        if usual is None:
            problems.append(f"host {name}: no host knows an address for it; put one into /etc/hosts on all of them")
            found.append(("", ""))
            continue
        for other in seen if others else ():
            if (got := other.facts["resolved"][name]) != usual:
                problems.append(
                    f"host {other.host.name}: {name} is {got or 'unknown'} there, where the others have {usual}; give all hosts "
                    "the same /etc/hosts, in which no host's name stands beside 127.0.1.1, or name addresses with --hosts"
                )
        holds = [label for label, mine in each.facts["interfaces"].items() if usual in mine or _loopback(usual, mine)]
        if not holds:
            problems.append(
                f"host {name}: none of its interfaces holds {usual}, the address of its name; name one with --interface"
            )
        found.append((holds[0] if holds else "", usual))
    if not problems and len({label for label, _ in found}) > 1:
        problems.append(
            "the hosts' interfaces have different names: "
            + ", ".join(f"{each.host.name} {label}" for each, (label, _) in zip(seen, found, strict=True))
            + "; Horovod, gloo and NCCL want one name: give one that all hosts have with --interface, or rename them"
        )
    return (None, problems) if problems else (Network(*found[0]), [])


def _loopback(address: str | None, mine: Sequence[str]) -> bool:
    """All of 127.0.0.0/8 is the loopback interface's."""
    return bool(address and address.startswith("127.") and "127.0.0.1" in mine)

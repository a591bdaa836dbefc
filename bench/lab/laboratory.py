"""A laboratory is made: hosts on a switch, each with its link and its door; and removed, whatever ends the block."""

import contextlib
import os
from collections.abc import Iterator

import psutil

from bench.lab import door, holder, host, rights, sshd
from bench.lab.holder import within
from bench.lab.kept import sweep
from bench.lab.lab import ROOT, Lab
from bench.lab.link import Link
from bench.lab.rights import LabError

MOST = 16
SMALLEST_MTU, LARGEST_MTU = 1280, 9000


def up(count: int, link: Link, *, mtu: int = 1500, standing: bool = False) -> Lab:
    """Make a laboratory. Raises LabError; nothing is left of it then.

    `standing`: it outlives this process, until `down`. Else this process is its owner, and the next call of anybody
    removes it once that is gone.
    """
    if not 2 <= count <= MOST:
        raise LabError(f"--hosts is {count}; it must be from 2 to {MOST}")
    if not SMALLEST_MTU <= mtu <= LARGEST_MTU:
        raise LabError(f"--mtu is {mtu}; it must be from {SMALLEST_MTU} to {LARGEST_MTU}")
    rights.check()
    sweep()
    lab = Lab(_number(), str(link), mtu, _me())
    try:
        lab.write()
        known = lab.state.parent / "hosts"
        named = host.addresses(lab.number, count)
        known.write_text("127.0.0.1 localhost\n" + "".join(f"{at} {name}\n" for name, at in named.items()))
        lab.switch = holder.hold(lab.state, "--net")
        within(
            lab.switch, *["ip", "link", "add", "switch", "mtu"], str(mtu), *["type", "bridge", "mcast_snooping", "0"]
        )
        within(lab.switch, *["ip", "link", "set", "dev", "switch", "up"])
        budget = sorted(os.sched_getaffinity(0))
        each = max(1, len(budget) // count)
        for index, (name, address) in enumerate(named.items()):
            cores = [budget[(index * each + place) % len(budget)] for place in range(each)]
            lab.hosts.append(host.make(lab.state, lab.switch, name, address, cores, mtu, known))
            lab.hosts[-1].shape(lab.switch, link)
            lab.write()
        _open(lab)
        if standing:
            lab.owner = None
        lab.write()
    except BaseException:
        lab.down()
        raise
    return lab


def _open(lab: Lab) -> None:
    """Hosts can be reached by name: by an sshd each, where this machine has it and it works, else directly."""
    why = sshd.unavailable()
    if why is None:
        try:
            sshd.build(lab.state, lab.hosts)
            for each in lab.hosts:
                lab.daemons[each.name] = sshd.start(lab.state, each)
            lab.door = "sshd"
            return
        except LabError:  # its user or its folder is missing, as on machines where it was never started
            holder.end(lambda: holder.those(lab.daemons.values()))
            lab.daemons.clear()
    door.build(lab.state, lab.hosts)


@contextlib.contextmanager
def laboratory(count: int, link: Link, *, mtu: int = 1500) -> Iterator[Lab]:
    """A laboratory for as long as the block lasts."""
    lab = up(count, link, mtu=mtu)
    try:
        yield lab
    finally:
        lab.down()


def _me() -> tuple[int, float]:
    me = psutil.Process()
    return me.pid, me.create_time()


def _number() -> int:
    """The lowest free number, taken by making its folder. Raises LabError."""
    ROOT.mkdir(parents=True, exist_ok=True)
    for number in range(256):
        try:
            (ROOT / str(number)).mkdir()
            return number
        except FileExistsError:
            continue
    raise LabError(f"256 laboratories stand; remove them: ringzero lab down --all (files in {ROOT})")

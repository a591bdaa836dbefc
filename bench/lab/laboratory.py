"""A laboratory from `up` to `down`: hosts on one switch, remembered in a file, removed whatever ended whoever made it.

All of it hangs on processes in namespaces of their own, the switch too: nothing is added to this machine's network, and
once they are killed nothing is left but a folder under ROOT.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.lab import door, holder, host, rights, sshd
from bench.lab.holder import within
from bench.lab.host import Host
from bench.lab.link import Link
from bench.lab.rights import LabError

ROOT = Path("/run/ringzero/lab")
STATE = "state.json"
MOST = 16
SMALLEST_MTU, LARGEST_MTU = 1280, 9000
GRACE_S = 2.0
BUSY_S = 5.0  # between a folder and its first file


@dataclass
class Lab:
    """`owner`: process that removes it when it leaves, with the second it began; None: it stands until `down`.

    `daemons`: the sshd of each host, none where `door` says that hosts are entered otherwise.
    """

    number: int
    link: str
    mtu: int
    owner: tuple[int, float] | None
    switch: int = 0
    hosts: list[Host] = field(default_factory=list)
    daemons: dict[str, int] = field(default_factory=dict)
    door: str = door.NSENTER

    @property
    def state(self) -> Path:
        """The file that remembers it."""
        return ROOT / str(self.number) / STATE

    @property
    def shared_cores(self) -> bool:
        """Hosts take turns on this machine's cores: times are no measure of scaling."""
        return len({core for each in self.hosts for core in each.cores}) < len(self.hosts)

    def write(self) -> None:
        """Whole or not at all."""
        partial = self.state.with_suffix(".partial")
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        partial.replace(self.state)

    def named(self, name: str) -> Host:
        """The host of that name. Raises LabError."""
        for each in self.hosts:
            if each.name == name:
                return each
        raise LabError(f"no host {name!r}; there are: {', '.join(each.name for each in self.hosts)}")

    def reshape(self, link: Link, *, only: Host | None = None) -> None:
        """Give all cables, or that of one host, another bandwidth; what runs goes on."""
        for each in [only] if only else self.hosts:
            each.shape(self.switch, link)
        if only is None:
            self.link = str(link)
            self.write()

    def end_runs(self) -> None:
        """End every process of the hosts; the hosts stand."""
        holder.end(self.running, grace_s=GRACE_S)

    def running(self) -> list[psutil.Process]:
        """Every process of the hosts, but those that hold them and let others in."""
        kept = {self.switch, *(each.pid for each in self.hosts), *self.daemons.values()}
        return [each for each in self._members() if each.pid not in kept]

    def shut(self, host: Host, *, closed: bool) -> None:
        """Let a host refuse connections, or take them again."""
        if self.door == door.NSENTER:
            door.shut(self.state, host, closed=closed)
        elif closed:
            sshd.stop(self.daemons.pop(host.name))
        else:
            self.daemons[host.name] = sshd.start(self.state, host)
        self.write()

    def down(self) -> None:
        """Remove all of it. Nothing that ran in a host is alive afterwards."""
        self.end_runs()
        holder.end(self._members)
        shutil.rmtree(self.state.parent, ignore_errors=True)
        for folder in (ROOT, ROOT.parent):
            with contextlib.suppress(OSError):  # not empty: another one stands
                folder.rmdir()

    def _members(self) -> list[psutil.Process]:
        networks = {each.network for each in self.hosts if each.alive()}
        found = {each.pid: each for each in [*holder.inside(networks), *holder.of(self.state)]}
        return list(found.values())


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


def read(state: Path) -> Lab:
    """A laboratory from its file. Raises LabError."""
    try:
        values = json.loads(state.read_text())
        owner = tuple(values.pop("owner") or ()) or None
        hosts = [Host(**{**each, "cores": tuple(each["cores"])}) for each in values.pop("hosts")]
        return Lab(**values, owner=owner, hosts=hosts)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LabError(f"{state} is not the file of a laboratory: {error}") from error


def standing() -> list[Lab]:
    """Every laboratory of this machine whose hosts and owner are there."""
    found = []
    for state in sorted(ROOT.glob(f"*/{STATE}")):
        with contextlib.suppress(LabError):
            found.append(read(state))
    return [lab for lab in found if not stale(lab)]


def find(number: int | None = None) -> Lab:
    """That laboratory, or the only one that stands. Raises LabError."""
    labs = standing()
    if number is not None:
        labs = [lab for lab in labs if lab.number == number]
    if not labs:
        which = "laboratory stands" if number is None else f"laboratory {number}"
        raise LabError(f"no {which}; type: ringzero lab up --hosts 2 --link 1gbit")
    if len(labs) > 1:
        raise LabError(f"several laboratories stand; add --lab {' or '.join(str(lab.number) for lab in labs)}")
    return labs[0]


def stale(lab: Lab) -> bool:
    """Whoever owned it is gone, or its hosts are."""
    if lab.owner is not None:
        return not _same(*lab.owner)
    return not all(each.alive() for each in lab.hosts)


def sweep() -> list[int]:
    """Remove what a process that was killed has left; returns the numbers."""
    removed = []
    for folder in sorted(ROOT.glob("[0-9]*")):
        try:
            lab = read(folder / STATE)
        except LabError:  # killed before its first file was whole; nothing runs before that
            if not _busy(folder):
                shutil.rmtree(folder, ignore_errors=True)
            continue
        if stale(lab):
            lab.down()
            removed.append(lab.number)
    return removed


def _me() -> tuple[int, float]:
    me = psutil.Process()
    return me.pid, me.create_time()


def _same(pid: int, began: float) -> bool:
    """The process of that id is the one that began then."""
    try:
        return bool(abs(psutil.Process(pid).create_time() - began) < 1.0)
    except psutil.NoSuchProcess:
        return False


def _busy(folder: Path) -> bool:
    """A folder without a file yet belongs to somebody who makes it just now, for some seconds."""
    try:
        return time.time() - folder.stat().st_mtime < BUSY_S
    except OSError:
        return False


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

"""Which host failed first, and why, from what every host's command said and in which order they ended."""

import json
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.hosts.description import Host, HostsError, first_rank, host_of
from bench.hosts.ssh import CONNECTION_FAILED, SAYS
from bench.hosts.tether import VERDICT

# A rank's own words (bench.run). Other causes may be of one that lost the rank that failed.
TOLD = re.compile(
    r"bench\.run: \S+ failed on rank (\d+) of \d+, (?:on (\S+), )?.*?: "
    r"(does not fit|peer lost|non-finite|disk|import|time limit): ([^\n]*)"
)
# Said where no rank knew a better cause: what started it is gone, or has ended it
ENDED = re.compile(
    r"bench\.run: \S+ failed on rank (\d+) of \d+, (?:on (\S+), )?.*?: "
    r"(launcher|interrupted): (its launcher is gone|ended by \w+)"
)
TORCHRUN = re.compile(r"\(exitcode: -(\d+)\) local_rank: (\d+)")
DEEPSPEED = re.compile(r"exits with return code = -(\d+)")
FIRST = re.compile(r"Process name: (?:\[[^\]]*,)?(\d+)\]?\s+Exit code:\s+(\d+)")  # horovodrun and mpirun
MPIRUN = re.compile(r"process rank (\d+) with PID \d+ on node (\S+) exited on\s+signal (\d+)")
# Open MPI ends a rank itself where its connection breaks, before that rank can look for the cause
PARTED = re.compile(r"MPI communication peer process has unexpectedly disconnected.*?Peer host:\s+(\S+)", re.DOTALL)
NO_CONNECTION = "Open MPI lost its connection"
# The same where its help text is lost on the way: the rank that lost the connection, not whose process is gone
CUT_OFF = re.compile(r"An error occurred in Socket closed\s.*?reported by process \[\d+,(\d+)\]", re.DOTALL)
# mpirun's agent on a host; mpirun ends with status 0 where it loses one
AGENT = re.compile(r"has lost communication with a remote daemon\..*?Remote daemon:\s+\S+ on node (\S+)", re.DOTALL)
UNREACHED = re.compile(rf"{re.escape(SAYS)}(\S+): (ssh [^\n]*)")
STARVED = re.compile(rf'{re.escape(VERDICT)}.*"starved": true')
AFTERWARDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # what ends the others once one has failed


@dataclass(frozen=True)
class Said:
    """The output of one host's command, and its exit status; None where it was still running when the rest was ended."""

    host: str
    text: str
    code: int | None

    def verdict(self) -> tuple[str, str] | None:
        """(cause, message) of how the command ended, where its tether could still tell."""
        lines = [line.partition(VERDICT)[2] for line in self.text.splitlines() if VERDICT in line]
        try:
            told = json.loads(lines[-1])
            return told["cause"], told["message"]
        except (IndexError, ValueError, KeyError):
            return None

    def failed(self) -> bool:
        """By its status, or by what it said where that tells nothing."""
        return bool(self.code) or bool(AGENT.search(self.text))

    def starved(self) -> bool:
        """A tether whose word is in here saw the kernel kill a process for memory."""
        return bool(STARVED.search(self.text))


def blame(everyone: Sequence[Said], hosts: Sequence[Host]) -> dict[str, Any]:
    """`host`, `rank` (None: nobody says), `cause` and `message`.

    `everyone`: those that failed first, in the order of their ends, then the others. A rank or launcher that names the one
    that died is believed before the order of ends: who loses a peer often ends first.
    """
    try:
        host, rank, cause, message = next(_named(everyone, hosts))
        there = [said for said in everyone if said.host == host] or everyone  # one launcher may speak for all hosts
        killed = cause == "peer lost" and message.endswith(("SIGKILL", NO_CONNECTION))
        if killed and any(said.starved() for said in there):
            cause, message = "does not fit", f"{message}: the kernel ran out of memory"
        return {"host": host, "rank": rank, "cause": cause, "message": message}
    except (StopIteration, HostsError):  # nobody says, or a line that only looks like it
        pass
    first = everyone[0]
    found: dict[str, Any] = {"host": first.host, "rank": None}
    if first.code == CONNECTION_FAILED and first.verdict() is None:
        lines = [line for line in first.text.splitlines() if line.strip()]
        return found | {"cause": "launcher", "message": f"ssh: {lines[-1] if lines else 'no connection'}"}
    cause, message = first.verdict() or ("launcher", f"its command ended with status {first.code}")
    return found | {"cause": cause, "message": f"{message}, before the others"}


def _named(everyone: Sequence[Said], hosts: Sequence[Host]) -> Iterator[tuple[str, int | None, str, str]]:
    """(host, rank, cause, message), the surest first."""
    for said in everyone:
        for found in TOLD.finditer(said.text):
            yield _where(found, hosts), int(found[1]), found[3], found[4]
    for said in everyone:
        for found in UNREACHED.finditer(said.text):
            yield found[1], None, "launcher", found[2]
        for found in TORCHRUN.finditer(said.text):
            if (number := int(found[1])) not in AFTERWARDS:
                yield said.host, first_rank(said.host, hosts) + int(found[2]), "peer lost", _killed(number)
        for found in MPIRUN.finditer(said.text):
            if (number := int(found[3])) not in AFTERWARDS:
                yield host_of(int(found[1]), hosts).name, int(found[1]), "peer lost", _killed(number)
        for found in DEEPSPEED.finditer(said.text):
            if (number := int(found[1])) not in AFTERWARDS:
                yield said.host, None, "peer lost", f"a rank {_killed(number)}"
        for found in FIRST.finditer(said.text):
            rank, number = int(found[1]), int(found[2]) - 128
            if number > 0 and number not in AFTERWARDS:
                yield host_of(rank, hosts).name, rank, "peer lost", _killed(number)
    for said in everyone:
        for found in ENDED.finditer(said.text):
            yield _where(found, hosts), int(found[1]), found[3], found[4]
        for found in AGENT.finditer(said.text):
            if host := next((host for host in hosts if host.name == found[1]), None):
                yield host.name, None, "launcher", "mpirun lost its agent there"
    for said in everyone:
        for found in PARTED.finditer(said.text):
            for host in hosts:
                if host.name == found[1]:
                    alone = first_rank(host.name, hosts) if host.slots == 1 else None
                    yield host.name, alone, "peer lost", f"the process of a rank is gone: {NO_CONNECTION}"
        for found in CUT_OFF.finditer(said.text):
            if sum(host.slots for host in hosts) == 2:  # it is the other; among more nobody knows which
                gone = 1 - int(found[1])
                yield host_of(gone, hosts).name, gone, "peer lost", f"the process of a rank is gone: {NO_CONNECTION}"
    for said in everyone:
        for found in FIRST.finditer(said.text):
            if int(found[2]) <= 128:
                yield host_of(int(found[1]), hosts).name, int(found[1]), "launcher", f"ended with status {found[2]}"


def _where(found: re.Match[str], hosts: Sequence[Host]) -> str:
    """The host that a rank's words name, as the hosts of the run are called; else the one that the rank was given."""
    named = next((host.name for host in hosts if found[2] in (host.name, host.name.partition(".")[0])), None)
    return named or host_of(int(found[1]), hosts).name


def _killed(number: int) -> str:
    try:
        return f"was killed by {signal.Signals(number).name}"
    except ValueError:
        return f"was killed by signal {number}"

"""Runs a command on each of several hosts, and ends all of them everywhere once one fails or this process is told to stop.

Run as a file: `conduct.py PLAN`. Each command is held by a tether on its host; this end holds the tether's input, so nothing
outlives this process, however it ends.
"""

import sys
from pathlib import Path

if not __package__:  # started as a file: this folder must not shadow the standard library
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, BinaryIO

from bench import processes
from bench.failure import WORD
from bench.hosts.blame import Said, blame
from bench.hosts.description import Host, parse
from bench.hosts.ssh import SAYS
from bench.hosts.tether import BEAT_S, VERDICT, beat
from bench.record import PLACE

PASSED_ON = (WORD, PLACE)  # set by whoever keeps the record, after the commands were made
POLL_S = 0.05
OTHERS_S = 5.0  # after the first failure: the ranks of other hosts see it, and close the record
CLOSE_S = 10.0  # for a tether to end what it holds; a host that does not answer must not hold up the rest
STOPPED_S = 4.5  # the same where this process was told to stop: `processes.end` kills it after 5
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PIECE = 1 << 20  # bytes of output that are read at once
RANK_FAILED = " failed on rank "  # in the one message of a run that a rank has ended (bench.run)
RESTARTS = ("--max-restarts", "--reset-limit")  # of launchers that start lost ranks again: that message is no end there
SAID = 20_000  # characters of a host's output that are remembered: its end


@dataclass(frozen=True)
class Part:
    """What one host does: `reach` starts a tether there, which is told `spec`."""

    host: str
    reach: list[str]
    spec: dict[str, Any]


@dataclass
class Started:
    """A part that was started, with all that it has said so far."""

    part: Part
    child: subprocess.Popen[bytes]
    output: BinaryIO
    code: int | None = None
    seen: int = 0
    said: str = ""
    rank_failed: bool = False

    def tell(self, prefix: str, *, last: bool = False) -> None:
        """Print the whole lines that are new, those that a progress line writes over too; the last call prints all."""
        while new := os.pread(self.output.fileno(), PIECE, self.seen):
            end = len(new) if last or len(new) == PIECE else max(new.rfind(b"\n"), new.rfind(b"\r")) + 1
            self.seen += end
            for line in new[:end].decode(errors="replace").splitlines(keepends=True):
                self.said = (self.said + line)[-SAID:]
                self.rank_failed |= RANK_FAILED in line
                if line.strip() and VERDICT not in line:
                    _say(prefix + line + ("" if line.endswith(("\n", "\r")) else "\n"))
            if not last:
                return


def _say(text: str) -> None:
    """Not `print`, whose buffer would keep what a full disk refused: a log that takes no more must not end the run."""
    with contextlib.suppress(OSError):
        os.write(sys.stdout.fileno(), text.encode())


class Stopped(Exception):
    """By a signal."""


def run(parts: Sequence[Part], hosts: Sequence[Host]) -> dict[str, Any] | None:
    """Start all parts, print what they say, return when none is left: who failed and why, None where nobody did."""
    prefixes = {part.host: f"[{part.host}] " if len(parts) > 1 else "" for part in parts}
    started: list[Started] = []
    close_s = CLOSE_S
    order: list[Started] = []  # those that failed, the first one first
    restarts = any(word.startswith(RESTARTS) for part in parts for word in part.spec["argv"])
    since: float | None = None
    beaten = time.monotonic()
    try:
        for part in parts:
            started.append(_start(part))
        while any(each.code is None for each in started):
            time.sleep(POLL_S)
            if time.monotonic() - beaten > BEAT_S:
                beaten = time.monotonic()
                for each in started:
                    assert each.child.stdin is not None
                    beat(each.child.stdin)
            for each in started:  # every one of them each time: who is asked late seems to end late
                each.tell(prefixes[each.part.host])
                if each.code is None and (code := each.child.poll()) is not None:
                    each.code = code
                    if code:
                        order.append(each)
            # a launcher may wait for ever: mpirun for a host whose cable is out to say that its ranks are gone
            if since is None and (order or (not restarts and any(each.rank_failed for each in started))):
                since = time.monotonic()
            if since is not None and time.monotonic() - since > OTHERS_S:
                break
    except Stopped:
        close_s = STOPPED_S
        raise
    finally:
        _end(started, close_s)
        for each in started:
            each.tell(prefixes[each.part.host], last=True)
            each.output.close()
    everyone = order + [each for each in started if each not in order]
    said = [Said(each.part.host, each.said, each.code) for each in everyone]
    return blame(said, hosts) if since is not None or any(each.failed() for each in said) else None


def _start(part: Part) -> Started:
    # No pipe: what is left behind on a host could hold it open for ever. `run` closes it.
    output = tempfile.TemporaryFile()  # noqa: SIM115
    # Not the launch's mark: whoever ends that asks this process, which then ends its parts in order.
    env = {name: value for name, value in os.environ.items() if name != processes.MARK}
    try:
        child = subprocess.Popen(
            part.reach, env=env, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError:
        output.close()
        raise
    assert child.stdin is not None
    spec = part.spec | {"env": part.spec["env"] | {name: os.environ[name] for name in PASSED_ON if name in os.environ}}
    with contextlib.suppress(BrokenPipeError):  # it is gone already: its status tells
        child.stdin.write(json.dumps(spec).encode() + b"\n")
        child.stdin.flush()
    return Started(part, child, output)


def _end(started: Sequence[Started], close_s: float) -> None:
    """Let go of every tether, then wait for all of them; the connection of one that does not answer is cut."""
    for each in started:
        assert each.child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            each.child.stdin.close()
    deadline = time.monotonic() + close_s
    for each in started:
        try:
            each.child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            each.child.kill()
            each.child.wait()
            _say(f"{SAYS}{each.part.host}: did not end within {close_s:g} s; look there for what is left\n")


def main(plan: str) -> int:
    """Read the parts from a file, run them, and write who failed into the file that it names. Returns 0, or 1."""
    for number in SIGNALS:
        signal.signal(number, _stopped)
    content = json.loads(Path(plan).read_text())
    try:
        failed = run([Part(**part) for part in content["parts"]], parse(content["hosts"]))
    except Stopped:
        return 1
    if failed is not None:
        who = "" if failed["rank"] is None else f"rank {failed['rank']}: "
        _say(f"{SAYS}{failed['host']}: {who}{failed['message']}\n")
        with contextlib.suppress(OSError):  # the log says it too
            Path(content["failed"]).write_text(json.dumps(failed))
    return 1 if failed else 0


def _stopped(number: int, frame: FrameType | None) -> None:
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)  # a second one must not cut the ending short
    raise Stopped


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

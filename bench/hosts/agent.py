"""Stands in for `ssh` where a launcher reaches hosts by itself: the real one, with a tether on the far side.

bench/hosts/bin/ssh runs this file; the real command is in RINGZERO_SSH.
"""

import sys
from pathlib import Path

if not __package__:  # started as a file: this folder must not shadow the standard library
    sys.path[0] = str(Path(__file__).resolve().parents[2])

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from types import FrameType

from bench.hosts.ssh import CONNECTION_FAILED, SAYS, VARIABLE, Ssh
from bench.hosts.tether import BEAT_S, FAR, MARK, SCRATCH, SIGNALS, SILENT, Spec, beat

TETHER = Path(__file__).with_name("tether.py")
VALUED = "BbcDEeFIiJLlmOopQRSWw"  # ssh's options that take a value, in the same word or the next
POLL_S = 0.1


def cut(words: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """(options, host, command) of ssh's arguments; as ssh does, options are also taken from behind the host."""
    options: list[str] = []
    host = ""
    rest = list(words)
    while rest:
        word = rest[0]
        if word == "--":  # the end of ssh's own options
            rest.pop(0)
            host = host or (rest.pop(0) if rest else "")
            break
        if word.startswith("-") and len(word) > 1:
            options.append(rest.pop(0))
            letter = next((place for place, each in enumerate(word[1:], 1) if each in VALUED), None)
            if letter is not None and letter == len(word) - 1 and rest:
                options.append(rest.pop(0))
        elif host:
            break
        else:
            host = rest.pop(0)
    return options, host, rest


def tethered(reach: Sequence[str], host: str, python: str = sys.executable) -> list[str]:
    """The command that begins a tether on a host; it waits for its Spec on standard input."""
    return [*reach, host, shlex.join([python, str(TETHER)])]


def main(words: Sequence[str]) -> int:
    """Returns what ssh returns."""
    given = os.environ.get(VARIABLE)
    real = shlex.split(given) if given else Ssh().argv()
    options, host, command = cut(words)
    if not host or not command:  # `ssh -V`, or a login: nothing to hold
        os.execvp(real[0], [*real, *words])
    text, mark = " ".join(command), uuid.uuid4().hex
    if inherited := os.environ.get(MARK):  # a launcher may pass its own on; what carries that belongs to another host
        text = text.replace(f"{MARK}={inherited}", f"{MARK}={mark}")
    parent, ended = os.getppid(), False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal ended
        ended = True

    for number in SIGNALS:
        signal.signal(number, end)
    silent = os.environ.get(SILENT)
    silent_s = float(silent) if silent else None
    spec = Spec(["/bin/sh", "-c", text], scratch=os.environ.get(SCRATCH), mark=mark, silent_s=silent_s)
    env = {name: value for name, value in os.environ.items() if name != MARK}
    if inherited:
        env[FAR] = inherited  # not the mark: whoever ends this process waits for the connection, which stays to the end
    connection = subprocess.Popen(
        tethered([*real, *options], host), stdin=subprocess.PIPE, env=env, start_new_session=True
    )
    assert connection.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it is gone already: its status tells
        connection.stdin.write(json.dumps(dataclasses.asdict(spec)).encode() + b"\n")
        connection.stdin.flush()
    beaten = time.monotonic()
    while connection.poll() is None and os.getppid() == parent and not ended:
        time.sleep(POLL_S)
        if time.monotonic() - beaten > BEAT_S:
            beaten = time.monotonic()
            beat(connection.stdin)
    with contextlib.suppress(BrokenPipeError):
        connection.stdin.close()  # the launcher is gone, or wants an end: so shall be what it started there
    code = connection.wait()
    if code == CONNECTION_FAILED:
        print(f"\n{SAYS}{host}: ssh could not reach it, or lost it", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

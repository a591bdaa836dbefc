"""`ringzero lab run`: a command on the hosts of a laboratory, each line of output with the host's name before it."""

import argparse
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from bench import processes
from bench.lab import kept
from bench.lab.host import Host
from bench.lab.lab import Lab
from bench.lab.rights import LabError


def main(argv: Sequence[str]) -> int:
    """Returns the largest exit status of the hosts; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="ringzero lab run", description="Run a command on every host, at the same time."
    )
    parser.add_argument("--on", metavar="HOST", help="only on this host, with this terminal")
    parser.add_argument("--lab", type=int, metavar="N", help="number of the laboratory, where several stand")
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD ...", help="a program and its arguments")
    asked = parser.parse_args(argv)
    words = asked.command[1:] if asked.command[:1] == ["--"] else asked.command
    if not words:
        raise LabError("nothing to run; type: ringzero lab run hostname")
    lab = kept.find(asked.lab)
    if asked.on:
        return subprocess.run([*lab.named(asked.on).enter(lab.state), *words], check=False).returncode
    return everywhere(lab, words)


def everywhere(lab: Lab, words: Sequence[str], out: IO[str] | None = None, cwd: Path | None = None) -> int:
    """Run on all hosts, wait for all; nothing of it is alive afterwards."""
    mark, shown = uuid.uuid4().hex[:12], out or sys.stdout
    codes: dict[str, int] = {}

    def one(host: Host) -> None:
        started = subprocess.Popen(
            [*host.enter(lab.state, cwd), "env", f"{processes.MARK}={mark}", *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        assert started.stdout is not None
        with started.stdout:
            for line in started.stdout:
                shown.write(f"{host.name}: {line}")
                shown.flush()
        codes[host.name] = started.wait()

    threads = [threading.Thread(target=one, args=(host,), daemon=True) for host in lab.hosts]
    with processes.guarded(mark):
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            processes.end(mark)
    return max(abs(code) for code in codes.values())

"""SIGKILL at random moments for a comparison: of the command itself, of a launcher, of one rank."""

import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench.comparison import SUFFIX
from bench.processes import MARK
from tests.faults.conftest import ROOT, environment

TARGETS = ("compare", "launcher", "rank")
GONE_S = 30.0  # what the processes of a run may take to end after the command was killed
HANG_S = 240.0  # without a word from the command, on a machine that does other things too


@dataclass
class Harness:
    """One comparison in `results`, killed and resumed until it is complete."""

    results: Path
    matrix: Path
    draw: random.Random
    longest_s: float  # the next moment is drawn between 0 and this
    killed: Counter[str] = field(default_factory=Counter)

    def complete(self, kills: int) -> None:
        """Run it to its end with at most `kills` kills on the way; fails where anything hangs or is left behind."""
        flags: list[str] = [str(self.matrix), "--seed", "1"]
        left = kills
        while True:
            command = self.start(flags)
            flags = ["--resume"]
            killed = None
            while command.poll() is None and left > 0 and killed != "compare":
                self.wait(command, self.draw.uniform(0.0, self.longest_s))
                killed = self.kill(command, self.draw.choice(TARGETS))
                left -= killed is not None
            if killed != "compare":
                self.wait(command, HANG_S * 4)
                assert command.poll() is not None, f"it hangs\n{self.said()[-3000:]}"
                self.nothing_left()
                if command.returncode in (0, 1):  # 1: a run was killed, and is a row that says so
                    return
                raise AssertionError(f"exit status {command.returncode}\n{self.said()[-3000:]}")
            self.nothing_left()
            if self.ended() == "complete":  # killed while it drew the page
                return
            if not self.comparisons():
                flags = [str(self.matrix), "--seed", "1"]  # killed before it had begun

    def start(self, flags: list[str]) -> subprocess.Popen[bytes]:
        """The command, in the background."""
        with open(self.results.with_suffix(".txt"), "ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "bench", "compare", *flags, "--results", str(self.results)],
                stdout=output,
                stderr=output,
                env=environment(),
                cwd=ROOT,
                start_new_session=True,
            )

    def wait(self, command: subprocess.Popen[bytes], seconds: float) -> None:
        """Until it ends or the time is over."""
        try:
            command.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            pass

    def kill(self, command: subprocess.Popen[bytes], target: str) -> str | None:
        """Kill one process of that kind; None where there is none now."""
        if command.poll() is not None:
            return None
        victims = [command.pid] if target == "compare" else [each.pid for each in self.of_runs(target)]
        if not victims:
            return None
        victim = self.draw.choice(victims)
        try:
            psutil.Process(victim).send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            return None
        if target == "compare":
            command.wait()
        self.killed[target] += 1
        print(f"{time.strftime('%H:%M:%S')} killed {target} {victim}", flush=True)
        return target

    def of_runs(self, target: str = "") -> list[psutil.Process]:
        """Live processes of this comparison's runs: of one kind, or all."""
        found = []
        names = {path.name for path in self.incoming()}
        for process in psutil.process_iter():
            try:
                mark = process.environ().get(MARK, "")
                if process.status() == psutil.STATUS_ZOMBIE or not mark.startswith(tuple(self.comparisons()) or "-"):
                    continue
                line = process.cmdline()
                is_rank = "--backend" in line and "python" in Path(line[0]).name and not process.children()
                parent = process.parent()
                is_launcher = mark in names and (parent is None or MARK not in parent.environ())
            except psutil.Error:  # somebody else's, or gone meanwhile
                continue
            if not target or (target == "rank" and is_rank) or (target == "launcher" and is_launcher):
                found.append(process)
        return found

    def nothing_left(self) -> None:
        """Fails where a process of a run outlives the command."""
        deadline = time.monotonic() + GONE_S
        while (left := self.of_runs()) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not left, f"still running: {[each.cmdline() for each in left]}\n{self.said()[-3000:]}"

    def comparisons(self) -> list[str]:
        """Names of the comparisons in the folder."""
        return [path.name.removesuffix(SUFFIX) for path in self.results.glob(f"*{SUFFIX}")]

    def ended(self) -> str | None:
        """What the comparison says of its end."""
        found = [json.loads(path.read_text()) for path in self.results.glob(f"*{SUFFIX}")]
        return found[0]["ended"] if found else None

    def incoming(self) -> list[Path]:
        """Folders of runs that are not finished."""
        return list((self.results / ".incoming").glob("*"))

    def said(self) -> str:
        """All that the commands printed."""
        return self.results.with_suffix(".txt").read_text(errors="replace")


def check(harness: Harness) -> dict[str, int]:
    """No record lost, torn or counted twice; returns how often each cause stands in the records."""
    (name,) = harness.comparisons()
    kept: dict[str, Any] = json.loads((harness.results / f"{name}{SUFFIX}").read_text())
    assert kept["ended"] == "complete"
    assert len(kept["records"]) == len(set(kept["records"])) == len(kept["order"])
    records = {
        path.name: json.loads(path.read_text())
        for path in harness.results.glob("*.json")
        if not path.name.endswith(SUFFIX)
    }
    for place, (file, said) in enumerate(zip(kept["records"], kept["order"], strict=True)):
        record = records[file]
        assert record["comparison"] == {"name": name, "place": place}
        assert said.startswith(f"{record['engine']['label']} x{record['world']['size']}")
        assert record["status"] in ("done", "failed")
    cut = [record for file, record in records.items() if file not in kept["records"]]
    assert all(record["status"] == "failed" for record in cut), "a measured run was repeated"
    assert {record["failure"]["cause"] for record in cut} <= {"interrupted"}
    assert not harness.incoming(), "a run was left in .incoming"
    assert not list(harness.results.glob("*.partial"))
    failed = [record["failure"]["cause"] for record in records.values() if record["status"] == "failed"]
    assert set(failed) <= {"interrupted", "peer lost", "launcher"}, failed
    return Counter(failed)

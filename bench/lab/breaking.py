"""A run over a laboratory's hosts with a fault in it: started, struck at a step, watched to its end, and looked over afterwards."""

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench import launch
from bench.config import RunConfig
from bench.hosts import start as hosts_start
from bench.hosts.ssh import Ssh
from bench.lab import laboratory, left, start
from bench.lab.faults import KINDS, Kind, Scene
from bench.lab.host import INTERFACE
from bench.lab.lab import Lab
from bench.lab.link import Link
from bench.lab.rights import LabError
from bench.launchers import free_port, launcher

POLL_S = 0.05
START_S = 120.0  # until the step comes at which the fault is done
SETTLE_S = 0.3  # ranks tell where they are four times a second
SLACK_S = 20.0  # beyond the run's own limit: to end it on all hosts, and to write the record


@dataclass(frozen=True)
class Outcome:
    """`seconds`: from the fault to the end of the run; `checkpoints`: whole ones that are there, where the run writes any;
    `wrong`: what should not be, a line each."""

    kind: str
    label: str
    victim: str
    step: int
    seconds: float
    record: Path
    said: str
    checkpoints: int
    wrong: list[str]


def fault(
    name: str, config: RunConfig, *, hosts: int = 2, link: str = "1gbit", at_step: int = 2, victim: int = -1
) -> Outcome:
    """Run with that fault, done to host `victim` (from 0) when its rank is at `at_step`. Raises LabError for a kind that
    there is not, that this engine has no use for, or that can't be done on this machine."""
    kind = chosen(name, config)
    results = config.output.results.absolute()
    with kind.ground(results), laboratory.laboratory(hosts, Link.read(link)) as lab:
        port = free_port()
        scene = Scene(lab, lab.hosts[victim], results, port)
        build = hosts_start.builder(
            start.named(lab), Ssh(str(lab.state.parent / "bin" / "ssh")), interface=INTERFACE, port=lambda: port
        )
        ended: list[Path] = []
        limit_s = START_S + config.measure.limit_s + SLACK_S
        run = threading.Thread(
            target=lambda: ended.append(launch.run(config, hosts, limit_s=limit_s, build=build)), daemon=True
        )
        with kind.before(scene):
            begun = time.monotonic()
            run.start()
            if kind.strike is not None:
                scene = dataclasses.replace(scene, rank=wait(scene, at_step, run))
                begun = time.monotonic()
                kind.strike(scene)
            if kind.after is not None:
                time.sleep(kind.after_s)
                kind.after(scene)
            # in the set-up it is the engine that gives up first, after twice the limit
            allowed = limit_s if "done" in kind.ends else 2 * config.measure.limit_s + SLACK_S
            run.join(allowed)
            seconds = time.monotonic() - begun
            hung = run.is_alive()
        running = remaining(lab)
        lab.end_runs()  # where it hangs, this ends it, and the record is written
        run.join(SLACK_S)
    if not ended:
        raise LabError(f"{name}: no record was written within {allowed:.0f} s")
    record = json.loads(ended[0].read_text())
    wrong = [f"it hung for {allowed:.0f} s"] if hung else []
    wrong += [f"still running: {each}" for each in running]
    wrong += _judge(kind, scene, record, results)
    wrong += [f"left: {each}" for each in left.of_lab(lab, results)]
    kept = config.checkpoints
    whole, not_whole = left.checkpoints(kept.checkpoint_folder) if kept.checkpoint_every else (0, [])
    wrong += not_whole
    label, at = config.engine.label, scene.victim.name
    return Outcome(name, label, at, at_step, seconds, ended[0], _said(record), whole, wrong)


def chosen(name: str, config: RunConfig) -> Kind:
    """The kind of that name. Raises LabError."""
    if name not in KINDS:
        raise LabError(f"no fault {name!r}; there are: {', '.join(KINDS)}")
    kind = KINDS[name]
    if launcher(config) not in kind.launchers:
        raise LabError(
            f"{name} has no meaning for {config.engine.label}, started by {launcher(config)}; it is for engines that "
            f"{' or '.join(kind.launchers)} starts"
        )
    return kind


def wait(scene: Scene, at_step: int, run: threading.Thread) -> int:
    """Process id of the victim's rank once it has come to a step. Raises LabError where it does not."""
    end = time.monotonic() + START_S
    while time.monotonic() < end and run.is_alive():
        for told in _ranks(scene.results):
            if told["host"] == scene.victim.name and told["step"] >= at_step:
                time.sleep(SETTLE_S)
                return int(told["pid"])
        time.sleep(POLL_S)
    raise LabError(f"the rank of {scene.victim.name} did not come to step {at_step}; see the log in {scene.results}")


def _ranks(results: Path) -> Iterator[dict[str, Any]]:
    """Host, process and step of each rank that has joined."""
    for alive in results.glob(f"{launch.INCOMING}/*/.running/*/rank_*.alive"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # just being written
            words = alive.with_suffix(".beat").read_text().split()
            yield json.loads(alive.read_text()) | {"step": int(words[2])}


def remaining(lab: Lab) -> list[str]:
    """What still runs on the hosts.

    A daemon's own child is a session: while the cable is out it waits for its client, though what ran in it has ended.
    """
    daemons = set(lab.daemons.values())
    found = []
    for each in lab.running():
        with contextlib.suppress(psutil.NoSuchProcess):
            if each.status() != psutil.STATUS_ZOMBIE and each.ppid() not in daemons:
                found.append(f"{each.pid} {' '.join(each.cmdline())[:120]}")
    return found


def _judge(kind: Kind, scene: Scene, record: dict[str, Any], results: Path) -> list[str]:
    """What is wrong with how it ended."""
    wrong = []
    end = "done" if record["status"] == "done" else record["failure"]["cause"]
    if end not in kind.ends:
        wrong.append(f"it ended as {end!r}, not as {' or '.join(map(repr, kind.ends))}")
    if record["status"] != "done" and kind.blames and scene.victim.name not in _said(record):
        wrong.append(f"the message does not name {scene.victim.name}")
    names = [path.name for path in results.glob("*.partial")] + [path.name for path in results.glob(".incoming/*")]
    return wrong + [f"left in {results}: {name}" for name in names]


def _said(record: dict[str, Any]) -> str:
    """The first lines of what the record says of its end."""
    failure = record.get("failure") or {}
    if record["status"] == "done":
        return "done"
    return f"{failure['cause']}: " + " / ".join(str(failure["message"]).splitlines()[:2])

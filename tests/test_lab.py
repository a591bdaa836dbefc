"""A laboratory: its hosts are separate, its links have their rate, and nothing is left of it, whatever ended its maker."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench import wire
from bench.__main__ import main
from bench.lab import breaking, holder, kept, laboratory, rights, stream
from bench.lab.host import INTERFACE
from bench.lab.lab import ROOT, Lab
from bench.lab.link import Link
from bench.lab.rights import LabError
from bench.lab.start import named, place
from bench.restarts import Restarts
from tests.labs import needs_lab


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with laboratory.laboratory(2, Link.read("200mbit")) as made:
        yield made


def on(lab: Lab, host: str, script: str) -> str:
    """What a shell on that host prints."""
    words = [*lab.named(host).enter(lab.state), "sh", "-ec", script]
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout


def came(lab: Lab) -> int:
    """Bytes that host2 received since it stands, by the kernel."""
    table = Path(f"/proc/{lab.named('host2').pid}/net/dev").read_text()
    return int(table.partition(f"{INTERFACE}:")[2].split()[0])


def devices() -> str:
    """This machine's own network, hosts file and mounts: none of a laboratory's business."""
    mounts = Path("/proc/self/mounts").read_text()
    names = subprocess.run(["ip", "-o", "-br", "address"], capture_output=True, text=True, check=True).stdout
    return names + mounts + Path("/etc/hosts").read_text()


@pytest.mark.parametrize(
    ("text", "rate", "name"),
    [("100mbit", 1e8, "100mbit"), ("2.5gbit", 2.5e9, "2.5gbit"), ("1000Mbit/s", 1e9, "1gbit"), ("none", None, "none")],
)
def test_a_link_is_read(text: str, rate: float | None, name: str) -> None:
    assert (Link.read(text).rate, str(Link.read(text))) == (rate, name)


@pytest.mark.parametrize("text", ["fast", "0mbit", "100", "-1gbit", "100MB"])
def test_a_link_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(LabError, match="type a rate such as 100mbit"):
        Link.read(text)


def test_what_is_refused_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main(["lab", "up"]) == 2
    assert "it needs root" in capsys.readouterr().err
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(rights, "_fails", lambda words: "Operation not permitted" if "--uts" in words else None)
    assert "unshare(CLONE_NEWUTS) was refused: Operation not permitted" in str(rights.refused())
    monkeypatch.setattr(rights, "_fails", lambda words: "unknown qdisc" if "tbf" in words[-1] else None)
    assert "tbf) was refused: unknown qdisc" in str(rights.refused())
    monkeypatch.setattr(rights.shutil, "which", lambda name: None if name == "tc" else name)
    assert rights.refused() == "tc is not installed; type: apt-get install iproute2"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["upp"], "did you mean 'up'?"),
        (["up", "--hosts", "1"], "it must be from 2 to 16"),
        (["up", "--mtu", "100"], "it must be from 1280 to 9000"),
        (["run", "hostname"], "ringzero lab up --hosts 2"),
        (["link", "fast"], "ringzero lab up --hosts 2"),
    ],
)
def test_a_wrong_command_says_what_to_type(words: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", *words]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("words", [["status"], ["down"], ["down", "--all"], ["run", "hostname"], ["link", "100mbit"]])
def test_a_user_without_root_is_never_told_that_a_laboratory_is_gone(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kept, "ROOT", tmp_path / "ringzero" / "lab")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr("bench.lab.host.network_of", lambda pid: None)  # all that a user sees of root's process
    if words == ["status"]:
        assert main(["lab", *words]) == 1
        assert capsys.readouterr() == ("no laboratory stands\n", "")
    state = kept.ROOT / "0" / "state.json"
    state.parent.mkdir(parents=True)
    host = {"name": "host1", "address": "10.77.0.1", "port": "port1", "cores": [0], "pid": 1, "network": 1}
    state.write_text(json.dumps({"number": 0, "link": "1gbit", "mtu": 1500, "owner": None, "hosts": [host]}))
    assert main(["lab", *words]) == 2
    out, said = capsys.readouterr()
    assert (out, "it needs root" in said, "removed" in said) == ("", True, False)
    assert state.is_file()


@needs_lab
def test_hosts_are_separate_and_know_each_other(lab: Lab) -> None:
    for name, address in (("host1", "10.77.0.1"), ("host2", "10.77.0.2")):
        address = address.replace(".0.", f".{lab.number}.", 1)
        assert on(lab, name, "hostname").strip() == name
        assert f"{address}/24" in on(lab, name, "ip -br address show lab0")
        assert f"{address} {name}" in on(lab, name, "cat /etc/hosts").splitlines()
    on(lab, "host1", "touch /dev/shm/mine")
    assert on(lab, "host2", "ls /dev/shm") == ""
    assert on(lab, "host1", "ssh -o BatchMode=yes -p 22 root@host2 'hostname; echo $((1+2))'").split() == ["host2", "3"]
    budget = sorted(os.sched_getaffinity(0))
    assert [each.cores for each in lab.hosts] == [(budget[0],), (budget[1 % len(budget)],)] or len(budget) > 3


@needs_lab
def test_a_door_that_is_shut_refuses(lab: Lab) -> None:
    lab.shut(lab.hosts[1], closed=True)
    try:
        with pytest.raises(subprocess.CalledProcessError) as refused:
            on(lab, "host1", "ssh host2 hostname")
        assert (refused.value.returncode, refused.value.stderr.count("Connection refused")) == (255, 1)
    finally:
        lab.shut(lab.hosts[1], closed=False)
    assert on(lab, "host1", "ssh host2 hostname").strip() == "host2"
    with pytest.raises(subprocess.CalledProcessError, match="255"):
        on(lab, "host1", "ssh host9 hostname")


@needs_lab
def test_a_host_without_its_cable_does_not_answer(lab: Lab) -> None:
    hosts = named(lab)
    there = place(lab, hosts, Restarts())
    assert (there.most, there.lost) == (2, ())
    lab.hosts[1].cable(lab.switch, plugged=False)
    try:
        found = place(lab, hosts, Restarts())
    finally:
        lab.hosts[1].cable(lab.switch, plugged=True)
    assert (found.most, found.lost) == (1, ("host2",))
    assert place(lab, hosts, Restarts()).lost == ()


@needs_lab
def test_what_runs_is_told_from_a_session_that_lost_its_client(lab: Lab) -> None:
    client = subprocess.Popen([*lab.hosts[0].enter(lab.state), "ssh", "host2", "sleep", "321"])
    end = time.monotonic() + 10
    while not (sleeps := [line for line in breaking.remaining(lab) if re.fullmatch(r"\d+ sleep 321", line)]):
        assert time.monotonic() < end, "it did not begin"
        time.sleep(0.05)
    lab.hosts[1].cable(lab.switch, plugged=False)
    try:
        client.kill()  # without sshd it is the sleep itself
        client.wait()
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(sleeps[0].split()[0]), signal.SIGKILL)
        while breaking.remaining(lab) and time.monotonic() < end:
            time.sleep(0.05)
        assert breaking.remaining(lab) == []
    finally:
        lab.hosts[1].cable(lab.switch, plugged=True)
        lab.end_runs()


@needs_lab
def test_a_link_has_its_rate_in_both_directions_and_can_be_changed(lab: Lab) -> None:
    for rate in ("200mbit", "50mbit"):
        lab.reshape(Link.read(rate))
        for source, target in (("host1", "host2"), ("host2", "host1")):
            measured, most = stream.measure(lab, source, target), Link.read(rate).payload_rate(lab.mtu)
            assert most is not None
            assert 0.9 * most < measured < 1.02 * most
    lab.hosts[1].cable(lab.switch, plugged=False)
    assert lab.hosts[1].shaped(lab.switch) == "cut"
    lab.hosts[1].cable(lab.switch, plugged=True)
    assert lab.hosts[1].shaped(lab.switch) == "50mbit"


@needs_lab
def test_what_waits_at_a_link_goes_on_when_it_becomes_slower(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A packet that waits for a burst of 125 kB must not wait for ever when the link's bursts are of 32 from now on."""
    monkeypatch.setattr(stream, "LIMIT_S", 15.0)
    fast = Link.read("1gbit")
    for _ in range(2):
        lab.reshape(fast)
        begun = came(lab)
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(stream.measure, lab, "host1", "host2")
            while came(lab) < begun + 10e6 and not sent.done():
                time.sleep(0.001)
            lab.reshape(Link.read("100mbit"), only=lab.named("host2"))
            most = fast.payload_rate(lab.mtu)
            assert most is not None
            assert sent.result() < 0.9 * most  # it was under way when the link changed


@needs_lab
def test_commands_from_up_to_down(capfd: pytest.CaptureFixture[str]) -> None:
    before = devices()
    assert main(["lab", "up", "--hosts", "3", "--link", "1gbit"]) == 0
    (mine,) = (each for each in kept.standing() if each.owner is None)
    number = ["--lab", str(mine.number)]
    try:
        assert main(["lab", "run", *number, "sh", "-c", "hostname; [ $(hostname) != host2 ] || exit 3"]) == 3
        assert sorted(capfd.readouterr().out.splitlines()[-3:]) == [f"host{n}: host{n}" for n in (1, 2, 3)]
        left = subprocess.Popen([*mine.hosts[2].enter(mine.state), "sleep", "60"], start_new_session=True)
        assert main(["lab", "link", *number, "100mbit", "--on", "host2"]) == 0
        assert "100mbit" in capfd.readouterr().out
        assert devices() == before
    finally:
        assert main(["lab", "down", *number]) == 0
    left.poll()
    assert holder.network_of(left.pid) is None
    assert devices() == before
    assert not mine.state.parent.exists()


@needs_lab
@pytest.mark.parametrize("moment", ["half made", "made"])
def test_what_a_killed_command_left_is_removed_at_the_next_call(moment: str) -> None:
    waits = "laboratory._open = lambda *a: stop()" if moment == "half made" else ""
    script = (
        "import time\nfrom bench.lab import laboratory\nfrom bench.lab.link import Link\n"
        f"def stop():\n    print(1, flush=True)\n    time.sleep(60)\n{waits}\n"
        "laboratory.up(2, Link.read('1gbit'))\nstop()\n"
    )
    maker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    maker.stdout.readline()
    (mine,) = (each for each in map(kept.read, ROOT.glob("*/state.json")) if each.owner[0] == maker.pid)
    hosts = [each.pid for each in mine.hosts]
    assert all(holder.network_of(pid) == each.network for pid, each in zip(hosts, mine.hosts, strict=True))
    assert mine.number not in kept.sweep()  # its owner lives
    os.kill(maker.pid, signal.SIGKILL)
    maker.communicate()
    assert mine.number in kept.sweep()
    end = time.monotonic() + 5
    while any(map(holder.network_of, hosts)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(holder.network_of, hosts))
    assert not mine.state.parent.exists()


@needs_lab
@pytest.mark.parametrize(("backend", "beyond"), [("ring", 0.01), ("ddp", 0.01)])
def test_an_engine_over_hosts_moves_what_its_setting_should(
    lab: Lab, backend: str, beyond: float, tmp_path: Path
) -> None:
    lab.reshape(Link.read("1gbit"))
    flags = ["--steps", "3", "--warmup", "0", "--proof-steps", "0", "--phase-steps", "0", "--limit-s", "40"]
    words = ["lab", "launch", "--lab", str(lab.number), "--backend", backend, *flags, "--results", str(tmp_path)]
    assert main(words) == 0
    record = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert record["world"]["hosts"] == ["host1", "host2"]
    assert (record["lab"]["link"], record["lab"]["mtu"]) == ("1gbit", 1500)
    assert record["world"]["oversubscribed"] is lab.shared_cores
    should = wire.expected(record).total
    assert should
    for counted in record["traffic"]["interface"]["hosts"].values():
        assert should <= counted["payload_bytes"] < (1 + beyond) * should
        assert counted["payload_bytes"] < counted["sent_bytes"] < counted["wire_bytes"]

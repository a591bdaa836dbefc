"""Before a run every host is asked what it is; the one that differs is named, with what to do about it."""

import copy
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.hosts import differences, line, preflight, probe
from bench.hosts.description import Host, parse
from bench.hosts.preflight import Clock, Seen
from bench.hosts.ssh import Ssh
from bench.launchers import LaunchFailed

pytestmark = pytest.mark.timeout(60)
ROOT = Path(__file__).resolve().parents[1]
SSH = f"{sys.executable} {ROOT / 'tests' / 'fake_ssh.py'}"
FACTS: dict[str, Any] = {
    "hostname": "a",
    "python": "3.11.7",
    "kernel": "6.1",
    "packages": {"torch": "2.13.0", "horovod": None},
    "commit": "abc1234",
    "dirty": False,
    "code": "5ca1ab1e",
    "machine": {"gpus": (), "cpu": "EPYC", "available": 8 * 2**30, "allowed": (0, 1)},
    "interfaces": {"lo": ["127.0.0.1"], "eth0": ["10.0.0.1"]},
    "resolved": {"a": "10.0.0.1", "b": "10.0.0.2", "c": "10.0.0.3"},
    "missing_cwd": None,
    "shares_results": True,
    "writes_results": True,
}


def three(**changed: Any) -> list[Seen]:
    """Hosts a, b and c that are alike but for what is changed of b: `path__of__keys=value`."""
    seen = []
    for at, name in enumerate("abc"):
        facts = copy.deepcopy(FACTS)
        facts["interfaces"]["eth0"] = [f"10.0.0.{at + 1}"]
        seen.append(Seen(Host(name, 2), facts, Clock(0.0, 0.001)))
    for path, value in changed.items():
        *folders, last = path.split("__")
        inside = seen[1].facts
        for folder in folders:
            inside = inside[folder]
        inside[last] = value
    return seen


def test_hosts_that_are_alike_have_nothing_to_say() -> None:
    assert differences.compare(three()) == ([], [])
    assert differences.network(three(), "") == (differences.Network("eth0", "10.0.0.1"), [])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"python": "3.12.1"}, "host b: Python 3.12.1, where the others have 3.11.7; install the same one"),
        ({"packages__torch": "2.12.0"}, "host b: torch 2.12.0, where the others have 2.13.0; type there: pip install"),
        ({"packages__horovod": "0.28.1"}, "host b: horovod 0.28.1, where the others have none"),
        ({"code": "0ddba11"}, "host b: other source files (0ddba11), where the others have 5ca1ab1e"),
        ({"machine__gpus": ("H200",)}, "host b: 1 GPUs, where the others have 0"),
        ({"missing_cwd": "/home/me"}, "host b: there is no folder /home/me, from which this is started"),
        ({"writes_results": False}, "host b: the results folder can't be written"),
    ],
)
def test_a_difference_that_keeps_a_run_from_starting(changed: dict[str, Any], told: str) -> None:
    problems, _ = differences.compare(three(**changed))
    assert len(problems) == 1
    assert problems[0].startswith(told)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"commit": "def5678"}, "host b: commit def5678, although with the same source files"),
        ({"kernel": "5.15"}, "host b: kernel 5.15, where the others have 6.1"),
        ({"machine__cpu": "Xeon"}, "host b: a Xeon, where the others have EPYC; the slowest host decides"),
        ({"machine__available": 2**30}, "host b: 1.0 GiB of memory are free, half of what a has (8.0)"),
        ({"machine__allowed": (0,)}, "host b: 2 ranks on 1 cores"),
    ],
)
def test_a_difference_that_is_only_told(changed: dict[str, Any], told: str) -> None:
    problems, notes = differences.compare(three(**changed))
    assert problems == []
    assert len(notes) == 1
    assert notes[0].startswith(told)


def test_clocks_are_judged_with_what_is_known_of_them() -> None:
    seen = three()
    ahead = dataclasses.replace(seen[1], clock=Clock(3.0, 0.001))
    (problem,), _ = differences.compare([seen[0], ahead, seen[2]])
    assert problem.startswith("host b: its clock is 3.00 s ahead of that of a (known to 2.0 ms); set it")
    unsure = dataclasses.replace(seen[1], clock=Clock(3.0, 1.5))
    assert differences.compare([seen[0], unsure, seen[2]])[0] == []


def test_results_must_be_where_rank_0_is() -> None:
    seen = three()
    seen[0].facts["shares_results"] = False
    (problem,), _ = differences.compare(seen)
    assert "start from a, or give --results a folder that both share" in problem


@pytest.mark.parametrize(
    ("changed", "asked", "told"),
    [
        (
            {"resolved__b": "127.0.1.1"},
            "",
            "host b: b is 127.0.1.1 there, where the others have 10.0.0.2; give all hosts",
        ),
        ({"resolved__a": None}, "", "host b: a is unknown there, where the others have 10.0.0.1"),
        (
            {"interfaces": {"ens3": ["10.0.0.2"]}},
            "",
            "different names: a eth0, b ens3, c eth0; Horovod, gloo and NCCL want",
        ),
        (
            {"interfaces": {"ens3": ["10.0.0.2"]}},
            "eth0",
            "host b: no interface eth0 with an address is up; there are ens3",
        ),
        ({"interfaces": {"eth0": ["10.9.9.9"]}}, "", "host b: none of its interfaces holds 10.0.0.2"),
    ],
)
def test_a_network_that_not_all_hosts_have(changed: dict[str, Any], asked: str, told: str) -> None:
    chosen, problems = differences.network(three(**changed), asked)
    assert chosen is None
    assert len(problems) == 1
    assert told in problems[0]


def test_real_probes_of_two_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "is_here", lambda name: False)
    found = preflight.look(parse("127.0.0.2:1,127.0.0.3:1"), Ssh(SSH), tmp_path)
    assert found.problems == ()
    assert (found.master, found.interface) == ("127.0.0.2", "lo")
    for each in found.seen:
        assert each.facts["shares_results"]
        assert each.facts["packages"]["torch"]
        assert each.clock is not None
        assert abs(each.clock.offset_s) <= each.clock.bound_s  # it is this machine's own clock
    assert list(tmp_path.iterdir()) == []
    assert preflight.port_of(Host("127.0.0.2", 1), Ssh(SSH)) > 1023


def test_hosts_that_can_t_be_reached_or_resolved_are_named(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(line, "is_here", lambda name: False)
    flags = ["--ssh", SSH, "--results", str(tmp_path)]
    assert main(["preflight", "--hosts", "127.0.0.2:1,refused:1", *flags]) == 1
    said = capsys.readouterr().out
    assert "host refused: ssh: connect to host refused port 22: Connection refused; this must work" in said
    assert main(["preflight", "--hosts", "127.0.0.2:1,b.invalid:1", *flags]) == 1
    assert "host b.invalid: no host knows an address for it" in capsys.readouterr().out
    assert main(["launch", "--hosts", "127.0.0.2:1,refused:1", "--backend", "ddp", *flags]) == 2
    assert "the hosts are not ready:\n  host refused: ssh" in capsys.readouterr().err
    assert main(["preflight"]) == 2
    assert "ringzero preflight --hosts a:4,b:4" in capsys.readouterr().err


def test_a_host_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "is_here", lambda name: False)
    monkeypatch.setattr(line, "LEAVES_S", 0.5)
    began = time.monotonic()
    with (
        line.opened(Host("a", 1), Ssh(f"{sys.executable} -c 'import time; time.sleep(60)'")) as silent,
        pytest.raises(line.Unreachable, match="no answer within 1 s"),
    ):
        silent.ask("clock", limit_s=1)
    assert time.monotonic() - began < 5


def test_a_port_that_is_closed_is_told() -> None:
    port = probe.listen()
    try:
        assert probe.connect("127.0.0.1", port, 2) is None
    finally:
        probe.LISTENING.pop().close()
    assert "refused" in str(probe.connect("127.0.0.1", port, 2))


def test_two_checkouts_of_one_commit_may_differ(tmp_path: Path) -> None:
    for name in ("bench", "backends", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "bench/a.py").write_text("1")
    before = probe.code(tmp_path)
    (tmp_path / "bench/a.py").write_text("2")
    assert probe.code(tmp_path) != before


def test_a_folder_that_takes_no_records(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LaunchFailed, match="give another --results"):
        preflight.look(parse("a:1"), Ssh(SSH), tmp_path / "file")
    assert probe.writable(tmp_path / "not" / "yet")
    assert not probe.writable(tmp_path / "file")

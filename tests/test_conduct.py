"""Commands on several hosts end together: where one fails, at a limit, and when whoever started them is killed.

The far hosts are sessions of this machine behind an ssh client of the tests' own, which passes nothing on but bytes.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bench import launch
from bench.config import Engine, Measure, Output, RunConfig, Training
from bench.hosts import conduct, description, start
from bench.hosts.blame import Said, blame
from bench.hosts.description import Host
from bench.hosts.ssh import Ssh
from bench.launchers import Command, executable

pytestmark = pytest.mark.timeout(90)
ROOT = Path(__file__).resolve().parents[1]
SSH = Ssh(f"{sys.executable} {ROOT / 'tests' / 'fake_ssh.py'}")
# Says that it is there, starts a process in a session of its own that does not hear SIGTERM, and goes on for ever.
STAYS = """
import os, pathlib, subprocess, sys, time
deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
pathlib.Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""
# Waits until the other host is there, then fails.
FAILS = """
import pathlib, sys, time
while not pathlib.Path(sys.argv[1]).exists() or len(pathlib.Path(sys.argv[1]).read_text().split()) < 2:
    time.sleep(0.05)
sys.exit("no room on this host")
"""


@pytest.fixture(autouse=True)
def _far(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "is_here", lambda name: False)
    monkeypatch.setattr(conduct, "OTHERS_S", 0.3)


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Callable[[], list[int]]]:
    """The process ids that STAYS wrote to `pids`; what is left of them is ended."""

    def read() -> list[int]:
        file = tmp_path / "pids"
        return [int(word) for word in file.read_text().split()] if file.exists() else []

    yield read
    for pid in read():
        if alive(pid):
            os.kill(pid, signal.SIGKILL)


def part(host: str, code: str, *arguments: object, scratch: Path | None = None) -> conduct.Part:
    command = Command([sys.executable, "-c", code, *map(str, arguments)])
    return conduct.Part(**start.part(Host(host, 1), command, SSH, scratch or Path("/")))  # type: ignore[arg-type]


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def until(there: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_second_host_that_fails_ends_the_first_and_is_named(tmp_path: Path, told, capfd) -> None:
    hosts = description.parse("a:1,b:1")
    pids = tmp_path / "pids"
    failed = conduct.run([part("a", STAYS, pids), part("b", FAILS, pids)], hosts)
    assert failed == {"host": "b", "cause": "launcher", "message": "python ended with status 1, before the others"}
    assert "[b] no room on this host" in capfd.readouterr().out.splitlines()
    assert len(told()) == 2
    assert not any(map(alive, told()))  # also the one in a session of its own


def test_a_host_that_refuses_is_named_with_what_ssh_said(tmp_path: Path, told) -> None:
    failed = conduct.run(
        [part("a", STAYS, tmp_path / "pids"), part("refused", "pass")], description.parse("a:1,refused:1")
    )
    assert failed is not None
    assert failed["host"] == "refused"
    assert failed["message"] == "ssh: ssh: connect to host refused port 22: Connection refused"
    assert not any(map(alive, told()))


def test_hosts_that_all_end_well_say_nothing_and_leave_nothing(tmp_path: Path, capfd) -> None:
    scratch = tmp_path / "scratch"
    code = f"import pathlib; pathlib.Path({str(scratch)!r}, 'x').mkdir(parents=True); print('here')"
    assert conduct.run([part("a", code, scratch=scratch)], description.parse("a:1")) is None
    assert capfd.readouterr().out == "here\n"
    assert not scratch.exists()  # a folder that the host does not share with the one that keeps records


def over(tmp_path: Path, parts: dict[str, tuple[str, ...]]) -> Callable[[RunConfig, int], Command]:
    """A `build` for launch.run as `start.builder` makes it, of other commands."""

    def build(config: RunConfig, ranks: int) -> Command:
        made = [vars(part(host, *words)) for host, words in parts.items()]
        private = config.output.results.absolute()
        hosts = ",".join(f"{host}:1" for host in parts)
        plan = {"hosts": hosts, "failed": str(private / start.HOST_FILE), "parts": made}
        argv = [sys.executable, str(start.CONDUCT), str(private / start.PLAN)]
        return Command(argv, {description.HOSTS: hosts}, {argv[-1]: json.dumps(plan)})

    return build


def test_past_the_limit_every_host_is_ended_and_the_record_says_so(tmp_path: Path, told) -> None:
    config = RunConfig(engine=Engine(backend="ddp"), output=Output(results=tmp_path / "results"))
    both = over(tmp_path, {"a": (STAYS, str(tmp_path / "pids")), "b": ("import time; time.sleep(600)",)})
    record = json.loads(launch.run(config, 2, build=both, limit_s=4).read_text())
    assert (record["status"], record["failure"]["cause"]) == ("failed", "time limit")
    assert record["environment"]["asked_hosts"] == "a:1,b:1"
    assert len(told()) == 2
    assert not any(map(alive, told()))


def test_a_failed_host_is_in_the_record(tmp_path: Path) -> None:
    config = RunConfig(engine=Engine(backend="ddp"), output=Output(results=tmp_path / "results"))
    one = over(tmp_path, {"a": ("import os; os.kill(os.getpid(), 9)",)})
    record = json.loads(launch.run(config, 2, build=one, limit_s=30).read_text())
    assert record["failure"]["host"] == "a"
    assert record["failure"]["cause"] in ("peer lost", "does not fit")
    assert record["failure"]["message"].startswith("host a: python was killed by SIGKILL")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_whoever_starts_them_takes_them_along(number: signal.Signals, tmp_path: Path, told) -> None:
    """SIGKILL lets it say nothing: the far ends see their input end."""
    plan = tmp_path / "plan"
    parts = [vars(part("a", STAYS, tmp_path / "pids"))]
    plan.write_text(json.dumps({"hosts": "a:1", "failed": str(tmp_path / "failed"), "parts": parts}))
    conductor = subprocess.Popen([sys.executable, str(start.CONDUCT), str(plan)], stdout=subprocess.DEVNULL)
    until(lambda: len(told()) == 2)
    conductor.send_signal(number)
    conductor.wait(20)
    until(lambda: not any(map(alive, told())), 15)


def test_a_connection_that_is_cut_ends_the_far_side_and_is_told(tmp_path: Path, told) -> None:
    """Killing an ssh client leaves what it started running; the tether does not."""

    def cut() -> bool:
        mine = [each for each in psutil.Process().children(recursive=True) if "fake_ssh.py" in " ".join(each.cmdline())]
        for each in mine:
            each.kill()
        return bool(mine)

    cutter = threading.Thread(target=lambda: (until(lambda: len(told()) == 2), cut()))
    cutter.start()
    failed = conduct.run([part("a", STAYS, tmp_path / "pids")], description.parse("a:1"))
    cutter.join()
    assert failed is not None
    assert failed["host"] == "a"
    until(lambda: not any(map(alive, told())), 15)


HOSTS = description.parse("a:2,b:2")
KILLED = (
    "bench.run: ddp failed on rank 3 of 4, step 2, backward: peer lost: process 7 was killed by SIGKILL, not by the"
)


@pytest.mark.parametrize(
    ("everyone", "host", "message"),
    [
        ([Said("a", f"[a] {KILLED}", 1), Said("b", "", 1)], "b", "rank 3: process 7 was killed by SIGKILL"),
        ([Said("a", "Connection closed by peer", 1), Said("b", "", None)], "a", "its command ended with status 1"),
        (
            [Said("a", "", 1), Said("b", "failed (exitcode: -9) local_rank: 1 (pid: 7)", 1)],
            "b",
            "local rank 1 was killed by SIGKILL",
        ),
        ([Said("a", "(exitcode: -15) local_rank: 0", 1), Said("b", "", 1)], "a", "its command ended with status 1"),
        ([Said("a", "", 1), Said("b", "exits with return code = -9", 1)], "b", "a rank was killed by SIGKILL"),
        ([Said("a", "Process 2 exit with status code 137.", 1)], "b", "rank 2 was killed by SIGKILL"),
        ([Said("a", "bench.hosts: host b: ssh could not reach it, or lost it", 1)], "b", "ssh could not reach it"),
        (
            [Said("a", "prterun noticed that process rank 3 with PID 9 on node vm exited on\nsignal 9 (Killed)", 1)],
            "b",
            "rank 3 was killed by SIGKILL",
        ),
    ],
)
def test_who_is_blamed(everyone: list[Said], host: str, message: str) -> None:
    found = blame(everyone, HOSTS)
    assert found["host"] == host
    assert found["message"].startswith(message)


@pytest.mark.parametrize("backend", ["ddp", "horovod"])
def test_real_ranks_on_two_hosts(backend: str, tmp_path: Path) -> None:
    """torchrun by a command for each host; horovodrun by its own ssh, which is ours. 127.0.0.2 is nobody's interface."""
    if backend == "horovod" and executable("horovodrun") is None:
        pytest.skip("no horovodrun")
    hosts = description.parse("localhost:1,127.0.0.2:1" if backend == "horovod" else "a:1,b:1")
    config = RunConfig(
        engine=Engine(backend=backend),  # type: ignore[arg-type]
        training=Training(steps=1, global_batch=2, accumulation=1),
        measure=Measure(warmup=0, proof_steps=0, phase_steps=0, limit_s=60),
        output=Output(results=tmp_path),
    )
    build = start.builder(hosts, SSH, master="127.0.0.1", interface="lo")
    path = launch.run(config, 2, build=build, limit_s=80)
    record = json.loads(path.read_text())
    assert record["status"] == "done", record["failure"]
    assert record["environment"]["asked_hosts"] == ",".join(map(str, hosts))
    assert record["environment"]["machine"]["variables"]["GLOO_SOCKET_IFNAME"] == "lo"
    assert [each["rank"] for each in record["ranks"]] == [0, 1]

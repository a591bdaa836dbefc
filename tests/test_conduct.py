"""Commands on several hosts end together: where one fails, at a limit, and when whoever started them is killed.

The far hosts are sessions of this machine behind an ssh client of the tests' own, which passes nothing on but bytes.
"""

import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bench import failed, launch, launchers
from bench.config import Engine, Measure, Output, RunConfig, Training
from bench.hosts import conduct, description, spread, start, tether
from bench.hosts.blame import Said, blame
from bench.hosts.description import Host
from bench.hosts.ssh import BIN, VARIABLE, Ssh
from bench.launchers import Command

pytestmark = pytest.mark.timeout(90)
ROOT = Path(__file__).resolve().parents[1]
SSH = Ssh(f"{sys.executable} {ROOT / 'tests' / 'fake_ssh.py'}")
# Starts a process in a session of its own, which may not hear SIGTERM, says that both are there, and goes on for ever.
STAYS = """
import os, pathlib, subprocess, sys, time
how = "signal.SIG_IGN" if "deaf" in sys.argv else "signal.SIG_DFL"
other = f"import signal, time; signal.signal(signal.SIGTERM, {how}); print(1, flush=True); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", other], start_new_session=True, stdout=subprocess.PIPE)
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
    blamed = conduct.run([part("a", STAYS, pids, "deaf"), part("b", FAILS, pids)], hosts)
    assert blamed == {
        "host": "b",
        "rank": None,
        "cause": "launcher",
        "message": "python ended with status 1, before the others",
    }
    assert "[b] no room on this host" in capfd.readouterr().out.splitlines()
    assert len(told()) == 2
    assert not any(map(alive, told()))  # also the one in a session of its own, which does not hear SIGTERM


def test_a_host_that_refuses_is_named_with_what_ssh_said(tmp_path: Path, told) -> None:
    blamed = conduct.run(
        [part("a", STAYS, tmp_path / "pids"), part("refused", "pass")], description.parse("a:1,refused:1")
    )
    assert blamed is not None
    assert blamed["host"] == "refused"
    assert blamed["message"] == "ssh: ssh: connect to host refused port 22: Connection refused"
    assert not any(map(alive, told()))


def test_the_first_that_fails_is_blamed_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conduct, "OTHERS_S", 20)
    later = part("a", "import sys, time; time.sleep(1.5); sys.exit('Connection closed by peer')")
    blamed = conduct.run([later, part("b", "import sys; sys.exit(3)")], description.parse("a:1,b:1"))
    assert blamed == {
        "host": "b",
        "rank": None,
        "cause": "launcher",
        "message": "python ended with status 3, before the others",
    }


def test_hosts_that_all_end_well_say_nothing_and_leave_nothing(tmp_path: Path, capfd) -> None:
    scratch = tmp_path / "scratch"
    code = f"import pathlib; pathlib.Path({str(scratch)!r}, 'x').mkdir(parents=True); print('1\\r2\\rhere', end='')"
    assert conduct.run([part("a", code, scratch=scratch)], description.parse("a:1")) is None
    assert capfd.readouterr().out == "1\r2\rhere\n"  # a progress line stays one, and what has no end gets one
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
    record = json.loads(launch.run(config, 2, build=both, limit_s=3).read_text())
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
    blamed = conduct.run([part("a", STAYS, tmp_path / "pids")], description.parse("a:1"))
    cutter.join()
    assert blamed is not None
    assert blamed["host"] == "a"
    until(lambda: not any(map(alive, told())), 15)


TOLD = "bench.run: ring failed on rank 1 of 2, step 7, update: time limit: no progress for 4 s"


def test_a_launcher_that_stays_after_its_ranks_have_failed_is_ended(capfd) -> None:
    """mpirun waits for the host whose cable is out to say that its ranks are gone."""
    began = time.monotonic()
    code = f"import time; print({TOLD!r}, flush=True); time.sleep(600)"
    blamed = conduct.run([part("a", code)], description.parse("a:1,b:1"))
    assert time.monotonic() - began < 30
    assert blamed is not None
    assert (blamed["host"], blamed["rank"], blamed["cause"]) == ("b", 1, "time limit")


@pytest.mark.parametrize("word", ["--max-restarts=3", "--reset-limit"])
def test_a_launcher_that_starts_lost_ranks_again_is_left_alone(capfd, word) -> None:
    code = f"import time; print({TOLD!r}, flush=True); time.sleep(2)"
    assert conduct.run([part("a", code, word)], description.parse("a:1,b:1")) is None


@pytest.mark.parametrize("beats", [True, False])
def test_a_connection_that_falls_silent_is_lost(beats: bool, tmp_path: Path, told) -> None:
    """A cable that is pulled closes nothing; what hears no beat any more ends what it holds."""
    spec = tether.Spec([sys.executable, "-c", STAYS, str(tmp_path / "pids")], silent_s=1.5)
    far = subprocess.Popen([sys.executable, tether.__file__], stdin=subprocess.PIPE)
    assert far.stdin is not None
    far.stdin.write(json.dumps(dataclasses.asdict(spec)).encode() + b"\n")
    far.stdin.flush()
    until(lambda: len(told()) == 2)
    for _ in range(30 if beats else 0):
        time.sleep(0.1)
        far.stdin.write(tether.BEAT)
        far.stdin.flush()
    assert not beats or far.poll() is None
    assert far.wait(20) == tether.EXIT_LOST
    assert not any(map(alive, told()))
    far.stdin.close()


HOSTS = description.parse("a:2,b:2")
ORPHANED = "bench.run: zero-1 failed on rank 2 of 4, step 2, backward: launcher: its launcher is gone"
INTERRUPTED = "bench.run: horovod failed on rank 3 of 4, step 7, backward: interrupted: ended by SIGTERM"
PARTED = (
    "An MPI communication peer process has unexpectedly disconnected.  This\n  Local host: a\n  Peer host:  {}\n---"
)
AGENT = (
    "PRTE has lost communication with a remote daemon.\n  HNP daemon   : [prterun-a-1@0,0] on node a\n"
    "  Remote daemon: [prterun-a-1@0,1] on node {}\nThis is usually due to"
)
KILLED = (
    "bench.run: ddp failed on rank 3 of 4, step 2, backward: peer lost: process 7 was killed by SIGKILL, not by the"
)


@pytest.mark.parametrize(
    ("everyone", "host", "rank", "message"),
    [
        ([Said("a", f"[a] {KILLED}", 1), Said("b", "", 1)], "b", 3, "process 7 was killed by SIGKILL"),
        # a rank that was given another place names its host
        ([Said("a", f"[a] {KILLED.replace('4, ', '4, on a, ')}", 1), Said("b", "", 1)], "a", 3, "process 7"),
        (
            [Said("a", "Connection closed by peer", 1), Said("b", "", None)],
            "a",
            None,
            "its command ended with status 1",
        ),
        ([Said("a", "", 1), Said("b", "(exitcode: -9) local_rank: 1 (pid: 7)", 1)], "b", 3, "was killed by SIGKILL"),
        (
            [Said("a", "(exitcode: -15) local_rank: 0", 1), Said("b", "", 1)],
            "a",
            None,
            "its command ended with status 1",
        ),
        ([Said("a", "", 1), Said("b", "exits with return code = -9", 1)], "b", None, "a rank was killed by SIGKILL"),
        ([Said("a", "Process name: 2\nExit code: 137", 1)], "b", 2, "was killed by SIGKILL"),
        ([Said("a", "Process name: [prterun-vm-1@1,2]\n   Exit code:    3", 1)], "b", 2, "ended with status 3"),
        ([Said("a", "Process name: 2\nExit code: 143", 1)], "a", None, "its command ended with status 1"),
        (
            [Said("a", "bench.hosts: host b: ssh could not reach it, or lost it", 1)],
            "b",
            None,
            "ssh could not reach it",
        ),
        (
            [Said("a", "process rank 3 with PID 9 on node vm exited on\nsignal 9 (Killed)", 1)],
            "b",
            3,
            "was killed by SIGKILL",
        ),
        ([Said("a", f"[a] {ORPHANED}", 1), Said("b", "", None)], "b", 2, "its launcher is gone"),
        ([Said("a", PARTED.format("b"), 14), Said("b", "", None)], "b", None, "the process of a rank is gone"),
        (
            [Said("a", f"[a] {INTERRUPTED}\n  Process name: 0\n  Exit code:    1", 1), Said("b", "", None)],
            "b",
            3,
            "ended by SIGTERM",
        ),
        ([Said("a", "  Process name: 2\n  Exit code:    1", 1), Said("b", "", None)], "b", 2, "ended with status 1"),
        ([Said("a", AGENT.format("b"), 0)], "b", None, "mpirun lost its agent there"),
        ([Said("a", AGENT.format("b"), 0), Said("a", f"[a] {KILLED}", 0)], "b", 3, "process 7 was killed by SIGKILL"),
        ([Said("a", PARTED.format("elsewhere"), 14)], "a", None, "its command ended with status 14"),
    ],
)
def test_who_is_blamed(everyone: list[Said], host: str, rank: int | None, message: str) -> None:
    found = blame(everyone, HOSTS)
    assert (found["host"], found["rank"]) == (host, rank)
    assert found["message"].startswith(message)


def test_a_launcher_that_lost_its_agent_has_failed_whatever_its_status_says() -> None:
    assert Said("a", AGENT.format("b"), 0).failed()
    assert Said("a", "", 1).failed()
    assert not Said("a", "done", 0).failed()


@pytest.mark.parametrize(("where", "cause"), [("b", "does not fit"), ("a", "peer lost"), (None, "peer lost")])
def test_memory_is_blamed_where_the_host_of_the_killed_rank_ran_out_of_it(where: str | None, cause: str) -> None:
    told = {host: f'{tether.VERDICT}{{"cause": "launcher", "message": "", "starved": {"true" if host == where else "false"}}}'
            for host in "ab"}  # fmt: skip
    found = blame([Said("b", f"(exitcode: -9) local_rank: 1\n{told['b']}", 1), Said("a", told["a"], 1)], HOSTS)
    assert (found["host"], found["rank"], found["cause"]) == ("b", 3, cause)


CUT_OFF = "[a:00000] *** An error occurred in Socket closed\n[a:00000] *** reported by process [3054895105,{}]\n"


@pytest.mark.parametrize(("reporter", "host"), [(0, "b"), (1, "a")])
def test_of_two_ranks_the_other_is_gone_where_open_mpi_says_no_more(reporter: int, host: str) -> None:
    found = blame([Said("a", CUT_OFF.format(reporter), 14)], description.parse("a:1,b:1"))
    assert (found["host"], found["rank"], found["cause"]) == (host, 1 - reporter, "peer lost")
    assert blame([Said("a", CUT_OFF.format(reporter), 14)], HOSTS)["cause"] == "launcher"  # one of three others


@pytest.mark.parametrize(("starved", "cause"), [(True, "does not fit"), (False, "peer lost")])
def test_memory_is_blamed_where_open_mpi_only_lost_its_connection(starved: bool, cause: str) -> None:
    told = f'{PARTED.format("b")}\n{tether.VERDICT}{{"cause": "{cause}", "message": "", "starved": {str(starved).lower()}}}'
    found = blame([Said("a", told, 14)], description.parse("a:1,b:1"))
    assert (found["host"], found["rank"], found["cause"]) == ("b", 1, cause)


@pytest.mark.parametrize("kills", [[3, 4], [3, 3], [None, None]])
def test_a_tether_whose_connection_is_gone_tells_of_what_ran_out_of_memory(kills: list[int | None]) -> None:
    """Open MPI ends the whole run before its agent on that host has noticed."""
    patched = f"from bench.hosts import tether\nkills = {kills}\ntether.memory_kills = lambda: kills.pop(0)\nexit(tether.main())"
    spec = json.dumps(dataclasses.asdict(tether.Spec(["sleep", "60"]))) + "\n"
    ended = subprocess.run([sys.executable, "-c", patched], input=spec, text=True, stderr=subprocess.PIPE, timeout=30)
    assert ended.returncode == tether.EXIT_LOST
    assert ('"starved": true' in ended.stderr) == (kills == [3, 4])


def test_a_record_that_a_rank_closed_gets_the_host_and_rank_that_failed(tmp_path: Path) -> None:
    """Rank 0 only lost the other; it can't know why."""
    end = failed.End("launcher", "torchrun ended with status 1")
    config = RunConfig(engine=Engine(backend="ddp"), output=Output(results=tmp_path))
    told = {
        "rank": 0,
        "step": 2,
        "phase": "backward",
        "cause": "error",
        "message": "Connection reset",
        "traceback": None,
    }
    (tmp_path / "r.json").write_text(json.dumps({"status": "failed", "failure": told}))
    (tmp_path / failed.HOST_FILE).write_text(
        json.dumps({"host": "b", "rank": 3, "cause": "peer lost", "message": "was killed by SIGKILL"})
    )
    path = failed.close(tmp_path, config, 4, ["torchrun"], end, tmp_path / "log", "now")
    failure = json.loads(path.read_text())["failure"]
    assert (failure["host"], failure["rank"], failure["cause"]) == ("b", 3, "peer lost")
    assert failure["message"] == "host b: was killed by SIGKILL\nConnection reset"


# Of launchers that reach hosts by themselves: says who it is; the rank that is not on the first host then fails.
RANK = """
import os, sys, time
rank = os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ["HOROVOD_RANK"]
print("rank", rank, "of", os.environ["RINGZERO_HOSTS"], flush=True)
time.sleep(1 if rank == "1" else 60)
sys.exit(3)
"""


@pytest.mark.parametrize("backend", ["ring", "horovod"])
def test_mpirun_and_horovodrun_reach_the_other_host_by_our_ssh(backend: str, tmp_path: Path, capfd) -> None:
    """The ranks are not ours here, the launcher's command is. No interface holds 127.0.0.2, so that they take it for far."""
    config = RunConfig(engine=Engine(backend=backend), training=Training(accumulation=1))  # type: ignore[arg-type]
    if why := launchers.unavailable(config):
        pytest.skip(why)
    hosts = description.parse("localhost:1,127.0.0.2:1")
    reached = tmp_path / "reached"
    ssh = Ssh(f"{SSH.command} --log {reached}")
    ((first, command),) = spread.commands(config, hosts, 2, interface="lo", ssh=ssh)
    argv = [*command.argv[: command.argv.index(sys.executable)], sys.executable, "-c", RANK]
    made = start.part(first, dataclasses.replace(command, argv=argv), SSH, Path("/"))
    blamed = conduct.run([conduct.Part(**made)], hosts)  # type: ignore[arg-type]
    said = capfd.readouterr().out
    assert "rank 0 of localhost:1,127.0.0.2:1" in said
    assert "rank 1 of localhost:1,127.0.0.2:1" in said
    assert set(reached.read_text().split()) == {"127.0.0.2"}
    assert blamed == {"host": "127.0.0.2", "rank": 1, "cause": "launcher", "message": "ended with status 3"}


def test_the_agent_ends_as_its_command_does_though_nobody_holds_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a launcher's command that was typed by hand; the other host's processes are to be seen here."""
    monkeypatch.delenv(tether.MARK, raising=False)
    monkeypatch.setenv(VARIABLE, shlex.join(SSH.argv()))
    monkeypatch.setenv("RINGZERO_PYTHON", sys.executable)
    asked = [str(BIN / "ssh"), "-o", "ConnectTimeout=10", "127.0.0.2", "exit 3"]
    assert subprocess.run(asked, timeout=30).returncode == 3


def test_real_ranks_on_two_hosts(tmp_path: Path) -> None:
    config = RunConfig(
        engine=Engine(backend="ddp"),
        training=Training(steps=1, global_batch=2, accumulation=1),
        measure=Measure(warmup=0, proof_steps=0, phase_steps=0, limit_s=60),
        output=Output(results=tmp_path),
    )
    reached = tmp_path / "reached"
    build = start.builder(
        description.parse("a:1,b:1"), Ssh(f"{SSH.command} --log {reached}"), master="127.0.0.1", interface="lo"
    )
    said: list[str] = []
    record = json.loads(launch.run(config, 2, build=build, limit_s=80, echo=said.append).read_text())
    assert record["status"] == "done", record["failure"]
    assert "throughput" in "".join(said)
    assert launch.INCOMING not in "".join(said)  # nobody is told of a place that is empty a moment later
    assert sorted(reached.read_text().split()) == ["a", "b"]
    assert record["environment"]["asked_hosts"] == "a:1,b:1"
    assert record["environment"]["machine"]["variables"]["GLOO_SOCKET_IFNAME"] == "lo"
    assert [each["rank"] for each in record["ranks"]] == [0, 1]

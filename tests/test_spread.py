"""From hosts to exact commands: each launcher's own, rank 0 on the first host, and nothing left to what a host has set."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from backends.world import BY_SRUN, GPUS
from bench import launchers
from bench.__main__ import main
from bench.config import ConfigError, Engine, Measure, Output, RunConfig
from bench.hosts import spread, start
from bench.hosts.agent import cut
from bench.hosts.description import Host, HostsError, parse
from bench.hosts.forward import agreed
from bench.hosts.ssh import BIN, Ssh
from bench.launchers import Command, LaunchFailed
from bench.restarts import Restarts

ROOT = Path(__file__).resolve().parents[1]
HOSTS = parse("a:2,b:2")


@pytest.fixture(autouse=True)
def _anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "unavailable", lambda config: None)
    monkeypatch.setattr(launchers, "executable", lambda name: f"/venv/bin/{name}")
    for name in [each for each in os.environ if each.startswith(("NCCL_", "GLOO_", "OMP_"))]:
        monkeypatch.delenv(name)


def made(backend: str, ranks: int = 4, hosts=HOSTS, **how) -> list[tuple[str, Command]]:
    config = RunConfig(engine=Engine(backend=backend), output=Output(results=Path("/r")))  # type: ignore[arg-type]
    started = spread.commands(
        config, hosts, ranks, master="10.0.0.1", interface="eth0", port=29400, ssh=Ssh("/bin/echo"), **how
    )
    return [(host.name, command) for host, command in started]


TORCHRUN = (
    "/venv/bin/torchrun --nnodes 2 --node-rank {node} --nproc-per-node 2 --master-addr 10.0.0.1 --master-port 29400 "
    "--rdzv-backend static --rdzv-conf timeout=120 -m bench.run --backend ddp --results /r"
)
DEEPSPEED = (
    "/venv/bin/deepspeed --hostfile /r/hostfile --master_addr 10.0.0.1 --master_port 29400 {how} "
    "--no_local_rank {root}/bench/run.py --backend deepspeed --results /r"
)
ONE = {
    "horovod": "/venv/bin/horovodrun -np 4 -H a:2,b:2 --gloo --network-interfaces eth0 --start-timeout 60 --disable-cache "
    "{python} -m bench.run --backend horovod --results /r",
    "ring": "/venv/bin/mpirun -np 4 --host a:2,b:2 --bind-to none --mca btl_tcp_if_include eth0 {names} "
    "{python} -m bench.run --backend ring --results /r",
}


def test_torchrun_is_a_command_for_each_host() -> None:
    started = made("ddp")
    assert [name for name, _ in started] == ["a", "b"]
    for node, (_, command) in enumerate(started):
        assert command.argv == shlex.split(TORCHRUN.format(node=node))
        assert command.env["GLOO_SOCKET_IFNAME"] == command.env["NCCL_SOCKET_IFNAME"] == "eth0"
        assert command.env["RINGZERO_HOSTS"] == "a:2,b:2"


def test_deepspeed_without_ssh_is_a_command_for_each_host_with_its_hostfile() -> None:
    for node, (name, command) in enumerate(made("deepspeed")):
        assert name == "ab"[node]
        assert command.argv == shlex.split(DEEPSPEED.format(how=f"--no_ssh --node_rank {node}", root=ROOT))
        assert command.files == {"/r/hostfile": "a slots=2\nb slots=2\n"}


def test_deepspeed_by_pdsh_gets_the_environment_that_it_would_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    ((name, command),) = made("deepspeed", pdsh=True)
    assert name == "a"
    assert command.argv == shlex.split(DEEPSPEED.format(how="--launcher pdsh --force_multi --no_ssh_check", root=ROOT))
    assert command.env["DS_ENV_FILE"] == "/r/deepspeed_env"
    lines = command.files["/r/deepspeed_env"].splitlines()
    assert {"OMP_NUM_THREADS=3", "GLOO_SOCKET_IFNAME=eth0", "RINGZERO_HOSTS=a:2,b:2"} <= set(lines)
    assert all("=" in line for line in lines)  # DeepSpeed stops at one that has none
    monkeypatch.setenv("HF_HOME", "two\nlines")
    with pytest.raises(HostsError, match="HF_HOME"):
        made("deepspeed", pdsh=True)


@pytest.mark.parametrize("backend", ONE)
def test_horovodrun_and_mpirun_reach_the_hosts_by_our_ssh(backend: str) -> None:
    ((name, command),) = made(backend)
    names = " ".join(f"-x {each}" for each in command.env if f"-x {each} " in shlex.join(command.argv) + " ")
    assert name == "a"
    assert command.argv == shlex.split(ONE[backend].format(python=sys.executable, names=names))
    assert command.env["PATH"].split(os.pathsep)[0] == str(BIN)
    assert command.env["RINGZERO_SSH"].startswith("/bin/echo -o BatchMode=yes")
    if backend == "ring":
        assert {"GLOO_SOCKET_IFNAME", "PYTHONPATH", "PATH", "RINGZERO_HOSTS"} <= set(names.split())
        assert command.env["PRTE_MCA_plm_ssh_agent"] == str(BIN / "ssh")


def test_an_elastic_horovodrun_gets_to_know_the_hosts_in_their_order(tmp_path: Path) -> None:
    config = RunConfig(engine=Engine(backend="horovod"), output=Output(results=tmp_path))
    elastic, ssh = Restarts(elastic=True, max_restarts=2), Ssh("/bin/echo")
    ((first, command),) = spread.commands(config, parse("a:2,b:2,c:2"), 4, interface="e", ssh=ssh, restarts=elastic)
    words = shlex.join(command.argv)
    assert first.name == "a"
    assert words.startswith("/venv/bin/horovodrun -np 4 --min-np 4 --max-np 4 --host-discovery-script ")
    assert "--reset-limit 2 --elastic-timeout 13 --gloo --network-interfaces e" in words
    for path, text in command.files.items():
        Path(path).write_text(text)
    script = command.argv[command.argv.index("--host-discovery-script") + 1]
    said = [subprocess.run(script, shell=True, capture_output=True, text=True).stdout.split() for _ in range(4)]
    assert said == [["a:2"], ["a:2", "b:2"], ["a:2", "b:2", "c:2"], ["a:2", "b:2", "c:2"]]
    ((_, plain),) = spread.commands(config, parse("a:2,b:2"), 4, ssh=ssh, restarts=elastic)
    assert plain.argv[1:5] == ["-np", "4", "-H", "a:2,b:2"], "no place is left: a loss ends it, and it is started again"


def test_horovodrun_on_one_host_is_told_of_no_interface() -> None:
    """It looks for 127.0.0.1 there, among the interfaces that it was told of, and finds none."""
    ((_, command),) = made("horovod", 2)
    assert command.argv[1:6] == ["-np", "2", "-H", "a:2", "--gloo"]
    assert "--network-interfaces" not in command.argv


def test_horovods_stall_check_ends_the_run_as_the_engine_is_told() -> None:
    config = RunConfig(engine=Engine(backend="horovod"), measure=Measure(limit_s=40))
    env = agreed(config, HOSTS, "")
    assert (env["HOROVOD_STALL_CHECK_TIME_SECONDS"], env["HOROVOD_STALL_SHUTDOWN_TIME_SECONDS"]) == ("20", "80")


def test_srun_starts_ranks_that_know_where_to_meet() -> None:
    ((_, torch),), ((_, mpi),) = made("ddp", srun=True), made("ring", srun=True)
    start = (
        "srun --nodes 2 --ntasks 4 --ntasks-per-node 2 --nodelist a,b --distribution block --cpu-bind none "
        "--kill-on-bad-exit=1 --export ALL"
    )
    assert shlex.join(torch.argv).startswith(f"{start} {sys.executable} -m bench.run")
    assert (torch.env["MASTER_ADDR"], torch.env["MASTER_PORT"]) == ("10.0.0.1", "29400")
    assert shlex.join(mpi.argv).startswith(f"{start} --mpi pmix {sys.executable}")
    assert torch.env[BY_SRUN] == mpi.env[BY_SRUN] == "1"  # a step of one task is a rank as well
    with pytest.raises(HostsError, match="as many ranks on each node, a:3,b:1 differ"):
        made("ddp", 4, parse("a:3,b:1"), srun=True)


def test_fewer_ranks_leave_hosts_out_and_single_stays_alone() -> None:
    assert [name for name, _ in made("ddp", 2)] == ["a"]
    ((name, command),) = made("single", 1)
    assert (name, command.argv[1:3]) == ("a", ["-m", "bench.run"])
    with pytest.raises(ConfigError, match="one plain process"):
        made("single", 2)
    with pytest.raises(HostsError, match="don't fit"):
        made("ddp", 4, parse("a:1,b:2"))


def test_which_gpus_are_seen_is_each_host_s_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    started = made("deepspeed")
    assert not any("CUDA_VISIBLE_DEVICES" in command.env for _, command in started)
    monkeypatch.setattr(start, "is_here", lambda name: name == "a")
    specs = {name: start.part(Host(name, 2), command, Ssh(), tmp_path)["spec"] for name, command in started}
    assert specs["a"]["env"][GPUS] == "2,3"
    assert GPUS not in specs["b"]["env"]


def test_what_is_about_one_process_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "3")
    monkeypatch.setenv("HOROVOD_RANK", "3")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    env = agreed(RunConfig(engine=Engine(backend="ddp")), HOSTS, "")
    assert "NCCL_DEBUG" in env
    assert not {"OMPI_COMM_WORLD_RANK", "HOROVOD_RANK", "GLOO_SOCKET_IFNAME"} & env.keys()


def test_launch_and_compare_print_the_commands_of_every_host(tmp_path: Path, capsys) -> None:
    flags = ["--hosts", "a:1,b:1", "--interface", "eth0", "--ssh", "/bin/echo", "--results", str(tmp_path), "--dry-run"]
    assert main(["launch", "--backend", "ddp", *flags]) == 0
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("#")] == ["# on a", "# on b"]
    assert "--nnodes 2 --node-rank 1 --nproc-per-node 1 --master-addr a" in said  # as many ranks as the hosts take
    assert main(["compare", "quick", *flags]) == 0
    said = capsys.readouterr().out
    assert "-H a:1,b:1 --gloo --network-interfaces eth0" in said  # its two ranks are on two hosts
    assert main(["compare", "quick", *flags, "--hosts", "a:1"]) == 2
    assert "2 ranks don't fit on a:1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_missing_here_is_told_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "executable", lambda name: None)
    with pytest.raises(LaunchFailed, match="pdsh is not on the PATH; install it, or leave --pdsh out"):
        made("deepspeed", pdsh=True)
    monkeypatch.setattr(launchers, "unavailable", lambda config: "mpirun is missing")
    with pytest.raises(LaunchFailed, match="mpirun is missing"):
        made("ring")


def test_the_shell_line_writes_the_files() -> None:
    line = str(Command(["x"], {"A": "1"}, {"/r/a b": "two\nlines\n"}))
    assert line == "printf %s 'two\nlines\n' > '/r/a b' && env A=1 x"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["a", "orted", "-x"], ([], "a", ["orted", "-x"])),
        (["-o", "X=no", "-x", "a", "-p", "22", "cd", "-P"], (["-o", "X=no", "-x", "-p", "22"], "a", ["cd", "-P"])),
        (["-2", "-a", "-x", "-lroot", "a", "hostname"], (["-2", "-a", "-x", "-lroot"], "a", ["hostname"])),
        (["-xp", "22", "--", "a", "ls"], (["-xp", "22"], "a", ["ls"])),
        (["-V"], (["-V"], "", [])),
    ],
)
def test_arguments_of_ssh_are_read_as_ssh_reads_them(words: list[str], parts: tuple[list[str], str, list[str]]) -> None:
    assert cut(words) == parts


def test_ssh_that_is_not_there() -> None:
    with pytest.raises(HostsError, match="no such program; install an ssh client"):
        Ssh("no-such-ssh -v").argv()
    with pytest.raises(HostsError, match="--ssh-config /nowhere: no such file"):
        Ssh("/bin/echo", config=Path("/nowhere")).argv()
    assert Ssh("/bin/echo -v", 2222).argv()[-2:] == ["-p", "2222"]

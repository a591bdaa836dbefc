"""From a configuration and hosts to the exact commands of its launcher: one in all, or one for each host."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from backends.world import BY_SRUN
from bench import launchers
from bench.config import ConfigError, RunConfig
from bench.hosts import driven
from bench.hosts.description import Host, HostsError, most, used
from bench.hosts.forward import agreed
from bench.hosts.ssh import BIN, Ssh
from bench.hosts.ssh import VARIABLE as SSH
from bench.launchers import HERE, RUN, Command, LaunchFailed
from bench.restarts import Restarts

START_S = 60  # horovodrun gives up after this where a host does not answer; its own default is 30
SRUN_MPI = "pmix"


def commands(
    config: RunConfig,
    hosts: Sequence[Host],
    ranks: int,
    *,
    master: str = "",
    interface: str = "",
    port: int | None = None,
    ssh: Ssh | None = None,
    pdsh: bool = False,
    srun: bool = False,
    restarts: Restarts | None = None,
) -> list[tuple[Host, Command]]:
    """What is started on which host so that `ranks` ranks of this run fill `hosts`, the first one first.

    A launcher that reaches the others by itself (horovodrun, mpirun, deepspeed with `pdsh`, srun) is one command, of
    the first host: rank 0 is there, and so is the record. torchrun and deepspeed without it are a command for each host,
    in the order of their ranks; all must run at the same time. `env` of a command is complete: what the host itself has
    set is not relied on.

    `master`: address of the first host that all can reach; empty is its name. `interface`: name of the network interface
    on every host; empty leaves each library to guess. `port`: free on the first host; None takes one that is free here.
    `ssh`: how those launchers reach hosts. `pdsh`: deepspeed by pdsh. `srun`: Slurm starts the ranks itself. `restarts`: what the
    launcher itself may do about lost ranks.

    Raises LaunchFailed where a program is missing here, ConfigError where the ranks can't share the batch, HostsError
    where they don't fit on the hosts.
    """
    config.micro_batch(ranks)
    if config.engine.backend == "single" and ranks != 1:
        raise ConfigError(f"--backend single is one plain process; it can't have {ranks} ranks (try --backend ddp)")
    if why := launchers.unavailable(config):
        raise LaunchFailed(f"{config.engine.label} can't run here: {why}")
    taken = used(hosts, ranks)
    name = launchers.launcher(config, most(taken))
    for program, wanted in (("srun", srun and name != "python"), ("pdsh", pdsh and name == "deepspeed" and not srun)):
        if wanted and launchers.executable(program) is None:
            raise LaunchFailed(f"{program} is not on the PATH; install it, or leave --{program} out")
    first, env = taken[0], agreed(config, taken, interface)
    address, free = master or first.name, port or launchers.free_port()
    if srun and name != "python":
        return [(first, _srun(config, taken, env, address, free))]
    match name:
        case "torchrun":
            return [(host, _torchrun(config, taken, node, env, address, free)) for node, host in enumerate(taken)]
        case "deepspeed" if pdsh:
            return [(first, _deepspeed(config, taken, None, reach(env, ssh), address, free))]
        case "deepspeed":
            return [(host, _deepspeed(config, taken, node, env, address, free)) for node, host in enumerate(taken)]
        case "horovodrun" if restarts is not None and restarts.by_driver(config, hosts, ranks):
            flags, files = driven.words(config.output.results.absolute(), hosts, ranks, restarts)
            return [(first, _horovodrun(config, flags, reach(env, ssh), interface, files))]
        case "horovodrun":
            flags = ["-np", str(ranks), "-H", ",".join(map(str, taken))]
            # on one host it wants a loopback and takes no other
            return [(first, _horovodrun(config, flags, reach(env, ssh), interface if len(taken) > 1 else ""))]
        case "mpirun":
            return [(first, _mpirun(config, taken, reach(env, ssh), interface))]
    return [(first, Command([sys.executable, "-m", RUN, *launchers.flags(config)], env))]


def reach(env: dict[str, str], ssh: Ssh | None) -> dict[str, str]:
    """With the agent in front of the PATH, so that the launcher's own `ssh` is ours: what it starts ends with it."""
    path = os.pathsep.join([str(BIN), env["PATH"]])
    return env | {"PATH": path, SSH: shlex.join((ssh or Ssh()).argv()), "RINGZERO_PYTHON": sys.executable}


def _program(name: str) -> str:
    return launchers.executable(name) or name


def _torchrun(
    config: RunConfig, hosts: Sequence[Host], node: int, env: dict[str, str], master: str, port: int
) -> Command:
    argv = [_program("torchrun"), "--nnodes", str(len(hosts)), "--node-rank", str(node)]
    argv += ["--nproc-per-node", str(hosts[node].slots), "--master-addr", master, "--master-port", str(port)]
    # static: ranks follow the order of the hosts, so that rank 0 is where the record is wanted
    argv += ["--rdzv-backend", "static", "--rdzv-conf", f"timeout={max(1, int(config.measure.limit_s))}"]
    return Command([*argv, "-m", RUN, *launchers.flags(config)], env)


def _deepspeed(
    config: RunConfig, hosts: Sequence[Host], node: int | None, env: dict[str, str], master: str, port: int
) -> Command:
    """`node`: this one of the hosts, without ssh; None: all of them, by pdsh.

    pdsh gets variables from a file: of the environment, DeepSpeed itself passes on what begins with PYTHON, MLFLOW, MV2,
    UCX and, with GPUs, NCCL. A hostfile that is missing would be a run on this host alone, so it is always written.
    """
    folder = config.output.results.absolute()
    listed, variables = str(folder / "hostfile"), str(folder / "deepspeed_env")
    files = {listed: "".join(f"{host.name} slots={host.slots}\n" for host in hosts)}
    argv = [_program("deepspeed"), "--hostfile", listed, "--master_addr", master, "--master_port", str(port)]
    if node is not None:
        argv += ["--no_ssh", "--node_rank", str(node)]
    else:
        argv += ["--launcher", "pdsh", "--force_multi", "--no_ssh_check"]
        if broken := [name for name, value in env.items() if "\n" in value]:
            raise HostsError(
                f"{broken[0]} has more than one line, which can't be passed on by pdsh; unset it, or leave --pdsh out"
            )
        files[variables] = "".join(f"{name}={value}\n" for name, value in env.items())
        env = env | {"DS_ENV_FILE": variables}
    return Command([*argv, "--no_local_rank", str(HERE / "run.py"), *launchers.flags(config)], env, files)


def _horovodrun(
    config: RunConfig, flags: list[str], env: dict[str, str], interface: str, files: dict[str, str] | None = None
) -> Command:
    """It passes its whole environment on. `--gloo`: `--mpi` gives Open MPI 5 flags that it refuses."""
    argv = [_program("horovodrun"), *flags, "--gloo", *(["--network-interfaces", interface] if interface else [])]
    argv += ["--start-timeout", str(START_S), "--disable-cache"]  # its cache believes what it found an hour ago
    return Command([*argv, sys.executable, "-m", RUN, *launchers.flags(config)], env, files or {})


def _mpirun(config: RunConfig, hosts: Sequence[Host], env: dict[str, str], interface: str) -> Command:
    argv = [_program("mpirun"), "-np", str(_ranks(hosts)), "--host", ",".join(map(str, hosts)), "--bind-to", "none"]
    argv += ["--mca", "btl_tcp_if_include", interface] if interface else []
    for name in env:
        argv += ["-x", name]
    agent = str(BIN / "ssh")
    settings = {  # the daemons of Open MPI 5 (PRTE_MCA_) and 4 (OMPI_MCA_)
        "PRTE_MCA_plm_ssh_agent": agent,
        "OMPI_MCA_plm_rsh_agent": agent,
        "PRTE_MCA_prte_leave_session_attached": "1",  # else each leaves its ssh connection, and nobody holds it
        "OMPI_MCA_orte_leave_session_attached": "1",
    }
    if interface and not interface.startswith("lo"):  # Open MPI's daemons refuse a loopback by name
        settings |= {"PRTE_MCA_prte_if_include": interface, "OMPI_MCA_oob_tcp_if_include": interface}
    if os.geteuid() == 0:  # mpirun refuses to run as root unless told twice
        settings |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return Command([*argv, sys.executable, "-m", RUN, *launchers.flags(config)], env | settings)


def _srun(config: RunConfig, hosts: Sequence[Host], env: dict[str, str], master: str, port: int) -> Command:
    each = {host.slots for host in hosts}
    if len(each) > 1:
        raise HostsError(
            f"srun starts as many ranks on each node, {','.join(map(str, hosts))} differ; choose --ranks so that they don't"
        )
    argv = ["srun", "--nodes", str(len(hosts)), "--ntasks", str(_ranks(hosts)), "--ntasks-per-node", str(each.pop())]
    argv += ["--nodelist", ",".join(host.name for host in hosts), "--distribution", "block"]
    argv += ["--cpu-bind", "none", "--kill-on-bad-exit=1", "--export", "ALL"]  # ours is the binding
    env = env | {BY_SRUN: "1"}
    if launchers.launcher(config, most(hosts)) == "torchrun" or config.engine.backend == "deepspeed":
        env = env | {"MASTER_ADDR": master, "MASTER_PORT": str(port)}
    else:
        argv += ["--mpi", SRUN_MPI]
    return Command([*argv, sys.executable, "-m", RUN, *launchers.flags(config)], env)


def _ranks(hosts: Sequence[Host]) -> int:
    return sum(host.slots for host in hosts)


def shown(started: Sequence[tuple[Host, Command]], cwd: Path | None = None) -> str:
    """The commands for a shell, each under the name of its host."""
    folder = shlex.join([str(cwd or Path.cwd())])
    return "\n".join(f"# on {host.name}\ncd {folder} && {command}" for host, command in started)

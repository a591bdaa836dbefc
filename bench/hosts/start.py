"""A run over hosts as one command of this one, so that a run's record is kept the same way wherever its ranks are."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from backends.world import GPUS
from bench import launchers
from bench.config import RunConfig
from bench.failed import HOST_FILE
from bench.gpus import VISIBLE
from bench.hosts import spread
from bench.hosts.agent import TETHER, tethered
from bench.hosts.description import HOSTS, Host, is_here, used, write
from bench.hosts.ssh import Ssh
from bench.hosts.tether import SCRATCH, SILENT, Spec
from bench.launchers import Command
from bench.restarts import Restarts

CONDUCT = Path(__file__).with_name("conduct.py")
SILENT_S = 30.0  # a host that hears nothing for so long has lost this one, or for twice the run's own limit; ssh gives up then too
PLAN = "hosts.plan"  # in the run's private folder: what conduct.py is told


def builder(
    hosts: Sequence[Host],
    ssh: Ssh,
    *,
    master: str = "",
    interface: str = "",
    port: Callable[[], int] = launchers.free_port,
    pdsh: bool = False,
    srun: bool = False,
    restarts: Restarts | None = None,
) -> Callable[[RunConfig, int], Command]:
    """A `build` for `launch.run`: the command that starts a run's commands on their hosts and ends them together.

    `port` is asked for each run: one that is free on the first host. The others are as `spread.commands` takes them.
    """

    def build(config: RunConfig, ranks: int) -> Command:
        started = spread.commands(
            config,
            hosts,
            ranks,
            master=master,
            interface=interface,
            port=port(),
            ssh=ssh,
            pdsh=pdsh,
            srun=srun,
            restarts=restarts,
        )
        private = config.output.results.absolute()
        silent_s = min(SILENT_S, 2 * config.measure.limit_s)
        taken = used(hosts, ranks)
        plan = {
            "hosts": write(taken),
            "failed": str(private / HOST_FILE),
            "parts": [part(host, command, ssh, private, silent_s) for host, command in started],
        }
        env = {HOSTS: write(taken)}
        return Command(
            [sys.executable, str(CONDUCT), str(private / PLAN)], env, {str(private / PLAN): json.dumps(plan, indent=1)}
        )

    return build


def part(host: Host, command: Command, ssh: Ssh, scratch: Path, silent_s: float = SILENT_S) -> dict[str, object]:
    """What conduct.py is told of one host. This one is not reached by ssh: it need not let itself in."""
    here = is_here(host.name)
    env = command.env | {SCRATCH: str(scratch), SILENT: str(silent_s)}
    if here and VISIBLE in os.environ:
        env[GPUS] = os.environ[VISIBLE]  # which ranks here must not take from deepspeed's launcher
    spec = Spec(command.argv, env, str(Path.cwd()), command.files, str(scratch), silent_s=silent_s)
    reach = [sys.executable, str(TETHER)] if here else tethered(ssh.argv(), host.name)
    return {"host": host.name, "reach": reach, "spec": dataclasses.asdict(spec)}

"""The environment that all ranks of a run must share, whichever host they are on."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.config import RunConfig
from bench.gpus import VISIBLE
from bench.hosts.description import HOSTS, Host, write
from bench.launchers import HERE, searched
from bench.machine import MATTERS

# Beside what changes an engine's behaviour: where Python and its libraries find things.
ALSO = ("PYTHON", "HF_", "TRANSFORMERS_", "RINGZERO_CACHE", "LD_LIBRARY_PATH", "UCX_", "FI_")
# Made by a launcher for one of its processes, or about this process alone: another host has its own.
NEVER = (
    "OMPI_COMM_",
    "HOROVOD_RANK",
    "HOROVOD_SIZE",
    "HOROVOD_LOCAL_",
    "HOROVOD_CROSS_",
    "PYTHONSTARTUP",
    VISIBLE,  # its numbers and names are of this host's own GPUs
)


def agreed(
    config: RunConfig, hosts: Sequence[Host], interface: str, env: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Variables with the one value that every rank gets: this process's own where they matter, and what hosts need.

    `interface`: its name on every host; empty leaves the choice to each library.
    """
    kept = {k: v for k, v in env.items() if k.startswith((*MATTERS, *ALSO)) and not k.startswith(NEVER)}
    kept["PATH"] = searched(Path(sys.executable).parent, env.get("PATH", os.defpath))
    kept["PYTHONPATH"] = searched(HERE.parent, env.get("PYTHONPATH", ""))
    kept[HOSTS] = write(hosts)
    if interface:  # gloo, NCCL and Open MPI each guess otherwise, from the host's name or from all that is up
        kept |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}
    if config.engine.backend == "horovod":
        kept |= stall(config.measure.limit_s)
    return dict(sorted(kept.items()))


def stall(limit_s: float) -> dict[str, str]:
    """Horovod's stall check: by itself it only warns, for ever; here it warns within the run's limit, then ends the run."""
    return {
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(max(1, int(limit_s / 2))),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(max(2, int(limit_s * 2))),
    }

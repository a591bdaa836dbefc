"""What an elastic horovodrun is told: how many ranks will do, and its hosts, in their order."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from bench.hosts.description import Host
from bench.restarts import Restarts

SPARE_S = 10  # horovodrun gets to know a host a second


def words(folder: Path, hosts: Sequence[Host], ranks: int, restarts: Restarts) -> tuple[list[str], dict[str, str]]:
    """(flags, files) for the ranks that fill `hosts` from the first on, the others standing in for lost ones.

    Hosts that it is told of at once get into an order of its own (`HostManager.order_available_hosts` goes through a set), but
    those that it knows keep theirs: so the script names one more at each call, and rank 0 is on the first.
    """
    script, asked = folder / "hosts.sh", folder / "hosts.asked"
    text = f"""echo >> {shlex.quote(str(asked))}
printf '%s\\n' {" ".join(map(str, hosts))} | head -n "$(wc -l < {shlex.quote(str(asked))})"
"""
    argv = ["-np", str(ranks), "--min-np", str(restarts.min_ranks or ranks), "--max-np", str(ranks)]
    argv += ["--host-discovery-script", shlex.join(["sh", str(script)]), "--reset-limit", str(restarts.max_restarts)]
    argv += ["--elastic-timeout", str(len(hosts) + SPARE_S)]
    return argv, {str(script): text}

"""One host of a laboratory: its namespaces, its name, address, interface and cores, and how a command is run on it."""

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.lab.holder import LAB, enter, hold, network_of, within
from bench.lab.link import UNSHAPED, Link

INTERFACE = "lab0"  # the same on every host: engines are told one name
KINDS = ("--net", "--uts", "--mount")
NETWORK = "10.77.{number}.{host}"


@dataclass(frozen=True)
class Host:
    """`pid`: of the process that holds it; `network`: its network namespace; `port`: its end of the cable at the switch."""

    name: str
    address: str
    port: str
    cores: tuple[int, ...]
    pid: int
    network: int

    def enter(self, state: Path, cwd: Path | None = None) -> list[str]:
        """The words that run what comes behind them on this host: its cores, its `ssh` first on the PATH."""
        path = os.pathsep.join([str(state.parent / "bin"), os.environ.get("PATH", os.defpath)])
        return [
            *enter(self.pid, *KINDS),
            "env",
            f"--chdir={cwd or Path.cwd()}",
            f"PATH={path}",
            f"{LAB}={state}",
            "taskset",
            "--cpu-list",
            ",".join(map(str, self.cores)),
        ]

    def cable(self, switch: int, *, plugged: bool) -> None:
        """Pull the cable out at the switch, or put it in again."""
        within(switch, "ip", "link", "set", "dev", self.port, "up" if plugged else "down")

    def shape(self, switch: int, link: Link) -> None:
        """Both directions: what the host sends, and what the switch sends to it."""
        for pid, device in ((self.pid, INTERFACE), (switch, self.port)):
            within(pid, "ip", "link", "set", "dev", device, "gso_max_size", str(link.gso_bytes))
            within(pid, *link.shape(device))

    def shaped(self, switch: int) -> str:
        """What the kernel says of its link now: the rate, `none`, or `cut`."""
        state = within(switch, "ip", "-o", "link", "show", "dev", self.port)
        if "state DOWN" in state or ",UP" not in state:
            return "cut"
        found = re.search(r" rate (\S+)", within(self.pid, "tc", "qdisc", "show", "dev", INTERFACE))
        return found[1].lower() if found else UNSHAPED

    def alive(self) -> bool:
        """Its holder is there, and is the one that was started."""
        return network_of(self.pid) == self.network


def addresses(number: int, count: int) -> dict[str, str]:
    """Name and address of each host of laboratory `number`."""
    return {f"host{each}": NETWORK.format(number=number, host=each) for each in range(1, count + 1)}


def make(state: Path, switch: int, name: str, address: str, cores: Sequence[int], mtu: int, known: Path) -> Host:
    """A host on the switch, its interface up and not yet shaped; `known` becomes its /etc/hosts. Raises LabError."""
    pid = hold(state, *KINDS)
    try:
        network = network_of(pid)
        assert network is not None
        port = f"port{name.removeprefix('host')}"
        within(switch, "ip", "link", "add", port, "mtu", str(mtu), "type", "veth",
               "peer", "name", INTERFACE, "mtu", str(mtu), "netns", str(pid))  # fmt: skip
        within(switch, "ip", "link", "set", "dev", port, "master", "switch", "up")
        inside = (
            f"echo {name} > /proc/sys/kernel/hostname",
            "[ ! -e /proc/sys/net/ipv6 ] || echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6",  # its talk would be counted
            "ip link set dev lo up",
            f"ip address add {address}/24 dev {INTERFACE}",
            f"ip link set dev {INTERFACE} up",
            f"mount --bind {known} /etc/hosts",
            "mount -t tmpfs -o mode=1777 tmpfs /dev/shm",  # hosts don't share memory
        )
        within(pid, "sh", "-ec", "\n".join(inside), kinds=KINDS)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        raise
    return Host(name, address, port, tuple(cores), pid, network)

"""Bytes that a host's network interface has carried, from the kernel's counters of this process's own network namespace."""

import fcntl
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

NAMED = "GLOO_SOCKET_IFNAME"  # variable with the interface that a run over hosts was told to use
COUNTERS = Path("/proc/self/net/dev")  # of this namespace, where /sys/class/net may be another's
HEADERS = 66  # of a packet: Ethernet 14, IPv4 20, TCP 20 with its timestamps 12
OUTSIDE = 14  # of these not in the MTU
FIELDS = ("received", "received_packets", "sent", "sent_packets", "dropped")
SIOCGIFFLAGS, SIOCGIFMTU = 0x8913, 0x8921
IFF_RUNNING = 0x40


def read(name: str, counters: Path = COUNTERS) -> dict[str, int]:
    """FIELDS of an interface since it was made. Raises OSError where there is no such interface."""
    for line in counters.read_text().splitlines():
        found, _, rest = line.partition(":")
        if found.strip() == name:
            values = [int(word) for word in rest.split()]
            return dict(zip(FIELDS, (values[0], values[1], values[8], values[9], values[3] + values[11]), strict=True))
    raise OSError(f"this host has no interface {name}")


def mtu(name: str) -> int:
    """Largest packet of an interface, bytes. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16si12x", name.encode(), 0)
        return int(struct.unpack("16si12x", fcntl.ioctl(any_socket, SIOCGIFMTU, asked))[1])


def plugged(name: str) -> bool:
    """Whether an interface is up and has a link at the other end of its cable; False where there is no such interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sH14x", name.encode(), 0)
        try:
            flags = int(struct.unpack("16sH14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, asked))[1])
        except OSError:
            return False
    return flags & IFF_RUNNING != 0


class Interface:
    """`with interface:` around each window, as often as wanted. `reason`: why nothing is counted; None where it is."""

    def __init__(self, hosts: int, name: str | None = None) -> None:
        self.name = name if name is not None else os.environ.get(NAMED)
        self.counts = dict.fromkeys(FIELDS, 0)
        self.reason: str | None = None
        if hosts == 1:
            self.reason = "all ranks are on one host: nothing leaves it"
        elif not self.name:
            self.reason = "no interface was named for this run; name it: --interface eth0"

    def __enter__(self) -> "Interface":
        self._begin = self._look()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = self._look()
        for field in FIELDS:
            self.counts[field] += end[field] - self._begin[field]

    def _look(self) -> dict[str, int]:
        if self.reason is None:
            assert self.name is not None
            try:
                return read(self.name)
            except OSError as error:
                self.reason = str(error)
        return dict.fromkeys(FIELDS, 0)

    def seen(self, host: str) -> dict[str, Any]:
        """JSON values of this rank, for `told`."""
        size = None
        if self.reason is None and self.name:
            size = mtu(self.name)
        return {"host": host, "name": self.name, "mtu": size, "reason": self.reason, **self.counts}


def told(everyone: Sequence[Mapping[str, Any]], steps: int) -> dict[str, Any]:
    """The record's `traffic.interface`, bytes a step of each host; each host's ranks have read the same counters.

    `sent_bytes` is the kernel's count: payload and one header a packet, where a packet may be as large as TCP hands it
    down. `payload_bytes` is without these headers. `wire_bytes` is what the payload takes in frames of the MTU.
    """
    if reason := next((str(each["reason"]) for each in everyone if each["reason"]), None):
        return {"interface": None, "interface_reason": reason}
    hosts: dict[str, Any] = {}
    for each in everyone:
        if each["host"] in hosts:
            continue
        payload = (each["sent"] - HEADERS * each["sent_packets"]) / steps
        hosts[each["host"]] = {
            "sent_bytes": each["sent"] / steps,
            "sent_packets": each["sent_packets"] / steps,
            "received_bytes": each["received"] / steps,
            "payload_bytes": payload,
            "wire_bytes": payload * (each["mtu"] + OUTSIDE) / (each["mtu"] - HEADERS + OUTSIDE),
            "dropped_packets": each["dropped"],
        }
    return {"interface": {"name": everyone[0]["name"], "mtu": everyone[0]["mtu"], "hosts": hosts}}

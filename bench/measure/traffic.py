"""Bytes that this rank sends: the engine's own count, and the kernel's counters of every TCP connection of this process."""

import os
import socket
import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

# struct tcp_info, include/uapi/linux/tcp.h: append-only, so an offset never changes, and an old kernel returns less of it.
RECEIVED, NOT_SENT, SENT, RETRANSMITTED = (128, "Q"), (144, "I"), (200, "Q"), (208, "Q")
NEEDED = 216
ENGINE, KERNEL = "engine", "kernel sockets"


@dataclass(frozen=True)
class Counts:
    """Payload bytes of a connection since it began, TCP and IP headers left out.

    `sent`: what the process wrote, each byte once, also those that still wait in the kernel; `retransmitted` comes on top.
    """

    sent: int
    received: int
    retransmitted: int


def connections() -> dict[int, Counts]:
    """By inode, every TCP socket of this process, whichever library opened it. Raises OSError where the kernel has no counters."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            seen = os.stat(int(name))
            if not stat.S_ISSOCK(seen.st_mode):
                continue
            copy = os.dup(int(name))
        except OSError:
            continue  # the listing's own descriptor, or one that was closed meanwhile
        with socket.socket(fileno=copy) as each:
            if each.family in (socket.AF_INET, socket.AF_INET6) and each.type == socket.SOCK_STREAM:
                found[seen.st_ino] = _read(each)
    return found


def _read(each: socket.socket) -> Counts:
    info = each.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512)
    if len(info) < NEEDED:
        raise OSError(f"this kernel's TCP_INFO has {len(info)} bytes; counters of sent bytes need Linux 4.19 or newer")
    received, waiting, sent, again = (
        struct.unpack_from(kind, info, at)[0] for at, kind in (RECEIVED, NOT_SENT, SENT, RETRANSMITTED)
    )
    return Counts(sent - again + waiting, received, again)


class Traffic:
    """`with traffic:` around each window, as often as wanted: two looks at the counters, nothing in between.

    A connection that opens during a window is counted from its first byte; one that closes takes its count with it, and
    is counted in `closed`. One that does both between the looks is never seen.
    """

    def __init__(self) -> None:
        self.sent = self.received = self.retransmitted = 0
        self.kept = self.opened = self.closed = 0
        self.reason: str | None = None

    def __enter__(self) -> "Traffic":
        self._begin = self._look()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        end = self._look()
        begun = self._begin
        self.opened += len(end.keys() - begun.keys())
        self.closed += len(begun.keys() - end.keys())
        self.kept = len(end.keys() & begun.keys())
        for inode, now in end.items():
            before = begun.get(inode, Counts(0, 0, 0))
            self.sent += now.sent - before.sent
            self.received += now.received - before.received
            self.retransmitted += now.retransmitted - before.retransmitted

    def _look(self) -> dict[int, Counts]:
        try:
            return connections()
        except OSError as error:
            self.reason = str(error)
            return {}

    def counts(self) -> dict[str, Any]:
        """JSON values of this rank, for `told`."""
        names = ("sent", "received", "retransmitted", "kept", "opened", "closed", "reason")
        return {name: getattr(self, name) for name in names}


def told(
    everyone: Sequence[Mapping[str, Any]], engine: Sequence[int | None], steps: int, beside: str | None
) -> dict[str, Any]:
    """The record's `traffic`, from each rank's kernel counters and the engine's own counts over `steps` steps.

    beside: why the exchange passes the sockets by; None where they carry it. The engine's count is taken where there is
    one, since it leaves out what is not exchange; the kernel's, which no engine can be wrong about, stands beside it.
    """
    reason = beside or next((str(each["reason"]) for each in everyone if each["reason"]), None)
    closed, opened = (sum(each[name] for each in everyone) for name in ("closed", "opened"))
    if reason is None and closed:
        reason = f"{closed} TCP connections closed during the window and took their counts with them"
    kernel = None if reason else [each["sent"] / steps for each in everyone]
    counted = [count / steps for count in engine if count is not None]
    own = counted if len(counted) == len(engine) else None
    made: dict[str, Any] = {
        "sent_bytes": own if own is not None else kernel,
        "source": ENGINE if own is not None else KERNEL if kernel is not None else None,
        "by_source": {ENGINE: own, KERNEL: kernel},
        "received_bytes": None if reason else [each["received"] / steps for each in everyone],
        "retransmitted_bytes": None if reason else [each["retransmitted"] / steps for each in everyone],
        "connections": {"kept": [each["kept"] for each in everyone], "opened": opened, "closed": closed},
    }
    if reason:
        made |= {f"{name}_reason": reason for name in ("received_bytes", "retransmitted_bytes")}
    if made["sent_bytes"] is None:
        made["sent_bytes_reason"] = f"the engine does not tell, and sockets can't: {reason}"
    return made

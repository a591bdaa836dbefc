"""A link of a chosen bandwidth: how its name is read, and the token bucket (tc tbf) that makes it so."""

import re
from dataclasses import dataclass

from bench.lab.rights import LabError

UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
UNSHAPED = "none"
BURST_S = 1e-3  # of sending at full rate: a timer that is late by less costs nothing
LEAST_BURST, MOST_GSO, LEAST_GSO = 32 * 1024, 65536, 9216
MOST_HANDLE = 0xFFFE
BUFFER_S, LEAST_BUFFER = 0.02, 1 << 20  # what waits before the link, as in a switch: no loss until then
HEADERS = 66  # Ethernet 14, IPv4 20, TCP 20 with its timestamps 12
IN_FRAME = HEADERS - 14  # of these inside the MTU


@dataclass(frozen=True)
class Link:
    """`rate`: bits a second in each direction, Ethernet headers counted, no preamble or gap; None is not shaped."""

    rate: float | None = None

    @classmethod
    def read(cls, text: str) -> "Link":
        """`100mbit`, `1gbit`, `2.5gbit`, `none`. Raises LabError."""
        word = text.strip().lower()
        if word == UNSHAPED:
            return cls()
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]bit)(?:/s)?", word)
        if not found or not float(found[1]) > 0:
            raise LabError(f"no link of {text!r}; type a rate such as 100mbit, 1gbit, 2.5gbit, or none: not shaped")
        return cls(float(found[1]) * UNITS[found[2]])

    def __str__(self) -> str:
        if self.rate is None:
            return UNSHAPED
        unit = next(unit for unit in reversed(UNITS) if self.rate >= UNITS[unit] or unit == "kbit")
        return f"{self.rate / UNITS[unit]:g}{unit}"

    @property
    def gso_bytes(self) -> int:
        """Largest packet that TCP hands down at once, to be cut into frames later; half a burst, so none is torn apart."""
        return MOST_GSO if self.rate is None else max(LEAST_GSO, min(MOST_GSO, self.burst_bytes // 2))

    @property
    def burst_bytes(self) -> int:
        """What may pass at once after a silence: it comes on top of the rate, so it is kept small."""
        assert self.rate is not None
        return max(LEAST_BURST, round(self.rate / 8 * BURST_S))

    def payload_rate(self, mtu: int) -> float | None:
        """Bits of TCP payload a second that frames of that MTU leave of the rate."""
        return None if self.rate is None else self.rate * (mtu - IN_FRAME) / (mtu + HEADERS - IN_FRAME)

    def shape(self, device: str, verb: str = "replace") -> list[str]:
        """The command that gives a device this rate for what it sends. Another burst makes another queue (its handle tells):
        a packet that waits in the old one, longer than the new burst, would wait for ever, and TCP with it.
        """
        if self.rate is None:
            return ["tc", "qdisc", verb, "dev", device, "root", "pfifo", "limit", "10000"]
        buffer = max(LEAST_BUFFER, round(self.rate / 8 * BUFFER_S))
        shaped = f"tbf rate {round(self.rate)}bit burst {self.burst_bytes}b limit {buffer + self.burst_bytes}b"
        handle = f"{min(self.burst_bytes // 1024, MOST_HANDLE):x}:"
        return ["tc", "qdisc", verb, "dev", device, "root", "handle", handle, *shaped.split()]

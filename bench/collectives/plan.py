"""What is to be measured: sizes, operations, libraries, turns."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from bench.collectives.catalog import Library, Operation
from bench.config import ConfigError

VALUE_BYTES = 4  # fp32
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked for. `turn_s`: seconds of timed iterations that a library gets in a turn, one iteration at the least."""

    ranks: int
    sizes: Sequence[int]
    operations: Sequence[Operation]
    libraries: Sequence[Library]
    repeats: int
    turn_s: float
    limit_s: float
    seed: int

    def values(self, operation: str, size: int) -> int:
        """fp32 values of the whole buffer; where ranks hold parts of it, as many for each, at least one."""
        values = max(1, size // VALUE_BYTES)
        if operation in ("reduce_scatter", "all_gather"):
            return max(1, values // self.ranks) * self.ranks
        return values

    @property
    def longest(self) -> int:
        return max(self.values(operation, size) for operation in self.operations for size in self.sizes)


def size(text: str, flag: str) -> int:
    """Bytes: 8, 64K, 256M, 1G, in powers of 1024 as the NCCL tests read them. Raises ConfigError, naming the flag."""
    found = re.fullmatch(r"(\d+)([KMG]?)(i?B)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ConfigError(f"{flag} {text} is no size; write bytes, or K, M, G behind them: 8, 64K, 256M")
    return int(found[1]) * UNITS[found[2].upper()]


def sizes(smallest: int, largest: int, factor: int) -> list[int]:
    """From the smallest by a factor to the largest, which is always among them. Raises ConfigError for what makes no row."""
    if smallest < VALUE_BYTES:
        raise ConfigError(f"--min-bytes {smallest} holds no fp32 value; give 4 or more")
    if largest < smallest:
        raise ConfigError(f"--max-bytes {largest} is below --min-bytes {smallest}; give a larger one")
    if factor < 2:
        raise ConfigError(f"--factor {factor} makes no next size; give 2 or more")
    found = [smallest]
    while found[-1] * factor < largest:
        found.append(found[-1] * factor)
    return list(dict.fromkeys([*found, largest]))

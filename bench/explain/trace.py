"""What really happens in a ring all-reduce: the algorithm run on threads, with every exchange written down."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Queue
from typing import Any

import torch
from torch import Tensor

from backends.ring.algorithm import ring_allreduce
from backends.ring.transport import QueueTransport

LETTERS = "abcdefghijklmnop"
MOST_RANKS = len(LETTERS)


@dataclass(frozen=True)
class Move:
    """In one step a rank sends chunk `sent` to its right; `inside` are the ranks whose values are summed in it by then."""

    rank: int
    to: int
    sent: int
    inside: frozenset[int]


@dataclass(frozen=True)
class Trace:
    """`states[t][rank][chunk]`: whose values are in it before step t; one more state than `steps`, which hold N moves each."""

    ranks: int
    steps: Sequence[Sequence[Move]]
    states: Sequence[Sequence[Sequence[frozenset[int]]]]
    sent_values: Sequence[int]  # by rank, of buffers of N values

    def added(self, step: int) -> bool:
        """Whether what comes in is added (share-reduce), or replaces what was there (share-only)."""
        return step < self.ranks - 1


class Watched(QueueTransport):
    """Notes the whole buffer before each exchange, and which part of it leaves."""

    def __init__(self, rank: int, mailboxes: "list[list[Queue[Any]]]") -> None:
        super().__init__(rank, mailboxes)
        self.noted: list[tuple[list[int], int]] = []
        self.buffer: Tensor = torch.empty(0)

    def exchange(self, send: Tensor, receive: Tensor, to: int | None = None, source: int | None = None) -> None:
        self.noted.append((self.buffer.tolist(), int(send.storage_offset())))
        super().exchange(send, receive, to, source)


def trace(ranks: int) -> Trace:
    """Run the ring on `ranks` threads, each with one value a chunk: bit r, so that a sum names those it is made of.

    Raises ValueError outside of 2 to 16 ranks.
    """
    if not 2 <= ranks <= MOST_RANKS:
        raise ValueError(f"--ranks is {ranks}; a ring to look at has 2 to {MOST_RANKS}")
    links = Watched.links(ranks)

    def work(link: Any) -> list[int]:
        link.buffer = torch.full((ranks,), 1 << link.rank)
        ring_allreduce(link.buffer, link, torch.empty(1, dtype=torch.int64))
        values: list[int] = link.buffer.tolist()
        return values

    with ThreadPoolExecutor(ranks) as pool:
        final = [future.result() for future in [pool.submit(work, link) for link in links]]
    noted: list[list[tuple[list[int], int]]] = [link.noted for link in links]  # type: ignore[attr-defined]
    states = [
        [[_who(value, ranks) for value in noted[rank][step][0]] for rank in range(ranks)]
        for step in range(2 * ranks - 2)
    ]
    steps = [
        [
            Move(rank, links[rank].right, noted[rank][step][1], states[step][rank][noted[rank][step][1]])
            for rank in range(ranks)
        ]
        for step in range(2 * ranks - 2)
    ]
    states.append([[_who(value, ranks) for value in values] for values in final])
    return Trace(ranks, steps, states, [link.sent_bytes // 8 for link in links])


def _who(value: int, ranks: int) -> frozenset[int]:
    return frozenset(rank for rank in range(ranks) if value >> rank & 1)


def name(inside: frozenset[int], chunk: int) -> str:
    """a0 is rank 0's chunk 0; b0 rank 1's; abc0 the sum of three."""
    return "".join(LETTERS[rank] for rank in sorted(inside)) + str(chunk)

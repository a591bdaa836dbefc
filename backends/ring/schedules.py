"""Other ways to all-reduce, with the ring's interface, to see where each wins (`ringzero collectives`).

With N ranks, S bytes, a seconds of latency and B bytes/s on a link:

    schedule                       steps          bytes sent by a rank     wins
    naive gather                   N-1            (N-1) S                  never, but easy to believe
    recursive doubling             log2 N         log2(N) S                small S: fewest steps
    halving-doubling               2 log2 N       2(N-1)/N S               middle S
    ring                           2(N-1)         2(N-1)/N S               large S: neighbours only
    hierarchical                   ring in a host, ring across leaders     several hosts, slow links between them

Recursive doubling and halving-doubling (Rabenseifner 2004) are for 2^k ranks; others first hand their values to a partner
and get the result from it (Thakur, Rabenseifner & Gropp 2005, section 4.5), which the counts above leave out.

Whoever times them keeps the `scratch` of the first three, as many values as the buffer has: new memory costs page faults.
"""

import torch
from torch import Tensor

from backends.ring.algorithm import ring_allreduce
from backends.ring.reduction import MEAN, SUM, Reduction
from backends.ring.transport import Links, Wait


def naive_allreduce(buffer: Tensor, links: Links, reduction: Reduction = SUM, scratch: Tensor | None = None) -> None:
    """Every rank sees everybody's whole buffer and reduces in rank order: the oracle that the others are held against.

    `scratch`: N times as many values as the buffer has.
    """
    parts = _given(scratch, buffer, links.size).view(links.size, -1)
    parts[links.rank].copy_(buffer)
    for step in range(links.size - 1):
        links.exchange(parts[(links.rank - step) % links.size], parts[(links.rank - step - 1) % links.size])
    buffer.copy_(parts[0])
    for rank in range(1, links.size):
        reduction.combine(buffer, parts[rank])
    reduction.finish(buffer, links.size)


def recursive_doubling(buffer: Tensor, links: Links, reduction: Reduction = SUM, scratch: Tensor | None = None) -> None:
    """In step k each rank swaps its whole buffer with the one whose number differs in bit k, and both reduce."""
    scratch = _given(scratch, buffer)
    place = _fold(buffer, scratch, links, reduction)
    if place is not None:
        power = _power(links.size)
        for bit in _bits(power):
            partner = _rank(place ^ bit, links.size)
            links.exchange(buffer, scratch, partner, partner)
            # both add lower + upper, in that order, so that both hold the same bits
            if place & bit:
                reduction.combine(scratch, buffer)
                buffer.copy_(scratch)
            else:
                reduction.combine(buffer, scratch)
        reduction.finish(buffer, links.size)
    _unfold(buffer, links)


def halving_doubling(buffer: Tensor, links: Links, reduction: Reduction = SUM, scratch: Tensor | None = None) -> None:
    """Reduce-scatter by halves (partners at distance N/2, N/4, ...), then all-gather by doubling the way back."""
    scratch = _given(scratch, buffer)
    place = _fold(buffer, scratch, links, reduction)
    if place is not None:
        power = _power(links.size)
        low, high, path = 0, len(buffer), []
        for bit in reversed(_bits(power)):
            partner = _rank(place ^ bit, links.size)
            middle = (low + high) // 2
            kept, given = ((middle, high), (low, middle)) if place & bit else ((low, middle), (middle, high))
            incoming = scratch[: kept[1] - kept[0]]
            links.exchange(buffer[slice(*given)], incoming, partner, partner)
            reduction.combine(buffer[slice(*kept)], incoming)
            path.append((partner, kept, given))
            low, high = kept
        reduction.finish(buffer[low:high], links.size)
        for partner, kept, given in reversed(path):
            links.exchange(buffer[slice(*kept)], buffer[slice(*given)], partner, partner)
    _unfold(buffer, links)


def hierarchical(buffer: Tensor, links: Links, reduction: Reduction = SUM, *, per_host: int) -> None:
    """Reduce to each host's first rank, ring over those, hand the result back: only the leaders use the links between hosts.

    Raises ValueError where the hosts do not hold `per_host` ranks each, numbered host by host.
    """
    if links.size % per_host:
        raise ValueError(f"{links.size} ranks are not {per_host} on each host")
    leader = links.rank - links.rank % per_host
    scratch = torch.empty_like(buffer)
    members = range(leader + 1, leader + per_host)
    if links.rank != leader:
        links.exchange(buffer, buffer[:0], to=leader)
        links.exchange(buffer[:0], buffer, source=leader)
        return
    for member in members:
        links.exchange(buffer[:0], scratch, source=member)
        reduction.combine(buffer, scratch)
    ring_allreduce(buffer, Leaders(links, per_host), scratch, SUM if reduction is MEAN else reduction)
    reduction.finish(buffer, links.size)
    for member in members:
        links.exchange(buffer, buffer[:0], to=member)


class Leaders(Links):
    """Every host's first rank, numbered host by host, over the links between all ranks."""

    def __init__(self, whole: Links, per_host: int) -> None:
        super().__init__(whole.rank // per_host, whole.size // per_host)
        self.whole, self.per_host = whole, per_host

    def _send(self, tensor: Tensor, to: int) -> Wait:
        return self.whole.send(tensor, to * self.per_host)

    def _receive(self, tensor: Tensor, source: int) -> Wait:
        return self.whole.receive(tensor, source * self.per_host)


def _given(scratch: Tensor | None, buffer: Tensor, times: int = 1) -> Tensor:
    """Scratch of `times` the buffer's length: the first values of the caller's, or new ones."""
    need = times * len(buffer)
    return buffer.new_empty(need) if scratch is None else scratch[:need]


def _power(size: int) -> int:
    """The largest power of two that is not above `size`."""
    return 1 << (size.bit_length() - 1)


def _bits(power: int) -> list[int]:
    return [1 << bit for bit in range(power.bit_length() - 1)]


def _rank(place: int, size: int) -> int:
    """Which rank holds a place among the 2^k that take part: of the first pairs the odd one."""
    extra = size - _power(size)
    return 2 * place + 1 if place < extra else place + extra


def _fold(buffer: Tensor, scratch: Tensor, links: Links, reduction: Reduction) -> int | None:
    """Where N is no power of two, the first pairs become one: this rank's place among those left, None if it waits."""
    extra = links.size - _power(links.size)
    if links.rank >= 2 * extra:
        return links.rank - extra
    if links.rank % 2 == 0:
        links.exchange(buffer, buffer[:0], to=links.rank + 1)
        return None
    links.exchange(buffer[:0], scratch, source=links.rank - 1)
    reduction.combine(buffer, scratch)
    return links.rank // 2


def _unfold(buffer: Tensor, links: Links) -> None:
    """Give the result to the ranks that waited."""
    if links.rank >= 2 * (links.size - _power(links.size)):
        return
    if links.rank % 2:
        links.exchange(buffer, buffer[:0], to=links.rank - 1)
    else:
        links.exchange(buffer[:0], buffer, source=links.rank + 1)

"""What is exchanged and what must come out: small whole numbers, whose sums are exact in fp32 in any order."""

import torch
from torch import Tensor

PERIOD = 65_521  # values until they repeat; prime, so that a part that lies elsewhere is seen
HIGHEST = 100  # 16 ranks sum to less than 2^24, up to which fp32 counts


def tile(rank: int) -> Tensor:
    """The values that rank `rank` puts in, PERIOD of them: a function of the rank alone."""
    drawn = torch.randint(1, HIGHEST + 1, (PERIOD,), generator=torch.Generator().manual_seed(rank))
    return drawn.to(torch.float32)


def total(ranks: int) -> Tensor:
    """Their sum over ranks."""
    return torch.stack([tile(rank) for rank in range(ranks)]).sum(dim=0)


def fill(into: Tensor, values: Tensor, start: int = 0) -> None:
    """Write `values` over and over; `into` begins at place `start` of the whole."""
    for piece, part in _pieces(into, values, start):
        piece.copy_(part)


def wrong(found: Tensor, values: Tensor, start: int = 0) -> int:
    """How many values of `found` are not those that belong there; NaN never does."""
    return sum(int((piece.cpu() != part).sum()) for piece, part in _pieces(found, values, start))


def expected(operation: str, length: int, rank: int, ranks: int) -> list[tuple[slice, Tensor]]:
    """What rank `rank` must hold afterwards, as parts of the whole (`length` values) and the tile that each repeats.

    reduce_scatter: its own part only; the others may hold anything.
    """
    each = length // ranks
    match operation:
        case "all_reduce":
            return [(slice(0, length), total(ranks))]
        case "reduce_scatter":
            return [(slice(rank * each, (rank + 1) * each), total(ranks))]
        case "all_gather":
            return [(slice(other * each, (other + 1) * each), tile(other)) for other in range(ranks)]
        case "broadcast":
            return [(slice(0, length), tile(0))]
    raise ValueError(f"no operation {operation!r}")


def _pieces(whole: Tensor, values: Tensor, start: int) -> list[tuple[Tensor, Tensor]]:
    found, at = [], 0
    while at < len(whole):
        begin = (start + at) % PERIOD
        size = min(PERIOD - begin, len(whole) - at)
        found.append((whole[at : at + size], values[begin : begin + size]))
        at += size
    return found

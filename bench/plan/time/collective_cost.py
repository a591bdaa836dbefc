"""What a collective takes in the alpha-beta-gamma model: p ranks, n bytes, each rank sends and receives one message at a time.

alpha: seconds a message; beta: seconds a byte on the wire; gamma: seconds a byte to add. n is the whole vector: what every rank
holds before an all-reduce or a reduce-scatter, what every rank holds after an all-gather or a broadcast. lg: to base 2.

Sources: Thakur, Rabenseifner & Gropp 2005 ("Optimization of Collective Communication Operations in MPICH", IJHPCA 19:49,
sections 4.1 to 4.5) for tree, doubling and halving; Patarasuk & Yuan 2009 (JPDC 69:117, section 3) for the ring, whose
2 (p-1)/p n is the least that an all-reduce can send; Sanders, Speck & Traeff 2009 (Parallel Computing 35:581) for the two
pipelined trees that NCCL uses.
"""

import math
from collections.abc import Callable

from bench.config import ConfigError
from bench.plan.machines.links import Channel, Fabric, Line

COLLECTIVES = ("all-reduce", "reduce-scatter", "all-gather", "broadcast")
ALGORITHMS = ("ring", "tree", "double-tree", "halving-doubling", "recursive-doubling", "hierarchical")


def _fold(p: int) -> tuple[int, int]:
    """lg of the largest power of two that p holds, and whether ranks are left over, who fold onto a partner first."""
    return p.bit_length() - 1, int(p & (p - 1) > 0)


def _ring_reduce(p: int, n: float, w: Line) -> float:
    return _ring_all(p, n, w) + _ring_half(p, n, w)


def _ring_half(p: int, n: float, w: Line) -> float:
    """Reduce-scatter: (p-1) alpha + (p-1)/p n (beta + gamma)."""
    return (p - 1) * w.alpha + (p - 1) / p * n * (w.beta + w.gamma)


def _ring_all(p: int, n: float, w: Line) -> float:
    """All-gather: (p-1) alpha + (p-1)/p n beta."""
    return (p - 1) * w.alpha + (p - 1) / p * n * w.beta


def _tree_reduce(p: int, n: float, w: Line) -> float:
    """Reduce to a root along a binomial tree, then broadcast: ceil(lg p) (2 alpha + n (2 beta + gamma))."""
    return math.ceil(math.log2(p)) * (2 * w.alpha + n * (2 * w.beta + w.gamma))


def _tree_down(p: int, n: float, w: Line) -> float:
    return math.ceil(math.log2(p)) * (w.alpha + n * w.beta)


def _tree_up(p: int, n: float, w: Line) -> float:
    """Reduce to a root, then scatter along the same tree: lg p (2 alpha + n beta + n gamma) + (p-1)/p n beta."""
    rounds = math.ceil(math.log2(p))
    return rounds * (2 * w.alpha + n * (w.beta + w.gamma)) + (p - 1) / p * n * w.beta


def _tree_gather(p: int, n: float, w: Line) -> float:
    """Gather to a root, (p-1)/p n beta, then broadcast."""
    return math.ceil(math.log2(p)) * w.alpha + (p - 1) / p * n * w.beta + _tree_down(p, n, w)


def _double_tree(p: int, n: float, w: Line) -> float:
    """Pipelined, half of the vector down each tree: 2 lg p alpha + 2 n beta + n gamma, the pipeline's filling left out."""
    return 2 * math.ceil(math.log2(p)) * w.alpha + n * (2 * w.beta + w.gamma)


def _halving_doubling(p: int, n: float, w: Line) -> float:
    """Rabenseifner: 2 lg p alpha + 2 (q-1)/q n beta + (q-1)/q n gamma, q the power of two within p; the others fold in and out,
    2 alpha + 2 n beta + n gamma."""
    rounds, odd = _fold(p)
    part = 1 - 0.5**rounds
    return 2 * (rounds + odd) * w.alpha + 2 * (part + odd) * n * w.beta + (part + odd) * n * w.gamma


def _halving(p: int, n: float, w: Line) -> float:
    """Reduce-scatter: lg p alpha + (q-1)/q n (beta + gamma); others fold in with n, and out with n/p."""
    rounds, odd = _fold(p)
    part = 1 - 0.5**rounds
    return (rounds + 2 * odd) * w.alpha + (part + odd * (1 + 1 / p)) * n * w.beta + (part + odd) * n * w.gamma


def _doubling_gather(p: int, n: float, w: Line) -> float:
    """ceil(lg p) alpha + (p-1)/p n beta: recursive doubling, or Bruck's algorithm where p is no power of two."""
    return math.ceil(math.log2(p)) * w.alpha + (p - 1) / p * n * w.beta


def _recursive_doubling(p: int, n: float, w: Line) -> float:
    """lg p (alpha + n beta + n gamma); others fold in (alpha + n beta + n gamma) and out (alpha + n beta)."""
    rounds, odd = _fold(p)
    return (rounds + odd) * (w.alpha + n * (w.beta + w.gamma)) + odd * (w.alpha + n * w.beta)


def _scatter_gather(gather: Callable[[int, float, Line], float]) -> Callable[[int, float, Line], float]:
    """Broadcast of a long vector: binomial scatter, lg p alpha + (p-1)/p n beta, then an all-gather (van de Geijn)."""
    return lambda p, n, w: _doubling_gather(p, n, w) + gather(p, n, w)


_COSTS: dict[tuple[str, str], Callable[[int, float, Line], float]] = {
    ("all-reduce", "ring"): _ring_reduce,
    ("all-reduce", "tree"): _tree_reduce,
    ("all-reduce", "double-tree"): _double_tree,
    ("all-reduce", "halving-doubling"): _halving_doubling,
    ("all-reduce", "recursive-doubling"): _recursive_doubling,
    ("reduce-scatter", "ring"): _ring_half,
    ("reduce-scatter", "tree"): _tree_up,
    ("reduce-scatter", "halving-doubling"): _halving,
    ("all-gather", "ring"): _ring_all,
    ("all-gather", "tree"): _tree_gather,
    ("all-gather", "halving-doubling"): _doubling_gather,
    ("all-gather", "recursive-doubling"): _doubling_gather,
    ("broadcast", "ring"): _scatter_gather(_ring_all),
    ("broadcast", "tree"): _tree_down,
    ("broadcast", "halving-doubling"): _scatter_gather(_doubling_gather),
}


def seconds(collective: str, algorithm: str, ranks: int, size: float, channel: Channel) -> float:
    """Seconds of one collective of `size` bytes among `ranks` over equal links; 0 for one rank.

    Raises ConfigError for what has no formula here, and for sizes and ranks that can't be.
    """
    _check(collective, ranks, size)
    if (collective, algorithm) not in _COSTS:
        there = ", ".join(name for kind, name in _COSTS if kind == collective)
        raise ConfigError(f"no {collective} by {algorithm!r} over equal links; there are: {there}")
    if ranks == 1 or size == 0:
        return 0.0
    return min(_COSTS[collective, algorithm](ranks, size, line) for line in channel.lines)


def over(collective: str, algorithm: str, ranks: int, size: float, fabric: Fabric) -> float:
    """Seconds over nodes. `hierarchical`: reduce-scatter in each node, rings of equal positions between nodes, all-gather in
    each node. Others: as if every link were the slower kind."""
    _check(collective, ranks, size)
    nodes = fabric.nodes(ranks)
    if nodes == 1:
        return seconds(collective, "ring" if algorithm == "hierarchical" else algorithm, ranks, size, fabric.intra)
    if algorithm != "hierarchical":
        return seconds(collective, algorithm, ranks, size, _slower(fabric))
    return _hierarchical(collective, nodes, size, fabric)


def fastest(collective: str, ranks: int, size: float, fabric: Fabric) -> float:
    """By the better of a ring and two pipelined trees, over nodes with the ring hierarchical: what NCCL chooses from (tuning.cc)."""
    found = over(collective, "hierarchical", ranks, size, fabric)
    return min(found, over(collective, "double-tree", ranks, size, fabric)) if collective == "all-reduce" else found


def _hierarchical(collective: str, nodes: int, size: float, fabric: Fabric) -> float:
    """Each of a node's ranks talks to its own kind in other nodes about its part: together they fill `inter` with `size`."""
    inner = ("reduce-scatter", "all-gather") if collective == "all-reduce" else (collective,)
    within = sum(seconds(part, "ring", fabric.per_node, size, fabric.intra) for part in inner)
    return within + seconds(collective, "ring", nodes, size, fabric.inter)


def _slower(fabric: Fabric) -> Channel:
    """A chain is as fast as its slowest link: of each pair of regimes the larger alpha, beta and gamma."""
    return Channel(
        tuple(
            Line(max(a.alpha, b.alpha), max(a.beta, b.beta), max(a.gamma, b.gamma))
            for a in fabric.intra.lines
            for b in fabric.inter.lines
        )
    )


def _check(collective: str, ranks: int, size: float) -> None:
    if collective not in COLLECTIVES:
        raise ConfigError(f"no collective {collective!r}; there are: {', '.join(COLLECTIVES)}")
    if ranks < 1:
        raise ConfigError(f"{ranks} ranks: there must be at least 1")
    if not (math.isfinite(size) and size >= 0):
        raise ConfigError(f"a collective of {size} bytes; its size must be a finite number, 0 or more")

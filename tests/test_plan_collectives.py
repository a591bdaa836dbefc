"""The alpha-beta-gamma model: formulas against counted messages and bytes, and constants of a channel recovered from measurements."""

import itertools
import math

import numpy as np
import pytest

from bench import wire
from bench.config import ConfigError
from bench.plan.calibration import channel_fit
from bench.plan.calibration.channel_fit import Point
from bench.plan.machines import hardware
from bench.plan.machines.links import Channel, Fabric, Line, fabric
from bench.plan.time.collective_cost import COLLECTIVES, fastest, over, seconds

ALPHA, BETA, GAMMA = Channel((Line(1, 0),)), Channel((Line(0, 1),)), Line(1, 0, 1)


def adding(collective: str, algorithm: str, ranks: int, size: float) -> float:
    both = seconds(collective, algorithm, ranks, size, Channel((GAMMA,)))
    return both - seconds(collective, algorithm, ranks, size, ALPHA)


@pytest.mark.parametrize(
    ("collective", "algorithm", "ranks", "messages", "moved", "added"),
    [  # of a vector of 1; moved and added as printed in the sources
        ("all-reduce", "ring", 5, 8, 8 / 5, 4 / 5),
        ("all-reduce", "recursive-doubling", 8, 3, 3, 3),
        ("all-reduce", "recursive-doubling", 6, 4, 4, 3),
        ("all-reduce", "halving-doubling", 8, 6, 7 / 4, 7 / 8),
        ("all-reduce", "halving-doubling", 6, 6, 3 / 2 + 2, 3 / 4 + 1),
        ("all-reduce", "tree", 8, 6, 6, 3),
        ("all-reduce", "double-tree", 8, 6, 2, 1),
        ("reduce-scatter", "ring", 5, 4, 4 / 5, 4 / 5),
        ("reduce-scatter", "halving-doubling", 8, 3, 7 / 8, 7 / 8),
        ("all-gather", "ring", 5, 4, 4 / 5, 0),
        ("all-gather", "recursive-doubling", 8, 3, 7 / 8, 0),
        ("broadcast", "tree", 8, 3, 3, 0),
        ("broadcast", "ring", 8, 3 + 7, 2 * 7 / 8, 0),
    ],
)
def test_formulas_count_messages_bytes_and_additions(collective, algorithm, ranks, messages, moved, added):
    assert seconds(collective, algorithm, ranks, 1, ALPHA) == messages
    assert seconds(collective, algorithm, ranks, 1, BETA) == pytest.approx(moved)
    assert adding(collective, algorithm, ranks, 1) == pytest.approx(added)


def test_the_ring_sends_no_more_than_it_must():
    for ranks in (2, 3, 7, 64):
        assert seconds("all-reduce", "ring", ranks, 1e6, BETA) == pytest.approx(wire.bound_bytes(ranks, 1e6))


def test_short_vectors_take_the_fewest_messages_and_long_ones_the_fewest_bytes():
    link = Channel.of(1e10, 1e-5)
    order = ("ring", "recursive-doubling", "halving-doubling", "tree")
    short = min(order, key=lambda name: seconds("all-reduce", name, 64, 8, link))
    assert short == "recursive-doubling"
    assert seconds("all-reduce", "ring", 63, 1e9, link) == min(seconds("all-reduce", n, 63, 1e9, link) for n in order)


def test_of_several_regimes_the_fastest_counts():
    two = Channel((Line(1e-6, 1e-8), Line(1e-4, 1e-10)))
    for size in (1e2, 1e7):
        each = [seconds("all-gather", "ring", 4, size, Channel((line,))) for line in two.lines]
        assert seconds("all-gather", "ring", 4, size, two) == min(each)


def test_hierarchical_is_its_three_parts():
    intra, inter = Channel.of(1e11, 1e-6), Channel.of(1e10, 5e-6)
    found = over("all-reduce", "hierarchical", 32, 1e8, Fabric(8, intra, inter))
    inside = 2 * (7 * 1e-6 + 7 / 8 * 1e8 / 1e11)
    assert found == pytest.approx(inside + 2 * (3 * 5e-6 + 3 / 4 * 1e8 / 1e10))
    assert over("all-reduce", "hierarchical", 8, 1e8, Fabric(8, intra, inter)) == pytest.approx(inside)


def test_a_flat_ring_over_nodes_is_as_slow_as_its_slowest_link():
    intra, inter = Channel.of(1e11, 1e-6), Channel.of(1e10, 5e-6)
    assert over("all-gather", "ring", 16, 1e8, Fabric(8, intra, inter)) == seconds("all-gather", "ring", 16, 1e8, inter)


def test_the_fastest_is_no_slower_than_either():
    box = fabric(hardware.machine("a100-80g"))
    for ranks, size in itertools.product((8, 64, 1024), (1e3, 1e6, 1e9)):
        ways = [over("all-reduce", name, ranks, size, box) for name in ("hierarchical", "double-tree")]
        assert fastest("all-reduce", ranks, size, box) == min(ways)


def test_a_machine_reaches_its_nominal_bandwidth_with_long_vectors():
    box = fabric(hardware.machine("a100-80g"), share=0.79, network_share=0.5)
    busbw = 2 * 7 / 8 * 16e9 / over("all-reduce", "ring", 8, 16e9, box)
    assert busbw == pytest.approx(0.79 * 300e9, rel=0.01)
    crossed = 16e9 / (over("all-gather", "hierarchical", 16, 16e9, box) - over("all-gather", "ring", 8, 16e9, box)) / 2
    assert crossed == pytest.approx(0.5 * 8 * 25e9, rel=0.01)


def test_one_rank_and_no_bytes_take_no_time():
    for collective in COLLECTIVES:
        assert seconds(collective, "ring", 1, 1e6, ALPHA) == 0 == seconds(collective, "ring", 4, 0, ALPHA)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: seconds("all-reduce", "ring", 0, 1, ALPHA), "at least 1"),
        (lambda: seconds("all-reduce", "ring", 4, -1, ALPHA), "0 or more"),
        (lambda: seconds("all-reduce", "ring", 4, math.nan, ALPHA), "finite"),
        (lambda: seconds("all-to-all", "ring", 4, 1, ALPHA), "no collective"),
        (lambda: seconds("all-gather", "double-tree", 4, 1, ALPHA), "there are: ring"),
        (lambda: Channel.of(-1.0, 1e-6), "bandwidth is -1"),
        (lambda: Line(-1e-6, 1e-9), "alpha is -1e-06"),
        (lambda: Line(0, 0), "takes no time"),
        (lambda: Fabric(8, ALPHA, ALPHA).nodes(12), "type 8 or 16"),
        (lambda: Fabric(0, ALPHA, ALPHA), "a node has 0 ranks"),
    ],
)
def test_what_can_not_be_is_told(wrong, said):
    with pytest.raises(ConfigError, match=said):
        wrong()


# --- fitted


def measured(link: Channel, collective: str = "all-reduce", noise: float = 0.0) -> list[Point]:
    draw = np.random.default_rng(0)
    sizes = [float(2**k) for k in range(10, 30, 2)]
    return [
        Point(collective, "ring", 8, size, seconds(collective, "ring", 8, size, link) * math.exp(noise * draw.normal()))
        for size in sizes
    ]


def test_alpha_and_beta_are_recovered():
    found = channel_fit.fit(measured(Channel((Line(7e-6, 3e-11),))))
    assert found.channel.lines[0].alpha == pytest.approx(7e-6)
    assert found.channel.lines[0].beta == pytest.approx(3e-11)
    assert found.worst < 1e-9


def test_gamma_is_recovered_where_something_adds_and_something_does_not():
    link = Channel((Line(7e-6, 3e-11, 2e-11),))
    both = channel_fit.fit(measured(link, "reduce-scatter") + measured(link, "all-gather"))
    assert both.channel.lines[0].gamma == pytest.approx(2e-11)
    alone = channel_fit.fit(measured(link, "reduce-scatter")).channel.lines[0]
    assert alone.gamma == 0
    assert alone.beta == pytest.approx(5e-11)


def test_standard_errors_grow_with_the_noise_and_hold_the_truth():
    quiet, loud = (channel_fit.fit(measured(Channel((Line(7e-6, 3e-11),)), noise=noise)) for noise in (0.01, 0.1))
    assert loud.errors[0].beta > 3 * quiet.errors[0].beta
    for found in (quiet, loud):
        assert abs(found.channel.lines[0].beta - 3e-11) < 4 * found.errors[0].beta
        assert abs(found.channel.lines[0].alpha - 7e-6) < 4 * found.errors[0].alpha


def test_two_regimes_fit_what_one_line_can_not():
    points = measured(Channel((Line(2e-6, 1e-9), Line(5e-5, 1e-11))))
    one, two = channel_fit.fit(points, 1), channel_fit.fit(points, 2)
    assert one.worst > 0.2
    assert two.worst < 1e-6


def test_too_few_points_are_told():
    with pytest.raises(ConfigError, match="need at least 6"):
        channel_fit.fit(measured(Channel((Line(7e-6, 3e-11),)))[:5], 2)

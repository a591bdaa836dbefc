"""The replay of a step against a simulation of single events, against the closed form where that is exact, and what it adds to it."""

import heapq

import numpy as np
import pytest

from bench.config import ConfigError
from bench.plan.simulation import circle, schedules
from bench.plan.simulation import command as simulate_command
from bench.plan.simulation.replay import Step, gathers, replay
from bench.plan.simulation.topology import Topology

DRAW = np.random.default_rng(1)


def flat(ranks: int, **settings: object) -> Topology:
    return Topology(**{"ranks": ranks, "per_node": ranks, "inside": 1e9, "rail": 1e9, **settings})


def noded(ranks: int, **settings: object) -> Topology:
    return Topology(**{"ranks": ranks, "per_node": 4, "inside": 1e10, "rail": 1e9, "rails": 2, **settings})


def events(t: Topology, start: np.ndarray, size: float) -> np.ndarray:
    """A ring all-reduce, message by message, on a heap: a rank sends when its link is free and what it sends is there."""
    ranks = np.arange(t.ranks)
    cost = [t.costs(ranks, (ranks + 1) % t.ranks, size / t.ranks, adding) for adding in (True, False)]
    steps = 2 * (t.ranks - 1)
    here = [[float("inf")] * (steps + 1) for _ in ranks]  # when what step s sends is at rank r
    free, sent, queue = list(map(float, start)), [0] * t.ranks, []
    for rank in ranks:
        here[rank][0] = float(start[rank])
        heapq.heappush(queue, (here[rank][0], int(rank)))
    while queue:
        now, rank = heapq.heappop(queue)
        step = sent[rank]
        if step == steps or here[rank][step] > now or free[rank] > now:
            continue
        done = now + float(cost[step >= t.ranks - 1][rank])
        free[rank], sent[rank] = done, step + 1
        right = (rank + 1) % t.ranks
        here[right][step + 1] = max(done, float(start[right]))
        heapq.heappush(queue, (done, rank))
        heapq.heappush(queue, (here[right][step + 1], int(right)))
    return np.array([max(free[r], here[r][steps]) for r in ranks])


@pytest.mark.parametrize(("kind", "ranks"), [(flat, 2), (flat, 3), (flat, 8), (noded, 8), (noded, 12)])
@pytest.mark.parametrize("slow", [{}, {1: 5.0}])
def test_a_ring_is_what_its_single_messages_are(kind, ranks, slow):
    t, start = kind(ranks, slow_links=slow, gamma=1e-10), DRAW.exponential(1e-3, ranks)
    assert schedules.ring_all_reduce(t, start, 1e6) == pytest.approx(events(t, start, 1e6), rel=1e-12)


@pytest.mark.parametrize("kinds", [1, 2, 7, 60])
@pytest.mark.parametrize(("ranks", "steps"), [(2, 100), (64, 63), (200, 60), (97, 96), (60, 200)])
def test_paths_around_a_circle_are_its_steps(ranks, steps, kinds):
    """Random starts, links of as many kinds: the longest path is what taking every step gives."""
    start, costs = DRAW.exponential(1e-3, (3, ranks)), DRAW.choice(DRAW.exponential(1e-4, kinds), (3, ranks))
    assert circle.circle(start, costs, steps, fresh=False) == pytest.approx(
        circle.taken(start, costs, steps), rel=1e-11
    )


def test_one_late_rank_is_late_for_everybody_behind_it():
    start = np.zeros(200)
    start[50] = 1.0
    done = circle.circle(start, np.full(200, 1e-3), 100, fresh=False)
    late = done > 0.5
    assert late[50:151].all()
    assert late.sum() == 101


@pytest.mark.parametrize("algorithm", ["ring", "tree", "hierarchical"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 31, 64])
def test_equal_links_are_the_closed_form(algorithm, ranks):
    found = replay(Step(compute_s=0.01, buckets=[1e6, 3e6, 2e6]), flat(ranks, gamma=1e-11), algorithm)
    assert found.step_s == pytest.approx(found.closed_s, rel=1e-12)


def test_nodes_are_the_closed_form_of_the_hierarchical_all_reduce():
    found = replay(Step(compute_s=0.01, buckets=[1e6] * 5), noded(64), "hierarchical")
    assert found.step_s == pytest.approx(found.closed_s, rel=1e-12)
    assert found.exposed_s > 0


@pytest.mark.parametrize("compute", [0.0, 1e-3, 1.0])
def test_gathers_are_their_closed_form(compute):
    found = gathers(Step(compute_s=compute, buckets=[1e6, 2e6, 3e6, 1e6]), flat(16))
    assert found.step_s == pytest.approx(found.closed_s, rel=1e-9)


def test_gathers_hide_behind_long_layers_and_add_up_behind_none():
    t, layers = flat(16), [1e6] * 6
    one = schedules.ring_all_gather(t, np.zeros(16), 1e6).max()
    assert gathers(Step(compute_s=0.0, buckets=layers), t).step_s == pytest.approx(18 * one)
    hidden = gathers(Step(compute_s=10.0, buckets=layers), t)
    assert hidden.exposed_s == pytest.approx(2 * one, rel=1e-6)  # the first gather and the last reduce-scatter


@pytest.mark.parametrize("algorithm", ["ring", "tree", "hierarchical"])
def test_everybody_waits_for_a_straggler(algorithm):
    step, t = Step(compute_s=0.1, buckets=[1e5] * 4), noded(32)
    late = replay(step, noded(32, stragglers={7: 1.5}), algorithm)
    assert late.step_s == pytest.approx(replay(step, t, algorithm).step_s + 0.05, rel=0.01)
    assert late.ends.min() > 0.149


def test_a_straggler_costs_nothing_where_the_exchange_is_longer():
    step = Step(compute_s=0.01, buckets=[1e8] * 4)
    even, late = (replay(step, flat(8, stragglers=who), "ring") for who in ({}, {3: 1.5}))
    assert late.step_s < even.step_s + 0.005 * 1.01
    assert late.exposed_s < even.exposed_s


def test_one_slow_link_slows_the_whole_ring_by_its_own_factor():
    step = Step(compute_s=0.0, buckets=[1e8])
    even, slow = (replay(step, flat(64, slow_links=which), "ring").step_s for which in ({}, {9: 4.0}))
    assert 3.5 < slow / even < 4.1


def test_uplinks_that_are_too_few_show_where_a_rack_is_left():
    step = Step(compute_s=0.0, buckets=[1e8])
    few = {"nodes_per_rack": 2, "oversubscription": 4.0}
    for algorithm, least in (("tree", 1.5), ("ring", 1.5)):
        even, crowded = (replay(step, noded(64, **with_), algorithm).step_s for with_ in ({}, few))
        assert crowded / even > least, algorithm
    one_rack = {"nodes_per_rack": 16, "oversubscription": 4.0}
    assert replay(step, noded(64, **one_rack), "tree").step_s == replay(step, noded(64), "tree").step_s


def test_messages_that_share_rails_share_their_bandwidth():
    t = noded(8)
    ranks = np.arange(4)
    alone = t.costs(np.array([0]), np.array([4]), 1e9, adding=False)[0]
    together = t.costs(ranks, ranks + 4, 1e9, adding=False)
    assert together == pytest.approx(4 * alone, rel=1e-4)


def test_jitter_is_drawn_from_its_seed_and_lengthens_the_step():
    t = flat(64)
    one, same, other = (
        replay(Step(compute_s=0.1, buckets=[1e5] * 4, jitter=0.05, seed=seed), t, "ring").step_s for seed in (1, 1, 2)
    )
    assert one == same != other
    assert 1.05 < one / replay(Step(compute_s=0.1, buckets=[1e5] * 4), t, "ring").step_s < 1.3


def test_messages_are_counted():
    for algorithm, t, count in (("ring", flat(8), 112), ("tree", flat(8), 14), ("hierarchical", noded(8), 64)):
        assert replay(Step(compute_s=0.0, buckets=[1e6] * 3), t, algorithm).messages == 3 * count


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: flat(0), "at least 1"),
        (lambda: noded(6), "6 ranks don.t fill"),
        (lambda: flat(4, inside=-1.0), "above 0"),
        (lambda: flat(4, oversubscription=0.5), "oversubscription is 0.5"),
        (lambda: flat(4, stragglers={4: 2.0}), "ranks are 0 to 3"),
        (lambda: flat(4, slow_links={0: 0.5}), "factors 1 or more"),
        (lambda: Step(compute_s=-1.0, buckets=[1.0]), "0 or more"),
        (lambda: Step(compute_s=1.0, buckets=[]), "at least one bucket"),
        (lambda: replay(Step(compute_s=1.0, buckets=[1.0]), flat(4), "star"), "there are: ring"),
        (lambda: simulate_command.main(["--share", "0"]), "--share is 0"),
        (lambda: simulate_command.main(["--ranks", "12"]), "give a multiple"),
    ],
)
def test_what_can_not_be_is_told(wrong, said):
    with pytest.raises(ConfigError, match=said):
        wrong()


def test_the_command_shows_what_a_straggler_costs(capsys):
    assert simulate_command.main(["--ranks", "64", "--straggler", "1.5", "--algorithm", "zero-3"]) == 0
    said = capsys.readouterr().out
    assert "messages replayed" in said
    assert "of the time by which rank 0 is late" in said
    assert all(word in said for word in ("closed form", "healthy", "as asked"))


def test_a_slow_link_is_not_charged_to_the_straggler(capsys):
    """Late by 30 ms of 300, on a link that costs the step far more than that: less than all of it can show."""
    for words in ([], ["--slow-link", "100"], ["--jitter", "0.05"], ["--oversubscription", "8"]):
        assert simulate_command.main(["--ranks", "64", "--straggler", "1.1", "--algorithm", "ring", *words]) == 0
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("of the time"))
        assert 0 <= int(line.split("late, ")[1].split("%")[0]) <= 100


def test_the_command_says_over_how_many_links_a_node_speaks(capsys):
    steps = []
    for words in (["--network", "10gbe"], ["--network", "10gbe", "--nics", "8"]):
        assert simulate_command.main(["--ranks", "16", *words]) == 0
        said = capsys.readouterr().out
        assert f"{words[-1] if len(words) > 2 else 1} x 10gbe a node" in " ".join(said.split())
        steps.append(float(next(line for line in said.splitlines() if "as asked" in line).split("│")[2]))
    assert steps[0] > 2 * steps[1]

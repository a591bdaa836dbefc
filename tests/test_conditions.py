"""What was measured under other conditions is never pooled, and never compared unasked."""

from typing import Any

import pytest

from bench import changes, diff
from bench.report import table
from bench.report.rows import groups
from tests import made

SINGLE = made.record("single")


def laboratory(link: str, rate: float | None) -> dict[str, Any]:
    return {"lab": {"hosts": 2, "link": link, "rate_bits": rate}}


def ring(repeat: int = 0, **more: Any) -> dict[str, Any]:
    return made.record("ring", 2, repeat=repeat) | more


def config(path: str, value: Any) -> dict[str, Any]:
    """A run of the ring with one setting changed that no label tells."""
    return made.changed(ring(1), f"config/{path}", value)


OTHERS = {
    "link": (ring(1, **laboratory("100mbit", 1e8)), "link: 100mbit"),
    "hosts": (made.changed(ring(1), "world/hosts", ["a", "b"]), "hosts: 2"),
    "bucket": (config("engine/bucket_mb", 1.0), "buckets of 1 MiB"),
    "transport": (config("engine/transport", "torch"), "ring's transport: torch"),
    "binding": (config("measure/bind", False), "ranks bound to cores: False"),
    "checkpoints": (config("checkpoints/checkpoint_every", 5), "a checkpoint every 5 steps"),
    "cut": (config("training/accumulation", 1), "micro-batches of 4"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_runs_under_another_condition_are_a_table_of_their_own(name: str) -> None:
    other, words = OTHERS[name]
    found = groups([SINGLE, ring(), other])
    assert len(found) == 2
    assert [len(row.files) for group in found for row in group.rows if row.label == "ring"] == [1, 1]
    assert any(words in table.title(group) for group in found)
    beside = [row.vs_single for group in found for row in group.rows if row.label == "ring"]
    assert sum(each is None for each in beside) == (name == "cut"), (
        "beside the plain process, that of the same micro-batch"
    )


def test_links_are_in_the_order_of_their_rates_and_what_is_not_told_apart_is_not_told() -> None:
    links = [("none", None), ("10gbit", 1e10), ("100mbit", 1e8), ("1gbit", 1e9)]
    found = groups([ring(at, **laboratory(*link)) for at, link in enumerate(links)])
    assert [group.under[0] for group in found] == [("link", link) for link in ("100mbit", "1gbit", "10gbit", "none")]
    (alone,) = groups([SINGLE, ring(0, **laboratory("1gbit", 1e9)), ring(1, **laboratory("1gbit", 1e9))])
    assert alone.under == ()
    assert "link" not in table.title(alone)


def test_a_run_that_went_on_is_not_pooled_with_a_whole_one() -> None:
    whole, rest = ring(), ring(1)
    rest |= {"resumed": {"step": 6}, "ranks": [rank | {"step_s": rank["step_s"][6:]} for rank in rest["ranks"]]}
    first, second = groups([SINGLE, whole, rest])
    assert [len(row.files) for row in (*first.rows, *second.rows)] == [1, 1, 1]
    assert "begun after step 6" in table.title(second)
    assert "begun at the first step" in table.title(first)
    single = made.record("single", repeat=1)
    single |= {"resumed": {"step": 6}, "ranks": [rank | {"step_s": rank["step_s"][6:]} for rank in single["ranks"]]}
    assert [row.vs_single for group in groups([SINGLE, single, whole]) for row in group.rows if row.label == "ring"]


def test_a_run_that_ended_before_it_knew_is_in_the_first_table() -> None:
    lost = made.changed(made.failed("ring"), "world/hosts", None)
    links = [ring(0, **laboratory("100mbit", 1e8)), ring(1, **laboratory("1gbit", 1e9))]
    first, second = groups([SINGLE, *links, lost])
    assert [len(row.failures) for group in (first, second) for row in group.rows if row.label == "ring"] == [1, 0]


def test_diff_compares_equal_conditions_alone_unless_forced() -> None:
    slow, fast = ([ring(at, **laboratory(*link)) for at in range(3)] for link in (("100mbit", 1e8), ("1gbit", 1e9)))
    old, new = (diff.rows(side, "OLD", by_machine=True) for side in (slow, fast))
    found = changes.compare(old, new, threshold=0)
    assert found.rows == []
    assert "link: 100mbit" in found.only_old[0].beside(found.only_new)
    assert "buckets" not in found.only_old[0].beside(found.only_new), "what both have in common is not told"
    old, new = (diff.rows(side, "OLD", by_machine=True, by_condition=False) for side in (slow, fast))
    assert len(changes.compare(old, new, threshold=0).rows) == 1

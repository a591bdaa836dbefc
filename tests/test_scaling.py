"""Scaling in numbers, strong and weak; micro-batches are tables of their own."""

from pathlib import Path
from typing import Any

from bench.report import page, scaling, table
from bench.report.rows import groups
from tests import made


def run(
    label: str, ranks: int, seconds: float, *, batch: int, accumulation: int = 1, over: bool = False
) -> dict[str, Any]:
    """A record whose every step takes `seconds`."""
    record = made.record(label, ranks, training={"global_batch": batch, "accumulation": accumulation})
    record["run_id"] += f"_{batch}_{accumulation}"
    for rank in record["ranks"]:
        rank["step_s"] = [seconds] * len(rank["step_s"])
    record["world"]["oversubscribed"] = over
    return record


WEAK = [
    run("single", 1, 0.4, batch=4), run("ddp", 1, 0.5, batch=4),
    run("single", 1, 0.8, batch=8, accumulation=2), run("ddp", 2, 0.625, batch=8),
    run("single", 1, 1.6, batch=16, accumulation=4), run("ddp", 4, 1.0, batch=16, over=True),
]  # fmt: skip


def test_weak_scaling_is_told_across_experiments() -> None:
    (told,) = scaling.told(groups(WEAK))
    assert told.title.startswith("weak scaling: 4 samples a rank; tiny on textures")
    assert told.lines == [
        ["ddp", "1", "4", "8.00", "-", "80% [80%, 80%]"],
        ["ddp", "2", "8", "12.8", "80% [80%, 80%]", "64% [64%, 64%]"],
        ["ddp", "4*", "16", "16.0", "-", "-"],
    ]


def test_strong_scaling_is_told_within_one() -> None:
    records = [run("single", 1, 0.8, batch=8), run("ring", 1, 1.0, batch=8), run("ring", 2, 0.625, batch=8)]
    (told,) = scaling.told(groups(records))
    assert told.title.startswith("strong scaling: 8 samples in all; tiny on textures")
    assert [line[2:] for line in told.lines] == [
        ["8", "8.00", "-", "80% [80%, 80%]"],
        ["8", "12.8", "80% [80%, 80%]", "64% [64%, 64%]"],
    ]
    assert "80%" in scaling.markdown(groups(records))


def test_nothing_is_told_where_nothing_scales() -> None:
    made_groups = groups([run("single", 1, 0.8, batch=8), run("ddp", 2, 0.5, batch=8)])
    assert scaling.told(made_groups) == []
    assert scaling.terminal(made_groups) is None
    assert scaling.markdown(made_groups) == ""


def test_the_page_shows_weak_scaling_below_its_experiments(tmp_path: Path) -> None:
    text = page.write(groups(WEAK), WEAK, tmp_path / "page.html").read_text()
    assert "How the engines scale" in text
    assert "Weak scaling efficiency against one rank of the same engine" in text
    assert "64% [64%, 64%]" in text
    assert "1 oversubscribed row left out" in text


def test_each_micro_batch_is_a_table_with_its_own_plain_process() -> None:
    records = [
        run("single", 1, 0.8, batch=8, accumulation=8), run("ddp", 2, 0.4, batch=8, accumulation=4),
        run("single", 1, 0.4, batch=8, accumulation=2), run("ddp", 2, 0.4, batch=8, accumulation=1),
    ]  # fmt: skip
    small, large = groups(records)
    assert (small.under, large.under) == ((("micro_batch", 1),), (("micro_batch", 4),))
    assert "cpu, micro-batches of 4" in table.title(large)
    assert [(row.label, row.vs_single) for row in small.rows] == [("single", 1.0), ("ddp", 2.0)]
    assert [(row.label, row.vs_single) for row in large.rows] == [("single", 1.0), ("ddp", 1.0)]
    statuses = [table.status(row) for group in (small, large) for row in group.rows]
    assert sorted(statuses) == ["reference", "verified", "verified", "verified"], "one reference proves both cuts"
    (whole,) = groups(records[:2])
    assert whole.under == ()

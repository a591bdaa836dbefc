"""Collectives of every library: what is asked, what is exchanged, what a row means, and real pools with mistakes in them."""

import io
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import psutil
import pytest
import torch
from rich.console import Console

from backends.ring.transport import QueueTransport
from bench import processes
from bench.collectives import catalog, command, figure, kept, nccl, own, pattern, summary, table
from bench.collectives.catalog import LIBRARIES, OPERATIONS, Library
from bench.collectives.hall import Hall
from bench.collectives.measure import Cell, measure
from bench.collectives.plan import Plan, size, sizes
from bench.collectives.pool import Pool, PoolFailed
from bench.config import ConfigError

MICRO = 1000  # nanoseconds


def plan(*names: str, ranks: int = 2, **more: Any) -> Plan:
    asked = {
        "sizes": (8, 4096),
        "operations": ("all_reduce",),
        "repeats": 3,
        "turn_s": 0.001,
        "limit_s": 20.0,
        "seed": 1,
    }
    return Plan(ranks=ranks, libraries=catalog.choose(names), **(asked | more))


# --- what is asked


def test_sizes_run_from_the_smallest_to_the_largest():
    assert [size(text, "-") for text in ("8", "4K", "256M", "1GiB", "64 kb".replace(" ", ""))] == [
        8, 4096, 2**28, 2**30, 65536,
    ]  # fmt: skip
    assert sizes(8, 2**12, 8) == [8, 64, 512, 4096]
    assert sizes(8, 1000, 8) == [8, 64, 512, 1000]
    assert sizes(8, 8, 2) == [8]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ranks", "1"], "2 to 16"),
        (["--ranks", "17"], "2 to 16"),
        (["--min-bytes", "2"], "no fp32 value"),
        (["--max-bytes", "4"], "below --min-bytes"),
        (["--max-bytes", "many"], "is no size"),
        (["--max-bytes", "8000G"], "give a smaller --max-bytes"),
        (["--factor", "1"], "give 2 or more"),
        (["--repeats", "0"], "give 1 or more"),
        (["--turn-s", "0"], "seconds above 0"),
        (["--libraries", "rign"], "there are: ring, ring-mpi"),
        (["--record", "pyproject.toml"], "cannot read"),
    ],
)
def test_what_can_not_be_measured_is_refused_before_anything_starts(arguments, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        command.main([*arguments, "--results", str(tmp_path / "results")])
    assert not (tmp_path / "results").exists()


def test_parts_are_equal_and_never_empty():
    asked = plan("mpi", ranks=3)
    assert [asked.values(name, 8) for name in OPERATIONS] == [2, 3, 3, 2]
    assert [asked.values(name, 4096) for name in OPERATIONS] == [1024, 1023, 1023, 1024]


# --- what is exchanged


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("length", [12, 3 * 65_521, 400_008])
def test_the_right_result_has_no_wrong_value_and_every_other_has(operation, length):
    ranks = 4
    length -= length % ranks
    each = length // ranks
    inputs = torch.empty(ranks, length)
    for rank in range(ranks):
        pattern.fill(inputs[rank], pattern.tile(rank))
    sums = inputs.double().sum(dim=0).float()
    for rank in range(ranks):
        own = slice(rank * each, (rank + 1) * each)
        right = {
            "all_reduce": sums,
            "reduce_scatter": sums,
            "all_gather": torch.cat([inputs[r, r * each : (r + 1) * each] for r in range(ranks)]),
            "broadcast": inputs[0],
        }[operation]

        def count(result: torch.Tensor, rank: int = rank) -> int:
            parts = pattern.expected(operation, length, rank, ranks)
            return sum(pattern.wrong(result[cut], values, cut.start) for cut, values in parts)

        assert count(right) == 0
        changed = right.clone()
        changed[own.stop - 1] += 1
        assert count(changed) == 1
        changed[own.start] = torch.nan
        assert count(changed) == 2
        assert count(right.roll(1)) > 0.9 * (each if operation == "reduce_scatter" else length) - 1
        assert count(inputs[rank]) > 0 or (operation, rank) == ("broadcast", 0)


def test_sums_of_16_ranks_are_exact_in_fp32():
    assert 16 * pattern.HIGHEST < 2**24
    assert pattern.total(16).double().equal(sum(pattern.tile(rank).double() for rank in range(16)))


# --- what a row means


def raw(library: str, operation: str, length: int, micros: Any, *, wrong: int = 0, reason: str | None = None) -> dict:
    """`micros`: of rounds, ranks, iterations."""
    rounds = [{"place": 0, "ns": (np.array(turn) * MICRO).astype(int).tolist()} for turn in micros]
    return {
        "operation": operation,
        "library": library,
        "bytes": length,
        "wrong": None if reason else wrong,
        "iterations": None if reason else len(micros[0][0]),
        "rounds": None if reason else rounds,
        "rounds_reason": reason,
    }


def made(rows: list[dict], *, ranks: int = 2, copy_ms: float = 10.0) -> dict:
    """A record; every process copies 64 MiB in `copy_ms`, with torch in twice that."""
    content = kept.opening(plan(*LIBRARIES, ranks=ranks, operations=OPERATIONS), 2)
    ns = int(copy_ms * 1e6)
    content["copy"]["turns"] = [[{"memmove": [ns] * 5, "torch": [2 * ns] * 5}] * ranks] * 2
    return content | {"rows": rows, "status": "done"}


STEADY = [[[100.0] * 4, [80.0] * 4]] * 3


@pytest.mark.parametrize(
    ("operation", "factor", "ceiling"),
    [("all_reduce", 1.5, 1.5), ("reduce_scatter", 0.75, 1.2), ("all_gather", 0.75, 1.5), ("broadcast", 1, 2)],
)
def test_bandwidths_are_those_of_the_nccl_tests(operation, factor, ceiling):
    row = summary.rows(made([raw("mpi", operation, 10**6, [[[100.0, 90], [80, 110]]] * 3)], ranks=4))[0]
    assert row.time.median == pytest.approx(105e-6)  # of 100 and 110: the slowest rank of each iteration
    assert row.algbw.median == pytest.approx(10**6 / 105e-6)
    assert row.busbw.median == pytest.approx(factor * row.algbw.median)
    assert row.busbw.low < row.busbw.median < row.busbw.high
    assert summary.factor(operation, 4) == factor
    assert summary.ceiling(operation, 4, 1.0) == pytest.approx(ceiling)


def test_the_ceiling_of_two_ranks_is_what_a_process_copies_with_the_faster_way():
    way, speed = summary.copied(made([]))
    assert way == "memmove"
    assert speed.median == pytest.approx(64 * 2**20 / 10e-3)
    assert summary.ceiling("all_reduce", 2, speed.median) == speed.median
    assert summary.copied(made([]) | {"copy": {"turns": [None], "bytes": 1}}) is None


def test_the_ceiling_of_host_memory_does_not_stand_over_a_gpus_library_alone():
    for libraries, lines in ((["nccl"], 0), (["nccl", "gloo"], 1)):
        record = made([raw(name, "all_reduce", 4096, STEADY) for name in libraries])
        said = table.markdown(record)
        assert said.count("ceiling of all-reduce") == said.count("of libraries in host memory") == lines
        with plt.rc_context(figure.style.STYLE):
            (axes, *_) = figure.busbw(record).axes
        assert len(axes.texts) == lines
        assert len(axes.lines) == len(libraries) + lines
    plt.close("all")


def test_percentiles_are_over_iterations_of_all_rounds():
    micros = [[list(range(1, 51))] * 2, [list(range(51, 101))] * 2]
    row = summary.rows(made([raw("mpi", "all_reduce", 8, micros)]))[0]
    assert row.percentiles == pytest.approx(np.percentile(np.arange(1, 101), (50, 90, 99)) * 1e-6)
    assert row.iterations == 100


def test_of_fewer_than_a_hundred_iterations_the_longest_is_shown_and_called_so():
    few, enough = (
        raw("mpi", "all_reduce", 8, [[[*range(1, 100)]] * 2]),
        raw("gloo", "all_reduce", 8, [[[*range(1, 101)]] * 2]),
    )
    record = made([few, enough])
    short, long = summary.rows(record)
    assert short.percentiles[2] is None
    assert short.longest == pytest.approx(99e-6)
    assert summary.tail(long) == (pytest.approx(99.01e-6), False)
    text = table.markdown(record)
    assert "| 8 | mpi | 50.0 |" in text
    assert "| 89.2 | max 99.0 |" in text
    assert "| 90.1 | 99.0 |" in text
    assert "of fewer than 100 iterations the longest, marked max" in text
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table.show(record, console.width))
    assert "max 99.0" in console.export_text()


def test_a_wrong_result_has_no_speed():
    rows = [raw("mpi", "all_reduce", 4096, STEADY), raw("gloo", "all_reduce", 4096, STEADY, wrong=3),
            raw("nccl", "all_reduce", 4096, STEADY, reason="no GPU here")]  # fmt: skip
    record = made(rows)
    good, bad, missing = summary.rows(record)
    assert good.busbw is not None
    assert (bad.busbw, bad.time, bad.wrong) == (None, None, 3)
    assert "3 values were wrong" in bad.reason
    assert (missing.busbw, missing.wrong, missing.reason) == (None, None, "no GPU here")
    text = table.markdown(record)
    assert "| 4,096 | mpi | 100 |" in text
    assert "| gloo |" not in text
    assert "gloo: void: 3 values were wrong (all-reduce)" in text
    assert "nccl: no GPU here (all-reduce)" in text
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table.show(record, console.width))
    shown = console.export_text()
    assert "void" in shown
    assert "! gloo: void" in shown
    assert "ceiling of all-reduce: busbw 6.7 GB/s" in shown
    lines = nccl.show(record)
    assert "# Out of bounds values : 3 FAILED" in lines
    assert "# not measured: no GPU here" in lines


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_shows_every_number_whole(width):
    """What doesn't fit beside stands below: ten sizes, with intervals as wide as they come."""
    sizes = [4096 * 4**power for power in range(10)]
    spread = [[[100.0 + 900_000 * step] * 4] * 2 for step in range(3)]
    record = made([raw("horovod-gloo", "all_reduce", size, spread) for size in sizes])
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table.show(record, console.width))
    shown = console.export_text()
    assert "…" not in shown
    heads = [line.split()[1:] for line in shown.splitlines() if line.startswith("library")]
    twice = [summary.size_name(size) for size in sizes] * 2  # of times, then of bandwidths
    assert [name for head in heads for name in head] == twice
    assert (len(heads) == 2) is (width == 200)


def test_the_columns_are_those_of_the_nccl_tests():
    """The formats are those of nccl-tests 2.19.6, src/util.cu, in C's own notation."""
    names = "# %10s  %12s  %8s  %6s  %6s  %7s  %6s  %6s  %6s  %7s  %6s  %6s  %6s %*s"
    assert nccl.header() == [
        "# %10s  %12s  %8s  %6s  %6s           out-of-place                       in-place          " % (("",) * 5),  # noqa: UP031
        names % ("size", "count", "type", "redop", "root", *("time", "algbw", "busbw", "#wrong") * 2, 0, ""),
        names % ("(B)", "(elements)", "", "", "", *("(us)", "(GB/s)", "(GB/s)", "") * 2, 0, ""),
    ]
    row = nccl.show(made([raw("mpi", "broadcast", 2**28, [[[10240.0] * 3] * 2] * 3)])).splitlines()
    half = "  %7s  %6s  %6s  %6g" % ("10240.0", " 26.21", " 26.21", 0)  # noqa: UP031
    start = "%12i  %12i  %8s  %6s  %6s" % (2**28, 2**26, "float", "none", "%6i" % 0)  # noqa: UP031
    assert any(line.startswith(start) and line.endswith(half) for line in row)
    rows = [raw("mpi", name, 4096, STEADY) for name in OPERATIONS] + [raw("ring", "all_gather", 4096, STEADY)]
    lines = [line.split() for line in nccl.show(made(rows)).splitlines() if line and not line.startswith("#")]
    speed, whole = ["100.00", "0.04"], ["N/A"] * 4
    assert lines == [
        ["4096", "1024", "float", "sum", "-1", *whole, *speed, "0.04", "0"],
        ["4096", "512", "float", "sum", "-1", *speed, "0.02", "0", *whole],
        ["4096", "512", "float", "none", "-1", *speed, "0.02", "0", *whole],
        ["4096", "512", "float", "none", "-1", *whole, *speed, "0.02", "0"],
        ["4096", "1024", "float", "none", "0", *whole, *speed, "0.04", "0"],
    ]
    assert [nccl.number(value, 7) for value in (1.234, 12345.67, 1234567.8, 123456789.0)] == [
        "   1.23", "12345.7", "1234568", "1.2e+08",
    ]  # fmt: skip
    assert [nccl.number(value, 6) for value in (1.234, 1234.56, 12345678.0)] == ["  1.23", "1234.6", " 1e+07"]


def test_ratios_are_of_pairs():
    slow = [[[200.0 + each] * 3] * 2 for each in range(5)]
    fast = [[[100.0 + each / 2] * 3] * 2 for each in range(5)]
    found = summary.ratio(raw("mpi", "all_reduce", 8, slow), raw("ring", "all_reduce", 8, fast))
    assert (found.low, found.median, found.high) == pytest.approx((2, 2, 2))


def test_a_record_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "a.json"
    for content, said in [
        ({"schema": 1}, "is no record"),
        ({"kind": "collectives", "schema": 2}, "this version reads 1"),
    ]:
        path.write_text(json.dumps(content))
        with pytest.raises(ConfigError, match=said):
            kept.read(path)


def test_the_figures_show_every_library_and_the_ceiling(tmp_path):
    rng = np.random.default_rng(0)
    rows = [raw(name, operation, 8**power, rng.uniform(50, 60, (3, 2, 4)) * 2**power)
            for operation in OPERATIONS for name in LIBRARIES for power in range(1, 10)]  # fmt: skip
    record = made(rows)
    assert set(figure.LOOKS) == set(LIBRARIES)
    assert len(set(figure.LOOKS.values())) == len(LIBRARIES)
    with plt.rc_context(figure.style.STYLE):
        drawn = figure.busbw(record)
    assert [axes.get_title(loc="left").split(",")[0] for axes in drawn.axes] == list(table.TITLES.values())
    copied = summary.copied(record)[1].median
    for axes, operation in zip(drawn.axes, OPERATIONS, strict=True):
        (level,) = [line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1]
        assert level == pytest.approx(summary.ceiling(operation, 2, copied) / 1e9)
        assert len(axes.lines) == 1 + len(LIBRARIES)
    plt.close("all")
    assert sorted(path.name for path in figure.write(record, tmp_path / "x", ["svg"])) == [
        "x-busbw.svg",
        "x-latency.svg",
    ]


# --- turns


class Fake:
    """A pool whose libraries take as many microseconds as `speeds` says, or fail: `dies` when it is their turn."""

    def __init__(self, name: str, wanted: list[str], log: list[Any], *, dies: str = "", lacks: str = "") -> None:
        self.name, self.log, self.dies, self.lacks = name, log, dies, lacks
        self.hellos, self.threads = [{"pid": 1}, {"pid": 2}], [1, 1]
        log.append(("open", name, wanted))

    def ask(self, do: str, **what: Any) -> list[dict[str, Any]]:
        if do == "have":
            reason = "not here" if what["library"] == self.lacks else None
            return [{"reason": None, "settings": {}}, {"reason": reason, "settings": {}}]
        if do == "copy":
            return [{"memmove": [1000], "torch": [2000]}] * 2
        self.log.append((what["library"], what["iterations"], what["checks"]))
        if what["library"] == self.dies:
            raise PoolFailed("rank 1 died")
        took = 10**6 if what["library"].startswith("horovod") else 10**5
        return [{"ns": [took] * what["iterations"], "wrong": 0, "checked": what["checks"]}] * 2

    def close(self) -> None:
        self.log.append(("close", self.name))


def faked(asked: Plan, monkeypatch: pytest.MonkeyPatch, **how: str) -> tuple[Hall, list[Any]]:
    log: list[Any] = []
    monkeypatch.setattr(catalog, "unavailable", lambda pool: None)
    return Hall(asked, lambda name, wanted: Fake(name, wanted, log, **how), lambda text: None), log  # type: ignore[arg-type]


def test_every_round_has_a_turn_for_each_in_an_order_of_its_own(monkeypatch):
    asked = plan("ring", "mpi", "gloo", "horovod-gloo", "deepspeed-shm", repeats=6, turn_s=0.005, sizes=(4096,))
    taken = []
    for _ in range(2):
        hall, log = faked(asked, monkeypatch)
        with hall:
            measure(asked, hall, lambda rows, copies: None, lambda text: None)
        turns = [each for each in log if each[0] in LIBRARIES]
        rounds = [turns[at : at + 5] for at in range(0, len(turns), 5)]
        assert len(rounds) == 7
        assert all(len({name for name, _, _ in each}) == 5 for each in rounds)
        assert len({tuple(name for name, _, _ in each) for each in rounds}) > 2
        assert [each[0][2] for each in rounds] == [1, 0, 0, 0, 0, 0, 2]
        assert {each for each in rounds[3] if each[0].startswith(("horovod", "ring"))} == {
            ("horovod-gloo", 5, 0),
            ("ring", 50, 0),
        }
        taken.append(turns)
    assert taken[0] == taken[1]  # by the seed


def test_a_library_that_takes_its_pool_down_is_recorded_and_the_others_go_on(monkeypatch):
    asked = plan("ring", "mpi", "ring-naive", "gloo", sizes=(4096,))
    hall, log = faked(asked, monkeypatch, dies="ring-naive", lacks="gloo")
    with hall:
        cell = Cell(asked, hall, "all_reduce", 1024, random.Random(0))
        cell.begin()
        cell.round()
        rows = {row["library"]: row for row in cell.rows()}
    assert [each for each in log if each[0] in ("open", "close")] == [
        ("open", "mpi", ["ring", "ring-naive", "mpi"]),
        ("open", "torch", ["gloo"]),
        ("close", "mpi"),
        ("open", "mpi", ["ring", "mpi"]),
        ("close", "torch"),
        ("close", "mpi"),
    ]
    assert rows["ring-naive"]["rounds"] is None
    assert rows["ring-naive"]["rounds_reason"] == "all_reduce of 4096 bytes: rank 1 died"
    assert rows["gloo"]["rounds_reason"] == "not here"
    assert len(rows["ring"]["rounds"]) == len(rows["mpi"]["rounds"]) == 1


def test_what_is_missing_says_what_to_type(monkeypatch):
    asked = plan("mpi", "horovod-gloo")
    monkeypatch.setattr(catalog, "find_spec", lambda name: None if name == "horovod" else object())
    monkeypatch.setattr(catalog.launchers, "executable", lambda name: None if name == "mpirun" else name)
    with Hall(asked, lambda name, wanted: pytest.fail("it must not start"), lambda text: None) as hall:
        rows = Cell(asked, hall, "all_reduce", 2, random.Random(0)).rows()
    assert [row["rounds_reason"] for row in rows] == [
        "mpirun is not installed; type: pip install -c constraints.txt -e '.[mpi]'",
        "horovod is not installed; type: python -m backends.build",
    ]


@pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
def test_what_a_library_lacks_is_a_row_with_a_reason(library: Library, monkeypatch):
    asked = plan(library.name, operations=OPERATIONS, sizes=(8,))
    hall, _ = faked(asked, monkeypatch)
    rows: list[dict] = []
    with hall:
        measure(asked, hall, lambda found, copies: rows.extend(found), lambda text: None)
    last = rows[-len(OPERATIONS) :]
    assert [row["operation"] for row in last] == list(OPERATIONS)
    assert {row["operation"]: row["rounds_reason"] for row in last if row["rounds"] is None} == dict(library.lacks)


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize(
    ("operation", "schedule"),
    [("all_reduce", ""), ("reduce_scatter", ""), ("all_gather", ""), *(("all_reduce", name) for name in own.SCHEDULES)],
)
def test_the_rings_messages_leave_every_result_where_it_is_looked_for(operation: str, schedule: str, ranks: int):
    """Ranks are threads, over queues; in the rest it is the library that a pool has."""
    length = 24_000

    def work(links: QueueTransport) -> int:
        ring = object.__new__(own.MessageRing)
        ring.links, ring.schedule, ring.rank, ring.size = links, schedule, links.rank, ranks
        ring.scratch = own.scratch(length, ranks, schedule)
        whole, part = torch.zeros(length), torch.zeros(length // ranks)
        pattern.fill(whole, pattern.tile(links.rank))
        run, result = ring.call(operation, whole, part)
        run()
        parts = pattern.expected(operation, length, links.rank, ranks)
        scattered = operation == "reduce_scatter"
        assert result is not None
        assert len(result) == (length // ranks if scattered else length)
        return sum(pattern.wrong(result if scattered else result[cut], values, cut.start) for cut, values in parts)

    with ThreadPoolExecutor(ranks) as pool:
        assert list(pool.map(work, QueueTransport.links(ranks))) == [0] * ranks


# --- real pools


def record(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob(f"*{kept.SUFFIX}")
    return kept.read(path)


def test_two_libraries_at_two_sizes(tmp_path, capsys):
    words = ["--max-bytes", "4K", "--factor", "512", "--repeats", "2", "--results", str(tmp_path), "--seed", "5"]
    words += ["--turn-s", "0.001", "--operations", "all_reduce", "broadcast"]
    assert command.main([*words, "--libraries", "ring-mpi", "gloo", "--format", "nccl"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line and not line.startswith("#")]
    assert [line[0] for line in lines] == ["8", "4096"] * 3  # the ring hands on its broadcast
    found = record(tmp_path)
    assert (found["status"], found["plan"]["seed"], found["world"]["ranks"]) == ("done", 5, 2)
    measured = [row for row in found["rows"] if row["rounds"]]
    assert len(measured) == 6
    assert all(row["wrong"] == 0 for row in measured)
    assert all(np.array(turn["ns"]).shape == (2, row["iterations"]) for row in measured for turn in row["rounds"])
    assert all(turn for turn in found["copy"]["turns"])
    for pool in ("mpi", "torch"):
        seen = found["pools"][pool]
        assert seen["threads"] == [1, 1]
        assert [rank["rank"] for rank in seen["ranks"]] == [0, 1]
        assert not any(psutil.pid_exists(rank["pid"]) for rank in seen["ranks"])
    assert command.main(["--record", str(next(tmp_path.glob("*.json")))]) == 0
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".md", ".png", ".svg"}


def test_planted_mistakes_are_found_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(catalog, "RANK", "tests.planted_rank")
    monkeypatch.setenv("PLANT", "mpi:wrong,ring-naive:die,ring-halving:raise")
    words = [
        "--max-bytes",
        "8",
        "--repeats",
        "1",
        "--results",
        str(tmp_path),
        "--operations",
        "all_reduce",
        "--limit-s",
        "2",
    ]
    names = ["ring-mpi", "mpi", "ring-naive", "ring-halving"]
    assert command.main([*words, "--libraries", *names]) == 1
    found = record(tmp_path)
    rows = {row.library: row for row in summary.rows(found)}
    assert rows["ring-mpi"].reason is None
    assert rows["ring-mpi"].wrong == 0
    assert rows["mpi"].wrong == 3  # one value on one rank, in three checks
    assert rows["mpi"].busbw is None
    assert "rank 1 died" in rows["ring-naive"].reason
    assert "rank 1: RuntimeError: planted" in rows["ring-halving"].reason
    assert not any(psutil.pid_exists(rank["pid"]) for rank in found["pools"]["mpi"]["ranks"])


def test_a_pool_that_waits_stands_still_and_leaves_nothing():
    pool = Pool("torch", catalog.command("torch", 2), 2, values=1024, libraries=["gloo"], limit_s=20)
    try:
        assert [answer["reason"] for answer in pool.ask("have", library="gloo")] == [None, None]
        ranks = [psutil.Process(hello["pid"]) for hello in pool.hellos]
        until = time.monotonic() + 10
        while {rank.status() for rank in ranks} != {psutil.STATUS_STOPPED}:  # the kernel does it in its own time
            assert time.monotonic() < until
            time.sleep(0.01)
        assert all(len(hello["cores"]) <= hello["host_cores"] for hello in pool.hellos)
        answers = pool.ask("turn", library="gloo", operation="broadcast", values=1024, iterations=3, checks=2)
        assert [(len(each["ns"]), each["wrong"], each["checked"]) for each in answers] == [(3, 0, 2)] * 2
        pool.limit_s = 0
        with pytest.raises(PoolFailed, match="no answer from rank 0, 1 within 0 s"):
            pool.ask("turn", library="gloo", operation="broadcast", values=1024, iterations=3, checks=2)
    finally:
        mark, folder = pool.mark, pool.folder
        pool.close()
    assert not processes.family(mark)
    assert not folder.exists()


def test_a_pool_that_does_not_start_says_what_it_said(tmp_path):
    script = tmp_path / "refuses.py"
    script.write_text("raise SystemExit('no such thing')")
    what = catalog.command("torch", 2)
    what.argv[:] = [what.argv[0], "--nproc-per-node", "2", str(script)]
    with pytest.raises(PoolFailed, match=r"launcher ended with status 1; the end of its log: .*"):
        Pool("torch", what, 2, values=8, libraries=["gloo"], limit_s=5)

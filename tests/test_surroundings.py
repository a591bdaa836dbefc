"""Warnings of what makes numbers wrong: compared over ranks and hosts, seen in builds, counted on the cores."""

import sys
import time

import pytest
import torch

from bench import surroundings
from bench.cores import Cores
from bench.measure import load
from bench.measure.load import Load
from bench.report import table
from bench.report.rows import groups
from bench.surroundings import builds, seen, unoptimised, warnings
from tests import made


def rank(host: str = "one", cores: tuple[int, ...] = (0,), **changed) -> dict:
    same = {"kernel": "6.1", "python": "3.11.7", "cpu": "Made-up", "governor": None, "threads": 1, "builds": []}
    return {**same, "host": host, "cores": list(cores), "packages": {"torch": "2.13.0"}, "machine": [], **changed}


def test_equal_ranks_on_cores_of_their_own_are_in_order():
    assert warnings([rank(), rank(cores=(1,)), rank("two"), rank("two", (1,))]) == []


@pytest.mark.parametrize(
    ("ranks", "says"),
    [
        ([rank(), rank(cores=(0, 1))], "ranks 0 and 1 share cores"),
        ([rank(cores=(0, 1), threads=3)], "rank 0 has 3 threads on 2 cores"),
        ([rank(), rank("two", kernel="6.9")], "differ in kernel: 6.1 on one; 6.9 on two"),
        ([rank(), rank("two", packages={"torch": "2.12.0"})], "differ in torch: 2.13.0 on one; 2.12.0 on two"),
        ([rank(), rank("two", packages={})], "differ in torch: 2.13.0 on one; none on two"),
        ([rank(), rank("two", python="3.12.1")], "differ in python"),
        ([rank(), rank("two", machine=["little memory"])], "two: little memory"),
        ([rank(builds=["torch is slow"]), rank(cores=(1,), builds=["torch is slow"])], "torch is slow"),
    ],
)
def test_what_makes_numbers_wrong_is_said_once(ranks, says):
    (found,) = warnings(ranks)
    assert says in found


def test_cores_of_two_hosts_are_not_shared():
    assert warnings([rank("one"), rank("two")]) == []


def test_this_process_tells_of_itself():
    told = seen(Cores((0,), (0,), 1, True, False), 1, first=False)
    assert told["packages"]["torch"].startswith("2.")
    assert told["machine"] == []
    assert warnings([told]) == told["builds"]


@pytest.mark.parametrize(
    ("name", "value"), [("CUDA_LAUNCH_BLOCKING", "1"), ("TORCH_DISTRIBUTED_DEBUG", "detail"), ("PYTHONDEVMODE", "1")]
)
def test_variables_that_cost_time_are_named(name, value, monkeypatch):
    monkeypatch.delenv(name, raising=False)
    assert not [line for line in builds(loaded=True) if name in line]
    monkeypatch.setenv(name, value)
    assert [line for line in builds(loaded=True) if name in line]


def test_debug_builds_are_named(monkeypatch):
    monkeypatch.setattr(torch.version, "debug", True)
    monkeypatch.setattr(surroundings.sysconfig, "get_config_var", lambda name: 1)
    said = "; ".join(builds(loaded=True))
    assert "torch is a debug build" in said
    assert "Python is a debug build" in said


def test_a_profiler_is_named():
    sys.setprofile(lambda *_: None)
    try:
        said = builds(loaded=True)
    finally:
        sys.setprofile(None)
    assert any("profiler" in line for line in said)


@pytest.mark.parametrize(
    ("note", "says"),
    [
        (b"GNU C++17 12.2.0 -g -O3 -fPIC", None),
        (b"GNU C++17 12.2.0 -g -O2", None),
        (b"GNU C++17 12.2.0 -g -O0 -fPIC", "-O0"),
        (b"GNU C++17 12.2.0 -O2 -g -Og", "-Og"),
        (b"GNU C++17 12.2.0 -g -fPIC", "no -O at all"),
        (b"stripped", None),
    ],
)
def test_a_library_without_optimisation_is_named(note, says, tmp_path):
    library = tmp_path / "lib.so"
    library.write_bytes(b"\x7fELF\0other\0" + note + b"\0more")
    found = unoptimised(library)
    assert bool(found) == bool(says)
    assert says is None or says in found[0]


def busy(host: str, core: int, own: float, total: float, *, stolen: float = 0.0, wall: float = 10.0) -> dict:
    return {"host": host, "cores": [core], "load": {"wall": wall, "own": own, "busy": total, "stolen": stolen}}


def test_work_of_others_on_the_ranks_cores_is_told():
    assert load.warnings([busy("a", 0, 9.0, 9.5), busy("a", 1, 9.0, 9.9)]) == []
    (said,) = load.warnings([busy("a", 0, 5.0, 10.0), busy("a", 1, 9.0, 9.0)])
    assert said == "other processes took 25% of the ranks' cores while they were timed"
    (said,) = load.warnings([busy("a", 0, 5.0, 5.0), busy("b", 0, 5.0, 5.0, stolen=1.0)])
    assert said == "the hypervisor withheld 10% of the ranks' cores on b while they were timed"


def test_ranks_on_one_core_are_not_each_others_others():
    assert load.warnings([busy("a", 0, 5.0, 10.0), busy("a", 0, 5.0, 10.0)]) == []


def test_too_short_a_window_says_nothing():
    assert load.warnings([busy("a", 0, 0.1, 0.4, wall=0.4)]) == []


def test_own_work_is_seen_by_both_clocks():
    with Load() as found:
        until = time.process_time() + 0.5
        while time.process_time() < until:
            pass
    assert found.seconds["own"] == pytest.approx(0.5, abs=0.05)
    assert found.seconds["busy"] >= 0.4
    assert found.seconds["wall"] >= 0.49


def test_warnings_stand_at_the_tables_foot_with_their_rows():
    one, two = made.record("single"), made.record("ddp", 2)
    one["warnings"] = ["clocks follow the load"]
    two["warnings"] = ["clocks follow the load", "other processes took 25% of it"]
    (group,) = groups([one, two, two | {"run_id": "later", "warnings": ["other processes took 40% of it"]}])
    assert table.caption(group)[-2:] == [
        "warning: clocks follow the load (every row).",
        "warning: other processes took 40% of it (ddp x2, at most).",
    ]

"""The peak by kinds: blocks whose size is known must turn up where they belong, and the kinds must add up to the peak."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.measure import makeup

MB = 2**20
LOOKS = """
import json, mmap, torch
from bench.measure.makeup import AtPeak
from bench.measure.memory import PeakMemory, give_back_freed, Activations

MB, CPU = 2**20, torch.device("cpu")
give_back_freed()
peak, moment = PeakMemory(CPU), AtPeak(CPU)
named = torch.ones(40 * MB // 4)
moment.begin(lambda: {"parameters": named.nbytes, "gradients": 6 * MB}, shared=6 * MB)
work = torch.ones(30 * MB // 4)
pieces = [torch.ones(4096) for _ in range(2000)]  # 31 MB from the heap
last = torch.ones(4096)
del pieces[::2]  # holes: freed, still resident
python = [object() for _ in range(16 * MB // 16)]
room = mmap.mmap(-1, 10 * MB)
for _ in range(10):
    room.write(b"x" * MB)
moment.look()
found = [peak.take(), moment.parts()]
late = AtPeak(CPU)
block = torch.ones(200 * MB // 4)
late.begin(lambda: {"activations": 200 * MB})
del block  # freed by the thread that computes, before the other one looks
late.look(aside=True)
print(json.dumps([*found, late.parts()]))
"""


@pytest.fixture(scope="module")
def looked():
    """In a young process: see test_measure.py."""
    asked = [sys.executable, "-c", LOOKS]
    ended = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=Path(makeup.__file__).parents[2])
    return json.loads(ended.stdout)


@pytest.mark.parametrize(
    ("kind", "size"),
    [
        ("parameters", 40),
        ("workspace", 30 + 15.6 + 8),
        ("allocator", 15.6),
        ("runtime", 16),
        ("gradients", 6),
        ("mapped", 4),
    ],
)
def test_a_block_turns_up_where_it_belongs(looked, kind, size):
    """Workspace: the block, the pieces left, the list's 8 MB; runtime: objects of 16 bytes; mapped: shared memory, but for
    the 6 MB of gradients in it."""
    assert looked[1][kind] / MB == pytest.approx(size, abs=4)


def test_the_kinds_add_up_to_the_kernels_peak(looked):
    peak, parts, _ = looked
    assert sum(parts.values()) == pytest.approx(peak, rel=0.05)


def test_a_look_after_what_is_named_was_freed_is_none(looked):
    assert looked[2] is None


def test_what_was_not_looked_at_is_not_made_up():
    assert makeup.AtPeak(torch.device("cpu")).parts() is None
    gpu = makeup.AtPeak(torch.device("cuda"))
    gpu.look()
    assert gpu.parts() is None


def test_without_glibc_there_is_no_makeup(monkeypatch):
    def refuse(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(makeup.ctypes, "CDLL", refuse)
    assert makeup.makeup() is None


def test_a_large_block_where_an_arena_could_begin_is_none():
    """The kernel aligns large mappings, so one may begin there; an arena has the rest of its 64 MiB reserved behind it."""
    at, size = 5 * makeup.ARENA, 3 * MB

    def kind(end: int, then: tuple[int, int], rights: bytes = b"---p") -> str:
        following = makeup._Mapping(*then, rights, b"", 0)
        return makeup._kind(makeup._Mapping(at, end, b"rw-p", b"", size), following)

    assert kind(at + size, (at + size, at + makeup.ARENA)) == "heap"
    assert kind(at + size, (at + size, at + makeup.ARENA), b"rw-p") == "anonymous"
    assert kind(at + size, (at + size, at + 80 * MB)) == "anonymous"
    assert kind(at + 300 * MB, (at + 400 * MB, at + 500 * MB)) == "anonymous"
    assert kind(at + makeup.ARENA, (at + 400 * MB, at + 500 * MB)) == "heap"


def test_mappings_listed_twice_are_no_reading():
    parts = {"heap": 50 * MB, "anonymous": 30 * MB, "mapped": 10 * MB, "libraries": 10 * MB}
    whole = makeup.Makeup(**parts, heap_used=0, large_used=0)
    assert whole.whole(100 * MB)
    assert not whole.whole(90 * MB)

"""Instruments, each held against something whose size is known."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench.measure import clock, energy, memory
from bench.measure.clock import Clock
from bench.measure.energy import Energy
from bench.measure.memory import Activations, PeakMemory, bytes_held, device_memory, give_back_freed

CPU = torch.device("cpu")
MB = 2**20


# --- time


class Hands:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def hands(monkeypatch) -> Hands:
    made = Hands()
    monkeypatch.setattr(clock, "time", made)
    return made


def test_a_step_lasts_from_its_beginning_to_its_end(hands):
    made = Clock(CPU)

    def fetch(lasts: float, step: int, micro: int) -> dict[str, torch.Tensor]:
        hands.now += lasts
        return {}

    for batch, work in ((0.5, 2.0), (0.25, 1.0)):
        made.begin_step()
        for micro in range(2):
            made.data(partial(fetch, batch), 0, micro)
            hands.now += work
        made.end_step()
        hands.now += 50  # between steps: nobody's
    made.finish()
    assert made.step_s == [5.0, 2.5]
    assert made.data_s == [1.0, 0.5]


def test_a_step_that_fails_is_no_measurement(hands):
    made = Clock(CPU)
    made.begin_step()
    hands.now += 1
    made.begin_step()
    hands.now += 2
    made.end_step()
    assert (made.step_s, made.data_s) == ([2.0], [0.0])


# --- memory


LOOKS = """
import json, torch
from bench.measure.memory import PeakMemory, give_back_freed

MB, CPU = 2**20, torch.device("cpu")
block = torch.ones(100 * MB // 4)
del block  # gone before: must not be seen
give_back_freed()
peak = PeakMemory(CPU)
looks = [peak.take()]
block = torch.ones(64 * MB // 4)
del block
give_back_freed()
looks += [peak.take(), peak.take()]
held = torch.ones(64 * MB // 4)
peak.take()
looks.append(peak.take())
print(json.dumps(looks))
"""


def test_the_peak_is_what_was_held_at_once_since_the_last_look():
    """In a young process: an old one's heap has holes that serve a block, and the kernel takes back pages that lie idle."""
    asked = [sys.executable, "-c", LOOKS]
    ended = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=Path(memory.__file__).parents[2])
    before, block, after, held = json.loads(ended.stdout)
    assert abs(before) < 16 * MB
    assert 56 * MB < block < 80 * MB
    assert abs(after) < 16 * MB, "a look begins anew"
    assert 56 * MB < held < 80 * MB, "what is still held counts"


def test_pages_shared_with_others_are_left_out(monkeypatch):
    levels = iter([{"Rss": 500, "Pss": 300}, {"Rss": 700, "Pss": 400}])
    pages = iter([20, 30])
    monkeypatch.setattr(memory, "smaps", lambda: next(levels))
    monkeypatch.setattr(memory, "libraries", lambda: next(pages))
    monkeypatch.setattr(memory, "resident_peak", lambda: 900)
    assert PeakMemory(CPU).take() == (900 - (700 - 400) - 30) - (300 - 20)


TOUCHES = """
import json, mmap, sys
import torch
from bench.measure.makeup import AtPeak
from bench.measure.memory import PeakMemory

found = []
for name in sys.argv[1:]:
    peak, moment = PeakMemory(torch.device("cpu")), AtPeak(torch.device("cpu"))
    with open(name, "rb") as file:
        pages = mmap.mmap(file.fileno(), 64 * 2**20, prot=mmap.PROT_READ)
    sum(pages[:: mmap.PAGESIZE])
    moment.look()
    found.append([peak.take(), moment.parts()["mapped"]])
print(json.dumps(found))
"""


def test_pages_of_a_library_are_left_out_and_those_of_a_file_count(tmp_path):
    """How much of a library is resident is the page cache's doing; of a mapped file, the reader's."""
    library, file = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so", tmp_path / "file"
    file.write_bytes(bytes(64 * MB))
    asked = [sys.executable, "-c", TOUCHES, str(library), str(file)]
    ended = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=Path(memory.__file__).parents[2])
    (code, code_mapped), (pages, mapped) = json.loads(ended.stdout)
    assert abs(code) < 8 * MB
    assert abs(code_mapped) < 8 * MB
    assert 56 * MB < pages < 72 * MB
    assert 56 * MB < mapped < 72 * MB


def test_the_kernels_own_numbers_are_read():
    found = memory.smaps()
    assert found["Rss"] >= found["Pss"] > MB
    assert memory.resident_peak() > MB


def test_freed_memory_is_given_back():
    """Small blocks stay in the allocator's arenas until they are trimmed."""
    blocks = [torch.ones(4096) for _ in range(4000)]  # 62 MB in pieces of 16 kB
    last = torch.ones(4096)  # above them all: without trimming, the heap can't shrink
    blocks.clear()
    before = memory.smaps()["Rss"]
    give_back_freed()
    assert memory.smaps()["Rss"] < before - 32 * MB
    del last


def test_a_cpu_has_no_device_memory():
    assert device_memory(CPU) == {}


def test_activations_of_a_small_graph_are_counted_exactly():
    layers = nn.Sequential(nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 2))
    batch = torch.randn(8, 16)
    with Activations() as kept:
        loss = (layers(batch) ** 2).sum()
    loss.backward()
    # the batch, tanh's result (kept by tanh and by the next layer), the output that is squared; no weights
    assert kept.peak_bytes == 4 * (8 * 16 + 8 * 4 + 8 * 2)


def test_activations_are_those_of_the_largest_micro_batch():
    layer = nn.Linear(16, 4)
    batches = [torch.randn(rows, 16) for rows in (8, 32, 2)]
    with Activations() as kept:
        for batch in batches:
            kept.next_micro_batch()
            layer(batch).sum().backward()
    assert kept.peak_bytes == 4 * 32 * 16


def test_a_storage_is_kept_once_however_many_views_are():
    batch = torch.randn(8, 16)
    layers = [nn.Linear(8, 2), nn.Linear(8, 2)]
    with Activations() as kept:
        for layer, half in zip(layers, batch.chunk(2, dim=1), strict=True):
            layer(half)
    assert kept.peak_bytes == 4 * 8 * 16
    outside = kept.peak_bytes
    layers[0](torch.randn(100, 8))
    assert kept.peak_bytes == outside, "nothing is counted outside"


def test_shared_storages_are_held_once_by_the_first_that_names_them():
    flat = torch.zeros(100)
    held = bytes_held(
        {
            "gradients": [flat[:50].view(5, 10), flat[50:]],
            "buffers": [flat, torch.zeros(3, dtype=torch.float64), torch.empty(0), torch.empty(0)],
            "optimizer": [],
        }
    )
    assert held == {"gradients": 400, "buffers": 24, "optimizer": 0}


# --- energy


@pytest.fixture
def rapl(tmp_path, monkeypatch):
    """Two packages, a domain inside the first, which is part of its count, and the board, which both are part of."""
    monkeypatch.setattr(energy, "RAPL", tmp_path)

    def write(first: int, second: int) -> None:
        for zone, kind, value in (
            ("intel-rapl:0", "package-0", first),
            ("intel-rapl:1", "package-1", second),
            ("intel-rapl:2", "psys", 3 * (first + second)),
            ("intel-rapl:0:0", "core", 7 * first),
        ):
            (tmp_path / zone).mkdir(exist_ok=True)
            for name, text in (("name", kind), ("energy_uj", value), ("max_energy_range_uj", 262_143_328_850)):
                (tmp_path / zone / name).write_text(f"{text}\n")

    return write


def test_energy_is_the_sum_over_packages(rapl):
    rapl(1_000_000, 2_000_000)
    with Energy() as spent:
        rapl(4_000_000, 2_500_000)
    assert (spent.joules, spent.reason) == (3.5, None)


def test_a_counter_that_wrapped_around_is_no_measurement(rapl):
    rapl(9_000_000, 2_000_000)
    with Energy() as spent:
        rapl(1_000_000, 60_000_000)
    assert spent.joules is None
    assert "wrapped around" in str(spent.reason)


@pytest.mark.parametrize(("lasted_s", "known"), [(436.0, True), (437.0, False)])
def test_a_counter_that_may_have_gone_round_unseen_is_no_measurement(rapl, monkeypatch, lasted_s, known):
    """262 kJ at 600 W: after that a counter may stand above where it stood, a whole round later."""
    now = iter([10.0, 10.0 + lasted_s])
    monkeypatch.setattr(energy, "time", SimpleNamespace(monotonic=lambda: next(now)))
    rapl(1_000_000, 2_000_000)
    with Energy() as spent:
        rapl(4_000_000, 2_500_000)
    assert spent.joules == (3.5 if known else None)
    assert known or "lasted 437 s; at 600 W" in str(spent.reason)


def test_without_a_counter_there_is_a_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    with Energy() as spent:
        pass
    assert spent.joules is None
    assert "no RAPL counter" in str(spent.reason)


def test_a_counter_that_only_root_reads_is_a_reason(rapl, monkeypatch):
    rapl(1, 1)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(energy.Path, "read_text", refuse)
    with Energy() as spent:
        pass
    assert spent.joules is None
    assert "Permission denied" in str(spent.reason)


def test_an_error_inside_the_window_is_not_hidden(rapl):
    rapl(1, 1)

    def fail() -> None:
        with Energy():
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()


def test_gpus_are_asked_each_for_its_joules(monkeypatch):
    asked: list[str] = []
    readings = iter([5_000, 1_000, 8_000, 1_500])  # millijoules: two GPUs, before and after
    fake = SimpleNamespace(
        NVMLError=type("NVMLError", (Exception,), {}),
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlDeviceGetHandleByUUID=asked.append,
        nvmlDeviceGetTotalEnergyConsumption=lambda handle: next(readings),
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    monkeypatch.setattr(
        energy.torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=("6d3f", "0a51")[index])
    )
    with Energy(energy.gpu_names(2)) as spent:
        pass
    assert spent.joules == 3.5
    assert asked == ["GPU-6d3f", "GPU-0a51"] * 2


def test_gpus_that_can_not_be_asked_are_a_reason(monkeypatch):
    class NVMLError(Exception):
        pass

    def refuse() -> None:
        raise NVMLError("Driver Not Loaded")

    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(NVMLError=NVMLError, nvmlInit=refuse))
    with Energy(["GPU-6d3f"]) as spent:
        pass
    assert spent.joules is None
    assert spent.reason == "NVML has no energy counter: Driver Not Loaded"


def test_a_counter_that_goes_away_inside_the_window_is_a_reason(rapl, tmp_path):
    rapl(1, 1)
    with Energy() as spent:
        for name in ("intel-rapl:0", "intel-rapl:1"):
            (tmp_path / name / "energy_uj").unlink()
    assert spent.joules is None
    assert "no RAPL counter" in str(spent.reason)

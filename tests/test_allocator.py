"""What two looks at a GPU's allocator say of the time between them."""

from types import SimpleNamespace

import pytest
import torch

from bench.measure.allocator import Allocator, pressure


@pytest.mark.parametrize(
    ("retries", "reserved", "thrashing"), [(3, 500, False), (4, 500, True), (3, 900, False), (3, 901, True)]
)
def test_retries_and_a_full_device_are_thrashing(retries, reserved, thrashing):
    after = {"num_alloc_retries": retries, "reserved_bytes.all.peak": reserved, "allocated_bytes.all.peak": 400}
    found = pressure({"num_alloc_retries": 3}, after, 1000)
    assert found == {
        "retries": retries - 3,
        "reserved_bytes": reserved,
        "allocated_bytes": 400,
        "reserved_share": reserved / 1000,
        "thrashing": thrashing,
    }


def test_pressure_in_any_window_is_told(monkeypatch):
    """The first of three retries twice and fills the GPU; a made-up torch.cuda, since a CPU has no such allocator."""
    looks = iter([(0, 0, 0), (2, 950, 800), (2, 0, 0), (2, 500, 400), (2, 0, 0), (3, 600, 850)])

    def stats(device: torch.device) -> dict[str, int]:
        names = ("num_alloc_retries", "reserved_bytes.all.peak", "allocated_bytes.all.peak")
        return dict(zip(names, next(looks), strict=True))

    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_stats", stats)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=1000))
    allocator = Allocator(torch.device("cuda", 0))
    for _ in range(3):
        with allocator:
            pass
    assert allocator.fields == {
        "cuda_allocator": {
            "retries": 3,
            "reserved_bytes": 950,
            "allocated_bytes": 850,
            "reserved_share": 0.95,
            "thrashing": True,
        }
    }


def test_a_cpu_has_none():
    with Allocator(torch.device("cpu")) as allocator:
        pass
    assert allocator.fields["cuda_allocator"] is None
    assert "CPU" in allocator.fields["cuda_allocator_reason"]

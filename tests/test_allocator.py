"""What two looks at a GPU's allocator say of the time between them."""

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


def test_a_cpu_has_none():
    with Allocator(torch.device("cpu")) as allocator:
        pass
    assert allocator.fields["cuda_allocator"] is None
    assert "CPU" in allocator.fields["cuda_allocator_reason"]

"""Bytes that an engine must hold: by hand, and against the paper. Against real engines: parity/test_held.py."""

import pytest

from bench.memory_model import Shapes, derived, paper, reason

STATES = ("parameters", "gradients", "optimizer")
MODEL = Shapes(trained=((5, 3), (4,)), frozen=((7, 2),))  # 19 and 14 values


def test_each_stage_shards_one_more():
    """By hand, N = 2: 19 trained values pad to 20; rank 0's ten touch the first tensor alone, rank 1's touch both."""
    ask = {"optimizer": "adamw", "ranks": 2}
    assert derived("ddp", MODEL, rank=0, **ask) == {"parameters": 132, "gradients": 76, "optimizer": 152 + 8}
    for stage in ("zero-1", "zero-2"):
        assert derived(stage, MODEL, rank=0, **ask) == {"parameters": 136, "gradients": 60, "optimizer": 120 + 4}
        assert derived(stage, MODEL, rank=1, **ask) == {"parameters": 136, "gradients": 80, "optimizer": 120 + 4}
    assert derived("zero-3", MODEL, rank=1, **ask) == {"parameters": 68, "gradients": 40, "optimizer": 120 + 4}
    assert derived("fsdp", MODEL, rank=0, **ask) == {"parameters": 76, "gradients": 44, "optimizer": 88 + 8}
    assert derived("fsdp", MODEL, rank=1, **ask) == {"parameters": 76, "gradients": 44, "optimizer": 64 + 8}


def test_a_part_that_is_padding_alone_is_counted():
    tiny = Shapes(trained=((3,),), frozen=())
    found = derived("zero-2", tiny, optimizer="sgd", rank=3, ranks=4)
    assert found == {"parameters": 32, "gradients": 8, "optimizer": 8}


def test_the_papers_figures():
    """Section 5 with 4 bytes a value: states 4 Psi + 4 Psi + 8 Psi, then K Psi / N, (2 + K) Psi / N, all / N."""
    model, ask = Shapes(trained=((1000,),), frozen=()), {"optimizer": "adamw", "ranks": 4}
    sums = {
        label: sum(paper(label, model, **ask).values()) for label in ("ddp", "zero-0", "zero-1", "zero-2", "zero-3")
    }
    assert sums == {"ddp": 16000, "zero-0": 16000, "zero-1": 10000, "zero-2": 7000, "zero-3": 4000}
    assert paper("fsdp", model, **ask) == paper("zero-3", model, **ask)
    assert paper("zero-1", model, optimizer="sgd", ranks=4)["optimizer"] == 0


def test_large_models_approach_the_paper():
    """Rounding vanishes, the master copy does not."""
    model = Shapes(trained=tuple([(1024, 1024)] * 64), frozen=())
    ask = {"optimizer": "adamw", "ranks": 8}
    for label in ("zero-2", "zero-3", "fsdp"):
        ours, theirs = derived(label, model, rank=0, **ask), paper(label, model, **ask)
        assert ours is not None
        extra = 0 if label == "fsdp" else theirs["optimizer"] / 2  # one fp32 copy beside two moments
        for name in STATES:
            assert ours[name] == pytest.approx(theirs[name] + (extra if name == "optimizer" else 0), rel=1e-3)


def test_offloading_is_not_derived_and_says_so():
    assert derived("zero-2-offload", MODEL, optimizer="sgd", rank=0, ranks=2) is None
    assert "not derived" in reason("zero-2-offload")
    assert "fp32 copy" in reason("zero-1")

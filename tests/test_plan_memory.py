"""The closed form of a rank's memory: by hand, against the ZeRO paper, against a built model, and what must rise or fall."""

import dataclasses
import math
from collections import Counter

import pytest

import model
from bench.config import ConfigError
from bench.memory_model import Shapes, Widths, derived, values
from bench.plan.memory.closed_form import CATEGORIES, predict
from bench.plan.memory.fit import first_that_fits
from bench.plan.memory.network import anomaly
from bench.plan.memory.recipe import recipe
from bench.plan.memory.transformer import Transformer
from bench.plan.setup import ENGINES, OFFLOADED, Setup
from bench.plan.validation.conventions import zero_states
from model.shapes import flat, frozen, trained
from tests.published import REDUCED
from tests.test_cost import ODD, TINY

GPT = Transformer(hidden=1024, layers=8, heads=16, sequence=512, vocabulary=50_304)
MIXED = recipe("mixed_fp16")


def setup(engine: str = "ddp", ranks: int = 8, **settings: object) -> Setup:
    return Setup(engine=engine, ranks=ranks, **{"recipe": "mixed_fp16", **settings})


# --- shapes


@pytest.mark.parametrize(
    "config",
    [TINY, ODD, REDUCED, dataclasses.replace(TINY, llm_layer_norm=True, llm_batch_norm=True, llm_dropout=0.1)],
    ids=["tiny", "odd", "imagebind", "variant"],
)
def test_shapes_equal_the_built_model(config):
    """Trained ones in its order: a flat buffer's cut depends on it."""
    built = Shapes.of(model.build(config))
    assert built.trained == flat(trained(config))
    assert Counter(built.frozen) == Counter(flat(frozen(config)))


def test_the_published_preset_has_the_published_counts():
    network = anomaly("7b")
    assert sum(math.prod(shape) for shape in network.shapes.trained) == sum(network.cost.trainable.values())
    assert sum(math.prod(shape) for shape in network.shapes.frozen) == sum(network.cost.frozen.values())
    blocks = sum(
        part.values * part.count for part in (*trained(network.config), *frozen(network.config)) if part.in_blocks
    )
    assert values(network.root) + blocks == values((*network.shapes.trained, *network.shapes.frozen))


def test_a_transformer_has_the_parameters_of_megatrons_equation():
    """Narayanan et al. 2021, eq. 2; its tables hold V + s rows, and 2h of the last norm are left out there."""
    h, layers, s, v = 1024, 8, 512, 50_304
    equation = 12 * layers * h**2 * (1 + 13 / (12 * h) + (v + s) / (12 * layers * h))
    assert GPT.parameters == round(equation) + 2 * h
    assert GPT.parameters == sum(math.prod(shape) for shape in GPT.shapes.trained)


# --- states


@pytest.mark.parametrize(("engine", "stage"), [("ddp", 0), ("zero-0", 0), ("zero-3", 3)])
def test_states_are_the_papers(engine, stage):
    """16 psi whole, 16 psi / N sharded; stages 1 and 2 keep whole tensors that touch their part, which the paper does not say."""
    ranks = 8
    memory = predict(GPT, setup(engine, ranks))
    states = memory.parameters + memory.gradients + memory.optimizer
    assert states == pytest.approx(zero_states(GPT.parameters, ranks, stage), rel=1e-4)


@pytest.mark.parametrize(("engine", "stage"), [("zero-1", 1), ("zero-2", 2)])
def test_flat_parts_hold_more_gradients_than_the_paper(engine, stage):
    memory = predict(GPT, setup(engine, 8))
    psi, part = GPT.parameters, 12 * GPT.parameters / 8
    assert memory.parameters == pytest.approx(2 * psi, rel=1e-4)
    assert memory.optimizer == pytest.approx(part, rel=1e-4)
    largest = max(math.prod(shape) for shape in GPT.shapes.trained)
    assert 2 * psi / 8 <= memory.gradients <= 2 * (psi / 8 + 2 * largest)


def test_a_reduced_replica_has_a_master_copy_and_fsdp_has_none():
    shapes = Shapes(trained=((8, 2),), frozen=((4, 4),))
    ask = {"optimizer": "adamw", "rank": 0, "ranks": 2, "widths": Widths(2, 2, 4)}
    assert derived("ddp", shapes, **ask) == {"parameters": 64, "gradients": 32, "optimizer": (4 + 8) * 16 + 4}
    assert derived("fsdp", shapes, **ask) == {"parameters": 64, "gradients": 32, "optimizer": 8 * 8 + 4}
    assert derived("zero-3", shapes, **ask) == {"parameters": 32, "gradients": 16, "optimizer": 12 * 8 + 4}


def test_offloading_moves_bytes_to_the_host_and_makes_none():
    whole = predict(GPT, setup("zero-3", 8))
    states = predict(GPT, setup("zero-3-offload", 8))
    everything = predict(GPT, setup("zero-3-offload-all", 8))
    assert states.optimizer == states.gradients == 0
    assert states.parameters == whole.parameters
    assert everything.parameters == 0
    assert everything.host - states.host == whole.parameters
    assert states.host == pytest.approx(16 * GPT.parameters / 8, rel=1e-4)
    assert everything.host == pytest.approx(18 * GPT.parameters / 8, rel=1e-4)
    assert everything.peak < states.peak < whole.peak


def test_frozen_parts_are_treated_as_the_engine_treats_them():
    """7b trains 1.4% of its values: ZeRO 1 and 2 shard nothing else, ZeRO-3 and FSDP all (peft's users ask why)."""
    network, ask = anomaly("7b"), {"recipe": "fp32", "ranks": 8}
    found = {engine: predict(network, Setup(engine=engine, **ask)).parameters for engine in ENGINES}
    assert found["zero-2"] == pytest.approx(found["ddp"], rel=1e-6)
    assert found["zero-3"] == pytest.approx(found["ddp"] / 8, rel=1e-3)
    assert found["fsdp"] == pytest.approx(found["ddp"] / 8, rel=2e-2)


# --- activations


def test_activations_of_a_layer_are_korthikantis():
    """sbh (34 + 5 a s / h) bytes, 34 sbh without the squares, 2 sbh recomputed (arXiv 2205.05198, eq. 2 and section 5)."""
    net = dataclasses.replace(GPT, attention="eager")
    s, b, h, a = 512, 4, 1024, 16
    assert net.layer_bytes(b, 2, "none") == s * b * (34 * h + 5 * a * s)
    assert net.layer_bytes(b, 2, "selective") == 34 * s * b * h
    assert net.layer_bytes(b, 2, "full") == 2 * s * b * h
    fused = GPT.layer_bytes(b, 2, "none")
    assert fused == 34 * s * b * h + 4 * a * s * b


@pytest.mark.parametrize("network", [GPT, anomaly("small")], ids=["transformer", "anomalygpt"])
def test_recomputing_keeps_less_and_a_larger_micro_batch_more(network):
    kept = [
        predict(network, setup(micro_batch=8, recipe="fp32", checkpointing=how)).activations
        for how in ("none", "selective", "full")
    ]
    assert kept[0] >= kept[1] > kept[2]
    two = [predict(network, setup(recipe="fp32", micro_batch=size)).activations for size in (4, 8)]
    assert two[1] == pytest.approx(2 * two[0], rel=0.01)


def test_autocast_keeps_a_reduced_copy_of_the_weights():
    kept = {name: GPT.activations(1, recipe(name), "none", saves_inputs=False) for name in ("amp_bf16", "mixed_bf16")}
    assert kept["amp_bf16"]["weight_copies"] == 2 * GPT.parameters
    assert kept["mixed_bf16"]["weight_copies"] == 0


# --- the peak, and what fits


@pytest.mark.parametrize("engine", [*ENGINES, *OFFLOADED])
def test_the_peak_is_one_moment_and_no_category_is_negative(engine):
    memory = predict(GPT, setup(engine, 16, accumulation=2))
    assert memory.peak == max(memory.moments.values())
    assert all(getattr(memory, name) >= 0 for name in CATEGORIES)
    assert memory.peak <= sum(getattr(memory, name) for name in CATEGORIES) + 8 * GPT.parameters


def test_zero_1_keeps_whole_gradients_between_micro_batches():
    one, two = (predict(GPT, setup("zero-1", 8, accumulation=count)) for count in (1, 2))
    assert two.moments["forward"] - one.moments["forward"] == 2 * GPT.parameters


def test_more_ranks_never_need_more():
    for engine in ("zero-1", "zero-2", "zero-3", "fsdp"):
        peaks = [predict(GPT, setup(engine, ranks)).peak for ranks in (1, 2, 8, 64, 512)]
        assert peaks == sorted(peaks, reverse=True) or engine == "fsdp"  # at one rank FSDP gathers nothing


def test_what_is_advised_fits_and_trains_the_same_batch():
    big = Transformer(hidden=4096, layers=36, heads=32, sequence=2048, vocabulary=50_304)
    asked = setup("ddp", 8, micro_batch=8)
    room = 0.92 * 80 * 2**30
    assert predict(big, asked).peak > room
    change = first_that_fits(big, asked, room)
    assert change is not None
    assert predict(big, change.setup).peak == change.memory.peak <= room
    assert change.setup.samples == asked.samples
    assert change.words.startswith("zero-1")
    assert first_that_fits(big, asked, 2**30) is None


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"engine": "zero-4"}, "--engines zero-4"),
        ({"ranks": 0}, "--gpus is 0"),
        ({"ranks": 2.5}, "--gpus is 2.5"),
        ({"recipe": "fp8"}, "--precision fp8"),
        ({"micro_batch": 0}, "--micro-batch is 0"),
        ({"accumulation": -1}, "--accumulation is -1"),
        ({"checkpointing": "some"}, "--checkpointing some"),
        ({"optimizer": "lamb"}, "--optimizer lamb"),
        ({"bucket_mb": -1.0}, "--bucket-mb is -1.0"),
    ],
)
def test_nonsense_gets_one_clear_error(settings, said):
    with pytest.raises(ConfigError, match=said):
        Setup(**{"engine": "ddp", "ranks": 1, **settings})


def test_sizes_that_cannot_be_are_told():
    with pytest.raises(ConfigError, match="30 can't be shared by 4 heads"):
        Transformer(hidden=30, layers=1, heads=4, sequence=8, vocabulary=8)
    with pytest.raises(ConfigError, match="--layers is 0"):
        Transformer(hidden=32, layers=0, heads=4, sequence=8, vocabulary=8)
    with pytest.raises(ConfigError, match="there are: tiny"):
        anomaly("8b")
    with pytest.raises(ConfigError, match="are among the"):
        anomaly("tiny", text_tokens=4, answer_tokens=9)

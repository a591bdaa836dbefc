"""What a rank should send, against hand-made sums and against the model that is really sharded."""

import pytest
from torch import nn

import model
from bench.wire import bound_bytes, expected, paper_bytes
from model.cost import cost
from tests import made

G = 4 * (10 + 20)
COST = {
    "trainable": {"image_decoder": 10, "prompt_learner": 20},
    "frozen": {"vision": 100, "text": 50, "llama_proj": 5, "llm": 200, "lora": 8},
    "blocks": {
        "vision": {"count": 4, "parameters": 80},
        "text": {"count": 1, "parameters": 30},
        "llm": {"count": 2, "parameters": 150},
        "lora": {"count": 2, "parameters": 8},
        "image_decoder": {"count": 2, "parameters": 10},
    },
    "thin": 3,
    "tied": 40,
    "gradient_bytes": G,
}


def run(
    label: str, ranks: int = 4, *, accumulation: int = 3, device: str = "cpu", tuning: dict | None = None, **applied
) -> dict:
    batch = {"accumulation": accumulation, "global_batch": 24}
    record = made.record(label, ranks, training=batch, tuning=tuning or {})
    record["workload"] = {"cost": COST}
    record["world"]["device"] = device
    record["engine"]["applied"] = applied
    return record


@pytest.mark.parametrize("label", ["ddp", "horovod", "ring", "zero-0"])
def test_an_all_reduce_a_step_is_the_bound(label):
    found = expected(run(label))
    assert (found.gradients, found.trainable, found.frozen) == (bound_bytes(4, G), 0, 0)
    assert bound_bytes(4, G) == 180


def test_one_rank_sends_nothing():
    assert expected(run("fsdp", 1)).total == 0


def test_half_precision_on_the_wire_is_half():
    assert expected(run("horovod", compression="FP16Compressor")).gradients == bound_bytes(4, G) / 2


@pytest.mark.parametrize(
    ("label", "applied"),
    [
        ("ddp", {"compression": "fp16"}),
        ("horovod", {"compression": "FP16Compressor"}),
        ("ring", {"compression": "fp16"}),
        ("fsdp", {"reduce_dtype": "torch.float16", "reshard_after_forward": [True]}),
        *((f"zero-{stage}", {"communication_data_type": "torch.float16"}) for stage in range(4)),
    ],
)
def test_compressed_gradients_are_half_and_parameters_are_whole(label, applied):
    """Each engine tells it in words of its own; what is gathered stays fp32."""
    accumulation = 1 if label == "fsdp" else 3  # with more it refuses to compress
    plain = expected(run(label, accumulation=accumulation, **{k: v for k, v in applied.items() if "after" in k}))
    half = expected(run(label, accumulation=accumulation, tuning={"compression": "fp16"}, **applied))
    assert half.gradients == plain.gradients / 2 > 0
    assert (half.trainable, half.frozen) == (plain.trainable, plain.frozen)


def test_zero_1_gathers_what_it_updated_and_zero_2_reduces_each_micro_batch():
    one, two = expected(run("zero-1")), expected(run("zero-2"))
    assert (one.gradients, one.trainable, one.frozen) == (180, 90, 0)
    assert (two.gradients, two.trainable, two.frozen) == (3 * 180, 90, 0)


@pytest.mark.parametrize(("device", "scatter"), [("cuda", 90), ("cpu", 180)])
def test_zero_3_gathers_everything_where_it_runs(device, scatter):
    found = expected(run("zero-3", device=device))
    per_parameter = 3 * 3 / 4 * 4  # micro-batches, share, bytes
    assert found.gradients == 3 * scatter
    assert found.trainable == per_parameter * 2 * 30
    assert found.frozen == per_parameter * (100 + 5 + 2 * 200 + 2 * 8 + 40)


def test_fsdp_gathers_the_root_once_and_blocks_twice_where_gradients_pass():
    found = expected(run("fsdp", reshard_after_forward=[True]))
    per_parameter = 3 * 3 / 4 * 4
    assert found.gradients == 180, "only after the last micro-batch"
    assert found.trainable == per_parameter * (20 + 2 * 10)
    root, blocks = 20 + 20 + 5 + 50, 80 + 2 * 150 + 2 * 8
    assert found.frozen == per_parameter * (root + blocks + 80 / 4 + 3 * 3)
    kept = expected(run("fsdp", reshard_after_forward=[False]))
    assert kept.trainable == per_parameter * (20 + 10)
    assert kept.frozen == per_parameter * (root + 80 + 150 + 8 + 3 * 3)


def test_the_zero_paper_knows_two_volumes_and_nothing_frozen():
    """Section 7: 2 Ψ as a plain all-reduce up to stage 2, 1.5 times that in stage 3; here of 120 bytes on 4 ranks."""
    flat = [paper_bytes(run(label)) for label in ("ddp", "horovod", "ring", "zero-0", "zero-1", "zero-2")]
    assert flat == [180] * 6
    assert [paper_bytes(run(label, accumulation=6)) for label in ("zero-3", "fsdp")] == [270, 270]
    assert paper_bytes(run("zero-3", 1)) == 0
    assert paper_bytes({**run("zero-3"), "workload": None}) is None


def test_what_is_not_derived_says_why():
    assert expected(run("zero-3", max_live_parameters=7)).total is None
    assert "max_live_parameters" in str(expected(run("zero-3", max_live_parameters=7)).reason)
    assert "allreduce is off" in str(expected(run("zero-1", use_multi_rank_bucket_allreduce=False)).reason)
    old = run("ddp")
    old["workload"] = {"cost": {"gradient_bytes": G}}
    assert "does not hold" in str(expected(old).reason)


@pytest.mark.parametrize("preset", ["tiny", "base"])
def test_blocks_are_those_that_fsdp_shards(preset):
    config = model.preset(preset)
    import torch

    with torch.device("meta"):
        net = model.build(config)
    lists = {id(parameter) for m in net.modules() if isinstance(m, nn.ModuleList) for parameter in m.parameters()}
    found: dict[str, int] = {}
    thin = 0
    for name, parameter in net.named_parameters():
        part = "lora" if "lora" in name else name.split(".")[0]
        if id(parameter) in lists:
            found[part] = found.get(part, 0) + parameter.numel()
        if parameter.dim() and parameter.shape[0] == 1 < parameter.numel():
            thin += parameter.numel()
    told = cost(config, text_tokens=10, answer_tokens=2)
    assert {part: blocks["parameters"] for part, blocks in told.blocks.items()} == found
    assert told.thin == thin

"""Predicted parameters and FLOPs against a model that is built and counted."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode

import model
from model.anomalygpt import AnomalyGPT
from model.cost import Cost, cost

TINY = model.preset("tiny")
# Everything that tiny has equal or square is made different here, so that a mixed-up factor shows.
ODD = dataclasses.replace(
    TINY, vision_width=48, embed_width=48, vision_mlp_ratio=3, vision_grid=20, image_size=112, taps=(1, 2, 4, 7), text_width=32,
    text_mlp=80, text_blocks=3, llm_width=96, llm_heads=6, llm_kv_heads=2, llm_mlp=200, llm_layers=3, llm_tied=False,
    lora_rank=5, prompt_channels=(3, 5, 7, 11, 13), base_tokens=4, bank_shots=2, bank_rotations=False,
)  # fmt: skip
TEXT, ANSWER, BATCH = 40, 9, 2


def built(config: model.ModelConfig) -> AnomalyGPT:
    """Without `prepare`, which cost leaves out: its constants have their shapes only."""
    net = model.build(config)
    net.vision.vit.set_attn_implementation("eager")  # fused kernels recompute, or hide from the counter
    net.llm.llama.set_attn_implementation("eager")
    net.text_features = normalize(torch.randn(1, 2, config.text_width), dim=-1)
    net.banks = normalize(torch.randn(1, 4, config.bank_patches, config.vision_width), dim=-1)
    return net


def a_batch(config: model.ModelConfig) -> dict[str, Tensor]:
    side = config.image_size
    ids = torch.randint(3, 200, (BATCH, TEXT))
    labels = torch.full_like(ids, -100)
    labels[:, :ANSWER] = ids[:, :ANSWER]
    zeros = torch.zeros(BATCH, dtype=torch.int64)
    return {"image": torch.randn(BATCH, 3, side, side), "mask": torch.zeros(BATCH, side, side), "class_id": zeros,
            "few_shot": zeros.bool(), "index": zeros, "pixel": zeros.bool(), "ids": ids, "labels": labels}  # fmt: skip


def part_of(name: str) -> str:
    return "lora" if ".lora_" in name else name.split(".")[0]


@pytest.mark.parametrize("config", [TINY, ODD], ids=["tiny", "odd"])
def test_parameters_equal_the_built_model(config: model.ModelConfig) -> None:
    expected, counted = cost(config, text_tokens=TEXT, answer_tokens=ANSWER), {True: {}, False: {}}
    for name, p in model.build(config).named_parameters():
        parts = counted[p.requires_grad]
        parts[part_of(name)] = parts.get(part_of(name), 0) + p.numel()
    assert counted[True] == expected.trainable
    assert counted[False] == expected.frozen
    assert expected.gradient_bytes == 4 * sum(counted[True].values())


@pytest.mark.parametrize("config", [TINY, ODD], ids=["tiny", "odd"])
def test_flops_equal_the_counter(config: model.ModelConfig) -> None:
    """To 0.1%: the counter adds the rotary table, one product a micro-batch."""
    net, batch, expected = built(config), a_batch(config), cost(config, text_tokens=TEXT, answer_tokens=ANSWER)
    with FlopCounterMode(display=False) as forward:
        losses = net(batch)
    with FlopCounterMode(display=False) as backward:
        losses.total.backward()
    assert forward.get_total_flops() / BATCH == pytest.approx(sum(expected.forward.values()), rel=1e-3)
    assert backward.get_total_flops() / BATCH == pytest.approx(sum(expected.backward.values()), rel=1e-3)
    total = forward.get_total_flops() + backward.get_total_flops()
    assert total / BATCH == pytest.approx(expected.step_flops, rel=1e-3)


def test_forward_flops_of_each_part_equal_the_counter() -> None:
    net, expected = built(ODD), cost(ODD, text_tokens=TEXT, answer_tokens=ANSWER)
    with FlopCounterMode(display=False) as counter:
        net(a_batch(ODD))
    counts = counter.get_flop_counts()
    inside = {name.split(".", 1)[1]: sum(ops.values()) / BATCH for name, ops in counts.items() if "." in name}
    for part in ("vision", "llama_proj", "image_decoder", "prompt_learner"):
        assert inside[part] == pytest.approx(expected.forward[part], rel=1e-3), part
    assert inside["llm.llama.lm_head"] == pytest.approx(expected.forward["llm_head"], rel=1e-3)
    layers = expected.forward["llm"] + expected.forward["llm_attention"]
    assert inside["llm"] == pytest.approx(layers + expected.forward["llm_head"], rel=1e-3)


def published() -> Cost:
    """AnomalyGPT as published, as far as the trained parts, LoRA and Vicuna-7B v0 go."""
    config = dataclasses.replace(
        TINY, vision_width=1280, embed_width=1280, vision_blocks=32, vision_heads=16, taps=(8, 16, 24, 32), text_width=1024,
        llm_width=4096, llm_layers=32, llm_heads=32, llm_kv_heads=32, llm_mlp=11_008, llm_vocab=32_001, llm_tied=False,
        lora_rank=32, prompt_channels=(4, 16, 64, 256, 1024), open_tokens=6, close_tokens=4,
    )  # fmt: skip
    assert config.prefix_tokens == 30
    return cost(config, text_tokens=80, answer_tokens=20)


def test_published_sizes_give_the_published_counts() -> None:
    sizes = published()
    assert sizes.trainable == {"image_decoder": 5_246_976, "prompt_learner": 107_416_504}
    assert sum(sizes.trainable.values()) == 112_663_480
    assert sizes.frozen["lora"] == 33_554_432
    assert sizes.frozen["llm"] == 6_738_423_808


def test_answers_cost_only_the_head() -> None:
    short, long = (cost(TINY, text_tokens=TEXT, answer_tokens=tokens) for tokens in (1, 1.5))
    assert long.step_flops - short.step_flops == 2 * TINY.llm_width * TINY.llm_vocab  # half a token, there and back

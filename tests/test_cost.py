"""Predicted parameters, FLOPs and activations against a model that is built and counted."""

import dataclasses
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.utils.flop_counter import FlopCounterMode

import model
from model.activations import activation_bytes
from model.anomalygpt import AnomalyGPT
from model.cost import cost
from tests.published import REDUCED

TINY = model.preset("tiny")
# Everything that tiny has equal or square is made different here, so that a mixed-up factor shows.
ODD = dataclasses.replace(
    TINY, vision_width=48, embed_width=48, vision_mlp_ratio=3, vision_grid=20, image_size=112, taps=(1, 2, 4, 7), text_width=32,
    text_mlp=80, text_blocks=3, llm_width=96, llm_heads=6, llm_kv_heads=2, llm_mlp=200, llm_layers=3, llm_tied=False,
    lora_rank=5, prompt_channels=(3, 5, 7, 11, 13), base_tokens=4, bank_shots=2, bank_rotations=False,
)  # fmt: skip
TEXT, ANSWER, BATCH = 40, 9, 2


def built(config: model.ModelConfig, *, precision: str = "fp32", eager: bool = True) -> AnomalyGPT:
    """Without `prepare`, which cost leaves out: its constants have their shapes only."""
    net = model.build(config, precision=precision)
    if eager:  # fused kernels recompute, or hide from the counter
        for module in net.modules():
            if hasattr(module, "config") and hasattr(module.config, "_attn_implementation"):
                module.config._attn_implementation = "eager"
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


@pytest.mark.parametrize("config", [TINY, ODD, REDUCED], ids=["tiny", "odd", "imagebind"])
def test_parameters_equal_the_built_model(config: model.ModelConfig) -> None:
    expected, counted = cost(config, text_tokens=TEXT, answer_tokens=ANSWER), {True: {}, False: {}}
    for name, p in model.build(config).named_parameters():
        parts = counted[p.requires_grad]
        parts[part_of(name)] = parts.get(part_of(name), 0) + p.numel()
    assert counted[True] == expected.trainable
    assert counted[False] == expected.frozen
    assert expected.gradient_bytes == 4 * sum(counted[True].values())


@pytest.mark.parametrize("config", [TINY, ODD, REDUCED], ids=["tiny", "odd", "imagebind"])
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


@pytest.mark.parametrize("config", [ODD, REDUCED], ids=["odd", "imagebind"])
def test_forward_flops_of_each_part_equal_the_counter(config: model.ModelConfig) -> None:
    net, expected = built(config), cost(config, text_tokens=TEXT, answer_tokens=ANSWER)
    with FlopCounterMode(display=False) as counter:
        net(a_batch(config))
    counts = counter.get_flop_counts()
    inside = {name.split(".", 1)[1]: sum(ops.values()) / BATCH for name, ops in counts.items() if "." in name}
    for part in ("vision", "llama_proj", "image_decoder", "prompt_learner"):
        assert inside[part] == expected.forward[part], part
    assert inside["llm.llama.lm_head"] == pytest.approx(expected.forward["llm_head"], rel=1e-3)
    layers = expected.forward["llm"] + expected.forward["llm_attention"]
    assert inside["llm"] == pytest.approx(layers + expected.forward["llm_head"], rel=1e-3)


def test_published_sizes_give_the_published_counts() -> None:
    config = model.preset("7b")
    sizes = cost(config, text_tokens=80, answer_tokens=20)
    assert config.prefix_tokens == 30
    assert sizes.trainable == {"image_decoder": 5_246_976, "prompt_learner": 107_416_504}
    assert sum(sizes.trainable.values()) == 112_663_480
    assert sizes.frozen == {
        "vision": 632_829_440,
        "text": 354_032_640,
        "llama_proj": 4_198_400,
        "llm": 6_738_423_808,
        "lora": 33_554_432,
    }


def test_answers_cost_only_the_head() -> None:
    short, long = (cost(TINY, text_tokens=TEXT, answer_tokens=tokens) for tokens in (1, 1.5))
    assert long.step_flops - short.step_flops == 2 * TINY.llm_width * TINY.llm_vocab  # half a token, there and back


def kept(net: AnomalyGPT, batch: dict[str, Tensor]) -> dict[str, int]:
    """Bytes that autograd keeps, by what ran when it kept them; parameters left out, each storage counted once."""
    running, seen, found = ["losses"], {}, Counter()
    parts = {
        "image_decoder": "image_decoder",
        "prompt_learner": "prompt_learner",
        "llm": "llm",
        "llm.llama.model": "llm",
    }
    weights = {
        tuple(p.shape[::order]) for p in net.parameters() for order in (1, -1)
    }  # a linear layer's copy is transposed

    def keep(tensor: Tensor) -> Tensor:
        owner = tensor if tensor._base is None else tensor._base
        if not isinstance(owner, nn.Parameter):
            storage = tensor.untyped_storage()
            copied = tensor.dtype == torch.bfloat16 and tuple(tensor.shape) in weights
            part = "weight_copies" if copied else running[-1]
            found[part] += storage.nbytes() - seen.get(storage.data_ptr(), 0)
            seen[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # so that no address is used twice
        return tensor

    alive: list[Tensor] = []
    for name, part in parts.items():
        inside = part if name != "llm" else "llm_head"
        module = net.get_submodule(name)
        module.register_forward_pre_hook(lambda *_, inside=inside: running.append(inside))
        module.register_forward_hook(lambda *_: running.pop() and None)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(batch)
    return dict(found)


@pytest.mark.parametrize("precision", model.PRECISIONS)
@pytest.mark.parametrize("config", [TINY, ODD, REDUCED], ids=["tiny", "odd", "imagebind"])
def test_activations_equal_what_autograd_keeps(config: model.ModelConfig, precision: str) -> None:
    """Each part to 0.1%: a few scalars a micro-batch are not counted."""
    net = built(config, precision=precision, eager=False)
    expected = activation_bytes(config, text_tokens=TEXT, answer_tokens=ANSWER, samples=BATCH, precision=precision)
    got = kept(net, a_batch(config))
    assert got == {part: pytest.approx(size, rel=1e-3) for part, size in expected.items() if size}


def test_activations_grow_with_samples_but_for_what_is_shared() -> None:
    def size(samples: int) -> dict[str, int]:
        sizes = {"text_tokens": 80, "answer_tokens": 20, "samples": samples, "precision": "amp_bf16"}
        return dict(activation_bytes(model.preset("7b"), **sizes))

    one, two, three = (size(samples) for samples in (1, 2, 3))
    assert {part: three[part] - two[part] for part in one} == {part: two[part] - one[part] for part in one}
    assert one["weight_copies"] == three["weight_copies"] == pytest.approx(2 * (6.61e9 + 33.6e6 + 107.4e6), rel=1e-2)
    assert two["image_decoder"] == 2 * one["image_decoder"]

"""The report's variants as data, and its two failures seen: V1's LayerNorm and V3's BatchNorm in a frozen LLM."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import model
from model.anomalygpt import AnomalyGPT
from model.language import LanguageModel
from model.presets import ModelConfig
from model.tokenizer import tokenizer
from model.variants import (
    MVTEC_TRAIN,
    VARIANTS,
    VISA_TRAIN,
    apply,
    micro_iterations,
    total_steps,
    training,
    variant,
    warmup_steps,
)

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = dataclasses.replace(model.preset("tiny"), image_size=98)  # 7 x 7 patches
WORDS = tokenizer(TINY)
QUESTION = WORDS("Any anomaly?\n### Assistant:", add_special_tokens=False).input_ids
ANSWERS = [WORDS(text, add_special_tokens=False).input_ids for text in (" No\n###", " Yes\n###")]
DEFECTIVE = [False, True, False, True]


# --- the table


def test_table_3_as_printed() -> None:
    columns = {
        "V1": (20, 8, 1, 1, 0.17),
        "V2": (50, 8, 1, 1, 1.0),
        "V3": (50, 16, 2, 1, 1.0),
        "V4": (50, 16, 2, 1, 1.0),
        "V5": (50, 16, 2, 1, 1.0),
        "V6": (50, 32, 2, 2, 1.0),
    }
    numbers = {n: (v.epochs, v.global_batch, v.micro_batch, v.gpus, v.finished) for n, v in VARIANTS.items()}
    assert numbers == columns
    assert [name for name, v in VARIANTS.items() if v.layer_norm] == ["V1"]
    assert [name for name, v in VARIANTS.items() if v.batch_norm_as_printed] == ["V3", "V4", "V5", "V6"]
    assert [name for name, v in VARIANTS.items() if v.aebad] == ["V4", "V5", "V6"]
    assert [v.augmented_to for v in VARIANTS.values()] == [None, None, None, None, 1000, 400]
    assert {v.lr_as_printed for v in VARIANTS.values()} == {1e-4}
    assert {v.dropout for v in VARIANTS.values()} == {0.1}
    assert [v.samples for v in VARIANTS.values()] == [10_000, None, None, None, None, None]
    assert [v.initial_scale_power for v in VARIANTS.values()] == [None, 12, 12, 12, 12, 12]
    assert [v.loss_scale_window for v in VARIANTS.values()] == [None, 1000, 1000, 1000, 1000, 1000]


def test_batches_are_those_of_their_micro_batches() -> None:
    for v in VARIANTS.values():
        assert v.global_batch == v.micro_batch * v.gpus * v.accumulation


def test_only_v3_is_used_with_batch_norm() -> None:
    assert [name for name, v in VARIANTS.items() if v.batch_norm] == ["V3"]
    assert all(v.note for v in VARIANTS.values() if v.batch_norm != v.batch_norm_as_printed)


def test_steps_are_those_of_the_published_runs() -> None:
    mvtec = total_steps(MVTEC_TRAIN, epochs=50, global_batch=16)
    visa = total_steps(VISA_TRAIN, epochs=50, global_batch=16)
    assert (mvtec, warmup_steps(mvtec)) == (22_681, 2_268)
    assert (visa, warmup_steps(visa)) == (54_118, 5_411)
    assert warmup_steps(30) == 10


def test_images_and_micro_iterations() -> None:
    assert {name: v.images for name, v in VARIANTS.items()} == {
        "V1": 3_629, "V2": 3_629, "V3": 3_629, "V4": 5_085, "V5": 16_456, "V6": 7_456,
    }  # fmt: skip
    v4 = variant("V4")
    assert micro_iterations(v4.images, epochs=v4.epochs, micro_batch=v4.micro_batch) == 254_200
    assert micro_iterations(10, epochs=1, micro_batch=2, gpus=2) == 4


@pytest.mark.parametrize("name", VARIANTS)
def test_apply_changes_the_three_layers_and_nothing_else(name: str) -> None:
    v = variant(name)
    for as_printed in (False, True):
        changed = apply(TINY, v, as_printed=as_printed)
        assert changed.llm_dropout == 0.1
        assert changed.llm_layer_norm == (name == "V1")
        assert changed.llm_batch_norm == (name in {"V3", "V4", "V5", "V6"} if as_printed else name == "V3")
        off = {"llm_dropout": 0.0, "llm_layer_norm": False, "llm_batch_norm": False}
        assert dataclasses.replace(changed, **off) == TINY


def test_training_flags() -> None:
    flags = {"global_batch": 32, "accumulation": 8, "lr": 1e-3, "schedule": "warmup_decay", "epochs": 50.0}
    assert training(variant("V6")) == flags
    assert training(variant("V6"), as_printed=True) == {**flags, "lr": 1e-4}


def test_an_unknown_variant_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="V1, V2, V3, V4, V5, V6"):
        variant("V7")


# --- the failures


class Normals:
    classes = ("grass", "brick")

    def normals(self, k: int) -> np.ndarray:
        shape = (2, k, TINY.image_size, TINY.image_size, 3)
        return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


def built(config: ModelConfig) -> AnomalyGPT:
    net = model.build(config)
    net.prepare(Normals())
    return net


def texts(answers: list[list[int]]) -> dict[str, Tensor]:
    """The question with each answer, padded."""
    length = len(QUESTION) + max(map(len, answers))
    ids, labels = (torch.full((len(answers), length), fill) for fill in (WORDS.pad_token_id, -100))
    for row, answer in enumerate(answers):
        end = len(QUESTION) + len(answer)
        ids[row, :end] = torch.tensor(QUESTION + answer)
        labels[row, len(QUESTION) : end] = torch.tensor(answer)
    return {"ids": ids, "labels": labels}


def four_samples() -> dict[str, Tensor]:
    """Of both classes, without and with a patch of one colour."""
    images = torch.from_numpy(Normals().normals(1)[:, 0]).permute(0, 3, 1, 2).repeat_interleave(2, 0) / 255
    mask = torch.zeros(4, TINY.image_size, TINY.image_size)
    mask[DEFECTIVE, 20:60, 20:60] = 1
    images = torch.where(mask[:, None] > 0, torch.tensor([0.5, 0.1, 0.9]).view(3, 1, 1), images)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (TINY.image_mean, TINY.image_std))
    return {
        "image": (images - mean) / std,
        "mask": mask,
        "class_id": torch.tensor([0, 0, 1, 1]),
        "few_shot": torch.zeros(4, dtype=torch.bool),
        "index": torch.arange(4),
        "pixel": torch.ones(4, dtype=torch.bool),
        **texts([ANSWERS[defective] for defective in DEFECTIVE]),
    }


def train(net: AnomalyGPT, steps: int) -> float:
    """Adam on the four samples; the last step's LM loss."""
    optimizer = torch.optim.Adam([p for p in net.parameters() if p.requires_grad], lr=6e-3)
    batch = four_samples()
    for _ in range(steps):
        losses = net(batch)
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    return losses.lm.item()


@torch.no_grad()
def examined(net: AnomalyGPT) -> tuple[list[str], Tensor]:
    """Greedy answers, five tokens long, and maps (4, 1, H, W), in eval mode."""
    batch, was_training = four_samples(), net.training
    net.eval()
    assert net.text_features is not None
    assert net.banks is not None
    looked = net.look(batch["image"], net.text_features[batch["class_id"]], net.banks[batch["class_id"]])
    prompts, ids = net.prompt_learner(looked.text_map), torch.tensor([QUESTION] * 4)
    for _ in range(5):
        logits = net.llm.llama(inputs_embeds=net.llm.prefix(looked.token, prompts, ids)).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    net.train(was_training)
    return [WORDS.decode(row[len(QUESTION) :]) for row in ids], looked.text_map


def right(answers: list[str]) -> int:
    return sum(("Yes" if defective else "No") in answer for defective, answer in zip(DEFECTIVE, answers, strict=True))


def delta(net: AnomalyGPT) -> dict[str, Tensor]:
    """What the published code saves: trained parameters, no buffers."""
    return {name: p.detach() for name, p in net.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def pretrained() -> tuple[ModelConfig, dict[str, Tensor]]:
    """An LLM that has learned to answer from 18 tokens of text where the prompts stand; its config and weights."""
    config = dataclasses.replace(TINY, frozen_std=0.02)  # Llama's own: hidden values then are as small as a real one's
    llm = built(config).llm
    cues = [WORDS(cue, add_special_tokens=False).input_ids for cue in ("nothing is damaged", "there is a defect!")]
    assert {len(cue) for cue in cues} == {config.prompt_tokens}
    parameters = [p.requires_grad_(True) for name, p in llm.named_parameters() if "lora" not in name]
    optimizer, draw = torch.optim.Adam(parameters, lr=1e-3), torch.Generator().manual_seed(1)
    for _ in range(100):
        image = 0.3 * torch.randn(2, config.llm_width, generator=draw)
        loss = llm(image, llm.llama.model.embed_tokens(torch.tensor(cues)), **texts(ANSWERS)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3
    return config, {name: value.detach() for name, value in llm.state_dict().items()}


def test_v1_layer_norm_breaks_a_pretrained_llm_and_training_cannot_make_up_for_it(
    pretrained: tuple[ModelConfig, dict[str, Tensor]],
) -> None:
    """Hidden values are blown up to unit size in every layer; what the LLM knew is gone, and it cannot learn."""
    config, weights = pretrained
    sizes, start, end, answers = {}, {}, {}, {}
    for name in ("V1", "V2"):  # they differ in LayerNorm alone
        net = built(apply(config, variant(name)))
        missing = net.llm.load_state_dict(weights, strict=False).missing_keys
        assert all(".mlp.norm." in key for key in missing)
        seen: list[float] = []
        for layer in net.llm.llama.model.layers:
            layer.mlp.down_proj.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].std().item()))
        start[name] = net(four_samples()).lm.item()
        sizes[name] = seen[: config.llm_layers]
        end[name] = train(net, 30)
        answers[name] = examined(net)[0]
    assert max(sizes["V2"]) < 0.2
    assert min(sizes["V1"]) > 0.9
    assert start["V1"] > 2 * start["V2"]
    assert end["V1"] > 2 * end["V2"]
    assert right(answers["V2"]) == 4
    assert right(answers["V1"]) < 4


@pytest.mark.assets
def test_v1_layer_norm_makes_a_real_llm_guess() -> None:
    """SmolLM2 on plain English: afterwards its loss is about that of a uniform guess over the vocabulary."""
    config = dataclasses.replace(model.preset("small"), lora_b_std=0.0)
    words = tokenizer(config)
    text = "The capital of France is Paris. Water boils at one hundred degrees. The sun rises in the east."
    ids = words(text, return_tensors="pt").input_ids
    losses = []
    for normed in (False, True):
        llama = LanguageModel(dataclasses.replace(config, llm_layer_norm=normed)).llama.eval()
        with torch.no_grad():
            losses.append(cross_entropy(llama(input_ids=ids).logits[0, :-1], ids[0, 1:]).item())
    plain, broken = losses
    assert plain < 4
    assert broken > 0.8 * np.log(config.llm_vocab)


def test_v3_batch_norm_answers_nothing_once_saved_and_loaded_though_its_maps_are_the_same() -> None:
    """The report's V3: accuracy 0, AUROC unchanged. With the statistics that the saved file lacks, it answers again."""
    config = dataclasses.replace(TINY, llm_batch_norm=True)
    net = built(config)
    train(net, 100)
    answers, maps = examined(net)
    assert right(answers) == 4

    loaded = built(config)
    assert not loaded.load_state_dict(delta(net), strict=False).unexpected_keys
    lost, same_maps = examined(loaded)
    assert right(lost) == 0
    assert not any("Yes" in answer or "No" in answer for answer in lost)
    assert torch.equal(same_maps, maps)

    statistics = {name: value for name, value in net.state_dict().items() if ".running_" in name}
    loaded.load_state_dict(statistics, strict=False)
    assert examined(loaded)[0] == answers


def test_without_batch_norm_the_saved_parameters_are_the_whole_model() -> None:
    net = built(apply(TINY, variant("V2")))
    train(net, 3)
    loaded = built(apply(TINY, variant("V2")))
    loaded.load_state_dict(delta(net), strict=False)
    batch = four_samples()
    assert loaded.eval()(batch) == net.eval()(batch)


@pytest.mark.parametrize(("name", "leaks"), [("V2", False), ("V3", True)])
def test_only_batch_norm_lets_a_later_token_change_an_earlier_logit(name: str, leaks: bool) -> None:
    config = apply(TINY, variant(name))
    llm = LanguageModel(config).train()
    ids = torch.tensor([QUESTION])
    changed = ids.clone()
    changed[0, -1] += 1
    with torch.no_grad():
        first, second = (_logits(llm, each)[:, :-1] for each in (ids, changed))
    assert (not torch.allclose(first, second, rtol=1e-4, atol=1e-5)) == leaks
    llm.eval()
    with torch.no_grad():
        first, second = (_logits(llm, each)[:, :-1] for each in (ids, changed))
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def _logits(llm: LanguageModel, ids: Tensor) -> Any:
    llm.samples.set(torch.tensor([0]))
    return llm.llama(input_ids=ids).logits

"""The sizes of the presets: the published one against the published counts, without holding a value of it."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch

import model
from model.anomalygpt import AnomalyGPT
from model.cost import cost
from tests import published


@pytest.fixture(scope="module")
def seven() -> AnomalyGPT:
    with torch.device("meta"):
        return model.build(model.preset("7b"))


def test_the_published_counts(seven: AnomalyGPT) -> None:
    counted: Counter[str] = Counter()
    for name, p in seven.named_parameters():
        counted["lora" if ".lora_" in name else name.split(".")[0]] += p.numel()
    assert counted == {
        "vision": 632_829_440,
        "text": 354_032_640,
        "llama_proj": 4_198_400,
        "lora": 33_554_432,
        "llm": 6_738_423_808,
        "image_decoder": 5_246_976,
        "prompt_learner": 107_416_504,
    }


def test_what_is_trained_has_the_published_names(seven: AnomalyGPT) -> None:
    trained = {name: tuple(p.shape) for name, p in seven.named_parameters() if p.requires_grad}
    assert len(trained) == 21
    assert sum(torch.Size(shape).numel() for shape in trained.values()) == 112_663_480
    channels = (1, 4, 16, 64, 256, 1024, 4096)
    convolutions = {
        f"prompt_learner.meta_net.{3 * n}.weight": (channels[n + 1], channels[n], *2 * (3 + 2 * (n == 5),))
        for n in range(6)
    }
    biases = {f"prompt_learner.meta_net.{3 * n}.bias": (channels[n + 1],) for n in range(6)}
    decoder = {f"image_decoder.fc.{n}.weight": (1024, 1280) for n in range(4)}
    decoder |= {f"image_decoder.fc.{n}.bias": (1024,) for n in range(4)}
    assert trained == {"prompt_learner.base_prompts": (9, 4096), **convolutions, **biases, **decoder}


def test_the_prefix_has_thirty_positions(seven: AnomalyGPT) -> None:
    config = seven.config
    assert (config.open_tokens, config.close_tokens, config.prompt_tokens, config.prefix_tokens) == (6, 4, 18, 30)
    laid = seven.llm.prefix(
        torch.empty(2, 4096, device="meta"),
        torch.empty(2, 18, 4096, device="meta"),
        torch.empty(2, 50, dtype=torch.int64, device="meta"),
    )
    assert laid.shape == (2, 30 + 50, 4096)


@pytest.mark.parametrize("name", ["base", "7b"])
def test_shapes_fit_from_pixels_to_the_llm_on_the_meta_device(name: str) -> None:
    config = model.preset(name)
    with torch.device("meta"), torch.no_grad():
        net = model.build(config)
        seen = net.vision(torch.empty(2, 3, 224, 224))
        probability = net.image_decoder(seen.taps, torch.empty(2, 2, config.text_width))
        prompts = net.prompt_learner(probability[:, :, 1].mean(1, keepdim=True))
        ids = torch.empty(2, 50, dtype=torch.int64)
        hidden = net.llm.llama.model(
            inputs_embeds=net.llm.prefix(net.llama_proj(seen.cls), prompts, ids)
        ).last_hidden_state
        text = net.text(torch.empty(3, 77, dtype=torch.int64))
    assert [tap.shape for tap in seen.taps] == [(2, 256, config.vision_width)] * 4
    assert seen.cls.shape == (2, config.embed_width)
    assert probability.shape == (2, 4, 2, 224, 224)
    assert prompts.shape == (2, 18, config.llm_width)
    assert hidden.shape == (2, 30 + 50, config.llm_width)
    assert text.shape == (3, config.text_width)
    assert all(p.is_meta for p in net.parameters())


@pytest.mark.parametrize("name", ["base", "7b"])
def test_cost_counts_what_is_built(name: str) -> None:
    config = model.preset(name)
    with torch.device("meta"):
        net = model.build(config)
    expected, counted = cost(config, text_tokens=80, answer_tokens=20), Counter()
    for parameter, p in net.named_parameters():
        counted["lora" if ".lora_" in parameter else parameter.split(".")[0]] += p.numel()
    assert counted == {**expected.trainable, **expected.frozen}


def test_published_taps_and_forms() -> None:
    config = model.preset("7b")
    assert config.taps == (8, 16, 24, 32)
    assert (config.lora_rank, config.lora_alpha, config.lora_dropout, config.rms_eps) == (32, 32, 0.0, 1e-6)
    assert (config.delta_dtype, model.preset("base").delta_dtype, model.preset("tiny").delta_dtype) == (
        "float16",
        "float32",
        "float32",
    )


@pytest.mark.parametrize("name", ["base", "7b"])
def test_a_preset_says_what_its_towers_are(name: str) -> None:
    assert "random" in model.preset(name).towers
    assert "bytes" in model.preset(name).towers
    assert model.preset(name).stand_in
    given = model.preset(name, Path("weights"))
    assert "random" not in given.towers
    assert not given.stand_in
    assert given == model.preset(name).with_weights(Path("weights"))
    assert given.prefix_tokens == model.preset(name).prefix_tokens == 30


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_presets_with_weights_of_their_own_take_no_folder(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} has weights of its own"):
        model.preset(name, Path("weights"))
    assert not model.preset(name).stand_in


def test_a_stand_in_prefix_has_as_many_positions_as_the_published(tmp_path: Path) -> None:
    alone = model.build(published.REDUCED)
    given = model.build(published.REDUCED, weights=published.write(tmp_path / "weights"))
    assert len(alone.llm.fixed_ids) == len(given.llm.fixed_ids) == 1 + 6 + 4
    assert alone.llm.head == given.llm.head == 7
    assert not torch.equal(alone.llm.fixed_ids, given.llm.fixed_ids)
    longer = dataclasses.replace(published.REDUCED, open_tokens=17)
    with pytest.raises(ValueError, match="open_tokens"):
        model.build(longer)  # bytes can be cut, not made
    with pytest.raises(ValueError, match="must be 6, 4"):
        model.build(dataclasses.replace(published.REDUCED, open_tokens=5), weights=tmp_path / "weights")


def test_the_readme_of_presets_lists_all() -> None:
    assert list(model.PRESETS) == ["tiny", "small", "base", "7b"]
    with pytest.raises(ValueError, match="tiny, small, base, 7b"):
        model.preset("huge")

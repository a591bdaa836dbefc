"""ImageBind-form towers against the published description, written out on the published keys."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.convert_slow_tokenizer import bytes_to_unicode

import model
from model.anomalygpt import AnomalyGPT
from model.imagebind import ImageBindText, ImageBindVision, Stem
from tests import published
from tests.published import REDUCED


class Normals:
    classes = ("metal_nut", "grass")

    def normals(self, k: int) -> np.ndarray:
        shape = (2, k, REDUCED.image_size, REDUCED.image_size, 3)
        return np.random.default_rng(7).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> AnomalyGPT:
    """With the synthetic published weights."""
    folder = published.write(tmp_path_factory.mktemp("published") / "weights")
    return model.build(REDUCED, weights=folder).eval()


def norm(x: Tensor, state: dict[str, Tensor], key: str) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{key}.weight"], state[f"{key}.bias"], eps=1e-6)


def linear(x: Tensor, state: dict[str, Tensor], key: str) -> Tensor:
    return x @ state[f"{key}.weight"].T + state[f"{key}.bias"]


def blocks(
    x: Tensor, state: dict[str, Tensor], tower: str, depth: int, heads: int, mask: Tensor | None
) -> list[Tensor]:
    """Residual stream (B, L, W) after each block: sequence first, query, key and value from one fused matrix."""
    found, x = [], x.transpose(0, 1)
    for n in range(depth):
        at = f"modality_trunks.{tower}.blocks.{n}."
        y = norm(x, state, f"{at}norm_1")
        y, _ = F.multi_head_attention_forward(
            y, y, y, x.shape[-1], heads, state[f"{at}attn.in_proj_weight"], state[f"{at}attn.in_proj_bias"], None, None,
            False, 0.0, state[f"{at}attn.out_proj.weight"], state[f"{at}attn.out_proj.bias"], attn_mask=mask,
        )  # fmt: skip
        x = x + y
        y = linear(norm(x, state, f"{at}norm_2"), state, f"{at}mlp.fc1")
        x = x + linear(y * 0.5 * (1 + torch.erf(y / 2**0.5)), state, f"{at}mlp.fc2")
        found.append(x.transpose(0, 1))
    return found


def test_vision_is_the_published_trunk_on_the_published_keys(net: AnomalyGPT) -> None:
    state, image = published.imagebind(), torch.randn(2, 3, 112, 112)
    video = image.unsqueeze(2).repeat(1, 1, 2, 1, 1)  # a still image, twice
    patches = F.conv3d(video, state["modality_preprocessors.vision.rgbt_stem.proj.1.weight"], stride=(2, 14, 14))
    token = state["modality_preprocessors.vision.cls_token"].expand(2, -1, -1)
    x = torch.cat([token, patches.flatten(2).mT], 1)
    x = x + state["modality_preprocessors.vision.pos_embedding_helper.pos_embed"]
    x = norm(x, state, "modality_trunks.vision.pre_transformer_layer.0")
    stream = blocks(x, state, "vision", REDUCED.vision_blocks, REDUCED.vision_heads, None)
    embedding = norm(stream[-1], state, "modality_heads.vision.0")[:, 0] @ state["modality_heads.vision.2.weight"].T
    with torch.no_grad():
        seen = net.vision(image)
    assert len(seen.taps) == len(REDUCED.taps)
    for depth, tap in zip(REDUCED.taps, seen.taps, strict=True):
        torch.testing.assert_close(tap, stream[depth - 1][:, 1:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(seen.cls, embedding / embedding.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5)


def test_text_is_the_published_trunk_on_the_published_keys(net: AnomalyGPT) -> None:
    state, sentences = published.imagebind(), ["a photo of a grass.", "a photo of the damaged metal nut."]
    ids = net.text.ids(sentences)
    length = REDUCED.text_positions
    x = (
        state["modality_preprocessors.text.token_embedding.weight"][ids]
        + state["modality_preprocessors.text.pos_embed"]
    )
    mask = torch.full((length, length), float("-inf")).triu(1)
    x = blocks(x, state, "text", REDUCED.text_blocks, REDUCED.text_heads, mask)[-1]
    at_end = norm(x, state, "modality_heads.text.proj.0")[torch.arange(2), ids.argmax(1)]
    expected = F.normalize(at_end @ state["modality_heads.text.proj.1.weight"].T, dim=1)
    with torch.no_grad():
        torch.testing.assert_close(net.text.embed(sentences), expected, rtol=1e-4, atol=1e-5)


def test_ids_are_start_text_end_zeros_and_a_long_sentence_keeps_its_end(net: AnomalyGPT) -> None:
    short, long = net.text.ids(["ab", "ab " * 100])
    start, end = REDUCED.text_vocab - 2, REDUCED.text_vocab - 1
    assert short.shape == long.shape == (77,)
    assert short[0] == long[0] == start
    assert (int(short.argmax()), int(short.max())) == (int((short > 0).sum()) - 1, end)
    assert long[-1] == end
    assert net.text.tokenizer.convert_ids_to_tokens([start, end]) == ["<|startoftext|>", "<|endoftext|>"]


def test_merges_are_clips_bytes_first_then_ends_of_words_then_merges(net: AnomalyGPT) -> None:
    symbols = list(bytes_to_unicode().values())
    akz = [512, 256 + symbols.index("z")]  # "a k" is the first merge; z ends a word
    assert net.text.ids(["AKz  akz"])[0, :6].tolist() == [598, *akz, *akz, 599]


def test_norms_have_imagebinds_constant(net: AnomalyGPT) -> None:
    towers = [*net.vision.modules(), *net.text.modules()]
    norms = [module for module in towers if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 2 + 2 * REDUCED.vision_blocks + 1 + 2 * REDUCED.text_blocks
    assert {module.eps for module in norms} == {1e-6}


def test_what_follows_the_end_token_does_not_matter(net: AnomalyGPT) -> None:
    ids = net.text.ids(["grass"])
    end = int(ids.argmax())
    other = ids.clone()
    other[:, end + 1 :] = 5
    before = ids.clone()
    before[:, end - 1] = 5
    with torch.no_grad():
        torch.testing.assert_close(net.text(other), net.text(ids))
        assert not torch.allclose(net.text(before), net.text(ids), atol=1e-3)


def test_bytes_stand_in_where_there_are_no_weights() -> None:
    tower = ImageBindText(REDUCED)
    ids = tower.ids(["ab"])[0].tolist()
    assert ids == [598, ord("a") + 3, ord("b") + 3, 599, *[0] * 73]


@pytest.mark.parametrize("side", [112, 168])
def test_positions_are_interpolated_for_other_image_sizes(side: int) -> None:
    config = dataclasses.replace(REDUCED, image_size=side)
    tower, patches = ImageBindVision(config), (side // 14) ** 2
    with torch.no_grad():
        seen = tower(torch.randn(1, 3, side, side))
    assert [tap.shape for tap in seen.taps] == [(1, patches, config.vision_width)] * 4
    table = tower.embeddings._table(side // 14)
    assert table.shape == (1, 1 + patches, config.vision_width)
    if side == 112:
        assert table is tower.embeddings.positions


def test_a_still_image_meets_the_sum_of_both_frames_kernels() -> None:
    stem = Stem(5, 14)
    image = torch.randn(1, 3, 28, 28)
    video = torch.nn.functional.conv3d(image.unsqueeze(2).expand(-1, -1, 2, -1, -1), stem.weight, stride=stem.stride)
    torch.testing.assert_close(stem(image), video.flatten(2).mT, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", model.PRECISIONS)
def test_prepared_model_trains_a_step(precision: str) -> None:
    net = model.build(REDUCED, precision=precision)
    net.prepare(Normals())
    assert net.text_features is not None
    assert net.text_features.shape == (2, 2, REDUCED.text_width)
    torch.testing.assert_close(net.text_features.norm(dim=-1), torch.ones(2, 2))
    zeros = torch.zeros(2, dtype=torch.int64)
    ids = torch.randint(3, 200, (2, 20))
    batch = {
        "image": torch.randn(2, 3, 112, 112), "mask": torch.zeros(2, 112, 112), "class_id": zeros, "index": zeros,
        "few_shot": torch.tensor([False, True]), "pixel": torch.ones(2, dtype=torch.bool), "ids": ids, "labels": ids,
    }  # fmt: skip
    losses = net(batch)
    losses.total.backward()
    assert losses.total.isfinite()
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert {name for name, p in net.named_parameters() if p.grad is not None} == trained
    assert len(trained) == 21


def test_random_towers_depend_on_the_frozen_seed_only() -> None:
    first, again = (model.build(REDUCED, seed=seed) for seed in (1, 2))
    other = model.build(dataclasses.replace(REDUCED, frozen_seed=5))
    for (name, one), two, three in zip(
        first.vision.named_parameters(), again.vision.parameters(), other.vision.parameters(), strict=True
    ):
        assert torch.equal(one, two)
        assert one.ndim == 1 or name.endswith("norm.weight") or not torch.equal(one, three), name

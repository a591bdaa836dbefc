"""Published files in, deltas in and out: on synthetic files with the published keys, and on broken ones."""

import dataclasses
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import model
from model.anomalygpt import AnomalyGPT
from model.assets import AssetError
from model.checkpoints import load_delta, load_weights, made_with, save_delta
from model.tokenizer import tokenizer
from tests import published
from tests.published import REDUCED

FILES = ("imagebind_huge.pth", "pandagpt_7b.pt", "vicuna-7b-v0/pytorch_model-00002-of-00002.bin")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.write(tmp_path_factory.mktemp("published") / "weights")


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(source, tmp_path / "weights"))


@pytest.fixture(scope="module")
def net(source: Path) -> AnomalyGPT:
    return model.build(REDUCED, weights=source)


def edit(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


def test_every_tensor_arrives(net: AnomalyGPT) -> None:
    imagebind, vicuna, pandagpt = published.imagebind(), published.vicuna(), published.pandagpt()
    got = dict(net.named_parameters())
    for tower in ("vision", "text"):
        for n in range(len(getattr(net, tower).encoder.layers)):
            at, theirs = f"{tower}.encoder.layers.{n}", f"modality_trunks.{tower}.blocks.{n}"
            for kind in ("weight", "bias"):
                parts = torch.cat([got.pop(f"{at}.self_attn.{p}_proj.{kind}") for p in "qkv"])
                assert torch.equal(parts, imagebind[f"{theirs}.attn.in_proj_{kind}"])
                for ours, their in (("self_attn.out_proj", "attn.out_proj"), ("layer_norm1", "norm_1"), ("layer_norm2", "norm_2"),
                                    ("mlp.fc1", "mlp.fc1"), ("mlp.fc2", "mlp.fc2")):  # fmt: skip
                    assert torch.equal(got.pop(f"{at}.{ours}.{kind}"), imagebind[f"{theirs}.{their}.{kind}"])
    for ours, their in {
        "vision.embeddings.class_token": "modality_preprocessors.vision.cls_token",
        "vision.embeddings.stem.weight": "modality_preprocessors.vision.rgbt_stem.proj.1.weight",
        "vision.embeddings.positions": "modality_preprocessors.vision.pos_embedding_helper.pos_embed",
        "vision.embeddings.norm.weight": "modality_trunks.vision.pre_transformer_layer.0.weight",
        "vision.embeddings.norm.bias": "modality_trunks.vision.pre_transformer_layer.0.bias",
        "vision.norm.weight": "modality_heads.vision.0.weight",
        "vision.norm.bias": "modality_heads.vision.0.bias",
        "vision.projection.weight": "modality_heads.vision.2.weight",
        "text.embeddings.tokens.weight": "modality_preprocessors.text.token_embedding.weight",
        "text.embeddings.positions": "modality_preprocessors.text.pos_embed",
        "text.norm.weight": "modality_heads.text.proj.0.weight",
        "text.norm.bias": "modality_heads.text.proj.0.bias",
        "text.projection.weight": "modality_heads.text.proj.1.weight",
    }.items():
        assert torch.equal(got.pop(ours), imagebind[their]), ours
    for their, value in vicuna.items():
        if "inv_freq" not in their:
            wrapped = their.replace("_proj.", "_proj.base_layer.") if ".self_attn." in their else their
            assert torch.equal(got.pop(f"llm.llama.{wrapped}"), value.float()), their
    for their, value in pandagpt.items():
        assert torch.equal(got.pop(their.replace("llama_model.base_model.model.", "llm.llama.")), value.float()), their
    assert {name.split(".")[0] for name in got} == {"image_decoder", "prompt_learner"}


def test_the_llm_computes_what_plain_transformers_compute(net: AnomalyGPT) -> None:
    """Weights, rotary table and LoRA together: W + B A, scaled by alpha / r = 1, in a Llama without adapters."""
    from transformers import LlamaConfig, LlamaForCausalLM

    c, state, lora = REDUCED, published.vicuna(), published.pandagpt()
    plain = LlamaForCausalLM(LlamaConfig(
        hidden_size=c.llm_width, num_hidden_layers=c.llm_layers, num_attention_heads=c.llm_heads, vocab_size=c.llm_vocab,
        intermediate_size=c.llm_mlp, rms_norm_eps=c.rms_eps, tie_word_embeddings=False,
    ))  # fmt: skip
    merged = {key: value.float() for key, value in state.items() if "inv_freq" not in key}
    for n in range(c.llm_layers):
        for p in "qkvo":
            at = f"model.layers.{n}.self_attn.{p}_proj"
            a, b = (lora[f"llama_model.base_model.model.{at}.lora_{x}.default.weight"].float() for x in "AB")
            merged[f"{at}.weight"] = merged[f"{at}.weight"] + b @ a
    plain.load_state_dict(merged)
    ids = torch.randint(3, 300, (2, 15))
    with torch.no_grad():
        torch.testing.assert_close(
            net.llm.llama(input_ids=ids).logits, plain(input_ids=ids).logits, rtol=1e-4, atol=1e-4
        )


def test_the_tokenizer_is_llamas(net: AnomalyGPT) -> None:
    tokens = tokenizer(net.config)
    assert (tokens.bos_token_id, tokens.eos_token_id, tokens.pad_token_id, tokens.padding_side) == (1, 2, 2, "right")
    pieces = ([1], *(tokens(text, add_special_tokens=False).input_ids for text in ("### Human: <Img>", "</Img> ")))
    assert net.llm.fixed_ids.tolist() == [token for piece in pieces for token in piece]
    assert [len(piece) for piece in pieces] == [1, 6, 4]
    assert tokens.convert_ids_to_tokens(pieces[2]) == ["▁</", "Img", ">", "▁"]
    assert tokens.tokenize("Yes") == ["▁Yes"]  # a piece begins with a space of its own


def test_nothing_is_left_without_values_and_what_is_trained_stays_so(net: AnomalyGPT) -> None:
    everything = [*net.named_parameters(), *((name, b) for name, b in net.named_buffers() if b is not None)]
    assert [name for name, value in everything if value.is_meta] == []
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert trained == set(published.anomalygpt())
    assert net.training


def test_what_is_trained_depends_on_the_seed_only(net: AnomalyGPT) -> None:
    drawn = model.build(REDUCED, seed=0).state_dict()
    assert all(
        torch.equal(value, drawn[name]) for name, value in net.state_dict().items() if name in published.anomalygpt()
    )


def test_loading_again_into_a_model_with_values_changes_nothing(source: Path) -> None:
    net = model.build(REDUCED, weights=source)
    before = {name: (p, p.clone()) for name, p in net.named_parameters()}
    load_weights(net, source)
    for name, p in net.named_parameters():
        assert p is before[name][0]
        assert torch.equal(p, before[name][1])


def test_a_random_model_is_filled_in_place(source: Path, net: AnomalyGPT) -> None:
    filled = model.build(REDUCED)
    load_weights(filled, source)
    assert all(torch.equal(p, value) for p, value in zip(filled.parameters(), net.parameters(), strict=True))


def test_layers_of_the_variants_need_no_file(source: Path) -> None:
    config = dataclasses.replace(REDUCED, llm_dropout=0.1, llm_layer_norm=True, llm_batch_norm=True)
    net = model.build(config, weights=source)
    assert not any(p.is_meta for p in net.parameters())
    assert torch.equal(net.llm.llama.lm_head.weight, published.vicuna()["lm_head.weight"].float())


def test_safetensors_whole_and_bin_in_shards_are_the_same(folder: Path, net: AnomalyGPT) -> None:
    llm = folder / "vicuna-7b-v0"
    for file in llm.glob("pytorch_model*"):
        file.unlink()
    save_file(published.vicuna(), llm / "model.safetensors")
    other = model.build(REDUCED, weights=folder)
    assert all(torch.equal(p, value) for p, value in zip(other.parameters(), net.parameters(), strict=True))


def test_a_delta_in_the_folder_is_taken(folder: Path) -> None:
    torch.save(published.anomalygpt(), folder / "anomalygpt.pt")
    state = model.build(REDUCED, weights=folder).state_dict()
    assert all(torch.equal(state[name], value.float()) for name, value in published.anomalygpt().items())


# broken files


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(AssetError, match=f"{name} is missing"):
        model.build(REDUCED, weights=folder)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("left", [0.0, 0.5, 0.999])
def test_a_truncated_file_is_named(folder: Path, name: str, left: float) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(left * len(whole))])
    with pytest.raises(AssetError, match=rf"{name} cannot be read.*copy it again"):
        model.build(REDUCED, weights=folder)


KEYS = (
    "modality_trunks.vision.blocks.3.attn.in_proj_bias",
    "llama_model.base_model.model.model.layers.1.self_attn.o_proj.lora_B.default.weight",
    "lm_head.weight",
)


@pytest.mark.parametrize(("name", "key"), list(zip(FILES, KEYS, strict=True)))
def test_a_missing_key_is_named_with_its_file(folder: Path, name: str, key: str) -> None:
    edit(folder / name, lambda state: state.pop(key))
    with pytest.raises(AssetError, match=rf"{name.split('/')[0]} is not .* lacks {key}"):
        model.build(REDUCED, weights=folder)


@pytest.mark.parametrize("name", FILES)
def test_an_unexpected_key_is_named_with_its_file(folder: Path, name: str) -> None:
    edit(folder / name, lambda state: state.update({"modality_heads.vision.9.weight": torch.zeros(2)}))
    with pytest.raises(AssetError, match=rf"{name.split('/')[0]} is not .* has modality_heads.vision.9.weight"):
        model.build(REDUCED, weights=folder)


@pytest.mark.parametrize(("name", "key"), list(zip(FILES, KEYS, strict=True)))
def test_another_width_is_named_with_file_key_and_both_sizes(folder: Path, name: str, key: str) -> None:
    edit(folder / name, lambda state: state.update({key: torch.zeros(9, *state[key].shape[1:])}))
    with pytest.raises(
        AssetError, match=rf"{name.split('/')[0]}: (a third of )?{key} is \([39],.*the model's .* is \("
    ):
        model.build(REDUCED, weights=folder)


def test_a_fused_matrix_that_is_no_three_is_refused(folder: Path) -> None:
    edit(folder / FILES[0], lambda state: state.update({KEYS[0]: torch.zeros(7)}))
    with pytest.raises(AssetError, match="query, key and value"):
        model.build(REDUCED, weights=folder)


class Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run",)


@pytest.mark.parametrize("name", FILES[:2])
def test_code_is_refused_and_not_run(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"x": Code()}, folder / name)
    with pytest.raises(AssetError, match=f"{name}: refused"):
        model.build(REDUCED, weights=folder)
    assert capsys.readouterr().out == ""


def test_other_things_than_tensors_are_refused(folder: Path) -> None:
    torch.save([torch.zeros(2)], folder / FILES[0])
    with pytest.raises(AssetError, match="no dictionary of tensors"):
        model.build(REDUCED, weights=folder)
    (folder / FILES[0]).write_bytes(pickle.dumps({"x": 1}))
    with pytest.raises(AssetError, match="cannot be read"):
        model.build(REDUCED, weights=folder)


@pytest.mark.parametrize("text", ["[]", "{", '{"metadata": {}}'])
def test_a_broken_index_is_refused(folder: Path, text: str) -> None:
    (folder / "vicuna-7b-v0" / "pytorch_model.bin.index.json").write_text(text)
    with pytest.raises(AssetError, match="vicuna-7b-v0"):
        model.build(REDUCED, weights=folder)


def test_another_llm_is_refused_by_its_config(folder: Path) -> None:
    path = folder / "vicuna-7b-v0" / "config.json"
    path.write_text(path.read_text().replace('"num_attention_heads": 4', '"num_attention_heads": 8'))
    with pytest.raises(AssetError, match=r"config.json: num_attention_heads is 8, 7b has 4"):
        model.build(REDUCED, weights=folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bpe_simple_vocab_16e6.txt.gz", "CLIP"),
        ("vicuna-7b-v0/tokenizer.json", "neither tokenizer.json nor tokenizer.model"),
    ],
)
def test_missing_tokenizers_are_named(folder: Path, name: str, words: str) -> None:
    (folder / name).unlink()
    with pytest.raises(AssetError, match=words):
        model.build(REDUCED, weights=folder)


def test_short_merges_are_named(folder: Path) -> None:
    path = folder / "bpe_simple_vocab_16e6.txt.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(AssetError, match="cannot be read"):
        model.build(REDUCED, weights=folder)
    path.write_bytes(whole)
    with pytest.raises(AssetError, match="no 186 merges, as a vocabulary of 700 needs"):
        model.build(dataclasses.replace(REDUCED, text_vocab=700), weights=folder)


def test_a_model_that_is_all_on_meta_is_not_left_half_filled(source: Path) -> None:
    with torch.device("meta"):
        net = model.build(REDUCED)
    with pytest.raises(
        ValueError, match=r"no file has values for image_decoder.fc.0.bias.* build the model with weights="
    ):
        load_weights(net, source)


def test_files_are_mapped_and_only_tensors_are_unpickled(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, object]] = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: asked.append(options) or load(*args, **options))
    model.build(REDUCED, weights=source)
    assert len(asked) == 4  # ImageBind, two shards, PandaGPT
    assert all(options["mmap"] and options["weights_only"] for options in asked)


def test_towers_of_another_form_have_no_published_file(source: Path) -> None:
    with pytest.raises(ValueError, match="form imagebind only"):
        load_weights(model.build(model.preset("tiny")), source)


# deltas


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_delta_has_the_published_keys_and_comes_back(tmp_path: Path, dtype: str) -> None:
    config = dataclasses.replace(REDUCED, delta_dtype=dtype)
    net, other = model.build(config, seed=1), model.build(config, seed=2)
    path = tmp_path / "new" / "delta.pt"
    save_delta(net.state_dict(), path, config=config)
    saved = torch.load(path, weights_only=True)
    assert saved.keys() == published.anomalygpt().keys()
    assert {type(value) for value in saved.values()} == {nn.Parameter}
    assert {value.dtype for value in saved.values()} == {getattr(torch, dtype)}
    values = sum(value.numel() for value in saved.values())
    assert 0 < path.stat().st_size - values * getattr(torch, dtype).itemsize < 12_000
    load_delta(other, path)
    for name in saved:
        assert torch.equal(other.get_parameter(name), net.get_parameter(name).to(getattr(torch, dtype)).float()), name
    assert [each.name for each in path.parent.iterdir()] == ["delta.pt"]


def test_views_of_a_flat_buffer_are_saved_alone(tmp_path: Path) -> None:
    config = dataclasses.replace(REDUCED, delta_dtype="float32")
    state = model.build(config).state_dict()
    flat = torch.cat([value.flatten() for value in state.values()])
    pieces = flat.split([value.numel() for value in state.values()])
    views = {name: piece.view(state[name].shape) for name, piece in zip(state, pieces, strict=True)}
    for path, values in ((tmp_path / "plain.pt", state), (tmp_path / "views.pt", views)):
        save_delta(values, path, config=config)
    assert (tmp_path / "views.pt").stat().st_size == (tmp_path / "plain.pt").stat().st_size


def test_a_delta_works_for_any_preset(tmp_path: Path) -> None:
    config = model.preset("tiny")
    net, other = model.build(config, seed=1), model.build(config, seed=2)
    save_delta(net.state_dict(), tmp_path / "delta.pt", config=config)
    load_delta(other, tmp_path / "delta.pt")
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in net.state_dict().items())


def test_a_delta_says_which_model_it_is_of_and_a_published_one_need_not(tmp_path: Path) -> None:
    config = dataclasses.replace(model.preset("tiny"), llm_layer_norm=True, bank_shots=3, bank_rotations=False)
    save_delta(model.build(config).state_dict(), tmp_path / "delta.pt", config=config)
    assert made_with(tmp_path / "delta.pt") == {
        "preset": "tiny", "weights": False, "bank_shots": 3, "bank_rotations": False,
        "llm_dropout": 0.0, "llm_layer_norm": True, "llm_batch_norm": False,
    }  # fmt: skip
    plain = nn.Linear(2, 2).state_dict()  # torch's own notes beside the values are of another kind
    for other in (published.anomalygpt(), dict(published.anomalygpt()), plain):
        torch.save(other, tmp_path / "other.pt")
        assert made_with(tmp_path / "other.pt") == {}


def test_the_published_delta_form_is_read(tmp_path: Path) -> None:
    torch.save(published.anomalygpt(), tmp_path / "delta.pt")
    net = model.build(REDUCED)
    load_delta(net, tmp_path / "delta.pt")
    assert all(torch.equal(net.get_parameter(name), value.float()) for name, value in published.anomalygpt().items())
    assert all(net.get_parameter(name).requires_grad for name in published.anomalygpt())


def test_a_delta_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path, net = tmp_path / "delta.pt", model.build(REDUCED)
    for change, words in (
        (lambda state: state.pop("prompt_learner.base_prompts"), "lacks prompt_learner.base_prompts"),
        (lambda state: state.update({"extra": torch.zeros(1)}), "has extra"),
        (lambda state: state.update({"image_decoder.fc.0.bias": torch.zeros(9)}), r"image_decoder.fc.0.bias is \(9,\)"),
    ):
        torch.save(published.anomalygpt(), path)
        edit(path, change)
        with pytest.raises(AssetError, match=words):
            load_delta(net, path)
    with pytest.raises(AssetError, match="missing"):
        load_delta(net, tmp_path / "none.pt")


def test_a_delta_is_not_written_from_half_a_state_nor_past_half_precision(tmp_path: Path) -> None:
    state, path = dict(model.build(REDUCED).state_dict()), tmp_path / "delta.pt"
    state["prompt_learner.base_prompts"] = torch.full_like(state["prompt_learner.base_prompts"], 1e5)
    with pytest.raises(ValueError, match=r"prompt_learner.base_prompts has values that are not finite in float16"):
        save_delta(state, path, config=REDUCED)
    save_delta(state, path, config=dataclasses.replace(REDUCED, delta_dtype="float32"))
    before = path.read_bytes()
    del state["image_decoder.fc.2.bias"]
    with pytest.raises(ValueError, match=r"no image_decoder.fc.2.bias"):
        save_delta(state, path, config=dataclasses.replace(REDUCED, delta_dtype="float32"))
    assert path.read_bytes() == before

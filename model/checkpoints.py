"""Published weights in, and trained values in and out, under the names of the published files.

Tensors are copied one by one into the model: a process never holds a second whole copy.
"""

import os
import re
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from model.assets import AssetError
from model.presets import ModelConfig
from model.tensor_files import json_object, shards, state_of, tensors
from model.tokenizer import VICUNA

if TYPE_CHECKING:  # AnomalyGPT imports this file
    from model.anomalygpt import AnomalyGPT

IMAGEBIND, PANDAGPT, ANOMALYGPT = "imagebind_huge.pth", "pandagpt_7b.pt", "anomalygpt.pt"
TRAINED = ("image_decoder.", "prompt_learner.")
MADE_WITH = "ringzero"  # beside the values: which model they are of
# Fields of the config that a run may set otherwise than its preset.
SET_BY_RUN = ("llm_dropout", "llm_layer_norm", "llm_batch_norm", "bank_shots", "bank_rotations")
HALF_MAX = torch.finfo(torch.float16).max

# Our name -> ImageBind's key. A fused matrix holds query, key and value one under the other.
IMAGEBIND_KEYS = (
    (r"(vision|text)\.encoder\.layers\.(\d+)\.self_attn\.[qkv]_proj\.", r"modality_trunks.\1.blocks.\2.attn.in_proj_"),
    (r"(vision|text)\.encoder\.layers\.(\d+)\.self_attn\.out_proj\.", r"modality_trunks.\1.blocks.\2.attn.out_proj."),
    (r"(vision|text)\.encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"modality_trunks.\1.blocks.\2.norm_\3."),
    (r"(vision|text)\.encoder\.layers\.(\d+)\.mlp\.", r"modality_trunks.\1.blocks.\2.mlp."),
    (r"vision\.embeddings\.class_token", "modality_preprocessors.vision.cls_token"),
    (r"vision\.embeddings\.stem\.", "modality_preprocessors.vision.rgbt_stem.proj.1."),
    (r"vision\.embeddings\.positions", "modality_preprocessors.vision.pos_embedding_helper.pos_embed"),
    (r"vision\.embeddings\.norm\.", "modality_trunks.vision.pre_transformer_layer.0."),
    (r"vision\.norm\.", "modality_heads.vision.0."),
    (r"vision\.projection\.", "modality_heads.vision.2."),
    (r"text\.embeddings\.tokens\.", "modality_preprocessors.text.token_embedding."),
    (r"text\.embeddings\.positions", "modality_preprocessors.text.pos_embed"),
    (r"text\.norm\.", "modality_heads.text.proj.0."),
    (r"text\.projection\.", "modality_heads.text.proj.1."),
)
# Keys that nothing here needs: other senses' towers, the causal mask, and a scale that cancels in the softmax's features.
IMAGEBIND_SKIPPED = re.compile(
    r"modality_\w+\.(audio|depth|thermal|imu)\.|modality_preprocessors\.text\.mask$|.*\.log_logit_scale$"
)
LLAMA_SKIPPED = re.compile(r".*\.rotary_emb\.inv_freq$")  # computed; old transformers saved it
ADDED = re.compile(r".*\.(mlp\.norm|after_attention|after_mlp)\.")  # model/llm_layers.py: no file has them


def skeleton(config: ModelConfig) -> AbstractContextManager[Any]:
    """Around what `load_weights` fills: without values until then, so that no memory is held twice."""
    return nullcontext() if config.weights is None else torch.device("meta")


@torch.no_grad()
def load_weights(net: "AnomalyGPT", folder: Path) -> None:
    """Fill the frozen parts with the published files in `folder` (docs/weights.md), and the trained ones where it has them.

    What is on the meta device is made on torch's default device, in the model's own dtype. Raises AssetError, naming file
    and key: file missing, truncated or not only tensors; key missing or unexpected; another size than the config's.
    """
    frozen = [name for name, _ in net.named_parameters() if not name.startswith(TRAINED) and not ADDED.match(name)]
    towers = [name for name in frozen if name.startswith(("vision.", "text."))]
    adapted = [name for name in frozen if ".lora_" in name or name.startswith("llama_proj.")]
    llama = sorted(set(frozen) - set(towers) - set(adapted))
    path = folder / IMAGEBIND
    _fill(net, towers, path, tensors(path), _imagebind_key, IMAGEBIND_SKIPPED)
    path = folder / VICUNA
    _check_config(net.config, path)
    _fill(net, llama, path, shards(path), _llama_key, LLAMA_SKIPPED)
    path = folder / PANDAGPT
    _fill(net, adapted, path, tensors(path), _pandagpt_key)
    if (folder / ANOMALYGPT).exists():
        load_delta(net, folder / ANOMALYGPT)
    empty = [name for name, value in (*net.named_parameters(), *net.named_buffers()) if value.is_meta]
    if empty:
        raise ValueError(
            f"no file has values for {_some(empty)}: build the model with weights={str(folder)!r}, not on meta"
        )


def save_delta(state: Mapping[str, Tensor], path: Path, *, config: ModelConfig) -> None:
    """Write the trained values of a whole `state` as the published deltas are: an OrderedDict of Parameters.

    In `config.delta_dtype`; `made_with` reads back which model they are of. The file appears whole or not at all. Raises
    ValueError, naming the key, where a trained value is missing or does not fit half precision.
    """
    dtype = getattr(torch, config.delta_dtype)
    delta = OrderedDict()
    for name in _trained_names(config):
        if name not in state:
            raise ValueError(f"{path}: not written, the state has no {name}; give what full_state() returns")
        value = state[name].detach().to("cpu", dtype, copy=True)  # a view would be saved with the whole that it views
        if not value.isfinite().all():
            raise ValueError(f"{path}: not written, {name} has values that are not finite in {config.delta_dtype}")
        delta[name] = nn.Parameter(value)
    made = {"preset": config.name, "weights": config.weights is not None}
    made |= {name: getattr(config, name) for name in SET_BY_RUN}
    vars(delta)["_metadata"] = {MADE_WITH: made}  # where torch keeps such things: no reader takes it for a value
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as partial:
        try:
            torch.save(delta, partial)
            partial.flush()
            os.fsync(partial.fileno())
            os.chmod(partial.name, 0o644)  # temporary files are made 0600
            os.replace(partial.name, path)
        except BaseException:
            os.unlink(partial.name)
            raise


@torch.no_grad()
def load_delta(net: "AnomalyGPT", path: Path) -> None:
    """Fill the trained parts with a delta, in any dtype. Raises AssetError, naming file and key, where it does not fit."""
    _fill(net, _trained_names(net.config), path, tensors(path), lambda name: name)


def made_with(path: Path) -> dict[str, Any]:
    """`preset`, `weights` (whether published ones), and SET_BY_RUN of the config that a delta was saved with.

    Nothing for a published or an older file. Raises AssetError where it cannot be read.
    """
    known = getattr(state_of(path), "_metadata", None)
    made = known.get(MADE_WITH) if isinstance(known, dict) else None
    if not isinstance(made, dict) or not isinstance(made.get("preset"), str):
        return {}
    return {name: made[name] for name in ("preset", "weights", *SET_BY_RUN) if name in made}


def _trained_names(config: ModelConfig) -> list[str]:
    layers = [f"image_decoder.fc.{tap}" for tap in range(len(config.taps))]
    layers += [f"prompt_learner.meta_net.{3 * index}" for index in range(len(config.prompt_channels) + 1)]
    return [*(f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")), "prompt_learner.base_prompts"]


def _imagebind_key(name: str) -> str:
    for pattern, key in IMAGEBIND_KEYS:
        found, count = re.subn("^" + pattern, key, name)
        if count:
            return found
    raise ValueError(f"ImageBind has no {name}: load_weights takes towers of the form imagebind only")


def _llama_key(name: str) -> str:
    return name.removeprefix("llm.llama.").replace(".base_layer.", ".")


def _pandagpt_key(name: str) -> str:
    return name.replace("llm.llama.", "llama_model.base_model.model.")


def _fill(
    net: "AnomalyGPT",
    names: Iterable[str],
    path: Path,
    found: Iterable[tuple[str, Tensor]],
    key_of: Callable[[str], str],
    skipped: re.Pattern[str] | None = None,
) -> None:
    """Copy each tensor to the parameters that are it, or a third of it."""
    wanted: dict[str, list[str]] = {}
    for name in names:
        wanted.setdefault(key_of(name), []).append(name)
    unexpected = []
    for key, tensor in found:
        owners = wanted.pop(key, None)
        if owners is None:
            unexpected += [] if skipped and skipped.match(key) else [key]
        elif len(owners) == 1:
            _copy(net, owners[0], tensor, f"{path}: {key}")
        else:
            if tensor.ndim == 0 or tensor.shape[0] % 3:
                raise AssetError(f"{path}: {key} is {tuple(tensor.shape)}, no query, key and value of equal size")
            order = sorted(owners, key=lambda name: "qkv".index(name[name.index("_proj") - 1]))
            for owner, part in zip(order, tensor.chunk(3), strict=True):
                _copy(net, owner, part, f"{path}: a third of {key}")
    wrong = [f"it lacks {_some(list(wanted))}"] if wanted else []
    wrong += [f"it has {_some(unexpected)}, which the model has not"] if unexpected else []
    if wrong:
        raise AssetError(f"{path} is not the published file for {net.config.name}: {'; '.join(wrong)}")


def _copy(net: nn.Module, name: str, value: Tensor, what: str) -> None:
    parameter = net.get_parameter(name)
    if parameter.shape != value.shape:
        raise AssetError(f"{what} is {tuple(value.shape)}, the model's {name} is {tuple(parameter.shape)}; "
                         "take the preset of this file's sizes")  # fmt: skip
    if parameter.is_meta:
        empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=torch.get_default_device())
        parameter, trained = nn.Parameter(empty, requires_grad=False), parameter.requires_grad
        owner, _, own = name.rpartition(".")
        setattr(net.get_submodule(owner), own, parameter.requires_grad_(trained))
    parameter.copy_(value)


def _some(keys: list[str], most: int = 5) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(sorted(keys)[:most]) + more


def _check_config(config: ModelConfig, folder: Path) -> None:
    """What no tensor's size tells."""
    path = folder / "config.json"
    found = json_object(path)
    heads = {"num_attention_heads": config.llm_heads, "num_key_value_heads": config.llm_kv_heads}
    expected = {"num_hidden_layers": config.llm_layers, **heads, "rms_norm_eps": config.rms_eps}
    found.setdefault("num_key_value_heads", found.get("num_attention_heads"))
    for field, value in expected.items():
        if found.get(field) != value:
            raise AssetError(f"{path}: {field} is {found.get(field)}, {config.name} has {value}; this is another LLM")

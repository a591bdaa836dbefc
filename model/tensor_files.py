"""The tensors of weight files, one after the other. Only tensors are unpickled, never code.

Files are memory-mapped: what is read are pages of the system's cache, the same ones for all ranks of a node.
"""

import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.assets import AssetError


def tensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a `torch.save` file by its key. Raises AssetError: missing, truncated, or more than tensors."""
    yield from state_of(path).items()


def state_of(path: Path) -> Mapping[str, Tensor]:
    """What a `torch.save` file holds, as it was saved. Raises AssetError like `tensors`."""
    if not path.is_file():
        raise AssetError(f"{path} is missing; docs/weights.md says where it comes from")
    try:
        state = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise AssetError(
            f"{path}: refused, it holds more than tensors; take the file that its project published"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise AssetError(
            f"{path} cannot be read: truncated, or not a file of torch.save ({error}); copy it again"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise AssetError(f"{path} is no dictionary of tensors; it is not one of the published files")
    return state


def shards(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a Hugging Face folder, whole or in shards, one file after the other. Raises AssetError like `tensors`."""
    for kind in ("model.safetensors", "pytorch_model.bin"):
        index, whole = folder / f"{kind}.index.json", folder / kind
        if index.is_file() or whole.is_file():
            break
    else:
        raise AssetError(
            f"{folder} has no model.safetensors, no pytorch_model.bin and no index of either; docs/weights.md"
        )
    files = [whole]
    if index.is_file():
        files = [folder / name for name in sorted(set(json_object(index).get("weight_map", {}).values()))]
    for file in files:
        yield from _safetensors(file) if kind == "model.safetensors" else tensors(file)


def _safetensors(path: Path) -> Iterator[tuple[str, Tensor]]:
    if not path.is_file():
        raise AssetError(f"{path} is missing; docs/weights.md says where it comes from")
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118, it is no dictionary
                yield key, file.get_tensor(key)
    except SafetensorError as error:
        raise AssetError(f"{path} cannot be read ({error}); copy it again") from error


def json_object(path: Path) -> dict[str, Any]:
    """What a JSON file of a weights folder holds. Raises AssetError where it cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise AssetError(f"{path} cannot be read ({error}); copy it again") from error
    if not isinstance(found, dict):
        raise AssetError(f"{path} holds no object; copy it again")
    return found

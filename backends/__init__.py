"""Engines by name, each imported only when asked for: a machine without Horovod runs the others."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backends.base import Backend

NAMES: dict[str, str] = {
    "single": "backends.single:Single",
    "ddp": "backends.ddp:DDP",
    "fsdp": "backends.fsdp:FSDP",
    "deepspeed": "backends.deepspeed:DeepSpeed",
    "horovod": "backends.horovod:Horovod",
    "ring": "backends.ring.backend:Ring",
}


def load(name: str) -> "type[Backend]":
    """The adapter class of an engine.

    Raises ValueError for an unknown name, BackendUnavailable (with what to type) where the engine is not installed.
    """
    if name not in NAMES:
        raise ValueError(f"unknown backend {name!r}; there are: {', '.join(NAMES)}")
    module, _, attribute = NAMES[name].partition(":")
    backend: type[Backend] = getattr(import_module(module), attribute)
    return backend

"""AnomalyGPT in plain torch: the workload of every engine. Nothing here is distributed.

What is named here is loaded when it is first asked for: sizes and variants can be read without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model.anomalygpt import AnomalyGPT
    from model.assembly import build
    from model.losses import Losses
    from model.precision import PRECISIONS
    from model.presets import PRESETS, ModelConfig, preset

__all__ = ["PRECISIONS", "PRESETS", "AnomalyGPT", "Losses", "ModelConfig", "build", "preset"]

_WHERE = {
    "PRECISIONS": "precision",
    "PRESETS": "presets",
    "AnomalyGPT": "anomalygpt",
    "Losses": "losses",
    "ModelConfig": "presets",
    "build": "assembly",
    "preset": "presets",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'model' has no attribute {name!r}")
    return getattr(import_module(f"model.{_WHERE[name]}"), name)

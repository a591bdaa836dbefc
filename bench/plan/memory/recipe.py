"""Precision recipes: bytes of what an engine holds of each value, and of what autograd keeps.

`mixed_fp16` and `mixed_bf16` are those of the ZeRO paper (arXiv 1910.02054, section 3.1): 2 bytes a parameter, 2 a gradient, and
an fp32 master copy beside the optimizer's moments, K = 12 under Adam. FSDP2 has no second copy: it keeps fp32 shards and
reduces what it gathers. `fp32` and `amp_bf16` are the model's own profiles (model/precision.py): all states in fp32.
"""

from dataclasses import dataclass

from bench.config import ConfigError
from bench.memory_model import Widths


@dataclass(frozen=True)
class Recipe:
    """`activation`: bytes of what products and attention keep. `autocast`: weights are copied to 16 bits as they are used."""

    name: str
    widths: Widths
    activation: int
    autocast: bool = False


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("fp32", Widths(), 4),
        Recipe("amp_bf16", Widths(), 2, autocast=True),
        Recipe("mixed_fp16", Widths(2, 2, 4), 2),
        Recipe("mixed_bf16", Widths(2, 2, 4), 2),
    )
}


def recipe(name: str) -> Recipe:
    """Raises ConfigError, listing the names, for an unknown one."""
    if name not in RECIPES:
        raise ConfigError(f"--precision {name}: unknown; there are: {', '.join(RECIPES)}")
    return RECIPES[name]

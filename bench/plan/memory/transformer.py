"""A plain GPT: parameters as Narayanan et al. 2021 (arXiv 2104.04473, eq. 2), activations as Korthikanti et al. 2022
(arXiv 2205.05198, section 4) count them, tensor-parallel size 1.

Letters: s sequence, b samples, h hidden, a heads, L layers, V vocabulary, e bytes of an activation.
"""

import functools
from dataclasses import dataclass
from typing import Literal

from bench.config import ConfigError
from bench.memory_model import Shape, Shapes
from bench.plan.memory.recipe import Recipe

LOSS = 4  # bytes of a logit: the loss is fp32


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """Everything is trained. `attention`: eager keeps two squares of positions a head, fused one number a position instead.
    `loss`: eager makes fp32 logits, fused reads them as the head made them."""

    hidden: int
    layers: int
    heads: int
    sequence: int
    vocabulary: int
    attention: Literal["fused", "eager"] = "fused"
    loss: Literal["fused", "eager"] = "eager"
    dropout: bool = True
    """A byte a value that dropout saw, as the paper counts."""
    label: str = ""

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "sequence", "vocabulary"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name} is {getattr(self, name)}; it must be at least 1")
        if self.hidden % self.heads:
            raise ConfigError(f"--hidden {self.hidden} can't be shared by {self.heads} heads")

    @property
    def name(self) -> str:
        return self.label or f"transformer of {self.parameters / 1e9:.3g}e9 parameters"

    @property
    def recomputes(self) -> bool:
        return True

    @property
    def _block(self) -> tuple[Shape, ...]:
        h = self.hidden
        products: tuple[Shape, ...] = ((3 * h, h), (3 * h,), (h, h), (h,), (4 * h, h), (4 * h,), (h, 4 * h), (h,))
        return (*products, (h,), (h,), (h,), (h,))

    @functools.cached_property
    def shapes(self) -> Shapes:
        """12 h^2 + 13 h a layer; tables of tokens (shared with the head) and positions; a last norm."""
        return Shapes(trained=(*self.root[:2], *self._block * self.layers, *self.root[2:]), frozen=())

    @property
    def parameters(self) -> int:
        """12 L h^2 (1 + 13 / 12h + (V + s) / 12Lh), and 2 h of the last norm that the equation leaves out."""
        return self.shapes.trained_values

    @property
    def units(self) -> tuple[tuple[Shape, ...], ...]:
        return (self._block,)

    @property
    def root(self) -> tuple[Shape, ...]:
        h = self.hidden
        return ((self.vocabulary, h), (self.sequence, h), (h,), (h,))

    @property
    def buffer_bytes(self) -> int:
        return 0

    def layer_bytes(self, samples: int, e: int, checkpointing: str) -> int:
        """sbh (34 + 5 a s / h) with e = 2 and dropout (eq. 2 with t = 1): 16 e sbh of inputs, 2 sbh of dropout's masks, and of
        eager attention's squares e of softmax and, with dropout, one of its mask and e of its result. `selective` drops
        the squares (section 5), `full` keeps the layer's input alone."""
        values = self.sequence * samples * self.hidden
        if checkpointing == "full":
            return e * values
        squares = self.heads * self.sequence**2 * samples
        kept = (16 * e + (2 if self.dropout else 0)) * values
        if self.attention == "fused":
            return kept + LOSS * self.heads * self.sequence * samples
        return kept + (0 if checkpointing == "selective" else (2 * e + 1 if self.dropout else e) * squares)

    def activations(self, samples: int, recipe: Recipe, checkpointing: str, *, saves_inputs: bool) -> dict[str, int]:
        """By part; recomputation makes one layer whole again. Outside the layers (section 4.3): dropout after the tables, the
        last norm's input, the head's input, fp32 logits."""
        e, values = recipe.activation, self.sequence * samples * self.hidden
        return {
            "layers": self.layers * self.layer_bytes(samples, e, checkpointing),
            "recomputed": 0 if checkpointing == "none" else self._again(samples, e, checkpointing),
            "head": values * (2 * e + self.dropout) + self._logit(e) * self.sequence * samples * self.vocabulary,
            "weight_copies": 2 * self.parameters if recipe.autocast else 0,
        }

    def _again(self, samples: int, e: int, checkpointing: str) -> int:
        return self.layer_bytes(samples, e, "none") - self.layer_bytes(samples, e, checkpointing)

    def _logit(self, e: int) -> int:
        return LOSS if self.loss == "eager" else e

    def workspace(self, samples: int, recipe: Recipe) -> int:
        """Gradients of the logits, and, where an eager loss has made fp32 of them, the logits as the head made them."""
        e = recipe.activation
        reduced = e if self._logit(e) != e else 0
        return (self._logit(e) + reduced) * self.sequence * samples * self.vocabulary

    def flops(self) -> int:
        """72 s L h^2 (1 + s / 6h + V / 12 L h): Megatron's equation without recomputation."""
        s, h = self.sequence, self.hidden
        return 72 * s * self.layers * h * h + 12 * self.layers * h * s * s + 6 * s * h * self.vocabulary

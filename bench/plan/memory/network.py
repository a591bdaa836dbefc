"""What a prediction knows of a model: its tensors, the blocks that are gathered one by one, what backward keeps."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from bench.config import ConfigError
from bench.memory_model import Shape, Shapes
from bench.plan.memory.recipe import Recipe
from model import preset
from model.activations import FULL, HALF, activation_bytes, llm_layer
from model.cost import Cost, cost
from model.presets import ModelConfig
from model.shapes import Part, flat, frozen, trained

CHECKPOINTING = ("none", "selective", "full")


class Network(Protocol):
    """Sizes of one model. A unit is a block that FSDP gathers on its own; what is in no unit is its root."""

    @property
    def name(self) -> str: ...

    @property
    def recomputes(self) -> bool:
        """Whether activation checkpointing can be asked of it."""

    @property
    def shapes(self) -> Shapes: ...

    @property
    def units(self) -> tuple[tuple[Shape, ...], ...]:
        """Tensors of one block of each kind."""

    @property
    def root(self) -> tuple[Shape, ...]:
        """Tensors outside all blocks."""

    @property
    def buffer_bytes(self) -> int:
        """Of the model's own buffers: whole on every rank under every engine."""

    def activations(self, samples: int, recipe: Recipe, checkpointing: str, *, saves_inputs: bool) -> dict[str, int]:
        """Bytes that backward keeps of one micro-batch, by part. `saves_inputs`: frozen layers keep theirs too (ZeRO-3)."""

    def workspace(self, samples: int, recipe: Recipe) -> int:
        """Bytes of the largest temporaries beside them, where backward begins: gradients of logits or maps."""

    def flops(self) -> int:
        """Forward and backward of one sample, nothing recomputed."""


@dataclass(frozen=True, kw_only=True)
class Anomaly:
    """AnomalyGPT of a preset. A sample has `text_tokens` text positions, `answer_tokens` of which have a target.

    `classes` have memory banks and text features: buffers.
    """

    config: ModelConfig
    text_tokens: int = 128
    answer_tokens: float = 64
    classes: int = 1

    def __post_init__(self) -> None:
        for flag, value in (("text-tokens", self.text_tokens), ("answer-tokens", self.answer_tokens)):
            if not value > 0:
                raise ConfigError(f"--{flag} is {value}; it must be above 0")
        if self.answer_tokens > self.text_tokens:
            raise ConfigError(f"--answer-tokens {self.answer_tokens} are among the --text-tokens {self.text_tokens}")
        if self.classes < 1:
            raise ConfigError(f"--classes is {self.classes}; it must be at least 1")

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def recomputes(self) -> bool:
        """Not in this repository: what `full` would keep is predicted, and never advised."""
        return False

    @functools.cached_property
    def _parts(self) -> tuple[list[Part], list[Part]]:
        return trained(self.config), frozen(self.config)

    @functools.cached_property
    def shapes(self) -> Shapes:
        mine, others = self._parts
        return Shapes(trained=flat(mine), frozen=flat(others))

    @property
    def units(self) -> tuple[tuple[Shape, ...], ...]:
        return tuple(part.block for parts in self._parts for part in parts if part.in_blocks)

    @property
    def root(self) -> tuple[Shape, ...]:
        return flat(part for parts in self._parts for part in parts if not part.in_blocks)

    @property
    def buffer_bytes(self) -> int:
        """Banks and features of each class; pixel constants, fixed tokens, rotary table twice, BERT's two position rows."""
        c = self.config
        each = len(c.taps) * c.bank_patches * c.vision_width + 2 * c.text_width
        rows = 0 if c.text_form == "imagebind" else 2 * 8 * c.text_positions
        fixed = 8 * (1 + c.open_tokens + c.close_tokens)
        return FULL * (self.classes * each + 6 + c.llm_width // c.llm_heads) + fixed + rows

    @functools.cached_property
    def cost(self) -> Cost:
        return cost(self.config, text_tokens=self.text_tokens, answer_tokens=self.answer_tokens)

    def flops(self) -> int:
        return self.cost.step_flops

    def activations(self, samples: int, recipe: Recipe, checkpointing: str, *, saves_inputs: bool) -> dict[str, int]:
        """As model/activations.py; `full` keeps the input of each LLM layer and one layer whole. Attention is fused already, so
        `selective` changes nothing here."""
        c, e = self.config, recipe.activation
        positions = samples * (c.prefix_tokens + self.text_tokens)
        kept = dict(
            activation_bytes(
                c,
                text_tokens=self.text_tokens,
                answer_tokens=self.answer_tokens,
                samples=samples,
                precision="amp_bf16" if e == HALF else "fp32",
            )
        )
        if not recipe.autocast:
            kept["weight_copies"] = 0
        inputs = 0
        if saves_inputs:  # of query, key, value together, of output, gate and up together, down; LoRA's second product
            inputs = positions * (2 * c.llm_width + c.llm_mlp + 4 * c.lora_rank) * e
            kept["frozen_inputs"] = round(samples * self.answer_tokens) * c.llm_width * e
        if checkpointing == "full":
            kept["llm"] += positions * (c.llm_layers * (c.llm_width * e - llm_layer(c, e)) + llm_layer(c, e))
            kept["llm"] += inputs
        else:
            kept["llm"] += inputs * c.llm_layers
        return kept

    def workspace(self, samples: int, recipe: Recipe) -> int:
        """Gradients of the logits, or five of a tap's maps each, as the focal loss needs at once (seen in the dry run)."""
        c = self.config
        logits = self.answer_tokens * c.llm_vocab
        return round(samples * FULL * max(logits, 5 * len(c.taps) * c.image_size**2))


def largest_tensor(shapes: Shapes, *, trained_only: bool = False) -> int:
    """Values of the largest tensor: what ZeRO-3 gathers at least, and what no bucket is smaller than."""
    chosen = shapes.trained if trained_only else (*shapes.trained, *shapes.frozen)
    return max(math.prod(shape) for shape in chosen)


def anomaly(name: str, **sizes: float) -> Anomaly:
    """The preset called `name`. Raises ConfigError for another."""
    try:
        config = preset(name)
    except ValueError as error:
        raise ConfigError(f"--preset: {error}") from error
    settings: Mapping[str, float] = sizes
    return Anomaly(config=config, **settings)  # type: ignore[arg-type]

"""Every parameter's shape, from the sizes alone: what sharding cuts and pads. Nothing is built.

In the order of a built model for what is trained (a flat buffer's cut depends on it); frozen tensors are in any order.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from model.cost import attention_shapes, convolutions
from model.presets import ModelConfig

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """Tensors of `count` equal blocks (each of which an engine may gather on its own), or of what is in no block."""

    name: str
    block: tuple[Shape, ...]
    count: int = 1
    in_blocks: bool = False

    @property
    def values(self) -> int:
        """Of one block."""
        return sum(math.prod(shape) for shape in self.block)

    @property
    def shapes(self) -> tuple[Shape, ...]:
        return self.block * self.count


def trained(c: ModelConfig) -> list[Part]:
    """The image decoder's taps, then the prompt learner, whose free tokens come first."""
    learner: list[Shape] = [(c.base_tokens, c.llm_width)]
    for before, after, kernel, _ in convolutions(c):
        learner += [(after, before, kernel, kernel), (after,)]
    decoder = Part("image_decoder", tuple(_linear(c.vision_width, c.text_width)), len(c.taps), in_blocks=True)
    return [decoder, Part("prompt_learner", tuple(learner))]


def frozen(c: ModelConfig) -> list[Part]:
    """Towers, projection, LLM with LoRA."""
    v, w = c.vision_width, c.text_width
    vision = _block(v, c.vision_mlp_ratio * v) + ([] if c.vision_form == "imagebind" else [(v,), (v,)])
    llm: list[Shape] = [(out, inputs) for inputs, out in attention_shapes(c)]
    llm += [(c.llm_mlp, c.llm_width)] * 2 + [(c.llm_width, c.llm_mlp)] + [(c.llm_width,)] * 2
    llm += [(c.llm_mlp,)] * 2 if c.llm_layer_norm else []
    llm += [(c.llm_width,)] * 4 if c.llm_batch_norm else []
    lora = [shape for inputs, out in attention_shapes(c) for shape in ((c.lora_rank, inputs), (out, c.lora_rank))]
    tables = [(c.llm_vocab, c.llm_width)] * (1 if c.llm_tied else 2)
    return [
        Part("vision", tuple(vision), c.vision_blocks, in_blocks=True),
        Part("vision", tuple(_vision_rest(c))),
        Part("text", tuple(_block(w, c.text_mlp)), c.text_blocks, in_blocks=True),
        Part("text", tuple(_text_rest(c))),
        Part("llama_proj", tuple(_linear(c.embed_width, c.llm_width))),
        Part("llm", (*llm, *lora), c.llm_layers, in_blocks=True),
        Part("llm", (*tables, (c.llm_width,))),
    ]


def flat(parts: Iterable[Part]) -> tuple[Shape, ...]:
    """All tensors of some parts."""
    return tuple(shape for part in parts for shape in part.shapes)


def _linear(inputs: int, outputs: int) -> list[Shape]:
    return [(outputs, inputs), (outputs,)]


def _block(width: int, mlp: int) -> list[Shape]:
    """Query, key, value, output; two MLP layers; two norms; all with bias."""
    return 4 * _linear(width, width) + _linear(width, mlp) + _linear(mlp, width) + [(width,)] * 4


def _vision_rest(c: ModelConfig) -> list[Shape]:
    v, p = c.vision_width, c.patch_size
    tables: list[Shape] = [(1, 1, v), (1, c.vision_grid**2 + 1, v)]
    if c.vision_form == "imagebind":
        return [(v, 3, 2, p, p), *tables, *[(v,)] * 4, (c.embed_width, v)]
    return [(v, 3, p, p), (v,), *tables, (v,), (v,)]


def _text_rest(c: ModelConfig) -> list[Shape]:
    w = c.text_width
    if c.text_form == "imagebind":
        return [(c.text_vocab, w), (1, c.text_positions, w), (w,), (w,), (w, w)]
    return [(c.text_vocab, w), (c.text_positions, w), (2, w), (w,), (w,)]

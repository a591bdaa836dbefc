"""What a training step costs, from the sizes alone: parameters, gradient bytes and FLOPs per sample.

What it keeps in memory for backward is in model/activations.py.

A FLOP is one multiplication or one addition: a matrix product (m, k) x (k, n) takes 2 m k n. Counted are matrix
products and convolutions. Left out are norms, activations, softmax, pooling, rotary embedding, upsampling, losses and
optimizer, and what `prepare` does once. Nothing is recomputed.

Backward of a product is up to two products of the same size, one for its input's gradient and one for its weight's:

- towers, projection, memory bank: under no_grad, neither;
- LLM and LoRA: the input's only, since weights are frozen; attention has two inputs a product and no weight, so twice;
- image decoder: the weight's only, since its input comes from a frozen tower;
- prompt learner: both, since the loss reaches the decoder through the map.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from model.presets import ModelConfig

GRADIENT_BYTES = 4  # fp32 in every precision profile


@dataclass(frozen=True)
class Cost:
    """Parameters by part; FLOPs of one sample by part, forward and backward."""

    trainable: Mapping[str, int]
    frozen: Mapping[str, int]
    forward: Mapping[str, int]
    backward: Mapping[str, int]
    blocks: Mapping[
        str, Mapping[str, int]
    ]  # of parts that are lists of equal layers: `count`, and their `parameters` in all
    thin: int  # parameters of tensors whose first dimension is 1: sharding that dimension pads them
    tied: int  # parameters of the token table where the LLM's head shares it, else 0

    @property
    def gradient_bytes(self) -> int:
        """Bytes of gradients that a rank gives to the exchange in one step."""
        return GRADIENT_BYTES * sum(self.trainable.values())

    @property
    def step_flops(self) -> int:
        """Forward and backward of one sample."""
        return sum(self.forward.values()) + sum(self.backward.values())


def cost(config: ModelConfig, *, text_tokens: int, answer_tokens: float) -> Cost:
    """Cost of a sample with `text_tokens` text positions, padding included, `answer_tokens` of which have a target."""
    forward = {
        "vision": _vision_flops(config),
        "llama_proj": 2 * config.embed_width * config.llm_width,
        "memory_bank": 2 * len(config.taps) * config.patches * config.bank_patches * config.vision_width,
        "image_decoder": _decoder_flops(config),
        "prompt_learner": _prompt_flops(config),
        "llm": _llm_flops(config, text_tokens),
        "llm_attention": _llm_attention_flops(config, text_tokens),
        "llm_head": round(2 * answer_tokens * config.llm_width * config.llm_vocab),
    }
    times = {"image_decoder": 1, "prompt_learner": 2, "llm": 1, "llm_attention": 2, "llm_head": 1}
    return Cost(
        trainable={"image_decoder": _decoder_parameters(config), "prompt_learner": _prompt_parameters(config)},
        frozen={
            "vision": _vision_parameters(config),
            "text": _text_parameters(config),
            "llama_proj": _linear(config.embed_width, config.llm_width),
            "llm": _llm_parameters(config),
            "lora": config.llm_layers * config.lora_rank * sum(a + b for a, b in attention_shapes(config)),
        },
        forward=forward,
        backward={part: times.get(part, 0) * flops for part, flops in forward.items()},
        blocks=_blocks(config),
        thin=config.vision_width
        + (config.vision_grid**2 + 1) * config.vision_width
        + (config.text_positions * config.text_width if config.text_form == "imagebind" else 0),
        tied=config.llm_vocab * config.llm_width if config.llm_tied else 0,
    )


def _blocks(c: ModelConfig) -> dict[str, dict[str, int]]:
    vision = _encoder_block(c.vision_width, c.vision_mlp_ratio * c.vision_width)
    vision += 2 * c.vision_width if c.vision_form != "imagebind" else 0
    outside = (1 if c.llm_tied else 2) * c.llm_vocab * c.llm_width + c.llm_width
    lora = c.llm_layers * c.lora_rank * sum(a + b for a, b in attention_shapes(c))
    return {
        "vision": {"count": c.vision_blocks, "parameters": c.vision_blocks * vision},
        "text": {"count": c.text_blocks, "parameters": c.text_blocks * _encoder_block(c.text_width, c.text_mlp)},
        "llm": {"count": c.llm_layers, "parameters": _llm_parameters(c) - outside},
        "lora": {"count": c.llm_layers, "parameters": lora},
        "image_decoder": {"count": len(c.taps), "parameters": _decoder_parameters(c)},
    }


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def _encoder_block(width: int, mlp: int) -> int:
    """Query, key, value, output; two MLP layers; two norms; all with bias."""
    return 4 * _linear(width, width) + _linear(width, mlp) + _linear(mlp, width) + 2 * 2 * width


def _vision_parameters(c: ModelConfig) -> int:
    """DINOv2: patch convolution, class token, position table, blocks with two layer scales each, last norm.

    ImageBind: convolution without bias, two frames deep; token, table, norm; plain blocks; norm and projection.
    """
    v, block = c.vision_width, _encoder_block(c.vision_width, c.vision_mlp_ratio * c.vision_width)
    table = v + (c.vision_grid**2 + 1) * v
    if c.vision_form == "imagebind":
        return 2 * 3 * c.patch_size**2 * v + table + 2 * v + c.vision_blocks * block + 2 * v + v * c.embed_width
    return _linear(3 * c.patch_size**2, v) + table + c.vision_blocks * (block + 2 * v) + 2 * v


def _text_parameters(c: ModelConfig) -> int:
    """BERT: tables of tokens, positions and two segments, their norm, blocks. ImageBind: two tables, blocks, norm, projection."""
    w, blocks = c.text_width, c.text_blocks * _encoder_block(c.text_width, c.text_mlp)
    if c.text_form == "imagebind":
        return (c.text_vocab + c.text_positions) * w + blocks + 2 * w + w * w
    return (c.text_vocab + c.text_positions + 2) * w + 2 * w + blocks


def attention_shapes(c: ModelConfig) -> list[tuple[int, int]]:
    """(inputs, outputs) of query, key, value, output: keys and values have `llm_kv_heads` heads of the same width."""
    kv = c.llm_width // c.llm_heads * c.llm_kv_heads
    return [(c.llm_width, c.llm_width), (c.llm_width, kv), (c.llm_width, kv), (c.llm_width, c.llm_width)]


def _llm_parameters(c: ModelConfig) -> int:
    """Llama without biases: attention, gate, up, down, two norms a layer; one norm; one or two tables."""
    layer = sum(a * b for a, b in attention_shapes(c)) + 3 * c.llm_width * c.llm_mlp + 2 * c.llm_width
    layer += (2 * c.llm_mlp if c.llm_layer_norm else 0) + (4 * c.llm_width if c.llm_batch_norm else 0)
    return (1 if c.llm_tied else 2) * c.llm_vocab * c.llm_width + c.llm_layers * layer + c.llm_width


def _decoder_parameters(c: ModelConfig) -> int:
    return len(c.taps) * _linear(c.vision_width, c.text_width)


def llm_products(c: ModelConfig) -> int:
    """Weights of a layer's products: attention, MLP, and LoRA's two thin ones beside each of attention's."""
    return sum(a * b + c.lora_rank * (a + b) for a, b in attention_shapes(c)) + 3 * c.llm_width * c.llm_mlp


def convolutions(c: ModelConfig) -> list[tuple[int, int, int, int]]:
    """(inputs, outputs, kernel side, output side) of the prompt learner's six: 3x3 before each halving, then to 3x3."""
    side, layers = c.image_size, []
    for before, after in zip((1, *c.prompt_channels), c.prompt_channels, strict=False):
        layers.append((before, after, 3, side))
        side //= 2
    return [*layers, (c.prompt_channels[-1], c.llm_width, side - 2, 3)]


def _prompt_parameters(c: ModelConfig) -> int:
    return sum(a * b * k * k + b for a, b, k, _ in convolutions(c)) + c.base_tokens * c.llm_width


def _vision_flops(c: ModelConfig) -> int:
    """The patch convolution; a block with n = patches + 1 tokens takes 2 n (4 V^2 + 2 V M) + 4 n^2 V for attention.

    ImageBind projects the class token; its stem sums two kernels first, and then sees one frame.
    """
    n, v = c.patches + 1, c.vision_width
    block = 2 * n * (4 * v * v + 2 * v * c.vision_mlp_ratio * v) + 4 * n * n * v
    head = 2 * v * c.embed_width if c.vision_form == "imagebind" else 0
    return 2 * c.patches * 3 * c.patch_size**2 * v + c.vision_blocks * block + head


def _decoder_flops(c: ModelConfig) -> int:
    """Each tap's linear layer, then two dot products with text a patch."""
    return 2 * len(c.taps) * c.patches * c.text_width * (c.vision_width + 2)


def _prompt_flops(c: ModelConfig) -> int:
    return sum(2 * a * b * k * k * side * side for a, b, k, side in convolutions(c))


def _llm_flops(c: ModelConfig, text_tokens: int) -> int:
    return 2 * (c.prefix_tokens + text_tokens) * c.llm_layers * llm_products(c)


def _llm_attention_flops(c: ModelConfig, text_tokens: int) -> int:
    """4 S^2 W a layer: the whole square, though causality needs only half and some kernels skip the rest."""
    return 4 * (c.prefix_tokens + text_tokens) ** 2 * c.llm_width * c.llm_layers

"""What autograd keeps for backward, in bytes, from the sizes alone. Parameters are left out, a storage is counted once.

Frozen towers run without gradient and keep nothing. Of the rest a product keeps what its gradients need: a trained layer
its input, a frozen one nothing, attention its query, key, value, output and one log-sum a head and position. Fused attention
is assumed, as the model takes by default; an eager one would keep two squares of positions a head.

Letters: B samples, S LLM positions, T text positions, W and M widths of LLM and MLP, K of keys and values, L taps, P patches,
H image side. e is 4 bytes, or 2 where autocast reduces. Variants' layers (llm_dropout and the norms) and LoRA dropout keep
more, and are not counted.
"""

from collections.abc import Mapping

from model.cost import attention_shapes, convolutions, llm_products
from model.presets import ModelConfig

FULL, HALF, INDEX = 4, 2, 8  # bytes of fp32, of bfloat16, of what max-pooling and labels are indexed with


def activation_bytes(
    config: ModelConfig, *, text_tokens: int, answer_tokens: float, samples: int, precision: str = "fp32"
) -> Mapping[str, int]:
    """Bytes by part of one micro-batch of `samples`, each with `text_tokens` positions, `answer_tokens` with a target.

    `precision` is a profile of model.precision. Under amp_bf16 autocast also keeps its bfloat16 copy of every weight that
    stands between loss and prompts: the same whatever the micro-batch, and more than all else for a large LLM.
    """
    e = HALF if precision == "amp_bf16" else FULL
    positions = config.prefix_tokens + text_tokens
    each = {
        "image_decoder": _decoder(config),
        "prompt_learner": _prompt_learner(config, e),
        "llm": positions * (config.llm_layers * llm_layer(config, e) + (config.llm_width + 1) * FULL),
        "llm_head": round(answer_tokens * (config.llm_vocab * FULL + INDEX)) + text_tokens + INDEX,
        "losses": _losses(config),
    }
    kept = {part: samples * size for part, size in each.items()}
    kept["llm"] += 2 * positions * config.llm_width // config.llm_heads * FULL  # rotary sine and cosine, for all layers
    kept["weight_copies"] = _weight_copies(config) if e == HALF else 0
    return kept


def _decoder(c: ModelConfig) -> int:
    """Each tap; its decoded patches before normalisation and two norms a patch; text once a tap; the softmax's result."""
    patches = c.patches * (c.vision_width + c.text_width + 2)
    return FULL * len(c.taps) * (patches + 2 * c.text_width + 2 * c.image_size**2)


def _prompt_learner(c: ModelConfig, e: int) -> int:
    """Input of each convolution, then ReLU's result and pooling's indices; one byte for the coin that chose the map."""
    kept = 1
    for before, after, _, side in convolutions(c)[:-1]:
        kept += before * side**2 * e + after * side**2 * e + after * (side // 2) ** 2 * INDEX
    before, _, kernel, _ = convolutions(c)[-1]
    return kept + before * (kernel + 2) ** 2 * e


def llm_layer(c: ModelConfig, e: int) -> int:
    """A position: 2 (W + 1) fp32 for two RMS norms, (2 W + 2 K) e and a log-sum a head for attention, 3 M e for the MLP."""
    width, kv = attention_shapes(c)[1]
    return 2 * (width + 1) * FULL + (2 * width + 2 * kv) * e + c.llm_heads * FULL + 3 * c.llm_mlp * e


def _losses(c: ModelConfig) -> int:
    """Focal: four maps a tap and a mask of bytes. Dice: the mask, two sums a tap. The weight of a sample."""
    return c.image_size**2 * (4 * len(c.taps) * FULL + 1 + FULL) + 2 * len(c.taps) * FULL + FULL


def _weight_copies(c: ModelConfig) -> int:
    """Of the LLM with LoRA, its head and the prompt learner; the decoder is never reduced."""
    kernels = sum(before * after * kernel**2 for before, after, kernel, _ in convolutions(c))
    return HALF * (c.llm_layers * llm_products(c) + c.llm_width * c.llm_vocab + kernels)

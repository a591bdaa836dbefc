"""Layers that the report's variants put into the frozen Llama: Dropout, LayerNorm, BatchNorm. All frozen themselves.

B batch, S positions, W LLM width, M MLP width.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaMLP

from model.presets import ModelConfig


class Samples:
    """Which samples are in the LLM now. One object a model, shared by all its dropouts."""

    def __init__(self) -> None:
        self.used = False  # by any layer; without one, reading indices off the device would be for nothing
        self.index: list[int] | None = None

    def set(self, index: Tensor | None) -> None:
        """index (B): their indices in the data set, of the micro-batch that the LLM sees next."""
        self.index = index.tolist() if self.used and index is not None else None


class SampleDropout(nn.Module):
    """Dropout (Srivastava et al. 2014) whose mask is a pure function of (seed, sample index, layer).

    A mask drawn from a rank's own stream would make losses depend on how the batch is cut over ranks and micro-batches.
    """

    def __init__(self, p: float, *, seed: int, layer: int, samples: Samples) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"llm_dropout is {p}; take 0 or more, and less than 1")
        self.p, self.seed, self.layer, self.samples = p, seed, layer, samples
        samples.used = samples.used or p > 0

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, M) -> the same shape. Raises ValueError in training where the samples are not known."""
        if not self.training or not self.p:
            return x
        if self.samples.index is None or len(self.samples.index) != len(x):
            raise ValueError(
                f"llm_dropout draws one mask a sample: give the LLM the index of each of its {len(x)} samples, as "
                "batch['index'], or call eval() first"
            )
        dropped = torch.stack([self._dropped(index, x) for index in self.samples.index])
        return x.masked_fill(dropped, 0) / (1 - self.p)

    def _dropped(self, index: int, x: Tensor) -> Tensor:
        """(S, M) bool."""
        mixed = np.random.SeedSequence(self.seed, spawn_key=(self.layer, index)).generate_state(1, np.uint64)
        stream = torch.Generator(x.device).manual_seed(int(mixed[0]))
        return torch.rand(x.shape[1:], generator=stream, device=x.device) < self.p

    def extra_repr(self) -> str:
        return f"p={self.p}, layer={self.layer}"


class Mlp(nn.Module):
    """Llama's gated MLP with a norm and a dropout before its last layer. Its weights keep their names."""

    def __init__(self, mlp: LlamaMLP, norm: nn.Module, dropout: nn.Module) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        self.act_fn = mlp.act_fn
        self.norm, self.dropout = norm, dropout

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, W) -> (B, S, W)."""
        hidden = self.act_fn(self.gate_proj(x)) * self.up_proj(x)  # (B, S, M)
        out: Tensor = self.down_proj(self.dropout(self.norm(hidden)))
        return out


class ResidualNorm(nn.BatchNorm1d):
    """BatchNorm over batch and positions: a position's value then depends on later ones, padding and other samples."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, W) -> (B, S, W)."""
        return super().forward(x.mT).mT.contiguous()


class NormedLayer(nn.Module):
    """Llama's decoder layer with a BatchNorm after each of its two residual sums. Its weights keep their names."""

    def __init__(self, layer: LlamaDecoderLayer, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.self_attn, self.mlp = layer.self_attn, layer.mlp
        self.input_layernorm, self.post_attention_layernorm = layer.input_layernorm, layer.post_attention_layernorm
        self.after_attention, self.after_mlp = (ResidualNorm(width, dtype=dtype) for _ in range(2))

    def forward(self, hidden_states: Tensor, **context: Any) -> Tensor:
        """(B, S, W) -> (B, S, W); `context` is what attention needs: mask, rotary embedding, cache."""
        attended, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **context)
        hidden = self.after_attention(hidden_states + attended)
        out: Tensor = self.after_mlp(hidden + self.mlp(self.post_attention_layernorm(hidden)))
        return out


def install(llama: LlamaForCausalLM, config: ModelConfig) -> Samples:
    """Put in, frozen, what `config` asks for: llm_dropout, llm_layer_norm, llm_batch_norm; with none, touch nothing.

    Where: Dropout, and before it LayerNorm, in every MLP on act(gate(x)) * up(x) (variants V1 to V6, and V1); BatchNorm
    on the residual stream, after the attention's and after the MLP's sum (variant V3). Call `set` on what is returned
    before each training micro-batch. Raises ValueError for a dropout outside [0, 1).
    """
    samples, dtype = Samples(), llama.dtype
    for number, layer in enumerate(llama.model.layers):
        if config.llm_layer_norm or config.llm_dropout:
            norm = nn.LayerNorm(config.llm_mlp, dtype=dtype) if config.llm_layer_norm else nn.Identity()
            dropout = SampleDropout(config.llm_dropout, seed=config.frozen_seed, layer=number, samples=samples)
            layer.mlp = Mlp(layer.mlp, norm.requires_grad_(False), dropout)
        if config.llm_batch_norm:
            normed = NormedLayer(layer, config.llm_width, dtype)
            for added in (normed.after_attention, normed.after_mlp):
                added.requires_grad_(False)
            llama.model.layers[number] = normed
    return samples

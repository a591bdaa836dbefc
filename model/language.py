"""The frozen LLM: image, prompts and text in, one loss a sample out. Gradients pass through it to the prompts.

B batch, T text positions, S all positions, W LLM width.
"""

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from model import checkpoints, convert, llm_layers
from model.precision import full
from model.presets import ModelConfig
from model.tokenizer import tokenizer

OPEN = "### Human: <Img>"
CLOSE = "</Img> "  # its trailing space is a token of its own, as published
IGNORE = -100  # label of a position without a target
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


class LanguageModel(nn.Module):
    """A Llama with frozen LoRA on its attention. Sequence: BOS, OPEN, image, CLOSE, prompts, text."""

    fixed_ids: Tensor  # (1 + OPEN + CLOSE)

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = {
            "hidden_size": config.llm_width,
            "num_hidden_layers": config.llm_layers,
            "num_attention_heads": config.llm_heads,
            "num_key_value_heads": config.llm_kv_heads,
            "intermediate_size": config.llm_mlp,
            "vocab_size": config.llm_vocab,
            "tie_word_embeddings": config.llm_tied,
        }
        lora = LoraConfig(r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout,
                          target_modules=list(ATTENTION), bias="none")  # fmt: skip
        with checkpoints.skeleton(config):
            if config.llm_asset is None:
                rope = {"rope_type": "default", "rope_theta": config.rope_theta}
                scales = {"rms_norm_eps": config.rms_eps, "initializer_range": config.frozen_std}
                llama = LlamaForCausalLM(LlamaConfig(**sizes, **scales, rope_parameters=rope))
            else:
                llama = convert.load(LlamaForCausalLM, config.llm_asset, sizes)
            self.llama: LlamaForCausalLM = inject_adapter_in_model(lora, llama)
        if config.weights is not None:
            self.llama.model.rotary_emb = LlamaRotaryEmbedding(llama.config)  # computed: no file has its table
        self.samples = llm_layers.install(self.llama, config)
        for name, parameter in self.llama.named_parameters():
            if ".lora_B." in name:
                nn.init.normal_(parameter, std=config.lora_b_std)

        tokens = tokenizer(config)
        opening, closing = (tokens(piece, add_special_tokens=False)["input_ids"] for piece in (OPEN, CLOSE))
        if config.stand_in:
            opening, closing = opening[: config.open_tokens], closing[: config.close_tokens]
        if (len(opening), len(closing)) != (config.open_tokens, config.close_tokens):
            raise ValueError(f"{config.name}: open_tokens, close_tokens must be {len(opening)}, {len(closing)}; "
                             f"they are {config.open_tokens}, {config.close_tokens}")  # fmt: skip
        self.register_buffer("fixed_ids", torch.tensor([tokens.bos_token_id, *opening, *closing]), persistent=False)
        self.head = 1 + len(opening)

    def prefix(self, image: Tensor, prompts: Tensor, ids: Tensor) -> Tensor:
        """image (B, W), prompts (B, N, W), ids (B, T) -> inputs (B, S, W)."""
        fixed = self.fixed_ids.expand(len(ids), -1)
        embedded = self.llama.model.embed_tokens(torch.cat([fixed, ids], dim=1))  # one call: gathered once if sharded
        opening, closing, text = embedded.tensor_split((self.head, fixed.shape[1]), dim=1)
        dtype = embedded.dtype
        return torch.cat([opening, image.unsqueeze(1).to(dtype), closing, prompts.to(dtype), text], dim=1)

    def forward(
        self, image: Tensor, prompts: Tensor, ids: Tensor, labels: Tensor, index: Tensor | None = None
    ) -> Tensor:
        """Mean cross-entropy (B) of each sample's answer tokens, fp32. ids, labels (B, T); -100 is no target.

        index (B), of the samples in their data set, seeds the LLM's dropout; nothing else needs it.

        A mean per sample, where the published code averages over all tokens of the micro-batch: that mean of means
        changes with how the batch is cut, this one does not. No attention mask: padding is on the right, where no real
        position looks. Raises ValueError for a sample without a target, where the labels lie on a CPU: asking a GPU would wait
        for it, and whoever made the batch has looked (Collator).
        """
        target = labels != IGNORE
        if labels.device.type == "cpu" and not target.any(1).all():
            raise ValueError("a sample has no answer token left: its text was cut too early; raise max_text")
        inputs = self.prefix(image, prompts, ids)
        self.samples.set(index)
        hidden = self.llama.model(inputs_embeds=inputs, use_cache=False).last_hidden_state  # (B, S, W)
        before = hidden[:, -ids.shape[1] - 1 : -1]  # (B, T, W): the position that predicts each text token
        logits = self.llama.lm_head(before[target])  # only where a target stands: saves most of the vocabulary's work
        loss = F.cross_entropy(full(logits), labels[target], reduction="none")
        return loss.new_zeros(labels.shape).masked_scatter(target, loss).sum(1) / target.sum(1)

"""The frozen text tower, and the sentences that say what is normal (WinCLIP's, as AnomalyGPT cut them)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel

from model import convert
from model.precision import full
from model.presets import ModelConfig
from model.tokenizer import text_tokenizer

NORMAL = ("{}", "flawless {}", "perfect {}", "unblemished {}",
          "{} without flaw", "{} without defect", "{} without damage")  # fmt: skip
ABNORMAL = ("damaged {}", "broken {}", "{} with flaw", "{} with defect", "{} with damage")
TEMPLATES = ("a photo of a {}.", "a photo of the {}.")


def sentences(states: Sequence[str], name: str) -> list[str]:
    """Every state in every template, of a class called `name` (underscores are spaces)."""
    return [template.format(state.format(name.replace("_", " "))) for state in states for template in TEMPLATES]


class SentenceTower(nn.Module):
    """What a text tower of any form is: sentences in, features out. Runs in `prepare` only: the sentences never change."""

    def embed(self, sentences: Sequence[str]) -> Tensor:
        """Features (S, D) of S sentences, unit length."""
        raise NotImplementedError(f"{type(self).__name__} embeds no sentences")

    def class_features(self, name: str) -> Tensor:
        """(2, D), [normal, abnormal]: mean over a group's sentences, then unit length."""
        groups = [full(self.embed(sentences(states, name))).mean(0) for states in (NORMAL, ABNORMAL)]
        return F.normalize(torch.stack(groups), dim=-1)


class TextTower(SentenceTower):
    """A BERT with mean pooling (MiniLM, Wang et al. 2020)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        sizes = {
            "hidden_size": config.text_width,
            "num_hidden_layers": config.text_blocks,
            "num_attention_heads": config.text_heads,
            "intermediate_size": config.text_mlp,
            "vocab_size": config.text_vocab,
            "max_position_embeddings": config.text_positions,
        }
        if config.text_asset is None:
            self.bert = BertModel(BertConfig(**sizes, initializer_range=config.frozen_std), add_pooling_layer=False)
        else:
            self.bert = convert.load(BertModel, config.text_asset, sizes, add_pooling_layer=False)
        self.tokenizer = text_tokenizer(config)

    def forward(self, ids: Tensor, attention: Tensor) -> Tensor:
        """ids, attention (S, L) of S sentences -> (S, D), unit length."""
        hidden = self.bert(input_ids=ids, attention_mask=attention).last_hidden_state  # (S, L, D)
        weight = attention.unsqueeze(-1).to(hidden.dtype)
        return F.normalize((hidden * weight).sum(1) / weight.sum(1), dim=-1)

    def embed(self, sentences: Sequence[str]) -> Tensor:
        """Features (S, D) of sentences, unit length."""
        tokens = self.tokenizer(list(sentences), padding=True, return_tensors="pt")
        tokens = tokens.to(self.bert.embeddings.word_embeddings.weight.device)
        features: Tensor = self(tokens["input_ids"], tokens["attention_mask"])
        return features

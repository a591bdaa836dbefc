"""Tokenizers: the LLM's, which questions and answers are cut with, and the text tower's."""

from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerBase

from model.convert import converted
from model.presets import ModelConfig


def tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The LLM's tokenizer, with BOS, EOS and padding tokens set. Right padding; padding is EOS where it has none."""
    return _load(config.llm_asset)


def text_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The text tower's tokenizer."""
    return _load(config.text_asset)


def _load(asset: str | None) -> PreTrainedTokenizerBase:
    if asset is None:  # one token a byte; it needs no file. It has no BOS: a spare id serves
        found: PreTrainedTokenizerBase = ByT5Tokenizer(bos_token="<extra_id_0>")
    else:
        found = AutoTokenizer.from_pretrained(converted(asset), local_files_only=True)
        found.pad_token = found.pad_token or found.eos_token
    found.padding_side = "right"
    return found

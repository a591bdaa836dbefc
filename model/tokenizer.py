"""Tokenizers: the LLM's, which questions and answers are cut with, and the text tower's."""

import gzip
import importlib.util
from pathlib import Path

from transformers import AutoTokenizer, ByT5Tokenizer, CLIPTokenizer, LlamaTokenizer, PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from model.assets import AssetError
from model.convert import converted
from model.presets import ModelConfig

VICUNA = "vicuna-7b-v0"  # folder of LLM and tokenizer, inside the weights folder
MERGES = "bpe_simple_vocab_16e6.txt.gz"  # CLIP's, beside it
START, END = "<|startoftext|>", "<|endoftext|>"  # CLIP's, the last two of its vocabulary


def tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The LLM's tokenizer, with BOS, EOS and padding tokens set. Right padding; padding is EOS where it has none.

    Raises AssetError where its files are missing.
    """
    if config.weights is not None:
        return _llama(config.weights / VICUNA)
    return _load(config.llm_asset)


def text_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The text tower's tokenizer. Raises AssetError where its files are missing or too short for the vocabulary."""
    if config.weights is not None:
        return _clip(config.weights / MERGES, config.text_vocab)
    return _load(config.text_asset)


def _load(asset: str | None) -> PreTrainedTokenizerBase:
    if asset is None:  # one token a byte; it needs no file. It has no BOS: a spare id serves
        found: PreTrainedTokenizerBase = ByT5Tokenizer(bos_token="<extra_id_0>")
    else:
        found = AutoTokenizer.from_pretrained(converted(asset), local_files_only=True)
        found.pad_token = found.pad_token or found.eos_token
    found.padding_side = "right"
    return found


def _llama(folder: Path) -> PreTrainedTokenizerBase:
    """LLaMA's; every piece of text begins with a space of its own, as published. Padding is EOS."""
    if not (folder / "tokenizer.json").is_file():
        if not (folder / "tokenizer.model").is_file():
            raise AssetError(
                f"{folder} has neither tokenizer.json nor tokenizer.model; copy it there (docs/weights.md)"
            )
        missing = [name for name in ("sentencepiece", "google.protobuf") if not _installed(name)]
        if missing:
            raise AssetError(f"{folder / 'tokenizer.model'} is read with {' and '.join(missing)}; "
                             "type `pip install sentencepiece protobuf`")  # fmt: skip
    # Named here because some merged Vicuna folders leave these three empty.
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    found: PreTrainedTokenizerBase = LlamaTokenizer.from_pretrained(
        folder, local_files_only=True, padding_side="right", **named
    )
    return found


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def _clip(path: Path, vocab: int) -> PreTrainedTokenizerBase:
    """CLIP's byte-pair encoding (Radford et al. 2021): 256 bytes, the same at a word's end, merges, two marks."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            lines = file.read().split("\n")
    except FileNotFoundError as error:
        raise AssetError(
            f"{path} is missing; it is part of CLIP and of ImageBind, copy it there (docs/weights.md)"
        ) from error
    except (OSError, EOFError) as error:
        raise AssetError(f"{path} cannot be read ({error}); copy it again") from error
    symbols = list(bytes_to_unicode().values())
    wanted = vocab - 2 * len(symbols) - 2
    merges = [tuple(line.split()) for line in lines[1 : 1 + wanted]]  # the first line is a comment
    if len(merges) != wanted or any(len(merge) != 2 for merge in merges):
        raise AssetError(f"{path} has no {wanted} merges, as a vocabulary of {vocab} needs; copy it again")
    words = [*symbols, *(symbol + "</w>" for symbol in symbols), *("".join(merge) for merge in merges), START, END]
    found: PreTrainedTokenizerBase = CLIPTokenizer(
        vocab={word: index for index, word in enumerate(words)}, merges=merges, bos_token=START, eos_token=END
    )
    return found

"""The byte tokenizer of the random preset; those of pretrained presets are tried in test_convert.py."""

import pytest
from transformers import PreTrainedTokenizerBase

import model
from model.language import CLOSE, OPEN
from model.tokenizer import text_tokenizer, tokenizer

CONFIG = model.preset("tiny")


@pytest.fixture(scope="module")
def tokens() -> PreTrainedTokenizerBase:
    return tokenizer(CONFIG)


def test_a_byte_is_a_token_and_comes_back(tokens: PreTrainedTokenizerBase) -> None:
    text = "Is there an anomaly? Déjà vu.\n###"
    ids = tokens(text, add_special_tokens=False).input_ids
    assert len(ids) == len(text.encode())
    assert tokens.decode(ids) == text


def test_pieces_tokenised_alone_equal_the_whole(tokens: PreTrainedTokenizerBase) -> None:
    question, answer = "Any anomaly?\n### Assistant:", "No.\n###"
    alone = [tokens(piece, add_special_tokens=False).input_ids for piece in (question, answer)]
    assert alone[0] + alone[1] == tokens(question + answer, add_special_tokens=False).input_ids


def test_special_tokens_are_set_apart_and_fit_the_embedding(tokens: PreTrainedTokenizerBase) -> None:
    special = {tokens.bos_token_id, tokens.eos_token_id, tokens.pad_token_id}
    assert len(special) == 3
    assert None not in special
    everything = tokens(bytes(range(32, 127)).decode(), add_special_tokens=False).input_ids
    assert not special & set(everything)
    assert max(special | set(everything)) < CONFIG.llm_vocab == len(tokens)
    assert len(text_tokenizer(CONFIG)) <= CONFIG.text_vocab


def test_padding_is_on_the_right(tokens: PreTrainedTokenizerBase) -> None:
    padded = tokens(["ab", "abcd"], add_special_tokens=False, padding=True)
    assert padded.attention_mask == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert padded.input_ids[0][2:] == [tokens.pad_token_id] * 2


def test_prefix_pieces_have_the_lengths_of_the_config(tokens: PreTrainedTokenizerBase) -> None:
    lengths = [len(tokens(piece, add_special_tokens=False).input_ids) for piece in (OPEN, CLOSE)]
    assert lengths == [CONFIG.open_tokens, CONFIG.close_tokens]
    assert CONFIG.prefix_tokens == 1 + 16 + 1 + 7 + 18

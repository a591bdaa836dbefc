"""Batches: the conversation format, where the loss falls, one length for every batch."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from model.data import Collator, DataError, Dataset, Sample, load, texts
from model.data.collate import CHUNK
from model.data.instructions import Instructions, Mixed


def trained(
    pre_tokenizer: object, decoder: object, alphabet: list[str], normalizer: object = None, **special: str
) -> PreTrainedTokenizerFast:
    """A small BPE tokenizer of the given kind, trained on the answers."""
    made = Tokenizer(models.BPE())
    if normalizer:
        made.normalizer = normalizer
    made.pre_tokenizer, made.decoder = pre_tokenizer, decoder
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=list(special.values()), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([*texts.all_answers(), texts.question("gravel"), "### Assistant:\n"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2 and SmolLM2: bytes, spaces before words; here without a padding token."""
    kind = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return trained(kind, decoders.ByteLevel(), pre_tokenizers.ByteLevel.alphabet(), eos_token="<|im_end|>")


def sentence_piece() -> PreTrainedTokenizerFast:
    """As LLaMA's: puts a space before every piece, also before one that has its own."""
    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    kind = pre_tokenizers.Split("▁", "merged_with_next")
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return trained(kind, decoder, [], spaces, eos_token="</s>", pad_token="<unk>")


TOKENIZERS = {"bytes": ByT5Tokenizer, "byte-level BPE": byte_level, "SentencePiece": sentence_piece}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load("textures", image_size=96, seed=0)


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request: pytest.FixtureRequest) -> object:
    return TOKENIZERS[request.param]()


def test_shapes_and_types(dataset, tokenizer):
    collate = Collator(tokenizer, dataset)
    batch = collate([dataset[index] for index in range(4)])
    expected = {
        "image": ((4, 3, 96, 96), torch.float32),
        "mask": ((4, 96, 96), torch.float32),
        "class_id": ((4,), torch.int64),
        "few_shot": ((4,), torch.bool),
        "index": ((4,), torch.int64),
        "pixel": ((4,), torch.bool),
        "ids": ((4, collate.length), torch.int64),
        "labels": ((4, collate.length), torch.int64),
        "attention": ((4, collate.length), torch.int64),
    }
    assert {name: (tuple(value.shape), value.dtype) for name, value in batch.items()} == expected
    assert all(value.is_contiguous() for value in batch.values())


def test_the_text_is_the_conversation(dataset, tokenizer):
    samples = [dataset[index] for index in range(6)]
    batch = Collator(tokenizer, dataset)(samples)
    for sample, ids, labels, attention in zip(samples, batch["ids"], batch["labels"], batch["attention"], strict=True):
        text = tokenizer.decode(ids[attention == 1].tolist())
        assert text == f"{sample.question}\n### Assistant: {sample.answer}\n###"
        human = tokenizer(f"{sample.question}\n### Assistant:", add_special_tokens=False).input_ids
        assert ids[: len(human)].tolist() == human
        assert (labels[: len(human)] == -100).all()


def test_the_loss_falls_on_the_whole_answer_and_nothing_else(dataset, tokenizer):
    samples = [dataset[index] for index in range(6)]
    batch = Collator(tokenizer, dataset)(samples)
    for sample, ids, labels in zip(samples, batch["ids"], batch["labels"], strict=True):
        learnt = labels != -100
        assert torch.equal(labels[learnt], ids[learnt])
        assert tokenizer.decode(labels[learnt].tolist()).lstrip(" ") == f"{sample.answer}\n###"
        places = learnt.nonzero().flatten()
        assert torch.equal(places, torch.arange(int(places[0]), int(places[-1]) + 1))


def test_padding_is_on_the_right_and_masked(dataset, tokenizer):
    batch = Collator(tokenizer, dataset)([dataset[0], dataset[1]])
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    length = batch["attention"].sum(dim=1)
    for row in range(2):
        assert (batch["attention"][row, : length[row]] == 1).all()
        assert (batch["ids"][row, length[row] :] == pad).all()
        assert (batch["labels"][row, length[row] :] == -100).all()
    assert length[0] < batch["ids"].shape[1]


def test_no_special_token_is_added(dataset, tokenizer):
    batch = Collator(tokenizer, dataset)([dataset[0]])
    kept = batch["ids"][0][batch["attention"][0] == 1].tolist()
    assert not set(kept) & set(tokenizer.all_special_ids)


def test_one_space_before_the_answer(dataset):
    ids = Collator(sentence_piece(), dataset)([dataset[0]])["ids"][0]
    text = "".join(sentence_piece().convert_ids_to_tokens(ids.tolist()))
    assert "Assistant:▁No" in text
    assert "Assistant:▁▁No" not in text


def test_the_length_is_that_of_the_longest_possible_text(dataset, tokenizer):
    collate = Collator(tokenizer, dataset)
    image = np.zeros((96, 96, 3), np.uint8)
    texts_of = [
        Sample(image, image[..., 0], 0, False, question, answer)
        for question in dataset.questions
        for answer in texts.all_answers()
    ]
    used = collate(texts_of)["attention"].sum(dim=1)
    assert used.max() == collate.length
    assert used.min() < collate.length


def test_the_length_does_not_depend_on_the_samples(dataset):
    collate = Collator(ByT5Tokenizer(), dataset)
    assert collate([dataset[0]])["ids"].shape[1] == collate([dataset[1], dataset[3]])["ids"].shape[1]


def test_long_texts_are_cut_at_max_text(dataset):
    whole = Collator(ByT5Tokenizer(), dataset)([dataset[1]])
    cut = Collator(ByT5Tokenizer(), dataset, max_text=200)([dataset[1]])
    assert cut["ids"].shape == (1, 200)
    for name in ("ids", "labels", "attention"):
        assert torch.equal(cut[name], whole[name][:, :200])


def test_a_cut_that_leaves_no_answer_is_refused(dataset):
    with pytest.raises(ValueError, match=r"max_text is 170, but a question alone takes 17\d tokens; take 28\d"):
        Collator(ByT5Tokenizer(), dataset, max_text=170)


def test_a_tokenizer_without_padding_and_end_is_refused(dataset):
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    with pytest.raises(ValueError, match="set its pad_token"):
        Collator(bare, dataset)


def test_images_are_normalised_with_clips_constants(dataset):
    sample = dataset[1]
    image = Collator(ByT5Tokenizer(), dataset)([sample])["image"][0].numpy()
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    expected = (sample.image.astype(np.float64) / 255 - mean) / std
    np.testing.assert_allclose(image, expected.transpose(2, 0, 1), atol=1e-6)


def test_other_constants_are_taken(dataset):
    sample = dataset[0]
    image = Collator(ByT5Tokenizer(), dataset, mean=(0, 0, 0), std=(1, 1, 1))([sample])["image"]
    assert torch.equal(image[0].permute(1, 2, 0), torch.from_numpy(sample.image) / 255)


def test_mask_class_and_coin_follow_the_sample(dataset):
    samples = [dataset[index] for index in range(8)]
    batch = Collator(ByT5Tokenizer(), dataset)(samples)
    assert torch.equal(batch["mask"].to(torch.uint8), torch.from_numpy(np.stack([s.mask for s in samples])))
    assert batch["class_id"].tolist() == [sample.class_id for sample in samples]
    assert batch["few_shot"].tolist() == [sample.few_shot for sample in samples]


@pytest.mark.parametrize("world", [2, 4])
def test_batches_of_the_ranks_make_the_global_batch(dataset, world):
    collate = Collator(ByT5Tokenizer(), dataset)
    whole = collate([dataset[index] for index in range(8)])
    share = 8 // world
    parts = [collate([dataset[rank * share + place] for place in range(share)]) for rank in range(world)]
    for name, value in whole.items():
        assert torch.equal(torch.cat([part[name] for part in parts]), value)


# instructions

TURNS = [
    ("What is this?", "A café, in 1998."),
    ("Describe it in a few words, please.", "Grey. " * 30),
    ("Why?", "日本" * 40),  # three bytes a character
]


def mixed(folder: Path, dataset: Dataset, turns: list[tuple[str, str]] = TURNS) -> Mixed:
    (folder / "images").mkdir()
    Image.new("RGB", (40, 30), (9, 99, 199)).save(folder / "images" / "a.jpg")
    entries = [
        {"image_name": "a", "conversation": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]}
        for q, a in turns
    ]
    (folder / "made.json").write_text(json.dumps(entries))
    return Mixed(dataset, Instructions(folder, 96, 0), global_batch=8, ranks=1, accumulation=2)


def test_instructions_are_collated_with_a_length_of_their_own(dataset, tokenizer, tmp_path):
    data = mixed(tmp_path, dataset)
    collate = Collator(tokenizer, data)
    instructions = [data[1], data[3], data[5]]
    batch = collate(instructions)
    assert batch["ids"].shape == (3, collate.instruction_length)
    assert batch["attention"].sum(dim=1).max() == collate.instruction_length  # of the longest text, to the token
    assert not batch["pixel"].any()
    assert not batch["mask"].any()
    assert not batch["few_shot"].any()
    assert batch["class_id"].tolist() == [3, 3, 3]
    assert collate([data[0], data[2]])["ids"].shape == (2, collate.length)
    assert collate.length == Collator(tokenizer, dataset).length != collate.instruction_length


def test_one_instruction_makes_the_length_of_all(dataset, tokenizer, tmp_path):
    collate = Collator(tokenizer, mixed(tmp_path, dataset))
    shapes = {collate([sample])["ids"].shape for sample in instructions_of(tmp_path)}
    assert shapes == {(1, collate.instruction_length)}


def instructions_of(folder: Path) -> list[Sample]:
    data = Instructions(folder, 96, 0)
    return [data[index] for index in range(len(TURNS))]


def test_an_instruction_is_a_conversation_with_loss_on_its_answer(dataset, tmp_path):
    tokenizer = byte_level()
    collate = Collator(tokenizer, mixed(tmp_path, dataset))
    for sample in instructions_of(tmp_path):
        batch = collate([sample])
        kept, learnt = batch["attention"][0] == 1, batch["labels"][0] != -100
        assert tokenizer.decode(batch["ids"][0][kept]) == f"{sample.question}\n### Assistant: {sample.answer}\n###"
        assert tokenizer.decode(batch["labels"][0][learnt]) == f" {sample.answer}\n###"


def test_a_long_answer_is_cut_and_the_rest_is_learnt(dataset, tmp_path):
    data = mixed(tmp_path, dataset)
    whole, cut = Collator(ByT5Tokenizer(), data), Collator(ByT5Tokenizer(), data, max_text=190)
    assert whole.instruction_length > 190 == cut.instruction_length
    for sample in instructions_of(tmp_path):
        for name in ("ids", "labels", "attention"):
            assert torch.equal(cut([sample])[name], whole([sample])[name][:, :190])
        assert (cut([sample])["labels"] != -100).any()


def test_an_answer_that_would_be_cut_off_whole_is_refused(dataset, tmp_path):
    data = mixed(tmp_path, dataset, [*TURNS, ("What? " * 50, "That.")])
    with pytest.raises(
        DataError, match=r"max_text is 300, but the question of entry 3 of .*made.json takes 315 tokens"
    ):
        Collator(ByT5Tokenizer(), data, max_text=300)
    assert (
        Collator(ByT5Tokenizer(), data, max_text=316)([Sample(*fields(data), "What? " * 50, "That.", pixel=False)])[
            "labels"
        ][0].tolist()[-1]
        == ord(" ") + 3
    )  # one token of the answer: the space before it


def test_a_batch_with_nothing_to_learn_from_is_refused_where_it_is_made(dataset, tmp_path):
    """On a GPU the model does not look."""
    data = mixed(tmp_path, dataset)
    cut = Sample(*fields(data), "What? " * 50, "That.", pixel=False)
    with pytest.raises(ValueError, match="no answer token left"):
        Collator(ByT5Tokenizer(), data)([cut])


def fields(data: Mixed) -> tuple[np.ndarray, np.ndarray, int, bool]:
    sample = data[1]
    return sample.image, sample.mask, sample.class_id, sample.few_shot


def test_kinds_do_not_share_a_batch(dataset, tmp_path):
    data = mixed(tmp_path, dataset)
    with pytest.raises(ValueError, match="samples of one kind"):
        Collator(ByT5Tokenizer(), data)([data[0], data[1]])
    with pytest.raises(ValueError, match="without instructions"):
        Collator(ByT5Tokenizer(), dataset)([data[1]])


def test_few_texts_are_tokenised_to_find_the_longest(dataset, tmp_path, monkeypatch):
    turns = [("Why?", "x" * (10 + number)) for number in range(4 * CHUNK)]
    data = mixed(tmp_path, dataset, turns)
    counts: list[int] = []
    call = ByT5Tokenizer.__call__

    def counted(self: ByT5Tokenizer, text: str | list[str], **rest: bool) -> object:
        counts.append(0 if isinstance(text, str) else len(text))
        return call(self, text, **rest)

    monkeypatch.setattr(ByT5Tokenizer, "__call__", counted)
    collate = Collator(ByT5Tokenizer(), data, max_text=2000)
    assert collate.instruction_length == len("Why?\n### Assistant:" + " " + turns[-1][1] + "\n###")
    assert sum(counts) == 2 * CHUNK  # two pieces each


def test_a_text_of_few_long_characters_can_be_the_longest(dataset, tmp_path):
    turns = [("Why?", "x" * 150)] * CHUNK + [("Why?", "日" * 100)]
    collate = Collator(ByT5Tokenizer(), mixed(tmp_path, dataset, turns))
    assert collate.instruction_length == len("Why?\n### Assistant:" + " " + 300 * "x" + "\n###")

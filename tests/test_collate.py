"""Batches: the conversation format, where the loss falls, one length for every batch."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from model.data import Collator, Dataset, Sample, load, texts


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

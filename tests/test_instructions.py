"""Instruction data: two turns of each entry, micro-batches in turn whatever the ranks, errors that name the entry."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import model
from model.data import Collator, DataError, Dataset, load
from model.data.instructions import Instructions, Mixed
from model.tokenizer import tokenizer

SIZE = 96
N = 10


def conversation(number: int) -> list[dict[str, str]]:
    return [
        {"from": "human", "value": f"What is number {number}?"},
        {"from": "gpt", "value": f"It is {number}."},
        {"from": "human", "value": "And then?"},
        {"from": "gpt", "value": "Nothing."},
    ]


def write(folder: Path, entries: Any) -> Path:
    """A folder of instruction data with images 0 to N - 1, each of one colour."""
    (folder / "images").mkdir(parents=True)
    for number in range(N):
        Image.new("RGB", (50, 70), (20 * number, 100, 200)).save(folder / "images" / f"{number}.jpg", quality=95)
    (folder / "data.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def good() -> list[dict[str, Any]]:
    """Names with and without their end."""
    return [{"image_name": f"{n}.jpg" if n % 2 else str(n), "conversation": conversation(n)} for n in range(N)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("instructions") / "data", good())


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return load("textures", image_size=SIZE, seed=0)


def mixed(dataset: Dataset, folder: Path, ranks: int = 1, accumulation: int = 2, global_batch: int = 24) -> Mixed:
    instructions = Instructions(folder, SIZE, seed=0)
    return Mixed(dataset, instructions, global_batch=global_batch, ranks=ranks, accumulation=accumulation)


def test_a_sample_is_an_entrys_first_two_turns_and_its_image(folder):
    data = Instructions(folder, SIZE, seed=0)
    for index in range(N):
        sample = data[index]
        number = int(sample.question.split()[3].rstrip("?"))
        assert sample.question == f"What is number {number}?"
        assert sample.answer == f"It is {number}."
        assert sample.image.shape == (SIZE, SIZE, 3)
        assert sample.image.dtype == np.uint8
        assert abs(sample.image.astype(int) - (20 * number, 100, 200)).max() < 6
        assert sample.mask.shape == (SIZE, SIZE)
        assert sample.mask.dtype == np.uint8
        assert not sample.mask.any()
        assert (sample.pixel, sample.few_shot, sample.class_id, sample.index) == (False, False, 0, index)


def test_every_entry_comes_once_an_epoch_in_a_new_order(folder):
    data = Instructions(folder, SIZE, seed=0)
    epochs = [[data[N * epoch + place].question for place in range(N)] for epoch in range(3)]
    assert all(sorted(epoch) == sorted(epochs[0]) and len(set(epoch)) == N for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    again = Instructions(folder, SIZE, seed=0)
    assert [again[index].question for index in reversed(range(3 * N))][::-1] == [*epochs[0], *epochs[1], *epochs[2]]
    assert [Instructions(folder, SIZE, seed=1)[index].question for index in range(N)] != epochs[0]


def test_micro_batches_take_turns_on_every_rank(dataset, folder):
    for ranks, accumulation in ((1, 2), (2, 2), (3, 4), (2, 6)):
        data = mixed(dataset, folder, ranks, accumulation)
        for rank in range(ranks):
            for micro in range(accumulation):
                wanted = data.indices(2, rank, micro)
                assert len(wanted) == 24 // ranks // accumulation
                assert {data[index].pixel for index in wanted} == {micro % 2 == 0}


@pytest.mark.parametrize(("ranks", "accumulation"), [(1, 4), (1, 24), (2, 2), (3, 2), (3, 4), (6, 2), (12, 2)])
def test_the_global_batch_depends_on_the_step_alone(dataset, folder, ranks, accumulation):
    for step in (0, 1, 5):
        one, many = mixed(dataset, folder), mixed(dataset, folder, ranks, accumulation)
        expected = [*one.indices(step, 0, 0), *one.indices(step, 0, 1)]
        found = [i for rank in range(ranks) for micro in range(accumulation) for i in many.indices(step, rank, micro)]
        assert len(found) == 24
        assert sorted(found) == sorted(expected) == list(range(24 * step, 24 * step + 24))
        # of each kind in the same order over ranks and micro-batches, so that pairs of images stay together
        for kind in (0, 1):
            assert [index for index in found if index % 2 == kind] == [index for index in expected if index % 2 == kind]


def test_samples_are_those_of_the_two_sources(dataset, folder):
    data = mixed(dataset, folder)
    for place in range(6):
        ours, theirs = data[2 * place], dataset[place]
        assert np.array_equal(ours.image, theirs.image)
        assert np.array_equal(ours.mask, theirs.mask)
        assert replace(ours, image=0, mask=0) == replace(theirs, image=0, mask=0, index=2 * place)
        ours, theirs = data[2 * place + 1], data.instructions[place]
        assert np.array_equal(ours.image, theirs.image)
        assert (ours.question, ours.answer) == (theirs.question, theirs.answer)
        assert (ours.class_id, ours.index, ours.pixel) == (3, 2 * place + 1, False)


def test_object_is_one_class_more_with_normals_that_exist(dataset, folder):
    data = mixed(dataset, folder)
    assert data.classes == ("brick", "grass", "gravel", "object")
    normals = data.normals(2)
    assert normals.shape == (4, 2, SIZE, SIZE, 3)
    assert np.array_equal(normals[:3], dataset.normals(2))
    assert not normals[3].any()


def test_an_epoch_has_as_many_samples_of_both_kinds(dataset, folder, monkeypatch):
    assert mixed(dataset, folder).pairs is None
    monkeypatch.setattr(dataset, "pairs", 11, raising=False)
    assert mixed(dataset, folder).pairs == 22


def test_the_model_learns_words_from_instructions_and_pixels_from_defects(dataset, folder):
    config = replace(model.preset("tiny"), image_size=112)
    data = Mixed(
        load("textures", image_size=112, seed=0), Instructions(folder, 112, 0), global_batch=8, ranks=1, accumulation=2
    )
    net = model.build(config, seed=0)
    net.prepare(data)
    collate = Collator(tokenizer(config), data, config.max_text)
    for micro in range(2):
        losses = net.train()(collate([data[index] for index in data.indices(0, 0, micro)]))
        assert torch.isfinite(losses.total)
        assert losses.lm > 0
        assert (losses.focal > 0) == (losses.dice > 0) == (micro == 0)
        net.zero_grad()
        losses.total.backward()
        gradients = {name: float(p.grad.abs().sum()) for name, p in net.named_parameters() if p.grad is not None}
        assert all(np.isfinite(value) for value in gradients.values())
        assert gradients["image_decoder.fc.0.weight"] > 0  # instructions reach it too, through the map


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("a text", r"entry 3 of .*data.json has no image_name"),
        ({"conversation": conversation(3)}, r"entry 3 of .*data.json has no image_name"),
        ({"image_name": "3.jpg"}, r"entry 3 of .*data.json \(3.jpg\) has 0 turns"),
        ({"image_name": "3.jpg", "conversation": conversation(3)[:1]}, r"entry 3 of .*data.json \(3.jpg\) has 1 turns"),
        ({"image_name": "3.jpg", "conversation": conversation(3)[1:]}, r"entry 3 .*turn 0 .* is not from 'human'"),
        ({"image_name": "3.jpg", "conversation": [conversation(3)[0]] * 2}, r"entry 3 .*turn 1 .* is not from 'gpt'"),
        (
            {"image_name": "3.jpg", "conversation": [conversation(3)[0], {"from": "gpt", "value": " "}]},
            r"entry 3 .*turn 1 .* is not from 'gpt' with a value",
        ),
        (
            {"image_name": "lost", "conversation": conversation(3)},
            r"image .*images/lost.jpg is missing; .* entry 3 of .*data.json",
        ),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, entry, message):
    entries = good()
    entries[3] = entry
    with pytest.raises(DataError, match=message):
        Instructions(write(tmp_path / "data", entries), SIZE, 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[{", r"data.json cannot be read \(Expecting property name"),
        (b'["\xff"]', r"data.json cannot be read \('utf-8' codec"),
        (b"[]", r"data.json is not a list of entries, or an empty one"),
        (b"{}", r"data.json is not a list of entries"),
    ],
)
def test_broken_json_is_named(tmp_path, content, message):
    folder = write(tmp_path / "data", good())
    (folder / "data.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        Instructions(folder, SIZE, 0)


def test_a_folder_without_its_parts_is_named(tmp_path, folder):
    with pytest.raises(DataError, match=r"nowhere is no folder; instruction data is a folder with one JSON file"):
        Instructions(tmp_path / "nowhere", SIZE, 0)
    with pytest.raises(DataError, match=r"must hold one JSON file, and has none"):
        Instructions(tmp_path, SIZE, 0)
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError, match=r"images is missing"):
        Instructions(tmp_path, SIZE, 0)
    (tmp_path / "b.json").write_text("[]")
    with pytest.raises(DataError, match=r"has a.json, b.json"):
        Instructions(tmp_path, SIZE, 0)


def test_a_broken_image_is_named_when_it_is_read(tmp_path):
    folder = write(tmp_path / "data", good()[:1])
    (folder / "images" / "0.jpg").write_bytes(b"no image")
    with pytest.raises(
        DataError, match=r"image .*images/0.jpg cannot be read .*; it belongs to entry 0 of .*data.json"
    ):
        Instructions(folder, SIZE, 0)[0]


def test_an_odd_accumulation_and_other_misfits_are_refused(dataset, folder):
    with pytest.raises(ValueError, match=r"accumulation is 3, .* take an even --accumulation, such as 4"):
        mixed(dataset, folder, accumulation=3)
    with pytest.raises(ValueError, match="24 can't be cut into 5 ranks x 2"):
        mixed(dataset, folder, ranks=5)
    with pytest.raises(ValueError, match="images are 96 and 112 pixels"):
        Mixed(dataset, Instructions(folder, 112, 0), global_batch=8, ranks=1, accumulation=2)
    with pytest.raises(IndexError):
        Instructions(folder, SIZE, 0)[-1]
    with pytest.raises(IndexError):
        mixed(dataset, folder)[-2]

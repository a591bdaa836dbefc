"""Evaluation: ranks merge exactly, perfect and constant maps score what they must, a broken image is listed."""

import dataclasses
import json
import pickle
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

import model
from model.anomalygpt import AnomalyGPT
from model.data import DataError, load
from model.data.sample import TestItem
from model.evaluate import banks, evaluate, evaluate_draws, evaluate_modes
from model.generate import Answer
from model.tally import Bad, Tally

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = dataclasses.replace(model.preset("tiny"), image_size=112)
SIDE = CONFIG.image_size
CLASSES = ("brick", "grass")


class Normals:
    classes = CLASSES

    def normals(self, k: int) -> np.ndarray:
        return np.random.default_rng(7).integers(0, 256, (2, k, SIDE, SIDE, 3), dtype=np.uint8)


class Items(Sequence[TestItem]):
    """Images made when they are asked for; some numbers are broken files."""

    def __init__(self, count: int, broken: Sequence[int] = (), masks: bool = True) -> None:
        self.count, self.broken, self.masks = count, broken, masks

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> TestItem:  # type: ignore[override]
        if number >= self.count:
            raise IndexError(number)
        if number in self.broken:
            raise DataError(f"image {number}.png cannot be read")
        draw = np.random.default_rng(number)
        image = draw.integers(100, 156, (SIDE, SIDE, 3), dtype=np.uint8)
        mask, defective = np.zeros((SIDE, SIDE), np.uint8), number % 3 > 0
        if defective:
            top, left = draw.integers(0, SIDE - 20, 2)
            mask[top : top + 20, left : left + 15] = 1
            image[mask > 0] = draw.integers(0, 256, 3)
        question = "Any anomaly?" if number % 2 else "Is there any anomaly in the image?"
        return TestItem(image, mask if self.masks else None, defective, number % 2, question, f"{number}.png")


@pytest.fixture(scope="module")
def net() -> AnomalyGPT:
    built = model.build(CONFIG)
    built.prepare(Normals())
    return built


@pytest.fixture(scope="module")
def whole(net: AnomalyGPT) -> dict[str, Tally]:
    return dict(evaluate_modes(net, Normals(), Items(11, broken=[4]), max_new=8))


def planted(items: Items, *, perfect: bool = True) -> Tally:
    """Maps that are the masks, or the same everywhere; answers that are the truth, or always Yes."""
    tally = Tally("text")
    for number, item in enumerate(items):
        said = "Yes." if item.defective or not perfect else "No."
        shown = np.zeros((SIDE, SIDE), np.float32) if item.mask is None else item.mask.astype(np.float32)
        shown = shown if perfect else np.full_like(shown, 0.37)
        tally.add(number, item, shown, Answer(said, 2.0 * (item.defective and perfect) - 1))
    return tally


@pytest.mark.parametrize("mode", ["text", "bank"])
@pytest.mark.parametrize("size", [2, 3])
def test_ranks_merge_to_exactly_what_one_process_finds(
    net: AnomalyGPT, whole: dict[str, Tally], mode: str, size: int
) -> None:
    parts = [
        evaluate(net, Normals(), Items(11, broken=[4]), mode=mode, max_new=8, rank=rank, size=size)  # type: ignore[arg-type]
        for rank in range(size)
    ]
    assert [len(part.rows) + len(part.bad) for part in parts] == [len(range(rank, 11, size)) for rank in range(size)]
    merged = Tally.merge([pickle.loads(pickle.dumps(part)) for part in reversed(parts)])
    assert merged.rows == whole[mode].rows
    assert merged.table(CLASSES) == whole[mode].table(CLASSES)


def test_ranks_without_images_merge_too(net: AnomalyGPT) -> None:
    parts = [evaluate(net, Normals(), Items(1), mode="text", answers=False, rank=rank, size=3) for rank in range(3)]
    assert Tally.merge(parts).table(CLASSES)["images"] == 1


def test_a_batch_finds_what_single_images_find(net: AnomalyGPT, whole: dict[str, Tally]) -> None:
    found = evaluate_modes(net, Normals(), Items(11, broken=[4]), max_new=8, batch_size=4)
    for mode in ("text", "bank"):
        rows, singles = found[mode].rows, whole[mode].rows  # type: ignore[index]
        assert [row[:4] for row in rows] == [row[:4] for row in singles]
        assert [row.answer for row in rows] == [row.answer for row in singles]
        np.testing.assert_allclose([row.score for row in rows], [row.score for row in singles], rtol=1e-4)
        np.testing.assert_allclose([row.lm_score for row in rows], [row.lm_score for row in singles], rtol=1e-3)


def test_the_tally_holds_the_maps_of_look(net: AnomalyGPT, whole: dict[str, Tally]) -> None:
    """Against a plain loop over the images, with scikit-learn."""
    net.eval()
    items = [(number, Items(11)[number]) for number in range(11) if number != 4]
    maps: dict[str, list[np.ndarray]] = {"text": [], "bank": []}
    for _, item in items:
        image = (torch.from_numpy(item.image).permute(2, 0, 1) / 255 - net.pixel_mean) / net.pixel_std
        with torch.no_grad():
            looked = net.look(image[None], net.text_features[[item.class_id]], net.banks[[item.class_id]])
        maps["text"].append(looked.text_map[0, 0].numpy())
        maps["bank"].append(looked.bank_map[0, 0].numpy())
    net.train()
    for mode, shown in maps.items():
        assert [row.score for row in whole[mode].rows] == [float(each.max()) for each in shown]
        for class_id, name in enumerate(CLASSES):
            chosen = [place for place, (_, item) in enumerate(items) if item.class_id == class_id]
            masks = [items[place][1].mask for place in chosen]
            found = whole[mode].table(CLASSES)["classes"][name]
            pixel = roc_auc_score(np.ravel(masks), np.ravel([shown[place] for place in chosen]))
            assert found["pixel_auroc"] == pytest.approx(pixel, abs=1e-9)
            image = roc_auc_score([m.any() for m in masks], [shown[place].max() for place in chosen])  # type: ignore[union-attr]
            assert found["image_auroc"] == pytest.approx(image, abs=1e-12)


def test_the_two_modes_are_asked_with_their_own_maps(whole: dict[str, Tally]) -> None:
    assert [row.lm_score for row in whole["text"].rows] != [row.lm_score for row in whole["bank"].rows]


def test_a_broken_image_is_listed_and_the_others_are_counted(whole: dict[str, Tally]) -> None:
    table = whole["text"].table(CLASSES)
    assert table["bad"] == [{"number": 4, "reason": "image 4.png cannot be read"}]
    assert table["images"] == sum(found["images"] for found in table["classes"].values()) == 10


def test_perfect_maps_and_answers_score_one() -> None:
    table = planted(Items(12)).table(CLASSES)
    for found in (*table["classes"].values(), table["macro"]):
        for metric in ("image_auroc", "pixel_auroc", "accuracy", "balanced_accuracy", "lm_auroc"):
            assert found[metric] == 1
        assert found["pro"] == pytest.approx(1, abs=1e-11)
        assert found["always_yes_accuracy"] == pytest.approx(2 / 3)
        assert found["always_yes_balanced_accuracy"] == 0.5


def test_constant_maps_and_answers_score_what_chance_does() -> None:
    table = planted(Items(12), perfect=False).table(CLASSES)
    for found in (*table["classes"].values(), table["macro"]):
        assert found["image_auroc"] == found["pixel_auroc"] == found["lm_auroc"] == 0.5
        assert found["pro"] == pytest.approx(0.15)
        assert found["accuracy"] == found["always_yes_accuracy"] == pytest.approx(2 / 3)
        assert found["balanced_accuracy"] == 0.5


def test_accuracies_are_those_of_the_answers() -> None:
    tally, items = Tally("text"), Items(12)
    texts = ["Yes.", "No.", "yes", "No, Yes", "Nothing there."] * 3
    for number, item in enumerate(items):
        tally.add(number, item, np.full((SIDE, SIDE), number / 20, np.float32), Answer(texts[number], number / 7))
    found = tally.table(CLASSES)["classes"]["grass"]
    said = [(texts[number], items[number].defective) for number in range(1, 12, 2)]
    right = [(text[0] in "Yy") == defect and text != "Nothing there." for text, defect in said]
    recalls = [np.mean([ok for ok, (_, defect) in zip(right, said, strict=True) if defect == kind]) for kind in (0, 1)]
    assert found["accuracy"] == np.mean(right)
    assert found["balanced_accuracy"] == np.mean(recalls)
    assert found["answers_without_yes_or_no"] == sum(text == "Nothing there." for text, _ in said)
    published = [("Yes" if defect else "No") in text for text, defect in said]
    assert found["accuracy_published_reading"] == np.mean(published)
    assert published != right
    always = balanced_accuracy_score([d for _, d in said], [True] * len(said))
    assert found["always_yes_balanced_accuracy"] == always


def test_what_is_not_measured_is_none_with_a_reason(net: AnomalyGPT) -> None:
    items = [item for item in Items(9, masks=False) if item.class_id == 0 and item.defective]
    table = evaluate(net, Normals(), items, mode="bank", answers=False).table(CLASSES)
    brick, grass = table["classes"]["brick"], table["classes"]["grass"]
    assert (brick["image_auroc"], brick["image_auroc_reason"]) == (None, "no normal image")
    assert (brick["pixel_auroc"], brick["pixel_auroc_reason"]) == (None, "no masks")
    assert (brick["pro"], brick["pro_reason"]) == (None, "no masks")
    assert (brick["accuracy"], brick["accuracy_reason"]) == (None, "the LLM was not asked")
    assert brick["always_yes_accuracy"] == 1
    assert brick["always_yes_balanced_accuracy_reason"] == "no normal image"
    assert grass["pixel_auroc_reason"] == "no test image"
    assert table["macro"]["image_auroc"] is None
    assert table["macro"]["image_auroc_reason"] == "no normal image; no test image"
    assert json.loads(json.dumps(table, allow_nan=False)) == table


def test_a_mean_says_over_how_many_classes_it_is() -> None:
    tally = planted(Items(12))
    tally.pixels.pop(1)
    macro = tally.table(CLASSES)["macro"]
    assert (macro["pixel_auroc"], macro["pixel_auroc_classes"], macro["image_auroc_classes"]) == (1, 1, 2)


def test_diverged_weights_make_bad_images_and_no_number(net: AnomalyGPT) -> None:
    broken = model.build(CONFIG)
    broken.prepare(Normals())
    torch.nn.init.constant_(broken.image_decoder.fc[0].weight, float("nan"))
    table = evaluate(broken, Normals(), Items(3), mode="text", max_new=2).table(CLASSES)
    assert [bad["number"] for bad in table["bad"]] == [0, 1, 2]
    assert "0.png: its anomaly map is not finite" in table["bad"][0]["reason"]
    assert table["macro"]["image_auroc"] is None


def test_the_model_is_left_as_it_was(net: AnomalyGPT) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state, bank = torch.get_rng_state(), net.banks
    for training in (True, False):
        net.train(training)
        evaluate(net, Normals(), Items(2), mode="text", max_new=2)
        evaluate_draws(net, Normals(), Items(1), shots=1, draws=2, answers=False)
        assert net.training is training
    net.train()
    assert torch.equal(torch.get_rng_state(), state)
    assert net.banks is bank
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_dropout_is_off_and_gradients_are_not_kept(net: AnomalyGPT, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    look = net.look
    monkeypatch.setattr(
        net, "look", lambda *given: seen.append((net.training, torch.is_grad_enabled())) or look(*given)
    )
    evaluate(net.train(), Normals(), Items(1), mode="text", answers=False)
    assert seen == [(False, False)]


def test_draws_take_other_references_and_the_first_of_one_is_prepares(net: AnomalyGPT) -> None:
    items = Items(4)
    first, second = evaluate_draws(net, Normals(), items, shots=1, draws=2, answers=False)
    assert [row.score for row in first.rows] != [row.score for row in second.rows]
    (alone,) = evaluate_draws(net, Normals(), items, shots=CONFIG.bank_shots, draws=1, answers=False)
    assert alone.rows == evaluate(net, Normals(), items, mode="bank", answers=False).rows
    assert net.banks is not None
    assert torch.equal(banks(net, torch.from_numpy(Normals().normals(CONFIG.bank_shots))), net.banks)


def test_draws_share_no_reference(net: AnomalyGPT, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[np.ndarray] = []
    monkeypatch.setattr("model.evaluate.banks", lambda net, images: taken.append(images.numpy()) or net.banks)
    evaluate_draws(net, Normals(), Items(0), shots=2, draws=3, answers=False)
    assert np.array_equal(np.concatenate(taken, axis=1), Normals().normals(6))


def test_progress_is_told(net: AnomalyGPT) -> None:
    told: list[tuple[int, int]] = []
    evaluate(net, Normals(), Items(5, [3]), mode="bank", answers=False, batch_size=2, tell=lambda *at: told.append(at))
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_an_unprepared_model_is_prepared() -> None:
    tally = evaluate(model.build(CONFIG), Normals(), Items(2), mode="bank", answers=False)
    assert len(tally.rows) == 2


def test_textures_can_be_evaluated(net: AnomalyGPT) -> None:
    dataset = load("textures", image_size=SIDE, seed=0, split="test")
    fresh = model.build(CONFIG)
    table = evaluate(fresh, dataset, dataset.test_items(6), mode="bank", answers=False).table(dataset.classes)
    for found in table["classes"].values():
        assert (found["images"], found["defective"], found["masks"]) == (2, 1, 2)
        assert found["pixel_auroc"] is not None
        assert found["pro"] is not None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "few-shot"}, "unknown mode .*few-shot.*; there are: text, bank"),
        ({"mode": "text", "batch_size": 0}, "batch_size 0"),
        ({"mode": "text", "rank": 2, "size": 2}, "a rank below the size"),
    ],
)
def test_wrong_settings_are_refused(net: AnomalyGPT, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(net, Normals(), Items(1), **wrong)  # type: ignore[arg-type]


def test_images_of_another_size_are_refused(net: AnomalyGPT) -> None:
    item = dataclasses.replace(Items(1)[0], image=np.zeros((96, 96, 3), np.uint8))
    with pytest.raises(ValueError, match=r"\(96, 96, 3\).*image_size=112"):
        evaluate(net, Normals(), [item], mode="text")


def test_tallies_of_different_modes_do_not_merge() -> None:
    with pytest.raises(ValueError, match=r"\['bank', 'text'\]"):
        Tally.merge([Tally("text"), Tally("bank")])


def test_bad_images_merge_in_their_order() -> None:
    parts = [
        Tally("text", bad=[Bad(3, "three"), Bad(5, "five")]),
        Tally("text", bad=[Bad(0, "nought"), Bad(4, "four")]),
    ]
    assert [bad.number for bad in Tally.merge(parts).bad] == [0, 3, 4, 5]

"""Published numbers: the audit's recomputed means follow from the table, and ours stand beside them."""

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from model.data.sample import TestItem
from model.generate import Answer
from model.published import (
    BLADES,
    NOTES,
    PAPER,
    TABLE_1,
    TABLE_1_MEANS,
    VERSIONS,
    compare_with_published,
    lines,
    markdown,
    mean_accuracy,
    notes,
)
from model.tally import Tally

MVTEC = [name for name in TABLE_1 if name not in BLADES]


@pytest.mark.parametrize(
    ("version", "mean"), [("Base", 91.65), ("V2", 89.42), ("V3", 0), ("V4", 90.29), ("V5", 92.25), ("V6", 92.68)]
)
def test_means_over_mvtec_are_the_audits(version: str, mean: float) -> None:
    """They add up only if no cell was copied wrong."""
    assert mean_accuracy(version, MVTEC) == pytest.approx(mean, abs=0.006)
    if version != "V3":
        assert f"{mean:.2f}" in NOTES[2]


@pytest.mark.parametrize(("version", "mean"), [("V4", 86.06), ("V5", 86.34), ("V6", 87.86)])
def test_means_over_all_classes_are_the_audits_not_the_printed_ones(version: str, mean: float) -> None:
    assert mean_accuracy(version, list(TABLE_1)) == pytest.approx(mean, abs=0.006)
    printed = TABLE_1_MEANS["accuracy"][VERSIONS.index(version)]
    assert abs(printed - mean) == pytest.approx({"V4": 0.19, "V5": 0.12, "V6": 0.01}[version], abs=0.01)


def test_every_class_has_every_version() -> None:
    assert len(MVTEC) == 15
    assert {len(row) for row in (*TABLE_1.values(), *TABLE_1_MEANS.values())} == {len(VERSIONS)}
    with pytest.raises(ValueError, match="Base has no accuracy for groove"):
        mean_accuracy("Base", ["groove"])


def table(*classes: str) -> dict[str, Any]:
    tally = Tally("text")
    mask = np.zeros((8, 8), np.uint8)
    mask[2:4, 2:5] = 1
    for number in range(4 * len(classes)):
        class_id, kind = divmod(number, 4)
        item = TestItem(np.zeros((8, 8, 3), np.uint8), mask * (kind % 2), kind % 2 == 1, class_id, "?", str(number))
        said = Answer("Yes" if kind % 2 else "No" if kind else "Yes", float(kind))
        tally.add(number, item, mask * (kind % 2) * 0.5 + 0.1, said)
    return tally.table(classes)


def test_our_lines_stand_beside_those_of_the_same_class() -> None:
    heading, metal, groove, mean = lines(table("metal nut", "groove"))
    assert heading[-6:] == list(VERSIONS)
    assert metal == ["metal nut", "4", "75.0", "75.0", "50.0", "100.0", "100.0", "100.0", "75.0",
                     "99.13", "100.00", "0.00", "100.00", "98.55", "98.07"]  # fmt: skip
    assert groove[-6:] == ["-", "-", "-", "71.14", "60.28", "62.28"]
    # Of the cells above it: the report's own mean is of other classes, and not even of those (its V2 to V6).
    assert mean[-6:] == ["99.13", "100.00", "0.00", "85.57", "79.41", "80.17"]
    assert lines(table("ablation"))[-1][-6:] == ["-", "-", "-", "61.92", "65.38", "75.00"]


def test_the_printed_mean_is_told_apart_where_it_is_another() -> None:
    (said,) = [note for note in notes(table(*MVTEC), "mvtec") if "not what the report prints" in note]
    assert "V2 89.42 (printed 89.56)" in said
    assert "V5 92.25 (printed 86.22)" in said
    assert "Base" not in said


def test_a_part_of_the_test_set_is_told_where_published_numbers_stand_beside() -> None:
    assert [note for note in notes(table("bottle"), "mvtec", 83) if "accuracy not comparable" in note] == [
        "4 of 83 images, balanced over classes and over normal and defective ones: accuracy not comparable "
        "with a published one; --items 0 takes all."
    ]
    assert not any("comparable with a" in note for note in notes(table("bottle"), "mvtec", 4))  # all there are
    assert not any("comparable with a" in note for note in notes(table("brick"), "textile", 900))  # nothing beside them


def test_other_classes_have_no_published_columns() -> None:
    made = lines(table("brick"))
    assert made[0][-1] == "LM AUROC"
    assert {len(line) for line in made} == {9}
    assert not any("report" in note for note in notes(table("brick"), "textures"))


def test_notes_say_what_is_missing_and_what_the_paper_has() -> None:
    made = table("bottle")
    made["macro"] |= {"pro": None, "pro_reason": "no masks"}
    made["bad"] = [{"number": 3, "reason": "image 3.png is missing"}]
    said = notes(made, "mvtec")
    assert "not measured, no masks: PRO." in said
    assert "left out: image 3.png is missing" in said
    assert "paper, mvtec unsupervised: image AUROC 97.4, pixel AUROC 93.1, accuracy 93.3." in said
    assert sum(note.startswith("paper") for note in said) == sum(name == "mvtec" for name, _ in PAPER)
    assert set(NOTES) < set(said)


def test_terminal_and_markdown_hold_the_same_cells() -> None:
    made = table("bottle", "screw")
    stream = io.StringIO()
    Console(file=stream, width=200).print(compare_with_published(made, title="ours"))
    text = markdown(made, title="ours", notes=["a note"])
    for line in lines(made)[1:]:
        assert f"| {' | '.join(line)} |" in text
        assert any(line == row.split() for row in stream.getvalue().splitlines())
    assert text.startswith("**ours**\n\n| class |")
    assert text.endswith("\n- a note\n")

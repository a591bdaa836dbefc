"""The commands that look at pictures and test images: predict, chat and evaluate, with a random model."""

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import model
from bench import chat, evaluate, evaluation, predict, spread
from bench.config import ConfigError
from bench.overlay import LINE, overlay
from bench.predict import Model
from bench.record import RecordError
from bench.viewer import LONGEST, Viewer, built, configured, read
from model import variants
from model.assets import AssetError
from model.checkpoints import save_delta
from model.data import DATASETS, DataError, load
from model.data.dataset import read_image
from model.generate import MAX_NEW, Answer

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = Model(preset="tiny")
SIDE = 224


@pytest.fixture(scope="module")
def viewer() -> Viewer:
    return Viewer(TINY, "brick")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five bricks, the first one broken."""
    folder = tmp_path_factory.mktemp("pictures")
    dataset = load("textures", image_size=SIDE, seed=0)
    images = [dataset[1].image, *dataset.normals(4)[0]]
    paths = [folder / f"{number}.png" for number in range(5)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What another seed draws, as if it were trained."""
    path = tmp_path_factory.mktemp("checkpoint") / "trained.pt"
    config = model.preset("tiny")
    save_delta(model.build(config, seed=5).state_dict(), path, config=config)
    return path


def predicted(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[str]:
    assert predict.main([*map(str, arguments), "--preset", "tiny", "--class-name", "brick"]) == 0
    return capsys.readouterr().out.splitlines()


def test_predict_draws_and_answers(pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = predicted(capsys, pictures[0], "--output", tmp_path / "overlay.png")
    with Image.open(tmp_path / "overlay.png") as drawn:
        assert drawn.width > 3 * SIDE
    assert "untrained" in said[1]
    assert any(
        "text against patches" in line and "outline at 0.5, where defective is as likely" in line for line in said
    )
    assert any(line.startswith("answer: ") for line in said)
    assert said[-1] == str(tmp_path / "overlay.png")


def test_a_checkpoint_changes_the_map_and_nothing_is_called_untrained(
    pictures: list[Path], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    without = predicted(capsys, pictures[0], "--output", tmp_path / "a.png")
    given = predicted(capsys, pictures[0], "--output", tmp_path / "b.png", "--checkpoint", checkpoint)
    assert not any("untrained" in line for line in given)
    assert {line for line in given if line.startswith("map:")} != {line for line in without if line.startswith("map:")}
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_a_checkpoint_says_which_model_it_is_of(tmp_path: Path, checkpoint: Path) -> None:
    """Of a variant the plain LLM was built, on the preset's shots; and of a flag that says otherwise, another model."""
    config = dataclasses.replace(
        variants.apply(model.preset("tiny"), variants.VARIANTS["V1"]), bank_shots=3, bank_rotations=False
    )
    save_delta(model.build(config, seed=5).state_dict(), tmp_path / "v1.pt", config=config)
    assert configured(Model(checkpoint=tmp_path / "v1.pt")) == config
    assert not configured(Model(checkpoint=checkpoint, rotations=False)).bank_rotations
    with pytest.raises(ConfigError, match=r"--preset is small, but .*v1\.pt was trained as tiny; leave --preset out"):
        built(Model(checkpoint=tmp_path / "v1.pt", preset="small"))
    with pytest.raises(ConfigError, match=r"v1\.pt was trained without published weights; leave --weights out"):
        built(Model(checkpoint=tmp_path / "v1.pt", weights=tmp_path))
    older = torch.load(checkpoint, weights_only=True)
    torch.save(dict(older), tmp_path / "older.pt")  # as every file was: it says nothing, and nothing is contradicted
    assert configured(Model(checkpoint=tmp_path / "older.pt")).name == "small"
    assert configured(Model(checkpoint=tmp_path / "older.pt", preset="tiny")) == model.preset("tiny")


def test_a_wrong_checkpoint_is_named(tmp_path: Path, pictures: list[Path]) -> None:
    (tmp_path / "broken.pt").write_bytes(b"no tensors")
    with pytest.raises(AssetError, match=r"broken\.pt"):
        predict.main([str(pictures[0]), "--preset", "tiny", "--checkpoint", str(tmp_path / "broken.pt")])


def test_an_unknown_preset_is_a_config_error(pictures: list[Path]) -> None:
    with pytest.raises(ConfigError, match="unknown preset 'huge'; there are: tiny, small"):
        predict.main([str(pictures[0]), "--preset", "huge"])


def test_an_output_that_cannot_be_written_is_named(pictures: list[Path], tmp_path: Path) -> None:
    for wrong in (tmp_path / "no" / "overlay.png", tmp_path / "overlay.nothing"):
        with pytest.raises(ConfigError, match=f"--output {wrong} can't be written"):
            predict.main([str(pictures[0]), "--preset", "tiny", "--output", str(wrong)])


def test_normal_pictures_give_the_distance_from_them(viewer: Viewer, pictures: list[Path]) -> None:
    broken, first, *others = (viewer.photo(path).pixels for path in pictures)
    try:
        viewer.remember([first])
        assert viewer.source == "distance from 1 normal picture"
        same, other = viewer.see(first), viewer.see(broken)
        assert same.anomaly_map.max() < 1e-4 < other.anomaly_map.max()
        assert viewer.threshold(other)[0] == pytest.approx(np.quantile(other.anomaly_map, 0.99))
        viewer.remember([first, *others])
        threshold, why = viewer.threshold(other)
        assert "each normal picture against the others" in why
        assert 1e-4 < threshold < 1  # no picture is measured against itself
    finally:
        viewer.remember([])
    assert viewer.source == "the decoder, text against patches"


@pytest.mark.parametrize(
    ("mode", "size", "said"),
    [
        ("RGB", (SIDE, SIDE), None),
        ("RGB", (300, 200), "300 x 200 pixels squashed to 224 x 224"),
        ("L", (SIDE, SIDE), "L to RGB"),
        ("1", (SIDE, SIDE), "1 to RGB"),
        ("P", (SIDE, SIDE), "P to RGB"),
        ("RGBA", (SIDE, SIDE), "RGBA on white to RGB"),
        ("LA", (SIDE, SIDE), "LA on white to RGB"),
        ("CMYK", (100, 7), "CMYK to RGB, 100 x 7 pixels squashed to 224 x 224"),
        ("I;16", (SIDE, SIDE), "I;16 to RGB, 65535 is white"),
        ("L", (1, 1), "L to RGB, 1 x 1 pixels squashed to 224 x 224"),
    ],
)
def test_any_mode_and_size_is_converted_and_said(
    mode: str, size: tuple[int, int], said: str | None, tmp_path: Path
) -> None:
    path = tmp_path / ("picture.tif" if mode == "CMYK" else "picture.png")
    if mode == "I;16":
        values = np.linspace(0, 65535, size[0] * size[1]).reshape(size).astype(np.uint16)
        Image.fromarray(values).save(path)
    else:
        Image.new(mode, size).save(path)
    photo = read(path, SIDE)
    assert photo.pixels.shape == (SIDE, SIDE, 3)
    assert photo.pixels.dtype == np.uint8
    assert photo.converted == said
    if mode == "I;16":
        assert (photo.pixels.min(), photo.pixels.max()) == (0, 255)
        assert abs(float(photo.pixels.mean()) - 127.5) < 2  # not cut at 255
    if mode in ("RGBA", "LA"):
        assert (photo.pixels == 255).all()  # transparent is white


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "RGBA", "I;16", "turned"])
def test_training_and_predict_see_the_same_picture(mode: str, tmp_path: Path) -> None:
    """8 bit without transparency as Pillow has it; the rest was cut at 255, black where it shows through, or lay on its side."""
    steps = np.linspace(0, 2**16 - 1, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16)
    grey, exif = Image.fromarray((steps >> 8).astype(np.uint8)), Image.Exif()
    if mode == "I;16":
        picture = Image.fromarray(steps)
    else:
        picture = grey.convert("RGB" if mode == "turned" else mode)
    if mode.endswith("A"):
        picture.putalpha(0)
    if mode == "turned":
        exif[0x0112] = 3
    picture.save(tmp_path / "picture.png", exif=exif)
    seen = np.asarray(read_image(tmp_path / "picture.png", "look again"))
    assert np.array_equal(seen, read(tmp_path / "picture.png", SIDE).pixels)
    wanted = {"I;16": grey, "turned": grey.rotate(180), "LA": Image.new("L", grey.size, 255)}
    wanted["RGBA"] = wanted["LA"]
    assert np.array_equal(seen, np.asarray(wanted.get(mode, picture).convert("RGB")))


def test_floats_are_refused_as_no_value_is_known_to_be_white(tmp_path: Path) -> None:
    Image.new("F", (8, 8)).save(tmp_path / "floats.tif")
    with pytest.raises(DataError, match=r"floats\.tif cannot be read .*floats.*save it as 8 or 16 bit grey"):
        read(tmp_path / "floats.tif", SIDE)


def test_a_picture_taken_sideways_is_turned_upright(tmp_path: Path) -> None:
    picture, exif = Image.new("RGB", (300, 200)), Image.Exif()
    picture.paste((255, 255, 255), (0, 0, 300, 20))  # its upper edge is the right one when turned clockwise
    exif[0x0112] = 6
    picture.save(tmp_path / "sideways.png", exif=exif)
    photo = read(tmp_path / "sideways.png", SIDE)
    assert photo.converted == "turned upright, 200 x 300 pixels squashed to 224 x 224"
    assert photo.pixels[:, -10:].min() > 200 > photo.pixels[:, :10].max()


def test_a_picture_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    cut = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(cut)
    cut.write_bytes(cut.read_bytes()[:2000])
    for name, problem in (
        ("text.png", "cannot be read"),
        ("cut.png", "cannot be read"),
        ("no.png", "missing"),
        ("", "folder"),
    ):
        with pytest.raises(DataError, match=rf"picture {tmp_path / name} .*{problem}"):
            read(tmp_path / name, SIDE)


def test_the_overlay_outlines_what_is_over_the_threshold() -> None:
    picture = np.full((SIDE, SIDE, 3), 100, np.uint8)
    heat = np.zeros((SIDE, SIDE), np.float32)
    heat[50:100, 60:120] = 0.8
    drawn = np.asarray(overlay(picture, heat, 0.5, "caption"))
    left = np.asarray(drawn)[8 : 8 + SIDE, 8 : 8 + SIDE]
    assert (left == picture).all()
    right = drawn[8 : 8 + SIDE, -8 - SIDE : -8]
    rows, columns = np.nonzero((right == LINE).all(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (49, 100, 59, 120)
    assert not (right[50:100, 60:120] == LINE).all(-1).any()  # inside stays to be seen
    middle = drawn[8 : 8 + SIDE, 16 + SIDE : 16 + 2 * SIDE]
    assert middle[75, 90, 0] > middle[75, 90, 2]  # red is high
    assert middle[10, 10, 0] < middle[75, 90, 0]


def test_an_overlay_of_broken_scores_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        overlay(np.zeros((8, 8, 3), np.uint8), np.full((8, 8), np.nan), 0.5, "")


def talked(viewer: Viewer, monkeypatch: pytest.MonkeyPatch, typed: str, *pictures: Path) -> tuple[str, list[Any]]:
    """What is shown for lines of input, and what the LLM was asked: (question, turns, map's largest score)."""
    asked: list[Any] = []

    def ask(seen: Any, question: str, turns: list[tuple[str, str]]) -> Answer:
        asked.append((question, list(turns), float(seen.anomaly_map.max())))
        return Answer(f"answer {len(asked)}", 0.0)

    monkeypatch.setattr(viewer, "ask", ask)
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    stream = io.StringIO()
    console = Console(file=stream, width=80)
    talk = chat.Talk(viewer, console)
    talk.show(pictures[0])
    for line in chat.lines(console):
        talk.hear(line)
    return stream.getvalue(), asked


def test_a_later_question_knows_the_earlier_ones(
    viewer: Viewer, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, asked = talked(viewer, monkeypatch, "Any?\n\nWhere?\n/forget\nSure?\n", pictures[0])
    assert [each[:2] for each in asked] == [("Any?", []), ("Where?", [("Any?", "answer 1")]), ("Sure?", [])]
    assert "answer 3" in shown


def test_a_cut_answer_is_shown_as_cut_and_a_users_question_may_have_a_long_one(
    viewer: Viewer, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def speak(*_: Any, max_new: int) -> list[Answer]:
        asked.append(max_new)
        return [Answer("a part", 0.0, cut=True)]

    monkeypatch.setattr(viewer._speaker.__class__, "__call__", speak)
    stream = io.StringIO()
    talk = chat.Talk(viewer, Console(file=stream, width=80))
    talk.show(pictures[0])
    talk.hear("Tell me all.")
    assert "a part…" in stream.getvalue()
    assert asked == [LONGEST]
    assert LONGEST > MAX_NEW


def test_another_picture_begins_a_new_conversation(
    viewer: Viewer, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = f"Any?\n/image {pictures[1]}\nAnd here?\n/ask\n"
    shown, asked = talked(viewer, monkeypatch, typed, pictures[0])
    assert [each[1] for each in asked] == [[], [], [("And here?", "answer 2")]]
    assert asked[0][2] != asked[1][2]
    assert asked[2][0] == viewer.question
    assert str(pictures[1]) in shown


def test_a_mistake_in_a_conversation_is_told_and_it_goes_on(
    viewer: Viewer, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, asked = talked(viewer, monkeypatch, "Any?\n/image no.png\n/what\nStill there?\n", pictures[0])
    assert "picture no.png is missing" in shown
    assert chat.HELP.split(";")[0] in shown
    assert asked[-1][:2] == ("Still there?", [("Any?", "answer 1")])


def test_the_chat_command_reads_a_pipe(
    pictures: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Any?\n/quit\nnot asked\n"))
    assert chat.main([str(pictures[0]), "--preset", "tiny", "--class-name", "brick", "--normal", str(pictures[1])]) == 0
    assert "distance from 1 normal picture" in capsys.readouterr().out


def test_too_long_a_conversation_is_told(
    viewer: Viewer, pictures: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    talk = chat.Talk(viewer, Console(width=80))
    talk.show(pictures[0])
    talk.hear("Why? " * 300)
    assert "begin a new one" in capsys.readouterr().out


def test_evaluate_writes_tables_baselines_and_a_record(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = ["--markdown", str(tmp_path / "table.md"), "--output", str(tmp_path / "record.json")]
    given = ["--preset", "tiny", "--items", "6", "--draws", "2", "--shots", "1", "--baselines", "--no-answers"]
    assert evaluate.main([*given, "--checkpoint", str(checkpoint), *files]) == 0
    shown, text = capsys.readouterr().out, (tmp_path / "table.md").read_text()
    record = json.loads((tmp_path / "record.json").read_text())
    assert set(record) >= {"command", "config", "environment", "model", "data", "results", "started", "finished"}
    results = record["results"]
    names = {"decoder", "memory bank", "constant map", "memory bank alone", "untrained decoder"}
    assert {name for name, result in results.items() if result["table"]} == names
    assert "random already" in results["random encoder's memory bank"]["reason"]
    for name in names:
        table = results[name]["table"]
        assert [found["images"] for found in table["classes"].values()] == [2, 2, 2]
        assert name in shown
        assert f"**{name}: tiny on textures" in text
    constant = results["constant map"]["table"]["macro"]
    assert constant["image_auroc"] == constant["pixel_auroc"] == 0.5
    assert results["decoder"]["table"]["macro"] != results["untrained decoder"]["table"]["macro"]
    bank = results["memory bank"]
    assert bank["table"]["macro"]["pixel_auroc"] == results["memory bank alone"]["table"]["macro"]["pixel_auroc"]
    values = [draw["pixel_auroc"] for draw in bank["draws"]]
    assert len(set(values)) == 2
    assert bank["spread"]["draws"]["pixel_auroc"] == {
        "mean": pytest.approx(np.mean(values)),
        "deviation": pytest.approx(np.std(values, ddof=1)),
    }
    assert len(bank["images"]) == 6
    assert record["model"]["trained"] == "trained: trained.pt"


def test_evaluate_asks_and_says_that_nothing_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate.main(["--preset", "tiny", "--items", "6", "--mode", "text", "--data", "textures"]) == 0
    shown = capsys.readouterr().out
    assert "untrained" in shown
    assert "the LLM was not asked" not in shown
    assert "memory bank" not in shown


def test_a_bootstrap_interval_holds_the_value_and_narrows_with_images() -> None:
    from tests.test_evaluate import CLASSES, Items, planted

    rng = np.random.default_rng(1)
    found = {}
    assert set(spread.over_images(planted(Items(12))).values()) == {None}  # too few to say
    for count in (36, 180):
        tally = planted(Items(count, masks=False))
        noisy = [row._replace(score=row.defective + 1.5 * rng.random(), answer="Yes") for row in tally.rows]
        tally.rows = noisy
        low, high = spread.over_images(tally)["image_auroc"] or (None, None)
        assert low <= tally.table(CLASSES)["macro"]["image_auroc"] <= high
        found[count] = high - low
    assert 0 < found[180] < found[36]
    assert spread.over_images(tally)["balanced_accuracy"] == [0.5, 0.5]


def test_overlapping_crops_have_no_interval_over_images() -> None:
    """Drawn again as if each were a photograph of its own, they gave one that looked far too narrow."""
    from tests.test_evaluate import CLASSES, Items, planted

    tally = planted(Items(60, masks=False))
    tables = [tally.table(CLASSES)] * 2
    apart = evaluation.Result([tally], tables, 1.0)
    assert apart.spread()["images"]["accuracy"] == [1, 1]
    assert apart.spread()["images_reason"] is None
    assert {name for name, kind in DATASETS.items() if kind.dependent} == {"textures"}
    why = DATASETS["textures"].dependent
    overlapping = dataclasses.replace(apart, dependent=why)
    assert set(overlapping.spread()["images"].values()) == {None}
    assert overlapping.spread()["images_reason"] == why == "its crops overlap: they are not independent images"
    assert overlapping.spread_in_words()[-1] == f"no interval over images: {why}."
    assert sum(why in line for line in overlapping.spread_in_words()) == 2  # of the draws it is said too


def test_the_untrained_baseline_is_what_build_draws(viewer: Viewer) -> None:
    net = viewer.net
    before, other = net.image_decoder, model.build(net.config, seed=3).state_dict()
    with evaluation.untrained(net, 3):
        inside = net.state_dict()
        drawn = [name for name in inside if name.startswith(("image_decoder.", "prompt_learner."))]
        assert len(drawn) == 21
        assert all(torch.equal(inside[name], other[name]) for name in drawn)
    assert net.image_decoder is before


def test_the_random_encoder_is_another_tower_and_goes_again(viewer: Viewer, pictures: list[Path]) -> None:
    picture = viewer.photo(pictures[0]).pixels
    net, before = viewer.net, viewer.net.vision
    for parameter in before.parameters():
        parameter.data.mul_(1.5)  # as if it were pretrained
    shown = viewer.see(picture).token
    with evaluation.random_encoder(net):
        assert type(net.vision) is type(before)
        assert not torch.equal(viewer.see(picture).token, shown)
        assert not any(p.requires_grad for p in net.vision.parameters())
    assert net.vision is before
    assert torch.equal(viewer.see(picture).token, shown)
    for parameter in before.parameters():
        parameter.data.div_(1.5)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data", "nothing"], "unknown dataset 'nothing'"),
        (["--items", "0"], "textures"),
    ],
)
def test_settings_that_cannot_be_served_are_refused(flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate.main(["--preset", "tiny", *flags])


def test_impossible_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, value in (("--items", "-1"), ("--draws", "0"), ("--shots", "0"), ("--batch-size", "0")):
        with pytest.raises(SystemExit, match="2"):
            evaluate.main(["--preset", "tiny", flag, value])
        assert f"{flag} is {value}; it must be at least" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"cannot write .*no/table\.md"):
        evaluate._write(tmp_path / "no" / "table.md", "")

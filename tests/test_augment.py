"""Augmentation: exactly so many images, no pixel from outside them, the table's laws; defects doubled onto the object."""

import hashlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from model.data import DataError, load, nsa
from model.data.augment import augment
from model.data.doubled import doubled, paste, placement
from model.data.mvtec import Mvtec
from model.data.recipes import TABLE, Affine, Brightness, Flip, Turn, variants

SIDE = 96
GREY, METAL, RUST = 200, 60, (150, 40, 40)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def bar(angle: float, shift: tuple[float, float], defect: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A dark bar with a head on light ground, turned and shifted: (image, object, mask of rust near its head)."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    rows, columns = rows - shift[0], columns - shift[1]
    turn = np.deg2rad(angle)
    along, across = columns * np.cos(turn) - rows * np.sin(turn), columns * np.sin(turn) + rows * np.cos(turn)
    thing = (abs(along) < 30) & (abs(across) < 6) | (abs(along - 26) < 5) & (abs(across) < 12)
    rust = (abs(along - 20) < 9) & (abs(across) < 5) if defect else np.zeros_like(thing)
    image = np.where(thing, METAL, GREY).astype(np.uint8)[..., None].repeat(3, axis=2)
    image[rust] = RUST
    return image, thing, rust.astype(np.uint8)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes in MVTec-AD's layout: an object that lies anyhow, a texture, and one that the table does not name."""
    folder = tmp_path_factory.mktemp("mvtec")
    rng = np.random.default_rng(0)
    (folder / "license.txt").write_text("CC BY-NC-SA 4.0")

    def anyhow(defect: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return bar(rng.uniform(-180, 180), tuple(rng.uniform(-12, 12, size=2)), defect)

    def woven(defect: bool) -> tuple[np.ndarray, np.ndarray]:
        image, mask = rng.integers(90, 130, (SIDE, SIDE, 3), dtype=np.uint8), np.zeros((SIDE, SIDE), np.uint8)
        if defect:
            top, left = rng.integers(5, 60, size=2)
            mask[top : top + 20, left : left + 14] = 1
            image[mask == 1] = rng.integers(150, 250, (int(mask.sum()), 3))
        return image, mask

    for name, draw, n in (("screw", anyhow, 7), ("carpet", woven, 5), ("blade", woven, 6)):
        for number in range(n):
            save(folder / name / "train" / "good" / f"{number:03d}.png", draw(False)[0])
        for number in range(2):
            save(folder / name / "test" / "good" / f"{number:03d}.png", draw(False)[0])
        for defect in ("one", "two"):
            for number in range(3):
                image, *_, mask = draw(True)
                save(folder / name / "test" / defect / f"{number:03d}.png", image)
                save(folder / name / "ground_truth" / defect / f"{number:03d}_mask.png", 255 * mask)
    return folder


@pytest.fixture(scope="module")
def target(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made") / "augmented"
    augment(source, made, per_class=40, seed=3, tell=lambda _: None)
    return made


def files(folder: Path) -> dict[str, str]:
    """Every file by its path, with a hash of what it holds."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


# the table


def test_the_table_names_the_classes_of_mvtec():
    assert sorted(name.replace("_", " ") for name in TABLE) == sorted(Mvtec.classes)


def test_code_and_report_differ_in_two_classes():
    assert {name for name, recipe in TABLE.items() if recipe.code} == {"capsule", "zipper"}
    assert TABLE["capsule"].operations[0] == Turn(270, 0.5)
    assert TABLE["capsule"].code[0] == Turn(270, 1.0)
    assert TABLE["zipper"].operations[-1] == Flip("vertical", 0.7)
    assert TABLE["zipper"].code[-1] == Flip("vertical", 1.0)


def test_what_may_look_like_a_defect_is_flagged():
    assert {name for name, recipe in TABLE.items() if recipe.caution} == {"transistor", "metal_nut", "cable"}


def test_turns_and_flips_are_those_that_they_name():
    rng = np.random.default_rng(0)
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for degrees, code in ((90, cv2.ROTATE_90_CLOCKWISE), (180, cv2.ROTATE_180), (270, cv2.ROTATE_90_COUNTERCLOCKWISE)):
        assert np.array_equal(Turn(degrees)(image, rng), cv2.rotate(image, code))
    assert np.array_equal(Flip("horizontal")(image, rng), image[:, ::-1])
    assert np.array_equal(Flip("vertical")(image, rng), image[::-1])


@pytest.mark.parametrize("operation", [Turn(180, 0.8), Flip("vertical", 0.3), Brightness(p=0.7)])
def test_an_operation_happens_as_often_as_its_probability_says(operation):
    rng = np.random.default_rng(1)
    image = np.array([[100, 200, 50], [10, 20, 30]], np.uint8)
    happened = [not np.array_equal(operation(image, rng), image) for _ in range(2000)]
    assert abs(np.mean(happened) - operation.p) < 0.04


def test_brightness_stays_within_its_factors():
    rng = np.random.default_rng(2)
    image = np.full((4, 4, 3), 100, np.uint8)
    values = [int(Brightness(p=1.0)(image, rng)[0, 0, 0]) for _ in range(500)]
    assert min(values) in (90, 91)
    assert max(values) in (109, 110)
    assert Brightness((2.0, 2.0), 1.0)(np.full((2, 2), 200, np.uint8), rng).max() == 255


def test_an_affine_turns_and_enlarges_about_the_middle():
    image = np.full((101, 101), 30, np.uint8)
    image[48:53, 20:81] = 200  # a line of 61 x 5 through the middle
    rng = np.random.default_rng(3)
    for degrees, scale in ((0.0, (1.5, 1.5)), (35.0, (1.2, 1.2))):
        out = Affine(degrees, scale)(image, rng) > 115
        (_, (length, width), _) = cv2.minAreaRect(np.argwhere(out).astype(np.float32))
        assert sorted((length, width)) == pytest.approx([5 * scale[0], 61 * scale[0]], abs=2)
        assert np.argwhere(out).mean(axis=0) == pytest.approx([50, 50], abs=1)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("form", ["operations", "code"])
def test_no_pixel_from_outside_comes_in(name, form):
    """Of an image without a dark pixel nothing is ever darker than its darkest times the least brightness."""
    operations = getattr(TABLE[name], form) or TABLE[name].operations
    rng = np.random.default_rng(4)
    image = rng.integers(100, 200, (SIDE, SIDE, 3), dtype=np.uint8)
    made, copies = variants(image, operations, 4, rng)
    assert copies == 0
    for drawn in made:
        assert drawn.shape == image.shape
        assert drawn.dtype == np.uint8
        assert drawn.min() >= 90
        assert drawn.max() <= 220


def test_what_is_drawn_is_new_while_the_recipe_has_forms():
    image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    made, copies = variants(image, (Turn(90, 0.5), Turn(180, 0.5)), 5, np.random.default_rng(0))
    assert copies == 2  # three other forms than the image's own
    assert len({drawn.tobytes() for drawn in made[:3]} | {image.tobytes()}) == 4


# the folder


def test_every_class_of_the_table_has_exactly_so_many_images(target):
    assert {name: len(list((target / name / "train" / "good").iterdir())) for name in ("screw", "carpet", "blade")} == {
        "screw": 40,
        "carpet": 40,
        "blade": 6,
    }


def test_originals_are_kept_and_come_first(source, target):
    before, after = files(source / "screw" / "train"), files(target / "screw" / "train")
    assert before.items() <= after.items()
    assert sorted(after)[:7] == sorted(before)
    assert len(set(after.values())) == 40  # no copies


def test_draws_are_spread_evenly_over_the_originals(target):
    drawn = [path.name for path in (target / "screw" / "train" / "good").glob("drawn_*")]
    counts = Counter(name.split("_")[1] for name in drawn)
    assert sorted(counts.values()) == [4, 4, 5, 5, 5, 5, 5]


def test_each_original_has_draws_of_its_own(source, tmp_path):
    for name in files(source / "screw"):
        path = tmp_path / "in" / "screw" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        twin = source / "screw" / ("train/good/000.png" if name.startswith("train") else name)
        path.write_bytes(twin.read_bytes())
    augment(tmp_path / "in", tmp_path / "out", per_class=21, seed=0, tell=lambda _: None)
    made = files(tmp_path / "out" / "screw" / "train")
    assert len({content for name, content in made.items() if "drawn" in name}) == 14


def test_too_many_originals_are_cut(source, tmp_path):
    augment(source, tmp_path / "few", per_class=3, seed=3, tell=lambda _: None)
    for name in ("screw", "carpet"):
        few, all_of = files(tmp_path / "few" / name / "train"), files(source / name / "train")
        assert len(few) == 3
        assert few.items() <= all_of.items()


def test_the_seed_decides(source, target, tmp_path):
    for seed in (3, 4):
        augment(source, tmp_path / str(seed), per_class=40, seed=seed, tell=lambda _: None)
    assert files(tmp_path / "3") == files(target)
    assert files(tmp_path / "4") != files(target)


def test_the_rest_is_copied(source, target):
    before, after = files(source), files(target)
    assert {name: content for name, content in before.items() if "/train/" not in name}.items() <= after.items()
    assert {name for name in after if name.startswith("blade")} == {name for name in before if name.startswith("blade")}
    assert not [name for name in after if ".partial" in name]


def test_it_is_read_as_a_data_set(target):
    data = load("mvtec", image_size=96, seed=0, folder=target)
    assert data.classes == ("blade", "carpet", "screw")
    items = data.test_items(None)
    assert sum(item.defective for item in items) == 6 + 12 + 12
    assert all(item.mask.any() == item.defective for item in items)


def test_a_summary_counts_and_a_line_tells(source, tmp_path):
    told: list[str] = []
    summary = augment(source, tmp_path / "made", per_class=12, seed=0, tell=told.append)
    screw = summary.classes["screw"]
    assert (screw.originals, screw.kept, screw.drawn, screw.copies, screw.defects, screw.doubled) == (7, 7, 5, 0, 6, 6)
    assert summary.unchanged == ("blade",)
    assert summary.left_out == ()
    assert told == [
        "blade: copied; the report's Table 2 does not name it",
        "carpet: 5 of 5 training images, 7 drawn; 6 defective test images, 6 more",
        "screw: 7 of 7 training images, 5 drawn; 6 defective test images, 6 more",
    ]


def test_flips_that_may_be_defects_are_told(source, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "transistor").symlink_to(source / "carpet")
    told: list[str] = []
    augment(tmp_path / "in", tmp_path / "made", per_class=6, seed=0, tell=told.append)
    assert "caution: a transistor that stands otherwise is its defect misplaced" in told[0]


def test_faithful_takes_the_codes_recipe_and_training_images(source, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "capsule").symlink_to(source / "carpet")
    for faithful in (False, True):
        augment(tmp_path / "in", tmp_path / str(faithful), per_class=25, seed=0, faithful=faithful, tell=lambda _: None)
    share = {}
    for faithful in (False, True):
        folder = tmp_path / str(faithful) / "capsule" / "train" / "good"
        likely = []
        for path in folder.glob("drawn_*"):
            image, original = read(path).astype(float), read(folder / f"{path.stem.split('_')[1]}.png").astype(float)
            forms = [np.corrcoef(image.ravel(), np.rot90(original, turns).ravel())[0, 1] for turns in range(4)]
            likely.append(int(np.argmax(forms)) in (1, 3))
        share[faithful] = np.mean(likely)
    assert share[True] == 1
    assert 0.2 < share[False] < 0.8


# the doubled test set


def test_names_of_image_and_mask_agree(target):
    for defect in ("one", "two"):
        images = sorted(path.name for path in (target / "screw" / "test" / defect).iterdir())
        masks = sorted(path.name for path in (target / "screw" / "ground_truth" / defect).iterdir())
        assert images == [f"{number:03d}.png" for number in range(6)]
        assert masks == [f"{number:03d}_mask.png" for number in range(6)]


def test_a_doubled_image_is_a_normal_one_turned_with_a_change_inside_its_mask(source, target):
    for name in ("screw", "carpet"):
        normals = [read(path) for path in sorted((source / name / "test" / "good").iterdir())]
        place = 0
        for defect in ("one", "two"):
            for number in range(3, 6):
                image = read(target / name / "test" / defect / f"{number:03d}.png")
                mask = read(target / name / "ground_truth" / defect / f"{number:03d}_mask.png")
                assert set(np.unique(mask)) == {0, 255}
                image, mask = np.rot90(image, -1), np.rot90(mask, -1)  # back: 90 degrees clockwise
                change = np.abs(image.astype(int) - normals[place % 2]).max(axis=2)
                assert change[mask > 0].mean() > 20
                assert (change[mask > 0] > 8).mean() > 0.8
                shape = cv2.dilate(mask, np.ones((9, 9), np.uint8))
                assert change[shape == 0].mean() < 1
                place += 1


def test_defects_land_on_the_object_where_they_were_on_it():
    rng = np.random.default_rng(7)
    law = nsa.bounds("screw")
    for _ in range(6):
        image, _, mask = bar(rng.uniform(-180, 180), tuple(rng.uniform(-12, 12, size=2)), True)
        angle, shift = rng.uniform(-180, 180), tuple(rng.uniform(-12, 12, size=2))
        normal, thing, _ = bar(angle, shift, False)
        pasted = paste(image, mask, normal, law)
        assert pasted is not None
        assert pasted.mask.sum() > 0.6 * mask.sum()
        assert thing[pasted.mask == 1].mean() > 0.9
        wanted = bar(angle, shift, True)[2]  # near the head, not at the other end
        assert (wanted & pasted.mask).sum() > 0.5 * wanted.sum()
        assert pasted.image[pasted.mask == 1][:, 0].mean() > METAL + 40


def disc(bump: float) -> np.ndarray:
    """A dark disc with a small bump at an angle, in degrees."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    turn = np.deg2rad(bump)
    thing = np.hypot(rows, columns) < 30
    thing |= np.hypot(rows - 31 * np.sin(turn), columns - 31 * np.cos(turn)) < 4
    return np.where(thing, METAL, GREY).astype(np.uint8)[..., None].repeat(3, axis=2)


def test_an_object_is_not_turned_for_a_little_more_overlap():
    found = placement(disc(40), disc(0), nsa.bounds("screw"))
    assert found is not None
    assert np.array_equal(found[:, :2], np.eye(2))
    assert np.abs(found[:, 2]).max() < 1.5


def test_textures_stay_where_they_are():
    assert np.array_equal(placement(disc(40), np.roll(disc(40), 9, axis=0), nsa.bounds("carpet")), np.eye(2, 3))


def test_a_defect_that_would_leave_the_image_is_not_pasted():
    image, normal = bar(0, (0, 0), True)[0], bar(0, (-16, 0), False)[0]
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[4:20, 40:50] = 1  # on the ground above the bar; all but four rows of it would be outside
    image[mask == 1] = RUST
    law = nsa.bounds("screw")
    assert paste(image, mask, normal, law) is None
    assert paste(image, mask, bar(0, (4, 0), False)[0], law) is not None


def test_a_defect_of_which_nothing_shows_is_left_out(source, tmp_path):
    folder = tmp_path / "carpet"
    flat = np.full((SIDE, SIDE, 3), 120, np.uint8)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[30:50, 30:50] = 255
    for number in range(3):
        save(folder / "test" / "good" / f"{number:03d}.png", flat)
    save(folder / "test" / "one" / "000.png", flat + 3)
    save(folder / "ground_truth" / "one" / "000_mask.png", mask)
    assert list(doubled(folder)) == [(folder / "test" / "one" / "000.png", None)]


# errors


@pytest.fixture
def copy(source: Path, tmp_path: Path) -> Path:
    for name in files(source):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes((source / name).read_bytes())
    return tmp_path / "in"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "screw/ground_truth/two/001_mask.png").unlink(), r"mask .*two/001_mask.png is missing"),
        (
            lambda f: (f / "screw/ground_truth/two/001_mask.png").write_bytes(b"x"),
            r"mask .*001_mask.png cannot be read",
        ),
        (
            lambda f: save(f / "screw/ground_truth/two/001_mask.png", np.zeros((9, 9), np.uint8)),
            r"001_mask.png is empty",
        ),
        (
            lambda f: (f / "carpet/train/good/003.png").write_bytes(b"x"),
            r"image .*carpet/train/good/003.png cannot be read",
        ),
        (lambda f: [p.unlink() for p in (f / "carpet/train/good").iterdir()], r"carpet/train/good has no images"),
        (
            lambda f: [p.unlink() for p in (f / "screw/test/good").iterdir()],
            r"screw/test/good has no images; defects are",
        ),
        (
            lambda f: save(f / "screw/test/good/000.png", np.full((80, 96, 3), 200, np.uint8)),
            r"is \(96, 96\).*\(80, 96\)",
        ),
        (
            lambda f: save(f / "screw/train/good/drawn_000_0.png", np.full((96, 96, 3), 200, np.uint8)),
            "earlier augmentation",
        ),
    ],
)
def test_what_is_wrong_is_named(copy, damage, message):
    damage(copy)
    with pytest.raises(DataError, match=message):
        augment(copy, copy.parent / "out", per_class=9, seed=0, tell=lambda _: None)


def test_a_target_that_holds_something_is_refused(source, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match=r"is there already and not empty; delete it"):
        augment(source, tmp_path, per_class=9, seed=0, tell=lambda _: None)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    with pytest.raises(DataError, match="lies inside"):
        augment(source, source / "new", per_class=9, seed=0, tell=lambda _: None)


@pytest.mark.parametrize("given", [{"per_class": 0}, {"seed": -1}])
def test_numbers_that_cannot_be_are_refused(source, tmp_path, given):
    with pytest.raises(ValueError, match="take at least 1 image"):
        augment(source, tmp_path / "out", **{"per_class": 9, "seed": 0, "tell": print, **given})

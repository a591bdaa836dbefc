"""The published layouts: which image is in which split, what masks and texts say, what `faithful` changes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.data import DataError, load, texts
from model.data.published import DRAWN, REFERENCES, Published, cropped
from tests import layouts

SIZE = 96


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("published")
    make = {"mvtec": layouts.mvtec, "visa": layouts.visa, "aebad": layouts.aebad}
    return {name: function(root / name / "set") for name, function in make.items()}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINGZERO_CACHE", str(tmp_path_factory.getbasetemp() / "published-cache"))


def opened(folders: dict[str, Path], name: str, **options) -> Published:
    data = load(name, image_size=SIZE, seed=5, folder=folders[name], **options)
    assert isinstance(data, Published)
    return data


def names(data: Published) -> list[str]:
    return [path.relative_to(data.folder).as_posix() for _, path in data._samples]


def squashed(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB").resize((SIZE, SIZE), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    ("name", "classes", "train", "test"),
    [
        ("mvtec", ("bottle", "metal nut"), 2 * (8 - REFERENCES), 6),
        ("visa", ("candle", "pipe fryum"), 2 * (8 - REFERENCES), 6),
        ("aebad", ("blade",), 30 - REFERENCES, 4),
    ],
)
def test_splits_and_references_share_no_image(folders, name, classes, train, test):
    data = {split: opened(folders, name, split=split) for split in ("train", "test")}
    assert data["train"].classes == classes
    assert (data["train"].pairs, data["test"].pairs) == (train, test)
    served = {split: set(names(each)) for split, each in data.items()}
    assert not served["train"] & served["test"]
    kept = {path.relative_to(folders[name]).as_posix() for files in data["train"]._reserved for path in files}
    assert len(kept) == REFERENCES * len(classes)
    assert not kept & (served["train"] | served["test"])
    assert np.array_equal(data["train"].normals(3), data["test"].normals(3))
    assert data["train"].normals(3).shape == (len(classes), 3, SIZE, SIZE, 3)
    with pytest.raises(ValueError, match="keeps 1 to 4 reference images"):
        data["train"].normals(5)


@pytest.mark.parametrize("name", ["mvtec", "visa", "aebad"])
def test_samples_are_pairs_and_pure(folders, name):
    one, two = opened(folders, name), opened(folders, name)
    for index in range(0, 12, 2):
        normal, defective = one[index], one[index + 1]
        again = two[index + 1]
        assert np.array_equal(defective.image, again.image)
        assert np.array_equal(defective.mask, again.mask)
        assert (defective.answer, defective.class_id) == (again.answer, normal.class_id)
        assert not normal.mask.any()
        assert normal.answer.startswith("No")
        assert defective.mask.any() == defective.answer.startswith("Yes")
        assert normal.question in one.questions
        _, path = one._samples[one._order(0)[index // 2]]
        assert np.array_equal(normal.image, squashed(path))


def test_foreign_images_come_from_the_whole_split(folders):
    data = opened(folders, "mvtec")
    pool = {squashed(path).tobytes(): class_id for class_id, path in data._samples}
    drawn = [pool[data.foreign(0, np.random.default_rng(number)).tobytes()] for number in range(60)]
    assert set(drawn) == {0, 1}


@pytest.mark.parametrize(("name", "normal", "bad"), [("mvtec", 6, 8), ("visa", 6, 4), ("aebad", 4, 32)])
def test_test_items_are_all_real_ones(folders, name, normal, bad):
    data = opened(folders, name)
    items = data.test_items(None)
    assert len(items) == normal + bad
    assert sum(item.defective for item in items) == bad
    assert len({item.name for item in items}) == len(items)
    assert not {item.name for item in items} & set(names(data))
    for item in items:
        assert np.array_equal(item.image, squashed(folders[name] / item.name))
        assert item.mask.shape == (SIZE, SIZE)
        assert item.mask.dtype == np.uint8
        assert item.mask.any() == item.defective
        assert item.question == data.questions[item.class_id]
        if item.defective:
            rows, columns = np.nonzero(item.mask)
            assert abs(rows.min() - SIZE * 5 / 8) < 2
            assert abs(columns.max() + 1 - SIZE * 7 / 8) < 2


def test_a_few_test_items_are_spread(folders):
    items = opened(folders, "mvtec").test_items(4)
    assert sorted((item.class_id, item.defective) for item in items) == [(0, False), (0, True), (1, False), (1, True)]
    assert [item.name for item in items] == [item.name for item in opened(folders, "mvtec", split="test").test_items(4)]
    many = opened(folders, "mvtec").test_items(13)
    assert sum(not item.defective for item in many) == 6  # all that there are
    with pytest.raises(ValueError, match="there are 14 test images: take 1 to 14"):
        opened(folders, "mvtec").test_items(15)


def test_a_broken_test_image_is_named_when_it_is_read(tmp_path):
    folder = layouts.mvtec(tmp_path, ("bottle",))
    broken = folder / "bottle" / "test" / "bent" / "001.png"
    broken.write_bytes(broken.read_bytes()[:300])
    (folder / "bottle" / "ground_truth" / "scratch" / "000_mask.png").unlink()
    items = load("mvtec", image_size=SIZE, seed=0, folder=folder).test_items(None)
    names = [Path(entry.path).relative_to(folder).as_posix() for entry in items._entries]
    assert items[names.index("bottle/test/bent/000.png")].defective
    with pytest.raises(DataError, match=r"bent/001\.png cannot be read .*ringzero data check mvtec"):
        items[names.index("bottle/test/bent/001.png")]
    with pytest.raises(DataError, match=r"000_mask\.png is missing"):
        items[names.index("bottle/test/scratch/000.png")]


def test_masks_are_binarised_as_published(tmp_path, folders):
    data = opened(folders, "mvtec")
    for value, shown in ((25, False), (26, True)):
        layouts.mask(value).save(tmp_path / "mask.png")
        assert data._mask(tmp_path / "mask.png").any() == shown
    visa, faithful = opened(folders, "visa"), opened(folders, "visa", faithful=True)
    rims = []
    for kind in (1, 40):
        layouts.mask(kind, 100, 150).save(tmp_path / "mask.png")
        rims.append(visa._mask(tmp_path / "mask.png"))
        assert faithful._mask(tmp_path / "mask.png").any()
    assert np.array_equal(*rims)
    assert rims[0].any()


def test_one_geometry_unless_faithful(folders):
    ours, theirs = opened(folders, "visa"), opened(folders, "visa", faithful=True)
    for data, crop in ((ours, False), (theirs, True)):
        item = data.test_items(None)[0]
        image = Image.open(folders["visa"] / item.name).convert("RGB")
        assert np.array_equal(
            item.image, np.asarray(cropped(image, SIZE)) if crop else squashed(data.folder / item.name)
        )
        pair = data._samples[data._order(0)[0]][1]
        assert np.array_equal(data.normal(0)[1], squashed(pair))
    steps = Image.fromarray(np.tile(np.arange(192, dtype=np.uint8), (SIZE, 1)))
    assert np.array_equal(np.asarray(cropped(steps, SIZE)), np.asarray(steps)[:, 48:144])


@pytest.mark.parametrize(
    ("name", "place"), [("mvtec", "train/good/{:03d}.png"), ("visa", "Data/Images/Normal/{:04d}.JPG")]
)
def test_the_published_references_can_be_asked_for(folders, name, place):
    data = opened(folders, name, reference_round=1)
    first = ("bottle", "metal_nut") if name == "mvtec" else ("candle", "pipe_fryum")
    numbers = range(4, 8) if name == "mvtec" else range(3, -1, -1)  # VisA's rows run downwards here
    wanted = [[squashed(folders[name] / c / place.format(number)) for number in numbers] for c in first]
    assert np.array_equal(data.normals(4), wanted)
    assert np.array_equal(data.normals(1), np.array(wanted)[:, :1])
    kept = {path for files in data._reserved for path in files}
    assert not kept & {path for _, path in data._samples}
    with pytest.raises(ValueError, match=r"reference_round is 2; class .* has 8 training images: take 0 to 1"):
        opened(folders, name, reference_round=2)


def test_faithful_keeps_no_image_out_of_training(folders):
    data = opened(folders, "mvtec", faithful=True, reference_round=0)
    assert data.pairs == 16
    assert {path for files in data._reserved for path in files} <= {path for _, path in data._samples}
    last = opened(folders, "mvtec", faithful=True)  # of the published round there are too few images here
    assert [path.name for path in last._reserved[0]] == ["004.png", "005.png", "006.png", "007.png"]


def test_restructured_and_own_classes_have_their_texts(tmp_path):
    folder = layouts.mvtec(tmp_path, ("ablation", "cable", "left_glove"))
    data = load("mvtec", image_size=SIZE, seed=0, folder=folder)
    assert data.classes == ("ablation", "cable", "left glove")
    assert "free of ablation" in data.questions[0]
    assert "green, blue and grey" in data.questions[1]
    assert "a photo of a left glove for anomaly detection, which should be without" in data.questions[2]
    asked = {item.class_id: item.question for item in data.test_items(None)}
    assert tuple(asked[class_id] for class_id in range(3)) == data.questions
    published = load("mvtec", image_size=SIZE, seed=0, folder=folder, faithful=True, reference_round=0)
    asked = {item.class_id: item.question for item in published.test_items(None)}
    assert asked[1] != published.questions[1]
    assert asked[0] == published.questions[0]


def test_visas_masks_in_mvtecs_layout_are_found(tmp_path):
    folder = layouts.mvtec(tmp_path, ("pcb1",), defects=("bad",))
    for path in (folder / "pcb1" / "ground_truth" / "bad").iterdir():
        path.rename(path.with_name(path.name.replace("_mask", "")))
    data = load("mvtec", image_size=SIZE, seed=0, folder=folder)
    assert sum(bool(item.mask.any()) for item in data.test_items(None)) == 2


def test_a_mask_that_shows_no_defect_is_named(tmp_path):
    """One of 0 and 1 was read as one of 0 and 255: all pixels of the defect counted as normal."""
    folder = layouts.mvtec(tmp_path, ("bottle",), defects=("bent",))
    path = folder / "bottle" / "ground_truth" / "bent" / "001_mask.png"
    layouts.mask(1).save(path)
    items = load("mvtec", image_size=SIZE, seed=0, folder=folder).test_items(None)
    assert items[-2].mask.any()
    with pytest.raises(DataError, match=r"001_mask\.png shows no defect at 96 x 96 .*a defect is white, 255 .*not 1"):
        items[-1]
    visa = layouts.visa(tmp_path / "visa")
    layouts.mask(0, 100, 150).save(visa / "candle" / "Data" / "Masks" / "Anomaly" / "000.png")
    with pytest.raises(DataError, match=r"000\.png shows no defect .*ringzero data check visa"):
        list(load("visa", image_size=SIZE, seed=0, folder=visa).test_items(None))


@pytest.mark.parametrize("ends", [".PNG", "_mask.PNG", ".bmp"])
def test_a_mask_may_end_as_its_image_does(tmp_path, ends):
    folder = layouts.mvtec(tmp_path, ("bottle",), defects=("bent",))
    for path in sorted((folder / "bottle").glob("*/bent/*.png")):
        stem = path.stem.removesuffix("_mask")
        name = stem + (ends if "ground_truth" in path.parts else ends.removeprefix("_mask"))
        if ends.endswith("bmp"):
            Image.open(path).save(path.with_name(name))
            path.unlink()
        else:
            path.rename(path.with_name(name))
    data = load("mvtec", image_size=SIZE, seed=0, folder=folder)
    assert sum(bool(item.mask.any()) for item in data.test_items(None)) == 2


def test_references_are_photographs_where_there_are_enough(tmp_path):
    """Of a folder of variant V5 or V6 most training images are drawn from others."""
    folder = layouts.mvtec(tmp_path, ("bottle",), train=5)
    good = folder / "bottle" / "train" / "good"
    for number in range(20):
        layouts.picture(900 + number).save(good / f"{DRAWN}000_{number}.png")
    data = load("mvtec", image_size=SIZE, seed=0, folder=folder)
    assert not [path for path in data._reserved[0] if path.name.startswith(DRAWN)]
    assert len(set(data._reserved[0])) == REFERENCES
    assert data.pairs == 25 - REFERENCES
    (good / "004.png").unlink()
    few = load("mvtec", image_size=SIZE, seed=0, folder=folder)
    assert few.pairs == 24 - REFERENCES  # too few photographs to keep four of them for reference: as from any folder


@pytest.mark.parametrize("name", ["mvtec", "visa", "aebad"])
def test_a_folder_that_is_missing_or_wrong_is_told(folders, name, tmp_path):
    with pytest.raises(DataError, match=rf"{name} is not downloaded for you; get it from .* --images PATH"):
        load(name, image_size=SIZE, seed=0)
    with pytest.raises(DataError, match=r"nowhere does not exist; --images must name"):
        load(name, image_size=SIZE, seed=0, folder=tmp_path / "nowhere")
    with pytest.raises(DataError, match=rf"; it seems to be {folders[name]}$"):
        load(name, image_size=SIZE, seed=0, folder=folders[name].parent)


def test_too_few_training_images_are_told(tmp_path):
    folder = layouts.mvtec(tmp_path, ("bottle",), train=4)
    with pytest.raises(DataError, match="class bottle has 4 normal training images; it needs 5 or more"):
        load("mvtec", image_size=SIZE, seed=0, folder=folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("object,split\ncandle,train\n", "must have rows under the columns object, split, label, image, mask"),
        ("object,split,label,image,mask\ncandle,val,normal,a.JPG,\n", "line 2: .* is no train or test row"),
        ("object,split,label,image,mask\ncandle,test,anomaly,a.JPG,\n", r"line 2: the anomaly a\.JPG has no mask"),
    ],
)
def test_a_broken_split_is_told(tmp_path, text, said):
    (tmp_path / "split_csv").mkdir()
    (tmp_path / "split_csv" / "1cls.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        load("visa", image_size=SIZE, seed=0, folder=tmp_path)


def test_options_of_the_published_sets_are_refused_elsewhere():
    with pytest.raises(ValueError, match="are for mvtec, visa, aebad; textures has one form only"):
        load("textures", image_size=SIZE, seed=0, faithful=True)


def test_descriptions_say_what_was_published():
    assert len(texts.MVTEC) == 15
    assert len(texts.VISA) == 12
    assert texts.question_of("metal_nut", faithful=True).endswith(
        "without any damage, flaw, defect, scratch, hole or broken part, and shouldn't be fliped. " + texts.ASKED
    )
    assert "flipped" in texts.question_of("metal_nut")
    assert "chewinggom" in texts.question_of("chewinggum", faithful=True)
    assert "which tail should be sharp, and without any damage" in texts.question_of("screw", faithful=True)
    assert "on green background, which should be without" in texts.question_of("fryum")
    cable = {split: texts.question_of("cable", faithful=True, split=split) for split in ("train", "test")}
    assert cable["test"] == (
        "This is a photo of three cables for anomaly detection, cables cannot be missed or swapped, which should be "
        "without any damage, flaw, defect, scratch, hole or broken part. Is there any anomaly in the image?"
    )
    assert "green, blue and grey, which cannot be missed or swapped and should be without" in cable["train"]
    slips = {name for name in texts.DESCRIPTIONS if texts.question_of(name) != texts.question_of(name, faithful=True)}
    assert slips == {"metal nut", "screw", "capsules", "chewinggum"}
    for name in texts.DESCRIPTIONS:
        assert texts.question_of(name) == texts.question_of(name, split="test")


def test_class_words():
    for name in texts.MVTEC:
        assert texts.class_word(texts.question_of(name, faithful=True), faithful=True) == name
    theirs = {name: texts.class_word(texts.question_of(name, faithful=True), faithful=True) for name in texts.VISA}
    assert theirs["capsules"] == "capsule"
    assert theirs["pipe fryum"] == "fryum"
    assert theirs["chewinggum"] == "object"
    assert theirs["macaroni2"] == "macaroni"
    assert theirs["pcb3"] == "pcb"
    numbered = {"macaroni1": "macaroni", "macaroni2": "macaroni"} | {f"pcb{n}": "pcb" for n in range(1, 5)}
    for name in texts.DESCRIPTIONS:
        assert texts.class_word(texts.question_of(name)) == numbered.get(name, name)
    assert texts.class_word("Is there a scratch?") == "object"
    assert texts.class_word("a left glove, please", ["glove", "left_glove"]) == "left glove"
    assert texts.class_word("a photo of grids", ["grid"]) == "grid"
    assert texts.class_word("capillary", ["cap"]) == "object"

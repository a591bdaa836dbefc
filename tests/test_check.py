"""`ringzero data`: what a check finds, each kind of fault by its file's name; and AeBAD-S in MVTec's layout."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.__main__ import main
from model.data import DataError, load
from model.data import check as module
from model.data.check import check
from model.data.restructure import picture, to_mvtec
from tests import layouts


@pytest.fixture
def glove(tmp_path: Path) -> Path:
    """A class of one's own: no published counts."""
    return layouts.mvtec(tmp_path / "set", ("glove",), train=5)


def said(name: str, folder: Path) -> dict[str, str]:
    return {problem.path: problem.what for problem in check(name, folder).problems}


def test_a_whole_folder_is_sound(glove, capsys):
    found = check("mvtec", glove)
    assert found.problems == ()
    assert [(count.part, count.found, count.published) for count in found.counts] == [
        ("train good", 5, None),
        ("test good", 3, None),
        ("test defective", 4, None),
    ]
    assert main(["data", "check", "mvtec", str(glove)]) == 0
    out = capsys.readouterr().out
    assert out.endswith("all is well\n")
    assert "glove" in out


def test_every_fault_is_named(glove, capsys):
    at = glove / "glove"
    Image.open(at / "train" / "good" / "000.png").save(at / "train" / "good" / "000.png", format="JPEG")
    content = (at / "test" / "good" / "001.png").read_bytes()
    (at / "test" / "good" / "001.png").write_bytes(content[: len(content) // 2])
    (at / "test" / "bent" / "000.png").write_bytes(b"no image")
    (at / "ground_truth" / "bent" / "001_mask.png").unlink()
    layouts.mask(255, 50, 60).save(at / "ground_truth" / "scratch" / "000_mask.png")
    layouts.mask(0).save(at / "ground_truth" / "scratch" / "001_mask.png")
    (at / "train" / "good" / ".DS_Store").write_bytes(b"x")
    (at / "._notes").write_bytes(b"x")
    (at / "train" / "good" / "list.txt").write_text("x")
    layouts.save(layouts.mask(), at / "ground_truth" / "bent" / "009_mask.png")
    assert said("mvtec", glove) == {
        "glove/train/good/000.png": "holds JPEG, not what .png says",
        "glove/test/good/001.png": said("mvtec", glove)["glove/test/good/001.png"],
        "glove/test/bent/000.png": "cannot be read (cannot identify image file '000.png')",
        "glove/ground_truth/bent/001_mask.png": "mask of glove/test/bent/001.png is missing",
        "glove/ground_truth/scratch/000_mask.png": "mask is 60 x 50 pixels, its image 120 x 120",
        "glove/ground_truth/scratch/001_mask.png": "mask is empty, though glove/test/scratch/001.png is defective",
        "glove/train/good/.DS_Store": "is no part of the data set: a desktop left it; delete it",
        "glove/._notes": "is no part of the data set: a desktop left it; delete it",
        "glove/train/good/list.txt": "is no image; delete it",
        "glove/ground_truth/bent/009_mask.png": "belongs to nothing: no image, mask or line of the split",
    }
    assert "truncated" in said("mvtec", glove)["glove/test/good/001.png"]
    assert main(["data", "check", "mvtec", str(glove)]) == 1
    out = capsys.readouterr().out
    assert "glove/train/good/000.png: holds JPEG, not what .png says\n" in out
    assert out.endswith("10 problems, 0 counts differ\n")


def test_a_check_looks_at_a_picture_as_training_does(glove):
    """Turned upright first, so that its mask is compared with what the mask lies on; floats are told here, not in training."""
    exif = Image.Exif()
    exif[0x0112] = 6
    place = glove / "glove" / "test" / "bent" / "000.png"
    layouts.picture(7, 60, 120).save(place, exif=exif)
    layouts.mask(255, 120, 60).save(glove / "glove" / "ground_truth" / "bent" / "000_mask.png")
    Image.new("F", (120, 120)).save(glove / "glove" / "test" / "good" / "000.png", format="TIFF")
    found = said("mvtec", glove)
    assert set(found) == {"glove/test/good/000.png"}
    assert "save it as 8 or 16 bit grey" in found["glove/test/good/000.png"]


def test_counts_and_classes_are_compared_with_the_published(tmp_path, monkeypatch):
    folder = layouts.mvtec(tmp_path, ("bottle", "cable"))
    monkeypatch.setattr(module, "MVTEC", {"bottle": (8, 3, 4), "cable": (8, 3, 5), "wood": (9, 1, 1)})
    found = check("mvtec", folder)
    assert [(p.path, p.what) for p in found.problems] == [("wood", "class is missing")]
    differing = [(count.name, count.part, count.found, count.published) for count in found.counts if count.differs]
    assert ("cable", "test defective", 4, 5) in differing
    assert {name for name, *_ in differing} == {"cable", "wood"}
    shutil.rmtree(folder / "bottle" / "train")
    assert {"bottle: train good": "has no image"}.items() <= said("mvtec", folder).items()


def test_the_published_counts_add_up():
    sums = [tuple(map(sum, zip(*table.values(), strict=True))) for table in (module.MVTEC, module.VISA)]
    assert sums == [(3629, 467, 1258), (8659, 962, 1200)]


def test_visa_and_aebad_are_checked_too(tmp_path, monkeypatch):
    visa = layouts.visa(tmp_path / "visa")
    monkeypatch.setattr(module, "VISA", {"candle": (8, 3, 2), "pipe_fryum": (8, 3, 2)})
    assert check("visa", visa).sound
    (visa / "candle" / "Data" / "Images" / "Normal" / "0002.JPG").unlink()
    layouts.save(layouts.picture(1), visa / "candle" / "Data" / "Images" / "Normal" / "0999.JPG")
    layouts.mask(0, 100, 150).save(visa / "pipe_fryum" / "Data" / "Masks" / "Anomaly" / "001.png")
    found = said("visa", visa)
    assert found["candle/Data/Images/Normal/0002.JPG"] == "is missing"
    assert found["candle/Data/Images/Normal/0999.JPG"].startswith("belongs to nothing")
    assert found["pipe_fryum/Data/Masks/Anomaly/001.png"].startswith("mask is empty")
    assert len(found) == 3
    aebad = layouts.aebad(tmp_path / "aebad", train=2)
    assert check("aebad", aebad).sound
    (aebad / "ground_truth" / "groove" / "view" / "IMG_1.png").unlink()
    assert said("aebad", aebad) == {
        "ground_truth/groove/view/IMG_1.png": "mask of test/groove/view/IMG_1.png is missing"
    }


def test_what_cannot_be_checked_is_told(tmp_path, capsys):
    assert check("aebad", tmp_path).problems[0].what.startswith("no class is here")
    with pytest.raises(ValueError, match="mvtec, visa, aebad"):
        check("textures", tmp_path)
    assert main(["data", "check", "visa", str(tmp_path / "none")]) == 2
    assert "is no folder" in capsys.readouterr().err


@pytest.fixture(scope="module")
def blades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AeBAD-S with the faults that occur in it."""
    folder = layouts.aebad(tmp_path_factory.mktemp("blades") / "AeBAD_S")
    (folder / "train" / "good" / "view" / ".DS_Store").write_bytes(b"x")
    (folder / "test" / "groove" / "same" / "IMG_0.png").write_bytes(b"broken")
    (folder / "ground_truth" / "ablation" / "view" / "IMG_1.png").unlink()
    layouts.mask(0).save(folder / "ground_truth" / "fracture" / "view" / "IMG_1.png")
    jpeg = folder / "test" / "breakdown" / "view" / "IMG_0.png"
    Image.open(jpeg).save(jpeg, format="JPEG")
    return folder


def test_aebad_becomes_four_classes_without_leakage(blades, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RINGZERO_CACHE", str(tmp_path / "cache"))
    target = tmp_path / "clean"
    assert main(["data", "aebad-to-mvtec", str(blades), str(target)]) == 0
    out = capsys.readouterr().out
    assert "leakage: 0 of 65 test images are also training images\n" in out
    assert out.count("left out: ") == 3
    assert check("mvtec", target).sound
    data = load("mvtec", image_size=96, seed=0, folder=target)
    assert data.classes == ("ablation", "breakdown", "fracture", "groove")
    for name in data.classes:
        train, good = (list((target / name / split / "good").iterdir()) for split in ("train", "test"))
        assert (len(train), len(good)) == (21, 9)  # of each of three domains 7 and 3
        assert len({picture(path) for path in train + good}) == 30
        assert sorted(path.name for path in train)[:2] == ["000.png", "001.png"]
    assert len(data.test_items(None)) == 4 * 9 + 29


def test_faithful_leaks_as_the_report_did(blades, tmp_path, capsys):
    target = tmp_path / "report"
    assert main(["data", "aebad-to-mvtec", str(blades), str(target), "--faithful"]) == 0
    out = capsys.readouterr().out
    assert "leakage: 24 of 54 test images are also training images (6 pictures)\n" in out
    trained = {picture(path) for path in (target / "groove" / "train" / "good").iterdir()}
    assert len(trained) == 21
    normal = [picture(path) for path in (target / "ablation" / "test" / "good").iterdir()]
    assert len(normal) == int(0.3 * 21)
    assert set(normal) <= trained
    assert check("mvtec", target).problems != ()  # JPEG bytes and an empty mask, as they were
    with pytest.raises(DataError, match="is there already"):
        to_mvtec(blades, target)


def test_seeds_and_twins(blades, tmp_path):
    """Another seed draws others; a picture that is there twice stays on one side."""
    done = {seed: to_mvtec(blades, tmp_path / f"seed{seed}", seed=seed) for seed in (0, 1)}
    sets = [
        {picture(path) for path in (tmp_path / f"seed{seed}" / "groove" / "train" / "good").iterdir()} for seed in done
    ]
    assert sets[0] != sets[1]
    again = to_mvtec(blades, tmp_path / "again", seed=0)
    assert again == done[0]
    twins = tmp_path / "twins"
    shutil.copytree(blades, twins)
    for path in (twins / "train" / "good" / "view").glob("*.png"):
        shutil.copyfile(twins / "train" / "good" / "background" / path.name, path)
    result = to_mvtec(twins, tmp_path / "untwinned")
    assert result.leaked == 0
    assert any("is also a training image" in problem.what for problem in result.left_out)
    with pytest.raises(DataError, match="train/good/DOMAIN"):
        to_mvtec(tmp_path, tmp_path / "nothing")


def test_preview_shows_the_images_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RINGZERO_CACHE", str(tmp_path / "cache"))
    folder = layouts.mvtec(tmp_path / "set", ("bottle",))
    sheets = []
    for extra in ([], ["--faithful"], ["--split", "test"]):
        sheet = tmp_path / f"{len(sheets)}.png"
        arguments = ["mvtec", "--images", str(folder), "--samples", "2", "--image-size", "96", "--output", str(sheet)]
        assert main(["data", "preview", *arguments, *extra]) == 0
        sheets.append(np.asarray(Image.open(sheet)))
    assert not np.array_equal(sheets[0], sheets[2])
    assert sheets[0].shape[1] > 4 * 96

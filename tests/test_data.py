"""Data sets: samples are pure functions of (seed, index), regions and splits never meet, errors name the file."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.data import DATASETS, DataError, Dataset, Sample, load, question, texts
from model.data.files import RESERVED, FileDataset, TestFile
from model.data.preview import contact_sheet
from model.data.sample import choose
from model.data.textures import REGIONS, SIDE, Textures

SIZE = 96
INDICES = (0, 1, 2, 7, 40, 10_001)


def digest(sample: Sample) -> str:
    parts = (sample.image.tobytes(), sample.mask.tobytes(), repr((sample.class_id, sample.few_shot)).encode())
    return hashlib.sha256(b"".join(parts) + (sample.question + sample.answer).encode()).hexdigest()


@pytest.fixture(scope="module")
def textures() -> Dataset:
    return load("textures", image_size=SIZE, seed=11)


class Cells(FileDataset):
    """A file data set of generated images: two classes, 50 training and 6 test images each."""

    name = "cells"
    asset = "elpv-dataset"
    classes = ("a", "b")
    nouns = ("an a", "a b")
    licence = "none"

    def _normal_files(self, split: str) -> list[list[Path]]:
        numbers = range(50) if split == "train" else range(50, 56)
        return [[self.folder / f"{name}{number:02d}.png" for number in numbers] for name in self.classes]

    def _defective_files(self) -> list[list[TestFile]]:
        return [[TestFile(self.folder / "a55.png", 0, True)], []]


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RINGZERO_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for name in Cells.classes:
        for number in range(56):
            Image.fromarray(rng.integers(256, size=(70, 70), dtype=np.uint8)).save(tmp_path / f"{name}{number:02d}.png")
    return tmp_path


def test_samples_are_what_the_interface_says(textures):
    for index in range(12):
        sample = textures[index]
        assert sample.image.shape == (SIZE, SIZE, 3)
        assert sample.image.dtype == np.uint8
        assert sample.mask.shape == (SIZE, SIZE)
        assert sample.mask.dtype == np.uint8
        assert set(np.unique(sample.mask)) == ({0, 1} if index % 2 else {0})
        assert sample.answer.startswith("Yes" if index % 2 else "No")
        assert sample.question.endswith("Is there any anomaly in the image?")
        assert isinstance(sample.class_id, int)
        assert isinstance(sample.few_shot, bool)


def test_another_process_makes_the_same_bytes(textures):
    code = (
        "import cv2, hashlib; cv2.setNumThreads(3)\n"
        "from model.data import load\n"
        f"data = load('textures', image_size={SIZE}, seed=11)\n"
        f"for index in reversed({INDICES}):\n"
        "    s = data[index]\n"
        "    parts = (s.image.tobytes(), s.mask.tobytes(), repr((s.class_id, s.few_shot)).encode())\n"
        "    print(hashlib.sha256(b''.join(parts) + (s.question + s.answer).encode()).hexdigest())\n"
    )
    root = Path(__file__).parent.parent
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [digest(textures[index]) for index in reversed(INDICES)]


def test_no_global_random_state_is_read_or_changed(textures):
    expected = digest(textures[5])
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert digest(textures[5]) == expected
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_seed_and_index_and_split_all_count():
    one, two = (load("textures", image_size=SIZE, seed=seed) for seed in (1, 2))
    test = load("textures", image_size=SIZE, seed=1, split="test")
    seen = {digest(data[index]) for data in (one, two, test) for index in range(24)}
    assert len(seen) == 3 * 24


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_the_global_batch_does_not_depend_on_the_rank_count(textures, world):
    batch = [digest(textures[index]) for index in range(24, 36)]
    ranks = [load("textures", image_size=SIZE, seed=11) for _ in range(world)]
    share = 12 // world
    assert [digest(ranks[rank][24 + rank * share + place]) for rank in range(world) for place in range(share)] == batch


def test_an_odd_sample_is_the_even_one_with_a_defect(textures):
    for index in range(0, 24, 2):
        normal, defective = textures[index], textures[index + 1]
        assert normal.class_id == defective.class_id
        change = np.abs(normal.image.astype(int) - defective.image).max(axis=2)
        rows, columns = np.nonzero(change)
        shape = np.zeros((SIZE, SIZE), bool)
        shape[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = True
        assert change[~shape].max(initial=0) == 0
        assert not defective.mask[~shape].any()
        assert change[defective.mask == 1].mean() > 20
        assert change[defective.mask == 0].mean() < 1.5


def test_the_coin_is_fair_and_drawn_for_each_sample(textures):
    coins = [bool(textures.rng(2, index).integers(2)) for index in range(2000)]
    assert 900 < sum(coins) < 1100
    served = [textures[index].few_shot for index in range(16)]
    assert served == coins[:16]
    assert any(served[i] != served[i + 1] for i in range(0, 16, 2))


def test_classes_take_turns(textures):
    assert [textures[index].class_id for index in range(0, 12, 2)] == [0, 1, 2, 0, 1, 2]


@pytest.fixture
def atlas(tmp_path: Path) -> Path:
    """Photographs whose pixels say where they lie and of which class they are."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for number, name in enumerate(Textures.classes):
        low = rows % 2 + 2 * (columns % 2) + 4 * number
        Image.fromarray(np.stack([rows // 2, columns // 2, low], axis=2).astype(np.uint8)).save(
            tmp_path / f"{name}.png"
        )
    return tmp_path


def places(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(rows, columns, classes) of a crop's pixels."""
    first, second, low = (image[..., channel].astype(int) for channel in range(3))
    return 2 * first + low % 2, 2 * second + low // 2 % 2, low // 4


@pytest.mark.parametrize("size", [64, 224])
def test_train_test_and_reference_regions_never_meet(atlas, size):
    covered = {}
    for split in ("train", "test"):
        data = load("textures", image_size=size, seed=0, split=split, folder=atlas)
        covered[split] = np.zeros((3, SIDE, SIDE), bool)
        for pair in range(60):
            class_id, image = data.normal(pair)
            foreign = data.foreign(class_id, np.random.default_rng(pair))
            for crop, same in ((image, True), (foreign, False)):
                rows, columns, classes = places(crop)
                assert ((classes == class_id) == same).all()
                covered[split][classes, rows, columns] = True
    covered["reference"] = np.zeros((3, SIDE, SIDE), bool)
    for class_id, crops in enumerate(data.normals(20)):
        rows, columns, classes = places(crops)
        assert (classes == class_id).all()
        covered["reference"][classes, rows, columns] = True
    assert not (covered["train"] & covered["test"]).any()
    assert not (covered["train"] & covered["reference"]).any()
    assert not (covered["test"] & covered["reference"]).any()
    assert all(region.sum() > 3 * 0.5 * 224 * 224 for region in covered.values())


def test_regions_are_disjoint_and_large_enough():
    seen = np.zeros((SIDE, SIDE), int)
    for box in REGIONS.values():
        seen[box.pixels] += 1
        assert seen[box.pixels].shape[0] >= 224
        assert seen[box.pixels].shape[1] >= 224
    assert seen.min() == seen.max() == 1


def test_train_crops_are_turned_where_the_class_has_no_direction(atlas):
    turned = {0: set(), 1: set(), 2: set()}
    data = load("textures", image_size=64, seed=0, folder=atlas)
    for pair in range(150):
        class_id, image = data.normal(pair)
        rows, columns, _ = places(image)
        turned[class_id].add((int(rows[1, 0] - rows[0, 0]), int(columns[1, 0] - columns[0, 0])))
    assert turned[0] == {(1, 0), (-1, 0)}
    assert turned[1] == turned[2] == {(1, 0), (-1, 0), (0, 1), (0, -1)}


def test_test_crops_are_not_augmented(atlas):
    data = load("textures", image_size=64, seed=0, split="test", folder=atlas)
    for pair in range(30):
        rows, columns, _ = places(data.normal(pair)[1])
        assert rows[1, 0] - rows[0, 0] == columns[0, 1] - columns[0, 0] == 1


@pytest.mark.parametrize("k", [1, 4])
def test_normals_have_their_shape_and_are_always_the_same(textures, k):
    normals = textures.normals(k)
    assert normals.shape == (3, k, SIZE, SIZE, 3)
    assert normals.dtype == np.uint8
    assert np.array_equal(normals, load("textures", image_size=SIZE, seed=11).normals(k))
    assert np.array_equal(normals, load("textures", image_size=SIZE, seed=11, split="test").normals(k))
    assert len({image.tobytes() for image in normals.reshape(-1, SIZE, SIZE, 3)}) == 3 * k


def test_file_epochs_are_permutations_without_the_references(cells):
    data = Cells(image_size=64, seed=4, folder=cells)
    assert data.pairs == 2 * (50 - RESERVED)
    epochs = [[data.normal(epoch * data.pairs + place)[1].tobytes() for place in range(data.pairs)] for epoch in (0, 1)]
    assert len(set(epochs[0])) == data.pairs
    assert set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1]
    references = {image.tobytes() for image in data.normals(RESERVED).reshape(-1, 64, 64, 3)}
    assert len(references) == 2 * RESERVED
    assert not references & set(epochs[0])


def test_file_test_split_keeps_file_order_and_shares_no_image(cells):
    train, test = (Cells(image_size=64, seed=4, split=split, folder=cells) for split in ("train", "test"))
    assert test.pairs == 12
    served = [test.normal(pair)[1].tobytes() for pair in range(12)]
    assert len(set(served)) == 12
    assert served == [test.normal(pair + 12)[1].tobytes() for pair in range(12)]
    assert not set(served) & {train.normal(pair)[1].tobytes() for pair in range(train.pairs)}
    assert not set(served) & {image.tobytes() for image in test.normals(RESERVED).reshape(-1, 64, 64, 3)}


def test_file_samples_are_pure(cells):
    one, two = (Cells(image_size=64, seed=4, folder=cells) for _ in range(2))
    indices = (0, 1, 77, 300, 5)
    assert [digest(one[index]) for index in indices] == [digest(two[index]) for index in reversed(indices)][::-1]


def test_file_normals_say_how_many_there_are(cells):
    with pytest.raises(ValueError, match="1 to 32"):
        Cells(image_size=64, seed=4, folder=cells).normals(RESERVED + 1)


def test_a_missing_file_is_named_at_once(cells):
    (cells / "a17.png").unlink()
    with pytest.raises(
        DataError, match=r"a17\.png is missing; delete the folder .* `python -m model\.assets elpv-dataset"
    ):
        Cells(image_size=64, seed=4, folder=cells)


def test_a_file_that_goes_missing_is_named(cells):
    data = Cells(image_size=64, seed=4, folder=cells)
    for path in cells.glob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"\.png is missing"):
        data[0]


@pytest.mark.parametrize("content", [b"", b"not an image", None], ids=["empty", "text", "truncated"])
def test_a_broken_file_is_named(tmp_path, content):
    packaged = load("textures", image_size=SIZE, seed=0).folder
    for name in Textures.classes:
        (tmp_path / f"{name}.png").write_bytes((packaged / f"{name}.png").read_bytes())
    broken = tmp_path / "grass.png"
    broken.write_bytes(broken.read_bytes()[:30_000] if content is None else content)
    with pytest.raises(DataError, match=r"grass\.png cannot be read .*; type `pip install --force-reinstall"):
        load("textures", image_size=SIZE, seed=0, folder=tmp_path)


def test_scikit_image_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("model.data.textures.find_spec", lambda _: None)
    with pytest.raises(DataError, match="pip install scikit-image"):
        load("textures", image_size=SIZE, seed=0)


def test_a_photograph_of_another_size_is_refused(atlas):
    Image.new("L", (512, 500)).save(atlas / "gravel.png")
    with pytest.raises(DataError, match=r"gravel\.png is not 512 x 512"):
        load("textures", image_size=SIZE, seed=0, folder=atlas)


def test_bad_arguments_say_what_to_type(textures):
    with pytest.raises(ValueError, match="unknown dataset 'photos'; known: textures, elpv, textile, mvtec"):
        load("photos", image_size=SIZE, seed=0)
    with pytest.raises(ValueError, match="known: train, test"):
        load("textures", image_size=SIZE, seed=0, split="val")
    with pytest.raises(ValueError, match="at most 224"):
        load("textures", image_size=225, seed=0)
    with pytest.raises(ValueError, match="at least 64"):
        load("textures", image_size=16, seed=0)
    with pytest.raises(ValueError, match="k is 0"):
        textures.normals(0)
    with pytest.raises(ValueError, match="seed is -1"):
        load("textures", image_size=SIZE, seed=-1)
    with pytest.raises(IndexError, match="counted from 0"):
        textures[-1]


def test_every_dataset_says_what_it_is():
    for name, kind in DATASETS.items():
        assert kind.name == name
        assert kind.licence
        assert len(kind.classes) == len(kind.nouns) == len(set(kind.classes))


def test_contact_sheet_shows_the_images(textures):
    sheet = np.asarray(contact_sheet(textures, 3))
    assert sheet.ndim == 3
    assert np.array_equal(sheet[:SIZE, :SIZE], textures[0].image)
    red = (sheet == (255, 40, 40)).all(axis=2)
    assert not red[:, : sheet.shape[1] // 2].any()  # even samples stand on the left: nothing to outline
    assert red.any()
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet(textures, 0)


def test_test_items_of_textures_are_pairs_of_the_test_split(textures):
    items = textures.test_items(7)
    assert len(items) == 7
    test = load("textures", image_size=SIZE, seed=11, split="test")
    for index, item in enumerate(items):
        sample = test[index]
        assert np.array_equal(item.image, sample.image)
        assert np.array_equal(item.mask, sample.mask)
        assert (item.class_id, item.question, item.defective) == (sample.class_id, sample.question, index % 2 == 1)
    assert len({item.name for item in items}) == 7
    assert [item.name for item in items[2:4]] == [items[2].name, items[3].name]
    for n in (None, 0):
        with pytest.raises(ValueError, match="the textures never end"):
            textures.test_items(n)


def test_test_items_of_files_are_lazy_and_without_masks(cells):
    data = Cells(image_size=64, seed=4, folder=cells)
    items = data.test_items(None)
    assert [item.name for item in items[5:8]] == ["a55.png", "a55.png", "b50.png"]
    assert [item.defective for item in items[5:8]] == [False, True, False]
    assert all(item.mask is None for item in items)
    (cells / "b52.png").write_bytes(b"")
    assert items[8].name == "b51.png"
    with pytest.raises(DataError, match=r"b52\.png cannot be read"):
        items[9]
    with pytest.raises(IndexError):
        items[13]


def test_a_choice_is_even_over_groups_and_in_them():
    groups = [list("abcdefgh"), list("x"), list(range(8))]
    assert choose(groups, None) == [*"abcdefgh", "x", *range(8)]
    assert choose(groups, 5) == ["c", "g", "x", 2, 6]
    assert choose(groups, 17) == choose(groups, None)
    assert choose(groups, 1) == ["e"]
    for n in (0, 18):
        with pytest.raises(ValueError, match="take 1 to 17"):
            choose(groups, n)


@pytest.mark.assets
@pytest.mark.parametrize(("name", "classes", "train", "test"), [("elpv", 2, 1257, 187), ("textile", 1, 768, 200)])
def test_real_sets(name, classes, train, test):
    sets = {split: load(name, image_size=SIZE, seed=0, split=split) for split in ("train", "test")}
    assert (sets["train"].pairs, sets["test"].pairs) == (train, test)
    for data in sets.values():
        assert data.normals(2).shape == (classes, 2, SIZE, SIZE, 3)
        assert {data[index].class_id for index in range(0, 2 * data.pairs, 2 * data.pairs // 20)} == set(range(classes))
        for index in range(0, 20, 2):
            normal, defective = data[index], data[index + 1]
            change = np.abs(normal.image.astype(int) - defective.image).max(axis=2)
            assert defective.mask.any()
            assert change[defective.mask == 1].mean() > 10
            assert not normal.mask.any()
            assert np.ptp(defective.image, axis=2).max() == 0
    again = load(name, image_size=SIZE, seed=0)
    assert [digest(again[index]) for index in (9, 3)] == [digest(sets["train"][index]) for index in (9, 3)]


@pytest.mark.assets
@pytest.mark.parametrize(("name", "normal", "bad"), [("elpv", 187, 308), ("textile", 200, 1000)])
def test_test_items_of_real_sets(name, normal, bad):
    data = load(name, image_size=SIZE, seed=0)
    items = data.test_items(None)
    assert len(items) == normal + bad
    few = data.test_items(16)
    assert sum(item.defective for item in few) == 8
    assert {item.class_id for item in few} == set(range(len(data.classes)))
    assert all(item.mask is None and item.image.shape == (SIZE, SIZE, 3) for item in few)
    trained = {path.relative_to(data.folder).as_posix() for _, path in data._samples}
    assert not {entry.path.relative_to(data.folder).as_posix() for entry in items._entries} & trained
    if name == "textile":
        assert {item.name.split("/")[-2] for item in few if item.defective} == {"local", "global"}


@pytest.mark.assets
def test_elpv_splits_share_no_file_and_no_defective_cell():
    train, test = (load("elpv", image_size=SIZE, seed=0, split=split) for split in ("train", "test"))
    files = {split: {path.name for _, path in data._samples} for split, data in (("train", train), ("test", test))}
    assert min(files["test"]) >= "cell0361.png"
    assert max(files["test"]) <= "cell0900.png"
    assert not any("cell0361.png" <= name <= "cell0900.png" for name in files["train"])
    labels = (train.folder / "elpv_dataset" / "data" / "labels.csv").read_text().splitlines()
    good = {line.split()[0].removeprefix("images/") for line in labels if float(line.split()[1]) == 0}
    assert files["train"] | files["test"] <= good


@pytest.mark.assets
def test_a_truncated_cell_is_named(tmp_path, monkeypatch):
    source = load("elpv", image_size=SIZE, seed=0)
    monkeypatch.setenv("RINGZERO_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "elpv_dataset" / "data"
    (data / "images").mkdir(parents=True)
    original = source.folder / "elpv_dataset" / "data"
    (data / "labels.csv").write_bytes((original / "labels.csv").read_bytes())
    for path in (original / "images").iterdir():
        (data / "images" / path.name).symlink_to(path)
    copy = load("elpv", image_size=SIZE, seed=0, folder=tmp_path)
    _, victim = copy._samples[copy._order(0)[0]]
    content = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=f"{victim.name} cannot be read .*model.assets elpv-dataset"):
        copy[0]
    (data / "labels.csv").unlink()
    with pytest.raises(DataError, match=r"labels .* cannot be read"):
        load("elpv", image_size=SIZE, seed=0, folder=tmp_path)


def test_a_class_is_asked_about_as_it_was_in_training():
    """Another wording than the one trained on changes the answer."""
    for name in ("textures", "elpv", "textile"):
        kind = DATASETS[name]
        for number, class_name in enumerate(kind.classes):
            assert question(class_name) == texts.question(kind.nouns[number])
    assert "bricks" in question("brick")
    assert question("metal_nut") == texts.question_of("metal nut") == question("metal nut")
    assert "a spoon" in question("spoon")

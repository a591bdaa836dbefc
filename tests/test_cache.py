"""Decoded images are made once for all processes, anew when a file changes, and never from a broken file."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from model.data import DataError, load
from model.data import cache as module
from model.data.cache import ImageCache
from tests import layouts

SIZE = 96
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.mvtec(tmp_path_factory.mktemp("mvtec"), ("bottle",))


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RINGZERO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


def counting(files: list[Path], how: str = "squash") -> tuple[ImageCache, list[Path]]:
    """A cache of images that are filled with their file's first byte, and what it decoded."""
    decoded: list[Path] = []

    def decode(path: Path) -> np.ndarray:
        decoded.append(path)
        return np.full((4, 4, 3), path.read_bytes()[0], np.uint8)

    return ImageCache("made", files, 4, how, decode), decoded


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.png" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number + 10]))
    return paths


def test_each_file_is_decoded_once_and_read_back(files, root):
    cache, decoded = counting(files)
    assert decoded == []
    for path in reversed(files):
        image = cache[path]
        assert image.shape == (4, 4, 3)
        assert (image == path.read_bytes()[0]).all()
        image[:] = 0  # a copy: what others read stays
    assert (cache[files[2]] == 12).all()
    assert sorted(decoded) == files
    again, anew = counting(files)
    assert (again[files[4]] == 14).all()
    assert anew == []
    assert [path.suffix for path in sorted(root.iterdir())] == [".lock", ".npy"]


def test_files_of_any_number_are_kept_in_order(files, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2)
    cache, _ = counting(files)
    assert [int(cache[path][0, 0, 0]) for path in files] == [10, 11, 12, 13, 14]


@pytest.mark.parametrize("change", ["content", "time", "name", "how", "list"])
def test_a_change_makes_another_cache(files, change):
    first, _ = counting(files)
    _ = first[files[0]]
    how = "squash"
    if change == "content":
        files[1].write_bytes(b"zz")
    elif change == "time":
        os.utime(files[1], ns=(0, 12345))
    elif change == "name":
        files[1] = files[1].rename(files[1].with_name("other.png"))
    elif change == "how":
        how = "crop"
    else:
        files = files[:-1]
    second, decoded = counting(files, how)
    assert (second[files[1]] == files[1].read_bytes()[0]).all()
    assert sorted(decoded) == sorted(files)


def test_a_broken_file_is_named_and_nothing_is_kept(made, tmp_path, root):
    folder = layouts.mvtec(tmp_path / "set", ("bottle",))
    data = load("mvtec", image_size=SIZE, seed=0, folder=folder)
    _, path = data._samples[-1]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"image {path} cannot be read .*ringzero data check mvtec {folder}"):
        data[0]
    assert [each for each in root.iterdir() if each.suffix != ".lock"] == []
    path.write_bytes(content)
    assert load("mvtec", image_size=SIZE, seed=0, folder=folder)[0].image.shape == (SIZE, SIZE, 3)


CODE = """
import sys
from pathlib import Path
from model.data import files, load
decoded = []
real = files.read_image
files.read_image = lambda path, remedy: (decoded.append(path), real(path, remedy))[1]
data = load("mvtec", image_size={size}, seed=0, folder=Path(sys.argv[1]))
print(len(decoded), int(data[0].image.sum()), len(decoded))
"""


def other_process(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CODE.format(size=SIZE), str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_another_process_decodes_nothing_again(made):
    """Two that start together share one making; a third, later, finds it made."""
    ranks = [other_process(made) for _ in range(2)]
    said = sorted(rank.communicate()[0].split() for rank in ranks)
    assert [rank.returncode for rank in ranks] == [0, 0]
    data = load("mvtec", image_size=SIZE, seed=0, folder=made)
    assert [each[2] for each in said] == ["0", "8"]  # 4 samples and 4 references
    calls = []
    data._cache._decode = lambda path: calls.append(path)
    assert {int(each[1]) for each in said} == {int(data[0].image.sum())}
    assert calls == []


def test_what_another_made_while_this_one_waited_is_taken(files, monkeypatch):
    first, made = counting(files)
    second, again = counting(files)
    lock = module.FileLock

    def waited(path: Path, timeout: float) -> module.FileLock:
        monkeypatch.setattr(module, "FileLock", lock)
        assert (first[files[0]] == 10).all()
        return lock(path, timeout=timeout)

    monkeypatch.setattr(module, "FileLock", waited)
    assert (second[files[4]] == 14).all()
    assert len(made) == 5
    assert again == []


def test_a_killed_makers_rest_is_written_over(files, root):
    cache, _ = counting(files)
    root.mkdir(parents=True)
    cache.path.with_suffix(".partial").write_bytes(b"half")
    assert (cache[files[0]] == 10).all()
    assert not cache.path.with_suffix(".partial").exists()


def test_a_full_or_closed_disk_is_told(files, root, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    with pytest.raises(DataError, match=r"no room for .*\.npy .* point RINGZERO_CACHE at a larger disk"):
        _ = counting(files)[0][files[0]]
    root.parent.joinpath("images2").touch()
    monkeypatch.setenv("RINGZERO_CACHE", str(root.parent / "images2"))
    with pytest.raises(DataError, match=r"cannot use .* that you may write to"):
        _ = counting(files)[0][files[0]]


def test_a_lock_that_nobody_gives_up_is_told(files, root, monkeypatch):
    monkeypatch.setattr(module, "LOCK_TIMEOUT_S", 0.05)
    cache, _ = counting(files)
    root.mkdir(parents=True)
    with (
        module.FileLock(cache.path.with_suffix(".lock")),
        pytest.raises(DataError, match=r"waited 0 s for another process that holds .*\.lock"),
    ):
        _ = cache[files[0]]

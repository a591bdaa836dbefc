"""The record of one run: a JSON file, begun before the first step and finished atomically. Fields: results/README.md."""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

SCHEMA = 1
RESERVE_BYTES = 2**20
PLACE = "RINGZERO_PLACE"  # variable that tells a run which comparison it belongs to, and its place in it: NAME~INDEX


class RecordError(RuntimeError):
    """The results folder can't take a record; the message says what to change."""


def first_step(record: Mapping[str, Any]) -> int:
    """Steps that the training had behind it where this run began: `losses` has those too, `step_s` has its own alone."""
    return int((record.get("resumed") or {"step": 0})["step"])


def now() -> str:
    """UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def run_id(label: str, ranks: int, commit: str | None) -> str:
    """A name that sorts by time and tells what ran."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S%f}"[:-3] + f"Z_{label}_np{ranks}_{commit or 'nocommit'}"


def place_of(text: str | None) -> dict[str, Any] | None:
    """`name` and `place` (from 0) of the comparison that started a run; None for a run of its own."""
    name, _, place = (text or "").rpartition("~")
    return {"name": name, "place": int(place)} if name else None


def sync(path: Path) -> None:
    """Make a file's content, or the names in a folder, outlive a power cut: a file's own fsync does not keep its name."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# What a run that never came to it still says: readers need the fields.
UNMEASURED: Mapping[str, Any] = {
    "resumed": None,
    "ranks": [],
    "losses": [],
    "grad_norms": [],
    "skipped_steps": None,
    "parameters": None,
    "proof": [],
}


class RecordFile:
    """`<folder>/<run_id>.json`. Room for the end is set aside at the beginning, so a disk that fills up loses nothing."""

    def __init__(self, folder: Path, run_id: str) -> None:
        self.path = folder / f"{run_id}.json"
        self.reserve = folder / ".running" / run_id / "reserve"

    @property
    def workdir(self) -> Path:
        """Folder in which the ranks of this run tell each other how they are."""
        return self.reserve.parent

    def begin(self, content: Mapping[str, Any]) -> None:
        """Write the first version. Raises RecordError where the folder is missing rights or room."""
        try:
            self.workdir.mkdir(parents=True, exist_ok=True)
            with open(self.reserve, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)
            self._write(self.path, content)
        except OSError as error:
            raise RecordError(
                f"cannot write records to {self.path.parent}: {error.strerror}; "
                "free some room, or name another folder with --results"
            ) from error

    def finish(self, content: Mapping[str, Any], *, durable: bool = True) -> Path:
        """Replace the record. Where the folder refuses at the end, it is kept under the temporary folder: the path tells.

        `durable`: return when the disk has it. A process that may be killed meanwhile calls `sync` afterwards.
        """
        self.reserve.unlink(missing_ok=True)
        try:
            self._write(self.path, content, durable=durable)
        except OSError:
            spare = Path(tempfile.gettempdir()) / self.path.name
            self._write(spare, content, durable=durable)
            return spare
        return self.path

    def read(self) -> dict[str, Any]:
        """What is on the disk now."""
        content: dict[str, Any] = json.loads(self.path.read_text())
        return content

    @staticmethod
    def _write(path: Path, content: Mapping[str, Any], *, durable: bool = True) -> None:
        partial = path.with_suffix(".partial")
        try:
            with open(partial, "w") as file:
                json.dump(plain(content), file, indent=1, default=str, allow_nan=False)
                file.write("\n")
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            partial.replace(path)
            if durable:
                sync(path.parent)
        except OSError:
            partial.unlink(missing_ok=True)
            raise


def plain(value: Any) -> Any:
    """JSON has no NaN: a number that is none becomes its name, so that no reader takes it for a measurement."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def load(folder: Path | str) -> "pandas.DataFrame":
    """The records of a folder as a table, a row a run: `bench.frame.load`. pandas is imported only here."""
    from bench import frame

    return frame.load(folder)


def steps(folder: Path | str) -> "pandas.DataFrame":
    """Their raw samples, a row a step of a rank: `bench.frame.steps`."""
    from bench import frame

    return frame.steps(folder)

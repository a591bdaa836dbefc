"""`ringzero evaluate`: what a checkpoint detects, localises and says on test images, beside baselines and published numbers."""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.text import Text

from bench.config import ConfigError
from bench.predict import Model
from bench.record import RecordError, now, plain

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """AUROC, PRO and the accuracy of the answers, class by class."""

    net: Model = field(default_factory=Model)
    data: str = "textures"
    """Images, as --data of a run; their test part."""
    images: Path | None = None
    """Folder with the data set's files, as --images of a run."""
    mode: Literal["both", "text", "bank"] = "both"
    """text: the trained decoder's map (unsupervised); bank: the distance from a few normal images (few-shot)."""
    items: int = 60
    """Test images, evenly over classes and over normal and defective ones; 0 takes all."""
    shots: int | None = None
    """Normal images a class in the memory bank; without it as in training, where the checkpoint says it, or 1."""
    draws: int = 1
    """Times the memory bank is filled with other normal images: gives mean and deviation."""
    answers: bool = True
    """Ask the LLM about each image."""
    baselines: bool = False
    """Also evaluate an untrained decoder, a constant map, the memory bank alone, and a random encoder's memory bank."""
    batch_size: int = 1
    """Images that go through the model together."""
    markdown: Path | None = None
    """Write the tables with their notes to this file."""
    output: Path | None = None
    """Write everything to this JSON file: settings, environment, tables, spread, and each image's score and answer."""

    def __post_init__(self) -> None:
        for name, low in (("items", 0), ("draws", 1), ("batch_size", 1), ("shots", 1)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"--{name.replace('_', '-')} is {value}; it must be at least {low}")


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 where an image was left out."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    asked = tyro.cli(Evaluate, args=arguments, prog="ringzero evaluate", config=(tyro.conf.OmitArgPrefixes,))
    from bench.environment import snapshot
    from bench.evaluation import run
    from model import published

    console, started = Console(highlight=False), now()
    found = run(asked, tell=_progress)
    parts = []
    for name, result in found.results.items():
        if result.table is None:
            console.print(Text(f"{name}: {result.reason}\n", "dim"))
            parts.append(f"**{name}**: {result.reason}\n")
            continue
        title = f"{name}: {found.model['config']['name']} on {asked.data}" + (
            f", {found.trained}" if name in found.ours else ""
        )
        console.print(published.compare_with_published(result.table, title=title))
        notes = [*result.spread_in_words(), *published.notes(result.table, asked.data, found.data["all"])]
        console.print(*(Text(note, "dim") for note in notes), sep="\n", end="\n\n")
        parts.append(published.markdown(result.table, title=title, notes=notes))
    if asked.markdown:
        _write(asked.markdown, "\n".join(parts))
        console.print(f"wrote {asked.markdown}")
    if asked.output:
        record = {
            "schema": SCHEMA,
            "kind": "evaluation",
            "started": started,
            "finished": now(),
            "command": ["ringzero", "evaluate", *arguments],
            "config": json.loads(json.dumps(dataclasses.asdict(asked), default=str)),
            "environment": snapshot(),
            **found.to_dict(),
        }
        _write(asked.output, json.dumps(plain(record), indent=1, allow_nan=False) + "\n")
        console.print(f"wrote {asked.output}")
    left_out = any(result.table["bad"] for result in found.results.values() if result.table is not None)
    return 1 if left_out else 0


def _progress(name: str, done: int, count: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{name}: {done} of {count} images", end="\n" if done == count else "", file=sys.stderr, flush=True)


def _write(path: Path, text: str) -> None:
    """Whole or not at all. Raises RecordError, naming the file."""
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}-", delete=False) as partial:
            partial.write(text)
        Path(partial.name).chmod(0o644)  # temporary files are made 0600
        Path(partial.name).replace(path)
    except OSError as error:
        raise RecordError(f"cannot write {path}: {error.strerror}; name a file in a folder that exists") from error

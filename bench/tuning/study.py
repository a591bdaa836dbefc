"""What a search was: its request, every trial and every repeat, written after each run, so that any end loses nothing."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.comparison import ComparisonError
from bench.report.load import STUDY

SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for; a study goes on only for the same."""

    matrix: str
    config: Mapping[str, Any]
    engines: tuple[str, ...]
    ranks: int
    trials: int
    repeats: int
    trial_steps: int | None = None


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run of the search. `number` 0 is the controlled setting; `speed` is samples/s, None where it may not win, `why` then."""

    engine: str
    number: int
    chosen: Mapping[str, Any]
    record: str
    speed: float | None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """One fresh run after the search; `side` is controlled or tuned."""

    engine: str
    round: int
    side: str
    record: str


@dataclass(kw_only=True)
class Study:
    """`references`: records of single, of the trials and of the repeats (the same where both take as many steps)."""

    name: str
    request: Request
    seed: int
    started: str
    references: list[str] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    exhausted: list[str] = field(default_factory=list)  # engines of which every setting was tried
    repeats: list[Repeat] = field(default_factory=list)
    ended: str = "running"  # then: complete, interrupted
    schema: int = SCHEMA

    def write(self, folder: Path) -> Path:
        """Whole or not at all."""
        path = folder / f"{self.name}{STUDY}"
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")
        partial.replace(path)
        return path

    def of(self, engine: str) -> list[Trial]:
        """The trials of one engine, in order."""
        return [trial for trial in self.trials if trial.engine == engine]

    @property
    def again(self) -> list[str]:
        """Records that the outcome is told from: the reference and the fresh repeats, no trial."""
        return [*self.references[-1:], *(each.record for each in self.repeats)]


def read(path: Path) -> Study:
    """Raises ComparisonError for a missing, broken or unknown file."""
    try:
        values = json.loads(path.read_text())
        if values["schema"] != SCHEMA:
            raise ComparisonError(f"{path} has schema {values['schema']!r}, this version reads {SCHEMA}")
        request = values["request"]
        values["request"] = Request(**{**request, "engines": tuple(request["engines"])})
        values["trials"] = [Trial(**each) for each in values["trials"]]
        values["repeats"] = [Repeat(**each) for each in values["repeats"]]
        return Study(**values)
    except FileNotFoundError:
        raise ComparisonError(f"no study {path}; make one with: ringzero tune") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ComparisonError(f"{path} is no whole study ({error!r}); delete it or tune again") from error


def unfinished(folder: Path, request: Request, seed: int | None) -> Study | None:
    """The newest study of the same request that did not come to its end."""
    plain = json.loads(json.dumps(dataclasses.asdict(request)))
    for path in sorted(folder.glob(f"*{STUDY}"), reverse=True):
        found = read(path)
        same = json.loads(json.dumps(dataclasses.asdict(found.request))) == plain
        if same and found.ended != "complete" and seed in (None, found.seed):
            return found
    return None

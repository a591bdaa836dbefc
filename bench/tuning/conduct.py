"""Take the runs of a study: trials interleaved over the engines, then the winners again, each beside its controlled run."""

import dataclasses
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from backends.tuning import words
from bench import stats
from bench.config import RunConfig
from bench.matrix import REFERENCE
from bench.report import load
from bench.report.live import clock
from bench.report.rows import cause
from bench.tuning import search, space
from bench.tuning.search import Tried
from bench.tuning.study import Repeat, Study, Trial
from bench.verify import verify

Run = Callable[[RunConfig, int], Path]
Tell = Callable[[str], None]
SIDES = ("controlled", "tuned")


@dataclasses.dataclass
class Conductor:
    """`run` starts a run and returns its record; `tell` is given a line at each start and end."""

    study: Study
    folder: Path
    run: Run
    tell: Tell
    estimate_s: float

    def __post_init__(self) -> None:
        self.lasted: list[float] = []
        self.records: dict[str, dict[str, Any]] = {}

    def everything(self) -> None:
        """What is left of the study, to its end. Ctrl-C passes through; what was taken is in the study's file."""
        request = self.study.request
        self._reference(0, short=True)
        for number in range(request.trials):
            for engine in self._shuffled(f"trial {number}"):
                if len(self.study.of(engine)) == number and engine not in self.study.exhausted:
                    self._trial(engine)
        if self.study.request.trial_steps is not None and self.winners():
            self._reference(1, short=False)
        for number in range(request.repeats):
            for engine in self._shuffled(f"round {number}"):
                if engine in self.winners():
                    self._round(engine, number)
        self.study.ended = "complete"
        self.study.write(self.folder)

    def winners(self) -> dict[str, Trial]:
        """The fastest trial of each engine, which may be that of the controlled setting."""
        found = {}
        for engine in self.study.request.engines:
            trials = self.study.of(engine)
            at = search.best([Tried(dict(each.chosen), each.speed) for each in trials])
            if at is not None:
                found[engine] = trials[at]
        return found

    def left(self) -> int:
        """Runs still to be taken; before the trials are over, as if every engine's winner were another setting."""
        request, study = self.study.request, self.study
        trials = sum(request.trials - len(study.of(each)) for each in request.engines if each not in study.exhausted)
        again = sum(len(taken(each)) for each in self.winners().values()) if not trials else 2 * len(request.engines)
        references = 1 + (self.study.request.trial_steps is not None) - len(study.references)
        return references + trials + request.repeats * again - len(study.repeats)

    def config(self, engine: str, chosen: Mapping[str, Any], *, short: bool) -> RunConfig:
        """The run of an engine with settings of its own; `short`: with the steps of a trial."""
        made = space.apply(space.base(engine, self.study.request.config), chosen)
        training = made.training
        if short and self.study.request.trial_steps is not None:
            training = dataclasses.replace(training, steps=self.study.request.trial_steps, epochs=None)
        return dataclasses.replace(
            made, training=training, output=dataclasses.replace(made.output, results=self.folder)
        )

    def _shuffled(self, what: str) -> list[str]:
        engines = list(self.study.request.engines)
        random.Random(f"{self.study.seed} {what}").shuffle(engines)
        return engines

    def _reference(self, place: int, *, short: bool) -> None:
        if len(self.study.references) > place:
            return
        record = self._take("single, which all are verified against", REFERENCE, {}, 1, short=short)
        self.study.references.append(record)
        self.study.write(self.folder)

    def _trial(self, engine: str) -> None:
        past = self.study.of(engine)
        config = space.base(engine, self.study.request.config)
        tried = [Tried(dict(each.chosen), each.speed) for each in past]
        seed = self.study.seed + self.study.request.engines.index(engine)
        chosen = search.propose(space.knobs(engine), config, tried, seed)
        if chosen is None:
            self.study.exhausted.append(engine)
            self.study.write(self.folder)
            self.tell(f"{engine}: all of its {len(past)} settings were tried")
            return
        what = f"{engine} trial {len(past) + 1} of {self.study.request.trials}: {told(engine, chosen)}"
        name = self._take(what, engine, chosen, self.study.request.ranks, short=True)
        speed, why = judged(self._read(name), self._read(self.study.references[0]))
        self.study.trials.append(
            Trial(engine=engine, number=len(past), chosen=chosen, record=name, speed=speed, why=why)
        )
        self.study.write(self.folder)
        self.tell(f"    {'can not win' if speed is None else f'{speed:.2f} samples/s'}{f': {why}' if why else ''}")

    def _round(self, engine: str, number: int) -> None:
        winner = self.winners()[engine]
        sides = list(taken(winner))
        random.Random(f"{self.study.seed} {engine} {number}").shuffle(sides)
        for side in sides:
            if any((each.engine, each.round, each.side) == (engine, number, side) for each in self.study.repeats):
                continue
            chosen = winner.chosen if side == "tuned" else self.study.of(engine)[0].chosen
            what = f"{engine} repeat {number + 1} of {self.study.request.repeats}, {side}"
            name = self._take(what, engine, chosen, self.study.request.ranks, short=False)
            self.study.repeats.append(Repeat(engine=engine, round=number, side=side, record=name))
            self.study.write(self.folder)
            speed, why = judged(self._read(name), self._read(self.study.references[-1]))
            self.tell(
                f"    {'failed or void' if speed is None else f'{speed:.2f} samples/s'}{f': {why}' if why else ''}"
            )

    def _take(self, what: str, engine: str, chosen: Mapping[str, Any], ranks: int, *, short: bool) -> str:
        """Start one run and wait for it; the name of its record, which says so where it failed."""
        left = self.left()
        mean = sum(self.lasted) / len(self.lasted) if self.lasted else self.estimate_s
        self.tell(f"{what} ... ({left} runs left, about {clock(left * mean)})")
        begun = time.monotonic()
        path = self.run(self.config(engine, chosen, short=short), ranks)
        self.lasted.append(time.monotonic() - begun)
        return path.name

    def _read(self, name: str) -> dict[str, Any]:
        if name not in self.records:
            self.records[name] = load.read(self.folder / name)
        return self.records[name]


def taken(winner: Trial) -> tuple[str, ...]:
    """What each round takes again: where the controlled setting won there is nothing to set beside it."""
    return SIDES if winner.number else SIDES[:1]


def usable(reference: Mapping[str, Any] | None, record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The plain process's run where it can prove a record: finished, and of the same experiment."""
    fits = reference is not None and reference["status"] == "done" and reference["experiment"] == record["experiment"]
    return reference if fits else None


def judged(record: Mapping[str, Any], reference: Mapping[str, Any]) -> tuple[float | None, str]:
    """(samples/s, or None where a run failed or is void; what there is to say). An inexact run may win: its loss is shown."""
    if record["status"] != "done":
        return None, cause(record)
    verdict = verify(record, usable(reference, record))
    if verdict.status == "void":
        return None, verdict.why
    return stats.throughput([record]).median, "" if verdict.status == "verified" else verdict.why


def told(engine: str, chosen: Mapping[str, Any]) -> str:
    """What differs from the controlled setting, in words."""
    first = {knob.name: knob.values[0] for knob in space.knobs(engine)}
    return words({name: value for name, value in chosen.items() if value != first[name]}) or "as controlled"

"""What a study found, engine by engine: tuned against controlled on fresh repeats, and what the search itself had promised."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import pairwise, stats
from bench.pairwise import Pair
from bench.stats import Estimate
from bench.tuning.conduct import SIDES, told
from bench.tuning.search import Tried, best
from bench.tuning.study import Study, Trial
from bench.verify import Verdict, loss_difference, verify

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One engine. `winner` 0 is the controlled setting: then, and where a repeat failed, nothing was compared."""

    engine: str
    trials: Sequence[Trial]
    winner: int | None
    what: str
    controlled: Estimate | None  # samples/s of the fresh repeats
    tuned: Estimate | None
    pair: Pair | None  # of step times, tuned over controlled
    verdict: Verdict | None  # the worst of the tuned repeats
    loss: tuple[float, int] | None  # largest relative difference from the controlled loss curve, its step from 0
    why: str = ""

    @property
    def failed(self) -> int:
        """Trials that could not win."""
        return sum(trial.speed is None for trial in self.trials)

    @property
    def luck(self) -> float | None:
        """Speed of the winning trial over that of its fresh repeats: above 1, the search had met a good moment."""
        if not self.winner or self.tuned is None:
            return None
        speed = self.trials[self.winner].speed
        return None if speed is None else speed / self.tuned.median


def outcomes(study: Study, records: Mapping[str, Record]) -> list[Outcome]:
    """Every engine of a study; `records` by file name. All pairs are one family for Holm's correction."""
    reference = records.get(study.references[-1]) if study.references else None
    made: list[tuple[dict[str, Any], dict[str, list[Record]]]] = []
    for engine in study.request.engines:
        trials = study.of(engine)
        place = best([Tried(dict(each.chosen), each.speed) for each in trials])
        sides = {side: _done(study, engine, side, records) for side in SIDES}
        facts = {
            "engine": engine,
            "trials": trials,
            "winner": place,
            "what": told(engine, trials[place].chosen) if place is not None else "",
        }
        made.append((facts, sides))
    whole = [sides for _, sides in made if all(sides.values())]
    pairs = iter(pairwise.family([tuple(pairwise.times(sides[side]) for side in SIDES[::-1]) for sides in whole]))  # type: ignore[misc]
    return [_outcome(facts, sides, next(pairs) if all(sides.values()) else None, reference) for facts, sides in made]


def _done(study: Study, engine: str, side: str, records: Mapping[str, Record]) -> list[Record]:
    """The finished repeats of one side, in rounds of which both sides finished."""
    names: dict[int, dict[str, str]] = {}
    for each in study.repeats:
        if each.engine == engine:
            names.setdefault(each.round, {})[each.side] = each.record
    both = [
        {key: records[name] for key, name in sides.items() if name in records} for _, sides in sorted(names.items())
    ]
    return [
        sides[side] for sides in both if len(sides) == len(SIDES) and all(r["status"] == "done" for r in sides.values())
    ]


def _outcome(
    facts: Mapping[str, Any], sides: Mapping[str, Sequence[Record]], pair: Pair | None, reference: Record | None
) -> Outcome:
    why = ""
    if not facts["trials"]:
        why = "no trial was taken"
    elif facts["winner"] is None:
        why = "no trial finished with the right answer"
    elif len(facts["trials"]) == 1:
        why = "only the controlled setting was tried"
    elif facts["winner"] == 0:
        why = "no setting was faster than the controlled one"
    elif pair is None:
        why = "no round of repeats was finished on both sides"
    verdicts = [verify(record, reference) for record in sides["tuned"]]
    gravity = ("void", "unproven", "reference", "verified")
    verdict = min(verdicts, key=lambda each: gravity.index(each.status)) if verdicts else None
    if verdict is not None and verdict.status == "void":
        pair, why = None, f"void: {verdict.why}"
    apart = [
        found
        for one, other in zip(sides["tuned"], sides["controlled"], strict=True)
        if (found := loss_difference(one, other)) is not None
    ]
    return Outcome(
        **facts,
        controlled=stats.throughput(sides["controlled"]) if sides["controlled"] else None,
        tuned=stats.throughput(sides["tuned"]) if pair is not None else None,
        pair=pair,
        verdict=verdict,
        loss=max(apart) if apart else None,
        why=why,
    )


def typical_luck(found: Sequence[Outcome]) -> float | None:
    """Median over engines of `Outcome.luck`."""
    known = [each.luck for each in found if each.luck is not None]
    return statistics.median(known) if known else None

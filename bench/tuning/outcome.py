"""What a study found, engine by engine: tuned against controlled on fresh repeats, and what the search itself had promised."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import pairwise, stats
from bench.pairwise import Pair
from bench.stats import Estimate
from bench.tuning.conduct import SIDES, taken, told, usable
from bench.tuning.search import Tried, best
from bench.tuning.study import Study, Trial
from bench.verify import GRAVEST, Verdict, loss_difference, verify

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One engine. `winner` 0 is the controlled setting, alone in its repeats: then, and where one failed, nothing is compared."""

    engine: str
    trials: Sequence[Trial]
    winner: int | None
    what: str
    controlled: Estimate | None  # samples/s of the fresh repeats
    tuned: Estimate | None
    pair: Pair | None  # of step times, tuned over controlled
    verdict: Verdict | None  # the worst of the tuned repeats; of the controlled ones where those are void
    loss: tuple[float, int] | None  # largest relative difference from the controlled loss curve, its step from 0
    why: str = ""
    oversubscribed: bool = False  # more ranks than cores or GPUs: no claim

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
        wanted = SIDES if place is None else taken(trials[place])
        sides = {side: _done(study, engine, wanted, side, records) for side in SIDES}
        facts = {
            "engine": engine,
            "trials": trials,
            "winner": place,
            "what": told(engine, trials[place].chosen) if place is not None else "",
        }
        made.append((facts, sides))
    judged = [{side: _worst(sides[side], reference) for side in SIDES} for _, sides in made]
    doubts = [_doubt(sides, verdicts) for (_, sides), verdicts in zip(made, judged, strict=True)]
    sound = [sides for (_, sides), why in zip(made, doubts, strict=True) if not why]
    pairs = iter(pairwise.family([tuple(pairwise.times(sides[side]) for side in SIDES[::-1]) for sides in sound]))  # type: ignore[misc]
    return [
        _outcome(facts, sides, verdicts, why or next(pairs))
        for (facts, sides), verdicts, why in zip(made, judged, doubts, strict=True)
    ]


def _worst(records: Sequence[Record], reference: Record | None) -> Verdict | None:
    verdicts = [verify(record, usable(reference, record)) for record in records]
    return min(verdicts, key=lambda each: GRAVEST.index(each.status)) if verdicts else None


def _speed(records: Sequence[Record], verdict: Verdict | None) -> Estimate | None:
    return stats.throughput(records) if records and not _void(verdict) else None


def _void(verdict: Verdict | None) -> bool:
    return verdict is not None and verdict.status == "void"


def _doubt(sides: Mapping[str, Sequence[Record]], verdicts: Mapping[str, Verdict | None]) -> str:
    """Why the two sides can't be compared; empty where they can."""
    for side, verdict in verdicts.items():
        if verdict is not None and verdict.status == "void":
            return f"{'' if side == 'tuned' else 'the controlled setting is '}void: {verdict.why}"
    if not all(sides.values()):
        return "no round of repeats was finished on both sides"
    return "more ranks than cores or GPUs: nothing is claimed" if _oversubscribed(sides) else ""


def _oversubscribed(sides: Mapping[str, Sequence[Record]]) -> bool:
    return any(record["world"].get("oversubscribed") for records in sides.values() for record in records)


def _done(study: Study, engine: str, wanted: Sequence[str], side: str, records: Mapping[str, Record]) -> list[Record]:
    """The finished repeats of one side, in rounds of which all that were wanted finished."""
    names: dict[int, dict[str, str]] = {}
    for each in study.repeats:
        if each.engine == engine:
            names.setdefault(each.round, {})[each.side] = each.record
    rounds = [
        {key: records[name] for key, name in sides.items() if name in records} for _, sides in sorted(names.items())
    ]
    whole = [each for each in rounds if set(each) == set(wanted) and all(r["status"] == "done" for r in each.values())]
    return [each[side] for each in whole if side in each]


def _outcome(
    facts: Mapping[str, Any],
    sides: Mapping[str, Sequence[Record]],
    verdicts: Mapping[str, Verdict | None],
    compared: Pair | str,
) -> Outcome:
    """`compared`: both sides, or why they are not."""
    pair, why = (None, compared) if isinstance(compared, str) else (compared, "")
    if not facts["trials"]:
        why = "no trial was taken"
    elif facts["winner"] is None:
        why = "no trial finished with the right answer"
    elif len(facts["trials"]) == 1:
        why = "only the controlled setting was tried"
    elif facts["winner"] == 0:
        why = "no setting was faster than the controlled one"
    apart = [
        found
        for one, other in zip(sides["tuned"], sides["controlled"], strict=False)
        if (found := loss_difference(one, other)) is not None
    ]
    return Outcome(
        **facts,
        controlled=_speed(sides["controlled"], verdicts["controlled"]),
        tuned=_speed(sides["tuned"], verdicts["tuned"]),
        pair=pair,
        verdict=verdicts["controlled" if _void(verdicts["controlled"]) or not sides["tuned"] else "tuned"],
        loss=max(apart) if apart else None,
        why=why,
        oversubscribed=_oversubscribed(sides),
    )


def typical_luck(found: Sequence[Outcome]) -> float | None:
    """Median over engines of `Outcome.luck`."""
    known = [each.luck for each in found if each.luck is not None]
    return statistics.median(known) if known else None

"""The table of a study: each engine tuned and controlled, side by side, and never one engine beside another."""

from collections.abc import Sequence

from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from bench.report.table import NONE, number
from bench.stats import Estimate
from bench.tuning.outcome import Outcome
from bench.tuning.study import Study

HEADINGS = ("engine", "controlled\nsamples/s", "tuned\nsamples/s", "speed\nratio", "95 %\ninterval", "trial/\nrepeats",
            "loss\ndifference")  # fmt: skip
DASH = "\N{EN DASH}"


def cells(found: Outcome) -> list[str]:
    """An engine as text, in the order of HEADINGS."""
    ratio = found.pair.ratio.over(1.0) if found.pair else None
    return [
        f"{found.engine}{'*' if found.oversubscribed else ''}",
        _speed(found.controlled),
        _speed(found.tuned),
        f"{ratio.median:.3f}" if ratio else NONE,
        f"{ratio.low:.2f}{DASH}{ratio.high:.2f}" if ratio else NONE,
        f"{found.luck:.2f}" if found.luck else NONE,
        f"{found.loss[0]:.1e}" if found.loss else NONE,
    ]


def notes(study: Study, found: Sequence[Outcome]) -> list[str]:
    """What each engine's best setting is, what was tried, and what may be said of it; a line each."""
    told = []
    for each in found:
        budget = f"{len(each.trials)} trial{'s' * (len(each.trials) != 1)}" + (
            f", {each.failed} of them failed or void" if each.failed else ""
        )
        used = "; every setting was tried" if each.engine in study.exhausted else ""
        line = f"{each.engine}: {each.what or 'no setting'} ({budget}{used})"
        line += f"; {each.pair.verdict()}, p {each.pair.holm:.2g}" if each.pair else ""
        line += f"; {each.why}" if each.why else ""
        if each.verdict is not None:
            line += f"; {each.verdict.status}" + (f": {each.verdict.why}" if each.verdict.status != "verified" else "")
        told.append(line)
    return told


def terms(study: Study) -> list[str]:
    """How the numbers were made."""
    request = study.request
    return [
        f"{request.matrix} at {request.ranks} ranks; {request.trials} trials an engine (Optuna's TPE, seed {study.seed}), "
        f"the first with the controlled setting; then {request.repeats} fresh rounds of winner and controlled run, interleaved.",
        "samples/s: medians of the repeats; speed ratio: tuned over controlled, of runs of one round, median over rounds; "
        "verdict: Mann-Whitney, Holm-corrected over the "
        "engines, and the interval excludes 1.",
        "trial/repeats: the winning trial's speed over that of its fresh repeats; above 1 is the winner's luck, which the ratio "
        "leaves out.",
        "loss difference: the largest, of the tuned loss curve from the controlled one of the same round, relative to it. "
        "verified: equal to "
        "one plain process, under SGD too; 16 bits on the wire are never verified.",
        "Rows are not a ranking: engines were tuned each in its own space. * more ranks than cores or GPUs.",
    ]


def terminal(study: Study, found: Sequence[Outcome]) -> Lines:
    """For a rich console."""
    table = Table(title=f"tuned track: {study.name}", title_justify="left", title_style="bold", box=None,
                  padding=(0, 2, 0, 0), header_style="dim")  # fmt: skip
    for place, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="right" if place else "left", vertical="bottom", no_wrap=True)
    for each in found:
        table.add_row(*cells(each))
    return Lines(
        table, Text(), *(Text(line) for line in notes(study, found)), *(Text(line, "dim") for line in terms(study))
    )


def markdown(study: Study, found: Sequence[Outcome]) -> str:
    """The same as Markdown."""
    lines = [f"**tuned track: {study.name}**", "", f"| {' | '.join(each.replace(chr(10), ' ') for each in HEADINGS)} |",
             "|---" * len(HEADINGS) + "|"]  # fmt: skip
    lines += [f"| {' | '.join(cells(each))} |" for each in found]
    lines += ["", *(f"- {line}" for line in notes(study, found)), "", *(f"{line}  " for line in terms(study))]
    return "\n".join(lines) + "\n"


def _speed(estimate: Estimate | None) -> str:
    if estimate is None:
        return NONE
    return number(estimate.median)

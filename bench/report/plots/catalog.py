"""The figures by name, and how they become files."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from bench.report import figures
from bench.report.plots import auroc, detection, efficiency, loss, memory, phases, steps, throughput, tuned_loss, wire
from bench.report.plots.series import NothingToDraw, Record, families, only, title_of
from bench.report.rows import Group

Draw = Callable[[Sequence[Group], Sequence[Record]], Figure]
Format = Literal["png", "svg", "pdf"]
FORMATS: tuple[str, ...] = get_args(Format)


def overview(groups: Sequence[Group], records: Sequence[Record]) -> Figure:
    """Throughput and memory of each row as bars: the figure of the README."""
    return figures.draw(only(groups, "overview"))


FIGURES: dict[str, Draw] = {
    "overview": overview,
    "throughput": throughput.draw,
    "efficiency": efficiency.draw,
    "memory": memory.draw,
    "steps": steps.draw,
    "phases": phases.draw,
    "loss": loss.draw,
    "wire": wire.draw,
    "detection": detection.draw,
    "auroc": auroc.draw,
    "tuned-loss": tuned_loss.draw,
}
ACROSS = ("throughput", "efficiency")  # they draw experiments together that differ in their global batch at most


def together(name: str, groups: Sequence[Group]) -> list[list[Group]]:
    """Which groups go into one figure of that name."""
    if name == "tuned-loss":  # both tracks of one experiment
        places = dict.fromkeys((group.experiment, group.machine, group.device) for group in groups)
        return [[g for g in groups if (g.experiment, g.machine, g.device) == place] for place in places]
    return families(groups) if name in ACROSS else [[group] for group in groups]


def draw(name: str, groups: Sequence[Group], records: Sequence[Record]) -> Figure:
    """One figure in the common style; `groups` as `together` gives them. The caller closes it.

    Raises NothingToDraw, saying what would have to be measured, and ValueError for groups that do not belong together.
    """
    with plt.rc_context(figures.STYLE):
        return FIGURES[name](groups, records)


def write(
    name: str,
    groups: Sequence[Group],
    records: Sequence[Record],
    stem: Path,
    formats: Sequence[str] = ("png", "svg"),
    *,
    tell: Callable[[str], None] = print,
) -> list[Path]:
    """Files `stem`-name.png and so on (the overview is `stem`.png); a second figure of that name gets `-2`. Returns the paths.

    `tell` is given the reason for every experiment that has nothing to draw; where none has, NothingToDraw is raised.
    The same records give the same bytes.
    """
    written: list[Path] = []
    empty: list[str] = []
    count = 0
    for members in together(name, groups):
        try:
            figure = draw(name, members, records)
        except NothingToDraw as nothing:
            empty.append(f"{name}, {title_of(members)}: {nothing}")
            continue
        count += 1
        parts = [stem.name, *([name] if name != "overview" else []), *([str(count)] if count > 1 else [])]
        written += save(figure, stem.with_name("-".join(parts)), formats)
    if not written:
        raise NothingToDraw(empty[0] if empty else "no record to draw")
    for why in empty:
        tell(f"not drawn: {why}")
    return written


def save(figure: Figure, stem: Path, formats: Sequence[str]) -> list[Path]:
    """One file a format beside `stem`, whose folder is made; closes the figure."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    unstamped = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    written = []
    with plt.rc_context(figures.STYLE | {"pdf.fonttype": 42}):  # TrueType: text in the PDF can be searched and edited
        for kind in formats:
            path = stem.with_name(f"{stem.name}.{kind}")
            figure.savefig(path, dpi=200, facecolor="white", metadata=unstamped.get(kind))
            written.append(path)
    plt.close(figure)
    return written

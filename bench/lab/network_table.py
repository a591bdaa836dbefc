"""The network experiment as a table: step, communication that shows and that is hidden, bytes expected and counted."""

from collections.abc import Sequence

from rich.table import Table

from bench.lab.link import Link
from bench.lab.outlook import Point, sentence
from bench.stats import Estimate

MIB = 2**20
TITLES = (
    "hosts",
    "link",
    "engine",
    "step ms",
    "shows ms",
    "hidden ms",
    "expected MiB",
    "counted MiB",
    "of expected",
    "verdict",
)
NOTES = (
    "step: median over steps of the slowest rank, with its 95 % interval; shows: what the exchange adds to it; hidden: the",
    "time that the counted payload takes at the link's rate, less what shows (-: a link that is not shaped has no rate).",
    "expected and counted: bytes that one host sends in a step, derived from the setting and from the interface's counters,",
    "less 66 bytes of headers a packet; the host that sent most. What TCP sends again counts again: on a link that is not",
    "shaped, without delay, it does so a little too early.",
)


def cells(point: Point) -> list[str]:
    """One row."""
    return [
        f"{point.hosts}{'*' if point.shared_cores else ''}",
        str(Link(point.rate)),
        point.label,
        _interval(point.step),
        _interval(point.shows),
        "-" if point.hidden_s is None else f"{point.hidden_s * 1e3:.1f}",
        "-" if point.expected is None else f"{point.expected / MIB:.3f}",
        "-" if point.moved is None else f"{point.moved / MIB:.3f}",
        "-" if point.moved is None or not point.expected else f"{point.moved / point.expected:.3f}",
        point.verdict,
    ]


def _interval(seconds: Estimate | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds.median * 1e3:.1f} [{seconds.low * 1e3:.1f}, {seconds.high * 1e3:.1f}]"


def _foot(found: Sequence[Point]) -> list[str]:
    said = list(NOTES)
    if any(point.shared_cores for point in found):
        said.append("* more hosts than cores: they take turns, so no measure of scaling.")
    return said


def terminal(found: Sequence[Point]) -> Table:
    """For a console."""
    table = Table(box=None, padding=(0, 1), header_style="dim", caption=" ".join(_foot(found)), caption_justify="left")
    for title in TITLES:
        table.add_column(title, no_wrap=True, justify="left" if title in ("engine", "verdict") else "right")
    for point in found:
        table.add_row(*(cell.replace("[", "\\[") for cell in cells(point)))
    return table


def markdown(found: Sequence[Point], heading: str) -> str:
    """The same, with the sentences on which engine to use."""
    lines = [f"# {heading}", ""]
    lines += [f"- {sentence(found, hosts)}" for hosts in sorted({point.hosts for point in found})]
    lines += ["", f"| {' | '.join(TITLES)} |", f"|{'---|' * len(TITLES)}"]
    lines += [f"| {' | '.join(cells(point)).replace('*', chr(92) + '*')} |" for point in found]
    return "\n".join([*lines, "", *(line.replace("*", "\\*") for line in _foot(found))]) + "\n"

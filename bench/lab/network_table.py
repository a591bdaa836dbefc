"""The network experiment as a table: step, communication that shows and that is hidden, bytes expected and counted."""

from collections.abc import Mapping, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

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
    "ZeRO paper MiB",
    "expected MiB",
    "counted MiB",
    "of expected",
    "verdict",
)
KEYS = TITLES[:3]
NOTES = (
    "step: median over steps of the slowest rank, with its 95 % interval; shows: what the exchange adds to it; hidden: the",
    "time that the counted payload takes at the link's rate, less what shows (-: a link that is not shaped has no rate).",
    "expected and counted: bytes that one host sends in a step, derived from the setting and from the interface's counters,",
    "less 66 bytes of headers a packet; the host that sent most. What TCP sends again counts again: on a link that is not",
    "shaped, without delay, it does so a little too early. ZeRO paper: what its section 7 has a rank send, nothing frozen,",
    "one micro-batch; where it differs from what is expected, bench/wire.py says why.",
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
        "-" if point.paper is None else f"{point.paper / MIB:.3f}",
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


def terminal(found: Sequence[Point]) -> Group:
    """For a console: seconds first, then bytes, so that both fit into 80 characters."""
    rows = [dict(zip(TITLES, cells(point), strict=True)) for point in found]
    tables = [_columns(rows, (*KEYS, *TITLES[3:6])), _columns(rows, (*KEYS, *TITLES[6:]))]
    return Group(tables[0], "", tables[1], "", Text(" ".join(_foot(found)), style="dim italic"))


def _columns(rows: Sequence[Mapping[str, str]], titles: Sequence[str]) -> Table:
    made = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    for title in titles:
        width = max([len(row[title]) for row in rows], default=0)
        made.add_column(title, min_width=width, justify="left" if title in ("engine", "verdict") else "right")
    for row in rows:
        made.add_row(*(Text(row[title]) for title in titles))
    return made


def markdown(found: Sequence[Point], heading: str) -> str:
    """The same, with the sentences on which engine to use."""
    lines = [f"# {heading}", ""]
    lines += [f"- {sentence(found, hosts)}" for hosts in sorted({point.hosts for point in found})]
    lines += ["", f"| {' | '.join(TITLES)} |", f"|{'---|' * len(TITLES)}"]
    lines += [f"| {' | '.join(cells(point)).replace('*', chr(92) + '*')} |" for point in found]
    return "\n".join([*lines, "", *(line.replace("*", "\\*") for line in _foot(found))]) + "\n"

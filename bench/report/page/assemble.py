"""From groups of rows and their records to the page; how it looks is in page.html, section.html, style.css, page.js."""

import os
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined

from bench.derived import NOTHING, Stated
from bench.report import look, quality, scaling, table
from bench.report.page.figure import Record
from bench.report.page.raw import Shelf
from bench.report.page.scale import scales
from bench.report.page.section import gather, section
from bench.report.page.states import HEADINGS
from bench.report.rows import Group
from bench.report.verdicts import Verdicts

DRAWN = 20  # groups with figures: some 100 KB each; the others keep their sentences and tables


class PageError(ValueError):
    """There is nothing to show, or nowhere to write it; the message says what to type."""


def write(
    groups: Sequence[Group],
    records: Sequence[Record],
    path: Path,
    *,
    folder: str = "",
    found: Sequence[Verdicts] = (),
    stated: Stated = NOTHING,
) -> Path:
    """Write the page of `groups`, made of `records`, to `path` (replaced as a whole). Returns the path.

    `found`: the verdicts of each group, where they were computed.
    `folder`: where the records lie, as seen from the page; for those that are too many to be embedded.
    Raises PageError where there is no row, or the file can't be written.
    """
    text = render(groups, records, folder=folder, found=found, stated=stated)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise PageError(f"cannot write the page {path}: {error.strerror}; name another file with --html") from error
    return path


def render(
    groups: Sequence[Group],
    records: Sequence[Record],
    *,
    folder: str = "",
    found: Sequence[Verdicts] = (),
    stated: Stated = NOTHING,
) -> str:
    """The page as text. Raises PageError where there is no row."""
    if not any(group.rows for group in groups):
        raise PageError("no row to show; make records with: ringzero compare quick")
    told_of: Sequence[Verdicts | None] = found or [None] * len(groups)
    gathered = gather(groups, records)
    shelf = Shelf([entry for entries in gathered for entry in entries], folder)
    drawn = sorted(range(len(groups)), key=lambda index: -len(groups[index].rows))[:DRAWN]
    sections = [
        section(f"g{index + 1}", group, entries, shelf, index in drawn, told, stated)
        for index, (group, entries, told) in enumerate(zip(groups, gathered, told_of, strict=True))
    ]
    return _environment().get_template("page.html").render(
        sections=sections, shelf=shelf, dark=look.variables(True), light=look.variables(False), classes=look.classes(),
        headings=[heading.replace("\n", " ") for heading in table.HEADINGS], right=table.RIGHT,
        scales=scales(groups), scaling=scaling,
        caption=table.caption, detected_caption=quality.CAPTION,
        state_headings=HEADINGS,
        detected_headings=["engine", "ranks", *(heading.replace("\n", " ") for heading, _, _ in quality.COLUMNS)],
    )  # fmt: skip


@cache
def _environment() -> Environment:
    names = ("page.html", "section.html", "figures.html", "style.css", "page.js")
    texts = {name: (files("bench.report.page") / name).read_text(encoding="utf-8") for name in names}
    made: dict[str, Any] = {
        "autoescape": True,
        "undefined": StrictUndefined,
        "trim_blocks": True,
        "lstrip_blocks": True,
    }
    return Environment(loader=DictLoader(texts), **made)

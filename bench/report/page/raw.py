"""One click from a row: what was typed, the settings, and the record itself, as long as the page may grow."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from bench.report.page.figure import Entry, Record
from bench.report.rows import cause

EMBED_BYTES = 4 * 2**20  # of raw records in one page; what goes beyond is linked
LINKS = 200  # names of further records under one row


@dataclass(frozen=True)
class Run:
    """`text` is the record as JSON; None where the page had no room left, then `link` leads to its file."""

    name: str
    status: str
    text: str | None
    link: str


@dataclass(frozen=True)
class Detail:
    """`runs` of one row. `unnamed` counts those beyond LINKS. `settings` is None where the page has no room left."""

    command: str
    settings: str | None
    native: str | None
    causes: Sequence[str]
    runs: Sequence[Run]
    unnamed: int


class Shelf:
    """Hands out room for raw records: the first run of every row before the second of any."""

    def __init__(self, entries: Sequence[Entry], folder: str, limit: int = EMBED_BYTES) -> None:
        self.folder, self.left, self.embedded = folder, limit, 0
        self.total = sum(len(entry.done) + len(entry.lost) for entry in entries)
        self.texts: dict[int, str] = {}
        waiting = [[*entry.done, *entry.lost] for entry in entries]
        turn = 0
        while self.left > 0 and (present := [each[turn] for each in waiting if turn < len(each)]):
            for record in present:
                self._take(record)
            turn += 1

    def _take(self, record: Record) -> None:
        if self.left <= 0:
            return
        text = json.dumps(record, separators=(",", ":"), default=str)
        if len(text) <= self.left:
            self.texts[id(record)] = text
            self.embedded += 1
            self.left -= len(text)
        else:
            self.left = 0  # the rest is linked, so that which are here does not depend on their size

    def detail(self, entry: Entry) -> Detail:
        records = [*entry.done, *entry.lost]
        first = records[0] if records else {}
        roomy = id(first) in self.texts
        native = (first.get("engine") or {}).get("native") if roomy else None
        return Detail(
            command=_command(first.get("command")),
            settings=_pretty(first.get("config")) if roomy else None,
            native=None if native is None else _pretty(native),
            causes=[cause(record) for record in entry.lost],
            runs=[self._run(record) for record in records[:LINKS]],
            unnamed=max(0, len(records) - LINKS),
        )

    def _run(self, record: Record) -> Run:
        name = f"{record['run_id']}.json"
        folder = self.folder.rstrip("/") or "."  # never a name alone: it could read as a scheme
        return Run(name, str(record["status"]), self.texts.get(id(record)), f"{quote(folder)}/{quote(name, safe='')}")


def _command(words: Any) -> str:
    return shlex.join(str(word) for word in words) if isinstance(words, list | tuple) else str(words or "not recorded")


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, default=str)

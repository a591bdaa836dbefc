"""The HTML page says what the rows say, holds every record, asks the network for nothing, and is well formed."""

import itertools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bench.derived import NOTHING
from bench.report import costs, figures, look, page, scaling, table, verdicts
from bench.report.page import PageError, assemble, svg
from bench.report.page.raw import Shelf
from bench.report.page.section import gather
from bench.report.page.sentence import summary
from bench.report.rows import groups
from tests import made

SINGLE, DDP, RING = made.record("single"), made.record("ddp", 2, speed=1.6), made.record("ring", 2, speed=1.2)
OVER = made.changed(made.record("fsdp", 4, speed=5.0), "world/oversubscribed", True)
BAD = made.changed(made.record("horovod", 2, speed=9.0), "proof/1/losses/1/total", 9.0)
HOSTILE = "<script>alert('x')</script>\"&"
SPLIT = re.compile(r"(?<=</t[dh]>)(?=<t[dh])")  # between two cells of a line
EMPTY = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Reads a page: elements with their attributes and text, and every fault of nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[tuple[str, dict[str, Any]]] = []
        self.elements: list[dict[str, Any]] = []  # {"tag", "text", "within", **attributes}
        self.faults: list[str] = []
        self.live: list[dict[str, Any]] = []
        self.feed(text)
        self.close()
        self.faults += [f"<{each['tag']}> is never closed" for each in self.live]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if len(set(names)) != len(names):
            self.faults.append(f"an attribute twice in <{tag}>: {names}")
        element = {**dict(attrs), "tag": tag, "text": "", "within": [each["tag"] for each in self.live]}
        self.elements.append(element)
        if tag not in EMPTY:
            self.live.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append({**dict(attrs), "tag": tag, "text": "", "within": [each["tag"] for each in self.live]})

    def handle_endtag(self, tag: str) -> None:
        if not self.live or self.live.pop()["tag"] != tag:
            self.faults.append(f"</{tag}> closes something else, line {self.getpos()[0]}")

    def handle_data(self, data: str) -> None:
        for element in self.live:
            element["text"] += data

    def of(self, tag: str, **attributes: str) -> list[dict[str, Any]]:
        return [e for e in self.elements if e["tag"] == tag and all(e.get(k) == v for k, v in attributes.items())]

    @property
    def text(self) -> str:
        return " ".join(self.of("main")[0]["text"].split())


def rendered(*records: dict[str, Any], **more: Any) -> str:
    return assemble.render(groups(records), records, **more)


def read(*records: dict[str, Any], **more: Any) -> Page:
    return Page(rendered(*records, **more))


def told(*records: dict[str, Any]) -> str:
    """The summary of the first group as one text."""
    (entries, *_) = gather(groups(records), records)
    found = summary(entries)
    return " ".join([found.lead, *found.rest])


ALL = (SINGLE, DDP, RING, OVER, BAD, made.failed("zero-1", 2), made.changed(made.record("zero-3", 2), "proof", []))


@pytest.fixture(scope="module")
def whole() -> Page:
    return read(*ALL, made.record("single", training={"steps": 500}))


# --- the document


def test_the_page_is_well_formed_with_unique_ids_and_labels_that_exist(whole: Page) -> None:
    assert whole.faults == []
    idents = [each["id"] for each in whole.elements if "id" in each]
    assert len(idents) == len(set(idents)) > 20
    named = [i for e in whole.elements for i in (e.get("aria-labelledby") or "").split()]
    named += [e["href"][1:] for e in whole.of("a") if e["href"].startswith("#")]
    assert len(named) > 20
    assert set(named) <= set(idents)


def test_everything_that_is_used_or_looked_at_has_a_name(whole: Page) -> None:
    assert all(e["text"].strip() or e.get("aria-label") for e in whole.of("button"))
    assert all(e.get("scope") in ("col", "row") for e in whole.of("th"))
    assert all(e["text"] for e in whole.of("th", scope="row"))
    drawings = [e for e in whole.of("svg") if e.get("aria-hidden") != "true"]
    assert len(drawings) > 10
    assert all(e["role"] == "img" and e["aria-labelledby"] for e in drawings)
    assert whole.of("html")[0]["lang"] == "en"
    levels = [int(e["tag"][1]) for e in whole.elements if re.fullmatch("h[1-6]", e["tag"])]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_nothing_is_fetched(whole: Page) -> None:
    links = [e[name] for e in whole.elements for name in ("src", "href", "action", "srcset", "data") if e.get(name)]
    assert all(re.match(r"#|data:,$", link) for link in links)
    style = "".join(e["text"] for e in whole.of("style"))
    assert not re.search(r"url\(|@import|https?:", style)
    assert "fetch(" not in "".join(e["text"] for e in whole.of("script"))
    (policy,) = whole.of("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy["content"]


def test_headings_sort_by_buttons(whole: Page) -> None:
    heads = [e for e in whole.of("button") if "thead" in e["within"]]
    assert [e["text"] for e in heads[: len(table.HEADINGS)]] == [each.replace("\n", " ") for each in table.HEADINGS]


def test_the_same_records_make_the_same_page() -> None:
    assert rendered(*ALL) == rendered(*ALL)


def test_an_engine_looks_as_in_the_other_figures() -> None:
    assert figures.COLOURS is look.COLOURS
    shapes = [look.marker(label, 0, 0) for label in (*look.MARKERS, "unheard-of")]
    assert len(set(shapes)) == len(shapes)
    assert look.family("zero-2-offload") == "zero"
    assert look.family(HOSTILE) == "other"


def test_the_page_needs_no_matplotlib() -> None:
    code = "import sys, bench.report.page; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- what it says


def test_the_table_s_numbers_are_the_rows() -> None:
    (group,) = groups(ALL)
    shown = read(*ALL)
    lines = [e for e in shown.of("tr") if e.get("class")]
    assert len(lines) == len(group.rows)
    cells = [e["text"].strip() for e in shown.elements if e["tag"] in ("td", "th") and e.get("data-key") is not None]
    wanted = [text for row in group.rows for text in table.cells(row) if text != "-"]
    _, meant = costs.lines(group, verdicts.by_file(ALL), NOTHING)
    wanted += [text for line in meant for text in line if text != "-"]
    wanted += [text for each in scaling.told([group]) for line in each.lines for text in line if text != "-"]
    assert [cell.split(" ")[0] if cell.split(" ")[0] in table.STYLE else cell for cell in cells] == wanted
    keys = [float(e["data-key"]) for e in shown.of("td") if re.fullmatch(r"[\d.]+", e.get("data-key") or "")]
    assert [row.throughput.median for row in group.rows if row.throughput] == [k for k in keys if k in {
        row.throughput.median for row in group.rows if row.throughput}]  # fmt: skip


def test_every_record_is_in_the_page_as_it_is() -> None:
    shown = read(*ALL)
    kept = [json.loads(e["text"]) for e in shown.of("pre", **{"class": "json"})]
    assert sorted(kept, key=lambda r: r["run_id"]) == sorted(ALL, key=lambda r: r["run_id"])
    assert sum("python -m bench.run" in e["text"] for e in shown.of("pre")) == len(ALL)
    assert f"{len(ALL)} of {len(ALL)} records are in this page" in shown.text


def test_a_void_row_shows_where_it_parted_and_no_speed() -> None:
    shown = read(SINGLE, DDP, BAD)
    (line,) = shown.of("tr", **{"class": "void"})
    assert re.search(r"proof leg SGD, clip 0.5: total loss differs from single by \S+ at step 1", line["text"])
    (group,) = groups([SINGLE, DDP, BAD])
    assert group.rows[-1].throughput is None
    assert "void: proof leg SGD" in shown.of("svg", **{"aria-labelledby": "g1-f1-title"})[0]["text"]


def test_a_failed_row_shows_its_cause() -> None:
    shown = read(SINGLE, made.failed("ring", 2, "no route to rank 1"))
    assert "error, rank 1: no route to rank 1" in shown.of("tr", **{"class": "failed"})[0]["text"]
    assert "failed: error, rank 1: no route to rank 1" in shown.of("details", id="g1-r2")[0]["text"]


def test_hostile_words_stay_words() -> None:
    lost = made.failed("ring", 2, HOSTILE)
    odd = made.changed(made.record("ddp", 2), "engine/label", HOSTILE) | {"command": [HOSTILE, "</pre></main>"]}
    odd["run_id"] = HOSTILE
    odd["environment"]["machine"]["cpu"] = HOSTILE
    records = (made.changed(SINGLE, "environment/machine/cpu", HOSTILE), odd, lost)
    shown = read(*records)
    assert shown.faults == []
    assert len(shown.of("script")) == 1
    assert HOSTILE in shown.text
    assert odd in [json.loads(e["text"]) for e in shown.of("pre", **{"class": "json"})]


def test_what_was_not_measured_has_its_reason() -> None:
    silent = DDP | {"traffic": {"sent_bytes": None, "sent_bytes_reason": "ddp does not tell"}}
    shown = read(SINGLE, silent)
    lines = [e["text"].split("|") for e in Page(SPLIT.sub("|", rendered(SINGLE, silent))).of("tr")]
    assert ["traffic: sent bytes", "ddp does not tell", "ddp on 2 ranks"] in lines
    assert [
        "what the trained model detects",
        "the run was not asked to evaluate; type: --evaluate N",
        "every row",
    ] in lines
    assert "no row here counted what it sent" in shown.text
    sent = DDP | {"traffic": {"sent_bytes": [3 * 2**20, 2**20]}}
    drawing = read(SINGLE, sent).of("svg", **{"aria-labelledby": "g1-f10-title"})[0]
    assert "3.00" in drawing["text"]
    assert drawing["text"].count("not measured") == 1


def test_warnings_come_from_the_records() -> None:
    dirty = made.changed(DDP, "environment/dirty", True) | {"warnings": [HOSTILE]}
    text = read(SINGLE, dirty, OVER).text
    assert "the code had changes that no commit holds (1 of 3 runs)" in text
    assert f"{HOSTILE} (1 of 3 runs)" in text
    assert "more ranks than cores or GPUs: no measure of scaling (1 of 3 runs)" in text
    other = made.changed(DDP, "environment/commit", "fffffff")
    assert "the runs differ in commit: abc1234def | fffffff" in read(SINGLE, other).text


def test_memory_is_stacked_for_each_rank() -> None:
    held = {"peak_bytes": 100 * 2**20, "parameters": 30 * 2**20, "gradients": 20 * 2**20, "optimizer": None}
    record = made.changed(made.changed(DDP, "ranks/0/memory", held), "ranks/1/memory", held)
    shown = read(SINGLE, record)
    titles = [e["text"] for e in shown.of("title") if "ddp on 2 ranks" in e["text"]]
    assert titles.count("ddp on 2 ranks, parameters: 30.0 MiB") == 2
    assert titles.count("ddp on 2 ranks, other: 50.0 MiB") == 2


def test_memory_is_split_at_the_moment_of_its_peak_where_that_was_seen() -> None:
    held = {
        "peak_bytes": 100 * 2**20,
        "parameters": 30 * 2**20,
        "at_peak": {"parameters": 20 * 2**20, "allocator": 70 * 2**20},
    }
    record = made.changed(made.changed(DDP, "ranks/0/memory", held), "ranks/1/memory", held)
    titles = [e["text"] for e in read(SINGLE, record).of("title")]
    for said in ("parameters: 20.0", "allocator: 70.0", "other: 10.0"):
        assert titles.count(f"ddp on 2 ranks, {said} MiB") == 2


def test_states_stand_beside_what_is_derived_and_the_papers_figure() -> None:
    known = dict.fromkeys(("parameters", "gradients", "optimizer"), 2**20)
    held = {
        "peak_bytes": 9 * 2**20,
        **known,
        "derived": known | {"gradients": 2**20 - 8},
        "paper": known | {"optimizer": 2**19},
    }
    record = made.changed(made.changed(DDP, "ranks/0/memory", held), "ranks/1/memory", held)
    text = read(SINGLE, record).text
    assert "held, derived, and the ZeRO paper" in text
    for said in ("no: +8 bytes", "0.500", "nothing is sharded"):
        assert said in text
    assert "held, derived, and the ZeRO paper" not in read(SINGLE, DDP).text


def test_a_section_that_paper_leaves_out_takes_its_heading_with_it() -> None:
    known = dict.fromkeys(("parameters", "gradients", "optimizer"), 2**20)
    held = {"peak_bytes": 9 * 2**20, **known, "derived": known, "paper": known}
    shown = read(SINGLE, made.changed(made.changed(DDP, "ranks/0/memory", held), "ranks/1/memory", held))
    (heading,) = (each for each in shown.of("h3") if "held, derived" in each["text"])
    (details,) = (each for each in shown.of("details") if "Bytes of the largest rank" in each["text"])
    assert heading["class"] == details["class"] == "screen"
    assert ".screen" in "".join(e["text"] for e in shown.of("style")).partition("@media print")[2]


def test_a_bound_beyond_all_bars_stays_inside_its_drawing() -> None:
    """Halved gradients: less is sent than whole ones would need at the least."""
    sent = {"traffic": {"sent_bytes": [2**20] * 2}, "workload": {"cost": {"gradient_bytes": 4 * 2**20}}}
    shown = read(SINGLE, DDP | sent)
    places = [float(each[end]) for each in shown.of("line", **{"class": "whisker"}) for end in ("x1", "x2")]
    assert max(places) <= svg.WIDTH


def test_an_address_with_a_stray_percent_sign_stops_no_script(whole: Page) -> None:
    assert "decodeURIComponent" not in "".join(e["text"] for e in whole.of("script"))  # it throws for #%zz
    assert all(re.fullmatch(r"[\w-]+", e["id"]) for e in whole.elements if "id" in e), "else links would need decoding"


# --- the sentence


def test_phases_are_stacked_and_exposed_communication_has_its_share() -> None:
    single, ring = SINGLE, made.record("ring", 2) | made.perturbed(2)
    text = read(single, ring).text
    assert "ring on 2 ranks, communication: 50.00 ms" in rendered(single, ring)
    assert "50.0 ms, 11 % (" in text
    assert "no run took steps for it" in read(single).text


def test_a_gpu_that_was_short_of_memory_is_marked() -> None:
    ring = made.record("ring", 2)
    ring["ranks"][1]["memory"]["cuda_allocator"] = {"retries": 1, "thrashing": True}
    assert "short of GPU memory" in read(SINGLE, ring).text
    ring["ranks"][1]["memory"]["cuda_allocator"]["thrashing"] = False
    assert "short of GPU memory" not in read(SINGLE, ring).text


def test_the_sentence_names_the_highest_verified_row() -> None:
    (group,) = groups([SINGLE, DDP, RING])
    best = next(row for row in group.rows if row.label == "ddp")
    text = told(SINGLE, DDP, RING)
    assert text.startswith(
        f"Highest throughput among verified rows: ddp on 2 ranks, {table.number(best.throughput.median)} "
    )
    assert f"{best.vs_single:.2f} times one plain process; memory 286 MiB a rank at most." in text
    ring = next(row for row in group.rows if row.label == "ring")
    more = 100 * (best.throughput.median / ring.throughput.median - 1)
    assert f"ring on 2 ranks with {table.number(ring.throughput.median)} samples/s: ddp did {more:.0f} % more." in text
    assert "One run a row" in text


def test_overlapping_intervals_show_no_difference() -> None:
    text = told(SINGLE, DDP, made.record("fsdp", 2, speed=1.6, memory_mb=100))
    assert re.search(r"No difference shown between it and (ddp|fsdp) on 2 ranks", text)
    assert "Of these, fsdp on 2 ranks takes the least memory: 95 MiB a rank." in text
    assert "no difference shown from one plain process" in told(SINGLE, made.record("ddp", 2, speed=1.0))


def test_rows_that_make_no_claim_are_left_out_and_named() -> None:
    text = told(*ALL)
    assert text.startswith("Highest throughput among verified rows: ddp on 2 ranks")
    for said in ("1 void (they computed something else): horovod on 2 ranks", "1 failed: zero-1 on 2 ranks", "1 unproven",
                 "1 oversubscribed (more ranks than cores or GPUs): fsdp on 4 ranks"):  # fmt: skip
        assert said in text
    assert told(SINGLE, BAD).startswith("Nothing can be called highest")


def test_more_ranks_on_the_same_cores_are_said() -> None:
    two = made.changed(SINGLE, "ranks/0/threads", 2)
    said = "One plain process used 2 threads, 2 ranks together 2"
    assert said in told(two, DDP)
    assert said not in told(SINGLE, DDP)


def test_the_rank_test_is_heard() -> None:
    records = [made.record(label, 2, repeat=r, speed=s) for r in range(5) for label, s in (("ddp", 1.0), ("ring", 2.0))]
    made_groups = groups([SINGLE, *records])
    found = [verdicts.compare(each, verdicts.by_file([SINGLE, *records])) for each in made_groups]
    shown = read(SINGLE, *records, found=found)
    assert "What these numbers allow to be said" in shown.text
    assert "ddp : ring" in shown.text
    assert "The next below it, by rank test and intervals, is ddp on 2 ranks" in shown.text
    assert "The next below it, by intervals alone (no rank test, so no proof), is ddp" in told(SINGLE, *records)
    near = [made.record(label, 2, repeat=r, speed=s) for r in range(5) for label, s in (("ddp", 1.0), ("ring", 1.005))]
    (group,) = groups([SINGLE, *near])
    (test,) = [verdicts.compare(group, verdicts.by_file([SINGLE, *near]))]
    assert "rank test and 95 % intervals do not tell them apart" in read(SINGLE, *near, found=[test]).text
    alone = [made.record("zero-1", 1, repeat=r, speed=1.007) for r in range(5)]
    (group,) = groups([SINGLE, *near, *alone])
    (test,) = [verdicts.compare(group, verdicts.by_file([SINGLE, *near, *alone]))]
    across = read(SINGLE, *near, *alone, found=[test]).text
    assert "their 95 % intervals overlap" in across, "no rank test was made between rank counts"
    assert all(" ".join(line.split()) in shown.text for line in verdicts.summary(found[0]))


# --- limits and errors


def test_records_beyond_the_limit_are_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    records = [SINGLE, *(made.record("ddp", 2, repeat=repeat) for repeat in range(3))]
    size = len(json.dumps(records[0], separators=(",", ":"))) + len(json.dumps(records[1], separators=(",", ":")))
    monkeypatch.setattr(Shelf.__init__, "__defaults__", (size + 10,))
    shown = read(*records, folder="../my results")
    kept = [json.loads(e["text"])["run_id"] for e in shown.of("pre", **{"class": "json"})]
    assert kept == [SINGLE["run_id"], records[1]["run_id"]]  # every row's first run
    assert [e["href"] for e in shown.of("a") if e["text"].endswith(".json")] == [
        f"../my%20results/{record['run_id']}.json" for record in records[2:]
    ]
    assert "2 of 4 records are in this page" in shown.text


def test_a_link_never_becomes_a_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shelf.__init__, "__defaults__", (0,))
    odd = SINGLE | {"run_id": "javascript:alert(1)//"}
    (link,) = [e["href"] for e in read(odd).of("a") if e["text"].endswith(".json")]
    assert link == "./javascript%3Aalert%281%29%2F%2F.json"


def test_many_steps_and_many_groups_are_drawn_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    long = made.record("single", training={"steps": 500})
    shown = read(long)
    assert "drawn as a histogram of all of them" in shown.text
    assert not [e for e in shown.of("path") if (e.get("class") or "").startswith("dots")]
    assert [e for e in read(SINGLE).of("path") if (e.get("class") or "").startswith("dots")]
    monkeypatch.setattr(assemble, "DRAWN", 1)
    assert len(read(long, SINGLE).of("figure")) == 11


def test_nothing_to_show_is_an_error_that_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(PageError, match="ringzero compare quick"):
        page.write([], [], tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "page.html").mkdir()
    with pytest.raises(PageError, match=r"cannot write the page .*page\.html: .*; name another file with --html"):
        page.write(groups([SINGLE]), [SINGLE], tmp_path / "page.html")
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]


def test_write_makes_the_folder_and_returns_the_path(tmp_path: Path) -> None:
    path = page.write(groups([SINGLE, DDP]), [SINGLE, DDP], tmp_path / "new" / "page.html")
    assert path.read_text().startswith("<!doctype html>")
    assert [each.name for each in path.parent.iterdir()] == ["page.html"]


# --- drawing


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0, 36, [0, 10, 20, 30]), (0, 1.04, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (5, 5, [5]), (9.5, 11.4, [9.5, 10, 10.5, 11])],
)
def test_ticks_are_round(low: float, high: float, wanted: list[float]) -> None:
    assert svg.ticks(low, high) == pytest.approx(wanted)
    assert len({svg.label(tick) for tick in svg.ticks(low, high)}) == len(wanted)


def test_labels_keep_apart_and_inside() -> None:
    ordered = sorted(svg.apart([50, 98, 99, 99], 10, 0, 100))
    assert all(after - before >= 10 - 1e-9 for before, after in itertools.pairwise(ordered))
    assert 0 <= ordered[0] <= ordered[-1] <= 100


def test_outliers_and_what_could_have_been_found_stand_on_the_page() -> None:
    """Kept, and counted run by run: a run as a whole that was slower is no outlier."""
    runs = [made.record("single")]
    for repeat in range(5):
        for label in ("ddp", "ring"):
            run, slow = made.record(label, 2, repeat=repeat), 2.0 if repeat == 4 else 1.0
            run["run_id"], run["started"] = (
                f"{repeat}{label}",
                f"2026-01-02T03:{repeat:02d}:{label == 'ring':02d}+00:00",
            )
            for rank in run["ranks"]:
                rank["step_s"] = [slow * (1.0 + step / 100) for step in range(9)] + [9.0 if repeat == 0 else slow]
            runs.append(run)
    made_of = groups(runs)
    found = [verdicts.compare(group, verdicts.by_file(runs)) for group in made_of]
    text = rendered(*runs, found=found)
    assert re.search(r"[2-9] of 110 steps lie outside their run&#39;s Tukey fences; they are kept", text)
    assert "Minimum detectable difference (80% power" in text
    assert ">50, 1 out<" in text

"""Tables and figures say what the records say: units, the slowest rank, and nothing about a run that is void."""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from bench import comparison
from bench.__main__ import main
from bench.comparison import Comparison
from bench.report import figures, load, table
from bench.report.load import Unreadable
from bench.report.rows import groups
from tests import made

SINGLE, DDP, RING = made.record("single"), made.record("ddp", 2, speed=1.6), made.record("ring", 2, speed=1.5)


def row(label: str, *records):
    return next(each for group in groups(records) for each in group.rows if each.label == label)


def text_of(*records, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    for group in groups(records):
        console.print(table.terminal(group))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_memory_is_the_largest_rank_s_and_losses_are_the_last() -> None:
    record = made.changed(DDP, "ranks/1/memory/peak_bytes", 500_000_000)
    assert row("ddp", SINGLE, record).memory_bytes == 500_000_000
    assert row("ddp", SINGLE, record).final_loss == record["losses"][-1]["total"]


def test_memory_that_a_rank_did_not_measure_is_none() -> None:
    record = made.changed(DDP, "ranks/1/memory", None)
    assert row("ddp", SINGLE, record).memory_bytes is None


def test_speed_is_compared_with_the_plain_process() -> None:
    single, ddp = row("single", SINGLE, DDP), row("ddp", SINGLE, DDP)
    assert single.vs_single == 1.0
    assert ddp.vs_single == pytest.approx(ddp.throughput.median / single.throughput.median)
    assert row("ddp", DDP).vs_single is None  # nothing to compare with


def test_repeats_are_one_row() -> None:
    made_rows = groups([SINGLE, *(made.record("ddp", 2, repeat=repeat) for repeat in range(3))])[0].rows
    assert [(each.label, len(each.files)) for each in made_rows] == [("single", 1), ("ddp", 3)]


def test_the_worst_run_decides_the_verdict_and_a_void_row_has_no_speed() -> None:
    bad = made.changed(made.record("ddp", 2, repeat=1), "skipped_steps", 1)
    made_row = row("ddp", SINGLE, DDP, bad)
    assert made_row.verdict.status == "void"
    assert made_row.throughput is made_row.step_s is made_row.vs_single is None


def test_experiments_machines_and_devices_have_tables_of_their_own() -> None:
    longer = made.record("ddp", 2, training={"steps": 20})
    elsewhere = made.changed(DDP, "environment/machine/cpu", "Another CPU")
    assert len(groups([SINGLE, DDP])) == 1
    assert len(groups([SINGLE, DDP, longer])) == 2
    assert len(groups([SINGLE, DDP, elsewhere])) == 2
    assert len(groups([SINGLE, DDP, made.changed(DDP, "world/device", "cuda")])) == 2


def test_a_failed_run_is_in_the_table_of_its_experiment() -> None:
    lost = made.changed(made.failed("ring"), "environment", None)  # ended before it knew its machine
    (group,) = groups([SINGLE, lost])
    assert [each.label for each in group.rows] == ["single", "ring"]
    assert group.rows[1].verdict is None
    text = text_of(SINGLE, lost)
    assert re.search(r"ring +2 +(- +){6}failed", text)
    assert "ring x2 failed: error, rank 1: no route to rank 1" in text


def test_some_failed_repeats_are_told() -> None:
    text = text_of(SINGLE, DDP, made.failed("ddp"))
    assert "ddp x2 verified: 1 of 2 runs failed: error, rank 1" in text


def test_the_table_fits_80_columns_and_says_what_it_means() -> None:
    over = made.changed(made.record("zero-2-offload", 4), "world/oversubscribed", True)
    text = text_of(SINGLE, DDP, over)
    assert max(map(len, text.splitlines())) <= 80
    assert "zero-2-offload" in text
    assert " 4*" in text
    words = " ".join(text.split())
    for said in (
        "8 samples of the global batch",
        "slowest rank",
        "bootstrap",
        "largest rank's peak",
        "* more ranks than cores",
        "one plain process",
        "clipping off and on",
    ):
        assert said in words


def test_rows_go_by_ranks_then_engine_never_by_speed() -> None:
    records = [
        made.record("ring", 2, speed=9),
        made.record("ddp", 2),
        made.record("ring", 1),
        SINGLE,
        made.record("zero-1", 2),
    ]
    assert [(each.label, each.ranks) for each in groups(records)[0].rows] == [
        ("single", 1),
        ("ring", 1),
        ("ddp", 2),
        ("zero-1", 2),
        ("ring", 2),
    ]


def test_markdown_holds_the_same_cells_and_links_each_record() -> None:
    bad = made.changed(RING, "proof/1/losses/0/total", 9.0)
    records = [SINGLE, DDP, made.record("ddp", 2, repeat=1), bad]
    text = table.markdown(groups(records), folder="results")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert f"[ddp](results/{DDP['run_id']}.json) [2](results/" in text
    assert "*verified*" in text
    assert "*void*: proof leg SGD, clip 0.5: total loss differs" in text
    ddp = next(each for each in groups(records)[0].rows if each.label == "ddp")
    assert all(f" {cell} " in text for cell in table.cells(ddp)[1:-1])


@pytest.mark.parametrize(("value", "text"), [(9.964, "9.96"), (20.34, "20.3"), (395.4, "395"), (12345.6, "12,346")])
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert table.number(value) == text


def test_the_figure_names_every_engine_and_marks_what_is_not_to_be_believed(tmp_path: Path) -> None:
    records = [
        SINGLE,
        DDP,
        made.changed(RING, "skipped_steps", 3),
        made.changed(made.record("fsdp", 2), "proof", []),
        made.changed(made.record("ddp", 4), "world/oversubscribed", True),
        made.failed("horovod"),
    ]
    paths = figures.write(groups(records), tmp_path / "quick")
    assert [path.name for path in paths] == ["quick.png", "quick.svg"]
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    drawn = re.sub(r"<[^>]+>", " ", paths[1].read_text())
    for said in (
        "single",
        "ddp *",
        "ring",
        "1 rank",
        "2 ranks",
        "4 ranks",
        "void: 3 optimizer steps were skipped",
        "unproven",
        "failed: error, rank 1",
        "Made-up CPU",
        "2026-01-02",
        "commit abc1234",
        "tiny on textures",
        "samples/s",
    ):
        assert said in drawn


def test_the_same_records_draw_the_same_file(tmp_path: Path) -> None:
    one, two = (figures.write(groups([SINGLE, DDP]), tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]


def test_two_experiments_are_two_figures(tmp_path: Path) -> None:
    paths = figures.write(groups([SINGLE, made.record("single", training={"steps": 20})]), tmp_path / "all")
    assert [path.name for path in paths] == ["all.png", "all.svg", "all-2.png", "all-2.svg"]


BROKEN = {
    "half written": ('{"schema": 1, "run_id', "not whole JSON"),
    "empty": ("", "not whole JSON"),
    "no record": ("[1, 2]", "no RingZero record"),
    "unknown schema": (json.dumps(SINGLE | {"schema": 99}), "schema 99, this version reads 1"),
    "fields gone": (json.dumps({"schema": 1, "status": "done"}), "lacks run_id"),
}


@pytest.mark.parametrize(("content", "message"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_no_record_is_named_with_what_to_do(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "bad.json").write_text(content)
    made.write(tmp_path, SINGLE)
    with pytest.raises(Unreadable, match=rf"bad\.json.*{message}"):
        load.read(tmp_path / "bad.json")
    loaded = load.load(tmp_path)
    assert [record["run_id"] for record in loaded.records] == [SINGLE["run_id"]]
    assert [path.name for path, _ in loaded.unreadable] == ["bad.json"]


def remembered(folder: Path, *records: dict) -> Comparison:
    kept = Comparison(
        name="20260102T030405Z_quick",
        matrix={"name": "quick"},
        seed=1,
        started="s",
        order=[],
        unavailable={},
        records=made.write(folder, *records),
    )
    kept.write(folder)
    return kept


def test_report_shows_the_latest_comparison(tmp_path: Path, capsys) -> None:
    made.write(tmp_path, made.record("fsdp", 2))  # in the folder, not in the comparison
    remembered(tmp_path, SINGLE, DDP)
    assert main(["report", "--results", str(tmp_path), "--markdown", str(tmp_path / "t.md")]) == 0
    text = capsys.readouterr().out
    assert "ddp" in text
    assert "fsdp" not in text
    assert f"[ddp]({DDP['run_id']}.json)" in (tmp_path / "t.md").read_text()
    assert main(["report", "--all", "--results", str(tmp_path)]) == 0
    assert "fsdp" in capsys.readouterr().out


def test_a_folder_stands_for_its_latest_comparison_or_for_all_runs_started_by_hand(tmp_path: Path, capsys) -> None:
    made.write(tmp_path, SINGLE, made.record("fsdp", 2))
    for words in ([str(tmp_path)], ["--results", str(tmp_path)]):  # no comparison there
        assert main(["report", *words, "--markdown", str(tmp_path / "t.md")]) == 0
        assert "fsdp" in capsys.readouterr().out
        assert f"]({SINGLE['run_id']}.json)" in (tmp_path / "t.md").read_text()
    assert main(["plot", "overview", str(tmp_path), "--format", "png"]) == 0
    assert (tmp_path / "all.png").exists()
    capsys.readouterr()
    remembered(tmp_path, SINGLE, DDP)
    assert main(["report", f"{tmp_path}/"]) == 0
    text = capsys.readouterr().out
    assert "ddp" in text
    assert "fsdp" not in text


def test_report_tells_what_it_could_not_read(tmp_path: Path, capsys) -> None:
    kept = remembered(tmp_path, SINGLE, DDP)
    (tmp_path / kept.records[1]).unlink()
    assert main(["report", "--results", str(tmp_path)]) == 1
    assert f"{kept.records[1]} is missing" in capsys.readouterr().err


def test_nothing_to_report_says_what_to_type(tmp_path: Path, capsys) -> None:
    assert main(["report", "--results", str(tmp_path)]) == 2
    assert main(["report", "--results", str(tmp_path / "none"), "--all"]) == 2
    assert capsys.readouterr().err.count("ringzero compare quick") == 2


def test_plot_writes_beside_the_records_or_where_it_is_told(tmp_path: Path, capsys) -> None:
    kept = remembered(tmp_path, SINGLE, DDP)
    assert main(["plot", "--results", str(tmp_path)]) == 0
    assert (tmp_path / f"{kept.name}.png").exists()
    assert (
        main(["plot", "overview", kept.name, "--results", str(tmp_path), "--output", str(tmp_path / "mine.png")]) == 0
    )
    assert (tmp_path / "mine.svg").exists()
    assert comparison.names(tmp_path) == [kept.name]

"""A comparison goes on after a failure, stops cleanly, remembers what it did, and says whether it may be believed."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from backends.build.installed import Installed
from bench import announce, comparison, launch, launchers
from bench import compare as comparing
from bench.__main__ import main
from bench.comparison import Comparison, ComparisonError
from bench.config import RunConfig
from bench.launchers import LaunchFailed
from bench.matrix import Matrix
from bench.report.live import Filling, Lines, clock, view
from tests import made

MATRIX = Matrix(name="m", engines=["single", "ddp", "ring"], ranks=[1, 2], repeats=2, estimate_s=10)


class Runner:
    """Stands in for launch.run: writes a made-up record; `spoil` may change it, or raise."""

    def __init__(
        self, results: Path, spoil: Callable[[dict[str, Any]], dict[str, Any]] = lambda record: record
    ) -> None:
        self.results, self.spoil, self.runs = results, spoil, 0

    def __call__(self, config: RunConfig, ranks: int, place: str = "", **_: Any) -> Path:
        record = made.record(config.engine.label, ranks, repeat=self.runs)
        self.runs += 1
        return self.results / made.write(self.results, self.spoil(record))[0]


def taken(results: Path, run: Runner) -> tuple[Comparison, list[dict[str, Any]], str]:
    """A whole comparison; its output as text."""
    text = io.StringIO()
    plan = MATRIX.plan(1)
    done, records = comparing.compare(
        MATRIX, plan, run, results, Lines(plan, Console(file=text, width=200)), seed=1, missing={}
    )
    return done, records, text.getvalue()


def test_every_run_of_the_plan_is_taken_in_its_order(tmp_path: Path) -> None:
    done, records, text = taken(tmp_path, Runner(tmp_path))
    plan = MATRIX.plan(1)
    assert [(record["engine"]["label"], record["world"]["size"]) for record in records] == [
        (c.label, c.ranks) for c in plan
    ]
    assert done.ended == "complete"
    assert comparing.good(records)
    assert text.count("verified") == len(plan) - 1
    assert f"[{len(plan)}/{len(plan)}]" in text


def test_it_is_remembered_and_found_again(tmp_path: Path) -> None:
    done, records, _ = taken(tmp_path, Runner(tmp_path))
    kept = comparison.latest(tmp_path)
    assert kept == done
    assert kept.records == [f"{record['run_id']}.json" for record in records]
    assert (kept.seed, kept.matrix["engines"], kept.order[0]) == (1, ["single", "ddp", "ring"], "single x1 #1")


def test_a_failed_run_is_a_row_and_the_comparison_goes_on(tmp_path: Path) -> None:
    def spoil(record: dict[str, Any]) -> dict[str, Any]:
        return made.failed("ring", record["world"]["size"]) if record["engine"]["label"] == "ring" else record

    done, records, text = taken(tmp_path, Runner(tmp_path, spoil))
    assert len(records) == len(MATRIX.cells())
    assert done.ended == "complete"
    assert "ring x2 failed, - samples/s" in text
    assert "error, rank 1: no route to rank 1" in text
    assert not comparing.good(records)


def test_a_void_run_has_no_speed_and_is_not_good(tmp_path: Path) -> None:
    def spoil(record: dict[str, Any]) -> dict[str, Any]:
        return made.changed(record, "proof/0/losses/1/total", 9.0) if record["engine"]["label"] == "ddp" else record

    _, records, text = taken(tmp_path, Runner(tmp_path, spoil))
    assert re.search(r"ddp x2 void, - samples/s, \d+ s: not equivalent: ", text)
    assert not comparing.good(records)
    voids = sum(record["engine"]["label"] == "ddp" for record in records)
    assert announce.causes(records) == {"not equivalent": voids}
    broken = made.failed("ring", 2) | {"experiment": records[0]["experiment"]}
    assert announce.causes([*records, broken]) == {"not equivalent": voids, "error": 1}


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    class Stopped(Runner):
        def __call__(self, config: RunConfig, ranks: int, place: str = "", **_: Any) -> Path:
            if self.runs == 3:
                raise KeyboardInterrupt
            return super().__call__(config, ranks, place)

    done, records, _ = taken(tmp_path, Stopped(tmp_path))
    assert done.ended == "interrupted"
    assert done.finished is not None
    assert len(records) == 3 == len(comparison.latest(tmp_path).records)


def test_it_is_on_the_disk_after_each_run(tmp_path: Path) -> None:
    class Peeking(Runner):
        def __call__(self, config: RunConfig, ranks: int, place: str = "", **_: Any) -> Path:
            assert len(comparison.latest(tmp_path).records) == self.runs
            assert comparison.latest(tmp_path).ended == "running"
            return super().__call__(config, ranks, place)

    taken(tmp_path, Peeking(tmp_path))


def test_engines_that_are_not_installed_are_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        launchers, "unavailable", lambda config: "no MPI here" if config.engine.backend == "ring" else None
    )
    plan, missing = comparing.available(MATRIX.plan(1))
    assert missing == {"ring": "no MPI here"}
    assert {cell.label for cell in plan} == {"single", "ddp"}


def test_without_the_reference_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "unavailable", lambda config: "no torch here")
    with pytest.raises(LaunchFailed, match="no torch here"):
        comparing.available(MATRIX.plan(1))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, Runner]]:
    """`ringzero compare` with made-up runs, of a small matrix, into tmp_path."""
    monkeypatch.setattr(
        launchers,
        "unavailable",
        lambda config: "type: pip install '.[horovod]'" if config.engine.backend == "horovod" else None,
    )
    small = tmp_path / "small.toml"
    small.write_text('engines = ["single", "ddp", "horovod"]\nabout = "a test"\nranks = [2]\nestimate_s = 30\n')

    def typed(
        *flags: str, spoil: Callable[[dict[str, Any]], dict[str, Any]] = lambda record: record
    ) -> tuple[int, Runner]:
        run = Runner(tmp_path, spoil)
        monkeypatch.setattr(launch, "run", run)
        return main(["compare", str(small), "--results", str(tmp_path), "--seed", "5", *flags]), run

    return typed


def test_the_command_shows_plan_table_figure_and_how_to_do_it_again(tmp_path: Path, command, capsys) -> None:
    code, run = command("--repeats", "2")
    text = capsys.readouterr().out
    assert (code, run.runs) == (0, 4)
    assert "4 runs, about 2:00 minutes at 30 s a run" in text
    assert "seed 5" in text
    assert "horovod is left out: type: pip install '.[horovod]'" in text
    assert "samples/s" in text
    assert f"ringzero compare {tmp_path}/small.toml --seed 5 --repeats 2 --results {tmp_path}" in text
    assert len(list(tmp_path.glob("*_small.png"))) == len(list(tmp_path.glob("*_small.svg"))) == 1
    page = next(tmp_path.glob("*_small.html")).read_text()
    assert "Engines compared" in page


@pytest.mark.parametrize(("count", "device", "said"), [(1, "cpu", "every run is on the CPU: 1 GPU here, at most 2 ranks"),
                                                       (2, "cuda", "every run is on GPUs: 2 GPUs here")])  # fmt: skip
def test_a_comparison_is_on_one_device_and_says_on_which(count, device, said, command, capsys, monkeypatch) -> None:
    monkeypatch.setattr("bench.gpus.visible", lambda: count)
    assert command("--dry-run")[0] == 0
    text = capsys.readouterr().out
    assert said in text
    assert text.count(f"--device {device}") == 2


def test_horovod_without_nccl_is_left_out_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def built(nccl: bool) -> Installed:
        return Installed(version="0.28.1", torch="2.13.0", gloo=True, mpi=True, nccl=nccl, cuda=nccl)

    chosen = Matrix(name="m", engines=["single", "horovod"], ranks=[1, 2])
    monkeypatch.setattr(launchers, "unavailable", lambda config: None)
    monkeypatch.setattr("backends.build.installed.probe", lambda: (built(nccl=False), ""))
    assert comparing.available(chosen.plan(1))[1] == {}
    left, missing = comparing.available(chosen.on_one_device(2, 2).plan(1))
    assert {cell.label for cell in left} == {"single"}
    assert "built without NCCL" in missing["horovod"]
    monkeypatch.setattr("backends.build.installed.probe", lambda: (built(nccl=True), ""))
    assert comparing.available(chosen.on_one_device(2, 2).plan(1))[1] == {}


def test_the_exit_code_says_whether_all_is_verified(command) -> None:
    assert (
        command(
            spoil=lambda record: made.changed(record, "skipped_steps", 1 if record["engine"]["label"] == "ddp" else 0)
        )[0]
        == 1
    )


def test_ctrl_c_exits_as_a_shell_expects(command) -> None:
    def stop(record: dict[str, Any]) -> dict[str, Any]:
        if record["engine"]["label"] == "ddp":
            raise KeyboardInterrupt
        return record

    assert command(spoil=stop)[0] == 130


def test_a_dry_run_shows_commands_and_runs_nothing(command, capsys) -> None:
    code, run = command("--dry-run")
    assert (code, run.runs) == (0, 0)
    text = capsys.readouterr().out
    assert "-m bench.run --backend single" in text
    assert "torchrun --nproc-per-node 2" in text


def test_a_terminal_gets_a_table_that_fills(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    plan = MATRIX.plan(1)
    shown = view(plan, console)
    assert isinstance(shown, Filling)
    assert isinstance(view(plan, Console(file=io.StringIO())), Lines)
    with shown:
        shown.started(0, 125.0)
        console.print(shown.table())
        record = made.record("single")
        shown.ended(0, record, comparing.verdict_of(record, [record]), 3.0)
        console.print(shown.table())
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "0 of 10 runs, about 2:0" in text
    assert "running" in text
    assert "1 of 10 runs" in text
    assert "reference" in text


def test_the_pairs_of_a_plan_are_those_at_one_rank_count() -> None:
    plan = Matrix(name="m", engines=["single", "ddp", "ring"], ranks=[1, 2], repeats=3).cells()
    assert announce.paired(plan) == 3 + 1  # single, ddp, ring on one rank; ddp, ring on two
    assert announce.paired([]) == 0


def test_minutes_and_seconds() -> None:
    assert [clock(seconds) for seconds in (0, 9.9, 75, 3600)] == ["0:00", "0:09", "1:15", "60:00"]


def test_a_comparison_that_can_t_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ComparisonError, match=r"no comparison in .*ringzero compare quick"):
        comparison.latest(tmp_path)
    path = tmp_path / f"a{comparison.SUFFIX}"
    path.write_text('{"schema": 1, "na')
    with pytest.raises(ComparisonError, match="not whole JSON"):
        comparison.latest(tmp_path)
    path.write_text(json.dumps({"schema": 99}))
    with pytest.raises(ComparisonError, match="schema 99, this version reads 1"):
        comparison.latest(tmp_path)
    with pytest.raises(ComparisonError, match="there are: a"):
        comparison.read(tmp_path / f"b{comparison.SUFFIX}")

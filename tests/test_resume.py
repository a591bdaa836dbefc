"""A comparison goes on from whatever a kill left: nothing measured is lost or repeated, what was cut short is kept apart."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench import compare as comparing
from bench import comparison, launch, lock, resume
from bench.__main__ import main
from bench.comparison import Comparison, ComparisonError
from bench.config import RunConfig
from bench.launch import INCOMING
from bench.matrix import Matrix
from bench.record import place_of
from bench.report.live import Lines
from tests import made

MATRIX = Matrix(name="m", engines=["single", "ddp"], ranks=[2], repeats=2, estimate_s=10)
SEED = 3


class Stop(BaseException):
    """Stands for kill -9: nothing that the comparison does afterwards is seen."""


def record_of(label: str, ranks: int, where: dict[str, Any]) -> dict[str, Any]:
    """A made-up record of today, at its place in a comparison."""
    record = made.record(label, ranks, repeat=where["place"])
    return record | {"run_id": f"{comparison.stamp()[:8]}{record['run_id'][8:]}", "comparison": where}


class Runner:
    """Stands in for launch.run: writes a made-up record that knows its place; `stop_at`: raise there, after or before it."""

    def __init__(self, results: Path, stop_at: int | None = None, written: bool = False) -> None:
        self.results, self.stop_at, self.written = results, stop_at, written
        self.places: list[int] = []

    def __call__(self, config: RunConfig, ranks: int, *args: Any, place: str | None = None, **_: Any) -> Path:
        where = place_of(place or args[0])
        assert where is not None
        self.places.append(where["place"])
        stopped = self.stop_at == where["place"]
        if stopped and not self.written:
            raise Stop
        record = record_of(config.engine.label, ranks, where)
        path = self.results / made.write(self.results, record)[0]
        if stopped:
            raise Stop
        return path


def begun(results: Path, run: Runner) -> Comparison:
    """A comparison that was killed where `run` stops."""
    plan = MATRIX.plan(SEED)
    with pytest.raises(Stop):
        comparing.compare(MATRIX, plan, run, results, Lines(plan, Console(quiet=True)), seed=SEED, missing={})
    return comparison.latest(results)


def gone_on(results: Path, *flags: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, Runner]:
    """`ringzero compare --resume` with made-up runs."""
    run = Runner(results)
    monkeypatch.setattr(launch, "run", run)
    return main(["compare", "--resume", "--results", str(results), *flags]), run


def test_it_goes_on_with_the_next_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    kept = begun(tmp_path, Runner(tmp_path, stop_at=2))
    assert (len(kept.records), kept.ended) == (2, "running")
    code, run = gone_on(tmp_path, monkeypatch=monkeypatch)
    assert (code, run.places) == (0, [2, 3])
    done = comparison.latest(tmp_path)
    assert (done.ended, done.seed, done.order, done.matrix) == ("complete", kept.seed, kept.order, kept.matrix)
    assert done.records[:2] == kept.records
    assert len(set(done.records)) == 4
    assert done.resumed[0]["run"] == 2
    assert "2 of 4 runs are there" in capsys.readouterr().out
    assert not list(tmp_path.glob(".*.lock"))


def test_a_record_finished_but_not_written_down_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = begun(tmp_path, Runner(tmp_path, stop_at=2, written=True))
    assert len(kept.records) == 2
    (tmp_path / "torn.json").write_text('{"schema": 1, "compa')  # somebody else's: no reason to stop
    _, run = gone_on(tmp_path, monkeypatch=monkeypatch)
    assert run.places == [3]
    assert len(set(comparison.latest(tmp_path).records)) == 4


@pytest.mark.parametrize("status", ["done", "running", "torn", "log", "nothing"])
def test_what_a_run_left_in_its_private_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    kept = begun(tmp_path, Runner(tmp_path, stop_at=1))
    cell = MATRIX.plan(SEED)[1]
    private = tmp_path / INCOMING / f"{kept.name}~1~abc"
    private.mkdir(parents=True)
    record = record_of(cell.label, cell.ranks, {"name": kept.name, "place": 1})
    record["run_id"] += "_first"
    if status in ("done", "running"):
        made.write(private, record | {"status": status})
    if status == "torn":
        (private / "20260102T030401Z_x.json").write_text('{"sch')
    if status != "nothing":
        (private / "log").write_text("said\n")
    _, run = gone_on(tmp_path, monkeypatch=monkeypatch)
    assert run.places == ([2, 3] if status == "done" else [1, 2, 3])
    assert not (tmp_path / INCOMING).exists()
    done = comparison.latest(tmp_path)
    others = [
        json.loads(path.read_text())
        for path in tmp_path.glob("*.json")
        if path.name not in done.records and not path.name.endswith(comparison.SUFFIX)
    ]
    causes = [each["failure"]["cause"] for each in others]
    assert causes == (["interrupted"] if status in ("running", "torn", "log") else [])


def test_other_conditions_are_told_and_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    begun(tmp_path, Runner(tmp_path, stop_at=1))
    here = resume.surroundings()
    monkeypatch.setattr(resume, "surroundings", lambda: here | {"torch": "9.9", "commit": "0000000"})
    code, run = gone_on(tmp_path, monkeypatch=monkeypatch)
    assert (code, run.places) == (2, [])
    said = capsys.readouterr()
    assert f"torch was {here['torch']}, is 9.9" in said.out
    assert "--force" in said.err
    code, run = gone_on(tmp_path, "--force", monkeypatch=monkeypatch)
    assert (code, run.places) == (0, [1, 2, 3])
    assert f"torch was {here['torch']}, is 9.9" in comparison.latest(tmp_path).resumed[0]["differs"]


def test_what_can_t_be_resumed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ComparisonError, match="no unfinished comparison in"):
        resume.find(tmp_path, None)
    kept = begun(tmp_path, Runner(tmp_path, stop_at=1))
    assert resume.find(tmp_path, None).name == resume.find(tmp_path, kept.name).name == resume.find(tmp_path, "m").name
    with pytest.raises(ComparisonError, match="no unfinished comparison 'n'"):
        resume.find(tmp_path, "n")
    with pytest.raises(ComparisonError, match="ordered its runs otherwise"):
        resume.plan_of(Comparison(**vars(kept) | {"order": kept.order[::-1]}))
    assert main(["compare", "--resume", "--results", str(tmp_path), "--seed", "1"]) == 2
    gone_on(tmp_path, monkeypatch=monkeypatch)
    with pytest.raises(ComparisonError, match="is complete"):
        resume.find(tmp_path, kept.name)


HOLD = """
import sys
from pathlib import Path
from bench import lock
with lock.held(Path(sys.argv[1]), "c"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_never_share_a_comparison(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ComparisonError, match=f"run by process {other.pid}"), lock.held(tmp_path, "c"):
            pass
        with lock.held(tmp_path, "d"):
            pass
        other.kill()
        other.wait()
    with lock.held(tmp_path, "c"):  # gone with its process
        pass
    assert not list(tmp_path.iterdir())


def test_an_older_file_is_still_read(tmp_path: Path) -> None:
    kept = begun(tmp_path, Runner(tmp_path, stop_at=1))
    path = tmp_path / f"{kept.name}{comparison.SUFFIX}"
    values = json.loads(path.read_text())
    for name in comparison.OLDER:
        del values[name]
    path.write_text(json.dumps(values))
    assert comparison.read(path).began == {}
    assert resume.differing({}, resume.surroundings()) == ["it does not say what it began on"]


def test_other_hosts_than_it_began_on_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    kept = begun(tmp_path, Runner(tmp_path, stop_at=1))
    code, run = gone_on(tmp_path, "--hosts", "a:1,b:1", monkeypatch=monkeypatch)
    assert (code, run.places) == (2, [])
    assert "began on this host alone, not on a:1,b:1; leave the hosts out" in capsys.readouterr().err
    kept.hosts = "a:1,b:1"
    kept.write(tmp_path)
    code, run = gone_on(tmp_path, monkeypatch=monkeypatch)
    assert (code, run.places) == (2, [])
    assert "go on with --hosts a:1,b:1" in capsys.readouterr().err

"""One engine against itself: the command that asks it of this machine, and the whole path of a report on known noise."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench import aa, ranktest
from bench.config import ConfigError, RunConfig
from bench.report import verdicts
from bench.report.rows import groups
from tests import made
from tests.noise import QUIET, comparison


class Runner:
    """Stands in for launch.run: runs as a quiet machine would have made them."""

    def __init__(self, results: Path, failing: tuple[int, ...] = ()) -> None:
        self.results, self.failing, self.runs = results, failing, 0
        self.made = comparison({"ddp": 0.3}, repeats=40, noise=QUIET, seed=3)

    def __call__(self, config: RunConfig, ranks: int) -> Path:
        record: dict[str, Any] = self.made[self.runs]
        record = record | {"config": config.to_dict(), "experiment": config.experiment_id()}
        if self.runs in self.failing:
            record = made.failed("ddp", ranks) | {"run_id": record["run_id"]}
        self.runs += 1
        return self.results / made.write(self.results, record)[0]


def asked(results: Path) -> aa.AA:
    return aa.AA(engine="ddp", ranks=2, comparisons=3, repeats=4, results=results)


def test_runs_that_are_there_are_not_made_again(tmp_path: Path) -> None:
    run, lines = Runner(tmp_path, failing=(2,)), list[str]()
    found = aa.measure(asked(tmp_path), run, lines.append)
    assert len(found) == 24
    assert run.runs == 25  # one failed
    assert lines[-1].startswith("24/24 ")
    last = tmp_path / f"{found[-1]['run_id']}.json"
    last.unlink()
    again = aa.measure(asked(tmp_path), run, lines.append)
    assert run.runs == 26
    assert [record["run_id"] for record in again[:23]] == [record["run_id"] for record in found[:23]]
    assert aa.fitting(again, aa.AA(engine="ddp", ranks=1)) == []
    assert aa.fitting(again, aa.AA(engine="ddp", ranks=2, steps=7)) == []


def test_an_engine_that_always_fails_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="three runs failed in a row, the last with error, rank 1: no route"):
        aa.measure(asked(tmp_path), Runner(tmp_path, failing=tuple(range(5))), lambda line: None)


def test_the_command_says_how_often_they_were_called_different(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.launch.run", Runner(tmp_path))
    words = ["--engine", "ddp", "--ranks", "2", "--comparisons", "3", "--repeats", "4", "--results", str(tmp_path)]
    assert aa.main(words) == 0
    text = (tmp_path / "aa.md").read_text()
    assert "**ddp x2 against itself: called different in 0 of 3 comparisons**" in text
    assert text.count("| no difference shown |") == 3
    assert f"`ringzero aa {' '.join(words)}`" in text
    first = json.loads(min(tmp_path.glob("*.json")).read_text())
    assert f"Runs from {first['started'][:10]} on: {first['environment']['machine']['cpu']}" in text
    assert f"commit {first['environment']['commit']}" in text
    assert text.strip() in capsys.readouterr().out
    for path in sorted(tmp_path.glob("*.json"))[:8]:  # the first comparison: every run of A slower
        record = json.loads(path.read_text())
        if sorted(tmp_path.glob("*.json")).index(path) in (0, 3, 4, 7):
            record["ranks"] = [rank | {"step_s": [2 * s for s in rank["step_s"]]} for rank in record["ranks"]]
            path.write_text(json.dumps(record))
    assert aa.main(words) == 1
    assert "different in 1 of 3" in (tmp_path / "aa.md").read_text()


def test_too_few_repeats_are_refused() -> None:
    with pytest.raises(ConfigError, match="--repeats at least 4"):
        aa.main(["--repeats", "3"])
    assert ranktest.needed(1) < aa.REPEATS


def test_through_the_whole_report_one_engine_under_two_names_is_called_different_in_at_most_5_percent() -> None:
    """From records to rows, verdicts and pairs, as a report does it; and a planted 5 % is found with the same repeats."""

    def shown(slower: float, seed: int) -> str:
        records = comparison({"ddp": 0.3 * slower, "horovod": 0.3}, repeats=aa.REPEATS, noise=QUIET, seed=seed)
        records += comparison({"single": 0.5}, repeats=1, noise=QUIET, seed=seed)
        (group,) = groups(records)
        (pair,) = verdicts.compare(group, verdicts.by_file(records)).pairs
        return pair.verdict()

    assert sum(shown(1.0, seed) != "no difference shown" for seed in range(200)) <= 10
    assert sum(shown(1.05, seed) == "slower" for seed in range(100)) >= 95

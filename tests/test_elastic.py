"""When a run is started again, on how many ranks, and when not. That ranks then go on is shown in faults/test_resume.py."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import elastic, launch, launchers
from bench.config import Checkpoints, ConfigError, Engine, Output, RunConfig, Training
from bench.failed import End
from bench.hosts.description import parse
from bench.hosts.lost import Place
from bench.launchers import Command
from bench.restarts import Restarts
from tests import made

DONE = made.record("ring", 2)


said: list[str] = []  # by the run, of all tests


def lost(cause: str) -> dict[str, Any]:
    return made.changed(made.failed("ring"), "failure/cause", cause)


def config(folder: Path, backend: str = "ring", batch: int = 12) -> RunConfig:
    return RunConfig(
        engine=Engine(backend=backend),  # type: ignore[arg-type]
        training=Training(global_batch=batch, accumulation=1),
        output=Output(results=folder),
        checkpoints=Checkpoints(checkpoint_every=2),
    )


@pytest.fixture
def ends(tmp_path, monkeypatch):
    """ends(records, ...) -> what was started: (ranks, --resume) of each start; the runs end with these records, in order."""

    def conduct(
        records: list[dict[str, Any]], ranks: int, asked: RunConfig, place: Any = None, **restarts: Any
    ) -> list[tuple[int, str]]:
        started, left = [], iter(records)

        def run(config: RunConfig, ranks: int, **more: Any) -> Path:
            started.append((ranks, config.checkpoints.resume))
            path = tmp_path / f"{len(started)}.json"
            path.write_text(json.dumps(next(left)))
            return path

        monkeypatch.setattr(launch, "run", run)
        monkeypatch.setattr(launchers, "unavailable", lambda config: None)
        again = Restarts(elastic=True, **restarts)
        path = elastic.run(asked, ranks, again, limit_s=60, echo=said.append, place=place)
        assert path.name == f"{len(started)}.json"
        return started

    return conduct


def test_a_run_that_ends_well_is_started_once(tmp_path, ends):
    assert ends([DONE], 2, config(tmp_path)) == [(2, "never")]


def test_a_loss_is_gone_on_from_with_as_many_ranks(tmp_path, ends):
    assert ends([lost("peer lost"), lost("time limit"), DONE], 2, config(tmp_path)) == [
        (2, "never"), (2, "auto"), (2, "auto")]  # fmt: skip


def test_with_fewer_where_they_may_and_can_share_the_batch(tmp_path, ends):
    causes = [lost("peer lost"), lost("time limit"), lost("peer lost"), DONE]
    started = ends(causes, 6, config(tmp_path), min_ranks=3)
    assert [ranks for ranks, _ in started] == [6, 4, 4, 3]  # 5 can't share 12 samples; a rank that hangs is not gone


def places(*found: Place) -> Any:
    """What hosts answer, one time after the other; the last one from then on."""
    left = list(found)
    return lambda restarts: left.pop(0) if len(left) > 1 else left[0]


def test_a_host_that_is_lost_takes_its_ranks_along_or_another_stands_in(tmp_path, ends, monkeypatch):
    monkeypatch.setattr(elastic, "SILENT_S", 0.0)
    monkeypatch.setattr(elastic, "POLL_S", 0.0)
    records, asked = [lost("time limit"), DONE], config(tmp_path)
    build = launchers.command
    assert ends(records, 4, asked, places(Place(build, 6, ("b",)))) == [(4, "never"), (4, "auto")]  # one more stands in
    assert ends(records, 4, asked, places(Place(build, 2, ("b",))), min_ranks=1) == [(4, "never"), (2, "auto")]
    assert ends(records, 8, asked, places(Place(build, 5, ("b",))), min_ranks=2) == [(8, "never"), (4, "auto")]  # 5: no
    assert ends(records, 4, asked, places(Place(build, 2, ("b",)), Place(build, 4))) == [
        (4, "never"),
        (4, "auto"),
    ]  # back
    assert len(ends(records, 4, asked, places(Place(build, 2, ("b",))), host_wait_s=0.0)) == 1
    assert "no answer from b. The other hosts take 2 ranks, 4 are needed: --min-ranks" in said[-1]
    assert len(ends(records, 4, asked, places(Place(build, 0, ("a", "b"))), min_ranks=1, host_wait_s=0.0)) == 1


def test_a_lost_host_is_waited_for_until_its_ranks_have_ended_by_themselves(tmp_path, ends, monkeypatch):
    monkeypatch.setattr(elastic, "SILENT_S", 0.3)
    monkeypatch.setattr(elastic, "POLL_S", 0.01)
    begun = time.monotonic()
    ends([lost("peer lost"), DONE], 2, config(tmp_path), places(Place(launchers.command, 2, ("b",))))
    assert time.monotonic() - begun >= 0.3


def test_no_more_often_than_asked(tmp_path, ends):
    assert len(ends([lost("peer lost")] * 9, 2, config(tmp_path), max_restarts=2)) == 3


def test_starts_that_a_launcher_made_itself_count(tmp_path, monkeypatch):
    """A record is left of each; whoever builds the next start is told how many are left."""
    told, results = [], tmp_path / "results"
    results.mkdir()

    def run(config: RunConfig, ranks: int, **more: Any) -> Path:
        for name in ("earlier", "last"):
            (results / f"{len(told)}_{name}.json").write_text(json.dumps(lost("peer lost")))
        return results / f"{len(told)}_last.json"

    def place(left: Restarts) -> Place:
        told.append(left.max_restarts)
        return Place(launchers.command)

    monkeypatch.setattr(launch, "run", run)
    again = Restarts(elastic=True, max_restarts=4)
    elastic.run(config(results), 2, again, limit_s=60, echo=said.append, build=launchers.command, place=place)
    assert told == [3, 1]


def test_horovod_elastic_moves_ranks_only_where_other_hosts_may_take_them(tmp_path):
    def by(hosts: str, ranks: int, backend: str = "horovod", **how: Any) -> bool:
        return Restarts(**({"elastic": True} | how)).by_driver(config(tmp_path, backend), parse(hosts), ranks)

    assert by("a:1,b:1,c:1", 2)
    assert by("a:2,b:2", 4, min_ranks=2)
    assert not by("a:2,b:2", 4), "no place is left for a rank of a lost host"
    assert not by("a:4", 2), "the loss of a rank is that of its host"
    assert not by("a:1,b:1,c:1", 2, "ring")
    assert not by("a:1,b:1,c:1", 2, elastic=False)
    assert not by("a:1,b:1,c:1", 2, max_restarts=0)


@pytest.mark.parametrize("cause", ["configuration", "import", "does not fit", "disk", "non-finite"])
def test_what_would_come_back_is_not_tried_again(tmp_path, ends, cause):
    assert len(ends([lost(cause), DONE], 2, config(tmp_path))) == 1


def test_torchrun_starts_its_own_ranks_again(tmp_path, ends):
    asked = config(tmp_path, "ddp")
    assert len(ends([lost("peer lost"), DONE], 2, asked)) == 1
    words = elastic.command(asked, 2, Restarts(elastic=True, max_restarts=7)).argv
    assert words[1:3] == ["--max-restarts", "7"]
    assert len(ends([lost("peer lost"), DONE], 2, asked, min_ranks=1)) == 2
    assert "--max-restarts" not in elastic.command(asked, 2, Restarts(elastic=True, min_ranks=1)).argv
    assert "--max-restarts" not in elastic.command(config(tmp_path), 2, Restarts(elastic=True)).argv


@pytest.mark.parametrize(
    ("every", "restarts", "says"),
    [
        (0, {}, "add --checkpoint-every"),
        (2, {"max_restarts": 0}, "at least 1"),
        (2, {"min_ranks": 3}, "between 1 and --ranks"),
        (2, {"host_wait_s": float("nan")}, "--host-wait-s"),
    ],
)
def test_flags_that_make_no_sense_are_refused(tmp_path, every, restarts, says):
    asked = replace(config(tmp_path), checkpoints=Checkpoints(checkpoint_every=every))
    with pytest.raises(ConfigError, match=says):
        elastic.run(asked, 2, Restarts(elastic=True, **restarts), limit_s=60, echo=print)


def test_every_start_under_one_launcher_leaves_its_record(tmp_path):
    private = tmp_path / ".incoming" / "x"
    earlier = [
        lost("peer lost") | {"run_id": "20260101T000000000Z_a"},
        made.record("ddp", 2) | {"run_id": "20260101T000001000Z_b", "status": "running"},
    ]
    made.write(private, *earlier, made.record("ddp", 2) | {"run_id": "20260101T000002000Z_c"})
    (private / "log").write_text("said by the ranks\n")
    asked = config(tmp_path, "ddp")
    path = launch.keep(private, asked, 2, Command(["torchrun"]), End("launcher", "ended"), "now")
    assert path.name == "20260101T000002000Z_c.json"
    kept = {each.stem[-1]: json.loads(each.read_text()) for each in tmp_path.glob("*.json")}
    assert {name: record["status"] for name, record in kept.items()} == {"a": "failed", "b": "failed", "c": "done"}
    assert "started them again" in kept["b"]["failure"]["message"]
    assert not private.exists()

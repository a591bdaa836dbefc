"""Ranks of an elastic horovodrun: each asks for its new place, or is out. With horovodrun itself at the end."""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from backends.world import World
from bench import launch, launchers, rejoin
from bench.config import Checkpoints, ConfigError, Engine, Measure, Output, RunConfig, Training
from bench.launchers import Command
from bench.watch import EXIT_AGAIN, EXIT_FAILED
from tests.faults.test_resume import EVERY, difference, read, training
from tests.parity.test_parity import LOSS
from tests.started import with_horovod

SECOND = World(1, 4, 1, 2, "horovodrun")
LAST = "2,3,1,2,0,2"  # a place: rank, size, local rank, local size, cross rank, cross size


class Driver(HTTPServer):
    """Answers as horovodrun's does: a place for whoever asks."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.places: list[str] = []
        self.asked: list[str] = []


class Answer(BaseHTTPRequestHandler):
    """One of them; an error where there is no place left to give."""

    server: Driver

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if not self.server.places:
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.places.pop(0).encode())

    def log_message(self, format: str, *values: object) -> None:
        pass


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    server = Driver()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    for name, value in {
        "HOROVOD_ELASTIC": "1",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1",
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(server.server_port),
        "HOROVOD_HOSTNAME": "b",
        "HOROVOD_RANK": "1",
        "HOROVOD_SIZE": "4",
        "HOROVOD_LOCAL_RANK": "1",
        "http_proxy": "http://127.0.0.1:9",  # nobody listens there
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rejoin, "POLL_S", 0.05)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def keep(driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """keep(*ends): the status of a keeper of which the processes end so, one after the other; a string is code."""

    def run(*ends: int | str, every: int = 3, world: World = SECOND) -> int:
        acts = [end if isinstance(end, str) else f"sys.exit({end})" for end in ends]
        told = "json.dumps({k: v for k, v in os.environ.items() if k.startswith(('HOROVOD', 'RINGZERO'))})"
        script = tmp_path / "rank.py"
        script.write_text(
            f"import json, os, signal, sys\nstart = int(os.environ['RINGZERO_STARTS'])\n"
            f"open(f'{tmp_path}/start{{start}}', 'w').write({told})\nexec({acts!r}[min(start, {len(acts) - 1})])\n"
        )
        monkeypatch.setattr(sys, "orig_argv", [sys.executable, str(script)])
        return rejoin.keep(config(tmp_path, every), world)

    return run


def config(folder: Path, every: int) -> RunConfig:
    return RunConfig(
        engine=Engine(backend="horovod"),
        training=Training(global_batch=12, accumulation=1),
        measure=Measure(limit_s=0.3),
        output=Output(results=folder / "results"),
        checkpoints=Checkpoints(checkpoint_every=every),
    )


def starts(folder: Path) -> list[dict[str, str]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("start*"))]


def test_a_rank_that_lost_another_goes_on_in_a_new_place(keep, driver, tmp_path):
    driver.places = [LAST]
    assert keep(EXIT_AGAIN, 0) == 0
    assert driver.asked == ["/rank_and_size/b:1"]
    first, second = starts(tmp_path)
    assert (first["RINGZERO_STARTS"], first["HOROVOD_RANK"], first["HOROVOD_SIZE"]) == ("0", "1", "4")
    assert (second["RINGZERO_STARTS"], second["HOROVOD_RANK"], second["HOROVOD_SIZE"]) == ("1", "2", "3")
    assert [second[f"HOROVOD_{name}"] for name in ("CROSS_RANK", "CROSS_SIZE")] == ["0", "2"]
    assert "HOROVOD_ELASTIC" not in first
    assert rejoin.goes_on(second)
    assert not rejoin.goes_on(first)


def test_only_a_process_that_an_elastic_horovodrun_started_keeps_and_only_its_child_is_kept(driver):
    assert rejoin.keeper()
    assert not rejoin.kept()
    assert not rejoin.keeper({"HOROVOD_ELASTIC": "1", "RINGZERO_STARTS": "0"})
    assert rejoin.kept({"HOROVOD_ELASTIC": "1", "RINGZERO_STARTS": "0"})
    assert not rejoin.keeper({"HOROVOD_RANK": "0"})


@pytest.mark.parametrize(
    ("end", "status"),
    [(1, 1), (2, 2), ("os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL)],
)
def test_a_rank_that_failed_itself_does_not_ask(keep, driver, end, status):
    driver.places = [LAST]
    assert keep(end) == status
    assert driver.asked == []


def test_a_rank_that_is_stopped_is_ended_after_the_limit(keep, driver):
    assert keep("os.kill(os.getpid(), signal.SIGSTOP)") == 128 + signal.SIGKILL
    assert driver.asked == []


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("-1,-1,-1,-1,-1,-1", "its host has lost a rank"),
        ("", "its host has lost a rank"),
        ("1,5,1,2,0,2", "5 ranks"),
        ("0,3,0,2,0,2", "start the run again with --resume auto"),
    ],
)
def test_without_a_place_of_use_a_rank_is_out(keep, driver, tmp_path, capfd, given, says):
    driver.places = [given]
    assert keep(EXIT_AGAIN, 0) == EXIT_FAILED
    assert says in capfd.readouterr().err
    assert len(starts(tmp_path)) == 1


def test_nobody_answers(keep, driver, capfd):
    assert keep(EXIT_AGAIN, 0) == EXIT_FAILED
    assert "horovodrun gives it no place" in capfd.readouterr().err


def test_the_first_rank_s_place_can_be_taken_where_its_record_is_seen(keep, driver, tmp_path):
    driver.places = ["0,3,0,2,0,2"] * 2
    record = tmp_path / "results" / "r.json"
    record.parent.mkdir()
    record.write_text("{}")
    os.utime(record, (1.0, 1.0))  # of an earlier run
    assert keep(EXIT_AGAIN, 0) == EXIT_FAILED
    assert keep(f"open({str(record)!r}, 'w').write('{{}}'); sys.exit({EXIT_AGAIN})", 0) == 0


def test_an_error_that_comes_back_each_time_ends(keep, driver, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(rejoin, "AT_MOST", 3)
    driver.places = [LAST] * 9
    assert keep(EXIT_AGAIN) == EXIT_FAILED
    assert len(starts(tmp_path)) == 3
    assert "it was started 3 times" in capfd.readouterr().err


def test_without_checkpoints_it_says_what_to_type(keep, driver):
    with pytest.raises(ConfigError, match="add --checkpoint-every"):
        keep(0, every=0)


def shorter(asked: RunConfig) -> RunConfig:
    """Two steps are left after the checkpoint."""
    return replace(asked, training=replace(asked.training, steps=EVERY + 2))


@with_horovod
@pytest.mark.timeout(300)
def test_horovod_elastic_goes_on_without_a_rank_that_was_killed(tmp_path, monkeypatch):
    """Two names of this host are two hosts to it: it gives up the one that lost its rank, and the other goes on alone."""
    asked = shorter(training(tmp_path, "horovod", "sgd"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("DIE", f"{EVERY + 1}:0.01")
    monkeypatch.setenv("DIED", str(tmp_path / "died"))

    def build(inside: RunConfig, ranks: int) -> Command:
        words = ["--min-np", "1", "-H", "localhost:1,127.0.0.1:1", "--network-interfaces", "lo", "--gloo"]
        what = launchers.under("horovodrun", ranks, "tests.dying_rank", words=words)
        return Command(what.argv + launchers.flags(inside), what.env)

    path = launch.run(asked, 2, limit_s=200, build=build)
    record = read(path)
    assert record["status"] == "done", path.with_suffix(".log").read_text()
    (killed,) = [each for each in map(read, (tmp_path / "results").glob("*.json")) if each["status"] == "failed"]
    assert (killed["failure"]["cause"], killed["failure"]["rank"]) == ("peer lost", 1)
    assert (record["world"]["size"], record["resumed"]["step"], record["resumed"]["ranks"]) == (1, EVERY, 2)
    assert "rank 0 of 1 goes on" in path.with_suffix(".log").read_text()
    undisturbed = read(launch.run(shorter(training(tmp_path / "alone", "single", "sgd", every=0)), 1))
    assert difference(record, undisturbed) <= LOSS

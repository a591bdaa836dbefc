"""Bytes sent, counted by the kernel: sockets whose traffic is known, and engines whose traffic is derived."""

import json
import socket
import sys
from importlib.util import find_spec

import pytest

from bench import launchers, processes, wire
from bench.config import Engine, Measure, Output, RunConfig, Training
from bench.measure import traffic
from bench.measure.traffic import Traffic, told

SIZE = 3_000_000


def pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    return one, other


def send(one: socket.socket, other: socket.socket, size: int) -> None:
    """In pieces that the receiver takes at once: nobody waits."""
    while size:
        piece = min(size, 10_000)
        one.sendall(b"x" * piece)
        while piece:
            piece -= len(other.recv(piece))
        size -= min(size, 10_000)


def test_what_is_written_is_what_is_counted():
    one, other = pair()
    with one, other:
        send(one, other, 50_000)  # before the window
        counted = Traffic()
        for _ in range(2):
            with counted:
                send(one, other, SIZE)
            send(one, other, 70_000)  # between two windows
    assert counted.sent == counted.received == 2 * SIZE
    assert (counted.opened, counted.closed, counted.reason) == (0, 0, None)
    assert counted.kept >= 2


def test_bytes_that_wait_in_the_kernel_are_counted():
    one, other = pair()
    with one, other:
        one.setblocking(False)
        with Traffic() as counted:
            written = sum(one.send(b"x" * 100_000) for _ in range(10))
    assert counted.sent == written > counted.received


def test_connections_that_come_and_go_are_noticed():
    with Traffic() as counted:
        one, other = pair()
        send(one, other, 1000)
    assert (counted.opened, counted.closed, counted.sent) == (2, 0, 1000)
    with Traffic() as counted:
        one.close()
        other.close()
    assert (counted.opened, counted.closed) == (0, 2)
    assert "2 TCP connections closed" in told([counted.counts()], [None], 1, None)["sent_bytes_reason"]


def test_other_sockets_are_no_traffic():
    one, other = socket.socketpair()
    with one, other, Traffic() as counted:
        send(one, other, 1000)
    assert counted.sent == 0


def test_a_kernel_without_counters_gives_a_reason(monkeypatch):
    monkeypatch.setattr(traffic, "NEEDED", 10_000)
    one, other = pair()
    with one, other, Traffic() as counted:
        send(one, other, 1000)
    found = told([counted.counts()], [None], 1, None)
    assert found["sent_bytes"] is None
    assert "need Linux 4.19" in found["sent_bytes_reason"]


def counts(sent: int, **changed) -> dict:
    return {
        "sent": sent,
        "received": 5,
        "retransmitted": 0,
        "kept": 2,
        "opened": 0,
        "closed": 0,
        "reason": None,
    } | changed


def test_the_engines_own_count_goes_first_and_both_are_kept():
    found = told([counts(30), counts(40)], [20, 22], 2, None)
    assert (found["sent_bytes"], found["source"]) == ([10, 11], "engine")
    assert found["by_source"] == {"engine": [10, 11], "kernel sockets": [15, 20]}
    found = told([counts(30), counts(40)], [None, None], 2, None)
    assert (found["sent_bytes"], found["source"]) == ([15, 20], "kernel sockets")


def test_sockets_that_see_nothing_are_not_asked():
    found = told([counts(30)], [None], 2, "MPI uses shared memory")
    assert (found["sent_bytes"], found["source"]) == (None, None)
    assert found["sent_bytes_reason"] == "the engine does not tell, and sockets can't: MPI uses shared memory"
    assert told([counts(30)], [8], 2, "MPI uses shared memory")["sent_bytes"] == [4]


@pytest.mark.parametrize(
    ("backend", "beyond"),
    [("ddp", 0.01), ("fsdp", 0.02), ("horovod", 0.10)],  # headers; headers; its negotiation, each millisecond
)
def test_an_engine_sends_what_its_setting_should_move(backend, beyond, tmp_path):
    if backend == "horovod" and find_spec("horovod") is None:
        pytest.skip("Horovod is not installed")
    config = RunConfig(
        engine=Engine(backend=backend),
        training=Training(steps=3),
        measure=Measure(warmup=0, proof_steps=0),
        output=Output(results=tmp_path),
    )
    command = launchers.command(config, 2)
    argv = list(command.argv)
    if backend == "horovod":  # over gloo, whatever else it was built with
        program = launchers.executable("horovodrun")
        argv = [str(program), "-np", "2", "--gloo", sys.executable, "-m", "bench.run", *launchers.flags(config)]
    ended = processes.run(argv, command.env, tmp_path / "log", limit_s=120)
    assert ended.code == 0, (tmp_path / "log").read_text()
    (path,) = tmp_path.glob("*.json")
    record = json.loads(path.read_text())
    assert record["traffic"]["source"] == "kernel sockets"
    assert record["traffic"]["connections"]["closed"] == 0
    should = wire.expected(record).total
    assert should
    for sent in record["traffic"]["sent_bytes"]:
        assert should <= sent < (1 + beyond) * should

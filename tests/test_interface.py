"""Bytes that an interface carried: the kernel's table as it is read, and what a record says of it."""

import socket
from pathlib import Path

import pytest

from bench.measure import interface
from bench.measure.interface import Interface, told

TABLE = """Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 5000 10 0 0 0 0 0 0 5000 10 0 0 0 0 0 0
  lab0: 700 7 0 1 0 0 0 0 9000 9 0 2 0 0 0 0
"""


def test_the_kernels_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "dev").write_text(TABLE)
    found = interface.read("lab0", tmp_path / "dev")
    assert found == {"received": 700, "received_packets": 7, "sent": 9000, "sent_packets": 9, "dropped": 3}
    with pytest.raises(OSError, match="no interface eth7"):
        interface.read("eth7", tmp_path / "dev")


def test_what_passes_while_it_looks_is_counted() -> None:
    counted = Interface(2, "lo")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        other, _ = server.accept()
        with other, counted:
            one.sendall(b"x" * 50_000)
            while len(other.recv(50_000, socket.MSG_PEEK)) < 50_000:
                pass
    assert 50_000 <= counted.counts["sent"] < 80_000  # others may use it too
    assert counted.reason is None
    assert counted.seen("here")["mtu"] >= 1500


def test_nothing_is_counted_without_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(interface.NAMED, raising=False)
    for counted, why in ((Interface(1, "lo"), "one host"), (Interface(2), "--interface"), (Interface(2, "no0"), "no0")):
        with counted:
            pass
        found = told([counted.seen("a")], 1)
        assert found["interface"] is None
        assert why in found["interface_reason"]


def test_headers_are_told_apart_and_a_host_counts_once() -> None:
    one = {
        "host": "a",
        "name": "lab0",
        "mtu": 1500,
        "reason": None,
        "received": 10,
        "received_packets": 1,
        "dropped": 0,
    }
    one |= {"sent": 2 * (14480 + 66), "sent_packets": 2}
    made = told([one, one, one | {"host": "b", "sent": 132}], 2)["interface"]
    assert list(made["hosts"]) == ["a", "b"]
    assert made["hosts"]["a"] == {
        "sent_bytes": 14546.0,
        "sent_packets": 1.0,
        "received_bytes": 5.0,
        "payload_bytes": 14480.0,
        "wire_bytes": 15140.0,  # ten frames of 1514 bytes
        "dropped_packets": 0,
    }
    assert made["hosts"]["b"]["payload_bytes"] == 0

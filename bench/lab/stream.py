"""The rate that a link really gives: one TCP connection from a host to another, timed where it arrives."""

import socket
import subprocess
import sys
import time
from pathlib import Path

from bench.lab.lab import Lab
from bench.lab.rights import LabError

TAKES_S = 0.5  # of sending at the rate that is expected
LEAST, UNSHAPED = 4 << 20, 256 << 20
WARM = 8  # the first eighth is not timed: TCP finds its speed, and the bucket was full
PIECE = 1 << 18
LIMIT_S = 60.0
PACKAGE = Path(__file__).resolve().parents[2]


def measure(lab: Lab, source: str, target: str) -> float:
    """Bits of payload a second from one host to another. Raises LabError where nothing arrives."""
    from bench.lab.link import Link

    rate = Link.read(lab.link).rate
    total = UNSHAPED if rate is None else max(LEAST, round(rate / 8 * TAKES_S))
    one, other = lab.named(source), lab.named(target)
    python = [sys.executable, "-m", "bench.lab.stream"]
    receiver = subprocess.Popen(
        [*other.enter(lab.state, PACKAGE), *python, "receive", other.address, str(total)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert receiver.stdout is not None
    try:
        port = receiver.stdout.readline().strip()
        sent = subprocess.run(
            [*one.enter(lab.state, PACKAGE), *python, "send", other.address, port, str(total)],
            timeout=LIMIT_S,
            check=False,
            stderr=subprocess.PIPE,
            text=True,
        )
        seconds = receiver.communicate(timeout=LIMIT_S)[0].strip() if not sent.returncode else ""
    except subprocess.TimeoutExpired:
        seconds = ""
    finally:
        receiver.kill()
        receiver.communicate()
    if not seconds:
        raise LabError(
            f"nothing came from {source} to {target} within {LIMIT_S:g} s; is a cable cut? ringzero lab status"
        )
    return (total - total // WARM) * 8 / float(seconds)


def receive(address: str, total: int) -> None:
    """Print a port, take `total` bytes from whoever connects, and print the seconds that all but the first eighth took."""
    with socket.create_server((address, 0)) as server:
        print(server.getsockname()[1], flush=True)
        server.settimeout(LIMIT_S)
        taken, _ = server.accept()
        room, came, begun = bytearray(PIECE), 0, 0.0
        with taken:
            while came < total and (some := taken.recv_into(room)):
                came += some
                if not begun and came >= total // WARM:
                    begun, total_from = time.perf_counter(), came
        if came >= total:
            share = (total - total_from) / (total - total // WARM)
            print((time.perf_counter() - begun) / share)


def send(address: str, port: int, total: int) -> None:
    """Send `total` bytes."""
    piece = bytes(PIECE)
    with socket.create_connection((address, port), timeout=LIMIT_S) as link:
        while total > 0:
            link.sendall(piece[: min(total, PIECE)])
            total -= PIECE


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2], int(sys.argv[3]))
    else:
        send(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

"""A rank that its launcher can give a new place among those that are left, as Horovod Elastic does: this process keeps it.

An elastic horovodrun never starts a rank again on a host that lost one. It waits until every rank is gone or asks for a place, and
then answers with one, hosts that lost a rank left out and others put in (horovod/runner/elastic). Horovod's own ranks ask from
within, and hold their state in memory. Here the rank's process ends with those that it lost, as under every launcher; its keeper
asks, and starts the next one, which takes its state from the newest checkpoint.
"""

import http.client
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping

import psutil

from backends.world import World
from bench.config import ConfigError, RunConfig
from bench.watch import EXIT_AGAIN, EXIT_FAILED

DRIVER = "HOROVOD_ELASTIC"  # set by an elastic horovodrun for what it starts
STARTS = "RINGZERO_STARTS"  # set by a keeper: how many processes this rank had before
# What the driver answers with, in its order; as variables each has HOROVOD_ in front.
PLACE = ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")
AT_MOST = 10  # starts: an error that comes back each time must end where horovodrun has no --reset-limit
ANSWER_S = 900.0  # an answer takes until the last rank has ended: ssh gives a silent host up after half a minute
POLL_S = 1.0


class Unplaced(RuntimeError):
    """There is no place for this rank any more; the message says why."""


def kept(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is a rank with a keeper, which starts it again where it ends with EXIT_AGAIN."""
    return STARTS in env


def keeper(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is to keep its rank, not to be it."""
    return env.get(DRIVER) == "1" and not kept(env)


def goes_on(env: Mapping[str, str] = os.environ) -> bool:
    """Whether this rank was started before."""
    return env.get(STARTS, "0") != "0"


def keep(config: RunConfig, world: World) -> int:
    """Be the parent of this rank's processes, one after the other. Returns how the last one ended, as a shell would tell it.

    Raises ConfigError for a training without checkpoints: there would be nothing to go on from.
    """
    if not config.checkpoints.checkpoint_every:
        raise ConfigError("an elastic horovodrun goes on from checkpoints; add --checkpoint-every 10, say")
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the rank is told as well, and says what there is to say
    # without the driver's mark Horovod is in the child what it is in every run: with it, one rank alone would exchange too
    env, began = {name: value for name, value in os.environ.items() if name != DRIVER}, time.time()
    start = 0
    while True:
        child = subprocess.Popen([sys.executable, *sys.orig_argv[1:]], env=env | {STARTS: str(start)})
        code = wait(child, config.measure.limit_s)
        if code != EXIT_AGAIN:
            return code if code >= 0 else 128 - code
        try:
            start += 1
            if start == AT_MOST:
                raise Unplaced(f"it was started {AT_MOST} times")
            env |= place(env)
            config.micro_batch(int(env["HOROVOD_SIZE"]))
            moved(config, world, int(env["HOROVOD_RANK"]), began)
        except (Unplaced, ConfigError) as error:
            print(f"bench.run: rank {world.rank} does not go on: {error}", file=sys.stderr, flush=True)
            return EXIT_FAILED
        who = f"rank {env['HOROVOD_RANK']} of {env['HOROVOD_SIZE']}"
        print(f"bench.run: {who} goes on, on {socket.gethostname()}", file=sys.stderr, flush=True)


def wait(child: subprocess.Popen[bytes], limit_s: float) -> int:
    """The exit status of a rank, as subprocess tells it. One that is stopped for so long is killed: its peers have given it up."""
    stopped_since: float | None = None
    end = os.pidfd_open(child.pid)
    try:
        while not select.select([end], [], [], POLL_S)[0]:
            if psutil.Process(child.pid).status() != psutil.STATUS_STOPPED:
                stopped_since = None
            elif stopped_since is None:
                stopped_since = time.monotonic()
            elif time.monotonic() - stopped_since > limit_s:
                child.kill()
    finally:
        os.close(end)
    return child.wait()


def place(env: Mapping[str, str]) -> dict[str, str]:
    """The variables of this rank's new place; waits until every rank has ended. Raises Unplaced."""
    driver = f"{env['HOROVOD_GLOO_RENDEZVOUS_ADDR']}:{env['HOROVOD_GLOO_RENDEZVOUS_PORT']}"
    asked = f"http://{driver}/rank_and_size/{env['HOROVOD_HOSTNAME']}:{env['HOROVOD_LOCAL_RANK']}"
    # not by a proxy of the user's, which knows no host of a cluster
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(asked, timeout=ANSWER_S) as answer:
            values = answer.read().decode().split(",")
    except (OSError, http.client.HTTPException) as error:
        raise Unplaced(f"horovodrun gives it no place ({error})") from error
    if len(values) != len(PLACE) or values[0] == "-1":
        raise Unplaced("its host has lost a rank, or is not needed any more")
    return {f"HOROVOD_{name}": value for name, value in zip(PLACE, values, strict=True)}


def moved(config: RunConfig, world: World, rank: int, began: float) -> None:
    """Raise Unplaced for a rank that becomes the first one, and with it keeps the record, where the first one's are not seen."""
    if rank != 0 or world.rank == 0:
        return
    results = config.output.results
    if not any(path.stat().st_mtime >= began for path in results.glob("*.json")):
        raise Unplaced(
            f"rank 0 is lost, and its record is not in {results.absolute()} here; start the run again with --resume auto"
        )

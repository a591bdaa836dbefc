"""Hosts that share no folder: found out before it is relied on, and what one rank wrote reaches the others' disks."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backends.ring.transport import QueueTransport
from backends.world import World
from bench import launchers, restart
from bench.checkpoints import CheckpointError
from bench.config import Checkpoints, Engine, RunConfig
from bench.hosts import sharing

ROOT = Path(__file__).resolve().parents[1]
QUICK = "--backend ddp --global-batch 2 --accumulation 1 --steps 1 --warmup 1 --proof-steps 0 --phase-steps 0"
APART = (World(0, 2, 0, 1, "torchrun"), World(1, 2, 0, 1, "torchrun"))


def each(work: Any, worlds: tuple[World, ...] = APART) -> list[Any]:
    """What `work(backend, rank)` returns on each rank; the ranks are threads."""
    links = QueueTransport.links(len(worlds))
    ranks = [SimpleNamespace(world=world, gather=link.gather) for world, link in zip(worlds, links, strict=True)]
    with ThreadPoolExecutor(len(ranks)) as pool:
        return list(pool.map(work, ranks, range(len(ranks))))


def test_files_reach_the_host_without_them_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "PIECE", 3)
    (tmp_path / "0" / "deep").mkdir(parents=True)
    (tmp_path / "0" / "deep" / "model.pt").write_bytes(b"0123456789")
    (tmp_path / "0" / "rng_0.pt").write_bytes(b"")
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "rng_1.pt").write_bytes(b"abc")
    each(lambda backend, rank: sharing.hand_out(backend, tmp_path / str(rank)))
    for host in ("0", "1"):
        found = {str(path.relative_to(tmp_path / host)): path.read_bytes() for path in (tmp_path / host).rglob("*.pt*")}
        assert found == {"deep/model.pt": b"0123456789", "rng_0.pt": b"", "rng_1.pt": b"abc"}


def test_nothing_travels_within_one_host(tmp_path):
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "model.pt").write_bytes(b"0")
    near = (World(0, 2, 0, 2, "torchrun"), World(1, 2, 1, 2, "torchrun"))
    each(lambda backend, rank: sharing.hand_out(backend, tmp_path / str(rank)), near)
    assert not (tmp_path / "1").exists()


def test_ranks_that_see_another_folder_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "SEEN_S", 0.1)
    assert each(lambda backend, rank: sharing.blind(backend, tmp_path)) == [[], []]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(Path, "exists", lambda path: False)  # as if the folder of that name were another one there
    assert each(lambda backend, rank: sharing.blind(backend, tmp_path)) == [[0, 1], [0, 1]]


def test_a_checkpoint_folder_that_hosts_do_not_share_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(restart, "blind", lambda backend, folder: [1])
    config = replace(
        RunConfig(engine=Engine(backend="ddp")), checkpoints=Checkpoints(checkpoint_every=1, checkpoint_folder=tmp_path)
    )

    def begin(backend: Any, rank: int) -> str:
        with pytest.raises(CheckpointError) as caught:
            restart.choose(backend, config)
        return str(caught.value)

    first, second = each(begin)
    assert first == second
    assert "not the same folder on every host" in first
    assert "rank 1 does not see" in first


def test_a_run_over_hosts_with_folders_of_their_own_finishes(tmp_path):
    port, ranks = launchers.free_port(), []
    flags = QUICK.split()
    for node in range(2):
        where = f"--nnodes 2 --node-rank {node} --nproc-per-node 1 --master-addr 127.0.0.1 --master-port {port}".split()
        argv = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            *where,
            "--rdzv-backend",
            "static",
            "-m",
            "bench.run",
            *flags,
        ]
        env = os.environ | {"GLOO_SOCKET_IFNAME": "lo"}
        argv += ["--results", str(tmp_path / str(node)), "--limit-s", "60"]
        ranks.append(
            subprocess.Popen(argv, cwd=ROOT, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        )
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], said

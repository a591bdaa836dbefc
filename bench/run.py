"""One rank of one run. Works as `python -m bench.run` and as the file `bench/run.py`, under any launcher."""

import sys
from pathlib import Path

if (
    not __package__
):  # started as a file, as `deepspeed bench/run.py` does: this folder must not shadow the standard library
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import shutil
import socket
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from backends.world import LaunchError, World
from bench.config import ConfigError, RunConfig
from bench.cores import Cores, apply_threads, settle
from bench.flags import parse
from bench.watch import EXIT_FAILED, Failure, Watch

EXIT_USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run this process's rank. Returns 0, or 2 for a command that can't be run; a run that fails ends the process with 1."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        world = World.from_env()
    except LaunchError as error:
        return refuse(error, first=True)
    first = world.local_rank == 0  # every rank meets the same mistake: one a host speaks of it
    if not first:
        sys.stderr = open("/dev/null", "w")  # noqa: SIM115 - until the flags are read
    try:
        config = parse(arguments)
    except SystemExit as leaving:
        return leave(int(leaving.code or 0), first)
    sys.stderr = sys.__stderr__
    try:
        world.check_launcher(config.engine.backend)
        config.micro_batch(world.size)
    except (LaunchError, ConfigError) as error:
        return refuse(error, first)
    watch = Watch(world.rank, world.size, config.measure.limit_s, launched=world.launcher != "python")
    watch.start()  # before torch: its threads inherit which signals are blocked
    cores = settle(world, bind=config.measure.bind)
    try:
        return run(config, world, cores, watch, arguments)
    except BaseException as error:
        if watch.joined:
            watch.failed(error)
        raise


def run(config: RunConfig, world: World, cores: Cores, watch: Watch, arguments: Sequence[str]) -> int:
    """Join the other ranks, measure, write the record. Library warnings are the libraries' business: results speak here."""
    warnings.simplefilter("ignore")
    threads = apply_threads(cores)

    import backends
    from backends.base import BackendUnavailable, EngineConfig
    from bench.environment import commit, snapshot
    from bench.experiment import measure
    from bench.record import SCHEMA, RecordError, RecordFile, now, run_id
    from bench.report.summary import print_summary
    from bench.workload import Workload, check_names

    first = world.local_rank == 0
    try:
        check_names(config.workload)
        backend = backends.load(config.engine.backend)(
            world,
            EngineConfig(
                accumulation=config.training.accumulation,
                micro_batch=config.micro_batch(world.size),
                clip_norm=config.training.clip_norm,
                bucket_mb=config.engine.bucket_mb,
                zero_stage=config.engine.zero_stage,
                offload_optimizer=config.engine.offload_optimizer,
                transport=config.engine.transport,
                device=device(config, world),
                timeout_s=config.measure.limit_s * 2,  # the watch speaks first: it knows who and where
            ),
        )
    except (ValueError, BackendUnavailable) as error:
        return refuse(error, first)

    name = backend.gather(run_id(config.engine.label, world.size, commit()["commit"]))[0]
    file = RecordFile(config.output.results.absolute(), name)
    who = {
        "rank": world.rank,
        "host": socket.gethostname(),
        "pid": watch.pid,
        "cores": list(cores.seen),
        "threads": threads,
    }
    hosts = sorted({entry["host"] for entry in backend.gather(who)})
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "run_id": name,
        "status": "running",
        "failure": None,
        "started": now(),
        "finished": None,
        "command": [sys.executable, *sys.orig_argv[1:]],
        "config": config.to_dict(),
        "experiment": config.experiment_id(),
        "engine": {"label": config.engine.label},
        "world": {
            "size": world.size,
            "device": backend.device.type,
            "launcher": world.launcher,
            "hosts": hosts,
            "oversubscribed": cores.oversubscribed,
        },
    }
    problem = None
    if world.rank == 0:
        content["environment"] = snapshot()
        try:
            file.begin(content)
        except RecordError as error:
            problem = str(error)
    problem = backend.gather(problem)[0]
    if problem:
        backend.close()
        return refuse(RecordError(problem), first)

    def close_record(failure: Failure, measured: Mapping[int, Any]) -> None:
        last = file.read()
        last |= {"status": "failed", "finished": now(), "failure": vars(failure)}
        last["ranks"] = [{"rank": rank, **values} for rank, values in measured.items() if values]
        path = file.finish(last)
        where = f"rank {failure.rank} of {world.size}, step {failure.step}, {failure.phase}"
        print(
            f"\nbench.run: {config.engine.label} failed on {where}: {failure.cause}: {failure.message}\nrecord: {path}",
            file=sys.stderr,
            flush=True,
        )

    watch.join(file.workdir, close_record)
    backend.gather(None)
    workload = Workload(config, world.rank, world.size)
    result = measure(backend, workload, config, watch, file.workdir)
    watch.at(backend.steps, "write")
    whole = backend.gather(who)
    if world.rank == 0:
        content |= {"workload": workload.describe(), **result, "status": "done", "finished": now()}
        content["engine"] |= {key: content.pop(key) for key in ("asked", "applied", "native")}
        content["ranks"] = [{**identity, **values} for identity, values in zip(whole, result["ranks"], strict=True)]
        path = file.finish(content)
        if path != file.path:
            print(f"bench.run: {file.path.parent} took no more data; the record is {path}", file=sys.stderr)
        print_summary(content, path)
    backend.gather(None)  # the record stands before anybody leaves
    watch.finish()
    backend.gather(None)  # nobody looks any more: the folder may go
    backend.close()
    if world.rank == 0:
        shutil.rmtree(file.workdir, ignore_errors=True)
    return 0 if world.rank or path == file.path else EXIT_FAILED


def device(config: RunConfig, world: World) -> str:
    """cpu or cuda. Raises ValueError where GPUs are asked for that this host has not."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if config.engine.device == "auto":
        return "cuda" if gpus >= world.local_size else "cpu"
    if config.engine.device == "cuda" and gpus < world.local_size:
        raise ValueError(
            f"--device cuda needs a GPU for each of {world.local_size} ranks, torch finds {gpus}; "
            "start fewer ranks, or use --device cpu"
        )
    return config.engine.device


def refuse(error: Exception, first: bool) -> int:
    """Say once what is wrong with the command."""
    if first:
        print(f"bench.run: {error}", file=sys.stderr, flush=True)
    return leave(EXIT_USAGE, first)


def leave(code: int, first: bool) -> int:
    """The silent ranks leave last: a launcher that sees one go kills the rest, also one that is about to speak."""
    if code and not first:
        time.sleep(3)
    return code


if __name__ == "__main__":
    sys.exit(main())

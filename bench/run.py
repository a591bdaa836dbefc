"""One rank of one run. Works as `python -m bench.run` and as the file `bench/run.py`, under any launcher."""

import sys
from pathlib import Path

if (
    not __package__
):  # started as a file, as `deepspeed bench/run.py` does: this folder must not shadow the standard library
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import gc
import os
import shutil
import socket
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from backends.world import LaunchError, World
from bench import rejoin
from bench.config import ConfigError, RunConfig
from bench.cores import Cores, apply_threads, settle
from bench.environment import commit, snapshot
from bench.failure import PASSING, Failure, cause_of, launched, leave_word
from bench.flags import cut, parse
from bench.heap import keep_freed
from bench.watch import EXIT_AGAIN, EXIT_FAILED, Watch

if TYPE_CHECKING:
    from backends.base import Backend
    from bench.record import RecordFile

EXIT_USAGE = 2
SILENT_S = 3  # more than a launcher needs to end the ranks that are left


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
        config = cut(parse(arguments), arguments, world.size)
    except SystemExit as leaving:
        return leave(int(leaving.code or 0), first)
    sys.stderr = sys.__stderr__
    try:
        world.check_launcher(config.engine.backend)
        config.micro_batch(world.size)
        if rejoin.keeper():
            return rejoin.keep(config, world)
    except (LaunchError, ConfigError) as error:
        return refuse(error, first)
    world.publish()
    launched, kept = world.launcher != "python", rejoin.kept()
    watch = Watch(world.rank, world.size, config.measure.limit_s, launched=launched, again=kept)
    watch.start()  # before torch: its threads inherit which signals are blocked
    cores = settle(world, bind=config.measure.bind)
    try:
        return run(config, world, cores, watch)
    except BaseException as error:
        if watch.joined:
            watch.failed(error)
        if not isinstance(error, Exception):
            raise
        expected = isinstance(error, (ValueError, RuntimeError)) and not type(error).__module__.startswith("torch")
        text = str(error) if expected else f"{type(error).__name__} before the run began: {error}"
        status = refuse(error, first, text)
        # what is no value of the user's may be another rank's end
        return EXIT_AGAIN if kept and cause_of(error) in PASSING and not isinstance(error, ValueError) else status


def run(config: RunConfig, world: World, cores: Cores, watch: Watch) -> int:
    """Join the other ranks, measure, write the record. Library warnings are the libraries' business: results speak here."""
    warnings.simplefilter("ignore")
    threads, kept = apply_threads(cores), keep_freed()
    gc.disable()  # what is imported stays: looking through it again and again would be a fifth of the time it takes

    from bench import restart, surroundings
    from bench.experiment import measure
    from bench.keeper import Keeper
    from bench.measure import load
    from bench.record import RecordError, RecordFile, now, run_id
    from bench.report.summary import print_summary
    from bench.workload import Workload

    backend = join(config, world)
    gc.freeze()
    gc.enable()
    name = backend.gather(run_id(config.engine.label, world.size, commit()["commit"]))[0]
    start = restart.choose(backend, config)
    file = RecordFile(config.output.results.absolute(), name)
    who = {
        "rank": world.rank,
        "host": socket.gethostname(),
        "pid": watch.pid,
        "cores": list(cores.seen),
        "threads": threads,
        "heap_kept": kept,
    }
    everyone = backend.gather(who)
    content = opening(config, world, cores, everyone) | {"run_id": name, "resumed": start.record()}
    content["world"]["device"] = backend.device.type
    around = backend.gather(surroundings.seen(cores, threads, first=world.local_rank == 0))
    content["warnings"] = surroundings.warnings(around)
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
        raise RecordError(problem)

    watch.join(file.workdir, partial(close_record, file, content, [entry["host"] for entry in everyone]))
    backend.gather(None)
    workload = Workload(config, world.rank, world.size)
    result = measure(backend, workload, config, watch, file.workdir, Keeper(backend, config, watch, start, name))
    watch.at(backend.steps, "write")
    path = file.path
    if world.rank == 0:
        content |= {"workload": workload.describe(), **result, "status": "done", "finished": now()}
        content["engine"] |= {key: content.pop(key) for key in ("asked", "applied", "native")}
        content["ranks"] = [{**identity, **values} for identity, values in zip(everyone, result["ranks"], strict=True)]
        content["warnings"] += load.warnings(content["ranks"])
        path = file.finish(content)
        if path != file.path:
            print(f"bench.run: {file.path.parent} took no more data; the record is {path}", file=sys.stderr)
        print_summary(content, None if launched() else path)
    backend.gather(None)  # the record stands before anybody leaves
    watch.finish()
    backend.gather(None)  # nobody looks any more: the folder may go
    backend.close()
    if world.rank == 0:
        shutil.rmtree(file.workdir, ignore_errors=True)
    return 0 if path == file.path else EXIT_FAILED


def join(config: RunConfig, world: World) -> "Backend":
    """The engine's adapter, with all ranks in it. Raises ValueError for unknown names, BackendUnavailable."""
    import backends
    from backends.base import EngineConfig
    from bench.workload import check_names

    check_names(config.workload)
    settings = EngineConfig(
        accumulation=config.training.accumulation,
        micro_batch=config.micro_batch(world.size),
        clip_norm=config.training.clip_norm,
        bucket_mb=config.engine.bucket_mb,
        zero_stage=config.engine.zero_stage,
        offload_optimizer=config.engine.offload_optimizer,
        transport=config.engine.transport,
        device=device(config, world),
        tuning=config.tuning,
        timeout_s=config.measure.limit_s * 2,  # the watch speaks first: it knows who and where
    )
    return backends.load(config.engine.backend)(world, settings)


def opening(config: RunConfig, world: World, cores: Cores, everyone: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the record says before the first step."""
    from bench.lab import facts
    from bench.record import PLACE, SCHEMA, UNMEASURED, now, place_of

    lab = facts.here()
    return {
        "schema": SCHEMA,
        "run_id": None,
        "status": "running",
        "failure": None,
        "losses": [],
        "started": now(),
        "finished": None,
        "command": [sys.executable, *sys.orig_argv[1:]],
        "config": config.to_dict(),
        "experiment": config.experiment_id(),
        "track": config.track,
        "engine": {"label": config.engine.label},
        "world": {
            "size": world.size,
            "launcher": world.launcher,
            "hosts": sorted({entry["host"] for entry in everyone}),
            "oversubscribed": cores.oversubscribed or bool(lab and lab["shared_cores"]),
        },
        "lab": lab,
        "comparison": place_of(os.environ.get(PLACE)),
        **UNMEASURED,
    }


def close_record(
    file: "RecordFile", content: dict[str, Any], hosts: Sequence[str], failure: Failure, measured: Mapping[int, Any]
) -> None:
    """Write the failure and what was measured until then into the record, and say the one message."""
    from bench.record import now, sync

    on = f"on {hosts[failure.rank]}, " if len(set(hosts)) > 1 else ""
    where = f"rank {failure.rank} of {content['world']['size']}, {on}step {failure.step}, {failure.phase}"
    said = f"\nbench.run: {content['engine']['label']} failed on {where}: {failure.cause}: {failure.message}"
    path = None
    if file.path.exists():
        content = file.read() | {"status": "failed", "finished": now(), "failure": vars(failure)}
        content["ranks"] = [{"rank": rank, **values} for rank, values in measured.items() if values]
        path = file.finish(content, durable=False)  # a launcher that saw a rank die kills this one while a disk writes
        said += f"\nrecord: {path}"
    print(said, file=sys.stderr, flush=True)  # a host that does not share rank 0's folder has no more than this to tell
    if path is not None:
        sync(path)
        sync(path.parent)


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


def refuse(error: Exception, first: bool, text: str | None = None) -> int:
    """Say once what is wrong with the command; `text` where that is not the error's own.

    A rank that is not the first speaks where it is still there after its wait: the first one has not failed.
    """
    said = str(error) if text is None else text
    leave_word(error, said)
    code = leave(EXIT_USAGE, first)
    print(f"bench.run: {said}", file=sys.stderr, flush=True)
    return code


def leave(code: int, first: bool) -> int:
    """The silent ranks leave last: a launcher that sees one go kills the rest, also one that is about to speak."""
    if code and not first:
        time.sleep(SILENT_S)
    return code


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # all is written and left: a library that aborts while the interpreter ends must not undo that

"""One run: started under its engine's launcher, waited for, and its record kept whatever became of it."""

import contextlib
import dataclasses
import shutil
import signal
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

from bench import failed, failure, processes
from bench.config import RunConfig
from bench.failed import End
from bench.hosts.description import HOSTS, most, parse
from bench.launchers import Command, LaunchFailed, command, launcher
from bench.record import PLACE, now, sync

INCOMING = ".incoming"  # inside the results folder: one private folder a run, so that its record can't be mistaken
LIMIT_S = 1800.0
KILLED = (-signal.SIGKILL, 128 + signal.SIGKILL)  # how a launcher, or a shell in between, tells of SIGKILL


def run(
    config: RunConfig,
    ranks: int,
    *,
    limit_s: float = LIMIT_S,
    echo: Callable[[str], None] | None = None,
    build: Callable[[RunConfig, int], Command] = command,
    place: str | None = None,
) -> Path:
    """Start a run under its launcher, wait for it, and return its finished record in `config.output.results`.

    The record says `done` or `failed`: where the run left none, or an unfinished one, it is closed here as failed with
    the end of the log, which lies beside it. Raises LaunchFailed or ConfigError only where nothing was started. Ctrl-C
    (or what `bench.stopped` makes one) and `limit_s` (seconds, whole run) end every process of the run; Ctrl-C is raised
    again once the record is kept.
    `place`: NAME~INDEX of the comparison that this run is part of; the record says so, and where this process is killed
    its folder under `.incoming` is found by that name.
    """
    results = config.output.results
    mark = f"{place}~{uuid.uuid4().hex[:12]}" if place else uuid.uuid4().hex[:12]
    private = results / INCOMING / mark
    inside = dataclasses.replace(config, output=dataclasses.replace(config.output, results=private))
    what = build(inside, ranks)
    try:
        private.mkdir(parents=True)
        for name, text in what.files.items():
            Path(name).write_text(text)
    except OSError as error:
        raise LaunchFailed(
            f"no records can be written to {results}: {error.strerror}; give another --results"
        ) from error
    log, started = private / "log", now()
    program = launcher(config, most(parse(what.env[HOSTS])) if HOSTS in what.env else ranks)
    end = End("launcher", "the launcher ended without a record")
    kills = failure.memory_kills()
    env = what.env | {failure.WORD: str((private / failed.WORD_FILE).absolute())} | ({PLACE: place} if place else {})
    try:
        ended = processes.run(what.argv, env, log, limit_s=limit_s, mark=mark, echo=echo)
        if ended.limit:
            end = End("time limit", f"ended after {limit_s:.0f} s, the limit of a whole run", ours=True)
        elif ended.code in KILLED:
            cause, how = failure.killed(signal.SIGKILL, kills, failure.memory_kills())
            itself = ended.code < 0 and program != "python"  # not one of its ranks
            end = End("launcher" if itself and cause == "peer lost" else cause, f"{program} {how}")
        else:
            end = End("launcher", f"{program} ended with status {ended.code} and left no finished record")
    except OSError as error:
        end = End("launcher", f"could not start {what.argv[0]}: {error}")
    except KeyboardInterrupt as stop:
        end = End("interrupted", str(stop) or "interrupted by the user", ours=True)
        raise
    finally:
        record = keep(private, config, ranks, what, end, started, place)
    return record


def keep(
    private: Path, config: RunConfig, ranks: int, what: Command, end: End, started: str, place: str | None = None
) -> Path:
    """Move the finished record and the log out of the private folder, and remove that. Returns the record's new path.

    Where the results folder takes no more data, that is the spare folder of `RecordFile.finish`.
    """
    results, log = config.output.results, private / "log"
    record = failed.close(private, config, ranks, what.argv, end, log, started, place, what.env.get(HOSTS))
    for earlier in failed.close_earlier(private, record, log):
        moved(earlier, results / earlier.name)
    target = moved(record, results / record.name)  # its name holds the millisecond of its start
    kept = target.parent == results
    if log.exists():
        moved(log, target.with_suffix(".log"))
    if not kept:
        print(f"! {results} took no more data; the record is {target}", file=sys.stderr)
    sync(target.parent)
    shutil.rmtree(private, ignore_errors=not kept)
    with contextlib.suppress(OSError):  # not empty: another run uses it
        private.parent.rmdir()
    return target


def moved(path: Path, target: Path) -> Path:
    """Move a file, onto another file system too. Where its new folder refuses it, it stays where it is: the path tells."""
    try:
        return path.replace(target)
    except OSError:  # a record that was closed in the spare folder, which may be on another disk
        partial = target.with_name(f"{target.name}.partial")
    try:
        shutil.copyfile(path, partial)
        partial.replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink()
        return path
    path.unlink()
    return target

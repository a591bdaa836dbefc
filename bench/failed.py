"""Records of runs that could not finish their own: what the launcher saw, so that nothing is lost."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import environment, machine
from bench.config import RunConfig
from bench.failure import MEMORY_WORDS, Cause
from bench.hosts.description import most, parse
from bench.launchers import launcher
from bench.record import SCHEMA, UNMEASURED, RecordFile, now, place_of, run_id
from bench.sight import follows

TAIL_LINES = 40
WORD_FILE = "word"  # in the run's folder: why a rank refused to begin
HOST_FILE = "hosts.failed"  # which host failed first, and why: a run over several of them
VAGUE = ("error", "launcher", "interrupted")  # what a rank says that only lost the one that failed
SPEAKS = "bench.run: "  # how a rank begins the one line in which it refuses a command
EMPTY = ("grad_norms", "parameters", "traffic", "energy", "checkpoint", "workload")


@dataclass(frozen=True)
class End:
    """How a run ended, seen from outside. `message` is for tables; `ours`: we ended it, whatever its ranks say.

    `reason`: what the first rank that refused to begin said, which may stand nowhere in the log.
    """

    cause: Cause
    message: str
    ours: bool = False
    reason: str | None = None


def close(
    folder: Path,
    config: RunConfig,
    ranks: int,
    command: Sequence[str],
    end: End,
    log: Path,
    started: str,
    place: str | None = None,
    asked: str | None = None,
) -> Path:
    """The finished record of a run that ended in `folder`: the one it left, closed as failed where it is not whole.

    `place`: of a comparison, as `record.place_of` reads it. `asked`: the hosts of a run over several.
    """
    host = _read(folder / HOST_FILE)
    end = _better(end, folder, log, host)
    for path in sorted(
        folder.glob("*.json"), reverse=True
    ):  # a launcher that starts ranks again leaves one of each start
        try:
            record = json.loads(path.read_text())
        except json.JSONDecodeError:
            end = dataclasses.replace(end, message=f"{end.message}; it left {path.name}, which is not whole JSON")
            path.unlink()
            continue
        file, open_still = RecordFile(folder, path.stem), record["status"] == "running"
        if open_still:
            record = {**UNMEASURED, **record} | _left(file.workdir)
        if record["status"] == "running" or (end.ours and record["status"] == "failed"):
            return file.finish({**UNMEASURED, **record} | _ending(end, log, record.get("failure"), host))
        if record["status"] == "failed" and host:
            return file.finish(record | {"failure": _placed(record["failure"], host)})
        return file.finish(record) if open_still else path
    commit = environment.commit()
    program = launcher(config, most(parse(asked)) if asked else ranks)
    name = run_id(config.engine.label, ranks, commit["commit"])
    content = {
        "schema": SCHEMA,
        "run_id": name,
        "started": started,
        "command": list(command),
        "config": config.to_dict(),
        "experiment": config.experiment_id(),
        "track": config.track,
        "comparison": place_of(place),
        "engine": {"label": config.engine.label, "asked": None, "applied": None, "native": None},
        "world": {"size": ranks, "launcher": program, "hosts": None, "oversubscribed": None},
        "environment": {"machine": dataclasses.asdict(machine.look()), "asked_hosts": asked, **commit},
        **UNMEASURED,
        **dict.fromkeys(EMPTY),
        **{f"{each}_reason": "the run ended before it wrote a record" for each in EMPTY},
    }
    return RecordFile(folder, name).finish(content | _ending(end, log, None, host))


def close_earlier(folder: Path, last: Path, log: Path) -> list[Path]:
    """Records of the starts before the last one, finished: a launcher that starts lost ranks again leaves them in its folder."""
    earlier = sorted(path for path in folder.glob("*.json") if path.name != last.name)
    for path in earlier:
        record = json.loads(path.read_text())
        if record["status"] == "running":
            end = End("launcher", "all its ranks were lost at once; the launcher started them again")
            file = RecordFile(folder, path.stem)
            left = {**UNMEASURED, **record} | _left(file.workdir)
            file.finish(left if left["status"] == "failed" else left | _ending(end, log, None, None))
    return earlier


def _left(workdir: Path) -> dict[str, Any]:
    """What the ranks of a run left for the record that none of them lived to close: measurements, the first cause if they saw one.

    Where its launcher ends them within a second of a death, a slow disk is enough.
    """
    measured = {int(path.stem.partition("_")[2]): _read(path) for path in workdir.glob("rank_*.measured")}
    found: dict[str, Any] = {"ranks": [{"rank": rank, **values} for rank, values in sorted(measured.items()) if values]}
    told = [failure for path in workdir.glob("rank_*.failed") if (failure := _read(path))]
    if told:
        first = min(told, key=lambda failure: (follows(failure["cause"]), failure["time"]))
        found |= {"status": "failed", "failure": first, "finished": now()}
    return found


def _better(end: End, folder: Path, log: Path, host: dict[str, Any] | None) -> End:
    """`end` with the cause that a rank told before it had a record, or that the end of the log names beyond doubt."""
    if end.cause != "launcher":
        return end
    if told := _read(folder / WORD_FILE):
        return dataclasses.replace(end, cause=told["cause"], reason=told["message"])
    if host:
        end = End(host["cause"], f"host {host['host']}: {host['message']}")
    if end.cause != "launcher":
        return end
    tail = "\n".join(_lines(log)[-TAIL_LINES:])
    if any(word in tail.lower() for word in MEMORY_WORDS):
        return dataclasses.replace(end, cause="does not fit")
    if "ModuleNotFoundError: " in tail or "ImportError: " in tail:
        return dataclasses.replace(end, cause="import")
    return end


def _read(path: Path) -> dict[str, Any] | None:
    """A word that somebody left; None where nobody did, or was killed meanwhile."""
    try:
        told: dict[str, Any] = json.loads(path.read_text())
        return told
    except (OSError, ValueError):
        return None


def _placed(failure: dict[str, Any], host: dict[str, Any]) -> dict[str, Any]:
    """A failure that a rank wrote, with the host that failed first."""
    vague = failure["cause"] in VAGUE and host["cause"] != "launcher"
    message = f"host {host['host']}: {host['message']}\n{failure['message']}"
    better = {"rank": host["rank"], "cause": host["cause"]} if vague else {}  # who spoke is not who failed
    return failure | {"host": host["host"], "message": message} | better


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines() if log.is_file() else []


def _ending(end: End, log: Path, told: dict[str, Any] | None, host: dict[str, Any] | None) -> dict[str, Any]:
    """`told`: what the run itself said of its failure; where it was then is kept. `host`: the one that failed first."""
    lines = _lines(log)
    said = [line.partition(SPEAKS)[2] for line in lines if SPEAKS in line]
    reason = end.reason or (said[-1] if said else None)  # it says more than how the launcher ended
    first = f"{end.message}: {reason}" if reason else end.message
    place = {key: (told or {}).get(key) for key in ("rank", "step", "phase", "traceback")}
    if host:
        place |= {"host": host["host"], "rank": place["rank"] if host["rank"] is None else host["rank"]}
    failure = place | {"cause": end.cause, "message": "\n".join([first, *lines[-TAIL_LINES:]])}
    return {"status": "failed", "failure": failure, "finished": now()}

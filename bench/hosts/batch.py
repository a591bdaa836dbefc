"""`ringzero slurm`: a batch script that runs `ringzero launch` or `ringzero compare` on the nodes of its own job."""

import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from bench.config import ConfigError
from bench.launchers import HERE

COMMANDS = ("launch", "compare", "preflight")
TIME = re.compile(r"(\d+-)?\d+(:\d{2}){0,2}")  # minutes, H:MM:SS and D-HH:MM:SS among others, as sbatch reads them
WORD = re.compile(r"[A-Za-z0-9._,:@/+%-]+")
USAGE = "ringzero slurm --nodes 2 --tasks-per-node 4 -- launch --backend ddp"
LEAVES_S = 60  # before the time is up: enough to end a run everywhere and to keep its record


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """Write a batch script for Slurm. Behind `--` stands what it runs: launch, compare or preflight with their flags; the hosts
    are the job's own."""

    nodes: int = 2
    """Nodes of the job."""
    tasks_per_node: int = 1
    """Ranks that each node takes."""
    cpus_per_task: int | None = None
    """Cores of each rank."""
    gpus_per_node: int | None = None
    """GPUs of each node."""
    time: str = "01:00:00"
    """Longest duration of the job, as sbatch takes it: minutes, HH:MM:SS, or D-HH:MM:SS."""
    partition: str | None = None
    """Partition of the cluster."""
    account: str | None = None
    """Account that pays."""
    constraint: str | None = None
    """Feature that the nodes must have."""
    job_name: str = "ringzero"
    """Name of the job."""
    output: Path = Path("ringzero.sbatch")
    """The script."""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the script and say how it is submitted. Returns 0."""
    words = list(sys.argv[1:] if argv is None else argv)
    at = words.index("--") if "--" in words else len(words)
    asked = tyro.cli(Slurm, args=words[:at], prog="ringzero slurm")
    text = script(asked, words[at + 1 :])
    try:
        asked.output.write_text(text)
    except OSError as error:
        raise ConfigError(f"--output {asked.output}: {error.strerror}") from error
    print(f"wrote {asked.output}; submit it: sbatch {shlex.quote(str(asked.output))}")
    return 0


def script(asked: Slurm, words: Sequence[str]) -> str:
    """The whole batch script. `words`: the `ringzero` command. Raises ConfigError for what sbatch or that would refuse."""
    command = _command(words)
    check(asked)
    directives = {
        "job-name": asked.job_name,
        "nodes": asked.nodes,
        "ntasks-per-node": asked.tasks_per_node,
        "cpus-per-task": asked.cpus_per_task,
        "gpus-per-node": asked.gpus_per_node,
        "time": asked.time,
        "partition": asked.partition,
        "account": asked.account,
        "constraint": asked.constraint,
        "output": f"{asked.job_name}-%j.log",
        "signal": f"B:INT@{LEAVES_S}",
    }
    lines = ["#!/bin/bash"]
    lines += [f"#SBATCH --{name}={value}" for name, value in directives.items() if value is not None]
    lines += [
        "#SBATCH --exclusive",
        "set -euo pipefail  # --exclusive: other work on a node would be in the numbers",
        "",
        "# This checkout and its Python, on a folder that all nodes share. The first node runs this script: rank 0 is there.",
        f"cd {shlex.quote(str(HERE.parent))}",
        f"export PYTHONPATH={shlex.quote(str(HERE.parent))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "# exec: Slurm's signal before the end of the time reaches it, and the run's record is kept",
        f"exec {shlex.join([sys.executable, '-m', 'bench', *command])}",
        "",
    ]
    return "\n".join(lines)


def check(asked: Slurm) -> None:
    """Raise ConfigError for a value that sbatch would refuse, or read as something else."""
    counts = {"nodes": asked.nodes, "tasks-per-node": asked.tasks_per_node}
    optional = {"cpus-per-task": asked.cpus_per_task, "gpus-per-node": asked.gpus_per_node}
    for name, value in (counts | {k: v for k, v in optional.items() if v is not None}).items():
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is {value}; it must be at least 1")
    if not TIME.fullmatch(asked.time):
        raise ConfigError(f"--time {asked.time!r} is no duration; type, say, --time 01:30:00")
    texts = {"partition": asked.partition, "account": asked.account, "constraint": asked.constraint}
    for name, text in (texts | {"job-name": asked.job_name}).items():
        if text is not None and not WORD.fullmatch(text):
            raise ConfigError(f"--{name} {text!r}: a directive of sbatch takes one word")


def _command(words: Sequence[str]) -> list[str]:
    """The command with the flag that reads the job's nodes; checked here, since the job may wait for days."""
    if not words or words[0] not in COMMANDS:
        named = f"{words[0]!r}" if words else "nothing"
        raise ConfigError(f"behind -- stands {named}; there are {', '.join(COMMANDS)}. Type, say: {USAGE}")
    name, *flags = words
    if own := [flag for flag in flags if flag.split("=")[0] in ("--hosts", "--hostfile", "--allocation")]:
        raise ConfigError(f"{own[0]}: the hosts are those of the job; leave it out")
    made = [*flags, "--allocation"]
    if name == "launch":
        from bench.launching import parse

        parse(made)  # ends with a message where a flag is wrong
    else:
        from bench.compare import Compare
        from bench.hosts.command import Preflight

        kind = Compare if name == "compare" else Preflight
        tyro.cli(kind, args=made, prog=f"ringzero {name}", config=(tyro.conf.OmitArgPrefixes,))
    return [name, *made]

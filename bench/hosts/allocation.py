"""The hosts that a scheduler gave to this job, read from its environment: Slurm, PBS, LSF."""

import re
from collections.abc import Mapping
from pathlib import Path

from bench.hosts.description import NAME, Host, HostsError

# `a[001-003,7]b`: text and brackets by turns; commas inside brackets belong to them.
PART = re.compile(r"[^\[\],\s]+|\[[\d,-]+\]")
COUNT = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def read(env: Mapping[str, str]) -> tuple[Host, ...]:
    """The first allocation that the environment tells of. Raises HostsError where there is none, or where it is not whole."""
    if "SLURM_JOB_NODELIST" in env:
        return slurm(env)
    if "PBS_NODEFILE" in env:
        return _counted(_lines(env, "PBS_NODEFILE"), "PBS_NODEFILE")
    if "LSB_DJOB_HOSTFILE" in env:
        return _counted(_lines(env, "LSB_DJOB_HOSTFILE"), "LSB_DJOB_HOSTFILE")
    if "LSB_MCPU_HOSTS" in env:
        return _pairs(env["LSB_MCPU_HOSTS"])
    raise HostsError(
        "--allocation: this is no job of Slurm, PBS or LSF (SLURM_JOB_NODELIST, PBS_NODEFILE, LSB_DJOB_HOSTFILE and "
        "LSB_MCPU_HOSTS are not set); start it inside one, or name the hosts: --hosts a:4,b:4"
    )


def slurm(env: Mapping[str, str]) -> tuple[Host, ...]:
    """SLURM_JOB_NODELIST with as many ranks as SLURM_TASKS_PER_NODE says of each. Raises HostsError."""
    names = nodes(env["SLURM_JOB_NODELIST"])
    said = env.get("SLURM_TASKS_PER_NODE")
    if not said:
        raise HostsError("SLURM_TASKS_PER_NODE is not set; ask for the job with --ntasks-per-node")
    counts = tasks(said)
    if len(counts) != len(names):
        raise HostsError(
            f"SLURM_TASKS_PER_NODE={said} counts {len(counts)} nodes, SLURM_JOB_NODELIST={env['SLURM_JOB_NODELIST']} "
            f"names {len(names)}; name the hosts yourself: --hosts a:4,b:4"
        )
    return _once([Host(name, count) for name, count in zip(names, counts, strict=True)], "SLURM_JOB_NODELIST")


def tasks(text: str) -> list[int]:
    """Slurm's short form of a number a node: `4(x2),3` is 4, 4, 3. Raises HostsError."""
    found: list[int] = []
    for word in text.split(","):
        entry = COUNT.fullmatch(word.strip())
        if entry is None or int(entry[1]) < 1:
            raise HostsError(f"SLURM_TASKS_PER_NODE={text}: {word!r} is not a number of tasks such as 4 or 4(x2)")
        found += [int(entry[1])] * int(entry[2] or 1)
    return found


def nodes(text: str) -> list[str]:
    """Slurm's short form of names: `n[01-03,7],gpu1` is n01, n02, n03, n7, gpu1. Raises HostsError."""
    names: list[str] = []
    for word in _apart(text):
        parts = PART.findall(word)
        if "".join(parts) != word or not word:
            raise HostsError(f"SLURM_JOB_NODELIST={text}: {word!r} can't be read; name the hosts: --hosts a:4,b:4")
        made = [""]
        for part in parts:
            endings = _range(part[1:-1], text) if part.startswith("[") else [part]
            made = [start + ending for start in made for ending in endings]
        names += made
    if bad := [name for name in names if not re.fullmatch(NAME, name)]:
        raise HostsError(f"SLURM_JOB_NODELIST={text}: {bad[0]!r} is no name of a host; name them: --hosts a:4,b:4")
    return names


def _apart(text: str) -> list[str]:
    """Cut at the commas that are outside brackets."""
    words, depth = [""], 0
    for letter in text.strip():
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            words.append("")
        else:
            words[-1] += letter
    return words


def _range(text: str, whole: str) -> list[str]:
    """`01-03,7` is 01, 02, 03, 7: as many digits as the first number has."""
    found = []
    for word in text.split(","):
        first, dash, last = word.partition("-")
        if not first.isdigit() or (dash and not (last.isdigit() and int(first) <= int(last))):
            raise HostsError(f"SLURM_JOB_NODELIST={whole}: {word!r} is no range such as 01-12")
        found += [f"{number:0{len(first)}d}" for number in range(int(first), int(last if dash else first) + 1)]
    return found


def _lines(env: Mapping[str, str], variable: str) -> list[str]:
    """Names of a file in which a host stands once for each of its slots."""
    path = Path(env[variable])
    try:
        return path.read_text().split()
    except OSError as error:
        raise HostsError(f"{variable}={path}: {error.strerror}; name the hosts yourself: --hosts a:4,b:4") from error


def _counted(names: list[str], variable: str) -> tuple[Host, ...]:
    """Hosts in the order of their first slot."""
    if not names:
        raise HostsError(f"{variable} names no host; name them yourself: --hosts a:4,b:4")
    for name in names:
        if not re.fullmatch(NAME, name):
            raise HostsError(f"{variable}: {name!r} is no name of a host; name them yourself: --hosts a:4,b:4")
    return tuple(Host(name, names.count(name)) for name in dict.fromkeys(names))


def _pairs(text: str) -> tuple[Host, ...]:
    """LSF's `a 4 b 4`."""
    words = text.split()
    if not words or len(words) % 2 or not all(word.isdigit() and int(word) for word in words[1::2]):
        raise HostsError(f"LSB_MCPU_HOSTS={text!r} is not HOST SLOTS HOST SLOTS ...; name the hosts: --hosts a:4,b:4")
    return _once(
        [Host(name, int(count)) for name, count in zip(words[::2], words[1::2], strict=True)], "LSB_MCPU_HOSTS"
    )


def _once(hosts: list[Host], variable: str) -> tuple[Host, ...]:
    names = [host.name for host in hosts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise HostsError(f"{variable} names {twice[0]} twice; name the hosts yourself: --hosts a:4,b:4")
    return tuple(hosts)

"""What a run over a laboratory's hosts has left: half checkpoints, and of the laboratory itself processes, mounts, keys."""

from pathlib import Path

from bench import checkpoints as files
from bench.lab import holder
from bench.lab.lab import Lab

MOUNTS = Path("/proc/self/mountinfo")


def checkpoints(folder: Path) -> tuple[int, list[str]]:
    """How many whole checkpoints there are, and a line for each that is taken for one and is not: every byte of all is read.

    A folder with a dot in front is nobody's checkpoint; the next start removes it.
    """
    whole, wrong = 0, []
    for path in files.found(folder):
        try:
            files.check(path)
            whole += 1
        except files.CheckpointError as error:
            wrong.append(f"no whole checkpoint: {error}")
    return whole, wrong


def of_lab(lab: Lab, *folders: Path) -> list[str]:
    """What is left of a laboratory that was removed, a line each: processes in its networks or started in its hosts, its own
    files and keys, mounts on these or `folders`, and namespaces that a mount keeps."""
    networks = {each.network for each in lab.hosts}
    members = {each.pid: each for each in [*holder.inside(networks), *holder.of(lab.state)]}
    found = [f"process {pid} of the laboratory's hosts" for pid in members]
    home = lab.state.parent
    if home.exists():
        found += [f"file {path}" for path in [home, *sorted(home.rglob("*"))]]
    kept = {f"net:[{network}]" for network in networks}  # what a namespace is called where it is mounted: proc(5), nsfs
    for line in MOUNTS.read_text().splitlines():
        root, point = line.split()[3:5]
        if root in kept or any(Path(point).is_relative_to(each) for each in (home, *folders)):
            found.append(f"mount {point}")
    return found

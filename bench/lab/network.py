"""`ringzero lab network`: how long a step of each engine is on links of each bandwidth, and which to use where."""

import dataclasses
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.text import Text

from bench import matrix
from bench.announce import good
from bench.compare import available
from bench.comparison import Comparison
from bench.lab import experiment, network_figure, network_table, rights
from bench.lab.link import Link
from bench.lab.outlook import points, sentence
from bench.lab.rights import LabError
from bench.matrix import REFERENCE

WIDTH = 140  # of the table in a file or a pipe


@dataclass(frozen=True, kw_only=True)
class Network:
    """Take the network experiment, or go on with it where the same one was stopped: each run is a record like any other."""

    hosts: str | None = None
    """How many hosts, one rank each: 2,4. The matrix decides where this is not given."""
    links: str = "100mbit,1gbit,10gbit,none"
    """Bandwidths of every host's link; none is not shaped."""
    engines: str | None = None
    """Which engines: ddp,ring,horovod,fsdp,zero-0 to zero-3. The matrix decides where this is not given."""
    matrix: str = "network"
    """The matrix with the engines, the host counts (its ranks) and the configuration: a name, or a .toml file of your own."""
    repeats: int | None = None
    """Rounds over all of it; the matrix decides where this is not given."""
    mtu: int = 1500
    """Largest packet of the links, bytes."""
    seed: int | None = None
    """Order of the runs; drawn and remembered where it is not given."""
    results: Path = Path("results/network")
    """Folder of the records, the table and the figure."""
    run_limit_s: float = 300.0
    """A run that lasts longer is ended, with all its processes, and recorded as failed."""
    force: bool = False
    """Go on although the commit, the versions or the machine are not those it began with; it says so."""
    report: bool = False
    """Take no run: the table and the figure of the latest one again."""
    dry_run: bool = False
    """Show the runs in their order; take none."""


def main(argv: Sequence[str]) -> int:
    """Returns 0 where every run is verified, 1 where one is not, 130 after Ctrl-C."""
    asked = tyro.cli(Network, args=argv, prog="ringzero lab network")
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDTH)
    if asked.report:
        show(*experiment.read(asked.results, None), asked.results, console)
        return 0
    chosen, links = chosen_of(asked)
    seed = secrets.randbelow(10**6) if asked.seed is None else asked.seed
    _, missing = available(chosen.cells())
    if asked.dry_run:
        for cell in experiment.plan(chosen, links, seed):
            console.print(str(cell) + (f": left out, {missing[cell.label]}" if cell.label in missing else ""))
        return 0
    rights.check()
    for label, why in missing.items():
        console.print(Text(f"left out: {label}: {why}", "yellow"), soft_wrap=True)
    kept, records = experiment.take(
        chosen, links, asked.results, console,
        seed=seed, missing=missing, mtu=asked.mtu, limit_s=asked.run_limit_s, force=asked.force,
    )  # fmt: skip
    show(kept, records, asked.results, console)
    if kept.ended == "interrupted":
        console.print("stopped; the same command goes on with it")
        return 130
    return 0 if good(records) else 1


def chosen_of(asked: Network) -> tuple[matrix.Matrix, list[str]]:
    """The matrix with what the flags change, and the links. Raises LabError, MatrixError."""
    chosen = matrix.read(asked.matrix)
    changed: dict[str, Any] = {}
    if asked.hosts is not None:
        words = asked.hosts.split(",")
        if not all(word.strip().isdigit() and int(word) >= 2 for word in words):
            raise LabError(f"--hosts is {asked.hosts!r}; give numbers of hosts, from 2: --hosts 2,4")
        changed["ranks"] = [int(word) for word in words]
    if asked.engines is not None:
        changed["engines"] = [REFERENCE, *(word.strip() for word in asked.engines.split(",") if word != REFERENCE)]
    if asked.repeats is not None:
        changed["repeats"] = asked.repeats
    links = [str(Link.read(word)) for word in asked.links.split(",")]
    if len(set(links)) != len(links):
        raise LabError(f"--links names one twice: {asked.links}")
    return dataclasses.replace(chosen, **changed), links


def show(kept: Comparison, records: Sequence[dict[str, Any]], results: Path, console: Console) -> None:
    """Table, sentences and figure; the last two also as files beside the records."""
    found = points(records)
    failed = [record for record in records if record["status"] != "done"]
    if found:
        console.print(network_table.terminal(found))
    for hosts in sorted({point.hosts for point in found}):
        console.print(sentence(found, hosts), soft_wrap=True)
    for record in failed:
        console.print(
            Text(f"failed: {record['engine']['label']} x{record['world']['size']}: {record['run_id']}", "red"),
            soft_wrap=True,
        )
    if not found:
        return
    (results / "network.md").write_text(network_table.markdown(found, f"Network experiment {kept.name}"))
    written = [results / "network.md"]
    try:
        from bench.report.plots import catalog
    except ImportError:
        console.print("no figure without matplotlib; type: pip install -c constraints.txt -e '.[plots]'")
    else:
        commit = kept.began.get("commit")
        source = f"{kept.began.get('cpu')}; {kept.started[:10]}; commit {commit}; {len(records)} runs, order of seed {kept.seed}."
        written += catalog.save(network_figure.draw(found, source), results / "network", ("png", "svg"))
    console.print("\n".join(f"wrote {path}" for path in written), soft_wrap=True)

"""The `ringzero` command. Each subcommand's module is loaded only when it is asked for, so that help is immediate."""

import contextlib
import difflib
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from bench.stopped import heard

PROGRAM = "ringzero"
# name: (module:function(argv) -> exit code, one line of help), in the order of use
COMMANDS: dict[str, tuple[str, str]] = {
    "doctor": ("bench.doctor:main", "what is installed and bound here, and what would make a number wrong"),
    "launch": (
        "bench.launching:main",
        "one run, all its ranks, under the engine's own launcher; over several hosts too",
    ),
    "compare": ("bench.compare:main", "a matrix of runs: every engine against one plain process"),
    "tune": ("bench.tune:main", "each engine at its best within the same number of trials, and what that is worth"),
    "preflight": (
        "bench.hosts.command:main",
        "are these hosts ready: versions, clocks, networks, ports; which one differs",
    ),
    "slurm": ("bench.hosts.batch:main", "a batch script for Slurm, of one run or of a comparison"),
    "report": ("bench.commands:report", "the tables of a comparison: terminal, Markdown, one HTML page, CSV, Parquet"),
    "plot": ("bench.commands:plot", "the figures of a comparison, as PNG, SVG or PDF"),
    "plan": ("bench.plan.command:main", "memory on machines that are not here: fits or not, and what to change"),
    "diff": ("bench.diff:main", "what became slower, heavier or less accurate between two sets of records"),
    "aa": ("bench.aa:main", "one engine against itself: how often are its runs called different here"),
    "export": ("bench.export:main", "a comparison for MLPerf logging, pytest-benchmark or TensorBoard"),
    "evaluate": (
        "bench.evaluate:main",
        "AUROC, PRO and accuracy of a checkpoint, beside baselines and published numbers",
    ),
    "predict": ("bench.predict:main", "where one picture is defective, and what the LLM says of it"),
    "chat": ("bench.chat:main", "a conversation about a picture"),
    "ring": ("bench.explain.command:main", "watch a ring all-reduce: every step in the terminal, and as an animation"),
    "collectives": (
        "bench.collectives.command:main",
        "every library's all-reduce, reduce-scatter, all-gather, broadcast: latency, bandwidth",
    ),
    "lab": (
        "bench.lab.command:main",
        "hosts on this machine with links of a chosen bandwidth: compare engines over a network",
    ),
    "run": ("bench.run:main", "one rank of one run; what the launchers start"),
    "data": ("bench.data:main", "look at a data set, check its files, make others of it"),
    "assets": ("model.assets:main", "fetch what a preset or a data set needs, with its licence"),
}
EXAMPLES = (
    ("ringzero compare quick", "every installed engine, a few minutes on two cores"),
    ("ringzero launch --ranks 2 --backend ddp", "one engine"),
    ("ringzero launch --ranks 2 --backend ring --dry-run", "the exact command, not run"),
    ("ringzero launch --hosts a:4,b:4 --backend ddp", "over two hosts: docs/clusters.md"),
    ("ringzero lab network", "engines on slow links, on this machine: docs/lab.md"),
    ("ringzero report", "the latest comparison again"),
)


def usage() -> str:
    """The help of the command itself."""
    width = max(map(len, COMMANDS))
    wide = max(len(example) for example, _ in EXAMPLES)
    lines = [
        "usage: ringzero COMMAND [flags]",
        "",
        "One model, every data-parallel engine, one loop, one clock: DDP, FSDP, DeepSpeed ZeRO 0 to 3, Horovod and a",
        "pure-Python ring, each checked against one plain process before its speed is reported.",
        "",
        "commands:",
    ]
    lines += [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    lines += [
        "",
        "examples:",
        *(f"  {example:<{wide}}  # {text}" for example, text in EXAMPLES),
        "",
        "ringzero COMMAND --help lists a command's flags.",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; returns the exit code: 0 good, 1 a run or a verdict is not, 2 a wrong command or setting."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        print(usage())
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1)
        meant = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(COMMANDS)}"
        print(f"{PROGRAM}: no command {name!r}; {meant}", file=sys.stderr)
        return 2
    watches = name == "run"  # a rank takes its signals itself
    try:
        with contextlib.nullcontext() if watches else heard():
            module, _, function = COMMANDS[name][0].partition(":")
            return int(getattr(import_module(module), function)(arguments[1:]) or 0)
    except KeyboardInterrupt as stop:
        with contextlib.suppress(OSError):  # the terminal may be gone
            print(f"\n{PROGRAM} {name}: {str(stop) or 'stopped'}", file=sys.stderr)
        return 128 + getattr(stop, "number", signal.SIGINT)
    except expected() as error:
        print(f"{PROGRAM} {name}: {error}", file=sys.stderr)
        return 2


def expected() -> tuple[type[Exception], ...]:
    """Errors that say what the user should change. A module that is not loaded can't have raised its own."""
    named = {
        "bench.config": "ConfigError",
        "bench.launchers": "LaunchFailed",
        "bench.lab.rights": "LabError",
        "bench.matrix": "MatrixError",
        "bench.comparison": "ComparisonError",
        "bench.report.load": "Unreadable",
        "bench.report.page": "PageError",
        "bench.record": "RecordError",
        "model.assets": "AssetError",
        "model.data": "DataError",
        "backends.world": "LaunchError",
        "backends.base": "BackendUnavailable",
    }
    return tuple(getattr(sys.modules[module], name) for module, name in named.items() if module in sys.modules)


if __name__ == "__main__":
    sys.exit(main())

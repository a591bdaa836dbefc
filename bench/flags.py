"""The command line of one run: its flags are the fields of the configuration."""

from collections.abc import Sequence

import tyro

from bench.config import RunConfig

DESCRIPTION = """Train AnomalyGPT under one engine and write a record of it.

Each engine has its own launcher:

    horovodrun -np 2 python -m bench.run --backend horovod
    deepspeed --num_accelerators 2 bench/run.py --backend deepspeed --zero-stage 2
    torchrun --nproc-per-node 2 -m bench.run --backend ddp        (fsdp and ring too)
    mpirun -np 2 python -m bench.run --backend ring
    python -m bench.run --backend single

or let `ringzero launch --ranks 2 --backend ...` find the command."""


def parse(argv: Sequence[str], *, prog: str = "bench.run") -> RunConfig:
    """The configuration that flags describe. For anything else: one message on stderr and SystemExit(2)."""
    # The deepspeed launcher puts --local_rank=N before our flags; the environment says the same.
    own = [word for word in argv if not word.startswith(("--local_rank=", "--local-rank="))]
    return tyro.cli(RunConfig, args=own, prog=prog, description=DESCRIPTION, config=(tyro.conf.OmitArgPrefixes,))

"""The command line of one run: its flags are the fields of the configuration."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import tyro

from bench.config import Engine, RunConfig, Training, Workload

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
    settings = (tyro.conf.OmitArgPrefixes,)
    varied = defaults(own)
    if varied is None:
        return tyro.cli(RunConfig, args=own, prog=prog, description=DESCRIPTION, config=settings)
    return tyro.cli(RunConfig, args=own, prog=prog, default=varied, description=DESCRIPTION, config=settings)


def cut(config: RunConfig, argv: Sequence[str], ranks: int) -> RunConfig:
    """With one micro-batch a step where a rank gets fewer samples than micro-batches, and `argv` does not ask for them."""
    asked = any(word.partition("=")[0] == "--accumulation" for word in argv)
    training = config.training
    if asked or training.global_batch % ranks or training.global_batch // ranks >= training.accumulation:
        return config
    return replace(config, training=replace(training, accumulation=1))


def defaults(argv: Sequence[str]) -> RunConfig | None:
    """What flags that are not given mean: with `--variant`, what the report's variant trained with."""
    words = [part for word in argv for part in word.split("=", 1)]
    name = words[words.index("--variant") + 1] if "--variant" in words[:-1] else None
    if name is None:
        return None
    from model.variants import VARIANTS, training

    if name not in VARIANTS:
        return None  # the parser says which there are
    return RunConfig(
        engine=Engine(backend=tyro.MISSING),
        workload=Workload(variant=cast(Any, name)),
        training=Training(**training(VARIANTS[name])),
    )

"""How a matrix's axes beside engine, ranks and repeats become a run's configuration: precision, variant, batch and its cut.

What has to be equal for two runs to be compared: the global batch and everything else that decides what is learned (the
experiment, `RunConfig.experiment_id`). How a rank cuts its share of it into micro-batches is not part of that: the loss is
the mean over the global batch however it is cut, so runs with other micro-batches are verified against the same plain
process. Their speed and memory are not comparable, since a kernel's speed depends on the shape it sees: each micro-batch
has its own run of `single`, and its own table.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.config import ConfigError, Training
from bench.flags import defaults

Scaling = Literal["strong", "weak"]
Values = dict[str, dict[str, Any]]  # nested as RunConfig's groups


@dataclass(frozen=True)
class Point:
    """A place on these axes; None: not an axis, the configuration decides."""

    precision: str | None = None
    variant: str | None = None
    micro_batch: int | None = None


NOWHERE = Point()


def points(precision: Sequence[str], variant: Sequence[str], micro_batch: Sequence[int]) -> Iterator[Point]:
    """Every combination."""
    for each in itertools.product(precision or (None,), variant or (None,), micro_batch or (None,)):
        yield Point(*each)


def configured(config: Mapping[str, Mapping[str, Any]], point: Point) -> Values:
    """The overrides of a matrix with a point's precision and variant; a variant brings its own training, as its flag does."""
    made = {group: dict(values) for group, values in config.items()}
    for name in ("precision", "variant"):
        if (value := getattr(point, name)) is not None:
            made.setdefault("workload", {})[name] = value
    variant = made.get("workload", {}).get("variant")
    trained_as = defaults(["--variant", variant]) if isinstance(variant, str) else None
    if trained_as is not None:
        asked = made.get("training", {})
        steps = {"epochs": None} if "steps" in asked else {}  # a matrix that counts steps does not want its epochs
        made["training"] = vars(trained_as.training) | steps | asked
    return made


def cut(values: Values, ranks: int, *, plain: bool, rank_batch: int | None, micro_batch: int | None) -> None:
    """Set the global batch and the accumulation count of a run whose experiment has `ranks` ranks.

    `rank_batch`: samples of a rank in one step (weak scaling); None: the global batch is as configured (strong).
    `micro_batch`: samples of one micro-batch; None: the accumulation count is as configured. `plain`: the run is one
    plain process on the whole global batch. It takes micro-batches as large as a rank's, so that its kernels see the
    same shapes; without either axis it takes as many as a rank does, as everywhere else.
    Raises ConfigError where the batch can't be cut so.
    """
    training = values.setdefault("training", {})
    accumulation = training.get("accumulation", Training.accumulation)
    if rank_batch is not None:
        training["global_batch"] = rank_batch * ranks
        training["accumulation"] = accumulation * (ranks if plain else 1)
    if micro_batch is None:
        return
    batch = training.get("global_batch", Training.global_batch)
    if batch % (ranks * micro_batch):
        share = f"{batch // ranks} samples" if batch % ranks == 0 else f"{batch}/{ranks} of the batch"
        raise ConfigError(
            f"a rank's share of a global batch of {batch} on {ranks} ranks, {share}, can't be cut into micro-batches of "
            f"{micro_batch}; each of micro_batch must divide it for every one of ranks"
        )
    training["accumulation"] = batch // (micro_batch * (1 if plain else ranks))

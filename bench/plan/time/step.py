"""A row's step in time: the network and setup of bench/plan/memory/, as bench/plan/time/prediction.py takes them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bench.config import ConfigError
from bench.plan.machines.machine import Machine
from bench.plan.memory.network import Anomaly, Network
from bench.plan.memory.transformer import Transformer
from bench.plan.recommend import cost, energy
from bench.plan.rows import Step
from bench.plan.setup import Setup
from bench.plan.time import prediction as time
from bench.plan.time import work
from bench.plan.time.constants import Constants
from bench.plan.time.prediction import Prediction
from bench.plan.time.work import Work

PRECISIONS: Mapping[str, Literal["bf16", "fp16", "fp32"]] = {
    "fp32": "fp32", "amp_bf16": "bf16", "mixed_bf16": "bf16", "mixed_fp16": "fp16",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Timed:
    """A prediction, and what follows from it. `efficiency`: throughput a rank over one rank's, the batch of a rank the same."""

    prediction: Prediction
    efficiency: float
    cost: float | None
    """Of a million samples; None: no price was stated."""
    joules: float | None
    """Of a sample, at the devices' power limit; None: it is not known."""


@dataclass(frozen=True)
class Untimed:
    """Why a row has no time."""

    reason: str


def asker(constants: Constants, price_per_hour: float | None) -> Step:
    """What `rows` asks of each row: a Timed, or an Untimed where the model has nothing to say. Raises ConfigError for a price of 0."""
    if price_per_hour is not None and not price_per_hour > 0:
        raise ConfigError(f"--price-per-hour is {price_per_hour}; it must be above 0")

    def ask(network: Network, setup: Setup, machine: Machine) -> Timed | Untimed:
        if setup.offload != "none":
            return Untimed("offloading: what travels to the host takes time that was never calibrated")
        try:
            given = work_of(network, setup, machine)
            found = time.predict(given, setup.engine, setup.ranks, machine, constants)
            one = time.predict(given, setup.engine, 1, machine, constants)
        except ConfigError as error:
            return Untimed(str(error))
        return Timed(
            prediction=found,
            efficiency=time.efficiency(found, one),
            cost=None if price_per_hour is None else cost(found, price_per_hour),
            joules=None if machine.device.power_w is None else energy(found, machine.device.power_w),
        )

    return ask


def work_of(network: Network, setup: Setup, machine: Machine) -> Work:
    """Raises ConfigError for a network of another kind."""
    wide = setup.recipe in ("fp32", "amp_bf16")
    settings: dict[str, Any] = {
        "micro_batch": setup.micro_batch,
        "accumulation": setup.accumulation,
        "precision": PRECISIONS[setup.recipe],
        "gradient_bytes": 4 if wide else 2,
        "parameter_bytes": 4 if wide else 2,
        "recomputed": setup.checkpointing == "full",
        "bucket_mb": setup.bucket_mb,
        "real_scatter": machine.device.kind == "gpu",
    }
    if isinstance(network, Anomaly):
        return work.of(network.cost, **settings)
    if isinstance(network, Transformer):
        sizes = (network.layers, network.hidden, network.sequence, network.vocabulary)
        return work.transformer(*sizes, parameters=float(network.parameters), **settings)
    raise ConfigError(f"{network.name}: its time is not modelled")

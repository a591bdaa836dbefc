"""What follows from a record's raw numbers and from what the reader states: tokens and FLOPs a second, MFU, cost, energy.

A unit is what is bought and what has a peak: a GPU, one a rank, or, on CPUs, a host, however many of its cores the ranks held.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.config import ConfigError
from bench.record import first_step

Record = Mapping[str, Any]
HOURS = 3600.0


class Value(NamedTuple):
    """A number, or None and why there is none."""

    value: float | None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What no record can know. peak_tflops: 10^12 FLOP/s of one unit in the run's precision; price_per_hour: of one unit."""

    peak_tflops: float | None = None
    price_per_hour: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("peak-tflops", self.peak_tflops), ("price-per-hour", self.price_per_hour)):
            if value is not None and not value > 0:
                raise ConfigError(f"--{name} is {value}; it must be above 0")


NOTHING = Stated()


def units(record: Record) -> tuple[int, str]:
    """How many, and what one is called."""
    if (record["world"].get("device") or "cpu") == "cuda":
        return record["world"]["size"], "GPU"
    return len(record["world"].get("hosts") or ()) or 1, "host"


def derive(record: Record, samples_per_s: float | None, stated: Stated) -> dict[str, Value]:
    """By name, from the throughput of a run or of all runs of a row (None: it may not speak).

    tokens_per_s: text positions (padding included: they are computed) and prefix positions of all samples. model_flops_per_s:
    forward and backward of the closed form, frozen layers for what they cost, nothing recomputed. mfu: of the units' stated
    peak (Chowdhery et al. 2022, appendix B). cost_per_million_samples: in the price's currency. joules_per_sample: of the
    timed window, idle power included.
    """
    workload, (count, unit) = record.get("workload") or {}, units(record)
    if samples_per_s is None:
        silent = Value(None, "the run has no speed that may be shown")
        return dict.fromkeys(("tokens_per_s", "model_flops_per_s", "mfu", "cost_per_million_samples"), silent) | {
            "joules_per_sample": _energy(record)
        }
    flops = (workload.get("cost") or {}).get("flops_per_sample")
    mixed = workload.get("instruction_tokens") is not None
    text, prefix = workload.get("text_tokens"), workload.get("prefix_tokens")
    tokens = None if mixed or text is None or prefix is None else text + prefix
    found = {
        "tokens_per_s": _times(tokens, samples_per_s, "tokens", mixed),
        "model_flops_per_s": _times(None if mixed else flops, samples_per_s, "FLOPs", mixed),
    }
    rate = found["model_flops_per_s"]
    if stated.peak_tflops is None:
        found["mfu"] = Value(None, f"no peak was stated; type: --peak-tflops N (of one {unit}, in the run's precision)")
    elif rate.value is None:
        found["mfu"] = rate
    else:
        found["mfu"] = Value(rate.value / (stated.peak_tflops * 1e12 * count))
    if stated.price_per_hour is None:
        found["cost_per_million_samples"] = Value(
            None, f"no price was stated; type: --price-per-hour N (of one {unit})"
        )
    else:
        found["cost_per_million_samples"] = Value(stated.price_per_hour * count / HOURS / samples_per_s * 1e6)
    return found | {"joules_per_sample": _energy(record)}


def _times(each: float | None, samples_per_s: float, what: str, mixed: bool) -> Value:
    if each is not None:
        return Value(each * samples_per_s)
    if mixed:
        return Value(None, "instruction samples have another length: no single count a sample")
    return Value(None, f"the record does not hold the {what} of a sample")


def _energy(record: Record) -> Value:
    energy = record.get("energy") or {}
    if energy.get("joules") is None:
        return Value(None, str(energy.get("joules_reason") or "the run did not measure it"))
    if len(record["world"].get("hosts") or ()) > 1:
        return Value(None, "the counters of one host only were read")
    training = record["config"]["training"]
    return Value(energy["joules"] / (training["global_batch"] * (len(record["losses"]) - first_step(record))))

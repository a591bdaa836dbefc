"""Our own records against the closed form: what each rank held, category by category.

Judged are tensors that exist. The resident peak of a CPU process is mostly not tensors (libraries, what malloc keeps, Python), and
no closed form speaks of it: what share of it the tensors explain is told instead. A GPU's allocated peak is judged.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.table import Table

from bench.memory_model import derived
from bench.plan.memory.closed_form import exchanged, predict
from bench.plan.memory.network import Anomaly
from bench.plan.memory.recipe import recipe
from bench.plan.rows import SHORT
from bench.plan.setup import ENGINES, OPTIMIZERS, Setup
from bench.plan.validation.judged import plain
from model import preset

JUDGED = ("parameters", "gradients", "optimizer", "buffers", "activations")
LIMIT = 0.05
Record = Mapping[str, Any]


@dataclass(frozen=True)
class Held:
    """One rank of one record: bytes by category, predicted and measured; its peak, as measured."""

    engine: str
    ranks: int
    rank: int
    file: str
    predicted: Mapping[str, float]
    measured: Mapping[str, float]
    peak: float
    peak_predicted: float | None

    def error(self, category: str) -> float:
        """Relative; `all` is the sum of the categories, `peak` a GPU's (infinite where none was predicted)."""
        if category == "all":
            found, true = sum(self.predicted.values()), float(sum(self.measured.values()))
        elif category == "peak":
            found, true = self.peak_predicted or math.inf, self.peak
        else:
            found, true = self.predicted[category], self.measured[category]
        return (found - true) / true if true else (0.0 if not found else math.inf)


def network(record: Record) -> Anomaly:
    """The model of a record, with the tokens and classes that it saw. Raises KeyError where the record holds no cost."""
    work, cost = record["config"]["workload"], record["workload"]["cost"]
    config = replace(preset(work["preset"]), bank_shots=work["shots"], bank_rotations=work["rotations"])
    answers = cost["forward"]["llm_head"] / (2 * config.llm_width * config.llm_vocab)
    return Anomaly(
        config=config,
        text_tokens=record["workload"]["text_tokens"],
        answer_tokens=answers,
        classes=len(record["workload"]["classes"]),
    )


def setup(record: Record) -> Setup:
    """How it was trained. `single` is a replica alone."""
    config, applied = record["config"], record["engine"].get("applied") or {}
    engine = config["engine"]
    label = engine["backend"] if engine["backend"] != "deepspeed" else f"zero-{engine['zero_stage']}"
    return Setup(
        engine="ddp" if label == "single" else label,
        ranks=record["world"]["size"],
        recipe=config["workload"]["precision"],
        optimizer=config["training"]["optimizer"],
        micro_batch=record["workload"]["micro_batch"],
        accumulation=config["training"]["accumulation"],
        bucket_mb=config["tuning"]["own_bucket_mb"] or engine["bucket_mb"],
        live=applied.get("max_live_parameters") or 0,
        overlap=bool(applied.get("overlap_comm", True)),
        shared=applied.get("transport") == "SharedMemory",
    )


def silent(record: Record) -> str | None:
    """Why a record can't be judged, or None."""
    if record.get("status") != "done":
        return "the run did not finish"
    if record["config"]["engine"]["offload_optimizer"]:
        return "offloading has no derivation to the byte"
    if record["config"]["workload"]["variant"]:
        return "variants' layers keep more than the closed form counts"
    if record["workload"].get("instruction_tokens") is not None:
        return "instruction samples have another length"
    if not all(name in (rank.get("memory") or {}) for rank in record["ranks"] for name in JUDGED):
        return "its memory was not measured by category"
    if not (record["workload"].get("cost") or {}).get("forward"):
        return "it does not hold the cost of a sample"
    return None


def judge(record: Record, file: str) -> list[Held]:
    """One entry a rank."""
    net, how = network(record), setup(record)
    kind = recipe(how.recipe)
    memory = predict(net, how)
    label = record["config"]["engine"]["backend"]
    always = 0 if label not in ("ring", "deepspeed") or how.base in ("zero-0", "zero-1", "zero-2") else 1
    buffers = net.buffer_bytes + always * exchanged(net, how, kind).always
    made = []
    for number, rank in enumerate(record["ranks"]):
        states = derived(
            how.base, net.shapes, optimizer=OPTIMIZERS[how.optimizer], rank=number, ranks=how.ranks, widths=kind.widths
        )
        assert states is not None
        predicted = {**states, "buffers": buffers, "activations": memory.activations}
        held = rank["memory"]
        cuda = (record["world"].get("device") or "cpu") == "cuda"
        measured = {name: held[name] for name in JUDGED}
        name = how.engine if label != "single" else label
        own = memory.peak if cuda else None
        made.append(Held(name, how.ranks, number, file, predicted, measured, held["peak_bytes"], own))
    return made


def table(found: Sequence[Held]) -> Table:
    """A line an engine and number of ranks: the worst error of each category over the ranks and runs that were `seen`.

    `of peak`: median share of the measured peak that the tensors are.
    """
    names = [*JUDGED, "all", *(["peak"] if any(each.peak_predicted for each in found) else [])]
    heads = ("engine", "ranks", "seen", *names, "of peak")
    titles = {SHORT.get(heading, heading): "left" if heading == "engine" else "right" for heading in heads}
    drawn = plain("our own records: worst error over ranks and runs", titles)
    order = {name: place for place, name in enumerate(("single", *ENGINES))}
    for engine, ranks in sorted({(each.engine, each.ranks) for each in found}, key=lambda key: (order[key[0]], key[1])):
        own = [each for each in found if (each.engine, each.ranks) == (engine, ranks)]
        worst = [max((each.error(name) for each in own), key=abs) for name in names]
        share = statistics.median(sum(each.measured.values()) / each.peak for each in own)
        drawn.add_row(engine, str(ranks), str(len(own)), *(f"{error:+.2%}" for error in worst), f"{share:.0%}")
    return drawn


def sentence(found: Sequence[Held]) -> tuple[bool, str]:
    """Whether all of it is within LIMIT, and what holds."""
    errors = {name: [abs(each.error(name)) for each in found] for name in (*JUDGED, "all")}
    errors["peak of a GPU"] = [abs(each.error("peak")) for each in found if each.peak_predicted]
    beyond = {name: sum(error > LIMIT for error in each) for name, each in errors.items()}
    worst = max(errors["all"])
    words = ", ".join(f"{name} {count} of {len(found)}" for name, count in beyond.items() if count and name != "all")
    kept = f"all tensors together: median {statistics.median(errors['all']):.2%}, worst {worst:.2%}"
    return not any(beyond.values()), f"{kept}; beyond {LIMIT:.0%}: {words or 'none'}"

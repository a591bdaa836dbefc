"""`ringzero plan`: what would happen on machines that are not here."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console

from bench.config import ConfigError
from bench.plan import outlook
from bench.plan.budget import budget
from bench.plan.machines import hardware
from bench.plan.machines.machine import Machine
from bench.plan.memory.fit import HEADROOM
from bench.plan.memory.network import Network, anomaly
from bench.plan.memory.transformer import Transformer
from bench.plan.outlook import TIME
from bench.plan.rows import ADVICE, MEMORY, advice, markdown, rows, table
from bench.plan.setup import ENGINES, Setup
from bench.plan.time.constants import chosen
from bench.plan.time.step import asker

SUBCOMMANDS = {
    "validate": "bench.plan.validation.command:main",
    "calibrate": "bench.plan.calibration.command:main",
    "simulate": "bench.plan.simulation.command:main",
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Predict every engine on machines that are not here: memory (fits or not, by category, what to change so that it fits), time,
    throughput, cost and energy of a step, the engine to take and why.

    `ringzero plan validate` holds the predictions against published numbers and against your own records, `plan calibrate` fits the
    time model to your own runs, `plan simulate` replays one step on up to ten thousand ranks.
    """

    preset: str | None = None
    """Model: tiny, small, base or 7b; or leave it out and give --hidden, --layers, --heads, --sequence, --vocabulary."""
    hidden: int | None = None
    """Of a plain transformer: width of its hidden states."""
    layers: int | None = None
    """Of a plain transformer: blocks."""
    heads: int | None = None
    """Of a plain transformer: attention heads."""
    sequence: int = 2048
    """Of a plain transformer: positions of a sample."""
    vocabulary: int = 50_304
    """Of a plain transformer: entries of its token table."""
    gpus: str = "1,8,64"
    """Numbers of devices, one rank each, separated by commas."""
    hardware: str = "a100-80g"
    """A known device (v100-32g, a100-40g, a100-80g, h100, h200, mi250x, xeon-8480, ...), or a .toml file of your own machine."""
    network: str | None = None
    """Link between nodes: edr, hdr, ndr, 10gbe, 100gbe, ...; the device's usual one where it is not given."""
    nics: int | None = None
    """Such links of a node; where it is not given, the device's usual number of its usual link, and 1 of another."""
    per_node: int | None = None
    """Devices of a node, where it is not the usual number."""
    engines: str = ",".join(ENGINES)
    """Which, separated by commas; also zero-1-offload, zero-2-offload, zero-3-offload and zero-3-offload-all."""
    precision: Literal["fp32", "amp_bf16", "mixed_fp16", "mixed_bf16"] = "amp_bf16"
    """amp_bf16: as in a run. mixed_*: 16-bit parameters and gradients with an fp32 master, as in the ZeRO paper."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """Update rule."""
    micro_batch: int = 8
    """Samples of one micro-batch of one rank."""
    accumulation: int = 1
    """Micro-batches of one step."""
    checkpointing: Literal["none", "selective", "full"] = "none"
    """What backward computes again instead of keeping it."""
    attention: Literal["fused", "eager"] = "fused"
    """Of a plain transformer: eager keeps the squares of positions."""
    text_tokens: int = 128
    """Of a preset: text positions of a sample, padding included."""
    answer_tokens: int = 64
    """Of a preset: those with a target."""
    classes: int = 1
    """Of a preset: classes with a memory bank."""
    bucket_mb: float = 25.0
    """MiB of gradients exchanged at once."""
    headroom: float = HEADROOM
    """Share of a device's memory that can't be used: CUDA's context, libraries, gaps between blocks."""
    constants: Path | None = None
    """Constants of the time model, as `ringzero plan calibrate` writes them; else those fitted to published throughputs."""
    price_per_hour: float | None = None
    """Of one device, in any currency."""
    budget: str | None = None
    """What do '$500, 24 h' buy? Money, time, or both: the engine and number of GPUs that take most samples."""
    markdown: Path | None = None
    """Write the table as Markdown to this file."""
    plot: Path | None = None
    """Draw throughput and memory over the number of GPUs: a .png, .svg or .pdf."""
    dry_run: bool = False
    """Preset: also run the real model on fake tensors under ddp and fsdp, at each number of GPUs, and show that peak."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns 0; of `validate`, 1 where a must-hold check fails."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in SUBCOMMANDS:
        module, _, function = SUBCOMMANDS[words[0]].partition(":")
        return int(getattr(import_module(module), function)(words[1:]))
    asked = tyro.cli(Plan, args=words, prog="ringzero plan")
    network = net(asked)
    machine = hardware.machine(asked.hardware, asked.network, per_node=asked.per_node, nics=asked.nics)
    if not 0 <= asked.headroom < 1:
        raise ConfigError(f"--headroom is {asked.headroom}; it is a share, from 0 to below 1")
    setups = [setup(asked, ranks, engine) for ranks in counts(asked.gpus) for engine in names(asked.engines)]
    constants, limits = chosen(asked.constants, asked.hardware), None if asked.budget is None else budget(asked.budget)
    made = rows(network, setups, machine, headroom=asked.headroom, step=asker(constants, asked.price_per_hour))
    console = Console(highlight=False)
    console.print(table(made, MEMORY, titled(network, machine, asked), console.width))
    for row in made:
        if not row.fits:
            console.print(f"{row.setup.engine} on {row.setup.ranks} does not fit; what would: {advice(row)}")
    console.print(table(made, TIME, "time of a step", console.width))
    for line in outlook.lines(made, constants, limits, asked.price_per_hour):
        console.print(line, soft_wrap=True)
    if asked.plot:
        from bench.plan import curves

        print(f"wrote {curves.write(made, asked.plot, titled(network, machine, asked).partition('. ')[0])}")
    if asked.dry_run:
        from bench.plan.memory.dryrun import report

        console.print(report(setups, network))
    if asked.markdown:
        try:
            asked.markdown.write_text(markdown(made, [*MEMORY, *TIME[2:], *ADVICE]))
        except OSError as error:
            raise ConfigError(f"--markdown {asked.markdown} can't be written ({error.strerror})") from error
        print(f"wrote {asked.markdown}")
    return 0


def net(asked: Plan) -> Network:
    """The model. Raises ConfigError for a preset and sizes together, or neither."""
    sizes = {"hidden": asked.hidden, "layers": asked.layers, "heads": asked.heads}
    given = [f"--{name}" for name, value in sizes.items() if value is not None]
    if asked.preset is not None:
        if given:
            raise ConfigError(f"{given[0]} belongs to a plain transformer; leave it out, or --preset")
        return anomaly(
            asked.preset, text_tokens=asked.text_tokens, answer_tokens=asked.answer_tokens, classes=asked.classes
        )
    if asked.hidden is None or asked.layers is None or asked.heads is None:
        missing = [f"--{name}" for name in sizes if f"--{name}" not in given]
        raise ConfigError(f"type --preset 7b, say, or the sizes of a transformer: {', '.join(missing)} missing")
    if asked.dry_run:
        raise ConfigError("--dry-run runs a preset's real model; add --preset tiny, say")
    return Transformer(
        hidden=asked.hidden,
        layers=asked.layers,
        heads=asked.heads,
        sequence=asked.sequence,
        vocabulary=asked.vocabulary,
        attention=asked.attention,
    )


def counts(text: str) -> list[int]:
    """Raises ConfigError for what is no list of whole numbers above 0."""
    try:
        found = [int(word) for word in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--gpus {text}: type numbers separated by commas, such as 8,16,64") from error
    if wrong := [count for count in found if count < 1]:
        raise ConfigError(f"--gpus {wrong[0]}: there must be at least one")
    return found


def names(text: str) -> list[str]:
    """Of engines; `Setup` checks them."""
    return [word.strip() for word in text.split(",") if word.strip()]


def setup(asked: Plan, ranks: int, engine: str) -> Setup:
    """One row's."""
    return Setup(
        engine=engine,
        ranks=ranks,
        recipe=asked.precision,
        optimizer=asked.optimizer,
        micro_batch=asked.micro_batch,
        accumulation=asked.accumulation,
        checkpointing=asked.checkpointing,
        bucket_mb=asked.bucket_mb,
    )


def titled(network: Network, machine: Machine, asked: Plan) -> str:
    """What the table is about, with what it assumes."""
    return (
        f"{network.name} on {machine.device.name}, {machine.ports}, {asked.precision}, micro-batch {asked.micro_batch} x "
        f"{asked.accumulation}, recomputed: {asked.checkpointing}. GiB of one rank; fits: peak within "
        f"{1 - asked.headroom:.0%} of {machine.device.memory_gib:g}"
    )

"""A matrix: which engines, at which rank counts, how often, with which configuration. Read from TOML."""

import dataclasses
import json
import random
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from backends.world import ACCEPTED
from bench import axes
from bench.config import ConfigError, RunConfig

FOLDER = Path(__file__).resolve().parent / "matrices"
TRACKS = ("controlled",)
REFERENCE = "single"
ZERO = re.compile(r"zero-([0-3])(-offload)?")


class MatrixError(ValueError):
    """A matrix that can't be read or run; the message says what is wrong and what would do."""


@dataclass(frozen=True)
class Cell:
    """One run of a comparison."""

    label: str
    ranks: int
    repeat: int
    config: RunConfig
    axes: tuple[str, ...] = ()  # where on the matrix's other axes: "amp_bf16", "micro-batch 4"

    def __str__(self) -> str:
        return ", ".join([f"{self.label} x{self.ranks}", *self.axes])


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Engines x ranks x precision x variant x micro-batch x repeats. `config` holds overrides, nested as RunConfig's groups.

    An axis that is empty is none: the configuration decides. `scaling`: "strong" keeps the global batch, "weak" the
    `rank_batch`, the samples of a rank in one step; each rank count is then an experiment of its own.
    """

    name: str
    engines: Sequence[str]
    ranks: Sequence[int] = (1,)
    repeats: int = 1
    track: str = "controlled"
    about: str = ""
    precision: Sequence[str] = ()
    variant: Sequence[str] = ()
    micro_batch: Sequence[int] = ()  # samples of one rank in one micro-batch
    scaling: axes.Scaling = "strong"
    rank_batch: int | None = None
    estimate_s: float = 15.0  # seconds of one run, launcher included, before any was seen
    config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.track not in TRACKS:
            raise MatrixError(f"{self.name}: unknown track {self.track!r}; there are: {', '.join(TRACKS)}")
        if self.repeats < 1:
            raise MatrixError(f"{self.name}: repeats is {self.repeats}; it must be at least 1")
        if not self.ranks or any(count < 1 for count in self.ranks):
            raise MatrixError(f"{self.name}: ranks is {list(self.ranks)}; it must list whole numbers from 1")
        if REFERENCE not in self.engines:
            raise MatrixError(
                f"{self.name}: engines must hold {REFERENCE!r}, the run that all others are verified against"
            )
        self._check_axes()
        for what in ("engines", "ranks", "precision", "variant", "micro_batch"):
            if len(set(getattr(self, what))) != len(getattr(self, what)):
                raise MatrixError(f"{self.name}: {what} names something twice: {list(getattr(self, what))}")
        self.cells()  # a matrix that exists can be run

    def _check_axes(self) -> None:
        given = {(group, name) for group, values in self.config.items() for name in values}
        if self.scaling not in get_args(axes.Scaling):
            raise MatrixError(f"{self.name}: scaling is {self.scaling!r}; it must be strong or weak")
        if self.scaling == "weak" and (self.rank_batch is None or self.rank_batch < 1):
            raise MatrixError(f"{self.name}: weak scaling needs rank_batch, the samples of one rank in a step, from 1")
        if self.scaling == "strong" and self.rank_batch is not None:
            raise MatrixError(f'{self.name}: rank_batch is for weak scaling; type: scaling = "weak"')
        if "checkpoints" in self.config:
            raise MatrixError(f"{self.name}: runs that are compared begin at step 0; take config.checkpoints out")
        if any(size < 1 for size in self.micro_batch):
            raise MatrixError(
                f"{self.name}: micro_batch is {list(self.micro_batch)}; it must list whole numbers from 1"
            )
        twice = {
            ("workload", "precision"): self.precision,
            ("workload", "variant"): self.variant,
            ("training", "accumulation"): self.micro_batch,
            ("training", "global_batch"): self.rank_batch,
        }
        for (group, name), axis in twice.items():
            if axis and (group, name) in given:
                by = {"accumulation": "micro_batch", "global_batch": "rank_batch"}.get(name, name)
                raise MatrixError(f"{self.name}: {by} decides {group}.{name}; leave one of them out")

    def run_config(self, label: str, ranks: int = 1, point: axes.Point = axes.NOWHERE) -> RunConfig:
        """The configuration of one engine's runs at a rank count. Raises MatrixError for an unknown engine or override."""
        try:
            config = axes.configured(self.config, point)
            config["engine"] = config.get("engine", {}) | engine(label)
            check_values(config)
            plain = label == REFERENCE
            axes.cut(config, ranks, plain=plain, rank_batch=self.rank_batch, micro_batch=point.micro_batch)
            made = RunConfig.from_dict(config)
            made.micro_batch(1 if plain else ranks)
            return made
        except ConfigError as error:
            raise MatrixError(f"{self.name}: {error}") from error

    def on_one_device(self, gpus: int, needed: int) -> "Matrix":
        """Every run on GPUs where there are enough for the largest, else every run on the CPU.

        Left to each run, those of few ranks would take GPUs and be held against those of many on the CPU. A device that
        the matrix names stays; without any GPU there is nothing to decide.
        """
        asked = self.config.get("engine", {})
        if not gpus or asked.get("device", "auto") != "auto":
            return self
        device = "cuda" if gpus >= needed else "cpu"
        return dataclasses.replace(self, config={**self.config, "engine": {**asked, "device": device}})

    def cells(self) -> list[Cell]:
        """Every run, round by round in the matrix's own order; each experiment has its own `single`, on one rank."""
        made = []
        for repeat in range(self.repeats):
            for point in axes.points(self.precision, self.variant, self.micro_batch):
                for count in self.ranks:
                    for label in self.engines:
                        if label == REFERENCE and self.scaling == "strong" and count != self.ranks[0]:
                            continue  # one global batch: one experiment, whatever the rank count
                        config = self.run_config(label, count, point)
                        ranks = 1 if label == REFERENCE else count
                        made.append(Cell(label, ranks, repeat, config, self._where(label, point, config)))
        return made

    def _where(self, label: str, point: axes.Point, config: RunConfig) -> tuple[str, ...]:
        """What tells a run from others of its engine and rank count: a word for each axis with several values."""
        said = [
            point.precision if len(self.precision) > 1 else None,
            point.variant if len(self.variant) > 1 else None,
            f"micro-batch {point.micro_batch}" if len(self.micro_batch) > 1 else None,
        ]
        if self.scaling == "weak" and len(self.ranks) > 1 and label == REFERENCE:
            said.append(f"global batch {config.training.global_batch}")
        return tuple(each for each in said if each is not None)

    def axes_in_words(self) -> str:
        """What the matrix runs through, for the plan."""
        engines = f"{len(self.engines)} engines" if len(self.engines) > 1 else self.engines[0]
        parts = [engines, f"ranks {', '.join(map(str, self.ranks))}"]
        for name, values in (
            ("precision", self.precision),
            ("variant", self.variant),
            ("micro-batch", self.micro_batch),
        ):
            parts += [f"{name} {', '.join(map(str, values))}"] if values else []
        parts.append(f"{self.repeats} repeat{'s' if self.repeats != 1 else ''}")
        batch = f", {self.rank_batch} samples a rank" if self.rank_batch else ", one global batch"
        return f"{' x '.join(parts)}; {self.scaling} scaling{batch}"

    def plan(self, seed: int) -> list[Cell]:
        """The runs in the order they are taken: each round shuffled on its own, so that no engine always runs first, or
        always after the same one; the first of each experiment is a `single`, since every verdict needs it."""
        order = random.Random(seed)
        cells = self.cells()
        taken: list[Cell] = []
        for repeat in range(self.repeats):
            this = [cell for cell in cells if cell.repeat == repeat]
            order.shuffle(this)
            taken += this
        ids = {id(cell): cell.config.experiment_id() for cell in taken}
        for experiment in dict.fromkeys(ids.values()):
            at = next(place for place, cell in enumerate(taken) if ids[id(cell)] == experiment)
            first = next(
                place for place, cell in enumerate(taken) if ids[id(cell)] == experiment and cell.label == REFERENCE
            )
            taken.insert(at, taken.pop(first))
        return taken

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain


def engine(label: str) -> dict[str, Any]:
    """The Engine fields behind a table's name: `Engine.label` read backwards. Raises MatrixError."""
    if found := ZERO.fullmatch(label):
        fields: dict[str, Any] = {
            "backend": "deepspeed",
            "zero_stage": int(found[1]),
            "offload_optimizer": bool(found[2]),
        }
    elif label in ACCEPTED and label != "deepspeed":
        fields = {"backend": label}
    else:
        names = [name for name in ACCEPTED if name != "deepspeed"]
        raise MatrixError(
            f"unknown engine {label!r}; there are: {', '.join(names)}, zero-0 to zero-3, "
            "zero-1-offload to zero-3-offload"
        )
    return fields


def check_values(config: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ConfigError for a value that its RunConfig field can't hold; unknown names are left to `from_dict`."""
    for group, type_ in get_type_hints(RunConfig).items():
        for name, hint in get_type_hints(type_).items():
            if name not in config.get(group, {}):
                continue
            value = config[group][name]
            if type(None) in get_args(hint):  # TOML has no null; a variant's training has
                if value is None:
                    continue
                hint = next(each for each in get_args(hint) if each is not type(None))
            if get_origin(hint) is Literal:
                fits, wanted = value in get_args(hint), f"one of {', '.join(map(str, get_args(hint)))}"
            elif hint in (bool, int, str):
                fits, wanted = (
                    type(value) is hint,
                    {bool: "true or false", int: "a whole number", str: "a string"}[hint],
                )
            elif hint in (float, float | None):
                fits, wanted = type(value) in (int, float), "a number"
            else:
                fits, wanted = isinstance(value, str | Path), "a path"
            if not fits:
                raise ConfigError(f"{group}.{name} is {value!r}; it must be {wanted}")


def _all(container: type, member: type, values: Any) -> bool:
    """Whether `values` is a list, or a table, of `member`s and nothing else; true and false are no numbers."""
    inside = values.values() if isinstance(values, dict) else values
    return isinstance(values, container) and all(type(each) is member for each in inside)


# What a key of a matrix may hold, and how that is called.
KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "engines": (partial(_all, list, str), "a list of names"),
    "ranks": (partial(_all, list, int), "a list of whole numbers"),
    "config": (partial(_all, dict, dict), "tables named as the groups of a run's configuration"),
    "precision": (partial(_all, list, str), "a list of names"),
    "variant": (partial(_all, list, str), "a list of names"),
    "micro_batch": (partial(_all, list, int), "a list of whole numbers"),
    "scaling": (lambda value: isinstance(value, str), "strong or weak"),
    "rank_batch": (lambda value: type(value) is int, "a whole number"),
    "repeats": (lambda value: type(value) is int, "a whole number"),
    "estimate_s": (lambda value: type(value) in (int, float), "a number"),
    "track": (lambda value: isinstance(value, str), "a string"),
    "about": (lambda value: isinstance(value, str), "a string"),
}


def names() -> list[str]:
    """The matrices that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read(name: str) -> Matrix:
    """A matrix by name, or from a `.toml` file of one's own. Raises MatrixError."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise MatrixError(f"no matrix {name!r}; there are: {', '.join(names())}, or the path of a .toml file")
    try:
        values = tomllib.loads(path.read_text())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MatrixError(f"{path} is not TOML: {error}") from error
    if unknown := sorted(set(values) - set(KINDS)):
        raise MatrixError(f"{path}: unknown key {', '.join(unknown)}; there are: {', '.join(KINDS)}")
    if "engines" not in values:
        raise MatrixError(f"{path}: engines is missing; list at least {REFERENCE!r} and one more")
    for key, value in values.items():
        fits, wanted = KINDS[key]
        if not fits(value):
            raise MatrixError(f"{path}: {key} is {value!r}; it must be {wanted}")
    return Matrix(name=path.stem, **values)

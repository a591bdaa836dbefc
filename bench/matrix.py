"""A matrix: which engines, at which rank counts, how often, with which configuration. Read from TOML."""

import dataclasses
import random
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from backends.world import ACCEPTED
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

    def __str__(self) -> str:
        return f"{self.label} x{self.ranks}"


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Engines x ranks x repeats over one configuration. `config` holds overrides, nested as RunConfig's groups."""

    name: str
    engines: Sequence[str]
    ranks: Sequence[int] = (1,)
    repeats: int = 1
    track: str = "controlled"
    about: str = ""
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
        for what in ("engines", "ranks"):
            if len(set(getattr(self, what))) != len(getattr(self, what)):
                raise MatrixError(f"{self.name}: {what} names something twice: {list(getattr(self, what))}")
        self.cells()  # a matrix that exists can be run

    def run_config(self, label: str) -> RunConfig:
        """The configuration of one engine's runs. Raises MatrixError for an unknown engine or override."""
        try:
            config = {group: dict(values) for group, values in self.config.items()}
            config["engine"] = config.get("engine", {}) | engine(label)
            check_values(config)
            return RunConfig.from_dict(config)
        except ConfigError as error:
            raise MatrixError(f"{self.name}: {error}") from error

    def cells(self) -> list[Cell]:
        """Every run, round by round in the matrix's own order; `single` has one rank count."""
        made = []
        for repeat in range(self.repeats):
            for count in self.ranks:
                for label in self.engines:
                    if label == REFERENCE and count != self.ranks[0]:
                        continue
                    config, ranks = self.run_config(label), 1 if label == REFERENCE else count
                    try:
                        config.micro_batch(ranks)
                    except ConfigError as error:
                        raise MatrixError(f"{self.name}: {error}") from error
                    made.append(Cell(label, ranks, repeat, config))
        return made

    def plan(self, seed: int) -> list[Cell]:
        """The runs in the order they are taken: each round shuffled on its own, so that no engine always runs first, or
        always after the same one; the very first is `single`, since every verdict needs it."""
        order = random.Random(seed)
        cells = self.cells()
        taken: list[Cell] = []
        for repeat in range(self.repeats):
            this = [cell for cell in cells if cell.repeat == repeat]
            order.shuffle(this)
            taken += this
        first = next(cell for cell in taken if cell.label == REFERENCE)
        return [first, *(cell for cell in taken if cell is not first)]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)


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

"""The state of a training in pieces: runs of values of flattened parameters, the same form whichever engine holds them.

A rank gives what it holds; whoever goes on, under any engine on any number of ranks, puts together what it needs of it. No
value is changed on the way, so the same engine on as many ranks goes on bit for bit.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

FORM = 1  # of a part, as `Backend.snapshot` makes it
VALUES = "parameter"  # the values themselves, beside whatever the optimizer keeps of them under its own names
COUNT = "step"  # the optimizer's count of updates: a scalar, also where the parameter is one


class PiecesError(ValueError):
    """What was kept is not the whole state of this model; the message names the parameter."""


@dataclass(frozen=True)
class Held:
    """Where this rank holds a run of a flattened parameter, live.

    The optimizer keeps its state of it under `owner`, a tensor of which the run begins at value `offset`.
    """

    name: str
    whole: int  # values of the whole parameter
    start: int  # of the run, in the flattened parameter
    values: Tensor  # flat
    owner: Tensor
    offset: int = 0

    def share(self, rank: int, size: int) -> tuple[int, int]:
        """(first, end) of the values that this rank writes of a run that all `size` ranks hold."""
        count = len(self.values)
        return count * rank // size, count * (rank + 1) // size

    def tensors(self, state: Mapping[Tensor, Mapping[str, Any]]) -> dict[str, Tensor]:
        """Live views by name: the values, and the optimizer's tensors of the same run."""
        kept = {key: value for key, value in state.get(self.owner, {}).items() if is_like(key, value, self.owner)}
        first, end = self.offset, self.offset + len(self.values)
        return {VALUES: self.values} | {key: flat(value)[first:end] for key, value in kept.items()}

    def scalars(self, state: Mapping[Tensor, Mapping[str, Any]]) -> dict[str, Any]:
        """Copies of what else the optimizer keeps for it, such as its count of updates."""
        kept = {key: value for key, value in state.get(self.owner, {}).items() if not is_like(key, value, self.owner)}
        return {
            key: value.to("cpu", copy=True) if isinstance(value, Tensor) else value
            for key, value in kept.items()
            if value is not None
        }


def is_like(key: str, value: Any, owner: Tensor) -> bool:
    """Whether an entry of the optimizer's state has a value for each of its parameter's."""
    return key != COUNT and isinstance(value, Tensor) and value.shape == owner.shape


def flat(tensor: Tensor) -> Tensor:
    """A flat view of this rank's values; of a sharded tensor, its own shard."""
    own: Tensor = tensor.detach()
    return (own.to_local() if hasattr(own, "to_local") else own).view(-1)


def collect(
    held: Sequence[Held], state: Mapping[Tensor, Mapping[str, Any]], share: tuple[int, int] | None
) -> dict[str, dict[str, Any]]:
    """CPU copies of what a rank holds, by parameter; of what all hold only its share (`rank`, `size`)."""
    pieces = {}
    for each in held:
        first, end = each.share(*share) if share else (0, len(each.values))
        pieces[each.name] = {
            "whole": each.whole,
            "start": each.start + first,
            "scalars": each.scalars(state),
            "tensors": {key: view[first:end].to("cpu", copy=True) for key, view in each.tensors(state).items()},
        }
    return pieces


class Pieces:
    """The parts of all ranks that wrote, in rank order, seen as whole flattened parameters; put together where it is asked for.

    Raises PiecesError for parts of another form, or not one from each rank of one step.
    """

    def __init__(self, parts: Sequence[Mapping[str, Any]]) -> None:
        told = [(part["form"], part["rank"], part["size"], part["steps"]) for part in parts]
        if told != [(FORM, rank, len(parts), parts[0]["steps"]) for rank in range(len(parts))]:
            raise PiecesError("the parts of the checkpoint do not belong together")
        self._runs: dict[str, list[Mapping[str, Any]]] = {}
        for part in parts:
            for name, piece in part["pieces"].items():
                self._runs.setdefault(name, []).append(piece)
        for runs in self._runs.values():
            runs.sort(key=lambda run: run["start"])

    def check(self, sizes: Mapping[str, int]) -> None:
        """Raise PiecesError unless exactly these parameters, with so many values each, are here."""
        if differ := sorted(set(sizes) ^ set(self._runs)):
            raise PiecesError(f"the checkpoint is of another model: {', '.join(differ[:4])} on one side only")
        for name, size in sizes.items():
            if (kept := self._runs[name][0]["whole"]) != size:
                raise PiecesError(f"the checkpoint is of another model: {name} has {kept} values there, {size} here")

    def scalars(self, name: str) -> dict[str, Any]:
        """What the optimizer keeps once for a parameter."""
        found: dict[str, Any] = self._runs[name][0]["scalars"]
        return found

    def keys(self, name: str) -> list[str]:
        """Names of what is kept for each value of a parameter."""
        return list(self._runs[name][0]["tensors"])

    def fill(self, name: str, key: str, start: int, into: Tensor) -> None:
        """Copy the values from `start` on into a flat tensor. Raises PiecesError where some are in no part."""
        place, end = start, start + len(into)
        for first, values in self._overlapping(name, key):
            if place < end and first <= place < first + len(values):
                stop = min(end, first + len(values))
                into[place - start : stop - start].copy_(values[place - first : stop - first])
                place = stop
        if place < end:
            raise PiecesError(f"the checkpoint lacks values {place} to {end} of {name} ({key})")

    def _overlapping(self, name: str, key: str) -> Iterator[tuple[int, Tensor]]:
        for run in self._runs[name]:
            if key not in run["tensors"]:
                raise PiecesError(f"a part of the checkpoint knows no {key} of {name}")
            yield run["start"], run["tensors"][key]


def place_of_count(optimizer: Optimizer, owner: Tensor) -> torch.device:
    """Where an optimizer counts its updates of a parameter."""
    with_values = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    return owner.device if with_values else torch.device("cpu")


def put_back(held: Sequence[Held], optimizer: Optimizer, pieces: Pieces) -> None:
    """Undo `collect` in place, whoever collected: the optimizer's state is made anew, then all values are filled in."""
    state = optimizer.state
    for each in held:
        state[each.owner] = {}  # once an owner, however many parameters lie in it
    for each in held:
        own, place = state[each.owner], place_of_count(optimizer, each.owner)
        for key in pieces.keys(each.name):
            if key != VALUES and key not in own:
                own[key] = torch.zeros_like(each.owner.detach())
        own |= {
            key: value.to(place, copy=True) if isinstance(value, Tensor) else value
            for key, value in pieces.scalars(each.name).items()
        }
        for key, view in each.tensors(state).items():
            pieces.fill(each.name, key, each.start, view)

"""The contract of an engine: what every adapter in this folder promises, and what replicas of a whole model share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from backends.pieces import FORM, Held, Pieces, PiecesError, collect, put_back
from backends.saving import rng_state, set_rng_state
from backends.tuning import Tuning
from backends.world import World

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


class BackendError(RuntimeError):
    """An engine can't do what was asked; the message says what to change."""


class BackendUnavailable(BackendError):
    """The engine is not installed, or not built for this machine; the message says what to type."""


class SettingNotApplied(BackendError):
    """The engine runs with another value than the one it was given, so its numbers would answer another question."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """What an engine is told. `accumulation` micro-batches of `micro_batch` samples make this rank's share of a step."""

    accumulation: int
    micro_batch: int
    clip_norm: float = 0.0  # global L2 norm of the mean gradient; 0 is off
    bucket_mb: float = 25.0  # MiB of gradients exchanged at once
    zero_stage: int = 2
    offload_optimizer: bool = False
    transport: str = "auto"  # ring only: shared, mpi, torch
    device: str = "cpu"
    timeout_s: float = 120.0  # a collective that lasts longer is an error
    tuning: Tuning = field(default_factory=Tuning)

    @property
    def bucket_bytes(self) -> int:
        return int((self.tuning.own_bucket_mb or self.bucket_mb) * 2**20)


@dataclass(frozen=True)
class StepInfo:
    """What an optimizer step did. `grad_norm`: global L2 norm before clipping, None where the engine was not asked for it; on a
    GPU a tensor, since a number would wait for it."""

    skipped: bool
    grad_norm: float | Tensor | None


class Backend(ABC):
    """One engine in one process.

    After `step()`, `full_state()` is what a single process would hold had it taken the mean loss over all ranks'
    micro-batches together. Order of calls: `setup`, then per step `accumulation` times (`forward`, `backward`) and one
    `step`; `setup` may be called again with another model. `gather`, `full_state`, `save`, `load` and `restore` are collective.
    """

    name: ClassVar[str]

    def __init__(self, world: World, config: EngineConfig) -> None:
        """Join the other ranks. Raises BackendUnavailable before anything is started."""
        self.world = world
        self.config = config
        self.device = torch.device(f"cuda:{world.local_rank}" if config.device == "cuda" else config.device)
        self.steps = 0  # optimizer steps taken since setup; part of what is saved: the position in the data
        self.optimizer: Optimizer | None = None

    def setup(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Take ownership of both together; all ranks start from rank 0's weights.

        Raises SettingNotApplied if the engine reads back another setting than it was given, BackendError if the ranks'
        weights differ afterwards.
        """
        self.steps = 0
        self.model = model.to(self.device)
        self._own(make_optimizer)
        asked, applied = self.asked(), self.applied()
        wrong = {key: (value, applied.get(key)) for key, value in asked.items() if applied.get(key) != value}
        if wrong or not asked:
            listed = "; ".join(f"{key}: asked {a!r}, is {b!r}" for key, (a, b) in wrong.items()) or "nothing to compare"
            raise SettingNotApplied(
                f"{self.name} did not take its settings ({listed}); its numbers would not be comparable"
            )
        self._check_equal_start()

    @abstractmethod
    def _own(self, make_optimizer: MakeOptimizer) -> None:
        """Make rank 0's weights everyone's, wrap `self.model`, build the optimizer over what is trained."""

    @abstractmethod
    def asked(self) -> dict[str, Any]:
        """Every setting that changes the mathematics or the traffic, as given to the engine (JSON values)."""

    @abstractmethod
    def applied(self) -> dict[str, Any]:
        """The same settings, read back from the live engine."""

    @abstractmethod
    def forward(self, batch: Mapping[str, Tensor], *, sync: bool) -> Any:
        """Losses of one micro-batch. `sync`: gradients are exchanged after this one (the last of the step)."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate gradients of a loss already divided by the accumulation count; may start communication."""
        loss.backward()

    @abstractmethod
    def step(self) -> StepInfo:
        """Finish communication, clip, update, clear the gradients."""

    def set_lr(self, lr: float) -> None:
        """The learning rate of the steps from here on."""
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["lr"] = lr

    @abstractmethod
    def without_exchange(self) -> AbstractContextManager[None]:
        """Steps inside do all that this rank does, and nothing travels: their values are of no use, only their time.

        What others would have sent is replaced by this rank's own, so buckets, copies, hooks and updates stay. Only
        `forward`, `backward` and `step` may be called inside; afterwards everything goes over the wire again.
        """

    @abstractmethod
    def gather(self, value: Any) -> list[Any]:
        """A small picklable value from each rank, in rank order; also the barrier."""

    @abstractmethod
    def full_state(self, *, frozen: bool = False) -> dict[str, Tensor]:
        """Whole trained parameters (with `frozen`, all) on the CPU by name, whatever the sharding."""

    @abstractmethod
    def save(self, directory: Path) -> None:
        """Write weights, optimizer, RNG and position: `load` then goes on bit for bit."""

    @abstractmethod
    def load(self, directory: Path) -> None:
        """Take up what `save` of the same engine wrote of the same model, on any number of ranks, after `setup`."""

    @abstractmethod
    def held(self) -> list[Held]:
        """Where each trained value of this rank lies, with the optimizer's state of it."""

    @property
    def replicated(self) -> bool:
        """Whether every rank holds all of it, equal on all."""
        return True

    def snapshot(self) -> dict[str, Any]:
        """This rank's part of the state between two steps, as CPU copies; a copy in memory, nothing is exchanged.

        The parts of all ranks together are what `restore` takes. Of what all ranks hold each gives its share.
        """
        share = (self.world.rank, self.world.size) if self.replicated else None
        return {
            "form": FORM,
            "steps": self.steps,
            "rank": self.world.rank,
            "size": self.world.size,
            "lr": self._updates().param_groups[0]["lr"],
            "rng": rng_state(),
            "pieces": collect(self.held(), self._updates().state, share),
        }

    def restore(self, parts: Sequence[Mapping[str, Any]]) -> None:
        """Take up what the ranks of another run of the same model gave by `snapshot`, in rank order, after `setup`. Collective.

        As many ranks of the same engine go on bit for bit. Another number of ranks, or another engine, holds the same values;
        its sums round differently from there on. Raises BackendError for parts that are not all of this model's state.
        """
        try:
            pieces = Pieces(parts)
            pieces.check({name: getattr(p, "ds_numel", p.numel()) for name, p in trained(self.model)})
            put_back(self.held(), self._updates(), pieces)
        except PiecesError as error:
            raise BackendError(f"{self.name}: {error}") from error
        self.steps = parts[0]["steps"]
        self.set_lr(parts[0]["lr"])
        self._restored()
        set_rng_state(parts[self.world.rank % len(parts)]["rng"])
        self.gather(None)

    def _updates(self) -> Optimizer:
        """The torch optimizer that makes the updates."""
        assert self.optimizer is not None
        return self.optimizer

    def _restored(self) -> None:  # noqa: B027 - a default that does nothing is meant
        """Make what the engine keeps beside the held values agree with them."""

    @abstractmethod
    def holdings(self) -> dict[str, list[Tensor]]:
        """This rank's live tensors by category: parameters, gradients, optimizer, buffers (communication included)."""

    def shared_bytes(self) -> int:
        """Bytes of the held tensors that lie in memory which other ranks have mapped, and so not in the C allocator's."""
        return 0

    def sent_bytes(self) -> int | None:
        """Bytes that this rank has sent since it joined, counted where the engine sends; None where it does not tell."""
        return None

    def past_sockets(self) -> str | None:
        """Why the exchange passes this process's TCP sockets by; None where they carry all of it."""
        return f"{self.name} does not say what carries its bytes"

    def release(self) -> None:
        """Let go of model and optimizer, and of what was hooked into them; the ranks stay joined."""
        self.model = nn.Module()
        self.optimizer = None

    def close(self) -> None:  # noqa: B027 - a default that does nothing is meant
        """Leave the other ranks."""

    def _check_equal_start(self) -> None:
        digests = self.gather(fingerprint(self.full_state()))
        if any(digest != digests[0] for digest in digests):
            raise BackendError(f"{self.name}: the ranks do not start from equal weights: {digests}")


def trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """(name, parameter) of what the optimizer may change, in the model's order."""
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def norm_of(value: Tensor | float) -> float | Tensor:
    """A norm as StepInfo has it: a number at once where that waits for nothing."""
    return value.detach() if isinstance(value, Tensor) and value.device.type != "cpu" else float(value)


def fingerprint(state: Mapping[str, Tensor]) -> tuple[float, float]:
    """Two float64 sums over all values, one weighted by position: equal for equal states, cheap to exchange."""
    plain = weighted = 0.0
    for index, value in enumerate(state.values(), 1):
        flat = value.detach().double().flatten()
        plain += flat.sum().item()
        weighted += index * (flat * torch.linspace(1, 2, flat.numel(), dtype=torch.float64)).sum().item()
    return plain, weighted


def is_fused(optimizer: Optimizer | None) -> bool:
    """Whether every parameter is updated by torch's fused kernel."""
    return optimizer is not None and all(bool(group.get("fused")) for group in optimizer.param_groups)


def fused_wanted(config: EngineConfig, optimizer: Optimizer | None) -> bool:
    """Whether that update should be fused: SGD, which proves a run, never is."""
    return config.tuning.fused_optimizer and not isinstance(optimizer, SGD)


def optimizer_tensors(optimizer: Optimizer) -> list[Tensor]:
    """Every tensor in an optimizer's state."""
    return [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]

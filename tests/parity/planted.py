"""Mistakes that adapters make, planted on purpose: each must be seen by the comparison with one plain process."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from backends.base import Backend
from tests.parity import cases
from tests.parity.cases import CASES, Case

SGD, CLIPPED = CASES["sgd"], CASES["sgd, clipped"]


def outcome(backend: Backend, case: Case, make: Any = None, seed: int = 0) -> dict[str, Any]:
    """Losses and parameters of a faulty training."""
    cases.setup(backend, case, seed)
    return {"losses": cases.run(backend, make=make, lr=case.rate), "state": backend.full_state(frozen=True)}


def with_attribute(target: Any, name: str, value: Any, work: Callable[[], Any]) -> Any:
    """Do the work while `target.name` is another."""
    had = name in vars(target)
    before = getattr(target, name)
    setattr(target, name, value)
    try:
        return work()
    finally:
        if had:
            setattr(target, name, before)
        else:
            delattr(target, name)


def repeated_data(backend: Backend) -> Any:
    """Every rank sees the samples of rank 0."""
    same = cases.batches(replace(backend.world, rank=0), backend.config.accumulation)
    return outcome(backend, SGD, make=same)


def unequal_start(backend: Backend) -> Any:
    """Ranks start from their own weights, and nobody broadcasts or checks."""
    backend._start_equal = lambda: None  # type: ignore[attr-defined]
    backend._check_equal_start = lambda: None  # type: ignore[method-assign]
    try:
        return outcome(backend, SGD, seed=backend.world.rank)
    finally:
        del backend._start_equal, backend._check_equal_start  # type: ignore[attr-defined]


def horovod_sum(backend: Any) -> Any:
    """Gradients are summed over ranks."""
    backend.asked = lambda: {**type(backend).asked(backend), "op": "Sum"}
    try:
        return with_attribute(backend.hvd, "Average", backend.hvd.Sum, lambda: outcome(backend, SGD))
    finally:
        del backend.asked


def horovod_clip_early(backend: Any) -> Any:
    """Gradients are clipped on each rank, before they are exchanged."""

    def swapped() -> None:
        nn.utils.clip_grad_norm_(backend.parameters, backend.config.clip_norm)
        type(backend)._finish_exchange(backend)

    backend._finish_exchange, backend._clip = swapped, lambda: None
    try:
        return outcome(backend, CLIPPED)
    finally:
        del backend._finish_exchange, backend._clip


def clip_skipped(backend: Any) -> Any:
    """Clipping is asked for and not done."""
    backend._clip = lambda: None
    try:
        return outcome(backend, CLIPPED)
    finally:
        del backend._clip


def rate_kept(backend: Any) -> Any:
    """The learning rate of a schedule does not reach the optimizer."""
    return with_attribute(backend, "set_lr", lambda lr: None, lambda: outcome(backend, CLIPPED))


def ring_sum(backend: Any) -> Any:
    """The ring leaves the sum as it is."""
    from backends.ring.reduction import SUM

    backend._reduce = lambda bucket: backend.allreduce(bucket.flat, SUM)
    try:
        return outcome(backend, SGD)
    finally:
        del backend._reduce


def deepspeed_divides_twice(backend: Any) -> Any:
    """The engine divides by the accumulation count after the loop has."""
    return with_attribute(backend, "divides_by_accumulation", True, lambda: outcome(backend, SGD))


def deepspeed_default_clipping(backend: Any) -> Any:
    """The key is left out, and the check of settings believes what was asked."""
    native = type(backend).native_config

    def silent() -> Any:
        return {key: value for key, value in native(backend).items() if key != "gradient_clipping"}

    backend.native_config = silent
    backend.asked = lambda: {"nothing": None}
    backend.applied = backend.asked
    try:
        return outcome(backend, SGD)
    finally:
        del backend.native_config, backend.asked, backend.applied


def deepspeed_default_clipping_refused(backend: Any) -> str:
    """The key is left out, and the check of settings stands: what it says."""
    from backends.base import SettingNotApplied

    native = type(backend).native_config

    def silent() -> Any:
        return {key: value for key, value in native(backend).items() if key != "gradient_clipping"}

    backend.native_config = silent
    asked = type(backend).asked
    backend.asked = lambda: with_attribute(backend, "native", native(backend), lambda: asked(backend))
    try:
        cases.setup(backend, SGD)
    except SettingNotApplied as refusal:
        return str(refusal)
    finally:
        del backend.native_config, backend.asked
    return "accepted"


FAULTS: dict[str, dict[str, tuple[str, Callable[[Any], Any]]]] = {
    "ddp": {
        "one rank's data repeated": ("sgd", repeated_data),
        "clipping skipped": ("sgd, clipped", clip_skipped),
        "learning rate kept": ("sgd, clipped", rate_kept),
    },
    "horovod": {
        "sum instead of mean": ("sgd", horovod_sum),
        "clipped before the exchange": ("sgd, clipped", horovod_clip_early),
        "unequal start": ("sgd", unequal_start),
    },
    "ring": {"sum instead of mean": ("sgd", ring_sum), "unequal start": ("sgd", unequal_start)},
    "deepspeed": {
        "divided twice by the accumulation": ("sgd", deepspeed_divides_twice),
        "default clipping let through": ("sgd", deepspeed_default_clipping),
        "learning rate kept": ("sgd, clipped", rate_kept),
    },
}

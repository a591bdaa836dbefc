"""Which settings to try next: Optuna's TPE (Bergstra et al. 2011), asked anew each time, so that a search can go on after any end."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.config import ConfigError, RunConfig
from bench.tuning.space import Chosen, Knob, allowed

ASKED = 100  # times of each sampler: the second is blind, and where it finds nothing new, the space is used up
RANDOM = 3  # trials at random after the controlled one, before the model of what was seen decides


@dataclass(frozen=True)
class Tried:
    """A trial that ended. `speed`: samples a second, None where it failed or computed something else."""

    chosen: dict[str, Any]
    speed: float | None


def need() -> None:
    """Raise ConfigError, with what to type, where Optuna is not installed."""
    from importlib.util import find_spec

    if find_spec("optuna") is None:
        raise ConfigError("the search needs Optuna; type: pip install -c constraints.txt -e '.[tune]'")


def propose(knobs: Sequence[Knob], config: RunConfig, past: Sequence[Tried], seed: int) -> dict[str, Any] | None:
    """Settings that were not tried: first the controlled ones, then what the sampler asks for. None: all were tried.

    A pure function of its arguments: a search that was stopped goes on as if it had not been.
    """
    if not past:
        return controlled(knobs, config)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    drawn = seed * 1000 + len(past)
    known = optuna.samplers.TPESampler(seed=drawn, n_startup_trials=RANDOM + 1)
    for sampler in (known, optuna.samplers.RandomSampler(seed=drawn)):
        study = optuna.create_study(direction="maximize", sampler=sampler)
        for each in past:
            study.add_trial(_told(each, knobs))
        for _ in range(ASKED):
            trial = study.ask()
            chosen: dict[str, Any] = {}
            for knob in knobs:
                if knob.applies(chosen, config):
                    chosen[knob.name] = trial.suggest_categorical(knob.name, knob.values)
            if all(chosen != each.chosen for each in past) and allowed(config, chosen):
                return chosen
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return None


def _told(tried: Tried, knobs: Sequence[Knob]) -> Any:
    """A trial as Optuna keeps it."""
    import optuna

    state = optuna.trial.TrialState
    values = {knob.name: optuna.distributions.CategoricalDistribution(knob.values) for knob in knobs}
    return optuna.trial.create_trial(
        params=tried.chosen,
        distributions={name: values[name] for name in tried.chosen},
        value=tried.speed,
        state=state.FAIL if tried.speed is None else state.COMPLETE,
    )


def controlled(knobs: Sequence[Knob], config: RunConfig) -> dict[str, Any]:
    """The controlled value of each setting that means anything here."""
    chosen: Chosen = {}
    for knob in knobs:
        if knob.applies(chosen, config):
            chosen = {**chosen, knob.name: knob.values[0]}
    return dict(chosen)


def best(past: Sequence[Tried]) -> int | None:
    """Place of the fastest trial; None where none may be spoken of."""
    speeds = [(each.speed, -place) for place, each in enumerate(past) if each.speed is not None]
    return -max(speeds)[1] if speeds else None

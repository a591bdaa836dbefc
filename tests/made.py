"""Made-up records for tests: whole, valid, and different only where a test says so."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from bench.config import RunConfig
from bench.matrix import engine
from bench.record import SCHEMA

STARTED = "2026-01-02T03:{:02d}:00+00:00"


def record(
    label: str = "single",
    ranks: int = 1,
    *,
    repeat: int = 0,
    speed: float = 1.0,
    memory_mb: float = 300.0,
    **config: Any,
) -> dict[str, Any]:
    """A finished run of an engine; `speed` divides its step times, `config` holds groups of RunConfig."""
    run = RunConfig.from_dict({**config, "engine": engine(label)})
    draw = np.random.default_rng(int(hashlib.sha256(f"{label}{ranks}{repeat}".encode()).hexdigest()[:8], 16))
    steps = run.training.steps
    times = 0.4 / speed * draw.lognormal(0, 0.04, (ranks, steps))
    legs = (
        [
            {
                "optimizer": "sgd",
                "clip_norm": clip,
                "losses": losses(run.measure.proof_steps, 2.0),
                "parameters": parameters(),
            }
            for clip in (0.0, 0.5)
        ]
        if run.measure.proof_steps
        else []
    )
    return {
        "schema": SCHEMA,
        "run_id": f"20260102T0304{repeat:02d}Z_{label}_np{ranks}_abc1234",
        "status": "done",
        "failure": None,
        "started": STARTED.format(repeat),
        "finished": STARTED.format(repeat + 1),
        "command": ["python", "-m", "bench.run"],
        "config": run.to_dict(),
        "experiment": run.experiment_id(),
        "engine": {"label": label, "asked": {}, "applied": {}, "native": None},
        "world": {"size": ranks, "device": "cpu", "launcher": "python", "hosts": ["here"], "oversubscribed": False},
        "environment": {"machine": {"cpu": "Made-up CPU", "gpus": []}, "commit": "abc1234def", "dirty": False},
        "ranks": [
            {
                "host": "here",
                "pid": 1 + rank,
                "cores": [rank],
                "threads": 1,
                "step_s": times[rank].tolist(),
                "data_s": [0.001] * steps,
                "memory": {"peak_bytes": int(memory_mb * 1e6) - rank},
            }
            for rank in range(ranks)
        ],
        "losses": losses(steps, 1.5),
        "grad_norms": [1.0] * steps,
        "skipped_steps": 0,
        "parameters": parameters(),
        "proof": legs,
    }


def losses(steps: int, first: float) -> list[dict[str, float]]:
    """Losses that fall."""
    return [
        {"total": first / (1 + step / 10), "lm": 0.6 * first, "focal": 0.1 * first, "dice": 0.3 * first}
        for step in range(steps)
    ]


def parameters() -> dict[str, Any]:
    """Two trained tensors."""
    return {
        "sha256": "0" * 64,
        "tensors": {"head.weight": {"norm": 3.0, "projection": -1.25}, "lora.b": {"norm": 0.02, "projection": 0.01}},
    }


def perturbed(ranks: int, exposed_s: float = 0.05) -> dict[str, Any]:
    """Fields of steps with and without exchange: 0.4 s a step without, all of the exchange in backward."""
    own = {"data": 0.01, "forward": 0.15, "backward": 0.2, "update": 0.04}
    kinds = {"with_exchange": exposed_s, "without_exchange": 0.0}
    phases = {k: {n: [v + more * (n == "backward")] * 2 for n, v in own.items()} for k, more in kinds.items()}
    steps = {k: {"step": [0.4 + more + wobble for wobble in (-0.004, 0.0, 0.004)]} for k, more in kinds.items()}
    common = {"perturbed": True, "unit": "s", "block": 2, "order": ["without_exchange", "with_exchange"]}
    return {"phases": {**common, "ranks": [phases] * ranks}, "exposed": {**common, "ranks": [steps] * ranks}}


def changed(made: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one value replaced; `path` is dotted, numbers index lists. A callable is given the old value."""
    new = copy.deepcopy(made)
    place: Any = new
    *parents, last = [int(part) if part.lstrip("-").isdigit() else part for part in path.split("/")]
    for part in parents:
        place = place[part]
    place[last] = value(place[last]) if callable(value) else value
    return new


def failed(label: str = "ring", ranks: int = 2, message: str = "no route to rank 1") -> dict[str, Any]:
    """A run that ended before its first step."""
    made = record(label, ranks)
    return made | {
        "status": "failed",
        "ranks": [],
        "losses": [],
        "parameters": None,
        "proof": [],
        "failure": {"rank": 1, "step": 0, "phase": "setup", "cause": "error", "message": message, "traceback": None},
    }


def write(folder: Path, *records: dict[str, Any]) -> list[str]:
    """Write records as a run does; returns the file names."""
    folder.mkdir(parents=True, exist_ok=True)
    for made in records:
        (folder / f"{made['run_id']}.json").write_text(json.dumps(made))
    return [f"{made['run_id']}.json" for made in records]

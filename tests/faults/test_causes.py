"""Each cause on the list, brought about for real under `launch.run`: the record says it, and nothing is left running."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from bench import launch, launchers
from bench.config import Engine, Measure, Output, RunConfig, Training, Workload
from bench.launchers import Command
from bench.report import load
from tests.faults.conftest import FAULTY


def config(results: Path, backend: Any = "single", **workload: Any) -> RunConfig:
    """A short run."""
    return RunConfig(
        engine=Engine(backend=backend),
        workload=Workload(**workload),
        training=Training(steps=4),
        measure=Measure(warmup=0, proof_steps=0, phase_steps=0),
        output=Output(results=results),
    )


def ended(run: RunConfig, ranks: int = 1, **how: Any) -> dict[str, Any]:
    """The failure in the record of a run that can't end well; the record can be read, and nothing is left beside it."""
    path = launch.run(run, ranks, **how)
    record = load.read(path)
    assert record["status"] == "failed"
    assert not (run.output.results / launch.INCOMING).exists()
    assert path.with_suffix(".log").exists()
    failure: dict[str, Any] = record["failure"]
    return failure


def wrapped(prefix: str, **env: str):
    """The launcher's command behind a shell line."""

    def build(run: RunConfig, ranks: int) -> Command:
        made = launchers.command(run, ranks)
        return Command(["bash", "-c", f"{prefix} exec {shlex.join(made.argv)}"], made.env | env)

    return build


def test_memory_that_is_refused_does_not_fit(tmp_path: Path) -> None:
    """Enough to import torch, too little for the model."""
    run = config(tmp_path, preset="base")
    failure = ended(run, build=wrapped("ulimit -v 1500000;"))
    assert failure["cause"] == "does not fit", json.dumps(failure, indent=1)


def test_a_run_past_its_limit(tmp_path: Path) -> None:
    failure = ended(config(tmp_path), limit_s=1.0)
    assert failure["cause"] == "time limit"
    assert failure["message"].startswith("ended after 1 s, the limit of a whole run")


def test_an_engine_that_can_t_be_imported(tmp_path: Path) -> None:
    broken = tmp_path / "site/mpi4py"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libmpi.so.40: cannot open shared object file')\n")
    paths = f"{tmp_path / 'site'}:{Path(__file__).resolve().parents[2]}"
    failure = ended(config(tmp_path / "results", "ring"), 2, build=wrapped(f"PYTHONPATH={paths}"))
    assert failure["cause"] == "import", json.dumps(failure, indent=1)


def test_what_can_t_be_run_is_a_matter_of_configuration(tmp_path: Path) -> None:
    failure = ended(config(tmp_path, preset="huge"))
    assert failure["cause"] == "configuration"
    assert "unknown preset 'huge'" in failure["message"]


def test_a_launcher_that_is_not_there(tmp_path: Path) -> None:
    failure = ended(config(tmp_path), build=lambda run, ranks: Command(["/nowhere/torchrun"]))
    assert failure["cause"] == "launcher"


@pytest.mark.parametrize(("fault", "cause"), [("nan", "non-finite"), ("raise", "error")])
def test_what_a_rank_met_is_a_record_that_can_be_read(tmp_path: Path, fault: str, cause: str) -> None:
    def build(run: RunConfig, ranks: int) -> Command:
        made = launchers.command(run, ranks)
        argv = [str(FAULTY) if word == "bench.run" else word for word in made.argv if word != "-m"]
        return Command(argv, made.env | {"FAULT": fault, "FAULT_MARK": str(tmp_path / "here")})

    failure = ended(config(tmp_path / "results", "ddp"), 2, build=build)
    assert (failure["cause"], failure["rank"], failure["step"]) == (cause, 1, 2)

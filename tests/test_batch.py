"""The batch script for Slurm is one that bash and shellcheck accept, and asks for nothing that sbatch would refuse."""

import re
import subprocess
from pathlib import Path

import pytest

from bench.__main__ import main
from bench.config import ConfigError
from bench.hosts.batch import Slurm, script
from bench.launchers import executable

ROOT = Path(__file__).resolve().parents[1]
LAUNCH = ["launch", "--backend", "deepspeed", "--zero-stage", "3", "--results", "a folder/results"]


def test_the_script_runs_the_command_on_the_hosts_of_its_job(tmp_path: Path, capsys) -> None:
    path = tmp_path / "job.sbatch"
    flags = [
        "--nodes",
        "4",
        "--tasks-per-node",
        "8",
        "--gpus-per-node",
        "8",
        "--time",
        "1-00:00:00",
        "--partition",
        "gpu",
    ]
    assert main(["slurm", *flags, "--output", str(path), "--", *LAUNCH]) == 0
    assert f"wrote {path}; submit it: sbatch {path}" in capsys.readouterr().out
    lines = path.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH")]
    assert {"nodes=4", "ntasks-per-node=8", "gpus-per-node=8", "time=1-00:00:00", "partition=gpu"} <= set(directives)
    assert lines[-1].endswith(
        "-m bench launch --backend deepspeed --zero-stage 3 --results 'a folder/results' --allocation"
    )
    assert lines[-1].startswith("exec ")


@pytest.mark.parametrize("checker", ["bash -n", "shellcheck"])
def test_shells_accept_it(checker: str, tmp_path: Path) -> None:
    program, *flags = checker.split()
    found = executable(program)
    if found is None:
        pytest.skip(f"no {program}")
    path = tmp_path / "job.sbatch"
    path.write_text(
        script(Slurm(account="me", cpus_per_task=2, constraint="a100"), ["compare", "quick", "--seed", "5"])
    )
    for file in (path, ROOT / "bench/hosts/bin/ssh"):
        done = subprocess.run([found, *flags, str(file)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("asked", "words", "told"),
    [
        ({}, [], "behind -- stands nothing; there are launch, compare, preflight"),
        ({}, ["report"], "behind -- stands 'report'"),
        ({}, ["launch", "--backend", "ddp", "--hosts=a:1"], "--hosts=a:1: the hosts are those of the job"),
        ({"nodes": 0}, LAUNCH, "--nodes is 0; it must be at least 1"),
        ({"gpus_per_node": 0}, LAUNCH, "--gpus-per-node is 0"),
        ({"time": "tomorrow"}, LAUNCH, "is no duration; type, say, --time 01:30:00"),
        ({"partition": "a b"}, LAUNCH, "a directive of sbatch takes one word"),
        ({"job_name": "x\n#SBATCH --uid=0"}, LAUNCH, "--job-name .* takes one word"),
    ],
)
def test_what_would_fail_days_later_is_told_now(asked: dict[str, object], words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        script(Slurm(**asked), words)  # type: ignore[arg-type]


def test_flags_of_the_command_are_checked_too(capsys) -> None:
    with pytest.raises(SystemExit):
        script(Slurm(), ["launch", "--backend", "ddp", "--stepz", "3"])
    assert "--stepz" in capsys.readouterr().err


def test_the_image_for_gpu_nodes_is_one_that_can_be_built() -> None:
    lines = (ROOT / "docs/Dockerfile").read_text()
    base = re.findall(r"^FROM (\S+)$", lines, re.MULTILINE)
    assert [re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-devel-ubuntu\d+\.\d+", each) is not None for each in base] == [
        True
    ]
    assert "python -m backends.build" in lines
    assert "nccl_built()" in lines
    ignored = (ROOT / "docs/Dockerfile.dockerignore").read_text().splitlines()
    assert ".venv" in ignored
    assert ".git" not in ignored  # records say which commit they are of


def test_hadolint_finds_nothing_in_it() -> None:
    found = executable("hadolint")
    if found is None:
        pytest.skip("no hadolint")
    done = subprocess.run([found, str(ROOT / "docs/Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")

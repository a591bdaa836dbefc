"""Matrices: what they unfold to, in which order, and what they refuse."""

from pathlib import Path

import pytest

from backends.world import ACCEPTED
from bench import matrix
from bench.config import ConfigError, Engine, RunConfig
from bench.matrix import Matrix, MatrixError


def write(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_quick_is_every_engine_and_stays_small() -> None:
    quick = matrix.read("quick")
    cells = quick.cells()
    assert sum(cell.label == "single" for cell in cells) == 1
    engines = {"ddp", "fsdp", "zero-0", "zero-1", "zero-2", "zero-3", "horovod", "ring"}
    wanted = [("single", 1), *((engine, ranks) for engine in engines for ranks in (1, 2))]
    assert sorted((cell.label, cell.ranks) for cell in cells) == sorted(wanted)
    assert {cell.config.engine.backend for cell in cells} == set(ACCEPTED)  # none was forgotten
    assert len(cells) * quick.estimate_s < 360
    assert {cell.config.experiment_id() for cell in cells} == {cells[0].config.experiment_id()}


@pytest.mark.parametrize(
    ("gpus", "named", "device"),
    [
        (0, "auto", "auto"),
        (1, "auto", "cpu"),
        (2, "auto", "cuda"),
        (8, "auto", "cuda"),
        (1, "cuda", "cuda"),
        (8, "cpu", "cpu"),
    ],
)
def test_all_runs_are_on_one_device(gpus: int, named: str, device: str) -> None:
    """With one GPU for two ranks each run would choose for itself: `single` CUDA, the others the CPU."""
    asked = {"engine": {"device": named, "bucket_mb": 1.0}, "training": {"steps": 3}}
    chosen = Matrix(name="m", engines=["single", "ddp"], ranks=[1, 2], config=asked).on_one_device(gpus, 2)
    assert {cell.config.engine.device for cell in chosen.cells()} == {device}
    assert all(cell.config.engine.bucket_mb == 1 and cell.config.training.steps == 3 for cell in chosen.cells())
    assert Matrix(**chosen.to_dict()).config == chosen.config  # a comparison that goes on stays there


@pytest.mark.parametrize("name", matrix.names())
def test_every_matrix_of_the_project_can_be_read(name: str) -> None:
    assert matrix.read(name).cells()


@pytest.mark.parametrize("label", ["single", "ddp", "zero-0", "zero-3", "zero-2-offload", "horovod", "ring", "fsdp"])
def test_a_label_names_its_engine(label: str) -> None:
    assert Engine(**matrix.engine(label)).label == label


@pytest.mark.parametrize("label", ["deepspeed", "zero-4", "zero-2-off", "", "DDP"])
def test_an_unknown_label_lists_the_known(label: str) -> None:
    with pytest.raises(MatrixError, match="there are: single, ddp"):
        matrix.engine(label)


def test_the_order_is_shuffled_by_the_seed_round_by_round_with_single_first() -> None:
    many = Matrix(name="m", engines=["ddp", "fsdp", "single", "ring", "horovod"], ranks=[1, 2], repeats=3)
    one, again, other = many.plan(1), many.plan(1), many.plan(2)
    assert one == again
    assert list(map(str, one)) != list(map(str, other))
    assert one[0].label == "single"
    assert [cell.repeat for cell in one] == sorted(cell.repeat for cell in one)
    assert sorted(map(str, one)) == sorted(map(str, many.cells()))
    rounds = [[str(cell) for cell in one if cell.repeat == repeat] for repeat in range(3)]
    assert len({tuple(each) for each in rounds}) == 3


def test_overrides_reach_every_run(tmp_path: Path) -> None:
    read = matrix.read(
        write(
            tmp_path,
            'engines = ["single", "ring"]\nranks = [2]\n[config.training]\nsteps = 3\n[config.engine]\nbucket_mb = 1\n',
        )
    )
    assert read.name == "mine"
    assert [(cell.label, cell.ranks) for cell in read.cells()] == [("single", 1), ("ring", 2)]
    assert all(cell.config.training.steps == 3 and cell.config.engine.bucket_mb == 1 for cell in read.cells())


WRONG = {
    "unknown key": ('engines = ["single"]\nrank = [1]', "unknown key rank; there are: engines, ranks"),
    "no engines": ("ranks = [1]", "engines is missing"),
    "unknown engine": ('engines = ["single", "gloo"]', "unknown engine 'gloo'"),
    "no reference": ('engines = ["ddp"]', "must hold 'single'"),
    "twice": ('engines = ["single", "ddp", "ddp"]', "names something twice"),
    "unknown group": ('engines = ["single"]\n[config.trainign]\nsteps = 3', "unknown group"),
    "unknown field": ('engines = ["single"]\n[config.training]\nstep = 3', "unknown field"),
    "wrong value": ('engines = ["single"]\n[config.training]\nsteps = "ten"', "must be a whole number"),
    "true for a number": ('engines = ["single"]\n[config.training]\nlr = true', "must be a number"),
    "no such choice": ('engines = ["single"]\n[config.workload]\nprecision = "fp8"', "one of fp32, amp_bf16"),
    "zero repeats": ('engines = ["single"]\nrepeats = 0', "at least 1"),
    "zero ranks": ('engines = ["single"]\nranks = [0]', "whole numbers from 1"),
    "no ranks": ('engines = ["single"]\nranks = []', "whole numbers from 1"),
    "ranks no list": ('engines = ["single"]\nranks = 2', "must be a list of whole numbers"),
    "engines no list": ('engines = "single"', "must be a list of names"),
    "repeats no number": ('engines = ["single"]\nrepeats = "2"', "must be a whole number"),
    "a batch that can't be cut": ('engines = ["single", "ddp"]\nranks = [3]', "can't be cut"),
    "checkpoints": ('engines = ["single"]\n[config.checkpoints]\nresume = "auto"', "begin at step 0"),
    "unknown track": ('engines = ["single"]\ntrack = "fast"', "unknown track"),
    "not TOML": ("engines = [", "is not TOML"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(MatrixError, match=message):
        matrix.read(write(tmp_path, text))


def test_an_unknown_name_lists_the_matrices() -> None:
    with pytest.raises(MatrixError, match=r"there are: .*quick"):
        matrix.read("quik")


def test_values_are_checked_against_every_field() -> None:
    default = RunConfig(engine=Engine(backend="ddp")).to_dict()
    values = {group: {k: v for k, v in fields.items() if v is not None} for group, fields in default.items()}
    matrix.check_values(values)  # every default fits its own field
    with pytest.raises(ConfigError, match="a path"):
        matrix.check_values({"output": {"save": 3}})

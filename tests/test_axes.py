"""Axes of a matrix: what they unfold to, what stays equal, and that each experiment has its own plain process."""

from pathlib import Path

import pytest

from bench import matrix
from bench.announce import paired
from bench.flags import parse
from bench.launchers import flags
from bench.matrix import Cell, Matrix, MatrixError


def single_of(cells: list[Cell]) -> dict[str, int]:
    """Plain processes by experiment."""
    found: dict[str, int] = {}
    for cell in cells:
        found.setdefault(cell.config.experiment_id(), 0)
        found[cell.config.experiment_id()] += cell.label == "single"
    return found


def test_precision_and_variant_are_experiments_of_their_own() -> None:
    made = Matrix(
        name="m",
        engines=["single", "ddp"],
        ranks=[1],
        precision=["fp32", "amp_bf16"],
        variant=["V1", "V4"],
        config={"training": {"steps": 3}},
    )
    cells = made.cells()
    assert list(single_of(cells).values()) == [1, 1, 1, 1]
    assert {str(cell) for cell in cells if cell.label == "ddp"} == {
        f"ddp x1, {precision}, {variant}" for precision in ("fp32", "amp_bf16") for variant in ("V1", "V4")
    }
    trained = {cell.config.workload.variant: cell.config.training for cell in cells}
    assert trained["V1"] != trained["V4"], "a variant brings its own training"


def test_a_micro_batch_decides_the_accumulation_and_nothing_that_is_learned() -> None:
    made = Matrix(name="m", engines=["single", "ddp"], ranks=[1, 2], micro_batch=[1, 4])
    cells = made.cells()
    assert len(single_of(cells)) == 1
    cut = {str(cell): (cell.config.training.accumulation, cell.config.micro_batch(cell.ranks)) for cell in cells}
    assert cut == {
        "single x1, micro-batch 1": (8, 1), "ddp x1, micro-batch 1": (8, 1), "ddp x2, micro-batch 1": (4, 1),
        "single x1, micro-batch 4": (2, 4), "ddp x1, micro-batch 4": (2, 4), "ddp x2, micro-batch 4": (1, 4),
    }  # fmt: skip
    assert paired(cells) == 1, "single and ddp on one rank: in one table, at one micro-batch"


def test_weak_scaling_keeps_a_rank_s_batch_and_cut() -> None:
    made = Matrix(name="m", engines=["single", "ddp"], ranks=[1, 2, 4], scaling="weak", rank_batch=4)
    cells = made.cells()
    assert list(single_of(cells).values()) == [1, 1, 1]
    batches = {str(cell): cell.config.training.global_batch for cell in cells}
    assert batches == {
        **{f"single x1, global batch {4 * ranks}": 4 * ranks for ranks in (1, 2, 4)},
        **{f"ddp x{ranks}": 4 * ranks for ranks in (1, 2, 4)},
    }
    assert {cell.config.micro_batch(cell.ranks) for cell in cells} == {2}


def test_strong_scaling_has_one_reference_for_all_rank_counts() -> None:
    cells = Matrix(name="m", engines=["single", "ddp"], ranks=[1, 2, 4]).cells()
    assert list(single_of(cells).values()) == [1]
    assert not any(cell.axes for cell in cells)


@pytest.mark.parametrize("name", matrix.names())
@pytest.mark.parametrize("seed", range(5))
def test_each_experiment_begins_with_its_reference(name: str, seed: int) -> None:
    plan = matrix.read(name).plan(seed)
    begun: set[str] = set()
    for cell in plan:
        if (experiment := cell.config.experiment_id()) not in begun:
            assert cell.label == "single", f"{cell} before its reference"
            begun.add(experiment)
    assert sorted(map(str, plan)) == sorted(map(str, matrix.read(name).cells()))
    assert len({f"{cell} #{cell.repeat}" for cell in plan}) == len(plan), "two runs have one name"


def test_a_matrix_is_made_again_from_what_is_remembered_of_it() -> None:
    for name in matrix.names():
        read = matrix.read(name)
        again = Matrix(**read.to_dict())
        assert list(map(str, again.plan(7))) == list(map(str, read.plan(7)))
        assert [cell.config for cell in again.plan(7)] == [cell.config for cell in read.plan(7)]


WRONG = {
    "weak without a batch": ('scaling = "weak"', "weak scaling needs rank_batch"),
    "a rank's batch in strong": ("rank_batch = 4", "rank_batch is for weak scaling"),
    "neither": ('scaling = "sideways"', "must be strong or weak"),
    "a batch twice": ('scaling = "weak"\nrank_batch = 4\n[config.training]\nglobal_batch = 8', "rank_batch decides"),
    "a cut twice": ("micro_batch = [2]\n[config.training]\naccumulation = 2", "micro_batch decides"),
    "precision twice": ('precision = ["fp32"]\n[config.workload]\nprecision = "fp32"', "precision decides"),
    "unknown precision": ('precision = ["fp8"]', "one of fp32, amp_bf16"),
    "unknown variant": ('variant = ["V9"]', "one of V1, V2"),
    "a value twice": ('precision = ["fp32", "fp32"]', "names something twice"),
    "a cut that can't be": ("micro_batch = [3]", "can't be cut into micro-batches of 3"),
    "no micro-batch": ("micro_batch = [0]", "whole numbers from 1"),
    "micro_batch no list": ("micro_batch = 2", "must be a list of whole numbers"),
}


@pytest.mark.parametrize(("text", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'engines = ["single", "ddp"]\nranks = [1, 2]\n{text}\n')
    with pytest.raises(MatrixError, match=message):
        matrix.read(str(path))


def test_a_variant_in_a_matrix_of_steps_trains_steps() -> None:
    made = Matrix(name="m", engines=["single"], variant=["V4"], config={"training": {"steps": 3}})
    (cell,) = made.cells()
    assert (cell.config.training.steps, cell.config.training.epochs) == (3, None)
    assert parse(flags(cell.config)) == cell.config, "the flags that start it say so too"

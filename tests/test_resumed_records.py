"""A run that went on has the losses of the whole training and the seconds of its own steps: no reader mixes them up."""

from typing import Any

import matplotlib.pyplot as plt

from bench.derived import NOTHING, derive
from bench.exports import mlperf, tensorboard
from bench.frame import _steps
from bench.record import first_step
from bench.report.plots import loss
from bench.report.rows import groups
from tests import made

BEGUN, STEPS = 6, 10


def resumed(**more: Any) -> dict[str, Any]:
    """A run of ten steps that began at the seventh."""
    whole = made.record("ddp", 2)
    ranks = [rank | {key: rank[key][BEGUN:] for key in ("step_s", "data_s")} for rank in whole["ranks"]]
    return whole | {"resumed": {"step": BEGUN, "path": "kept/step_00000006"}, "ranks": ranks} | more


def test_a_run_of_its_own_begins_at_the_first_step():
    assert first_step(made.record("ddp", 2)) == first_step(made.record("ddp", 2) | {"resumed": None}) == 0
    assert first_step(resumed()) == BEGUN


def test_a_step_stands_beside_its_own_loss():
    record = resumed()
    rows = [row for row in _steps(record) if row["rank"] == 0]
    assert [row["step"] for row in rows] == list(range(BEGUN, STEPS))
    assert [row["loss_total"] for row in rows] == [each["total"] for each in record["losses"][BEGUN:]]
    told = [(step, value) for tag, value, step, _ in tensorboard.scalars(record) if tag == "loss/total"]
    assert told == [(step + 1, record["losses"][step]["total"]) for step in range(BEGUN, STEPS)]
    lines = [line for line in mlperf.lines(record) if "tracked_stats" in line]
    assert len(lines) == STEPS - BEGUN
    assert f'"total_loss": {record["losses"][BEGUN]["total"]}' in lines[0]


def test_energy_is_of_the_samples_of_its_own_steps():
    energy = {"joules": 320.0, "joules_reason": None}
    found = derive(resumed(energy=energy), None, NOTHING)["joules_per_sample"].value
    assert found == 320 / 8 / (STEPS - BEGUN)


def test_the_figure_over_time_shows_its_own_steps():
    records = [made.record("single"), resumed()]
    figure = loss.draw(groups(records), records)
    over_time = [line.get_xdata() for line in figure.axes[1].get_lines()]
    plt.close(figure)
    assert {len(xs) for xs in over_time} >= {STEPS, STEPS - BEGUN}

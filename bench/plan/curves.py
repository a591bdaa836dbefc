"""The figure of a plan: throughput a GPU with its interval, and memory, over the number of GPUs, engine by engine."""

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.config import ConfigError
from bench.plan.machines.machine import GIB
from bench.plan.rows import Row
from bench.plan.time.prediction import Prediction
from bench.plan.time.step import Timed
from bench.report.figures import STYLE
from bench.report.plots import style
from bench.report.plots.catalog import FORMATS, save


def write(made: Sequence[Row], path: Path, heading: str) -> Path:
    """Draw and save. Raises ConfigError for an ending that is no picture, a place that takes none, or nothing to draw."""
    kind = path.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise ConfigError(f"--plot {path}: the ending says what it is; there are: {', '.join(FORMATS)}")
    if len({row.setup.ranks for row in made}) < 2:
        raise ConfigError("--plot draws curves over numbers of GPUs; give two or more, such as --gpus 8,64")
    with plt.rc_context(STYLE):
        figure = draw(made, heading)
    try:
        return save(figure, path.with_suffix(""), [kind])[0]
    except OSError as error:
        raise ConfigError(f"--plot {path} can't be written ({error.strerror}); give another path") from error
    finally:
        plt.close(figure)


def draw(made: Sequence[Row], heading: str) -> Figure:
    """Two panels: a line an engine, hollow where it does not fit; a band is the interval of the fastest."""
    labels = list(dict.fromkeys(row.setup.engine for row in made))
    lines = style.wrapped([
        "Predicted, not measured. Band: what holds 95 in 100 runs like those that the constants were fitted to, of the engine that is "
        "fastest at most GPUs. Hollow: does not fit the device. Dashed: what a device has for it.",
    ])  # fmt: skip
    top, bottom = style.top(labels), style.foot_height(lines)
    height = top + 3.4 + bottom
    figure, (left, right) = style.canvas(height, ncols=2)
    figure.subplots_adjust(left=0.07, right=0.982, top=1 - top / height, bottom=bottom / height, wspace=0.16)
    _panel(left, made, labels, "samples/s a GPU", lambda row: _rate(row.step.prediction) if _timed(row) else None)
    left.set_ylim(bottom=0)
    _band(left, [row for row in made if _timed(row) and row.fits])
    _panel(right, made, labels, "GiB of one rank at its peak", lambda row: row.memory.peak / GIB)
    right.set_yscale("log")
    right.axhline(made[0].room / GIB, color=style.FAINT, lw=1.0, ls=(0, (4, 3)))
    style.head(figure, "What every engine would do", heading)
    style.legend(figure, labels)
    style.foot(figure, lines)
    return figure


def _timed(row: Row) -> bool:
    return isinstance(row.step, Timed)


def _rate(of: Prediction) -> float:
    """Samples a second and GPU."""
    return of.samples_per_s / of.ranks


def _panel(
    axes: Axes, made: Sequence[Row], labels: Sequence[str], title: str, of: Callable[[Row], float | None]
) -> None:
    style.clean(axes)
    axes.set_title(title, loc="left", size=9.5, pad=6)
    axes.set_xscale("log", base=2)
    counts = sorted({row.setup.ranks for row in made})
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.set_xlabel("GPUs", size=8.5)
    for label in labels:
        known = [(row, value) for row in made if row.setup.engine == label and (value := of(row)) is not None]
        axes.plot([row.setup.ranks for row, _ in known], [v for _, v in known], lw=1.5, color=style.look(label).colour)
        for row, value in known:
            axes.plot([row.setup.ranks], [value], ls="", **style.marks(label, hollow=not row.fits))


def _band(axes: Axes, made: Sequence[Row]) -> None:
    if not made:
        return
    most = max(row.setup.ranks for row in made)
    best = max((row for row in made if row.setup.ranks == most), key=lambda row: row.step.prediction.samples_per_s)
    own = sorted((row for row in made if row.setup.engine == best.setup.engine), key=lambda row: row.setup.ranks)
    told = [row.step.prediction for row in own]
    axes.fill_between(
        [each.ranks for each in told],
        [_rate(each) * each.step_s / each.high for each in told],
        [_rate(each) * each.step_s / each.low for each in told],
        color=style.look(best.setup.engine).colour, alpha=0.15, lw=0,
    )  # fmt: skip

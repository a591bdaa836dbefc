"""The figures: what they draw, what they say of what was not measured, and that no text lies on another."""

import itertools
import re
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from bench.report.plots import catalog, detection, efficiency, loss, memory, series, steps, style, throughput, wire
from bench.report.plots.series import NothingToDraw
from bench.report.rows import ORDER, groups
from tests import made

GRADIENTS = 2_383_040
ENGINES = ("ddp", "fsdp", "zero-0", "zero-1", "zero-2", "zero-3", "zero-2-offload", "horovod", "ring")


def run(label: str, ranks: int, *, batch: int = 32, speed: float = 1.0, repeat: int = 0) -> dict:
    """A record with everything that a figure shows."""
    record = made.record(label, ranks, speed=speed, repeat=repeat, training={"global_batch": batch, "accumulation": 1})
    record["run_id"] += f"_{batch}"
    record["workload"] = {"cost": {"gradient_bytes": GRADIENTS}}
    record["traffic"] = {"sent_bytes": [2 * (ranks - 1) / ranks * GRADIENTS] * ranks}
    for rank in record["ranks"]:
        rank["memory"] |= dict.fromkeys(("parameters", "gradients", "optimizer", "buffers"), 30_000_000)
        rank["memory"]["activations"] = 90_000_000
    record |= made.perturbed(ranks)
    record["curve"] = {
        "metric": "pixel_auroc",
        "target": 0.8,
        "time_to_target_s": 2.0,
        "points": [
            {"step": step, "seconds": step / 5, "images": 60, "pixel_auroc": 0.5 + step / 25, "image_auroc": 0.6}
            for step in (0, 5, 10)
        ],
    }
    macro = dict.fromkeys((metric for _, _, metric, _ in detection.PANELS), 0.9)
    record["evaluation"] = {
        "seconds": 1.0,
        "text": {"images": 60, "macro": macro},
        "bank": {"images": 60, "macro": macro},
    }
    return record


def strong(counts: tuple[int, ...] = (1, 2)) -> list[dict]:
    return [run("single", 1), *(run(label, ranks, speed=ranks**0.9) for ranks in counts for label in ENGINES)]


def weak(counts: tuple[int, ...] = (1, 2, 4)) -> list[dict]:
    """Four samples a rank; at four ranks an engine is as fast a step as one process on four samples."""
    return [run(label, 1 if label == "single" else ranks, batch=4 * ranks, speed=1.0)
            for ranks in counts for label in ("single", "ddp")]  # fmt: skip


def drawn(name: str, records: list[dict]) -> list[Figure]:
    made_groups = groups(records)
    return [catalog.draw(name, members, records) for members in catalog.together(name, made_groups)]


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def texts(figure: Figure) -> list[Text]:
    """Everything that is written, as drawn: tick labels only where their tick lies within the axis."""
    with plt.rc_context(style.STYLE):
        figure.canvas.draw()
    found = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        found += [*axes.texts, axes.title, axes._left_title, axes._right_title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            found += [tick.label1 for tick in ticks if low <= tick.get_loc() <= high and tick.label1.get_visible()]
    return [text for text in found if text.get_text().strip()]


def words(figure: Figure) -> str:
    return " ".join(" ".join(text.get_text().split()) for text in texts(figure))


MANY = [*strong((1, 2, 16)), *weak()]
SOME_BAD = [
    run("single", 1), run("ddp", 1), run("ddp", 2, speed=1.8), made.changed(run("fsdp", 2), "skipped_steps", 3),
    made.changed(run("zero-1", 2), "proof", []), made.changed(run("ring", 4, speed=3), "world/oversubscribed", True),
    {**made.failed("horovod"), "config": run("horovod", 2)["config"], "experiment": run("horovod", 2)["experiment"]},
]  # fmt: skip
CASES = {name: (groups(records), records) for name, records in
         {"two rank counts": strong(), "many": MANY, "some bad": SOME_BAD}.items()}  # fmt: skip


def both_tracks(case: str) -> tuple[list[Any], list[dict[str, Any]]]:
    """A case with tuned runs beside its controlled ones."""
    _, records = CASES[case]
    settings = {"ddp": {"own_bucket_mb": 1.0}, "zero-1": {"fused_optimizer": True}, "ring": {"own_bucket_mb": 5.0}}
    more = []
    for record in records:
        if tuning := settings.get(record["engine"]["label"]):
            extra = made.changed(record, "config/tuning", record["config"]["tuning"] | tuning)
            more.append(extra | {"run_id": extra["run_id"] + "_tuned"})
    return groups([*records, *more]), [*records, *more]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", sorted(set(catalog.FIGURES) - {"overview"}))
def test_no_text_lies_on_another_or_leaves_the_page(name: str, case: str) -> None:
    made_groups, records = both_tracks(case) if name == "tuned-loss" else CASES[case]
    figure = catalog.draw(name, catalog.together(name, made_groups)[0], records)
    boxes = [(text.get_text(), text.get_window_extent().padded(-1.0)) for text in texts(figure)]
    assert len(boxes) > 5
    page = figure.bbox
    outside = [said for said, box in boxes if min(box.x0, box.y0) < 0 or box.x1 > page.x1 or box.y1 > page.y1]
    assert outside == []
    crossed = [(a, b) for (a, one), (b, two) in itertools.combinations(boxes, 2) if one.overlaps(two)]
    assert crossed == []


def test_phases_stand_beside_the_exposed_communication() -> None:
    records = [run("single", 1) | made.perturbed(1, 0.0), run("ddp", 2) | {"exposed": None}, run("ring", 2)]
    (figure,) = drawn("phases", records)
    said = words(figure)
    assert "50.0 11 % (" in said  # of 450 ms
    assert "not measured" in said
    widths: dict[float, list[float]] = {}
    for bar in figure.axes[0].patches:
        widths.setdefault(round(bar.get_y(), 3), []).append(round(bar.get_width(), 3))
    assert list(widths.values()) == [[10, 150, 200, 40, more] for more in (0, 50, 50)]
    with pytest.raises(NothingToDraw, match="--phase-steps"):
        drawn("phases", [record | {"phases": None} for record in records])


@pytest.mark.parametrize("name", catalog.FIGURES)
def test_every_figure_is_written_in_every_format(name: str, tmp_path: Path) -> None:
    case = both_tracks("some bad") if name == "tuned-loss" else CASES["some bad"]
    paths = catalog.write(name, *case, tmp_path / "deep" / "mine", catalog.FORMATS)
    stem = "mine" if name == "overview" else f"mine-{name}"
    assert [path.name for path in paths] == [f"{stem}.png", f"{stem}.svg", f"{stem}.pdf"]
    assert [path.read_bytes()[:4] for path in paths] == [b"\x89PNG", b"<?xm", b"%PDF"]
    assert plt.get_fignums() == []


def test_the_same_records_give_the_same_bytes(tmp_path: Path) -> None:
    once, again = (catalog.write("steps", *CASES["some bad"], tmp_path / name, catalog.FORMATS) for name in "ab")
    assert [path.read_bytes() for path in once] == [path.read_bytes() for path in again]


def test_an_engine_looks_the_same_everywhere_and_like_no_other() -> None:
    looks = [style.look(label) for label in ORDER]
    assert len(set(looks)) == len(ORDER)
    for name in ("throughput", "efficiency", "loss"):
        (figure, *_) = drawn(name, strong())
        handles = {text.get_text(): line for legend in figure.legends
                   for text, line in zip(legend.get_texts(), legend.legend_handles, strict=True)}  # fmt: skip
        for label in ENGINES:
            assert (handles[label].get_color(), handles[label].get_marker()) == (
                style.look(label).colour,
                style.look(label).marker,
            )
    assert style.look("mystery").colour not in {look.colour for look in looks}


def rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])


@pytest.mark.parametrize("vision", ["normal", "protan", "deutan", "tritan"])
def test_engines_are_told_apart_with_every_common_colour_vision(vision: str) -> None:
    """Machado, Oliveira & Fernandes 2009, severity 1; a CIE76 distance of 10 is seen at a glance. Or the marker differs."""
    from skimage.color import rgb2lab

    matrix = {
        "normal": np.eye(3),
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
    }[vision]

    def lab(colour: str) -> np.ndarray:
        linear = np.clip(
            np.array(matrix) @ np.where((c := rgb(colour)) <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4), 0, 1
        )
        return rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)[None, None])[
            0, 0
        ]

    colours = {style.look(label).colour for label in ORDER}
    assert len(colours) == 6
    assert min(np.linalg.norm(lab(a) - lab(b)) for a, b in itertools.combinations(colours, 2)) > 10


# --- what is drawn


def test_throughput_draws_medians_intervals_and_the_ideal_line() -> None:
    records = strong()
    (figure,) = drawn("throughput", records)
    (axes,) = figure.axes
    rows = {(row.label, row.ranks): row.throughput for row in groups(records)[0].rows}
    ring = next(
        line for line in axes.lines if line.get_color() == style.look("ring").colour and len(line.get_xdata()) == 2
    )
    assert ring.get_ydata().tolist() == [rows["ring", 1].median, rows["ring", 2].median]
    ideal = next(line for line in axes.lines if line.get_linestyle() == "--")
    assert ideal.get_ydata().tolist() == [rows["single", 1].median, 2 * rows["single", 1].median]
    ends = {round(float(y), 9) for bars in axes.collections for path in bars.get_paths() for y in path.vertices[:, 1]}
    assert {round(end, 9) for each in rows.values() for end in (each.low, each.high)} <= ends


def test_weak_scaling_is_found_across_experiments() -> None:
    found = series.scalings(groups(weak()))
    assert [(each.kind, each.batch, each.counts) for each in found] == [("weak", 4, [1, 2, 4])]
    assert found[0].single.ranks == 1
    assert found[0].groups[0].config["training"]["global_batch"] == 4
    both = series.scalings(groups(MANY))
    assert [(each.kind, each.batch) for each in both] == [("strong", 32), ("weak", 4)]
    other = run("ddp", 2, batch=8)
    other["config"]["workload"]["precision"] = "amp_bf16"
    assert len(series.families(groups([*weak(), other | {"experiment": "other"}]))) == 2


def test_efficiency_is_throughput_over_ranks_times_the_base() -> None:
    one, two = run("ring", 1), run("ring", 2)
    one["ranks"][0]["step_s"] = [1.0] * 10
    for rank in two["ranks"]:
        rank["step_s"] = [0.625] * 10
    rows = groups([run("single", 1), one, two])[0].rows
    found = efficiency.efficiency(rows[2], rows[1])
    assert (found.median, found.low, found.high) == (0.8, 0.8, 0.8)
    (figure,) = drawn("efficiency", [run("single", 1), one, two])
    own = figure.axes[0]
    assert any(np.allclose(line.get_ydata(), [1.0, 0.8]) for line in own.lines if len(line.get_ydata()) == 2)


def test_oversubscribed_rows_make_no_claim_of_efficiency() -> None:
    over = made.changed(run("ring", 2), "world/oversubscribed", True)
    with pytest.raises(NothingToDraw, match="more ranks than cores"):
        drawn("efficiency", [run("single", 1), run("ring", 1), over])
    (figure,) = drawn("efficiency", [*strong(), made.changed(run("ring", 4), "world/oversubscribed", True)])
    assert "Left out, more ranks than cores or GPUs: ring x4." in words(figure)


def test_memory_stacks_the_largest_ranks_categories_up_to_its_peak() -> None:
    big = run("ddp", 2)
    big["ranks"][1]["memory"] |= {"peak_bytes": 400 * 2**20, "parameters": 100 * 2**20, "activations": 50 * 2**20}
    (figure,) = drawn("memory", [run("single", 1), big])
    widths: dict[float, list[float]] = {}
    for bar in figure.axes[0].patches:
        widths.setdefault(bar.get_y(), []).append(bar.get_width())
    stack = widths[max(widths)]
    assert stack[0] == pytest.approx(100)
    assert stack[4] == pytest.approx(50)
    assert sum(stack) == pytest.approx(400)
    assert "400" in words(figure)


def test_steps_draw_every_sample_and_count_outliers() -> None:
    slow = run("ddp", 2)
    for rank in slow["ranks"]:
        rank["step_s"] = [0.2, 0.21, 0.2, 0.21, 0.2, 0.21, 0.2, 0.21, 0.2, 0.9]
    (figure,) = drawn("steps", [run("single", 1), slow])
    points = next(line for line in figure.axes[0].lines if line.get_color() == style.look("ddp").colour)
    assert sorted(points.get_xdata()) == pytest.approx(sorted(1e3 * s for s in slow["ranks"][0]["step_s"]))
    assert "1 of 10" in words(figure)


def test_loss_is_drawn_over_steps_and_over_the_slowest_ranks_seconds() -> None:
    records = [run("single", 1), run("ddp", 1), run("ddp", 2)]
    (figure,) = drawn("loss", records)
    over_steps, over_time = (
        next(line for line in axes.lines if line.get_color() == style.look("ddp").colour) for axes in figure.axes
    )
    assert over_steps.get_xdata().tolist() == list(range(1, 11))
    assert over_steps.get_ydata().tolist() == [each["total"] for each in records[2]["losses"]]
    slowest = np.max([rank["step_s"] for rank in records[2]["ranks"]], axis=0)
    assert over_time.get_xdata().tolist() == np.cumsum(slowest).tolist()


def test_a_void_run_has_a_loss_over_steps_and_no_speed() -> None:
    (figure,) = drawn("loss", [run("single", 1), made.changed(run("ddp", 2), "skipped_steps", 3)])
    left, right = (
        [line for line in axes.lines if line.get_color() == style.look("ddp").colour] for axes in figure.axes
    )
    assert (len(left), len(right)) == (1, 0)
    assert "Dashed, not over time: void, ddp x2: 3 optimizer steps were skipped" in words(figure)


def test_wire_bytes_stand_against_the_bound() -> None:
    assert wire.bound_bytes(4, 1000) == 1500
    more = run("fsdp", 2)
    more["traffic"]["sent_bytes"] = [1.5 * GRADIENTS] * 2
    quiet = run("horovod", 2) | {"traffic": {"sent_bytes": None, "sent_bytes_reason": "horovod does not tell"}}
    (figure,) = drawn("wire", [run("single", 1), run("ring", 2), more, quiet])
    said = words(figure)
    assert "1.00 x the bound" in said
    assert "1.50 x the bound" in said
    assert "Not measured, horovod does not tell: horovod x2." in said
    assert "Expected is not known: ring x2: the record does not hold the model's parameters by block." in said
    assert len(figure.axes[0].patches) == 2, "no bar for what was not measured"


def test_wire_bytes_stand_against_what_the_setting_should_move() -> None:
    ring = run("ring", 2)
    ring["workload"]["cost"]["blocks"] = {"vision": {"count": 2, "parameters": 8}}
    ring["traffic"] |= {"sent_bytes": [1.01 * GRADIENTS] * 2, "source": "kernel sockets"}
    (figure,) = drawn("wire", [run("single", 1), ring])
    assert "1.010 x the expected" in words(figure)
    assert "Counted by the kernel, over all TCP sockets of the process." in words(figure).replace("\n", " ")
    widths = [bar.get_width() * 2**20 for bar in figure.axes[0].patches]
    assert sorted(widths) == pytest.approx([0, 0, GRADIENTS, 1.01 * GRADIENTS])


def test_detection_draws_a_point_a_run() -> None:
    one, two = run("ddp", 2), run("ddp", 2, repeat=1)
    two["evaluation"]["text"]["macro"] = {**two["evaluation"]["text"]["macro"], "pixel_auroc": 0.8, "pro": None,
                                          "pro_reason": "no masks"}  # fmt: skip
    (figure,) = drawn(
        "detection",
        [run("single", 1), one, two, made.record("ring", 2, training={"global_batch": 32, "accumulation": 1})],
    )
    points = next(line for line in figure.axes[0].lines if line.get_color() == style.look("ddp").colour)
    assert points.get_xdata().tolist() == [0.9, 0.8]
    said = words(figure)
    assert "0.850" in said
    assert "Not evaluated: ring x2." in said
    assert "Not measured, PRO: no masks." in said


@pytest.mark.parametrize("name", ["throughput", "steps"])
def test_what_has_no_speed_is_named_with_its_reason(name: str) -> None:
    said = words(drawn(name, SOME_BAD)[0])
    for sentence in (
        "Not drawn: fsdp x2, void: 3 optimizer steps were skipped",
        "Not drawn: horovod x2, failed: error, rank 1: no route to rank 1",
        "Hollow, unproven: zero-1 x2",
        "more ranks than cores or GPUs",
    ):
        assert sentence in said


@pytest.mark.parametrize("name", ["memory", "wire", "steps"])
def test_a_void_row_has_no_bar(name: str) -> None:
    right = [run("single", 1), run("ddp", 2), run("ring", 2)]
    wrong = [*right[:2], made.changed(run("ring", 2), "skipped_steps", 3)]
    bars, fewer = (len(drawn(name, records)[0].axes[0].patches) for records in (right, wrong))
    assert fewer < bars
    assert "void: see below" in words(drawn(name, wrong)[0])


# --- what can't be drawn

PLAIN = [made.record("single"), made.record("ddp", 2)]
NOTHING = {
    "throughput": ([made.record("single")], r"ranks = \[1, 2\]"),
    "efficiency": (PLAIN, r"ranks = \[1, 2\]"),
    "memory": ([made.changed(made.record("single"), "ranks/0/memory", {"peak_bytes": None})], "--warmup 2"),
    "steps": ([made.failed("ring")], "every run failed"),
    "loss": ([made.failed("ring")], "no run finished"),
    "wire": (PLAIN, "--backend ring"),
    "detection": (PLAIN, "--evaluate 60"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_nothing_to_draw_says_what_would_have_to_be_measured(name: str, tmp_path: Path) -> None:
    records, reason = NOTHING[name]
    with pytest.raises(NothingToDraw, match=reason):
        catalog.write(name, groups(records), records, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
    assert plt.get_fignums() == []


def test_an_experiment_without_anything_to_draw_is_told_beside_one_with(tmp_path: Path) -> None:
    records = [*strong(), *PLAIN]
    told: list[str] = []
    paths = catalog.write("detection", groups(records), records, tmp_path / "x", ["png"], tell=told.append)
    assert [path.name for path in paths] == ["x-detection.png"]
    assert len(told) == 1
    assert re.search(r"not drawn: detection, tiny on .* global batch 8, .*--evaluate 60", told[0])


@pytest.mark.parametrize("module", [memory, steps, loss, wire, detection])
def test_experiments_are_never_mixed(module) -> None:
    with pytest.raises(ValueError, match="shows one experiment, 2 were given"):
        module.draw(groups([made.record("single"), made.record("single", training={"steps": 20})]), [])


def test_a_family_without_a_plain_process_says_so() -> None:
    (figure,) = drawn("throughput", [run("ddp", 1), run("ddp", 2)])
    assert "No ideal line: no single-process run on 32 samples." in words(figure)
    (figure,) = drawn("efficiency", [run("ddp", 1), run("ddp", 2)])
    assert "not measured: no single-process run" in words(figure)
    assert throughput.LOG_FROM > 2

"""The table of what a row's speed means: tokens and FLOPs a second, MFU, cost, energy, time to a target."""

import statistics
from collections.abc import Mapping, Sequence

from rich.table import Table

from bench.derived import NOTHING, Stated, Value, derive, units
from bench.report.rows import Group, Record, Row
from bench.report.table import NONE, number

# heading, name, factor
COLUMNS = (
    ("tokens/s", "tokens_per_s", 1.0),
    ("model\nGFLOP/s", "model_flops_per_s", 1e-9),
    ("MFU\n%", "mfu", 100.0),
    ("cost per\nM samples", "cost_per_million_samples", 1.0),
    ("J/sample", "joules_per_sample", 1.0),
    ("target\ns", "time_to_target_s", 1.0),
)
Files = Mapping[str, Record]


def values(row: Row, files: Files, stated: Stated) -> dict[str, Value]:
    """Of a row's throughput; energy and time to the target are medians over its runs."""
    runs = [files[name] for name in row.files if name in files]
    if not runs:
        return dict.fromkeys((name for _, name, _ in COLUMNS), Value(None, "no run finished"))
    found = derive(runs[0], row.throughput.median if row.throughput else None, stated)
    energy = [derive(run, None, stated)["joules_per_sample"] for run in runs]
    found["joules_per_sample"] = _median(energy)
    curves = [run.get("curve") or {"time_to_target_s_reason": "it was not evaluated while it trained"} for run in runs]
    found["time_to_target_s"] = _median(
        [Value(each.get("time_to_target_s"), each.get("time_to_target_s_reason")) for each in curves]
    )
    return found


def _median(found: Sequence[Value]) -> Value:
    missing = next((each for each in found if each.value is None), None)
    return missing or Value(statistics.median(each.value for each in found if each.value is not None))


def lines(group: Group, files: Files, stated: Stated) -> tuple[list[str], list[list[str]]]:
    """Headings, and each row as text; a column without any value is left out: `caption` says why it has none."""
    found = [values(row, files, stated) for row in group.rows]
    columns = [each for each in COLUMNS if any(row[each[1]].value is not None for row in found)]
    made = []
    for row, own in zip(group.rows, found, strict=True):
        cells = [NONE if (value := own[name].value) is None else number(value * factor) for _, name, factor in columns]
        made.append([row.label, str(row.ranks), *cells])
    return ["engine", "ranks", *(heading for heading, _, _ in columns)], made


def caption(group: Group, files: Files, stated: Stated) -> list[str]:
    """Denominators, and why a column is empty."""
    runs = [files[name] for row in group.rows for name in row.files if name in files]
    unit = units(runs[0])[1] if runs else "host"
    said = [
        "tokens/s: text positions, padding included, and prefix positions of all samples. model GFLOP/s: forward and backward "
        "in closed form, frozen layers for what they cost, nothing recomputed. J/sample: the timed window, idle power inside."
    ]
    if stated.peak_tflops is not None:
        said.append(f"MFU: of {stated.peak_tflops:g} TFLOP/s stated for each {unit}.")
    if stated.price_per_hour is not None:
        said.append(f"cost: {stated.price_per_hour:g} an hour stated for each {unit}.")
    told: dict[str, dict[str, None]] = {}
    for row in group.rows:
        found = values(row, files, stated)
        for heading, name, _ in COLUMNS:
            value = found[name]
            if value.value is None and row.throughput is not None:
                told.setdefault(f"{heading.replace(chr(10), ' ')}: {value.reason}", {})[f"{row.label} x{row.ranks}"] = (
                    None
                )
    spoken = sum(row.throughput is not None for row in group.rows)
    said += [f"{why} ({'every row' if len(names) == spoken else ', '.join(names)})." for why, names in told.items()]
    return said


def terminal(group: Group, files: Files, stated: Stated = NOTHING) -> Table:
    """For a rich console."""
    table = Table(title="What the speed means", title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0),
                  header_style="dim", caption="\n".join(caption(group, files, stated)), caption_justify="left")  # fmt: skip
    headings, rows = lines(group, files, stated)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", vertical="bottom", no_wrap=True)
    for cells in rows:
        table.add_row(*cells)
    return table


def markdown(group: Group, files: Files, stated: Stated) -> list[str]:
    """The same as lines of Markdown."""
    headings, rows = lines(group, files, stated)
    made = ["", f"| {' | '.join(each.replace(chr(10), ' ') for each in headings)} |"]
    made.append("|---" + "|---:" * (len(headings) - 1) + "|")
    made += [f"| {' | '.join(cells)} |" for cells in rows]
    return [*made, "", *(f"{said}  " for said in caption(group, files, stated))]

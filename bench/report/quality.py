"""The second table of a comparison: what the trained models detect, where the runs were evaluated (`--evaluate N`)."""

import statistics

from rich.table import Table

from bench.report.rows import Group, Row

NONE = "-"
# heading, way of looking, metric of its macro mean
COLUMNS = (
    ("pixel\nAUROC", "text", "pixel_auroc"),
    ("image\nAUROC", "text", "image_auroc"),
    ("PRO", "text", "pro"),
    ("balanced\naccuracy", "text", "balanced_accuracy"),
    ("LLM\nAUROC", "text", "lm_auroc"),
    ("bank: pixel\nAUROC", "bank", "pixel_auroc"),
    ("balanced\naccuracy", "bank", "balanced_accuracy"),
)
CAPTION = (
    "Test images that nobody trained on; macro means over classes, median over runs. text: the decoder's map; bank: the "
    "memory bank's, which no training changes. Balanced accuracy of the answers: 0.5 for always Yes. "
    "LLM AUROC: of Yes minus No at the answer's first token."
)


def cells(row: Row) -> list[str]:
    """A row as text: engine, ranks, COLUMNS."""
    texts = [row.label, str(row.ranks)]
    for _, mode, metric in COLUMNS:
        values = [each[mode]["macro"][metric] for each in row.evaluations]
        known = [value for value in values if value is not None]
        texts.append(f"{statistics.median(known):.3f}" if known else NONE)
    return texts


def terminal(group: Group) -> Table | None:
    """The table for a rich console; None where no run was evaluated."""
    rows = [row for row in group.rows if row.evaluations]
    if not rows:
        return None
    images = rows[0].evaluations[0]["text"]["images"]
    table = Table(title=f"Evaluated on {images} test images", title_justify="left", title_style="bold", box=None,
                  padding=(0, 1, 0, 0), header_style="dim", caption=CAPTION, caption_justify="left")  # fmt: skip
    for index, heading in enumerate(("engine", "ranks", *(heading for heading, _, _ in COLUMNS))):
        table.add_column(heading, justify="right" if index else "left", vertical="bottom", no_wrap=True)
    for row in rows:
        table.add_row(*cells(row))
    return table


def markdown(group: Group) -> list[str]:
    """The same table as lines of Markdown; none where no run was evaluated."""
    rows = [row for row in group.rows if row.evaluations]
    if not rows:
        return []
    headings = ["engine", "ranks", *(heading.replace("\n", " ") for heading, _, _ in COLUMNS)]
    lines = ["", f"| {' | '.join(headings)} |", "|---" + "|---:" * (len(headings) - 1) + "|"]
    lines += [f"| {' | '.join(cells(row))} |" for row in rows]
    return [*lines, "", f"{rows[0].evaluations[0]['text']['images']} images. {CAPTION}"]

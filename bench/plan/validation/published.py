"""The published numbers that predictions are checked against: `data/published.csv`, row by row, with what sets a row apart.

`verified` says how a number was read: `yes` as printed, `digitised` off a figure, `secondary` quoted by another document, `derived`
computed from other rows, `no` not confirmed at its source.
"""

import csv
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

# Why a row can't judge a prediction, in the order in which they are asked.
FORMULA = "formula"
UNVERIFIED = "unverified"
DERIVED = "derived"
LOADER = "loader-bound"
OUTLIER = "outlier"
REASONS = {
    FORMULA: "holds a formula or words, no number",
    UNVERIFIED: "was not confirmed at its source",
    DERIVED: "was computed from other rows: it is no measurement",
    LOADER: "reading images took longer than training: no model of engines applies",
    OUTLIER: "the source contradicts itself or compares unlike machines",
}
OUTLIERS = {
    "DLE-BERT": "its one-node row is another machine, and its scaling is above linear",
    "DSCHAT-021": "30B on 64 GPUs: half the rate that the same source has on 32",
    "BIGSCI": "the two rows were measured on different branches of the code",
}


@dataclass(frozen=True)
class Row:
    """One published number. `text` is what was printed, `value` the number, None where it is a formula or words."""

    id: str
    source: str
    quantity: str
    conditions: Mapping[str, Any]
    text: str
    value: float | None
    unit: str
    verified: str

    @property
    def family(self) -> str:
        """Rows of one table or figure: the id without its number."""
        return self.id.rpartition("-")[0]

    @property
    def apart(self) -> str | None:
        """One of REASONS where the row can't judge a prediction, else None."""
        if self.value is None:
            return FORMULA
        if self.verified == "no":
            return UNVERIFIED
        if self.verified == "derived":
            return DERIVED
        if self.family.startswith("AACH") and self.conditions.get("loader") == "native":
            return LOADER
        return OUTLIER if self.outlier else None

    @property
    def outlier(self) -> str | None:
        """What is wrong with the row, else None."""
        if self.family == "DLE-BERT":
            return OUTLIERS[self.family] if str(self.conditions.get("hw", "")).startswith("DGX-2H") else None
        if self.family == "BIGSCI":
            return OUTLIERS[self.family] if self.conditions.get("caution") else None
        return OUTLIERS.get(self.id)


@functools.cache
def rows() -> tuple[Row, ...]:
    """Every row, in the file's order."""
    text = files("bench.plan").joinpath("data/published.csv").read_text(encoding="utf-8")
    return tuple(_row(raw) for raw in csv.DictReader(text.splitlines()))


def chosen(*families: str, apart: bool = False) -> tuple[Row, ...]:
    """Rows of these families, all where none is named. `apart`: also those that can't judge a prediction."""
    return tuple(row for row in rows() if (not families or row.family in families) and (apart or row.apart is None))


def _row(raw: Mapping[str, str]) -> Row:
    try:
        value: float | None = float(raw["value"])
    except ValueError:
        value = None
    return Row(
        raw["id"],
        raw["source"],
        raw["quantity"],
        json.loads(raw["conditions"]),
        raw["value"],
        value,
        raw["unit"],
        raw["verified"],
    )

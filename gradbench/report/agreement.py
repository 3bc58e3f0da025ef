"""Which machines agree on the fastest mode of a comparison, and which do not.

Each machine, with one build of torch, is judged by runs of its own; only the verdicts are compared,
never times of two machines.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from gradbench import statistics
from gradbench.analysis import schema
from gradbench.core.units import counted
from gradbench.core.verdicts import Verdict
from gradbench.report import data

AGREE, DIFFER, UNDECIDED = "agree", "differ", "undecided"
LEVEL = (Verdict.FASTEST, Verdict.SAME)
"""Verdicts of modes that are as fast as the fastest."""
STANDING = (*LEVEL, Verdict.UNDECIDED)
"""Verdicts of modes that were not found slower."""

CASE = ("operator", "function", "size", "dtype", "device", "threads")
PLACE = ("machine", "device_name", "torch")
NAMED = 3
"""Comparisons that a sentence names."""


def machines(
    results: str | Path = "results",
    runs: str | Iterable[str] = (),
    floor: float = statistics.FLOOR,
    confidence: float = statistics.CONFIDENCE,
    method: str = "benjamini-hochberg",
) -> pd.DataFrame:
    """The matrix of machines, releases and cases: a row per comparison, machine and build of torch.

    Each row is of the newest run of its machine and build that measured the comparison: the
    `fastest` mode, its `seconds` (descriptive), the modes that are `level` with it, and those not
    found slower (`standing`), both separated by spaces. `agreement` is about all machines that
    measured the comparison with that torch: *agree* if one mode is level on each of them, *differ*
    if every mode was found slower on one of them, else *undecided*; empty with one machine.
    Arguments are as for `gradbench.verdicts`; `runs` may be several, () for all. Raises StoreError
    where there are no runs.
    """
    return matrix(data.table(results, runs, floor, confidence, method))


def matrix(rows: pd.DataFrame) -> pd.DataFrame:
    """As `machines`, of the rows that `data.rows` makes."""
    records: list[dict[str, Any]] = []
    if len(rows):
        newest = rows[rows["newest"] & rows["verdict"].ne("")]
        for _, own in newest.groupby([*CASE, "torch"], sort=False, dropna=False):
            records += _agreed([_row(place) for _, place in own.groupby([*PLACE], sort=False)])
    return schema.of_records(records, schema.MACHINES)


def _row(rows: pd.DataFrame) -> dict[str, Any]:
    """One comparison on one machine."""
    first = rows.iloc[0]
    best = rows[rows["verdict"].eq(Verdict.FASTEST.value)]
    return {
        **{name: first[name] for name in (*CASE, *PLACE, "run")},
        "fastest": best["mode"].iloc[0] if len(best) else "",
        "seconds": best["seconds"].iloc[0] if len(best) else float("nan"),
        "level": _modes(rows, LEVEL),
        "standing": _modes(rows, STANDING),
    }


def _modes(rows: pd.DataFrame, verdicts: Iterable[Verdict]) -> str:
    wanted = [verdict.value for verdict in verdicts]
    return " ".join(rows[rows["verdict"].isin(wanted)]["mode"])


def _agreed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one comparison, with what they say together."""
    known = [row for row in rows if row["fastest"]]
    said = ""
    if len(known) > 1:
        if set.intersection(*(set(row["level"].split()) for row in known)):
            said = AGREE
        elif set.intersection(*(set(row["standing"].split()) for row in known)):
            said = UNDECIDED
        else:
            said = DIFFER
    return [{**row, "agreement": said} for row in rows]


def sentences(found: pd.DataFrame) -> list[str]:
    """On how many comparisons machines agree, a sentence for each build of torch; empty where no
    comparison was measured by two."""
    said = []
    compared = found[found["agreement"].ne("")]
    for torch, own in compared.groupby("torch", sort=False, observed=True):
        each = own.drop_duplicates([*CASE])
        counts = each["agreement"].value_counts()
        number = own["machine"].nunique()
        text = (
            f"{number} machines measured {counted(len(each), 'comparison')} with torch {torch}: "
            f"they agree on the fastest mode in {counts.get(AGREE, 0)}, differ in "
            f"{counts.get(DIFFER, 0)}, and {counts.get(UNDECIDED, 0)} cannot be told"
        )
        unlike = each[each["agreement"].eq(DIFFER)]
        names = [f"{row.operator} of {row.function}" for row in unlike.head(NAMED).itertuples()]
        more = f" and {len(unlike) - NAMED} more" if len(unlike) > NAMED else ""
        said.append(text + (f" ({', '.join(names)}{more} differ)." if names else "."))
    return said

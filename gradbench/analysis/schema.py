"""The columns of the public data frames: their kinds, which never depend on the data, and units.

Names from a vocabulary are categorical: with all values in their order where gradbench knows them
(statuses, verdicts), else with those of the frame, sorted. Numbers are int64 or float64, with NaN
where there is none; flags are bool; free text is pandas' own type of strings, and empty where there
is none. `frame.attrs["units"]` has the unit of each column that has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from gradbench.core.cases import DTYPES
from gradbench.core.instruments import INSTRUMENTS
from gradbench.core.verdicts import Status, Verdict
from gradbench.store.environment import COLUMNS


@dataclass(frozen=True)
class Field:
    """One column. `kind` is name, text, int, float, bool or list."""

    kind: str
    unit: str = ""
    values: tuple[str, ...] = ()
    """All that a name can be, in their order, where that is known."""


Schema = Mapping[str, Field]

NAME, TEXT, INT, FLOAT, BOOL, LIST = map(Field, ("name", "text", "int", "float", "bool", "list"))
SECONDS = Field("float", "s")
RATIO = Field("float", "1")
SHARE = Field("float", "1")
STATUS = Field("name", values=tuple(status.value for status in Status))
VERDICT = Field("name", values=tuple(verdict.value for verdict in Verdict))
DTYPE = Field("name", values=DTYPES)
CLOCK = Field("name", values=("", "wall", "processor", "mixed"))

READINGS = {
    name: Field("float", "s" if made.unit == "seconds" else made.unit)
    for name, made in INSTRUMENTS.items()
}
CASE = {
    **{"operator": NAME, "function": NAME, "size": NAME, "dtype": DTYPE, "device": NAME},
    **{"threads": INT, "mode": NAME},
}


def with_interval(name: str) -> dict[str, Field]:
    return {name: RATIO, f"{name}_low": RATIO, f"{name}_high": RATIO}


LOAD: Schema = {
    "run": NAME,
    **CASE,
    **{"control": BOOL, "session": INT, "process": INT},
    **{"status": STATUS, "reason": TEXT, "note": TEXT},
    **{"seconds": SECONDS, "seconds_min": SECONDS, "rounds": INT, "clock": CLOCK},
    **{"wall_seconds": SECONDS, "processor_seconds": SECONDS, "disturbed": SHARE},
    "number": Field("int", "calls"),
    **{"error": SHARE, "ulps": Field("float", "ulp")},
    **READINGS,
    **{"stopped": NAME, "load": FLOAT, "cpu": NAME, "device_name": NAME},
    **dict.fromkeys(COLUMNS, NAME),
}

SAMPLES: Schema = {
    **{"run": NAME, "comparison": NAME, "mode": NAME, "control": BOOL},
    **{"session": INT, "process": INT, "round": INT, "block": INT},
    "number": Field("int", "calls"),
    "nanoseconds": Field("int", "ns"),
    "processor_nanoseconds": Field("float", "ns"),
    "disturbed": BOOL,
}

VERDICTS: Schema = {
    "run": NAME,
    **CASE,
    "family": NAME,
    **{"by_hand": BOOL, "baseline": BOOL, "status": STATUS, "reason": TEXT, "takes": SECONDS},
    "note": TEXT,
    **{"seconds": SECONDS, "seconds_low": SECONDS, "seconds_high": SECONDS, "clock": CLOCK},
    **{"wall_seconds": SECONDS, "processor_seconds": SECONDS, "disturbed": SHARE},
    **{"interference": TEXT, "verdict": VERDICT, "q": Field("float", "1")},
    **with_interval("to_fastest"),
    **with_interval("to_forward"),
    **with_interval("to_manual"),
    **with_interval("to_baseline"),
    **{"groups": LIST, "sessions": INT, "voided": INT, "rounds": INT},
    "ulps": Field("float", "ulp"),
    **READINGS,
    **{"of_bandwidth": SHARE, "of_rate": SHARE},
}

RECOMMENDED: Schema = {
    **{"operator": NAME, "dtype": DTYPE, "device": NAME, "threads": INT},
    **{"machine": NAME, "torch": NAME, "mode": NAME},
    **{"first": BOOL, "tied": BOOL, "usual": BOOL, "by_hand": BOOL},
    **with_interval("average"),
    **{"worst": RATIO, "worst_function": NAME, "worst_size": NAME},
    **{"covered": INT, "comparisons": INT},
}

MACHINES: Schema = {
    **{"operator": NAME, "function": NAME, "size": NAME, "dtype": DTYPE, "device": NAME},
    **{"threads": INT, "machine": NAME, "device_name": NAME, "torch": NAME, "run": NAME},
    **{"fastest": NAME, "seconds": SECONDS, "level": TEXT, "standing": TEXT, "agreement": NAME},
}

TIMELINE: Schema = {
    **CASE,
    **{"release": NAME, "date": NAME, "status": STATUS, "reason": TEXT},
    **{"seconds": SECONDS, "clock": CLOCK, "wall_seconds": SECONDS, "processor_seconds": SECONDS},
    **with_interval("to_baseline"),
    "before": NAME,
    **with_interval("change"),
    **{"verdict": VERDICT, "first": NAME},
    **with_interval("from_first"),
    **{"from_first_verdict": VERDICT, "baseline": NAME},
    "instructions": Field("float", "instructions"),
    **{"torch": NAME, "torch_git": NAME, "torch_cuda": NAME, "cpu_capability": NAME},
    **{"numpy": NAME, "python": NAME, "machine": NAME, "track": NAME, "note": TEXT},
}


def framed(columns: Mapping[str, Any], schema: Schema) -> pd.DataFrame:
    """A frame of columns, all of the same length, in the order and the kinds of a schema.

    A column is let go of as soon as it is part of the frame.
    """
    taken = dict(columns)
    made = {name: _column(taken.pop(name), field) for name, field in schema.items()}
    frame = pd.DataFrame(made, copy=False)
    frame.attrs["units"] = {name: field.unit for name, field in schema.items() if field.unit}
    return frame


def of_records(records: Iterable[Mapping[str, Any]], schema: Schema) -> pd.DataFrame:
    """As `framed`, of flat rows."""
    rows = list(records)
    return framed({name: [row[name] for row in rows] for name in schema}, schema)


def _column(values: Any, field: Field) -> pd.Series[Any]:
    if field.kind == "name":
        return _names(values, field.values)
    if field.kind == "text":
        return pd.Series([_text(value) for value in values], dtype="str")
    if field.kind == "list":
        return pd.Series(list(values), dtype="object")
    numbers = values if hasattr(values, "dtype") else list(values)
    kind: Any = {"int": "int64", "float": "float64", "bool": "bool"}[field.kind]
    column: pd.Series[Any] = pd.Series(numbers).astype(kind)
    return column


def _names(values: Any, known: tuple[str, ...]) -> pd.Series[Any]:
    """A categorical column; codes are made of the values without a copy of them all."""
    if isinstance(values, pd.Series) and isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(object)
    places: dict[str, int] = {}
    codes = [
        -1 if value is None or value != value else places.setdefault(str(value), len(places))
        for value in values
    ]
    found = list(places)
    # One that is newer than this gradbench follows the known ones.
    order = [*known, *sorted(set(found).difference(known))]
    new = {place: order.index(name) for place, name in enumerate(found)} | {-1: -1}
    categories = pd.Index(order, dtype="str")
    return pd.Series(
        pd.Categorical.from_codes([new[code] for code in codes], categories=categories)
    )


def _text(value: Any) -> str:
    return "" if value is None or value != value else str(value)

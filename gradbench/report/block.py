"""The page's data as one block of JSON, which its script draws.

Everything belongs to a machine, and no number is of two. Names and texts are escaped here: nothing
in the block can end the script element that holds it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from gradbench.core import text
from gradbench.core.cases import FORWARD
from gradbench.core.operators import OPERATORS
from gradbench.core.verdicts import CALLED
from gradbench.report import answers, history, looks, sizes
from gradbench.report.findings import over_releases

if TYPE_CHECKING:
    from gradbench.report.content import Report

COLUMNS = (
    *("run", "operator", "function", "size", "dtype", "device", "threads", "mode", "by_hand"),
    *("status", "reason", "note", "verdict", "q", "seconds", "seconds_low", "seconds_high"),
    *(f"to_{what}{end}" for what in ("fastest", "forward", "baseline", "manual")
      for end in ("", "_low", "_high")),
    *("peak_memory", "ulps", "sessions", "torch"),
)  # fmt: skip
"""What the page shows of a case."""

MOST_PANELS = 6
"""Cases drawn over the releases for each operator."""


def block(report: Report) -> str:
    """The JSON of a report. Numbers have 6 digits: what is shown with 3 is rounded as elsewhere."""
    places = {id_: at for at, id_ in enumerate(report.frame.index)} if len(report.frame) else {}
    data = {
        "rows": _rows(report.frame),
        "runs": [_run(run) | {"caveats": report.at_once(run)} for run in report.runs],
        "machines": [_machine(report, name, places) for name in report.machines],
        "views": [answers.packed(view) for view in report.views],
        "meanings": meanings(),
        "looks": looks.numbers(answers.modes(report.views)),
        "colours": len(looks.COLOURS),
        "marks": [path for _, path in looks.MARKS],
        "code": _code(report.sources),
        "codeOf": report.sources_of,
    }
    packed = json.dumps(_clean(data), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return packed.replace("<", "\\u003c")


def meanings() -> dict[str, str]:
    """What each operator computes, for a reader who does not know its name."""
    return {name: known.meaning for name, known in OPERATORS.items()}


def _clean(value: Any) -> Any:
    """A value with its texts escaped, and its numbers with 6 digits; NaN is null."""
    if isinstance(value, str):
        return text.shown(str(value))
    if isinstance(value, float):
        if math.isnan(value) or abs(value) > 1e300:
            return None
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {_clean(key): _clean(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(part) for part in value]
    return value


def _rows(frame: pd.DataFrame) -> dict[str, Any]:
    """The cases by columns: lists of numbers, or texts once each with their places."""
    columns: dict[str, Any] = {}
    for name in COLUMNS:
        if name not in frame:
            continue
        if frame[name].dtype.kind in "fib":
            columns[name] = frame[name].tolist()
        else:
            codes, texts = pd.factorize(frame[name].astype(str))
            columns[name] = {"texts": [str(t) for t in texts], "at": codes.tolist()}
    return columns


def _run(run: Any) -> dict[str, Any]:
    judged = run.judged
    return {
        "name": run.name,
        "machine": run.machine,
        "started": run.header.started.started[:16].replace("T", " "),
        "torch": str(run.environment["torch"] or ""),
        "cases": len(judged.rows),
        "sessions": judged.sessions,
        "close": sum(row.verdict == "undecided" for row in judged.rows),
        "confidence": judged.confidence,
    }


def _machine(report: Report, name: str, places: Mapping[Any, int]) -> dict[str, Any]:
    view = answers.default_view(v for v in report.views if v.run == report.default_runs[name])
    return {
        "name": name,
        "run": report.default_runs[name],
        "operator": view.operator if view else "",
        "conditions": {run.name: report.conditions(run) for run in report.of(name)},
        "families": _families(report.newest(name), places),
        "releases": _releases(report.changes.get(name, pd.DataFrame())),
        "caveats": report.caveats[name],
        "trust": report.trust[name],
        "environments": report.environments[name],
    }


def _code(sources: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """The summary and the code of each mode, by operator."""
    code: dict[str, dict[str, list[str]]] = {}
    for mode in sources:
        shown = [str(mode["summary"]), _undecorated(str(mode["source"]))]
        code.setdefault(str(mode["operator"]), {})[str(mode["mode"])] = shown
    return code


def _undecorated(source: str) -> str:
    """The source without the decorator that registers it, which says nothing of how it works."""
    return re.sub(r"\A@.*?\n(?=def )", "", source, flags=re.DOTALL)


def _families(frame: pd.DataFrame, places: Mapping[Any, int]) -> list[dict[str, Any]]:
    """The functions that were timed at three sizes or more: the rows at each size, by number."""
    found = []
    for family in sorted(sizes.families(frame), key=lambda rows: -len(rows)):
        made, name = sizes.sized(family)
        first = made.iloc[0]
        made = made[made["mode"] != FORWARD]
        found.append(
            {
                "operator": first["operator"],
                "function": first["function"],
                "dtype": first["dtype"],
                "place": answers.place_of(first["device"], int(first["threads"])),
                "torch": first["torch"],
                "n": name,
                "points": [
                    [int(str(n)), [places[index] for index in rows.index]]
                    for n, rows in made.groupby("n", sort=True)
                ],
                "crossings": [_crossing(name, cross) for cross in sizes.crossovers(family)],
            }
        )
    return found


def _crossing(name: str, cross: sizes.Crossover) -> answers.Sentence:
    clear = f" (clear at {cross.low} and {cross.high})."
    return [f"Above {name} ≈ {cross.about}, ", cross.after, " is faster than ", cross.before, clear]


def _releases(changes: pd.DataFrame) -> dict[str, Any] | None:
    """The releases of a machine's tracks: counts of all changes and of each operator's, and its
    cases with the largest ones."""
    if changes.empty:
        return None
    releases = history.ordered(changes)
    modes = changes[changes["mode"] != FORWARD]
    dates = dict(zip(changes["release"], changes["date"]))
    operators: Sequence[Any] = list(dict.fromkeys(modes["operator"]))
    return {
        "names": releases,
        "dates": [str(dates[release] or "") for release in releases],
        "text": over_releases(changes),
        "notes": history.also_differs(changes),
        "baseline": str(changes["baseline"].iloc[0]),
        "strip": _strip(changes, releases),
        "whole": _step(changes, "from_first") if "from_first" in changes else None,
        "operators": {
            str(operator): {
                "strip": _strip(own, releases),
                "cases": [_course(rows, releases) for _, rows in history.shown(own, MOST_PANELS)],
            }
            for operator in operators
            for own in [modes[modes["operator"] == operator]]
        },
    }


def _strip(changes: pd.DataFrame, releases: Sequence[str]) -> list[dict[str, Any]]:
    return [_step(changes[changes["release"] == release]) for release in releases]


def _step(rows: pd.DataFrame, what: str = "change") -> dict[str, Any]:
    """What a release changed over some cases."""
    counts = rows["verdict" if what == "change" else f"{what}_verdict"].value_counts()
    timed = rows[what].dropna()
    return {
        "slower": int(counts.get("slower", 0)),
        "faster": int(counts.get("faster", 0)),
        "cases": len(timed),
        "average": math.exp(sum(map(math.log, timed)) / len(timed)) if len(timed) else math.nan,
    }


def _course(rows: pd.DataFrame, releases: Sequence[str]) -> dict[str, Any]:
    """One case over the releases: ratio, interval, call and status at each, null where it was not
    measured."""
    first = rows.iloc[0]
    at = {
        row["release"]: [
            *(row[f"to_baseline{end}"] for end in ("", "_low", "_high")),
            row["verdict"] if row["verdict"] in CALLED else "",
            "" if row["status"] == "ok" else str(row["status"]),
        ]
        for row in rows.to_dict("records")
    }
    shown = ("function", "size", "dtype", "mode")
    return {name: str(first[name]) for name in shown} | {
        "points": [at.get(release) for release in releases]
    }

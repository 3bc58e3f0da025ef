"""What the studies found, as tables for a terminal and as the evidence page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def _interval(name: str) -> Callable[[dict[str, Any]], str]:
    def cell(row: dict[str, Any]) -> str:
        if row.get(name) is None or not row["trials"]:
            return ""
        low, high = 100 * row[f"{name}_low"], 100 * row[f"{name}_high"]
        return f"{_percent(row[name])} [{low:.2g}, {high:.2g}]"

    return cell


def _as(form: Callable[[float], str], name: str) -> Callable[[dict[str, Any]], str]:
    return lambda row: "" if row.get(name) is None else form(row[name])


COLUMNS: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "method": ("method", lambda row: str(row["method"])),
    "rule": ("rule", lambda row: str(row["rule"])),
    "neighbour": ("neighbour", lambda row: str(row["neighbour"])),
    "floor": ("floor", _as(_percent, "floor")),
    "budget": ("budget", _as(lambda v: f"{v:.3g} s", "budget")),
    "slowdown": ("slowdown asked", _as(_percent, "slowdown")),
    "calibrated": ("injected", _as(_percent, "calibrated")),
    "long_run": ("by long runs", _as(_percent, "long_run")),
    "pair": ("pair", lambda row: str(row["pair"])),
    "case": ("case", lambda row: str(row["case"])),
    "trials": ("trials", lambda row: str(row["trials"])),
    "false_alarms": ("false alarms", lambda row: str(row["false_alarms"])),
    "rate": ("rate [95 %]", _interval("rate")),
    "found": ("found", lambda row: str(row["found"])),
    "power": ("power [95 %]", _interval("power")),
    "covered": ("covered", lambda row: str(row["covered"])),
    "coverage": ("coverage [95 %]", _interval("coverage")),
    "q95": ("q95", _as(_percent, "q95")),
    "worst": ("worst", _as(_percent, "worst")),
    "half_width": ("half-width", _as(_percent, "half_width")),
    "power_2": ("finds 2 % [95 %]", _interval("power_2")),
    "power_5": ("finds 5 % [95 %]", _interval("power_5")),
    "seconds_measuring": ("measuring", _as(_seconds, "seconds_measuring")),
    "seconds_in_all": ("in all", _as(_seconds, "seconds_in_all")),
}
"""The columns a reader is shown, where a row has them; every field is in the other formats."""


def show_columns(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [heading for key, (heading, _) in COLUMNS.items() if rows and key in rows[0]]


def cells(row: dict[str, Any]) -> list[str]:
    return [cell(row) for key, (_, cell) in COLUMNS.items() if key in row]

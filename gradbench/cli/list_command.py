"""gradbench list"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from gradbench.cli import options, parameters
from gradbench.cli.output import info, say, warn
from gradbench.cli.rendering import Answer, Renderer, Table, Terminal, fields
from gradbench.core.cases import Selection, fits
from gradbench.core.units import counted
from gradbench.runner.choosing import planned, require_devices
from gradbench.runner.wire import WorkerOptions
from gradbench.runner.workers import Discovery

WHAT = ("functions", "operators", "modes", "cases")

WHOLE = ("function", "operator", "mode")
PROSE = (
    *("map", "derivative", "operators", "further_sizes", "modes", "functions"),
    *("summary", "missing_here"),
)
LEAST = (
    *("document", "further_sizes", "derivative", "example_size", "dtype", "opt_in"),
    *("missing_here", "functions"),
)
"""The fields with names to type, those with sentences or lists, and those that a narrow terminal
lacks, in this order."""


@click.command()
@click.argument("what", metavar="[WHAT]", type=parameters.Choice(WHAT), default="functions")
@options.swept_options("full")
@click.option("--source", is_flag=True, help="With 'modes': print the code of each.")
@options.files_option
@options.format_option
def command(
    what: str, selection: Selection, source: bool, files: tuple[str, ...], form: Renderer
) -> None:
    """List what can be measured: functions, operators, modes, or all cases by name.

    Options narrow the list, as for 'gradbench run'.
    """
    discovery = options.discovered(WorkerOptions(files=files))
    require_devices(selection.devices, discovery.environment)
    if what in ("modes", "operators"):
        # All modes are listed, those that compile or are of CUDA devices too.
        names = dict.fromkeys(m for o in discovery.offers for m in (*o.modes, *o.opt_in))
        chosen = tuple(name for name in names if fits(name, selection.modes))
        selection = replace(selection, modes=chosen or selection.modes)
    entries = planned(discovery.offers, selection, warn)
    if what == "cases":
        rows = [{"case": str(case)} for entry in entries for case in entry.cases]
    elif what == "modes":
        modes = {(e.comparison.operator, mode) for e in entries for mode in e.modes}
        rows = _modes(discovery, modes, source)
    else:
        pairs = {(e.comparison.operator, e.comparison.function) for e in entries}
        rows = (_functions if what == "functions" else _operators)(discovery, pairs)
    title = counted(len(rows), what.removesuffix("s"))
    if isinstance(form, Terminal) and what == "cases":
        # Names to copy, or to hand to another program.
        say("\n".join(row["case"] for row in rows))
        info(f"{title} in {counted(len(entries), 'comparison')}")
    elif isinstance(form, Terminal) and what == "modes" and source:
        for row in rows:
            say(f"# {row['operator']}: {row['mode']}\n{row['source']}")
    else:
        columns = fields(rows[0], _cell, WHOLE, PROSE, LEAST)
        form.write(Answer(rows, details=[Table(columns, rows, title)]))


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return ", ".join(value) if isinstance(value, (list, tuple)) else str(value or "")


def _functions(discovery: Discovery, pairs: set[tuple[str, str]]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for offer in discovery.offers:
        if (offer.operator, offer.function) not in pairs:
            continue
        row = rows.setdefault(
            offer.function,
            {
                "function": offer.function,
                "family": offer.family,
                "document": offer.document,
                "map": offer.formula,
                "derivative": offer.derivative,
                "dtype": offer.dtype,
                "operators": [],
                "example_size": offer.example_size or "fixed",
                "further_sizes": [*offer.sizes, *offer.large_sizes],
            },
        )
        row["operators"].append(offer.operator)
    return list(rows.values())


def _operators(discovery: Discovery, pairs: set[tuple[str, str]]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for offer in discovery.offers:
        if (offer.operator, offer.function) in pairs:
            row = rows.setdefault(
                offer.operator,
                {
                    "operator": offer.operator,
                    "usual_choice": offer.first,
                    "modes": [*offer.modes, *offer.opt_in],
                    "functions": [],
                },
            )
            row["functions"].append(offer.function)
    return list(rows.values())


def _modes(
    discovery: Discovery, chosen: set[tuple[str, str]], source: bool
) -> list[dict[str, Any]]:
    return [
        {
            "operator": mode["operator"],
            "mode": mode["mode"],
            "document": mode["document"],
            "opt_in": mode["opt_in"],
            "summary": mode["summary"],
            "missing_here": mode["missing"],
            **({"source": mode["source"]} if source else {}),
        }
        for mode in discovery.modes
        if (mode["operator"], mode["mode"]) in chosen
    ]

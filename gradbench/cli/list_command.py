"""gradbench list"""

from __future__ import annotations

from typing import Any

import click

from gradbench.cli import options, parameters
from gradbench.cli.output import console, emit, plain, say, table
from gradbench.core.cases import SelectionError, fits
from gradbench.core.units import counted
from gradbench.runner.wire import WorkerError, WorkerOptions
from gradbench.runner.workers import Discovery

WHAT = ("functions", "operators", "modes", "cases")


@click.command()
@click.argument("what", type=parameters.Choice(WHAT), default="functions")
@options.selection_options
@click.option(
    "--sweep",
    type=parameters.Choice(["documents", "standard", "full"]),
    default="full",
    show_default=True,
    help="Sizes of the cases: the documents' inputs, those of the standard profile, or all.",
)
@click.option("--source", is_flag=True, help="With 'modes': print the code of each.")
@options.files_option
@options.format_option("json", "csv", "md")
def command(
    what: str, sweep: str, source: bool, files: tuple[str, ...], form: str, **given: Any
) -> None:
    """List what can be measured: functions, operators, modes, or all cases by name.

    Options narrow the list, as they do for 'gradbench run'.
    """
    try:
        found = options.offered(WorkerOptions(files=files))
        options.require_devices(given["devices"], found.environment)
        if what == "modes" or what == "operators":
            # All modes are listed, those that compile or are of CUDA devices too.
            names = dict.fromkeys(m for o in found.offers for m in (*o.modes, *o.opt_in))
            globs = given["modes"]
            given["modes"] = tuple(n for n in names if fits(n, globs)) or globs
        entries = options.planned(found.offers, options.selection(sweep, **given))
    except (SelectionError, WorkerError) as error:
        raise click.UsageError(str(error)) from error
    pairs = {(e.comparison.operator, e.comparison.function) for e in entries}
    if what == "cases":
        rows = [{"case": str(e.comparison.case(mode))} for e in entries for mode in e.modes]
        title = f"{counted(len(rows), 'case')} in {counted(len(entries), 'comparison')}"
    elif what == "functions":
        rows = _functions(found, pairs)
        title = counted(len(rows), "function")
    elif what == "operators":
        rows = _operators(found, pairs)
        title = counted(len(rows), "operator")
    else:
        chosen = {(e.comparison.operator, mode) for e in entries for mode in e.modes}
        rows = _modes(found, chosen, source)
        title = counted(len(rows), "mode")
        if source and form == "table":
            for row in rows:
                say(f"# {row['operator']}: {row['mode']}\n{row['source']}")
            return
    if form != "table":
        emit(rows, form)
        return
    if what == "cases":
        for row in rows:
            say(row["case"])
        say(title, err=True)
        return
    shown = table(title, list(rows[0]))
    for row in rows:
        shown.add_row(*(plain(_cell(value)) for value in row.values()))
    console().print(shown)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return ", ".join(value) if isinstance(value, (list, tuple)) else str(value or "")


def _functions(found: Discovery, pairs: set[tuple[str, str]]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for offer in found.offers:
        if (offer.operator, offer.function) not in pairs:
            continue
        row = rows.setdefault(
            offer.function,
            {
                "function": offer.function,
                "document": offer.document,
                "map": offer.formula,
                "derivative": offer.derivative,
                "dtype": offer.dtype,
                "operators": [],
                "documents' size": offer.example_size or "fixed",
                "further sizes": [*offer.sizes, *offer.large_sizes],
            },
        )
        row["operators"].append(offer.operator)
    return list(rows.values())


def _operators(found: Discovery, pairs: set[tuple[str, str]]) -> list[dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    for offer in found.offers:
        if (offer.operator, offer.function) in pairs:
            row = rows.setdefault(
                offer.operator,
                {
                    "operator": offer.operator,
                    "written first": offer.first,
                    "modes": [*offer.modes, *offer.opt_in],
                    "functions": [],
                },
            )
            row["functions"].append(offer.function)
    return list(rows.values())


def _modes(found: Discovery, chosen: set[tuple[str, str]], source: bool) -> list[dict[str, Any]]:
    return [
        {
            "operator": mode["operator"],
            "mode": mode["mode"],
            "document": mode["document"],
            "opt-in": mode["opt_in"],
            "what it does": mode["summary"],
            "missing here": mode["missing"],
            **({"source": mode["source"]} if source else {}),
        }
        for mode in found.modes
        if (mode["operator"], mode["mode"]) in chosen
    ]

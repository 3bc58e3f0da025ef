"""gradbench export"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradbench.cli import options, parameters
from gradbench.cli.output import say
from gradbench.core import text
from gradbench.core.units import counted
from gradbench.store.files import replacing
from gradbench.store.runs import StoreError

if TYPE_CHECKING:
    import pandas as pd

WHAT = ("cases", "samples", "verdicts")
SUFFIXES = {".csv": "csv", ".parquet": "parquet", ".json": "json"}

ROWS = 100_000
"""Rows that are made fit for a file at once: a copy of a large frame takes as much memory again."""


@click.command()
@click.argument("runs", nargs=-1, type=parameters.Text(), shell_complete=options.complete_run)
@click.option(
    "-t",
    "--to",
    "target",
    required=True,
    type=parameters.NewFile(tuple(SUFFIXES)),
    help="The file to write; its ending (.csv, .parquet, .json) says the format.",
)
@click.option(
    "--what",
    type=parameters.Choice(WHAT),
    default="cases",
    show_default=True,
    help="A row per case and session, per raw sample, or per judged case of one run.",
)
@options.floor_option
@options.confidence_option
@options.method_option
@options.results_option
def command(
    runs: tuple[str, ...],
    target: Path,
    what: str,
    floor: float,
    confidence: float,
    method: str,
    results: Path,
) -> int:
    """Write stored RUNS (names, beginnings of names, 'latest'; all without any) as one table."""
    form = SUFFIXES[target.suffix.lower()]
    from gradbench.analysis import frames as frame

    try:
        if what == "verdicts":
            if len(runs) > 1:
                raise click.UsageError("verdicts are of one run: name one, or none for the latest")
            run = runs[0] if runs else "latest"
            data = frame.verdicts(results, run, floor, confidence, method)
        else:
            make = frame.load if what == "cases" else frame.samples
            data = make(results, runs or None)
    except StoreError as error:
        raise click.UsageError(str(error)) from error
    if data.empty:
        say(
            f"gradbench: nothing to export: no case was measured in these runs; {target} is not "
            "written",
            err=True,
        )
        return 1
    try:
        with replacing(target) as draft:
            if form == "csv":
                for start in range(0, len(data), ROWS):
                    part = _clean(data[start : start + ROWS], text.csv_cell)
                    part.to_csv(draft, index=False, header=not start, mode="a" if start else "w")
            elif form == "json":
                clean = _clean(data, text.shown)
                clean.to_json(draft, orient="records", indent=1, force_ascii=False)
            else:
                _clean(data, text.shown).to_parquet(draft, index=False)
    except ImportError:
        raise click.UsageError(
            "Parquet needs pyarrow: pip install 'gradbench[parquet]', or export to .csv"
        ) from None
    except OSError as error:
        raise click.UsageError(f"cannot write {target}: {error.strerror or error}") from error
    say(f"{counted(len(data), 'row')} in {target}")
    return 0


def _clean(data: pd.DataFrame, cell: Callable[[str], str]) -> pd.DataFrame:
    """The frame with all text made fit for a file; numbers stay as they are."""
    data = data.rename(columns=lambda name: cell(str(name)))
    cell = functools.cache(cell)  # a column repeats few texts many times

    def clean(value: Any) -> Any:
        if isinstance(value, list):
            return [clean(item) for item in value]
        return cell(value) if isinstance(value, str) else value

    for name in data.select_dtypes(exclude=["number", "bool"]):
        data[name] = [clean(value) for value in data[name]]
    return data

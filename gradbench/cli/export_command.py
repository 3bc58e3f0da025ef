"""gradbench export"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradbench.cli import options, parameters
from gradbench.cli.output import say, warn
from gradbench.core import text
from gradbench.core.extras import MissingExtra, told
from gradbench.core.units import counted
from gradbench.store.files import replacing

if TYPE_CHECKING:
    import pandas as pd

WHAT = ("cases", "samples", "verdicts")
SUFFIXES = (".csv", ".parquet", ".json")

ROWS = 100_000
"""Rows that are made fit for a file at once: a copy of a large frame takes as much memory again."""


@click.command()
@click.argument("runs", nargs=-1, type=parameters.Text(), shell_complete=options.complete_run)
@click.option(
    "-t",
    "--to",
    "target",
    required=True,
    type=parameters.NewFile(SUFFIXES),
    help="Output file; its suffix (.csv, .parquet, .json) sets the format.",
)
@click.option(
    "--what",
    type=parameters.Choice(WHAT),
    default="cases",
    help="A row per case and session, per raw sample, or per verdict of one run.",
)
@options.judging_options
@options.results_option
def command(
    runs: tuple[str, ...], target: Path, what: str, judging: options.Judging, results: Path
) -> int:
    """Write stored RUNS (names, beginnings of names or 'latest'; default: all) as one table."""
    from gradbench.analysis import frames

    if what == "verdicts":
        if len(runs) > 1:
            raise click.UsageError("verdicts are of one run: name one, or none for the latest")
        data = frames.verdicts(results, runs[0] if runs else "latest", *judging)
    else:
        data = (frames.load if what == "cases" else frames.samples)(results, runs or None)
    if data.empty:
        warn(
            f"gradbench: nothing to export: no case was measured in these runs; {target} was not "
            "written"
        )
        return 1
    form = target.suffix.lower()
    try:
        with replacing(target) as draft:
            if form == ".csv":
                for start in range(0, len(data), ROWS):
                    part = _clean(data[start : start + ROWS], text.csv_cell)
                    part.to_csv(draft, index=False, header=not start, mode="a" if start else "w")
            elif form == ".json":
                clean = _clean(data, text.shown)
                clean.to_json(draft, orient="records", indent=1, force_ascii=False)
            else:
                _clean(data, text.shown).to_parquet(draft, index=False)
    except ImportError as error:
        raise MissingExtra(f"{told('Parquet', 'pyarrow')}, or export to .csv") from error
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

"""gradbench export"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradbench.cli import completing, options, parameters
from gradbench.cli.output import info, say, target_file, warn
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
@click.argument("runs", nargs=-1, type=parameters.Text(), shell_complete=completing.run)
@options.to_option(SUFFIXES)
@click.option(
    "--what",
    type=parameters.Choice(WHAT),
    default="cases",
    help="A row per case and session, per raw sample, or per verdict of one run.",
)
@options.judging_options
@options.results_option
def command(
    runs: tuple[str, ...],
    target: Path,
    suffix: str,
    what: str,
    judging: options.Judging,
    results: Path,
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
    try:
        with target_file(target, suffix) as file, replacing(file) as draft:
            if suffix == ".csv":
                for start in range(0, len(data), ROWS):
                    part = _clean(data[start : start + ROWS], text.csv_cell)
                    part.to_csv(draft, index=False, header=not start, mode="a" if start else "w")
            elif suffix == ".json":
                clean = _clean(data, text.shown)
                clean.to_json(draft, orient="records", indent=1, force_ascii=False)
            else:
                _clean(data, text.shown).to_parquet(draft, index=False)
    except ImportError as error:
        raise MissingExtra(f"{told('Parquet', 'pyarrow')}, or export to .csv") from error
    except OSError as error:
        raise click.UsageError(f"cannot write {target}: {error.strerror or error}") from error
    standard = str(target) == parameters.STANDARD
    where = "standard output" if standard else str(target)
    (info if standard else say)(f"{counted(len(data), 'row')} in {where}")
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

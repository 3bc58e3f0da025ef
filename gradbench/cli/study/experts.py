"""gradbench study experts"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gradbench.cli import options, parameters
from gradbench.cli.progress import progress
from gradbench.cli.rendering import Answer, Column, Renderer, Table


def _cell(name: str) -> Any:
    return lambda row: str(row.get(name, ""))


COLUMNS = (
    Column("function", _cell("field")),
    Column("operator", lambda row: row.get("refused", row.get("operator")), prose=True),
    Column("best of advice", _cell("best")),
    Column("usual choice", _cell("usual"), rank=1),
    Column("usual / fastest", lambda row: _with_interval(row, "usual"), right=True, rank=2),
    Column("expert / best", lambda row: _with_interval(row, "expert"), right=True),
    Column("seconds", lambda row: _seconds(row), right=True, rank=3),
)


@click.command()
@click.option(
    "-f",
    "--function",
    "names",
    multiple=True,
    type=parameters.Text(),
    help="Only this function; may be repeated.",
)
@click.option("--budget", type=parameters.seconds(), default=30.0, help="Seconds for each answer.")
@options.results_option
@options.format_option
def experts(names: tuple[str, ...], budget: float, results: Path, form: Renderer) -> int:
    """Compare advice on 17 functions with code written by an expert."""
    from gradbench.studies import experts as study

    known = [asked.name for asked in study.FUNCTIONS]
    for name in names:
        if name not in known:
            raise click.UsageError(f"-f {name!r}: the functions are {', '.join(known)}")
    with progress("experts") as report:
        rows = list(study.study(names, budget, results, report))
    failures = {
        "Behind the expert": [row["function"] for row in rows if row.get("as_fast") is False],
        "Over budget": [row["function"] for row in rows if row.get("in_time") is False],
        "No answer": [row["function"] for row in rows if "refused" in row],
    }
    summary = [f"{what}: {', '.join(those) or 'none'}." for what, those in failures.items()]
    form.write(Answer(rows, details=[Table(COLUMNS, rows)], summary=summary))
    return 1 if any(failures.values()) else 0


def _seconds(row: dict[str, Any]) -> str:
    return "" if "refused" in row else f"{row['seconds']:.0f} of {row['budget']:g}"


def _with_interval(row: dict[str, Any], name: str) -> str:
    if f"{name}_ratio" not in row:
        return str(row.get(f"{name}_status", ""))
    ratio = f"{row[f'{name}_ratio']:.3g} [{row[f'{name}_low']:.3g}, {row[f'{name}_high']:.3g}]"
    verdict = row[f"{name}_verdict"]
    return ratio + (f" {verdict}" if verdict in ("undecided", "same") else "")

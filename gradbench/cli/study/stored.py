"""gradbench study report, and how every study is shown"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gradbench.cli import completing, options, parameters
from gradbench.cli.output import notes, say
from gradbench.cli.rendering import Answer, Cell, Column, Csv, Json, Renderer, Table
from gradbench.core.units import counted
from gradbench.store.studies import Study

NAMES = (
    *("method", "neighbour", "pair", "case", "place", "function", "kind", "dtype"),
    *("operator", "best", "usual"),
)
PROSE = ("rule", "fault", "usual_verdict", "expert_status")
"""The columns that say what a row is about; the others are numbers."""

LEAST = (
    *("seconds", "usual", "operator"),
    *("seconds_in_all", "half_width", "alarms_at_equal_power", "long_run", "worst", "calibrated"),
    *("q95", "unsupported", "seconds_measuring", "power_2_at_5", "functions", "case", "floor"),
    *("neighbour", "by_processor", "near", "trials", "budget", "power_5", "power_2"),
)
"""The columns that a narrow terminal lacks, in this order; cases only where all rows have one."""


def _column(name: str, rows: list[dict[str, Any]]) -> Column:
    from gradbench.studies.evidence import COLUMNS

    heading, cell = COLUMNS[name]
    least = name in LEAST and (name != "case" or len({row[name] for row in rows}) == 1)
    return Column(
        heading,
        cell,
        right=name not in NAMES + PROSE,
        prose=name in PROSE,
        rank=len(LEAST) - LEAST.index(name) if least else 0,
    )


@click.command()
@click.argument(
    "names", nargs=-1, type=parameters.Text(), metavar="[STUDY]...", shell_complete=completing.study
)
@click.option(
    "--docs", type=parameters.NewFolder(), help="Write evidence.md and its figures to this folder."
)
@options.results_option
@click.option("--by-case", is_flag=True, help="Add a line for each case.")
@options.format_option
def report(
    names: tuple[str, ...], docs: Path | None, results: Path, by_case: bool, form: Renderer
) -> int:
    """Show stored studies, or write the evidence page from them.

    Default: the newest finished study of each kind and condition, or the newest
    interrupted one where none is finished.
    """
    from gradbench.studies import evidence

    chosen, problems = evidence.chosen(results, names)
    notes(problems)
    if docs is None:
        answers = [answer(study, by_case) for study in chosen]
        if isinstance(form, (Json, Csv)):
            # Of several studies too, what programs get is one document.
            answers = [Answer([row for each in answers for row in each.records])]
        for each in answers:
            form.write(each)
        return 0
    try:
        written = evidence.write(chosen, docs)
    except OSError as error:
        where = error.filename or docs
        raise click.UsageError(f"cannot write {where}: {error.strerror or error}") from error
    for path in written:
        say(path)
    return 0


def answer(study: Study, by_case: bool) -> Answer:
    """What a study shows."""
    from gradbench.studies.evidence import COLUMNS, HEADINGS, ended, tables_of
    from gradbench.studies.tally import conditions

    heading, _ = HEADINGS[study.started.study]
    tables = []
    rows: list[dict[str, Any]] = []
    common = conditions(study)
    for title, own in tables_of(study, by_case):
        names = [name for name in COLUMNS if own and name in own[0]]
        tables.append(Table([_column(name, own) for name in names], own, title or heading))
        rows += [row | {key: v for key, v in common.items() if key not in row} for row in own]
    summary: list[Cell] = []
    failed = [trial for trial in study.trials if trial.reason]
    if failed:
        number = counted(len(failed), "measurement")
        summary.append(f"{number} gave no result; the first: {failed[0].reason}")
    if rows:
        facts = ("torch", "cpu", "cores", "threads", "load")
        summary.append(", ".join(f"{key} {rows[0][key]}" for key in facts if key in rows[0]))
    how = ended(study)
    summary.append(f"{how[0].upper()}{how[1:]}. Stored in {study.path}")
    return Answer(rows, details=tables, summary=summary)

"""gradbench study gate"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gradbench.cli import options, parameters
from gradbench.cli.output import on_stop, say, warn
from gradbench.cli.progress import progress
from gradbench.cli.rendering import Renderer
from gradbench.cli.study.stored import answer
from gradbench.core.units import counted, duration


@click.command()
@click.option(
    "-f",
    "--function",
    "names",
    multiple=True,
    type=parameters.Text(),
    help="Only this function; may be repeated.",
)
@click.option(
    "--dtype",
    "dtypes",
    multiple=True,
    type=parameters.Choice(["float32", "float64", "bfloat16"]),
    help="Only this dtype; may be repeated.  [default: all three]",
)
@click.option(
    "--points", type=parameters.Whole(1, 1000), default=5, help="Random points per function."
)
@click.option(
    "--quick", is_flag=True, help="One point, and errors planted inside a quarter of the functions."
)
@options.seed_option
@options.results_option
@options.resume_option("study")
@options.format_option
def gate(
    names: tuple[str, ...],
    dtypes: tuple[str, ...],
    points: int,
    quick: bool,
    seed: int,
    results: Path,
    resumed: str | None,
    form: Renderer,
) -> int:
    """Try the gate and the evidence on real functions, and on planted errors.

    Functions from many fields, whose derivatives are right, are looked at and gated as 'gradbench
    advise' does, without times. Then known errors are planted in results and in backwards. Exit
    code 1: a right derivative was refused or called wrong, or an error was missed.
    """
    from gradbench.studies import conducting
    from gradbench.studies import gate as study

    with on_stop("Stopped before anything was tried."):
        if resumed is not None:
            options.reject_beside_resume("study", "resumed", "results", "form")
            opened = conducting.reopen("gate", results, resumed, (), warn)
        else:
            functions = study.listed()
            try:
                chosen = study.chosen(functions, names)
            except ValueError as error:
                raise click.UsageError(f"-f {error}") from error
            settings = study.settings(
                chosen, dtypes or study.DTYPES, 1 if quick else points, seed, quick, bool(names)
            )
            opened = conducting.begin(
                "gate", settings, (), "cpu", results, ["gradbench", *options.given_command()]
            )
    left = study.left(opened.study)
    say(f"{counted(left, 'case')}: about {duration(study.SECONDS * left)}.", err=True)
    log = opened.log
    hint = (
        f"Stopped. Everything tried so far is in {log.path}.\n"
        f"Resume it with: {log.go_on} {log.path.stem}"
    )
    with on_stop(hint), log, progress("gate") as report:
        done = opened.carry_out(report)
    form.write(answer(done, by_case=False))
    return int(bool(_failures(done)))


def _failures(done: Any) -> list[Any]:
    from gradbench.studies import gate as study

    return [*study.faults(done), *study.missed(done)]

"""gradbench advise"""

from __future__ import annotations

from pathlib import Path

import click

from gradbench.advise import OPERATORS
from gradbench.advise.advice import Question, Refusal, advise
from gradbench.advise.answer import PEAK, Advice
from gradbench.cli import options, parameters
from gradbench.cli.output import console, plain, progress, say, stopped, table
from gradbench.cli.show_command import times
from gradbench.core.cases import TORCH_DTYPES
from gradbench.core.units import call_time, reading
from gradbench.runner.wire import WorkerError
from gradbench.store.runs import StoreError, paths


@click.command()
@click.argument("target", metavar="MODULE:FUNCTION", type=parameters.Text())
@click.option(
    "--input",
    "inputs",
    multiple=True,
    type=parameters.Text(),
    metavar="NAME=EXPR",
    help="An input in the function's order: randn(3,4), load(w.pt), tensor([1.,2.]) or a literal.",
)
@click.option(
    "--inputs",
    "maker",
    type=parameters.Text(),
    metavar="MODULE:FUNCTION",
    help="A function that returns the inputs, as a dict by name or a tuple in order.",
)
@click.option(
    "--also",
    multiple=True,
    type=parameters.Text(),
    metavar="MODULE:FUNCTION",
    help="A derivative of your own to measure beside; it takes the function's arguments.",
)
@click.option(
    "--wrt",
    multiple=True,
    type=parameters.Text(),
    metavar="NAME",
    help="Differentiate by this input only.",
)
@click.option(
    "--operator",
    type=parameters.Choice(OPERATORS),
    metavar="NAME",
    help="Such as jacobian or vjp.",
)
@click.option("--dtype", type=parameters.Choice(TORCH_DTYPES), default="float32", show_default=True)
@click.option(
    "--budget",
    type=parameters.seconds(),
    default=30.0,
    show_default=True,
    help="Seconds that the answer may take; more of them tell smaller differences.",
)
@click.option(
    "--device",
    type=parameters.Text(),
    default="cpu",
    show_default=True,
    help="cpu, cuda or cuda:1.",
)
@click.option("--timeout", type=parameters.seconds(), default=60.0)
@options.results_option
def command(
    target: str,
    inputs: tuple[str, ...],
    maker: str | None,
    also: tuple[str, ...],
    wrt: tuple[str, ...],
    operator: str | None,
    dtype: str,
    budget: float,
    device: str,
    timeout: float,
    results: Path,
) -> int:
    """Find the fastest correct way to differentiate a function of your own.

    MODULE:FUNCTION is imported from the current folder or as installed; FILE.py:FUNCTION works too.
    Exit code 1 where no advice can be given, or no mode could be timed.
    """
    pairs: list[tuple[str, str]] = []
    for given in inputs:
        name, equals, text = given.partition("=")
        if not (equals and name.isidentifier() and text.strip()):
            raise click.UsageError(f"--input {given!r} is not of the form name=expression")
        if name in dict(pairs):
            raise click.UsageError(f"--input {name} is given twice")
        pairs.append((name, text))
    if not (pairs or maker):
        raise click.UsageError("give the inputs: --input NAME=EXPR, or --inputs MODULE:FUNCTION")
    question = Question(
        target,
        tuple(pairs),
        wrt,
        operator or "",
        dtype,
        budget,
        timeout,
        maker=maker or "",
        also=also,
        device="cuda:0" if device == "cuda" else device,
    )
    before = set(paths(results))
    try:
        with progress("measuring") as report:
            advice = advise(question, results, report, options.given_command())
    except Refusal as error:
        say(f"gradbench: {target}: {error}", err=True)
        return 1
    except KeyboardInterrupt:
        begun = [path for path in paths(results) if path not in before]
        if not begun:
            return stopped("Stopped before anything was measured.")
        return stopped(
            f"Stopped; all that was measured is kept in {begun[-1]}.\n"
            f"Go on with: gradbench run --resume {begun[-1].stem}"
        )
    except (StoreError, WorkerError, OSError) as error:
        raise click.ClickException(str(error)) from error
    _show(target, advice)
    return 0 if all(advice.winner(operator) for operator in advice.operators) else 1


def _show(target: str, advice: Advice) -> None:
    out = console()
    for heading, lines in (
        ("Evidence", advice.found["evidence"]),
        ("Structure", advice.found["structure"]),
        ("Cost by theory", advice.found["cost"]),
    ):
        if lines:
            out.print(plain(heading, "bold"))
            for line in lines:
                out.print(plain("  " + line))
    for operator in advice.operators:
        rows = advice.rows(operator)
        made = table(
            f"{operator} of {target}, by {', '.join(advice.found['wrt'])}",
            [
                "mode",
                ("time", "right"),
                ("× fastest", "right"),
                ("peak memory", "right"),
                "verdict",
            ],
        )
        for row in rows:
            if row.seconds is not None:
                peak = reading(row.readings[PEAK], "bytes") if PEAK in row.readings else ""
                made.add_row(
                    row.mode, call_time(row.seconds), times(row.to_fastest), peak, row.verdict
                )
        out.print(made)
        for row in rows:
            if row.status != "ok":
                out.print(plain(f"  {row.mode}: {row.status}: {row.reason}"))
        winner = advice.winner(operator)
        if not winner:
            out.print(plain("No mode could be timed."))
            continue
        for said in advice.told(operator):
            out.print(plain(said))
        out.print(plain(f"The code of {winner}, to paste:", "bold"))
        say(advice.code(operator))
    out.print(plain(advice.took))
    out.print(plain(f"Stored in {advice.path}; 'gradbench show' shows all of it."))

"""gradbench advise"""

from __future__ import annotations

from pathlib import Path

import click

from gradbench.advise import DEFINITIONS, OPERATORS
from gradbench.advise.advice import Question, Refusal, advise
from gradbench.advise.answer import PEAK, Advice
from gradbench.analysis.table import Row
from gradbench.cli import options, parameters
from gradbench.cli.cells import times
from gradbench.cli.output import console, plain, say, stopped, warn
from gradbench.cli.progress import progress
from gradbench.cli.rendering import Answer, Column, Table, Terminal
from gradbench.core.cases import TORCH_DTYPES
from gradbench.core.units import call_time, reading
from gradbench.store.runs import paths

COLUMNS = (
    Column("mode", lambda row: row.mode),
    Column("time", lambda row: call_time(row.seconds), right=True),
    Column("× fastest", lambda row: times(row.to_fastest), right=True),
    Column("peak memory", lambda row: _peak(row), right=True),
    Column("verdict", lambda row: row.verdict),
)


@click.command()
@click.argument("target", metavar="MODULE:FUNCTION", type=parameters.Text())
@click.option(
    "--input",
    "inputs",
    multiple=True,
    type=parameters.Text(),
    metavar="NAME=EXPR",
    help="Input, in the function's order: randn(3,4), load(w.pt), tensor([1.,2.]) or a literal; "
    "may be repeated.",
)
@click.option(
    "--inputs",
    "maker",
    type=parameters.Text(),
    metavar="MODULE:FUNCTION",
    help="Function that returns the inputs, as a dict by name or a tuple in order.",
)
@click.option(
    "--also",
    multiple=True,
    type=parameters.Text(),
    metavar="MODULE:FUNCTION",
    help="Derivative of your own to measure too; it takes the function's arguments. May be "
    "repeated.",
)
@click.option(
    "--wrt",
    multiple=True,
    type=parameters.Text(),
    metavar="NAME",
    help="Differentiate with respect to this input only; may be repeated.",
)
@click.option(
    "--operator",
    type=parameters.Choice(OPERATORS),
    metavar="NAME",
    help="Operator, such as jacobian or vjp.  [default: by the shapes of input and result]",
)
@click.option(
    "--definition",
    type=parameters.Choice(DEFINITIONS),
    default="differences",
    help="What the derivative is where autograd and finite differences disagree: 'differences' "
    "refuses the function; 'autograd' is for derivatives that differ on purpose.",
)
@click.option(
    "--dtype", type=parameters.Choice(TORCH_DTYPES), default="float32", help="Dtype of the inputs."
)
@click.option(
    "--budget",
    type=parameters.seconds(),
    default=30.0,
    help="Seconds that the answer may take; more resolves smaller differences.",
)
@click.option(
    "--device",
    type=parameters.Text(),
    metavar="DEVICE",
    default="cpu",
    help="Device: cpu, cuda or cuda:1.",
)
@click.option(
    "--timeout",
    type=parameters.seconds(),
    default=60.0,
    help="Seconds that preparing one mode, or one visit, may take.",
)
@options.results_option
def command(
    target: str,
    inputs: tuple[str, ...],
    maker: str | None,
    also: tuple[str, ...],
    wrt: tuple[str, ...],
    operator: str | None,
    definition: str,
    dtype: str,
    budget: float,
    device: str,
    timeout: float,
    results: Path,
) -> int:
    """Find the fastest correct way to differentiate a function of your own.

    MODULE:FUNCTION is imported from the current folder or as installed; FILE.py:FUNCTION works too.
    Exit code 1 if no advice can be given, or no mode could be timed.
    """
    pairs: list[tuple[str, str]] = []
    for given in inputs:
        name, equals, text = given.partition("=")
        if not (equals and name.isidentifier() and text.strip()):
            raise click.UsageError(f"--input {given!r} is not of the form NAME=EXPR")
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
        definition=definition,
        device="cuda:0" if device == "cuda" else device,
    )
    before = set(paths(results))
    try:
        with progress("measuring") as report:
            advice = advise(question, results, report, options.given_command())
    except Refusal as error:
        warn(f"gradbench: {target}: {error}")
        return 1
    except KeyboardInterrupt:
        begun = [path for path in paths(results) if path not in before]
        if not begun:
            return stopped("Stopped before anything was measured.")
        return stopped(
            f"Stopped. Everything measured so far is in {begun[-1]}.\n"
            f"Resume it with: gradbench run --resume {begun[-1].stem}"
        )
    _show(target, advice)
    return 0 if all(advice.winner(operator) for operator in advice.operators) else 1


def _show(target: str, advice: Advice) -> None:
    out = console()
    for heading, lines in (
        ("Evidence", advice.found["evidence"]),
        ("Hints", advice.found["hints"]),
        ("Structure", advice.found["structure"]),
        ("Cost by theory", advice.found["cost"]),
    ):
        if lines:
            out.print(plain(heading, "bold"))
            for line in lines:
                out.print(plain("  " + line))
    for operator in advice.operators:
        rows = advice.rows(operator)
        timed = [row for row in rows if row.seconds is not None]
        title = f"{operator} of {target}, by {', '.join(advice.found['wrt'])}"
        failed = [f"  {r.mode}: {r.status}: {r.reason}" for r in rows if r.status != "ok"]
        Terminal().write(Answer(details=[Table(COLUMNS, timed, title)], summary=failed))
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


def _peak(row: Row) -> str:
    return reading(row.readings[PEAK], "bytes") if PEAK in row.readings else ""

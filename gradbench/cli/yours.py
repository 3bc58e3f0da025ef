"""Options by which a function of the user's own is measured: its inputs, and what else is known."""

from __future__ import annotations

from pathlib import Path

import click

from gradbench.advise import DEFINITIONS, yours
from gradbench.advise.yours import BY_OPTION
from gradbench.cli import options, parameters
from gradbench.cli.progress import starting
from gradbench.core.cases import Selection
from gradbench.runner.choosing import Measuring, Say, Suite

INPUT = click.option(
    "--input",
    "inputs",
    multiple=True,
    type=parameters.Text(),
    metavar="NAME=EXPR",
    help="Input, in the function's order: randn(3,4), load(w.pt), tensor([1.,2.]) or a literal; "
    "may be repeated.",
)
INPUTS = click.option(
    "--inputs",
    "maker",
    type=parameters.Text(),
    metavar="MODULE:FUNCTION",
    help="Function that returns the inputs, as a dict by name or a tuple in order.",
)
ALSO = click.option(
    "--also",
    multiple=True,
    type=parameters.Text(),
    metavar="MODULE:FUNCTION",
    help="Derivative of your own to measure too; it takes the function's arguments. May be "
    "repeated.",
)
WRT = click.option(
    "--wrt",
    multiple=True,
    type=parameters.Text(),
    metavar="NAME",
    help="Differentiate with respect to this input only; may be repeated.",
)
DEFINITION = click.option(
    "--definition",
    type=parameters.Choice(DEFINITIONS),
    default="differences",
    help="What the derivative is where autograd and finite differences disagree: 'differences' "
    "refuses the function; 'autograd' is for derivatives that differ on purpose.",
)
function_options = options.all_of(INPUT, INPUTS, ALSO, WRT, DEFINITION)
"""How a function of the user's is called, and what is known of it."""


class Yours(yours.Yours):
    """The same, as the options say it; a terminal shows that it is looked at."""

    def suite(
        self,
        selection: Selection,
        files: tuple[str, ...],
        measuring: Measuring,
        results: Path | None,
        say: Say,
        watching: yours.Watching = starting,
        named: str = BY_OPTION,
    ) -> Suite:
        return super().suite(selection, files, measuring, results, say, watching, named)


def _label(context: click.Context, parameter: click.Parameter, label: str | None) -> str | None:
    if label is not None and ("/" in label or "@" in label):
        raise click.BadParameter(f"{label!r}: a name has no '/' and no '@'", context, parameter)
    return label


own_options = options.as_one(
    "yours",
    Yours,
    function_options,
    click.option(
        "--name",
        "label",
        type=parameters.Text(),
        callback=_label,
        metavar="NAME",
        help="Name of your function in results.  [default: MODULE:FUNCTION]",
    ),
)
"""A function of the user's own among what is measured: ``--function MODULE:FUNCTION``."""

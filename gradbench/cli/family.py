"""`--family`: which families of functions are selected, or shown."""

from __future__ import annotations

import click

from gradbench.cli import completing, parameters

selected = click.option(
    "--family",
    "families",
    multiple=True,
    type=parameters.Text(),
    metavar="FAMILY",
    shell_complete=completing.offered("family"),
    help="Only functions of this family: notebooks, applications, one of your own or all; may be "
    "repeated.  [default: notebooks, and functions that are named]",
)
"""Of what can be measured."""

stored = click.option(
    "--family",
    "families",
    multiple=True,
    type=parameters.Text(),
    metavar="FAMILY",
    shell_complete=completing.stored("family"),
    help="Only functions of this family: notebooks, applications or one of your own; may be "
    "repeated.",
)
"""Of stored cases."""

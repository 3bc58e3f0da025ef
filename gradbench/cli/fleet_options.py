"""The options of commands that can measure on the nodes of a cluster."""

from __future__ import annotations

import click

from gradbench.cli import parameters
from gradbench.core.cases import SelectionError

on_option = click.option(
    "--on",
    "address",
    type=parameters.Text(),
    metavar="ADDRESS",
    help="Measure on the nodes of the Dask scheduler at this address (tcp://10.0.0.1:8786), "
    "one run for each kind of machine.",
)
busy_option = click.option(
    "--even-if-busy",
    is_flag=True,
    help="With --on: measure on nodes that are busy with something else too.",
)


def require_on(address: str | None, even_if_busy: bool) -> None:
    """Raises SelectionError where --even-if-busy stands alone."""
    if even_if_busy and address is None:
        raise SelectionError("--even-if-busy is for the nodes of a cluster: add --on ADDRESS")

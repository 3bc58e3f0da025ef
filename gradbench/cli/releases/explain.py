"""gradbench releases explain"""

from __future__ import annotations

import click

from gradbench.cli import completing, options, parameters
from gradbench.cli.explain_command import Counting, counting_options
from gradbench.cli.yours import Yours, own_options
from gradbench.runner.machine import capabilities


@click.command()
@click.argument("case", type=parameters.Text(), metavar="CASE", shell_complete=completing.case)
@click.argument("old", type=parameters.Text(), metavar="OLD", shell_complete=completing.installed)
@click.argument("new", type=parameters.Text(), metavar="NEW", shell_complete=completing.installed)
@click.option(
    "--cpu-capability",
    type=parameters.Choice(capabilities()),
    help="Limit both releases to these CPU instructions, for a fair comparison.",
)
@own_options
@counting_options
def explain(
    case: str, old: str, new: str, cpu_capability: str | None, yours: Yours, counting: Counting
) -> int:
    """Say why CASE became slower or faster from release OLD to NEW: which functions changed.

    CASE is named as in 'gradbench explain'. Both releases must be installed. One call is counted
    under Callgrind, function by function, in both; this takes one to two minutes. OLD and NEW may
    be the same release, to see what two processes of one build differ by.
    """
    from gradbench.releases import environments
    from gradbench.releases.explaining import sides
    from gradbench.runner.profiling import require_valgrind

    require_valgrind()
    installed = [environments.find(name) for name in (old, new)]
    suite = counting.suite(case, yours)
    base = counting.worker(suite)
    chosen = sides(case, suite.selection, installed, base, cpu_capability or "", options.discovered)
    return counting.explained("releases", chosen, suite.files)

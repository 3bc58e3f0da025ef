"""gradbench merge"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from gradbench.cli import parameters
from gradbench.cli.output import hint, say, warn
from gradbench.core.units import counted
from gradbench.store.merging import Merged, What, merge

ORDER = (What.ADDED, What.COMPLETED, What.JOINED, What.RENAMED, What.THERE)
NOUNS = ("run", "track", "study", "explanation", "file")


@click.command()
@click.argument("folders", nargs=-1, required=True, metavar="FOLDER...", type=parameters.Folder())
@click.option(
    "--results",
    "--into",
    "into",
    type=parameters.Folder(),
    default=Path("results"),
    help="Results folder to merge into.",
)
def command(folders: tuple[Path, ...], into: Path) -> int:
    """Put results folders together, as of machines that share no network.

    Every run, track, study and explanation of the folders is copied, once. A log that is there
    already is left as it is, or completed where the copy has more. Nothing is changed in the
    folders themselves, and the same merge can be repeated.
    """
    merged = merge(list(dict.fromkeys(folders)), into)
    for line in summary(merged):
        say(f"{into}: {line}")
    for note in merged.notes:
        hint(note)
    for line in merged.left_out:
        warn(f"gradbench: {line}")
    return 1 if merged.left_out else 0


def summary(merged: Merged) -> list[str]:
    """A line for each outcome: ``3 runs, 1 track added``."""
    lines = []
    for what in ORDER:
        found = Counter(noun for noun, outcome in merged.outcomes if outcome is what)
        if found:
            parts = ", ".join(counted(found[noun], noun) for noun in NOUNS if found[noun])
            lines.append(f"{parts} {what.value}")
    return lines or ["nothing to add"]

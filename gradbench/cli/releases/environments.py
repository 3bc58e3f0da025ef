"""gradbench releases list, install and remove"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from gradbench.cli import completing, options, parameters
from gradbench.cli.output import on_stop, warn
from gradbench.cli.progress import progress
from gradbench.cli.rendering import Answer, Renderer, Table, places
from gradbench.core.cases import SelectionError
from gradbench.core.units import counted
from gradbench.releases.wanted import Installing
from gradbench.runner.machine import capabilities

install_options = options.as_one(
    "installing",
    Installing,
    click.option(
        "--installer",
        type=parameters.Choice(["auto", "uv", "pip"]),
        default="auto",
        help="auto: uv if it is installed, else venv and pip.",
    ),
    click.option(
        "--python",
        type=parameters.Text(),
        metavar="PYTHON",
        help="Interpreter to build environments with.  [default: this one]",
    ),
    click.option("--index-url", type=parameters.Text(), help="Passed to the installer."),
    click.option(
        "--torch-backend",
        type=parameters.Text(),
        metavar="BACKEND",
        help="Passed to uv: cpu, cu128, auto …",
    ),
    click.option(
        "--pip-arg",
        "arguments",
        multiple=True,
        type=parameters.Text(),
        metavar="ARG",
        help="Further argument for the installer, such as --pip-arg=--pre; may be repeated.",
    ),
    click.option("--yes", "-y", is_flag=True, help="Install even if the disk may be too small."),
)
"""How missing environments are made."""

capability_option = click.option(
    "--cpu-capability",
    type=parameters.Choice(capabilities()),
    help="Limit all releases to these CPU instructions, for a fair comparison.",
)

dry_run_option = click.option(
    "--dry-run",
    is_flag=True,
    help="Say what would be done, with its disk space and time, and stop.",
)

FIELDS = {
    "name": "name",
    "torch": "torch",
    "released": "released",
    "state": "state",
    "gib": "GiB",
    "numpy": "NumPy",
    "cpu_capability": "CPU capability",
    "reason": "reason",
}


@click.command("list")
@click.option("--all", "everything", is_flag=True, help="Show known releases too.")
@options.format_option
def list_(everything: bool, form: Renderer) -> int:
    """List the installed environments, or all known releases."""
    from gradbench.releases import environments, room

    there = environments.recorded()
    rows = _rows(there, everything)
    free = room.free_bytes() / room.GIB
    size = sum(e.size for e in there) / room.GIB
    summary = [
        f"{counted(len(there), 'environment')} ({size:.1f} GiB) in {environments.home()}, "
        f"{free:.0f} GiB free."
    ]
    hints = [] if everything else ["'gradbench releases list --all' shows every known release"]
    cells = [[str(value or "") for value in row.values()] for row in rows]
    least = ("CPU capability", "NumPy", "torch", "released")
    table = Table(places(list(FIELDS.values()), ["GiB"], ["reason"], least), cells)
    form.write(Answer(rows, details=[table], summary=summary, hints=hints))
    return 0


def _rows(there: list[Any], everything: bool) -> list[dict[str, Any]]:
    from gradbench.core import releases as known
    from gradbench.releases import environments, room

    rows = [
        (
            e.name,
            e.torch,
            str(known.build(e.torch).date),
            ("installed" if e.ours else "pointed at") if e.works else "broken",
            round(e.size / room.GIB, 1),
            e.identity.get("numpy"),
            e.identity.get("cpu_capability"),
            "" if e.works else f"its Python {e.python} is gone",
        )
        for e in there
    ]
    rows += [(f.name, "", "", "failed", 0.0, "", "", f.reason) for f in environments.failures()]
    names = {row[0] for row in rows}
    if everything:
        rows += [
            (r.version, "", str(r.date), "", 0.0, "", "", "")
            for r in known.RELEASES
            if r.version not in names
        ]
    return [dict(zip(FIELDS, row)) for row in rows]


@click.command()
@click.argument(
    "names",
    nargs=-1,
    required=True,
    type=parameters.Text(),
    metavar="RELEASE...",
    shell_complete=completing.release,
)
@install_options
@dry_run_option
@options.format_option
def install(names: tuple[str, ...], installing: Installing, dry_run: bool, form: Renderer) -> int:
    """Make an environment for each release.

    Existing environments stay as they are.
    """
    from gradbench.releases import builds, environments
    from gradbench.releases.wanted import require_available

    with on_stop("Stopped. Finished environments stay: the same command installs the rest."):
        requests = builds.different([environments.named(name) for name in names])
        if dry_run:
            require_available(environments.missing(requests), installing.interpreter)
            foreseen = installing.foreseen(requests)
            said = f"Would install {foreseen}" if foreseen else "All of them are installed."
            failed = []
        else:
            failed = installing.install(requests, warn, progress)
            done = len(requests) - len(failed)
            said = f"installed: {done} of {counted(len(requests), 'release')}"
    form.write(Answer(_named([request.name for request in requests]), text=said))
    return 1 if failed else 0


def _named(names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of these environments; of one that is not there, an empty one."""
    from gradbench.releases import environments

    rows = {row["name"]: row for row in _rows(environments.recorded(), False)}
    absent = dict.fromkeys(FIELDS, "") | {"gib": 0.0}
    return [rows.get(name, absent | {"name": name}) for name in names]


@click.command()
@click.argument(
    "names",
    nargs=-1,
    type=parameters.Text(),
    metavar="[RELEASE]...",
    shell_complete=completing.installed,
)
@click.option("--all", "everything", is_flag=True, help="Remove every installed environment.")
@options.format_option
def remove(names: tuple[str, ...], everything: bool, form: Renderer) -> int:
    """Remove environments.

    What was measured with them is kept.
    """
    from gradbench.releases import environments, room

    if everything:
        names += tuple(e.name for e in environments.recorded())
        names += tuple(f.name for f in environments.failures())
    if not (names or everything):
        raise SelectionError("name the releases to remove, or pass --all")
    # All are looked at before the first is touched.
    chosen = list(dict.fromkeys(environments.removable(name) for name in names))
    freed = {name: environments.remove(name) / room.GIB for name in chosen}
    said = f"Removed {counted(len(chosen), 'environment')}, {sum(freed.values()):.1f} GiB"
    rows = [{"name": name, "gib": round(size, 1)} for name, size in freed.items()]
    form.write(Answer(rows, text=said))
    return 0

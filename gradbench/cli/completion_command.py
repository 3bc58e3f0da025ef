"""gradbench completion"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from gradbench.cli import parameters
from gradbench.cli.output import say


@click.command()
@click.argument("shell", metavar="SHELL", type=parameters.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script for SHELL: bash, zsh or fish.

    To enable it, add this line to your shell's start-up file: eval "$(gradbench completion bash)"
    (or zsh); for fish: gradbench completion fish | source.
    """
    from gradbench.cli import cli

    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"no completion for {shell}")
    try:
        script = made(cli, {}, "gradbench", "_GRADBENCH_COMPLETE").source()
    except OSError as error:
        raise click.ClickException(f"cannot ask {shell} for its version: {error}") from error
    say(script)

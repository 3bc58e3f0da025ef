"""All commands of the command line, for the tests that go through them."""

import click

from gradbench.cli import cli


def commands(group=cli, path=()):
    """Every command with the words that call it."""
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                yield from commands(command, (*path, name))
            else:
                yield (*path, name), command

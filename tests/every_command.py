"""All commands of the command line, for the tests that go through them, and what their messages
may name."""

import re

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


_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]\b")
_QUOTED = re.compile(r"'(gradbench|pip|pytest|asv|python|make) ?([^']*)'")


def lacking(words, message):
    """The options that an error names, to be typed, and that the command lacks; in quotes stand
    commands, whose own options they are, and what the user typed may be wrong."""
    words = list(map(str, words))
    there = set(_options(words)) | {word.partition("=")[0] for word in words}
    absent = [name for name in _OPTION.findall(_QUOTED.sub("", message)) if name not in there]
    for program, rest in _QUOTED.findall(message):
        if program == "gradbench":
            own = set(_options(rest.split()))
            absent += [f"{name} ({rest})" for name in _OPTION.findall(rest) if name not in own]
    return absent


def _options(words):
    """The options of the command that some words call."""
    command = cli
    for word in words:
        if not isinstance(command, click.Group):
            break
        with click.Context(command) as context:
            command = command.get_command(context, word) or command
    with click.Context(command) as context:
        for parameter in command.get_params(context):
            yield from (*parameter.opts, *parameter.secondary_opts)

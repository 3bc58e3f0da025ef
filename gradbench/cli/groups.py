"""Groups of commands: imported when needed, with the options that all have and the settings of the
user's project, and with a suggestion for a mistyped command or option."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from gradbench.cli import settings, verbosity
from gradbench.core.suggest import hint, nearest
from gradbench.core.text import line

_log = logging.getLogger(__name__)


class Group(click.Group):
    """A group that imports the module of a command when the command is needed.

    `homes` are the commands by name, as `module.attribute` in `gradbench.cli`; `words` call the
    group itself.
    """

    def __init__(
        self, *given: Any, homes: Mapping[str, str], words: Sequence[str] = (), **named: Any
    ) -> None:
        super().__init__(*given, **named)
        self.homes = homes
        self.words = tuple(words)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.homes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.homes:
            return None
        module, _, attribute = self.homes[cmd_name].rpartition(".")
        command: click.Command = getattr(
            importlib.import_module(f"gradbench.cli.{module}"), attribute
        )
        if not isinstance(command, click.Group):
            _complete(command, (*self.words, cmd_name))
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        known = self.list_commands(ctx)
        if name not in known and not ctx.resilient_parsing and not name.startswith("-"):
            near = hint(name, known) or f"there are {', '.join(known)}"
            raise click.UsageError(f"no such command {line(name, 60)!r}; {near}", ctx)
        _, command, rest = super().resolve_command(ctx, args)
        if command is not None and not isinstance(command, click.Group):
            words = (*self.words, name)
            asks_for_help = not {"-h", "--help"}.isdisjoint(rest)
            settings.apply(ctx, command, words, names, lenient=asks_for_help)
        return name, command, rest


def names() -> dict[str, Any]:
    """All commands by name; of a group, its own by name."""
    from gradbench.cli import cli

    assert isinstance(cli, Group)
    return _names(cli, click.Context(cli))


def _names(group: Group, context: click.Context) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in group.list_commands(context):
        # Groups are modules of their own, and import none of their commands.
        is_group = group.homes[name] == f"{name}.command"
        below = group.get_command(context, name) if is_group else None
        found[name] = _names(below, context) if isinstance(below, Group) else {}
    return found


def every(group: Group, words: Sequence[str] = ()) -> Iterator[tuple[Sequence[str], click.Command]]:
    """All commands of a group, with the words that call them."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, Group):
            yield from every(command, (*words, name))
        elif command is not None:
            yield (*words, name), command


def _complete(command: click.Command, words: Sequence[str]) -> None:
    """Gives a command what all have, once."""
    if any(parameter.name == "quiet" for parameter in command.params):
        return
    command.params += verbosity.options()
    settings.attach(command, words)
    callback = command.callback
    assert callback is not None

    @functools.wraps(callback)
    def called(**values: Any) -> Any:
        from gradbench.cli.output import warn

        context = click.get_current_context()
        verbosity.begin(context, warn)
        for said in settings.in_force(context):
            _log.debug(said)
        return callback(**values)

    command.callback = called


def no_such_option(error: click.NoSuchOption) -> click.UsageError:
    """The error with the nearest option of the command, in the words of the other errors."""
    said = f"no such option {line(error.option_name, 60)!r}"
    context = error.ctx
    if context is None:
        return click.UsageError(said)
    if isinstance(context.command, click.Group):
        path = " ".join(["gradbench", *getattr(context.command, "words", ())])
        return click.UsageError(f"{said}; options follow the command: {path} COMMAND …", context)
    known = {
        name.lstrip("-"): name
        for parameter in context.command.get_params(context)
        if isinstance(parameter, click.Option) and not parameter.hidden
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("--")
    }
    near = nearest(error.option_name.lstrip("-"), known)[:1]
    return click.UsageError(said + (f"; did you mean {known[near[0]]}?" if near else ""), context)

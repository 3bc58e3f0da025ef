"""Groups of commands: a suggestion for a mistyped name, and commands imported when needed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from gradbench.core.suggest import hint
from gradbench.core.text import line


class Group(click.Group):
    """A group that imports the module of a command when the command is needed, and suggests the
    nearest command for a name that is none.

    `homes` are the commands by name, as `module.attribute` in `gradbench.cli`.
    """

    def __init__(self, *given: Any, homes: Mapping[str, str], **named: Any) -> None:
        super().__init__(*given, **named)
        self.homes = homes

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self.homes)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.homes:
            return None
        module, _, attribute = self.homes[cmd_name].rpartition(".")
        command: click.Command = getattr(
            importlib.import_module(f"gradbench.cli.{module}"), attribute
        )
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        known = self.list_commands(ctx)
        if name not in known and not ctx.resilient_parsing and not name.startswith("-"):
            near = hint(name, known)
            raise click.UsageError(
                f"no such command {line(name, 60)!r}" + (f"; {near}" if near else ""), ctx
            )
        return super().resolve_command(ctx, args)

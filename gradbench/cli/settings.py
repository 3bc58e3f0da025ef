"""Defaults of options: from ``GRADBENCH_*`` variables and the project's ``[tool.gradbench]``.

The command line comes before variables, those before the project's file, and that before the
defaults in the help. In both, what is set for one command comes before what is set for all: of
``[tool.gradbench.run]`` and ``[tool.gradbench]``, of ``GRADBENCH_RUN_TIMEOUT`` and
``GRADBENCH_TIMEOUT``. docs/settings.md has all of it.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from gradbench.cli import parameters
from gradbench.core import project
from gradbench.core.project import TABLE, Project, ProjectError
from gradbench.core.suggest import hint
from gradbench.core.text import line

PREFIX = "GRADBENCH_"

SHARED = (
    *("results", "format", "profile", "device", "threads", "from", "seed"),
    *("threshold", "confidence", "method", "timeout", "memory-limit", "cpu-capability"),
    *("installer", "python", "index-url", "torch-backend", "quiet", "verbose"),
)
"""Options that mean the same on every command that has them, and can be set for all at once."""

NEVER = ("resume", "help")
"""Options that only a command line can give."""

_ALONE = f"[{TABLE}.{{}}] sets it for one command"

ALIASES = {"floor": "threshold"}


def key_of(parameter: click.Parameter) -> str:
    """The name by which an option is set: its long one without dashes; empty for what cannot be."""
    if not isinstance(parameter, click.Option):
        return ""
    name = next((opt[2:] for opt in parameter.opts if opt.startswith("--")), "")
    return "" if name in NEVER else name


def shared_by(parameter: click.Parameter, key: str) -> bool:
    """Whether what is set for all commands is meant for this option too.

    What filters stored cases, and the formats of files, only share the name.
    """
    other = parameter.metavar == "GLOB" or parameter.name in ("forms", "suffix")
    return key in SHARED and not other


def variables(words: Sequence[str], parameter: click.Parameter) -> list[str]:
    """The variables of an option, the first one that is set counts."""
    key = key_of(parameter)
    if not key:
        return []
    own = "_".join([*words, key])
    names = [own, key] if shared_by(parameter, key) else [own]
    return [PREFIX + name.replace("-", "_").upper() for name in names]


def defaults(
    found: Project, words: Sequence[str], command: click.Command, known: Mapping[str, Any]
) -> dict[str, Any]:
    """What the project's file sets for a command, by the names of its parameters.

    `known` are the commands by name: nested tables of the same shape. Raises ProjectError for a
    key or a value that cannot be.
    """
    _require_known(found, found.table, (), known)
    options = {key: p for p in command.params if (key := key_of(p))}
    chosen: dict[str, Any] = {}
    for key, value in found.table.items():
        name = _canonical(key)
        if name in SHARED and name in options and shared_by(options[name], name):
            parameter = options[name]
            chosen[str(parameter.name)] = _value(found, key, value, parameter)
    own: Any = found.table
    for word in words:
        own = _sub(own, word)
    for key, value in own.items():
        dotted = ".".join([*words, key])
        parameter_or_none = options.get(_canonical(key))
        if parameter_or_none is None:
            near = hint(_canonical(key), options) or f"there are {', '.join(sorted(options))}"
            raise found.mistake(dotted, f"'gradbench {' '.join(words)}' has no such option; {near}")
        chosen[str(parameter_or_none.name)] = _value(found, dotted, value, parameter_or_none)
    return chosen


def _sub(table: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    below = table.get(name) or {}
    return below if isinstance(below, dict) else {}


def _canonical(key: str) -> str:
    """The key with dashes, as the option has it; underscores are as good."""
    name = key.replace("_", "-")
    return ALIASES.get(name, name)


def _require_known(
    found: Project, table: Mapping[str, Any], words: tuple[str, ...], known: Mapping[str, Any]
) -> None:
    """Raises ProjectError for a key of a table for all commands, or of a group, that is none."""
    for key, value in table.items():
        dotted = ".".join([*words, key])
        if key in known:
            if not isinstance(value, dict):
                raise found.mistake(dotted, f"should be a table: [{TABLE}.{dotted}]")
            if known[key]:
                _require_known(found, value, (*words, key), known[key])
        elif words or _canonical(key) not in SHARED:
            near = hint(_canonical(key), [*known, *(() if words else SHARED)])
            where = "" if words else f"; what is of one command goes into [{TABLE}.COMMAND]"
            raise found.mistake(dotted, f"unknown key{f'; {near}' if near else where}")


# ── values ────────────────────────────────────────────────────────────────────────────────────


def _value(found: Project, key: str, value: Any, parameter: click.Parameter) -> Any:
    """A value as click takes it. Raises ProjectError for one of another kind."""
    several = getattr(parameter, "multiple", False)
    if isinstance(value, list) and not several:
        alone = "" if "." in key else f"; {_ALONE.format('COMMAND')}"
        raise found.mistake(key, f"takes one value here, not a list{alone}")
    values = value if isinstance(value, list) else [value]
    taken = [_one(found, key, each, parameter) for each in values]
    return taken if several else taken[0]


def _one(found: Project, key: str, value: Any, parameter: click.Parameter) -> Any:
    kind = parameter.type
    wanted: tuple[type, ...]
    if getattr(parameter, "is_flag", False):
        wanted, said = (bool,), "true or false"
    elif isinstance(kind, parameters.Width):
        wanted, said = (int, float, str), "a number or a name"
    elif isinstance(kind, parameters.Whole):
        wanted, said = (int,), "a whole number"
    elif isinstance(kind, parameters.Real):
        wanted, said = (int, float), "a number"
    else:
        wanted, said = (str,), "a string"
    if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
        raise found.mistake(key, f"should be {said}, not {_shown(value)}")
    if isinstance(kind, parameters.Location) and value != parameters.STANDARD:
        # A path in a file is meant from where the file is.
        return str(found.folder / Path(str(value)).expanduser())
    return value


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, (datetime.date, datetime.time)):
        return "a date"
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)[:60]


# ── commands ──────────────────────────────────────────────────────────────────────────────────


def attach(command: click.Command, words: Sequence[str]) -> None:
    """Lets variables set the options of a command."""
    for parameter in command.params:
        names = variables(words, parameter)
        if names:
            parameter.envvar = names


def apply(
    context: click.Context,
    command: click.Command,
    words: Sequence[str],
    known: Callable[[], Mapping[str, Any]],
    lenient: bool = False,
) -> None:
    """Puts what the project's file sets where click looks for the defaults of a command.

    `known` gives all commands by name. Raises UsageError for a mistake in the file, unless lenient.
    """
    try:
        found = project.find()
        own = defaults(found, words, command, known()) if found is not None else {}
    except ProjectError as error:
        if lenient or context.resilient_parsing:
            return
        raise click.UsageError(str(error)) from error
    context.find_root().meta[_FOUND] = found
    context.default_map = {words[-1]: own}


_FOUND = "gradbench.project"


def mistakes(
    found: Project,
    commands: Iterable[tuple[Sequence[str], click.Command]],
    known: Mapping[str, Any],
) -> Iterator[str]:
    """What is wrong with a project's settings for any of the commands, a line each."""
    said: dict[str, None] = {}
    for words, command in commands:
        context = click.Context(command, info_name=" ".join(words))
        by_name = {parameter.name: parameter for parameter in command.params}
        try:
            for name, value in defaults(found, words, command, known).items():
                parameter = by_name[name]
                try:
                    parameter.type_cast_value(context, value)
                except click.UsageError as error:
                    key = key_of(parameter)
                    raise found.mistake(
                        key, f"for '{context.info_name}': {error.message}"
                    ) from None
        except ProjectError as error:
            said[str(error)] = None
    yield from said


def in_force(context: click.Context) -> Iterator[str]:
    """A sentence for the file that was read, and one for the variables that count."""
    found = context.find_root().meta.get(_FOUND)
    if found is not None:
        set_here = [
            key_of(parameter)
            for parameter in context.command.params
            if context.get_parameter_source(str(parameter.name)) == ParameterSource.DEFAULT_MAP
        ]
        counts = f"sets {', '.join(set_here)}" if set_here else "sets nothing for this command"
        yield f"{found.path} [{TABLE}] {counts}"
    names = [
        next(name for name in parameter.envvar or () if _is_set(name))
        for parameter in context.command.params
        if context.get_parameter_source(str(parameter.name)) == ParameterSource.ENVIRONMENT
    ]
    if names:
        yield f"environment variables: {', '.join(names)}"


def _is_set(name: str) -> bool:
    return bool(os.environ.get(name))


def explained(error: click.BadParameter) -> click.BadParameter:
    """The error with the place where the value was set, where that is not the command line."""
    context, parameter = error.ctx, error.param
    if context is None or parameter is None:
        return error
    source = context.get_parameter_source(str(parameter.name))
    found = context.find_root().meta.get(_FOUND)
    said = error.message
    if source == ParameterSource.ENVIRONMENT:
        names = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar
        where = next((name for name in names or () if _is_set(name)), None)
    elif source == ParameterSource.DEFAULT_MAP and found is not None:
        words = context.command_path.split()[1:]
        key = key_of(parameter)
        own: Mapping[str, Any] = found.table
        for word in words:
            own = _sub(own, word)
        mine = any(_canonical(name) == key for name in own)
        where = f"{key} in {line(str(found.path))} [{'.'.join([TABLE, *words]) if mine else TABLE}]"
        said += "" if mine else f"; {_ALONE.format('.'.join(words))}"
    else:
        return error
    return click.BadParameter(said, context, parameter, where)

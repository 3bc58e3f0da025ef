"""Commands of gradbench in the process of the tests, where what they do can be changed."""

from __future__ import annotations

from types import SimpleNamespace

import click
from click.testing import CliRunner
from every_command import lacking

from gradbench.cli import cli


def gradbench(*words, **environment) -> SimpleNamespace:
    """The exit code of a command, and what it wrote, as of a process that was run."""
    variables = {name: str(value) for name, value in environment.items()}
    done = CliRunner(env=variables).invoke(cli, [*map(str, words)], standalone_mode=False)
    code, err = done.return_value or 0, done.stderr
    if isinstance(done.exception, click.ClickException):
        code, err = 2, f"{err}gradbench: {done.exception.format_message()}\n"
    elif isinstance(done.exception, click.exceptions.Exit):
        code = done.exception.exit_code
    elif done.exception:
        raise done.exception
    if code == 2:
        absent = lacking(words, err)
        assert not absent, f"{words} has no {absent}: {err}"
    return SimpleNamespace(returncode=code, stdout=done.stdout, stderr=err)

"""How a command ends: exit codes, signals, errors that users can fix, and internal errors.

Ctrl-C, SIGTERM and SIGHUP all raise KeyboardInterrupt once, wherever the command is, so that each
ends it in the same way: what was measured is kept, the processes that measured are gone, and one
line says how to go on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path
from types import FrameType
from typing import NoReturn, TextIO

import click

from gradbench.core import extras, text

FIXABLE = 2
"""The exit code of what the user can mend."""
INTERNAL = 70
"""The exit code of an error in gradbench itself, `EX_SOFTWARE` of sysexits.h."""

TRACEBACK = "GRADBENCH_TRACEBACK"
"""The environment variable that has tracebacks shown."""

PATIENCE = 5.0
"""Seconds in which a command that was stopped puts its things in order, whatever else it is sent;
after them the next signal ends it at once."""

_SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]


class Stopped(Exception):
    """A signal ended a command that had nothing more to say of it."""


class _Stop:
    """The first signal that asked for the end, and when."""

    number = 0
    at = 0.0


_began: list[float] = []


def began(at: float) -> None:
    """Notes when the command began, by `time.perf_counter`."""
    _began[:] = [at]


def spent() -> float:
    """Seconds since the command began; 0 where that is not known."""
    return time.perf_counter() - _began[0] if _began else 0.0


def listen() -> None:
    """Has the signals end the command. One that is ignored, as under `nohup`, stays ignored.

    Python's own ways of telling something take several lines: a warning becomes a note, and what
    is raised in a finaliser, which Python drops, is shown only to who asks for tracebacks.
    """
    warnings.showwarning = _noted
    if not os.environ.get(TRACEBACK):
        sys.unraisablehook = lambda dropped: None
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _noted(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    sys.stderr.write(f"note: {text.line(str(message))}\n")


def _stop(number: int, frame: FrameType | None) -> None:
    if not _Stop.number:
        _Stop.number, _Stop.at = number, time.monotonic()
        raise KeyboardInterrupt
    if time.monotonic() - _Stop.at > PATIENCE:
        os._exit(128 + number)


def check() -> None:
    """Raises KeyboardInterrupt where a signal came and its exception was lost.

    Python drops what is raised in a finaliser, wherever that may run.
    """
    if _Stop.number:
        raise KeyboardInterrupt


def stopped_code() -> int:
    """The exit code of a command that a signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (_Stop.number or signal.SIGINT)


def carried_out(command: click.Command) -> tuple[int, str]:
    """Runs a command on the process's own arguments: its exit code, and a line where it failed."""
    code, message = _carried_out(command)
    if message and not _has_folder():
        # Whatever failed, it was for want of this: relative names, processes, libraries.
        message = "the current folder does not exist any more: change to another one"
    return code, message


def _carried_out(command: click.Command) -> tuple[int, str]:
    try:
        code = command.main(standalone_mode=False, prog_name="gradbench")
        return (code if isinstance(code, int) else 0), ""
    except (KeyboardInterrupt, Stopped, click.exceptions.Abort):
        return stopped_code(), "stopped"
    except click.exceptions.Exit as left:
        return left.exit_code, ""
    except click.ClickException as error:
        hint = ""
        if isinstance(error, click.UsageError) and error.ctx is not None:
            hint = f" (see '{error.ctx.command_path} --help')"
        return FIXABLE, error.format_message() + hint
    except Exception as error:
        if os.environ.get(TRACEBACK):
            traceback.print_exc()
        return _failed(error)


def fixable() -> tuple[type[Exception], ...]:
    """The errors of this package that say what the user can do about them."""
    from gradbench.core.cases import SelectionError
    from gradbench.core.extras import MissingExtra
    from gradbench.core.releases import ReleaseError
    from gradbench.runner.wire import WorkerError
    from gradbench.store.lines import StoreError

    return MissingExtra, ReleaseError, SelectionError, StoreError, WorkerError


def _failed(error: Exception) -> tuple[int, str]:
    if isinstance(error, OSError) and error.errno is not None:
        return FIXABLE, told(error)
    if module := extras.missing(error):
        return FIXABLE, extras.told("this command", module)
    what = " ".join([type(error).__name__, *([f"({error})"] if str(error) else [])])
    return INTERNAL, (
        f"internal error: {text.line(what)} at {_place(error)}; {TRACEBACK}=1 shows the traceback: "
        "please report it to the maintainers of gradbench with the command"
    )


def told(error: OSError) -> str:
    """What the system would not do, with the file that it was about."""
    what = error.strerror or str(error)
    if not error.errno:
        return what
    what = what[:1].lower() + what[1:]
    files = [str(f) for f in (error.filename, error.filename2) if f is not None]
    return f"{' and '.join(files)}: {what}" if files else what


def _has_folder() -> bool:
    try:
        os.getcwd()
    except OSError:
        return False
    return True


def _place(error: Exception) -> str:
    """The file and line of this package where an exception was raised."""
    home = Path(__file__).resolve().parents[1]
    place = "an unknown place"
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename).is_relative_to(home):
            place = f"{Path(frame.filename).relative_to(home.parent)}:{frame.lineno}"
    return place


def leave(code: int, message: str = "") -> NoReturn:
    """Ends the process with what is still to be said. Nothing can interrupt it any more."""
    from gradbench.cli.streams import Stream

    with contextlib.suppress(ValueError):
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    sys.stdout.flush()
    failure = sys.stdout.failure if isinstance(sys.stdout, Stream) else None
    if failure is not None and not message:
        code = code or FIXABLE
        message = f"cannot write to standard output: {told(failure)}"
    if message:
        sys.stderr.write(f"gradbench: {text.line(message, text.LONGEST)}\n")
    sys.stderr.flush()
    # Python remembers an interrupt that came inside exec(), as in making a dataclass, and would
    # end itself by the signal, though it was caught; the next exec() makes it forget.
    exec("")
    sys.exit(code)

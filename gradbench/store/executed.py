"""A user's files named in a log: their digests, and whether a resumed command may execute them."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradbench.store.lines import StoreError, digest, stem
from gradbench.store.logs import Kind, Log


def digests(files: Iterable[str]) -> dict[str, str]:
    """The SHA-256 of each of the user's files, for a first line."""
    return {file: digest(Path(file)) for file in files}


def executed(
    kind: Kind[Any, Any],
    stored: Log[Any],
    results: Path,
    named: Sequence[str],
    given: Sequence[str],
    say: Callable[[str], None],
) -> tuple[str, ...]:
    """The user's files that resuming a log executes; `say` is told of each.

    `named` are the files that the log names; it states the digests of them and of what they load.
    Files `given` on the command line are executed in their place. Without any, those that the log
    names are, if the log lies in its folder of `results`, belongs to the user, and every file is
    unchanged since it began. Raises StoreError with what to type where not.
    """
    log, place = stored.path, kind.folder(results)
    stated: Mapping[str, str] = stored.started.digests
    if given:
        for file in given:
            if file in stated and digest(Path(file)) != stated[file]:
                say(
                    f"note: {file} has changed since {stem(log)} began; "
                    "what is measured from now on is of the changed file"
                )
        return tuple(given)
    if not named:
        return ()
    words = [*kind.resume(stored.started).split(), stem(log), *(f"--from={file}" for file in named)]
    if results != Path("results"):
        words.append(f"--results={results}")
    again = shlex.join(words)
    look = f"look at what would be executed, then type: {again}"
    if log.parent.resolve() != place.resolve() or log.stat().st_uid != os.getuid():
        raise StoreError(
            f"{log} names files to execute, and is not one of your own logs in {place}; {look}"
        )
    for file in dict.fromkeys([*named, *stated]):
        if file not in stated:
            raise StoreError(f"{stem(log)} does not say what was in {file} when it began; {look}")
        try:
            changed = digest(Path(file)) != stated[file]
        except StoreError as error:
            raise StoreError(f"{stem(log)} needs {file}: {error}; restore it, or {look}") from error
        if changed:
            raise StoreError(f"{file} has changed since {stem(log)} began; restore it, or {look}")
    for file in named:
        say(f"Executing {file}, unchanged since {stem(log)} began")
    return tuple(named)

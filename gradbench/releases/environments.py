"""One environment for each torch release: install, find and remove it.

An environment is a folder of its own under `home()`, with a Python that can import torch and
nothing of this package: a worker reaches that by path. It is built beside its final place and
renamed when complete, so an environment that exists works, whatever was interrupted.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import msgspec
from packaging.version import InvalidVersion, Version

from gradbench.core.releases import ReleaseError
from gradbench.core.suggest import hint
from gradbench.core.text import line
from gradbench.releases import installing
from gradbench.releases.installing import Installer
from gradbench.runner.progress import Progress, Report
from gradbench.runner.wire import Worker, WorkerError, WorkerOptions
from gradbench.store.environment import WorkerEnvironment
from gradbench.store.fields import (
    Amount,
    Bytes,
    Label,
    Name,
    Schema,
    Text,
    Texts,
)
from gradbench.store.files import replacing
from gradbench.store.lines import DAMAGE, StoreError, content, now, storable

SCHEMA = 1
RECORD = "environment.json"
FAILURE = ".failed.json"
OUTPUT = ".failed.log"
"""The end of the name of the file with the output of an installer that failed."""
LONGEST_NAME = 100
NAMES = f"a name has letters, digits, '.', '_' and '+' only, at most {LONGEST_NAME}"
OLDEST = Version("2.0")
NUMPY_1 = Version("2.3")
"""Releases before this one need NumPy 1."""


@dataclass(frozen=True)
class Request:
    """An environment to install: its name and its content.

    `what` is a version of torch, a wheel file, or a Python that has torch already.
    """

    name: str
    what: str

    @property
    def interpreter(self) -> Path | None:
        """The Python of an environment that gradbench does not keep, or None."""
        path = Path(self.what)
        if path.is_dir():
            return path / "bin" / "python"
        return path if path.is_file() and path.suffix != ".whl" else None

    @property
    def is_release(self) -> bool:
        """Whether it is a version of torch, which an index has."""
        try:
            return bool(Version(self.what))
        except InvalidVersion:
            return False

    @property
    def requirements(self) -> list[str]:
        """The packages to install."""
        if self.what.endswith(".whl"):
            return [str(Path(self.what).resolve()), "numpy"]
        version = Version(self.what)
        # Three equal signs select this very build, even a local one such as 2.13.0+cpu.
        exact = "===" if version.local else "=="
        return [f"torch{exact}{self.what}", "numpy<2" if version < NUMPY_1 else "numpy"]


def parse(text: str) -> Request:
    """A version such as 2.9.0, or NAME=WHAT with a version, a wheel, or a Python or its folder.

    Raises ReleaseError with one line for anything else.
    """
    name, equals, what = text.partition("=")
    if not equals:
        name = what = plain_name(text)
        if os.sep in text or text.endswith(".whl"):
            raise ReleaseError(f"{line(text)!r}: give it a name, as in mine={line(text)}")
    if not is_name(name):
        raise ReleaseError(f"{line(text)!r}: {NAMES} (NAME=VERSION, NAME=WHEEL or NAME=PYTHON)")
    path = Path(what)
    if what and (path.exists() or what.endswith(".whl") or os.sep in what):
        if not equals:
            raise ReleaseError(f"{text!r}: give it a name, as in mine={text}")
        request = Request(name, str(path.absolute()))
        interpreter = request.interpreter
        if not path.exists() or (interpreter is not None and not interpreter.is_file()):
            raise ReleaseError(f"{text!r}: there is no Python and no wheel at {what}")
        return request
    try:
        version = Version(what)
    except InvalidVersion:
        raise ReleaseError(
            f"{text!r}: {what!r} is no version of torch (2.9.0), no wheel and no Python"
        ) from None
    if version < OLDEST:
        raise ReleaseError(f"{text!r}: gradbench measures torch {OLDEST} and later")
    return Request(name, what)


def plain_name(text: str) -> str:
    """A release's name, also from its tag, v2.9.0."""
    return text[1:] if re.match(r"v\d", text) else text


def is_name(name: str) -> bool:
    """Whether an environment can have this name, which is never a path."""
    fits = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+]*", name) is not None
    return fits and len(name) <= LONGEST_NAME and not name.endswith((FAILURE, OUTPUT))


def named(text: str) -> Request:
    """The request of an installed environment, by its name, or what `parse` makes of the text."""
    existing = _read(plain_name(text)) if "=" not in text else None
    return Request(existing.name, existing.what) if existing is not None else parse(text)


class Environment(msgspec.Struct, frozen=True):
    """An environment that works. `identity` holds the facts that its worker reports."""

    schema: Schema
    name: Name
    what: Text
    python: Text
    identity: dict[str, Any]
    installed: Label
    size: Bytes
    """Bytes in its folder; 0 if gradbench does not keep it."""
    arguments: Texts = []
    """The arguments passed to the installer."""
    seconds: Amount = 0.0
    """What installing it took; 0 where that is not known."""

    @property
    def torch(self) -> str:
        """The full version, as 2.9.0+cu128."""
        return str(self.identity["torch"])

    def worker(self, base: WorkerOptions) -> WorkerOptions:
        """Options that start its worker, otherwise as `base`."""
        return replace(base, python=self.python)

    @property
    def works(self) -> bool:
        """Whether its Python is there."""
        return Path(self.python).exists()

    @property
    def ours(self) -> bool:
        """Whether gradbench installed it."""
        return self.size > 0


class Failure(msgspec.Struct, frozen=True):
    """An environment that could not be installed, and why."""

    name: Name
    what: Text
    reason: Text
    when: Label


def home() -> Path:
    """The folder of all environments: GRADBENCH_RELEASES, or the user's cache."""
    chosen = os.environ.get("GRADBENCH_RELEASES")
    if chosen:
        return Path(chosen).absolute()
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "gradbench" / "releases"


def _read(name: str) -> Environment | None:
    """The environment of a name: a folder of its own in `home()`, with a record of that name.

    None if there is none, or if the name leads anywhere else.
    """
    folder = home() / name
    if not is_name(name) or folder.is_symlink():
        return None
    try:
        environment = msgspec.json.decode(content(folder / RECORD), type=Environment)
        WorkerEnvironment.of(environment.identity)
    except (StoreError, *DAMAGE):
        return None
    readable = environment.schema == SCHEMA and bool(environment.identity.get("torch"))
    return environment if readable and environment.name == name else None


def installed() -> list[Environment]:
    """Every installed environment, by version."""
    return [environment for environment in recorded() if environment.works]


def recorded() -> list[Environment]:
    """Every environment, by version, those too whose Python is gone."""
    place = home()
    try:
        names = [p.name for p in place.iterdir()] if place.is_dir() else []
    except OSError as error:
        raise ReleaseError(f"cannot read {place}: {error.strerror}") from error
    existing = [e for e in map(_read, names) if e is not None]
    return sorted(existing, key=lambda e: (order(e.torch), e.name))


def failures() -> list[Failure]:
    """The environments whose last installation failed."""
    failed = []
    for path in sorted(home().glob(f"*{FAILURE}")) if home().is_dir() else ():
        with contextlib.suppress(StoreError, *DAMAGE):
            failure = msgspec.json.decode(content(path), type=Failure)
            if is_name(failure.name) and path.name == failure.name + FAILURE:
                failed.append(failure)
    return failed


def order(version: str) -> tuple[Version, str]:
    """A key by which versions sort, in the order of their release."""
    try:
        return Version(version), version
    except InvalidVersion:
        return Version("9999"), version


def find(name: str) -> Environment:
    """The environment of a name. Raises ReleaseError where it is not installed."""
    environment = _read(plain_name(name))
    if environment is None:
        try:
            parse(name)
            what = f"'gradbench releases install {name}' does it"
        except ReleaseError:
            what = "'gradbench releases list' shows what is"
        raise ReleaseError(f"{line(name)} is not installed; {what}")
    if not environment.works:
        raise ReleaseError(_gone(environment))
    return environment


def _gone(environment: Environment) -> str:
    name = environment.name
    cure = "install" if environment.ours else "remove"
    return f"{name}: its Python {environment.python} is gone; 'gradbench releases {cure} {name}'"


def missing(requests: Sequence[Request]) -> list[Request]:
    """The ones not installed yet. Raises ReleaseError if a name stands for something else, or for
    a Python that is gone."""
    wanted = []
    for request in requests:
        existing = _read(request.name)
        if existing is not None and existing.what != request.what:
            raise ReleaseError(
                f"{request.name} is {existing.what} already; choose another name, or "
                f"'gradbench releases remove {request.name}' first"
            )
        if existing is not None and not (existing.works or existing.ours):
            raise ReleaseError(_gone(existing))
        if existing is None or not existing.works:
            wanted.append(request)
    return wanted


def install(request: Request, installer: Installer) -> Environment:
    """Makes one environment and asks its worker for its identity.

    Raises ReleaseError with the reason if it fails; `failures` keeps the reason. The next call
    clears away what an interrupted one left behind.
    """
    with writable() as place:
        clear()
        return _installed(request, installer, place)


@contextlib.contextmanager
def writable() -> Iterator[Path]:
    """The folder of environments, to be written to. Raises ReleaseError where that fails."""
    place = home()
    try:
        place.mkdir(parents=True, exist_ok=True)
        yield place
    except OSError as error:
        raise ReleaseError(f"cannot write to {place}: {error.strerror or error}") from error


def _installed(request: Request, installer: Installer, place: Path) -> Environment:
    failed = place / f"{request.name}{FAILURE}"
    with _held(request.name):
        try:
            _require_ours(request.name)
            if request.interpreter is not None:
                environment = _point(request, place / request.name)
            else:
                environment = _build(request, installer, place / request.name)
        except ReleaseError as error:
            _write(failed, Failure(request.name, request.what, str(error), now()))
            raise
        failed.unlink(missing_ok=True)
        output(request.name).unlink(missing_ok=True)
        return environment


def output(name: str) -> Path:
    """The file that keeps the installer's output if it fails."""
    return home() / f"{name}{OUTPUT}"


@contextlib.contextmanager
def _held(name: str) -> Iterator[None]:
    lock = filelock.FileLock(home() / f".{name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise ReleaseError(f"{name} is being installed or removed by another process") from None
    try:
        yield
    finally:
        lock.release()


def _point(request: Request, folder: Path) -> Environment:
    interpreter = request.interpreter
    assert interpreter is not None
    environment = _identified(request, interpreter, 0, [])
    _discard(folder)
    folder.mkdir()
    _write(folder / RECORD, environment)
    return environment


def _build(request: Request, installer: Installer, folder: Path) -> Environment:
    _discard(folder)
    draft, _ = _left_behind(folder)
    began = time.perf_counter()
    try:
        for command in installer.commands(draft, request.requirements):
            installing.run(command, output(request.name))
        passed = installing.public(installer.passed)
        environment = _identified(
            request, draft / "bin" / "python", installing.folder_bytes(draft), passed
        )
        python = str(folder / "bin" / "python")
        seconds = round(time.perf_counter() - began, 1)
        environment = msgspec.structs.replace(environment, python=python, seconds=seconds)
        _write(draft / RECORD, environment)
        draft.rename(folder)
    except installing.InstallerFailed as error:
        raise ReleaseError(str(error)) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return environment


def _identified(request: Request, interpreter: Path, size: int, passed: list[str]) -> Environment:
    try:
        identity = ask(WorkerOptions(python=str(interpreter)))
    except WorkerError as error:
        raise ReleaseError(f"installed, but it does not work: {error}") from error
    if Version(str(identity["torch"])) < OLDEST:
        raise ReleaseError(f"it has torch {identity['torch']}; {OLDEST} and later are measured")
    return Environment(
        SCHEMA, request.name, request.what, str(interpreter), identity, now(), size, passed
    )


def ask(options: WorkerOptions) -> dict[str, Any]:
    """The identity that a worker started with these options reports, without its process's number.

    Raises WorkerError if none starts.
    """
    with Worker(options) as worker:
        return {key: value for key, value in worker.environment.items() if key != "pid"}


def _write(path: Path, record: msgspec.Struct) -> None:
    with replacing(path) as draft:
        draft.write_bytes(msgspec.json.encode(storable(msgspec.to_builtins(record))))


def removable(text: str) -> str:
    """The name of an environment that `remove` can remove.

    Raises ReleaseError where gradbench made nothing of that name. A name is never a path: it stands
    only for a folder directly in `home()` that holds gradbench's record of it.
    """
    name = plain_name(text)
    if not is_name(name):
        raise ReleaseError(
            f"{line(text)!r} names no environment: {NAMES}; 'gradbench releases list' shows all"
        )
    traces = [home() / f"{name}{FAILURE}", *_left_behind(home() / name)]
    if not _require_ours(name) and not any(path.exists() for path in traces):
        near = hint(name, (e.name for e in recorded())) or "'gradbench releases list' shows what is"
        raise ReleaseError(f"{name} is not installed; {near}")
    return name


def _require_ours(name: str) -> bool:
    """Whether there is an environment of this name. Raises ReleaseError where its folder was not
    made by gradbench."""
    folder = home() / name
    if _read(name) is not None:
        return True
    if folder.is_symlink() or folder.exists():
        raise ReleaseError(
            f"{folder} was not made by gradbench (its record {RECORD} is missing, or of another "
            "name): it is left as it is; move it away yourself"
        )
    return False


def remove(text: str) -> int:
    """Removes an environment, or the record of one that others keep or that failed.

    Returns the bytes that were in it. Raises ReleaseError as `removable` does.
    """
    name = removable(text)
    with _held(name):
        environment = _read(name)
        (home() / f"{name}{FAILURE}").unlink(missing_ok=True)
        output(name).unlink(missing_ok=True)
        _discard(home() / name)
    return environment.size if environment else 0


def _left_behind(folder: Path) -> tuple[Path, Path]:
    """Where an environment is built, and where it is deleted: an interruption leaves these."""
    return folder.with_name(f".{folder.name}.part"), folder.with_name(f".{folder.name}.gone")


def _discard(folder: Path) -> None:
    """Deletes an environment, if it is one. It is renamed first, so that half of one is never
    found; the next call for this name clears away what an interruption leaves."""
    draft, gone = _left_behind(folder)
    for old in (draft, gone):
        shutil.rmtree(old, ignore_errors=True)
    if _read(folder.name) is None:
        return
    try:
        folder.rename(gone)
    except OSError as error:
        raise ReleaseError(f"cannot remove {folder}: {error.strerror}") from error
    shutil.rmtree(gone, ignore_errors=True)


def clear() -> None:
    """Deletes what interrupted installations and removals left behind, of any name; what another
    process is installing or removing stays."""
    place = home()
    for left in (*place.glob(".*.part"), *place.glob(".*.gone")):
        name = left.name[1:].rpartition(".")[0]
        if not is_name(name) or left.is_symlink():
            continue
        with contextlib.suppress(ReleaseError), _held(name):
            shutil.rmtree(left, ignore_errors=True)


def install_all(
    requests: Sequence[Request],
    installer: Installer,
    report: Report,
) -> tuple[list[Environment], list[Failure]]:
    """Installs one after the other; a failure is recorded, and the rest goes on."""
    began = time.perf_counter()
    complete, failed = [], []
    for position, request in enumerate(requests):
        elapsed = time.perf_counter() - began
        report(Progress(position, len(requests), request.name, elapsed, unit="releases"))
        try:
            complete.append(install(request, installer))
        except ReleaseError as error:
            failed.append(Failure(request.name, request.what, str(error), now()))
    elapsed = time.perf_counter() - began
    report(Progress(len(requests), len(requests), "", elapsed, unit="releases"))
    return complete, failed

"""Installs the builds that are asked for and not there, if the disk has room for them."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from gradbench.core import releases
from gradbench.core.releases import ReleaseError
from gradbench.core.units import duration
from gradbench.releases import environments, room
from gradbench.releases.environments import Failure, Request
from gradbench.releases.installing import Installer
from gradbench.releases.reaching import require_reachable
from gradbench.releases.room import GIB
from gradbench.runner.progress import Report


@dataclass(frozen=True)
class Installing:
    """How missing environments are made, as the user asked for it."""

    installer: str
    python: str | None
    index_url: str | None
    torch_backend: str | None
    arguments: tuple[str, ...]
    yes: bool
    """Install even where the disk may be too small."""

    @property
    def interpreter(self) -> str:
        """The Python to build environments with."""
        return self.python or sys.executable

    @property
    def on_cpu(self) -> bool:
        """Whether builds without CUDA packages are asked for."""
        index = (self.index_url or "").rstrip("/")
        return self.torch_backend == "cpu" or index.endswith("/cpu")

    def foreseen(self, requests: Sequence[Request]) -> str:
        """What installing the missing ones takes, in words; empty where none is missing. Raises
        ReleaseError where there is too little room."""
        wanted = environments.missing(requests)
        if not wanted:
            return ""
        needed, free = room.estimate(wanted, self.on_cpu), room.free_bytes()
        names = ", ".join(request.name for request in wanted)
        said = (
            f"{names} into {environments.home()}: up to {needed / GIB:.0f} GiB of {free / GIB:.0f} "
            f"GiB free, about {duration(room.seconds(wanted))}"
        )
        if needed > free and not self.yes:
            raise ReleaseError(
                f"not enough disk space: up to {needed / GIB:.0f} GiB needed, {free / GIB:.0f} "
                "GiB free; remove some releases ('gradbench releases remove'), use CPU builds "
                "(--index-url or --torch-backend cpu), or pass --yes to install anyway"
            )
        return said

    def install(
        self,
        requests: Sequence[Request],
        say: Callable[[str], None],
        progress: Callable[[str], AbstractContextManager[Report]],
    ) -> list[Failure]:
        """Makes what is missing; gives what could not be made. `say` is told what it takes, and
        what fails. Raises ReleaseError where there is no such release or index, or too little
        room."""
        wanted = environments.missing(requests)
        if not wanted:
            return []
        require_available(wanted, self.interpreter)
        how = Installer.choose(
            self.installer,
            self.interpreter,
            self.index_url or "",
            self.torch_backend or "",
            self.arguments,
        )
        with environments.writable() as place:
            if not os.access(place, os.W_OK):
                raise ReleaseError(f"cannot write to {place}: no permission")
        if any(request.interpreter is None for request in wanted):
            require_reachable(how.passed, bool(how.uv))
        say(f"Installing with {how.name}: {self.foreseen(wanted)}")
        with progress("installing") as report:
            _, failed = environments.install_all(wanted, how, report)
        for failure in failed:
            kept = environments.output(failure.name)
            where = f" (full output: {kept})" if kept.exists() else ""
            say(f"{failure.name} could not be installed: {failure.reason}{where}")
        return failed


def require_available(requests: Sequence[Request], python: str) -> None:
    """Raises ReleaseError where a release was never published, or has no wheel for the Python."""
    versions = [request.what for request in requests if request.is_release]
    for what in versions:
        releases.require_published(what)
    if versions:
        version = _version(python)
        for what in versions:
            releases.require_python(what, version)


@functools.cache
def _version(python: str) -> tuple[int, int]:
    """The version of an interpreter, or the one that a version such as 3.11 asks uv for. Raises
    ReleaseError where it does not start."""
    if python == sys.executable:
        return sys.version_info[:2]
    asked = re.fullmatch(r"(?:c?python)?(\d+)\.(\d+)(?:\.\d+)?", python)
    if asked:
        return int(asked[1]), int(asked[2])
    try:
        done = subprocess.run(
            [python, "--version"], capture_output=True, text=True, timeout=60, check=True
        )
        major, minor = map(int, done.stdout.removeprefix("Python ").split(".")[:2])
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else "it does not say its version"
        raise ReleaseError(f"--python {python}: {said}") from error
    return major, minor

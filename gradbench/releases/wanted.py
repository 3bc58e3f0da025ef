"""Installs the builds that are asked for and not there, if the disk has room for them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from gradbench.core import releases
from gradbench.core.releases import ReleaseError
from gradbench.releases import environments
from gradbench.releases.environments import GIB, Failure, Request
from gradbench.releases.installing import Installer
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

    def install(
        self,
        requests: Sequence[Request],
        say: Callable[[str], None],
        progress: Callable[[str], AbstractContextManager[Report]],
    ) -> list[Failure]:
        """Makes what is missing; gives what could not be made. `say` is told what it takes, and
        what fails. Raises ReleaseError where there is no such release or too little room."""
        wanted = environments.missing(requests)
        if not wanted:
            return []
        for request in wanted:
            releases.require_published(request.what)
        how = Installer.choose(
            self.installer,
            self.python or sys.executable,
            self.index_url or "",
            self.torch_backend or "",
            self.arguments,
        )
        needed, free = environments.estimate(wanted), environments.free_bytes()
        names = ", ".join(request.name for request in wanted)
        say(
            f"Installing {names} with {how.name} into {environments.home()}: up to "
            f"{needed / GIB:.0f} GiB, {free / GIB:.0f} GiB free"
        )
        if needed > free and not self.yes:
            raise ReleaseError(
                f"not enough disk space: up to {needed / GIB:.0f} GiB needed, {free / GIB:.0f} "
                "GiB free; remove some releases ('gradbench releases remove'), use CPU builds "
                "(--index-url or --torch-backend cpu), or pass --yes to install anyway"
            )
        with progress("installing") as report:
            _, failed = environments.install_all(wanted, how, report)
        for failure in failed:
            kept = environments.output(failure.name)
            where = f" (full output: {kept})" if kept.exists() else ""
            say(f"{failure.name} could not be installed: {failure.reason}{where}")
        return failed

"""Installers: their commands, run so that they end with this process, and why they fail."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradbench.core.groups import end_group
from gradbench.core.releases import ReleaseError
from gradbench.core.text import line, shortened, storable
from gradbench.store.files import write_text

_log = logging.getLogger(__name__)

BOUND = Path(__file__).with_name("bound.py")
MOST_OUTPUT = 4 << 20
"""Characters of an installer's output that are kept."""

LONGEST_REASON = 600

_ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>(){}\[\]`]+", re.IGNORECASE)
_HOST = re.compile(r"://(?:[^\s/@]*@)?([^\s/:@?#'\"<>(){}\[\]`]+)")
_NAMED_HOST = re.compile(r"(host=)(['\"])[^'\"]*\2")
_WITH_ADDRESS = re.compile(
    r"--(?:index-url|extra-index-url|trusted-host|proxy|default-index|index)[= ]"
)
VARIABLES = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX")

_ADVICE = re.compile(
    r"\[notice\]|WARNING: Retrying|To fix this|\d\. (loosen|remove)|ERROR: ResolutionImpossible"
)
"""The start of pip's lines that do not explain a failure."""

FEW_RETRIES = {"PIP_RETRIES": "2", "UV_HTTP_RETRIES": "2"}
"""Of requests to an index that does not answer, unless the user sets them."""

CAUSES = (
    "Name or service not known",
    "Temporary failure in name resolution",
    "Failed to resolve",
    "Connection refused",
    "Connection reset",
    "Network is unreachable",
    "No route to host",
    "timed out",
    "CERTIFICATE_VERIFY_FAILED",
    "Cannot connect to proxy",
    "No space left on device",
    "Permission denied",
    "Read-only file system",
    "dns error",
)
"""Causes that an installer may write long before its last line."""


@dataclass(frozen=True)
class Installer:
    """How environments are made: by uv if it is available, else by venv and pip."""

    uv: tuple[str, ...] = ()
    python: str = sys.executable
    index_url: str = ""
    torch_backend: str = ""
    arguments: tuple[str, ...] = ()

    @classmethod
    def choose(
        cls,
        kind: str = "auto",
        python: str = sys.executable,
        index_url: str = "",
        torch_backend: str = "",
        arguments: Sequence[str] = (),
    ) -> Installer:
        """Raises ReleaseError where uv is needed and not there."""
        uv: tuple[str, ...] = ()
        if kind != "pip":
            on_path = shutil.which("uv")
            if on_path:
                uv = (on_path,)
            elif importlib.util.find_spec("uv") is not None:
                uv = (sys.executable, "-m", "uv")
        if not uv and (kind == "uv" or torch_backend):
            what = "--torch-backend needs uv" if torch_backend else "there is no uv"
            raise ReleaseError(f"{what}: 'pip install uv', or use --index-url with pip")
        return cls(uv, python, index_url, torch_backend, tuple(arguments))

    @property
    def name(self) -> str:
        return "uv" if self.uv else "pip"

    @property
    def passed(self) -> list[str]:
        """The arguments that the user passes through."""
        options = ["--index-url", self.index_url] if self.index_url else []
        options += ["--torch-backend", self.torch_backend] if self.torch_backend else []
        return [*options, *self.arguments]

    def commands(self, folder: Path, requirements: Sequence[str]) -> list[list[str]]:
        inside = str(folder / "bin" / "python")
        if self.uv:
            return [
                [*self.uv, "venv", "--quiet", "--python", self.python, str(folder)],
                [*self.uv, "pip", "install", "--python", inside, *self.passed, *requirements],
            ]
        return [
            [self.python, "-m", "venv", str(folder)],
            [inside, "-m", "pip", "install", "--no-input", *self.passed, *requirements],
        ]


def run(command: Sequence[str], log: Path) -> None:
    """Runs a command; it and all its children end when this process does.

    Raises InstallerFailed with the reason; the command's whole output is then in `log`.
    """
    _log.debug("running: %s", shlex.join(public(command)))
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", str(BOUND), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Ctrl-C is this process's to handle: it ends the whole group.
            start_new_session=True,
            env=FEW_RETRIES | os.environ,
        )
    except OSError as error:
        raise InstallerFailed(f"cannot start {command[0]}: {error.strerror}") from error
    with process:
        assert process.stdout is not None
        try:
            output = process.stdout.read(MOST_OUTPUT)
            while process.stdout.read(1 << 16):
                pass
            code = process.wait()
        except BaseException:
            end_group(process)
            raise
    if code:
        text = without_addresses(output.decode(errors="replace"), command)
        with contextlib.suppress(OSError):
            write_text(log, storable(text, MOST_OUTPUT))
        raise InstallerFailed(reason(text, code))


class InstallerFailed(Exception):
    """An installer's command failed; the message says why, in one line."""


def reason(text: str, code: int) -> str:
    """Why an installer failed, in one line: its first error and what follows, and known causes."""
    lines = [" ".join(row.split()) for row in without_addresses(text).splitlines()]
    lines = [row for row in lines if row and not _ADVICE.match(row)]
    wrong = [i for i, row in enumerate(lines) if re.match(r"(error|fatal|×)", row, re.IGNORECASE)]
    wrong = wrong or [
        i for i, row in enumerate(lines) if re.search(r"error|no solution", row, re.I)
    ]
    said = "; ".join(dict.fromkeys(lines[wrong[0] :] if wrong else lines[-1:]))
    if not said:
        return f"the installer ended with exit code {code}"
    said = line(said, LONGEST_REASON)
    causes = [cause for cause in CAUSES if cause in text and cause not in said]
    return shortened(said, LONGEST_REASON) + (
        f"; its output also says: {', '.join(causes)}" if causes else ""
    )


def without_addresses(text: str, command: Iterable[str] = ()) -> str:
    """The text without addresses of registries: who keeps one, and its password, have no place in
    a stored result."""
    texts = [*command, *(os.environ.get(name, "") for name in VARIABLES), text]
    hosts = {host for words in texts for host in _HOST.findall(words)}
    text = _NAMED_HOST.sub(r"\1\2…\2", _ADDRESS.sub("…", text))
    for host in sorted(hosts, key=len, reverse=True):
        if len(host) > 3:
            text = text.replace(host, "…")
    return text


def public(words: Iterable[str]) -> list[str]:
    """Arguments as they may be stored: without addresses of registries and hosts."""
    kept: list[str] = []
    for word in words:
        before = kept[-1].removeprefix("--pip-arg=") if kept else ""
        if _WITH_ADDRESS.fullmatch(before + " "):
            word = "…"
        else:
            named = _WITH_ADDRESS.search(word)
            word = word[: named.end()] + "…" if named else _ADDRESS.sub("…", word)
        kept.append(word)
    return kept


def folder_bytes(folder: Path) -> int:
    """A folder's size on the disk; a file that several names share counts once."""
    seen: dict[tuple[int, int], int] = {}
    for path, _, names in os.walk(folder):
        for name in names:
            state = os.lstat(os.path.join(path, name))
            seen[state.st_dev, state.st_ino] = state.st_blocks * 512
    return sum(seen.values())

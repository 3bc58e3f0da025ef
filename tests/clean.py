"""The distribution, built from a copy of the checkout, and clean environments that have its wheel.

Packages that are installed already are linked rather than downloaded: torch alone takes gigabytes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
NOT_COPIED = shutil.ignore_patterns(
    *(".git", ".venv", "__pycache__", ".*_cache", ".asv", "build", "*.egg-info", ".locks", ".cache")
)


def run(words: Iterable[object], folder: Path, **variables: str) -> subprocess.CompletedProcess:
    """Runs a command as a user would: nothing of the checkout is on the path."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "GRADBENCH"))}
    return subprocess.run(
        [*map(str, words)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        env=environment | variables,
    )


def built(folder: Path) -> tuple[Path, Path]:
    """The source distribution and the wheel that is built from it."""
    _build(ROOT, folder)
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (made,) = (folder / "dist").glob("*.whl")
    return sdist, made


def wheel(source: Path, folder: Path) -> Path:
    """The wheel of another project."""
    _build(source, folder, "--wheel")
    (made,) = (folder / "dist").glob("*.whl")
    return made


def _build(source: Path, folder: Path, *more: str) -> None:
    copy = folder / "copy"
    shutil.copytree(source, copy, ignore=NOT_COPIED)
    build = [sys.executable, "-m", "build", "--no-isolation", *more, "--outdir", folder / "dist"]
    done = run([*build, copy], folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def required(names: Iterable[str]) -> set[metadata.Distribution]:
    """The installed distributions of these requirements, and those that they require in turn."""
    found: dict[str, metadata.Distribution] = {}
    asked = [one for one in map(Requirement, names) if one.marker is None or one.marker.evaluate()]
    seen = set()
    while asked:
        wanted = asked.pop()
        if str(wanted) in seen:
            continue
        seen.add(str(wanted))
        own = metadata.distribution(wanted.name)
        found[own.name] = own
        for text in own.requires or ():
            one = Requirement(text)
            extras = [{"extra": extra} for extra in (*wanted.extras, "")]
            if one.marker is None or any(one.marker.evaluate(extra) for extra in extras):
                try:
                    metadata.distribution(one.name)
                except metadata.PackageNotFoundError:
                    continue
                asked.append(one)
    return set(found.values())


def environment(folder: Path, requirements: Iterable[str], *wheels: Path) -> Path:
    """A new environment with these wheels and links to what is required; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env/bin/python"
    libraries = folder / "libraries"
    libraries.mkdir()
    for one in required(requirements):
        for top in {file.parts[0] for file in one.files or () if file.parts[0] != ".."}:
            source = Path(str(one.locate_file(top)))
            # Two distributions may have a package of one name.
            if source.exists() and top != "__pycache__" and not (libraries / top).exists():
                (libraries / top).symlink_to(source)
    (packages,) = (folder / "env/lib").glob("python*/site-packages")
    (packages / "linked.pth").write_text(f"{libraries}\n")
    return install(python, *wheels) if wheels else python


def install(python: Path, *wheels: Path) -> Path:
    """Installs wheels alone into the environment of a Python, and returns that."""
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps"]
    done = run([*pip, "--ignore-installed", "--quiet", *wheels], python.parent)
    assert done.returncode == 0, done.stderr
    return python

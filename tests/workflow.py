"""Runs the steps of the workflow in docs/releases.md as GitHub's runner would.

As a program ('make workflow'): on a fresh clone with empty caches, then on another with the caches
that the first has saved. It takes few cases, and it installs two releases of torch.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
FEW = {"WHAT": "--function affine_sum --operator gradient", "HOW": "--profile quick"}


def workflow() -> dict[str, Any]:
    """The workflow on the page."""
    page = (ROOT / "docs/releases.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return yaml.safe_load(block)


@dataclasses.dataclass
class Outcome:
    """What came of a job: the name of the step that failed, if any, and the text of its summary."""

    failed: str
    summary: str


def run(clone: Path, cache: Path, home: Path, more: Mapping[str, str]) -> Outcome:
    """Runs the job in a clone. `cache` is the folder in which caches are kept between jobs."""
    whole = workflow()
    (job,) = whole["jobs"].values()
    files = {name: home / name for name in ("GITHUB_ENV", "GITHUB_STEP_SUMMARY")}
    for file in files.values():
        file.write_text("")
    known = {**os.environ, **whole["env"], "HOME": str(home), **map_to_text(files), **more}
    failed = ""
    for step in job["steps"]:
        if failed and step.get("if") != "always()":
            continue
        action = step.get("uses", "").partition("@")[0]
        if action.startswith("actions/cache/"):
            move(step["with"]["path"].split(), clone, home, cache, action.endswith("save"))
        elif "run" in step:
            said = dict(line.split("=", 1) for line in files["GITHUB_ENV"].read_text().splitlines())
            # The shell that GitHub takes where none is named.
            done = subprocess.run(["bash", "-e", "-c", step["run"]], cwd=clone, env=known | said)
            failed = failed or (step["name"] if done.returncode else "")
    return Outcome(failed, files["GITHUB_STEP_SUMMARY"].read_text())


def map_to_text(paths: Mapping[str, Path]) -> dict[str, str]:
    return {name: str(path) for name, path in paths.items()}


def move(paths: list[str], clone: Path, home: Path, cache: Path, save: bool) -> None:
    """Saves the paths in the cache, or restores them from there."""
    for number, path in enumerate(paths):
        here = home / path[2:] if path.startswith("~/") else clone / path
        there = cache / str(number)
        source, target = (here, there) if save else (there, here)
        if source.exists():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        for time in ("first", "second"):
            room = Path(folder) / time
            home = room / "home"
            home.mkdir(parents=True)
            clone = room / "clone"
            subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
            python = home / ".local"
            subprocess.run([sys.executable, "-m", "venv", str(python)], check=True)
            path = f"{python / 'bin'}{os.pathsep}{os.environ['PATH']}"
            outcome = run(clone, Path(folder) / "cache", home, {"PATH": path, **FEW})
            print(outcome.summary)
            print(
                f"{time} job: " + (f"failed in {outcome.failed!r}" if outcome.failed else "passed")
            )
            if outcome.failed not in ("", "the gate"):
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

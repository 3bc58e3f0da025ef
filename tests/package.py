"""Tries the distribution as users meet it ('make package'): the wheel in clean environments, a new
project's benchmarks by asv, pytest and its CI workflow; the tutorials; tests of the source
distribution; the lower bounds; and every Python here.

Parts can be named (`python tests/package.py lowest`). `interpreters` and `lowest` need uv. torch is
not downloaded, but linked from this Python's packages, so its own lower bound is not tried.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import time
from pathlib import Path

import blocks
import clean
import msgspec
import yaml

from gradbench.releases.environments import Environment, ask
from gradbench.runner.wire import WorkerOptions

MODEL = """import torch


def loss(x, w):
    return (x @ w).tanh().square().sum()


def my_gradient(x, w):
    y = (x @ w).tanh()
    z = 2 * y * (1 - y**2)
    return z @ w.T, x.T @ z
"""
SLOWER = "    sum(torch.ones(60).sum() for _ in range(3))\n    y = (x @ w).tanh()\n"
"""What makes `my_gradient` slower."""

RUN = "20261122-052809"
"""A stored run."""

TARGETED = ("tests/test_statistics.py", "tests/test_store.py", "tests/test_shown.py")
"""Tests of what the libraries with lower bounds are used for."""

OF_SOURCE = (
    *TARGETED,
    *("tests/test_docs.py", "tests/test_schemas.py", "tests/test_stored_logs.py"),
    *("tests/test_own.py", "tests/test_package.py"),
)
"""Tests that are run of the source distribution: they need its pages, results and suites."""

PYTEST = ("pytest", "-q", "-n0", "-p", "no:cacheprovider", "--tb=short", "--disable-warnings")

SHIMS = {
    # What would be installed is there.
    "uv": "exit 0",
    "pip": 'if [ "$1" = index ]; then echo "torch ($NEWEST_IS)"; fi',
}


def said(what: str, done: subprocess.CompletedProcess, code: int = 0) -> str:
    """The output of a command that should end with this code."""
    good = done.returncode == code
    print(f"{'passed' if good else 'FAILED'}: {what}", flush=True)
    if not good:
        print(done.stdout[-4000:], done.stderr[-4000:])
        sys.exit(1)
    return done.stdout + done.stderr


def project(folder: Path) -> Path:
    """A project of three files, committed."""
    folder.mkdir()
    (folder / "model.py").write_text(MODEL)
    (folder / "train.py").write_text("from model import loss\n")
    (folder / "README.md").write_text("A project.\n")
    (folder / ".gitignore").write_text("results/\n.asv/\n.base/\n")
    return folder


def commit(folder: Path, what: str) -> str:
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", folder]
    clean.run([*git, "init", "--quiet"], folder)
    clean.run([*git, "add", "-A"], folder)
    said(what, clean.run([*git, "commit", "--quiet", "-m", what], folder))
    return clean.run([*git, "rev-parse", "HEAD"], folder).stdout.strip()


def steps(job: str, folder: Path, python: Path, variables: dict[str, str]) -> tuple[str, str]:
    """Runs the steps of a job of the project's workflow: the step that fails, and the summary."""
    whole = yaml.safe_load((folder / ".github/workflows/gradbench.yml").read_text())
    shims = folder.parent / "shims"
    shims.mkdir(exist_ok=True)
    for name, body in SHIMS.items():
        (shims / name).write_text(f"#!/bin/sh\n{body}\n")
        (shims / name).chmod(0o755)
    files = {name: folder.parent / name for name in ("GITHUB_ENV", "GITHUB_STEP_SUMMARY")}
    for file in files.values():
        file.write_text("")
    known = {name: str(value) for name, value in {**whole["env"], **files, **variables}.items()}
    known["PATH"] = os.pathsep.join([str(shims), str(python.parent), os.environ["PATH"]])
    failed = ""
    for step in whole["jobs"][job]["steps"]:
        if "run" not in step or failed:
            continue
        lines = files["GITHUB_ENV"].read_text().splitlines()
        now = known | dict(line.split("=", 1) for line in lines)
        done = clean.run(["bash", "-e", "-c", step["run"]], folder, **now)
        print(f"  {step['name']}: exit code {done.returncode}")
        print("".join(f"    {line}\n" for line in (done.stdout + done.stderr).splitlines()[-12:]))
        failed = failed or (step["name"] if done.returncode else "")
    return failed, files["GITHUB_STEP_SUMMARY"].read_text()


def start(folder: Path, sdist: Path, wheel: Path, uv: str) -> None:
    """`gradbench init` in a clean environment, then what it says comes next."""
    (folder / "clean").mkdir()
    needs = ["torch", *plain(), "asv", "pytest", "pytest-benchmark"]
    python = clean.environment(folder / "clean", needs, wheel)
    home = project(folder / "project")
    words = ["--function", "model.py:loss", "--also", "model.py:my_gradient"]
    words += ["--input", "x=randn(32,32)", "--input", "w=randn(32,32)"]
    said("init", clean.run([python.with_name("gradbench"), "init", *words], home))
    base = commit(home, "begin")
    said("pytest", clean.run([python, "-m", "pytest", "-q", "benchmarks"], home))

    releases = folder / "releases"
    # Two names of one build: a track refuses an environment that is not what it was.
    identity = ask(WorkerOptions(python=str(python)))
    for version in ("2.12.1", "2.13.0"):
        (releases / version).mkdir(parents=True)
        made = Environment(1, version, version, str(python), identity, "", 0)
        (releases / version / "environment.json").write_bytes(msgspec.json.encode(made))
    variables = {"GRADBENCH_RELEASES": str(releases), "HOME": str(folder)}
    asv = [python, "-m", "asv"]
    few = ["-b", r"\('(backward|my_gradient)'\)", "-a", "rounds=2"]
    for version in ("2.12.1", "2.13.0"):
        ran = clean.run([*asv, "run", f"v{version}^!", *few], home, **variables)
        assert "my_gradient" in said(f"asv run v{version}^!", ran)
    said("asv compare", clean.run([*asv, "compare", "v2.12.1", "v2.13.0"], home, **variables))
    said("asv publish", clean.run([*asv, "publish"], home, **variables))

    # A busy machine leaves too few processes in the 30 seconds of a test.
    change = {"BASE": base, "PYTEST_ADDOPTS": "--gradbench-budget 90", **variables}
    failed, _ = steps("change", home, python, change)
    assert not failed, failed
    print("passed: the workflow on a change that changes nothing")
    clean.run(["git", "worktree", "remove", "--force", ".base"], home)
    (home / "model.py").write_text(MODEL.replace("    y = (x @ w).tanh()\n", SLOWER))
    failed, _ = steps("change", home, python, change)
    assert failed in ("", "measure the change beside it"), failed
    # A busy machine leaves time for one process, which decides nothing.
    how = "passed" if failed else "UNDECIDED, on a busy machine"
    print(f"{how}: the workflow on a change that makes a derivative slower")
    few = {"HOW": "--profile quick --sessions 2 -m backward", "BASELINE": "2.12.1"}
    failed, summary = steps("releases", home, python, {**variables, **few, "NEWEST_IS": "2.13.0"})
    assert failed in ("", "the gate"), failed
    print(summary)
    print("passed: the workflow on torch releases")


class User(blocks.Reader):
    """Follows a page with the wheel alone, and runs what the tests only parse or leave out, but for
    what installs. What it prints where a page shows something else is for people to judge: times,
    verdicts and the number of lines differ."""

    def __init__(self, folder: Path, python: Path) -> None:
        super().__init__(folder, lambda *words: None)
        self.python = python
        self.code = ""
        self.different = 0

    def take(self, block: blocks.Block) -> None:
        why = " ".join(block.marks.get(mark, "") for mark in blocks.UNRUN)
        if "install" in why or block.language not in (*blocks.COMMANDS, "python"):
            return
        print(f"  {block.place}", flush=True)
        if block.language == "python" and not block.title:
            # Blocks of a page share their names.
            self.code += block.code
            said("    runs", clean.run([self.python, "-c", self.code], self.folder))
            return
        judged = block.marks.keys() & blocks.UNRUN
        for mark in judged:
            del block.marks[mark]
        try:
            super().take(block)
        except blocks.BlockError as error:
            if not judged or "exit code" in str(error):
                raise
            self.different += 1
            print(textwrap.indent(f"shows something else:\n{error}", "    "))

    def _call(self, words: list[str], given: str | None, dry: bool) -> tuple[int, str, str]:
        path = os.pathsep.join([str(self.python.parent), os.environ["PATH"]])
        words = [str(self.python), "-m", *words] if words[0] == "pytest" else words
        dry_run = ["--dry-run", "--yes"] if dry else []
        done = clean.run([*words, *dry_run], self.folder, **self.environment, PATH=path)
        return done.returncode, done.stdout, done.stderr


def tutorials(folder: Path, sdist: Path, wheel: Path, uv: str) -> None:
    """Every tutorial, command by command, in a project with the files that it writes."""
    (folder / "reader").mkdir()
    needs = ["torch", *plain(), "pytest", "pytest-benchmark"]
    python = clean.environment(folder / "reader", needs, wheel)
    for page in sorted((clean.ROOT / "docs/tutorials").glob("*.md")):
        home = folder / page.stem
        shutil.copytree(clean.ROOT / "results", home / "results")
        (home / ".gitignore").write_text("results\n")
        commit(home, "begin")
        clean.run(["git", "branch", "my-branch"], home)
        user = User(home, python)
        try:
            user.follow(page)
        except blocks.BlockError as error:
            sys.exit(f"FAILED: {error}")
        print(f"passed: {page.name}, {user.different} blocks to look at")


def source(folder: Path, sdist: Path, wheel: Path, uv: str) -> None:
    """The source distribution, unpacked and installed, on tests of its own."""
    place = unpacked(folder, sdist)
    (folder / "source-env").mkdir()
    python = clean.environment(folder / "source-env", ["torch", *plain(), *of_tests()])
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-index"]
    done = clean.run([*pip, "--no-deps", "--no-build-isolation", "-e", "."], place)
    said("the source distribution installs", done)
    test = [python, "-m", *PYTEST, "-m", "not slow"]
    ran = clean.run([*test, *OF_SOURCE], place, PATH=f"{python.parent}:{os.environ['PATH']}")
    print(said("its tests", ran).splitlines()[-1])


def unpacked(folder: Path, sdist: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "source", filter="data")
    (place,) = (folder / "source").iterdir()
    return place


def of_tests() -> list[str]:
    """The requirements of the extras that the tests need."""
    text = (clean.ROOT / "pyproject.toml").read_text("utf-8")
    listed = re.findall(r"^(?:report|asv|pytest|parquet|docs) = \[(.*)\]$", text, re.MULTILINE)
    listed.append(re.search(r"^test = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)[1])
    names = re.findall(r'"(.*?)"', ",".join(listed))
    return [name for name in names if not name.startswith("torch-gradbench")]


def lowest(folder: Path, sdist: Path, wheel: Path, uv: str) -> None:
    """The lower bounds of pyproject.toml, without torch's, on tests of the source distribution."""
    source = unpacked(folder, sdist)
    pip = [uv, "pip", "compile", "--quiet", "pyproject.toml", "--only-binary", ":all:"]
    pip += ["--resolution", "lowest-direct"]
    pip += ["--extra", "report", "--extra", "asv", "--extra", "pytest", "--extra", "parquet"]
    locked = said("lower bounds resolve", clean.run([*pip, "--no-annotate"], source))
    names = ("torch", "nvidia", "triton", "cuda", "sympy", "networkx", "fsspec", "#")
    pins = [line for line in locked.splitlines() if "==" in line and not line.startswith(names)]
    (folder / "lowest.txt").write_text("\n".join(pins) + "\n")
    (folder / "lowest").mkdir()
    python = clean.environment(folder / "lowest", ["torch", "hypothesis", "pytest-xdist"])
    # What is installed comes before what is linked.
    install = [uv, "pip", "install", "--quiet", "--no-deps", "--python", python]
    said("lower bounds install", clean.run([*install, "-r", folder / "lowest.txt"], source))
    print("\n".join(f"  {pin}" for pin in pins))
    test = [python, "-m", *PYTEST, *TARGETED]
    print(said("tests at the lower bounds", clean.run(test, source)).splitlines()[-1])


def interpreters(folder: Path, sdist: Path, wheel: Path, uv: str) -> None:
    """Every Python here from 3.10 on compiles the package, and shows and reports stored runs, which
    needs no torch."""
    stored = ["--results", clean.ROOT / "results"]
    for minor in range(10, 16):
        place = folder / f"python3.{minor}"
        asked = [*map(str, of_pyenv(minor)), f"3.{minor}"]
        venv = [uv, "venv", "--quiet", "--no-python-downloads", "--python"]
        if clean.run([*venv, asked[0], place], folder).returncode:
            print(f"not here: Python 3.{minor}")
            continue
        python = place / "bin/python"
        install = [uv, "pip", "install", "--quiet", "--python", python]
        said(f"Python 3.{minor} installs", clean.run([*install, *plain(), "matplotlib"], folder))
        said(f"Python 3.{minor} installs", clean.run([*install, "--no-deps", wheel], folder))
        (package,) = place.glob("lib/python*/site-packages/gradbench")
        compiled = clean.run([python, "-W", "error", "-m", "compileall", "-q", package], folder)
        said(f"Python 3.{minor} compiles it", compiled)
        for words in (
            ["--help"],
            ["show", RUN, *stored],
            ["report", "--no-code", "-t", "r", *stored],
        ):
            done = clean.run([python, "-m", "gradbench", *words], place)
            said(f"Python 3.{minor}: gradbench {words[0]}", done)


def of_pyenv(minor: int) -> list[Path]:
    """The Pythons of pyenv, which are not on the path unless they are chosen."""
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return sorted(root.glob(f"versions/3.{minor}.*/bin/python"))


def plain() -> list[str]:
    """The requirements of a plain installation, but for torch."""
    text = (clean.ROOT / "pyproject.toml").read_text("utf-8")
    names = re.search(r"^dependencies = \[(.*?)^\]", text, re.DOTALL | re.MULTILINE)[1]
    return [name for name in re.findall(r'"(.*)"', names) if not name.startswith("torch")]


PARTS = {
    "interpreters": interpreters,
    "start": start,
    "tutorials": tutorials,
    "source": source,
    "lowest": lowest,
}


def main() -> int:
    """Tries the parts that are named, by default all."""
    parts = sys.argv[1:] or [*PARTS]
    if unknown := [part for part in parts if part not in PARTS]:
        sys.exit(f"there is no part {unknown[0]!r}, but {', '.join(PARTS)}")
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    if {"interpreters", "lowest"} & {*parts} and not os.path.exists(uv):
        sys.exit(f"uv is not there: {sys.executable} -m pip install uv")
    for part in parts:
        with tempfile.TemporaryDirectory() as place:
            folder, began = Path(place), time.monotonic()
            sdist, wheel = clean.built(folder)
            print(f"{part}: {wheel.name} has {wheel.stat().st_size >> 10} KiB", flush=True)
            PARTS[part](folder, sdist, wheel, uv)
            print(f"{part}: passed in {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

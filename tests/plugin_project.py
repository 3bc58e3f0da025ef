"""The pytest plugin in somebody else's project, from one commit to the next.

As a program ('make plugin'): builds the wheel, installs it into an environment that has nothing of
this checkout, and tests a project of three files over three commits: the first, one in which a
derivative has a tenth more work, and one that changes nothing, by pytest-xdist's workers too. Only
the slower one may fail, and has to name its test.

A test is timed for 60 seconds, or as many as are named. On a busy machine that is too few processes
to decide: then all is tried again with twice the time, up to three times.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

CHAIN = '''
"""A chain of layers, and its jacobian by the chain rule."""

import torch

WEIGHTS = torch.randn(64, 64, generator=torch.Generator().manual_seed(1)) / 8
STEPS = 10


def chain(x):
    for _ in range(STEPS):
        x = torch.tanh(WEIGHTS @ x)
    return x


def advanced(x, made, steps):
    for _ in range(steps):
        x = torch.tanh(WEIGHTS @ x)
        made = (1 - x**2)[:, None] * (WEIGHTS @ made)
    return x, made


def jacobian(x):
    x, made = advanced(x, torch.eye(len(x)), STEPS)
    return made


def gradient(x):
    return 3 * x**2
'''

SAME = CHAIN.replace("A chain of layers", "Some layers")

SLOWER = CHAIN.replace(
    "    x, made = advanced(x, torch.eye(len(x)), STEPS)\n",
    "    advanced(x, torch.eye(len(x)), 1)\n    x, made = advanced(x, torch.eye(len(x)), STEPS)\n",
)

TESTS = """
import pytest
import torch
from chain import chain, gradient, jacobian

# Fewer modes leave time for more processes.
pytestmark = pytest.mark.gradbench(modes=["jacrev", "grad"])


def test_jacobian(gradbench):
    x = torch.linspace(-1, 1, 64)
    gradbench(chain, x).jacobian(jacobian).assert_no_slower_than("jacrev")


def test_gradient(gradbench):
    x = torch.linspace(-1, 1, 64)
    gradbench(lambda x: (x**3).sum(), x).gradient(gradient).assert_right()
"""

INI = """
[pytest]
gradbench_budget = {budget}
gradbench_undecided = warn
"""


UNDECIDED = "undecided: too few processes"


def called(*words: object, place: Path, **more: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        list(map(str, words)), cwd=place, env=kept | more, capture_output=True, text=True
    )


def done(*words: object, place: Path, **more: str) -> str:
    """The output of a command that has to succeed."""
    result = called(*words, place=place, **more)
    if result.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{result.stdout}{result.stderr}")
    return result.stdout


def environment(place: Path) -> Path:
    """The Python of an environment with the wheel, and the dependencies that this one has."""
    # Building leaves files beside the source.
    source = place / "source"
    done("git", "clone", "-q", ROOT, source, place=place)
    done(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", place, source, place=place)
    (wheel,) = place.glob("*.whl")
    done(sys.executable, "-m", "venv", place / "venv", place=place)
    python = place / "venv" / "bin" / "python"
    done(python, "-m", "pip", "install", "-q", "--no-deps", wheel, place=place)
    packages = done(
        python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", place=place
    )
    # A file of paths is not read in a folder that another one names: this checkout stays out.
    Path(packages.strip(), "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = done(python, "-c", "import gradbench; print(gradbench.__file__)", place=place)
    if not where.startswith(packages.strip()):
        sys.exit(f"gradbench is {where}, not the wheel's")
    return python


COMPARE = ("--gradbench-compare", "latest", "--gradbench-fail-on", "slower")
COMMITS = (
    ("first", CHAIN, ("--gradbench-save",), False),
    ("a tenth more work", SLOWER, COMPARE, True),
    ("nothing changed", SAME, COMPARE, False),
    ("nothing changed, in two workers", SAME, ("-n", "2", *COMPARE), False),
)
"""The commits: what the file has, pytest's options, and whether pytest should fail."""

TRIES = 3


def tried(python: Path, project: Path, budget: float) -> str:
    """What all commits have come to: an empty string where it is as expected."""
    project.mkdir()
    done("git", "init", "-q", place=project)
    (project / "test_chain.py").write_text(TESTS)
    (project / "pytest.ini").write_text(INI.format(budget=budget))
    for name, content, options, failing in COMMITS:
        (project / "chain.py").write_text(content)
        done("git", "add", "chain.py", "test_chain.py", "pytest.ini", place=project)
        author = ("-c", "user.name=a", "-c", "user.email=a@b")
        done("git", *author, "commit", "-q", "--allow-empty", "-m", name, place=project)
        result = called(python, "-m", "pytest", "-q", *options, place=project)
        print(f"── {name}: exit code {result.returncode}", flush=True)
        print(f"{result.stdout}{result.stderr}", flush=True)
        last = "".join(result.stdout.partition("FAILED --gradbench-fail-on")[1:])
        named = "test_jacobian" in last and "test_gradient" not in last
        left = "undecided: test_chain.py::test_jacobian" in result.stdout
        if failing and left and not result.returncode:
            return UNDECIDED
        if result.returncode != int(failing) or named is not failing:
            return f"{name}: not as expected"
    return ""


def main() -> int:
    budget = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    with tempfile.TemporaryDirectory() as folder:
        python = environment(Path(folder))
        for turn in range(TRIES):
            seconds = budget * 2**turn
            said = tried(python, Path(folder) / f"project_{turn}", seconds)
            print(f"{said or 'as expected'}, with {seconds:g} s a test", flush=True)
            if said != UNDECIDED:
                break
    return int(bool(said))


if __name__ == "__main__":
    sys.exit(main())

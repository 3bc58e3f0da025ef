"""The distribution: its metadata, what a plain installation needs, the wheel in a clean place."""

import ast
import importlib.util
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import clean
import pytest
from in_process import gradbench
from packaging.requirements import Requirement

import gradbench as package
from gradbench.cli import ending
from gradbench.core import extras

ROOT = Path(__file__).parent.parent
NAMES = {
    "asv_runner": "asv",
    "cpuinfo": "py-cpuinfo",
    "pynvml": "nvidia-ml-py",
    "pytest_benchmark": "pytest-benchmark",
}
"""Distributions whose modules have another name."""

WITH_TORCH = {"functorch", "mpmath", "typing_extensions"}
"""What torch brings, used where it is."""


def project():
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def imported(path):
    """The top-level modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


def test_every_library_that_is_imported_is_a_dependency_or_of_an_extra():
    metadata = project()
    plain = {Requirement(text).name for text in metadata["dependencies"]}
    of_extras = {
        Requirement(text).name
        for name, texts in metadata["optional-dependencies"].items()
        for text in texts
        if name != "test"
    }
    own = {"gradbench", "__main__", *sys.stdlib_module_names}
    found = {name for path in (ROOT / "gradbench").rglob("*.py") for name in imported(path)} - own
    for name in found - WITH_TORCH:
        assert NAMES.get(name, name) in plain | of_extras, name
        if NAMES.get(name, name) not in plain:
            assert name in extras.EXTRAS or name == "pynvml", f"{name} is no dependency"
    for module, extra in extras.EXTRAS.items():
        assert extra in metadata["optional-dependencies"], (module, extra)


def test_the_version_has_one_place_and_the_changelog_begins_with_it():
    assert "version" in project()["dynamic"]
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(r"^## \[([^\]]+)\]", changes, re.M)[1] == package.__version__
    assert gradbench("--version").stdout.split()[-1] == package.__version__


def test_pythons_are_claimed_that_were_tried():
    """And the pages say which they are."""
    claimed = re.findall(r":: (3\.\d+)$", "\n".join(project()["classifiers"]), re.M)
    assert project()["requires-python"] == f">={claimed[0]}"
    for page in ("docs/installing.md", "CONTRIBUTING.md"):
        assert f"{claimed[0]} to {claimed[-1]}" in (ROOT / page).read_text("utf-8"), page


def test_the_page_of_an_index_has_no_relative_link():
    spec = importlib.util.spec_from_file_location("gradbench_setup", ROOT / "setup.py")
    setup = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(setup)
    page = setup.page((ROOT / "README.md").read_text("utf-8"))
    assert not re.findall(r"\]\((?!https?:)", page)
    for path in re.findall(r"`((?:docs/|CONTRIBUTING)[\w/.-]+)`", page):
        assert (ROOT / path).exists(), path
    assert setup.page("a ![b](c.png) [d](e.md#f) [g](https://h.org)") == (
        "a *b* (`c.png`) d (`e.md`) [g](https://h.org)"
    )


@pytest.mark.parametrize(
    ("words", "module", "extra"),
    [
        (["report"], "matplotlib", "report"),
        (["plot", "atlas", "-t", "x.svg"], "matplotlib", "report"),
        (["releases", "asv"], "asv", "asv"),
        (["study", "asv-steps"], "asv", "asv"),
        (["study", "peers", "--pyperf-trials", "0"], "pytest_benchmark", "pytest"),
    ],
)
def test_a_missing_extra_is_one_line_that_says_what_to_type(monkeypatch, words, module, extra):
    there = extras.installed
    monkeypatch.setattr(extras, "installed", lambda name: name != module and there(name))
    done = gradbench(*words)
    assert done.returncode == 2
    assert f"pip install 'torch-gradbench[{extra}]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_import_that_fails_deep_inside_is_told_as_well():
    error = ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib.figure")
    code, said = ending._failed(error)
    assert code == 2
    assert "pip install 'torch-gradbench[report]'" in said
    assert ending._failed(ModuleNotFoundError("no", name="pandas"))[0] == ending.INTERNAL


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return clean.built(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def plain(built, tmp_path_factory):
    """The Python of an environment with what a plain installation has."""
    return clean.environment(tmp_path_factory.mktemp("plain"), project()["dependencies"], built[1])


@pytest.mark.slow
def test_the_distributions_have_what_they_should(built):
    sdist, wheel = built
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("benchmarks", "docs", "examples", "gradbench", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and not set(path.parts) & {"__pycache__", ".cache", ".locks"}:
                assert path.relative_to(ROOT).as_posix() in names, path
    assert {"Makefile", "asv.conf.json", "constraints.txt", "CHANGELOG.md"} <= names
    with zipfile.ZipFile(wheel) as archive:
        inside = archive.namelist()
        (entry,) = [name for name in inside if name.endswith(".dist-info/METADATA")]
        metadata = archive.read(entry).decode()
    data = {p.relative_to(ROOT).as_posix() for p in (ROOT / "gradbench").rglob("*") if p.is_file()}
    assert {name for name in data if "__pycache__" not in name} == {
        name for name in inside if name.startswith("gradbench/")
    }
    assert metadata.startswith("Metadata-Version")
    of_maintainers = "Author: gradbench maintainers"
    for field in ("Name: torch-gradbench", of_maintainers, "License-Expression: MIT"):
        assert f"\n{field}\n" in metadata
    assert "](docs/" not in metadata


@pytest.mark.slow
def test_a_plain_installation_measures_and_names_the_extra_that_it_lacks(plain, tmp_path):
    command = plain.with_name("gradbench")
    found = clean.run([plain, "-c", "import gradbench; print(gradbench.__file__)"], tmp_path)
    assert str(plain.parents[1]) in found.stdout, found.stderr
    words = ["-f", "exp", "-o", "vjp", "-m", "backward", "-m", "grad", "--sessions", "1"]
    for _ in range(3):
        # On a machine that is short of everything a process may be lost.
        ran = clean.run([command, "run", *words], tmp_path)
        if ran.returncode == 0:
            break
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "backward" in ran.stdout
    report = clean.run([command, "report"], tmp_path)
    assert report.returncode == 2
    assert "pip install 'torch-gradbench[report]'" in report.stderr
    assert report.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_example_package_is_installed_and_measured(plain, tmp_path):
    wheel = clean.wheel(ROOT / "examples/gradbench-soft", tmp_path)
    python = clean.install(plain, wheel)
    words = ["verify", "-f", "soft_clip", "-o", "diagonal", "--all"]
    ran = clean.run([python.with_name("gradbench"), *words], tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "ones_pullback" in ran.stdout
    assert "0 wrong" in ran.stdout


@pytest.mark.started
def test_help_and_the_import_load_next_to_nothing():
    code = (
        "import sys, gradbench, gradbench.__main__ as main; sys.argv = ['gradbench', '--help']\n"
        "try: main.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pandas', 'scipy', 'matplotlib', 'msgspec', 'rich'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.endswith("[]\n"), done.stdout + done.stderr

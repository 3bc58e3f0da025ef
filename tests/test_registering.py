"""Functions and modes of the user's own: decorators, files, and installed packages."""

import json
import os
import subprocess
import sys

import pytest
import torch

import gradbench
from gradbench.problems import registry
from gradbench.problems.function import elementwise, normal
from gradbench.runner.wire import WorkerOptions
from gradbench.runner.workers import discover

SUITE = '''
import torch
import gradbench
from gradbench.problems.function import elementwise, normal

@gradbench.function(
    example=lambda: (torch.ones(4, dtype=torch.float64),),
    example_size={"n": 4},
    draw=lambda size, generator: (normal(generator, size["n"]),),
    derivatives=elementwise(lambda x: 3 * x**2),
)
def packaged_cube(x):
    """the cube of each number"""
    return x**3

@gradbench.mode("diagonal")
def packaged_ones(problem):
    """a pullback of ones, packaged"""
    def call(inputs):
        (x,) = inputs
        return torch.func.vjp(problem.forward, x)[1](torch.ones_like(x))[0]
    return call
'''


@pytest.fixture
def empty_registry(monkeypatch):
    monkeypatch.setattr(registry, "FUNCTIONS", {})
    monkeypatch.setattr(registry, "MODES", {})


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a throwaway distribution of one module with the entry points given."""

    def installed(package, source, *lines):
        (tmp_path / f"{package}.py").write_text(source, encoding="utf-8")
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", path.rstrip(os.pathsep))

    return installed


def gradbench_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "gradbench", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )


def fields():
    return {
        "example": lambda: (torch.ones(4, dtype=torch.float64),),
        "example_size": {"n": 4},
        "draw": lambda size, generator: (normal(generator, size["n"]),),
        "derivatives": elementwise(lambda x: 3 * x**2),
    }


def test_a_decorated_map_stays_itself_and_is_registered(empty_registry):
    @gradbench.function(**fields())
    def cube(x):
        """xᵢ³"""
        return x**3

    assert float(cube(torch.tensor(2.0))) == 8
    declared = registry.FUNCTIONS["cube"]
    assert (declared.formula, declared.forward) == ("xᵢ³", cube)


def test_what_a_declaration_lacks_or_repeats_is_an_error(empty_registry):
    with pytest.raises(TypeError, match="derivatives"):
        gradbench.function(example=None, example_size={}, draw=None)(lambda x: x)
    gradbench.function(**fields(), name="cube")(lambda x: x**3)
    with pytest.raises(ValueError, match="registered already"):
        gradbench.function(**fields(), name="cube")(lambda x: x**3)


def test_registering_names_do_not_import_torch():
    code = (
        "import sys, gradbench; gradbench.function; gradbench.mode; print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout.strip() == "False", ran.stderr


def test_an_installed_package_brings_functions_and_modes(install):
    install(
        "gb_suite",
        SUITE,
        "[gradbench.functions]",
        "mine = gb_suite",
        "[gradbench.modes]",
        "mine = gb_suite:packaged_ones",
    )
    ran = gradbench_command("verify", "-f", "packaged_cube", "-o", "diagonal", "--all")
    assert ran.returncode == 0, ran.stderr
    assert "packaged_ones" in ran.stdout
    assert "0 wrong" in ran.stdout


def test_a_broken_package_is_named_in_one_line_and_costs_only_itself(install):
    # It fails after it has declared its function and mode, which go with it.
    install(
        "gb_broken", SUITE + "\nraise RuntimeError('no luck')", "[gradbench.modes]", "b = gb_broken"
    )
    install("gb_whole", SUITE.replace("packaged", "whole"), "[gradbench.functions]", "w = gb_whole")
    found = discover(WorkerOptions())
    (line,) = found.broken
    assert "gb_broken" in line
    assert "no luck" in line
    assert f"at gb_broken.py:{len(SUITE.splitlines()) + 2}" in line
    functions = {offer.function for offer in found.offers}
    assert "whole_cube" in functions
    assert "packaged_cube" not in functions
    assert "packaged_ones" not in {mode["mode"] for mode in found.modes}
    ran = gradbench_command("list", "functions", "-f", "whole_cube")
    assert ran.returncode == 0
    assert ran.stderr.count("gb_broken is left out") == 1
    assert "Traceback" not in ran.stderr


BROKEN = """
import os
import gradbench

@gradbench.mode("diagonal")
def bad_result(problem):
    return lambda inputs: 0 * inputs[0]

@gradbench.mode("diagonal")
def bad_luck(problem):
    def call(inputs):
        raise RuntimeError("no luck")
    return call

@gradbench.mode("diagonal")
def bad_end(problem):
    return lambda inputs: os._exit(3)

@gradbench.mode("diagonal")
def bad_builder(problem):
    return None
"""


@pytest.mark.parametrize("installed", [True, False])
def test_a_broken_mode_is_named_with_its_file_and_line(install, tmp_path, installed):
    if installed:
        install("gb_bad", BROKEN, "[gradbench.modes]", "b = gb_bad")
    else:
        (tmp_path / "gb_bad.py").write_text(BROKEN)
    more = [] if installed else ["--from", str(tmp_path / "gb_bad.py")]
    words = ["-f", "exp", "-o", "diagonal", "-m", "bad_*", "--dtype", "float32", *more]
    ran = gradbench_command("verify", *words, "--format", "json")
    reasons = {row["case"].rpartition("/")[2]: row["reason"] for row in json.loads(ran.stdout)}
    lines = {"bad_result": 5, "bad_luck": 12, "bad_end": 15, "bad_builder": 19}
    for mode, number in lines.items():
        assert reasons[mode].endswith(f"gb_bad.py:{number})"), reasons[mode]


def test_what_python_has_no_source_of_breaks_nothing(empty_registry, install):
    made = SUITE.replace('@gradbench.mode("diagonal")\ndef', "def")
    made += "\nimport functools\npartial = functools.partial(packaged_ones)\n"
    install(
        "gb_partial",
        made + "gradbench.mode('diagonal', name='packaged_partial')(partial)\n",
        "[gradbench.modes]",
        "p = gb_partial",
    )
    ran = gradbench_command("list", "modes", "-m", "packaged_*")
    assert ran.returncode == 0, ran.stderr
    assert "packaged_partial" in ran.stdout
    assert "left out" not in ran.stderr


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"needs": "torch.func"}, "tuple of names"),
        ({"memory": 3}, "memory is an int"),
        ({"passes": 3}, "passes is an int"),
    ],
)
def test_a_mode_that_would_fail_when_it_is_met_is_refused(empty_registry, fields, told):
    with pytest.raises(TypeError, match=told):
        gradbench.mode("gradient", name="mine", **fields)(lambda problem: None)


def test_a_function_under_no_operator_is_refused(empty_registry):
    wrong = fields() | {"derivatives": {"gradiant": lambda x: x}}
    with pytest.raises(ValueError, match="did you mean gradient"):
        gradbench.function(**wrong, name="mine")(lambda x: x)


def test_an_entry_point_that_names_nothing_is_named_with_its_line(install, tmp_path):
    install("gb_whole", SUITE, "[gradbench.functions]", "w = gb_whole", "v = gb_missing")
    (line,) = discover(WorkerOptions()).broken
    assert f"{tmp_path.name}" in line or "gb_whole-1.0.dist-info" in line
    assert "entry_points.txt:3" in line


def test_a_file_declares_by_the_public_names(tmp_path):
    suite = tmp_path / "my_suite.py"
    suite.write_text(SUITE, encoding="utf-8")
    ran = gradbench_command("verify", "-f", "packaged_cube", "-o", "diagonal", "--from", str(suite))
    assert ran.returncode == 0, ran.stderr

"""`gradbench init`: what it writes into a project works there, and nothing there is lost."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
import yaml
from asv import util
from in_process import gradbench

from gradbench.integrations import asv_own, starting
from gradbench.integrations.asv_own import OwnError
from gradbench.releases.environments import Environment

MODEL = """
import torch

def loss(x, w, scale=1.0):
    return scale * (x @ w).tanh().square().sum()

def my_gradient(x, w, scale=1.0):
    y = (x @ w).tanh()
    z = 2 * scale * y * (1 - y**2)
    return z @ w.T, x.T @ z

def inputs():
    return {"x": torch.ones(2, 3), "w": torch.ones(3, 4)}

def rows(x):
    return x.cumsum(0).sin()
"""
INPUTS = ["--input", "x=randn(2, 3, dtype=float64)", "--input", "w=ones(3,4)"]
FILES = ("__init__.py", "conftest.py", "inputs.py", "test_derivatives.py")
ALL = {
    "asv.conf.json",
    ".github/workflows/gradbench.yml",
    *(f"benchmarks/{name}" for name in FILES),
    "benchmarks/releases/__init__.py",
}


@pytest.fixture
def project(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg/__init__.py").write_text("")
    (tmp_path / "pkg/net.py").write_text(MODEL)
    return tmp_path


def written(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def new(folder, before):
    return written(folder) - before


def test_a_project_gets_tests_asv_and_a_workflow_for_its_function(project):
    before = written(project)
    done = gradbench("init", project, "--function", "model.py:loss", *INPUTS)
    assert done.returncode == 0, done.stderr
    assert {p for p in new(project, before) if "__pycache__" not in p} == ALL
    assert all(path in done.stdout for path in ALL)
    assert "finite differences" in done.stderr
    test = (project / "benchmarks/test_derivatives.py").read_text()
    assert "gradbench(loss, *loss_inputs()).gradient().assert_right()" in test
    scope: dict = {}
    exec((project / "benchmarks/inputs.py").read_text(), scope)
    x, w = scope["loss_inputs"]()
    assert (x.dtype, x.shape, w.shape) == (torch.float64, (2, 3), (3, 4))
    assert torch.equal(x, scope["loss_inputs"]()[0])
    conf = util.load_json(str(project / "asv.conf.json"), js_comments=True)
    (declared,) = asv_own.declared(conf["gradbench"])
    assert (declared.question.target, declared.label) == ("model.py:loss", "model:loss")
    workflow = yaml.safe_load((project / ".github/workflows/gradbench.yml").read_text())
    assert workflow["env"]["WHAT"] == (
        "--function model.py:loss --inputs benchmarks/inputs.py:loss_inputs"
    )
    assert "<<" not in "".join((project / path).read_text() for path in ALL)


@pytest.mark.parametrize(
    ("words", "test"),
    [
        (
            ["pkg.net:loss", "--inputs", "model:inputs", "--wrt", "w"],
            "gradbench(loss, *ordered, **named, wrt=['w']).gradient().assert_right()",
        ),
        (
            ["pkg/net.py:loss", *INPUTS, "--also", "model.py:my_gradient"],
            "gradbench(loss, *loss_inputs()).gradient(my_gradient).assert_right()",
        ),
        (
            ["model.py:rows", "--input", "x=arange(4.)"],
            "gradbench(rows, *rows_inputs()).jacobian().assert_right()",
        ),
    ],
)
def test_what_is_said_of_the_function_is_in_the_test_and_its_imports_work(project, words, test):
    done = gradbench("init", project, "--function", *words)
    assert done.returncode == 0, done.stderr
    text = (project / "benchmarks/test_derivatives.py").read_text()
    assert test in text
    # As pytest imports it, with nothing of the project installed.
    code = f"import sys; sys.path.insert(0, '.')\nimport benchmarks.conftest\n{text}"
    ran = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_an_example_starts_a_project_that_names_no_function(tmp_path):
    done = gradbench("init", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    assert written(tmp_path / "new") == ALL | {"benchmarks/example.py"}
    for path in written(tmp_path / "new"):
        if path.endswith(".py"):
            ast.parse((tmp_path / "new" / path).read_text())


def test_nothing_is_written_over_what_is_there_unless_forced(project):
    (project / "asv.conf.json").write_text("{}")
    before = written(project)
    done = gradbench("init", project)
    assert done.returncode == 2
    assert "asv.conf.json exists already, and nothing was written" in done.stderr
    assert written(project) == before
    done = gradbench("init", project, "--part", "tests", "--part", "workflow")
    assert done.returncode == 0
    assert (project / "asv.conf.json").read_text() == "{}"
    done = gradbench("init", project, "--force")
    assert done.returncode == 0
    assert "plugins" in (project / "asv.conf.json").read_text()


def test_a_dry_run_writes_nothing(project):
    before = written(project)
    done = gradbench("init", project / "new", "--function", "m:f", "--input", "x=1.", "--dry-run")
    assert done.returncode == 0
    assert all(f"Would write {path}" in done.stdout for path in ALL)
    assert written(project) == before
    assert not (project / "new").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--function", "model.py:lose", *INPUTS], "did you mean loss"),
        (["--function", "model.py", *INPUTS], "is not MODULE:FUNCTION"),
        (["--function", "model.py:loss"], "give the inputs"),
        (["--function", "model.py:loss", *INPUTS, "--inputs", "model:inputs"], "not by both"),
        (["--input", "x=ones(2)"], "--input is for a function"),
        (["--function", "my-model.py:loss", *INPUTS], "cannot be imported"),
        (["--function", "my model.py:loss", *INPUTS], "cannot"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(project, words, told):
    before = written(project)
    done = gradbench("init", project, *words)
    assert done.returncode == 2
    assert told in done.stderr
    assert done.stderr.count("\n") == 1 or "looking" in done.stderr
    assert {p for p in new(project, before) if "__pycache__" not in p} == set()


@pytest.mark.parametrize(
    ("configured", "told"),
    [
        ([], "should be"),
        ({"functions": [{}]}, "MODULE:FUNCTION"),
        ({"functions": [{"function": "m:f"}]}, 'needs "inputs"'),
        ({"functions": [{"function": "m:f", "inputs": "m:g", "wert": "x"}]}, "did you mean wrt"),
        ({"functions": [{"function": "m:f", "input": ["x"]}]}, "NAME=EXPR"),
        ({"functions": [{"function": "m:f", "inputs": "m:g"}] * 2}, 'give one of them a "name"'),
        ({"functions": [{"function": "m:f", "inputs": "m:g", "wrt": 3}]}, "list of texts"),
    ],
)
def test_what_asv_s_configuration_says_wrong_is_one_line(configured, told):
    with pytest.raises(OwnError, match=told):
        asv_own.declared(configured)


def test_the_baseline_is_the_installed_release():
    version = torch.__version__.partition("+")[0]
    assert starting.baseline() == version or "dev" in version


@pytest.fixture
def measured(project):
    """The project with asv's part, and a torch release that is this very Python."""
    given = (("x", "randn(2, 3)"), ("w", "ones(3, 4)"))
    start = starting.Start(project, "model.py:loss", given, "", "gradient", {})
    for path, (text, _) in starting.files(start, ("asv",)).items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(text)
    folder = project / "environments/2.13.0"
    folder.mkdir(parents=True)
    made = Environment(1, "2.13.0", "2.13.0", sys.executable, {"torch": "2.13.0"}, "", 0)
    (folder / "environment.json").write_bytes(msgspec.json.encode(made))
    return project


def asv(project, *words):
    return subprocess.run(
        [sys.executable, "-m", "asv", *words],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=240,
        env=os.environ
        | {
            "HOME": str(project),
            "GRADBENCH_RELEASES": str(project / "environments"),
            "PYTHONPATH": str(Path(__file__).parent.parent),
        },
    )


def test_asv_measures_the_function_on_a_release_and_publishes_it(measured):
    run = asv(measured, "run", "v2.13.0^!", "-b", r"\('backward'\)", "-a", "rounds=1")
    assert run.returncode == 0, run.stdout + run.stderr
    listed = json.loads((measured / "results/asv/benchmarks.json").read_text())
    (name,) = set(listed) - {"version"}
    assert name.startswith("gradient.model:loss@")
    (path,) = measured.rglob("v2.13.0-*.json")
    values = json.loads(path.read_text())["results"][name][0]
    assert any(isinstance(value, float) and 1e-7 < value < 1 for value in values), run.stdout
    published = asv(measured, "publish")
    assert published.returncode == 0, published.stdout + published.stderr
    assert (measured / ".asv/html/index.html").exists()


def test_a_function_that_cannot_be_measured_is_one_line_of_asv_s(project, monkeypatch):
    monkeypatch.chdir(project)
    configured = {"functions": [{"function": "model.py:lose", "inputs": "model:inputs"}]}
    (one,) = asv_own.declared(configured)
    with pytest.raises(OwnError, match="did you mean loss") as error:
        asv_own.registered(one, project / "results", lambda said: None)
    assert str(error.value).startswith("model.py:lose: ")
    assert "\n" not in str(error.value)


@pytest.fixture
def job(project):
    """Runs the steps of a job of the project's workflow, with commands that only say what they were
    asked and fail where `fails` is in that; returns the exit codes by step, and what was said."""
    assert gradbench("init", project).returncode == 0
    (project / "pyproject.toml").write_text("")
    whole = yaml.safe_load((project / ".github/workflows/gradbench.yml").read_text())
    said = project / "said"
    shims = project / "bin"
    shims.mkdir()
    for name in ("git", "gradbench", "pip", "python", "uv"):
        body = f'#!/bin/sh\necho "{name} $*" >> {said}\n'
        body += f'case "{name} $*" in *"$FAILS"*) exit 1;; esac\n'
        if name == "pip":
            body += 'if [ "$1" = index ]; then echo "torch ($NEWEST_IS)"; fi\n'
        if name == "git":
            body += 'if [ "$1" = worktree ]; then mkdir .base && touch .base/pyproject.toml; fi\n'
        (shims / name).write_text(body)
        (shims / name).chmod(0o755)

    def run(name, fails="nothing of this", **more):
        files = {key: project / key for key in ("GITHUB_ENV", "GITHUB_STEP_SUMMARY")}
        for file in (*files.values(), said):
            file.write_text("")
        known = {key: str(value) for key, value in (whole["env"] | files | more).items()}
        known |= {"PATH": f"{shims}{os.pathsep}{os.environ['PATH']}", "FAILS": fails}
        codes = {}
        for step in whole["jobs"][name]["steps"]:
            if "run" in step:
                now = dict(line.split("=", 1) for line in files["GITHUB_ENV"].read_text().split())
                ran = subprocess.run(
                    ["bash", "-e", "-c", step["run"]], cwd=project, env=os.environ | known | now
                )
                codes[step["name"]] = ran.returncode
        return codes, said.read_text()

    return run


def test_the_workflow_measures_a_change_beside_what_it_is_based_on(job):
    codes, said = job("change", BASE="abc", fails="--gradbench-save")
    # A base that lacks the function is no failure.
    assert not any(codes.values())
    assert "git worktree add --detach .base abc" in said
    base, change = [line for line in said.splitlines() if line.startswith("python -m pytest")]
    assert "--gradbench-save --gradbench-results ../results" in base
    assert "--gradbench-compare latest --gradbench-fail-on slower" in change
    assert said.count("pip install --no-deps -e .") == 2


def test_the_workflow_fails_where_a_change_is_slower(job):
    codes, _ = job("change", BASE="abc", fails="--gradbench-fail-on")
    assert [name for name, code in codes.items() if code] == ["measure the change beside it"]


def test_the_workflow_measures_the_newest_release_beside_the_baseline(job):
    codes, said = job("releases", NEWEST_IS="9.9.9")
    assert not any(codes.values())
    baseline = starting.baseline()
    assert f"gradbench releases track {baseline} 9.9.9 --baseline {baseline}" in said
    inputs = "--inputs benchmarks/inputs.py:example_inputs"
    assert f"--profile gate --function benchmarks/example.py:example {inputs}" in said
    assert f"gradbench releases compare {baseline} 9.9.9 -f example:example --fail" in said
    _, said = job("releases", NEWEST_IS=baseline)
    assert "gradbench releases" not in said

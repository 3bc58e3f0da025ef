"""The Python API: fixed schemas of frames, one run or several, types for users, examples."""

import doctest
import importlib
import inspect
import os
import subprocess
import sys
import typing
import warnings
from dataclasses import fields as fields_of
from pathlib import Path

import pandas as pd
import pytest
from made_runs import PLAIN, jacobian, stored
from made_tracks import Made

import gradbench
from gradbench.analysis import schema
from gradbench.api.asked import Interrupted
from gradbench.core import own
from gradbench.core.arguments import of_options
from gradbench.problems import registry
from gradbench.problems.function import Function
from gradbench.problems.mode import Mode
from gradbench.releases import timeline
from gradbench.store import runs as log
from gradbench.store.lines import StoreError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two runs, and one of which nothing was measured."""
    place = tmp_path_factory.mktemp("api") / "results"
    stored(place, PLAIN)
    stored(place, {**PLAIN, jacobian("tanh"): {"grad": 3.0, "newer": 4.0}}, number=1)
    stored(place, PLAIN, number=2, sessions=0)
    return place


ONE, TWO, NONE = (f"20260101-000000-00000{number}" for number in range(3))

READERS = {
    "load": (gradbench.load, schema.LOAD),
    "samples": (gradbench.samples, schema.SAMPLES),
    "verdicts": (gradbench.verdicts, schema.VERDICTS),
    "recommend": (lambda *given: gradbench.recommend(*given).frame, schema.RECOMMENDED),
}


def kinds(frame):
    """The dtypes of a frame, as they must not depend on the data."""
    return {name: "category" if str(t) == "category" else t for name, t in frame.dtypes.items()}


@pytest.mark.parametrize("name", READERS)
def test_the_kinds_of_columns_and_the_units_do_not_depend_on_the_data(results, name):
    read, expected = READERS[name]
    full, other, empty = (read(results, run) for run in (ONE, TWO, NONE))
    assert len(full) > 0
    assert len(empty) == 0
    assert kinds(full) == kinds(other) == kinds(empty)
    assert list(full) == list(empty) == list(expected)
    assert full.attrs["units"] == empty.attrs["units"]
    assert set(full.attrs["units"]) <= set(full)
    for column, field in expected.items():
        is_category = isinstance(full[column].dtype, pd.CategoricalDtype)
        assert is_category == (field.kind == "name"), column


def test_known_names_are_all_categories_in_their_order(results):
    for run in (ONE, NONE):
        table = gradbench.verdicts(results, run)
        assert table["verdict"].cat.categories[:2].tolist() == ["", "fastest"]
        assert "out of memory" in table["status"].cat.categories


def test_the_timeline_has_its_columns_also_without_rows(tmp_path):
    Made({"2.8.0": 1.0, "2.9.0": 1.1}).write(tmp_path / "some", 0)
    full, empty = timeline(tmp_path / "some"), timeline(tmp_path / "none")
    assert kinds(full) == kinds(empty)
    assert len(full) > 0
    assert len(empty) == 0


@pytest.mark.parametrize("name", READERS)
def test_one_run_or_several(results, name):
    read, _ = READERS[name]
    one, two = read(results, ONE), read(results, TWO)
    both = read(results, [ONE, TWO])
    assert len(both) == len(one) + len(two)
    assert len(read(results, [ONE, ONE])) == len(one)
    assert kinds(both) == kinds(one)
    assert len(read(results, log.folder(results) / f"{ONE}.jsonl")) == len(one)
    with pytest.raises(StoreError, match="no run named"):
        read(results, [ONE, "never"])


def test_runs_are_judged_each_by_itself(results):
    both = gradbench.verdicts(results, [ONE, TWO])
    alone = gradbench.verdicts(results, TWO)
    part = both[both["run"] == TWO].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        part.astype({"run": str, "function": str, "mode": str}),
        alone.astype({"run": str, "function": str, "mode": str}),
        check_categorical=False,
    )


def test_frames_can_be_grouped_filtered_and_written(results, tmp_path):
    cases = gradbench.load(results, ONE)
    grouped = cases.groupby("mode", observed=True)["seconds"].median()
    assert grouped["jacrev"] == pytest.approx(50e-6, rel=0.1)
    assert set(cases.loc[cases["status"] == "ok", "reason"]) == {""}
    cases.to_parquet(tmp_path / "x.parquet")
    again = pd.read_parquet(tmp_path / "x.parquet")
    assert again.attrs["units"]["seconds"] == "s"
    assert kinds(again) == kinds(cases)


# ── measuring ─────────────────────────────────────────────────────────────────────────────────

SHORT = {"sessions": 2, "budget": 0.01, "progress": False}


def test_run_measures_stores_and_returns_the_run_twice(tmp_path):
    made = [
        gradbench.run("exp", "vjp", ("grad", "backward"), **SHORT, results=tmp_path)
        for _ in range(2)
    ]
    assert made[0].name != made[1].name
    for run in made:
        assert run.finished
        assert set(run.frame["mode"]) == {"grad", "backward"}
        assert gradbench.load(tmp_path, run)["run"].unique().tolist() == [run.name]
        assert run.recommend()[0].where.operator == "vjp"
        assert "Stored in" in str(run)
        assert "<table" in run._repr_html_()
    assert len(gradbench.load(tmp_path, made)) == sum(
        len(gradbench.load(tmp_path, m)) for m in made
    )


def test_run_measures_a_function_of_one_s_own_as_the_command_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tmp_path / "model.py"
    model.write_text(
        "import torch\n"
        "def loss(x, n):\n    return (x**n).sum()\n"
        "def mine(x, n):\n    return n * x ** (n - 1)\n"
        "def inputs():\n    return {'x': torch.ones(3), 'n': 3}\n"
    )
    made = gradbench.run(
        *("model.py:loss", "gradient", ("grad", "mine")),
        inputs={"x": "randn(3)", "n": 3},
        also="model.py:mine",
        name="cubes",
        **{**SHORT, "sessions": 1},
    )
    (name,) = set(made.frame["function"])
    assert name.startswith("cubes@")
    assert dict(zip(made.frame["mode"], made.frame["status"])) == {"grad": "ok", "mine": "ok"}
    model.write_text(model.read_text().replace("x**n", "2 * x**n"))
    with pytest.warns(UserWarning, match="cubes or its inputs have changed since"):
        again = gradbench.run(
            "model.py:loss",
            modes="grad",
            inputs="model.py:inputs",
            name="cubes",
            **{**SHORT, "sessions": 1},
        )
    assert set(again.frame["status"]) == {"ok"}


def test_an_interrupted_run_says_how_to_go_on_and_does(tmp_path):
    def stop(progress):
        if progress.done == 1:
            raise KeyboardInterrupt

    words = {"functions": "exp", "operators": "vjp", "modes": "grad", "results": tmp_path}
    with pytest.raises(KeyboardInterrupt, match=r"gradbench.run\(resume='2") as stopped:
        gradbench.run(**words, **{**SHORT, "progress": stop})
    assert isinstance(stopped.value, Interrupted)
    steps = []
    made = gradbench.run(resume=stopped.value.name, progress=steps.append, results=tmp_path)
    assert made.name == stopped.value.name
    assert made.finished
    assert steps[-1].done == steps[-1].total
    assert sorted(set(gradbench.load(tmp_path, made)["session"])) == [0, 1]
    with pytest.raises(StoreError, match="finished"):
        gradbench.run(resume=made, progress=False, results=tmp_path)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"functions": "exq"}, "did you mean exp"),
        ({"operators": "vjq"}, "did you mean vjp"),
        ({"modes": "gradd"}, "did you mean grad"),
        ({"functions": 3}, "functions should be a string"),
        ({"profile": "quik"}, "did you mean quick"),
        ({"dtypes": "float31"}, "did you mean float32"),
        ({"devices": "cdua"}, "is not cpu, cuda"),
        ({"devices": ()}, "devices is empty"),
        ({"sizes": "n=-1"}, "positive integer"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": 1.5}, "threads is 1.5, and should be a whole number"),
        ({"sessions": 0}, "sessions is 0"),
        ({"budget": -1}, "budget is -1"),
        ({"instruments": "flop"}, "did you mean flops"),
        ({"files": "nothing.py"}, "'nothing.py' is not a Python file"),
        ({"resume": "never"}, "no run named 'never'"),
        (
            {"baseline": "gradd", "functions": "exp"},
            "^baseline 'gradd' is not .* mean grad",
        ),
        ({"functions": print}, "gradbench.compare takes a function itself"),
        ({"functions": "exp", "inputs": {"x": "ones(2)"}}, "^inputs is for a function of your own"),
        ({"functions": "exp", "wrt": "x"}, "^wrt is for a function of your own"),
        ({"functions": "model.py:loss"}, "inputs is empty: a function of your own needs"),
        ({"functions": "model.py:loss", "inputs": "maker"}, "should be expressions by name"),
        ({"functions": "model.py:loss", "inputs": {"x": [1]}}, "gradbench.compare takes tensors"),
        ({"functions": "model.py:loss", "inputs": {"x": "1", "y z": 2}}, "'y z=2' is not of the"),
        ({"functions": "none.py:loss", "inputs": {"x": "ones(2)"}}, "there is no file none.py"),
        (
            {"functions": ["exp", "a.py:f"], "inputs": {"x": 1}},
            "a.py:f is measured alone",
        ),
    ],
)
def test_wrong_arguments_are_named_and_nothing_is_stored(tmp_path, given, says):
    with pytest.raises((TypeError, ValueError, StoreError), match=says):
        gradbench.run(**given, progress=False, results=tmp_path)
    assert not (tmp_path / "runs").exists()


def test_errors_name_arguments_and_leave_commands_alone():
    said = "--input x is given twice: remove --cpu-capability, or 'gradbench run --resume latest'"
    assert of_options(said, ("input",)) == (
        "inputs x is given twice: remove cpu_capability, or 'gradbench run --resume latest'"
    )
    assert of_options("if meant, --definition=autograd does") == (
        "if meant, definition='autograd' does"
    )


def test_track_asks_for_what_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADBENCH_RELEASES", str(tmp_path / "environments"))
    with pytest.raises(ValueError, match=r"not installed: 2\.9\.0, 2\.8\.0; install=True"):
        gradbench.track(
            ["2.9.0", "2.8.0"], "exp", "vjp", "grad", install=False, results=tmp_path / "r"
        )
    with pytest.raises(ValueError, match=r"there is no torch 2\.9\.9"):
        gradbench.track(["2.9.9", "2.8.0"], results=tmp_path / "r")
    with pytest.raises(StoreError, match="no track named 'never'"):
        gradbench.track(resume="never", results=tmp_path / "r")
    with pytest.raises(ValueError, match="did you mean standard"):
        gradbench.track(profile="standart", results=tmp_path / "r")


def test_track_measures_builds_in_turns(tmp_path, monkeypatch):
    from warm import python

    monkeypatch.setenv("GRADBENCH_RELEASES", str(tmp_path / "environments"))
    builds = [f"{name}={python(tmp_path / name)}" for name in ("mine", "twin")]
    model = tmp_path / "model.py"
    model.write_text("def loss(x):\n    return x.sin().sum()\n")
    made = gradbench.track(
        builds, f"{model}:loss", modes="grad", inputs={"x": "randn(3)"}, baseline="mine",
        sessions=2, budget=0.01, progress=False, results=tmp_path / "r",
    )  # fmt: skip
    assert set(made.builds) == {"mine", "twin"}
    assert set(made.frame["mode"]) == {"grad"}
    assert set(made.frame["status"]) == {"ok"}
    assert own.unversioned(made.frame["function"].iloc[0]) == "model:loss"
    assert len(timeline(tmp_path / "r", made)) == len(made.frame) == 2
    assert "<table" in made._repr_html_()


# ── types ─────────────────────────────────────────────────────────────────────────────────────

USER = """
from pathlib import Path

import gradbench
import torch
from gradbench.problems.function import elementwise, normal
from gradbench.problems.operators import Problem


@gradbench.function(
    example=lambda: (torch.ones(4, dtype=torch.float64),),
    example_size={"n": 4},
    draw=lambda size, generator: (normal(generator, size["n"]),),
    derivatives=elementwise(lambda x: 3 * x**2),
)
def cube(x: torch.Tensor) -> torch.Tensor:
    return x**3


@gradbench.mode("gradient", leaves=True)
def mine(problem: Problem) -> object:
    return lambda inputs: inputs


reveal_type(cube)
reveal_type(gradbench.load("results", ["latest"])["seconds"].median())
made = gradbench.run(functions=["exp"], sessions=2, results=Path("results"))
reveal_type(made)
reveal_type(made.frame)
reveal_type(gradbench.verdicts(run=made))
reveal_type(gradbench.recommend(run=[made, "latest"])[0])
reveal_type(gradbench.compare(cube, torch.ones(3)).winner())
reveal_type(gradbench.track("2.9.0").builds)
gradbench.load(runs=3)
gradbench.mode("gradient", leafs=True)
gradbench.function(example_size={"n": 4})
"""


@pytest.mark.slow
@pytest.mark.started
def test_a_user_s_file_is_checked_strictly(tmp_path):
    """With mypy --strict: what is right passes, decorated functions keep their types, and what is
    wrong is an error."""
    (tmp_path / "user.py").write_text(USER)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", "user.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=os.environ | {"MYPYPATH": str(ROOT)},
    )
    lines = done.stdout.splitlines()
    number = {text: place for place, text in enumerate(USER.splitlines(), 1)}
    # An editable installation is checked with the user's settings too.
    theirs = [line for line in lines if line.startswith("user.py:")]
    errors = {int(line.split(":")[1]): line for line in theirs if ": error:" in line}
    assert set(errors) == {
        number["def mine(problem: Problem) -> object:"] - 1,
        number["gradbench.load(runs=3)"],
        number['gradbench.mode("gradient", leafs=True)'],
        number['gradbench.function(example_size={"n": 4})'],
    }, done.stdout
    revealed = [line.partition('"')[2].rstrip('"') for line in lines if "Revealed type" in line]
    assert revealed[0] == "def (x: torch._tensor.Tensor) -> torch._tensor.Tensor"
    assert revealed[2:4] == ["gradbench.api.run.RunResult", "pandas.DataFrame"] or (
        revealed[2].endswith("RunResult") and "DataFrame" in revealed[3]
    )
    assert "Any" not in " ".join(revealed)


def test_the_decorators_know_every_field():
    names = {field.name for field in fields_of(Mode)} - {"operators", "build", "summary"}
    assert set(registry.ModeFields.__annotations__) == names
    if sys.version_info >= (3, 11):
        declared = typing.get_overloads(registry.function)
        keywords = max((set(inspect.signature(one).parameters) for one in declared), key=len)
        assert keywords == {field.name for field in fields_of(Function)} - {"forward"}


# ── examples ──────────────────────────────────────────────────────────────────────────────────


def public():
    """Every public function and class, with where it is."""
    for name in gradbench.__all__:
        if not name.startswith("_"):
            yield name, getattr(gradbench, name)
    yield "timeline", timeline


@pytest.fixture
def beside_results(tmp_path, monkeypatch):
    stored(tmp_path / "results", PLAIN)
    (tmp_path / "model.py").write_text("def loss(x):\n    return x.sin().sum()\n")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("beside_results")
@pytest.mark.parametrize("name", [name for name, _ in public()])
def test_the_examples_of_docstrings_are_right(name):
    value = dict(public())[name]
    finder = doctest.DocTestFinder(recurse=False)
    for example in finder.find(value, name, globs={"gradbench": gradbench}):
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            failed, _ = runner.run(example)
        assert not failed


def test_every_reader_has_an_example():
    for name in ("load", "samples", "verdicts", "recommend", "run", "timeline"):
        assert ">>> " in dict(public())[name].__doc__, name


def test_names_are_loaded_when_they_are_used():
    module = importlib.import_module("gradbench")
    assert set(module._HOMES) | {"__version__"} == set(module.__all__)
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        module.lod  # noqa: B018

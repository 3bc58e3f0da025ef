"""What the Python functions are given: of the right kind, or an error that says which."""

import inspect
import math
import os

import numpy as np
import pandas as pd
import pytest
import torch
from made_runs import PLAIN, stored

import gradbench
from gradbench.api.run import RunResult
from gradbench.core import arguments
from gradbench.problems import registry
from gradbench.releases import timeline
from gradbench.report.data import table
from gradbench.store import runs as log
from gradbench.store.lines import StoreError

READERS = [gradbench.load, gradbench.samples, table]


@pytest.mark.parametrize("read", READERS)
def test_one_run_needs_no_list(tmp_path, read):
    for runs in ("latest", ["latest"], ("latest",), iter(["latest"])):
        with pytest.raises(StoreError, match="there are no runs"):
            read(tmp_path, runs=runs)
    with pytest.raises(StoreError, match="no run named '2026'"):
        read(tmp_path, runs="2026")


@pytest.mark.parametrize("read", [gradbench.load, gradbench.samples])
@pytest.mark.parametrize("runs", [3, [3], [None], b"latest", {"latest": 1}, [["latest"]]])
def test_runs_of_another_kind_are_named(tmp_path, read, runs):
    with pytest.raises(TypeError, match="runs should be a string"):
        read(tmp_path, runs=runs)


@pytest.mark.parametrize("read", [gradbench.load, gradbench.samples])
@pytest.mark.parametrize("runs", ["", " ", [""], []])
def test_runs_that_name_none_are_refused(tmp_path, read, runs):
    with pytest.raises(ValueError, match="runs is empty"):
        read(tmp_path, runs=runs)


@pytest.mark.parametrize(
    "read",
    [*READERS, gradbench.verdicts, gradbench.recommend, timeline],
    ids=lambda read: read.__name__,
)
def test_a_folder_is_a_path(read):
    for results in (3, None, ["results"], b"results"):
        with pytest.raises(TypeError, match="results should be a path"):
            read(results)
    with pytest.raises(ValueError, match="results is empty"):
        read("")


@pytest.mark.parametrize("read", [gradbench.verdicts, gradbench.recommend, timeline, table])
def test_thresholds_are_finite_and_in_range(tmp_path, read):
    for floor in (math.nan, math.inf, -0.1, 1, 5, "0.1", True, None):
        with pytest.raises((TypeError, ValueError), match="floor"):
            read(tmp_path, floor=floor)
    for confidence in (math.nan, 0, 0.4, 1, 95, "0.95"):
        with pytest.raises((TypeError, ValueError), match="confidence"):
            read(tmp_path, confidence=confidence)


@pytest.mark.parametrize("read", [gradbench.verdicts, gradbench.recommend, table])
def test_a_method_that_is_none_gets_the_nearest(tmp_path, read):
    with pytest.raises(ValueError, match="did you mean holm"):
        read(tmp_path, method="holms")


def test_one_track_needs_no_list(tmp_path):
    with pytest.raises(StoreError, match="there are no tracks"):
        timeline(tmp_path, tracks="latest")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"also": "jacrev"}, "also should be a function or a list of functions, not a str"),
        ({"also": [len, "jacrev"]}, "also should be a list of functions, and has a str"),
        ({"budget": math.nan}, "budget is nan"),
        ({"budget": math.inf}, "budget is inf"),
        ({"budget": 0}, "budget is 0"),
        ({"timeout": -1}, "timeout is -1"),
        ({"timeout": "60"}, "timeout should be a number"),
        ({"memory_limit": math.inf}, "memory_limit"),
        ({"seed": -1}, "seed"),
        ({"seed": 10**30}, "seed"),
        ({"operator": "jacobain"}, "did you mean jacobian"),
        ({"wrt": 3}, "wrt should be a string"),
        ({"results": 3}, "results should be a path"),
    ],
)
def test_advice_refuses_settings_before_it_looks_at_anything(tmp_path, fields, says):
    with pytest.raises((TypeError, ValueError), match=says):
        gradbench.compare(len, 1.0, **{"results": tmp_path / "results", **fields})
    assert list(tmp_path.iterdir()) == []


def test_advice_is_given_on_what_can_be_called(tmp_path):
    with pytest.raises(TypeError, match="function should be callable, not a str"):
        gradbench.compare("sin", 1.0, results=tmp_path)


def test_a_mode_is_of_operators_that_there_are():
    before = dict(registry.MODES)
    with pytest.raises(ValueError, match="did you mean gradient"):
        gradbench.mode("gradeint")
    with pytest.raises(TypeError, match="takes the operators"):
        gradbench.mode()
    with pytest.raises(TypeError, match="takes the operators"):
        gradbench.mode(lambda problem: None)
    assert before == registry.MODES


def test_numbers_may_be_of_any_kind_of_number():
    for value in (1, 1.0, np.float32(1), np.int64(1)):
        assert arguments.number("x", value, 0, 2) == 1.0


def test_a_function_is_one_or_has_fields():
    before = dict(registry.FUNCTIONS)
    for given in (len, "exp", 3, pd.DataFrame()):
        with pytest.raises(TypeError, match=r"takes a Function, not an? .*; a decorator has the"):
            gradbench.function(given)
    fields = {"example": tuple, "example_size": {}, "draw": tuple, "derivatives": {}}
    for name, value, says in (
        ("example", 3, "len: example should be a function, not an int"),
        ("derivatives", [len], "len: derivatives should be a dict, not a list"),
        ("inputs", "x", "len: inputs should be a tuple, not a str"),
        ("sizes", {"n": 3}, "len: sizes should be a tuple, not a dict"),
    ):
        with pytest.raises(TypeError, match=says):
            gradbench.function(**{**fields, name: value})(len)
    assert before == registry.FUNCTIONS


# ── a run where a folder should be, and the other way round ───────────────────────────────────


@pytest.mark.parametrize(
    ("read", "argument"),
    [
        (gradbench.load, "runs"),
        (gradbench.samples, "runs"),
        (gradbench.verdicts, "run"),
        (gradbench.recommend, "run"),
        (gradbench.machines, "runs"),
        (timeline, "tracks"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_run_in_place_of_the_folder_is_told_its_argument(tmp_path, monkeypatch, read, argument):
    monkeypatch.chdir(tmp_path)
    path = stored(tmp_path / "results", PLAIN)
    run = RunResult(path, log.read(path).name, True)
    for given in ("latest", "2026", run.name, str(path), path, run):
        name = os.fspath(given)
        with pytest.raises(StoreError) as raised:
            read(given)
        assert str(raised.value).startswith("results should be the folder of stored results, and ")
        assert str(raised.value).endswith(f": {argument}={name!r}")
    assert list(tmp_path.iterdir()) == [tmp_path / "results"]


def test_a_default_folder_that_is_not_there_yet_is_no_mistake(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError, match="there are no runs in results/runs; 'gradbench run'"):
        gradbench.verdicts()
    assert len(timeline()) == 0


@pytest.mark.parametrize("measure", [gradbench.run, gradbench.track])
def test_results_are_not_stored_in_a_file(tmp_path, measure):
    (tmp_path / "model.py").write_text("")
    with pytest.raises(ValueError, match=r"model.py', a file, and should be a folder"):
        measure(results=tmp_path / "model.py")


# ── anything, anywhere ────────────────────────────────────────────────────────────────────────

PUBLIC = {
    name: value
    for name in gradbench.__all__
    if not isinstance(value := getattr(gradbench, name), (str, type))
}
PUBLIC["timeline"] = timeline

WRONG = {
    "none": None,
    "whole": 3,
    "number": math.nan,
    "bytes": b"latest",
    "numbers": [3.5],
    "dict": {"latest": 1},
    "callable": print,
    "module": os,
    "frame": pd.DataFrame({"run": ["latest"], "mode": ["grad"]}),
    "matrix": np.ones((2, 2)),
    "tensor": torch.ones(2),
}

ACCEPTED = {
    "none": (
        *("functions", "operators", "modes", "families", "sizes", "dtypes", "devices"),
        *("instruments", "files", "wrt", "releases", "runs", "tracks", "operator", "dtype", "name"),
        *("baseline", "resume", "index_url", "torch_backend", "cpu_capability", "declared"),
        *("sessions", "budget", "also", "progress"),
    ),
    "whole": ("sessions", "budget", "threads", "seed", "timeout", "memory_limit"),
    "callable": ("function", "also", "progress"),
    "dict": ("inputs",),
}
"""The arguments for which a kind is right, or could be."""


def given(name, argument, value):
    """Calls a public function with a value for one of its arguments."""
    if name in ("function", "mode"):
        return PUBLIC[name](value)
    if name == "compare":
        positional = value if argument == "function" else torch.sin
        named = {} if argument == "function" else {argument: value}
        return PUBLIC[name](positional, torch.ones(3), **named)
    return PUBLIC[name](**{argument: value})


def cases():
    for name, function in PUBLIC.items():
        for argument, parameter in inspect.signature(function).parameters.items():
            free = parameter.kind is parameter.VAR_KEYWORD
            if not (free or (name, argument) == ("compare", "inputs")):
                yield name, argument


@pytest.mark.parametrize(("name", "argument"), [*cases()])
def test_any_argument_of_another_kind_is_named_in_one_line(tmp_path, monkeypatch, name, argument):
    def began(*_, **__):
        raise AssertionError("it began to measure")

    for where in ("api.run.discovered", "api.track.discovered", "advise.live.answered"):
        monkeypatch.setattr(f"gradbench.{where}", began)
    monkeypatch.chdir(tmp_path)
    for kind, value in WRONG.items():
        if argument in ACCEPTED.get(kind, ()):
            continue
        with pytest.raises((TypeError, ValueError, StoreError)) as raised:
            given(name, argument, value)
        said = str(raised.value)
        # What takes one thing by position needs no name for it.
        assert argument in said or name in ("function", "mode"), (kind, said)
        assert "\n" not in said, (kind, said)
        assert len(said) < 300, (kind, said)
    assert list(tmp_path.iterdir()) == []

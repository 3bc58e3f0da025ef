"""What the Python functions are given: of the right kind, or an error that says which."""

import math

import pytest

import gradbench
from gradbench.core import arguments
from gradbench.problems import registry
from gradbench.releases import timeline
from gradbench.report.data import table
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
    import numpy as np

    for value in (1, 1.0, np.float32(1), np.int64(1)):
        assert arguments.number("x", value, 0, 2) == 1.0

"""The study that holds advice against an expert's code: what its rows say, and its functions."""

from types import SimpleNamespace

import pytest
import torch

from gradbench.analysis.table import Ratio
from gradbench.store.studies import begin, read
from gradbench.studies import engine, evidence, experts
from gradbench.studies.experts import FUNCTIONS, question, row
from gradbench.worker.reference import hessian, rows
from gradbench.worker.subject import Subject

ASKED = FUNCTIONS[0]


def ratio(value, spread=0.0):
    return Ratio(value, value * (1 - spread), value * (1 + spread))


def entry(mode, value, verdict="slower", spread=0.001, status="ok", reason=""):
    found = ratio(value, spread) if status == "ok" else None
    return SimpleNamespace(
        mode=mode, to_fastest=found, verdict=verdict, status=status, reason=reason, comparison="c"
    )


def advice(*rows, seconds=20.0):
    return SimpleNamespace(
        operators=["jacobian"],
        rows=lambda operator: list(rows),
        winner=lambda operator: rows[0].mode,
        first="usual",
        run="r",
        seconds=seconds,
        budget=30.0,
    )


def test_an_expert_that_is_slower_or_level_leaves_advice_as_fast():
    slower = row(ASKED, advice(entry("best", 1.0), entry("pinn_expert", 2.0), entry("usual", 9.0)))
    assert slower["as_fast"]
    assert slower["in_time"]
    assert (slower["best"], slower["usual_ratio"]) == ("best", 9.0)
    level = row(ASKED, advice(entry("pinn_expert", 1.0), entry("best", 1.01), entry("usual", 9.0)))
    assert level["as_fast"]
    assert level["expert_ratio"] == pytest.approx(1 / 1.01)


def test_an_expert_that_is_ahead_by_more_than_the_floor_is_said():
    found = row(ASKED, advice(entry("pinn_expert", 1.0), entry("best", 1.2), seconds=31.0))
    assert not found["as_fast"]
    assert not found["in_time"]


def test_an_answer_without_times_is_no_answer():
    nothing = advice()
    nothing.operators = []
    assert "nothing was measured" in row(ASKED, nothing)["refused"]


def test_an_expert_that_was_not_timed_is_no_evidence():
    wrong = entry("pinn_expert", 0, status="wrong", reason="by points")
    found = row(ASKED, advice(entry("best", 1.0), wrong))
    assert not found["as_fast"]
    assert found["expert_status"] == "wrong: by points"


def test_the_study_is_stored_and_says_where_an_expert_is_ahead(tmp_path):
    settings = experts.settings(["pinn", "hand"], 30.0)
    log, study = begin(tmp_path, "experts", settings, {}, {"torch": "2.13.0"}, ["gradbench"])
    answers = [
        row(ASKED, advice(entry("pinn_expert", 1.0), entry("best", 1.2), entry("usual", 9.0))),
        {"function": "hand", "field": "hand tracking, by the pose", "refused": "it has no inputs"},
    ]
    with log:
        for step, values in zip(experts.plan(settings, ()), answers, strict=True):
            log.append(step.trial(values=values, elapsed=29.0))
    stored = read(study.path)
    assert not engine.left(stored, experts.plan(settings, ()))
    assert experts.behind(stored) == [
        f"{ASKED.field}: behind the expert, or the expert was not timed",
        "hand tracking, by the pose: no answer: it has no inputs",
    ]
    first, second = (
        dict(zip(evidence.show_columns(r), evidence.cells(r[0])))
        for r in (experts.rows(stored), experts.rows(stored)[1:])
    )
    assert first["usual / fastest"] == "9.00 ±0.1%"
    assert first["expert / best"] == "0.83 ±0.1%"
    assert second["operator"] == "it has no inputs"


def test_a_function_that_is_none_of_the_study_is_named():
    with pytest.raises(ValueError, match="'pin': the functions are pinn, "):
        experts.settings(["pin"], 30.0)


@pytest.mark.parametrize("asked", FUNCTIONS, ids=lambda asked: asked.name)
def test_each_expert_gives_the_derivative_of_its_function(asked):
    subject = Subject(question(asked, 30.0).spec() | {"dtype": "float64"})
    (way,) = subject.ways.values()
    got = subject.called(way)(subject.values)
    got = got if isinstance(got, tuple) else (got,)
    if asked.operator == "hessian":
        y, blocks = got[0], hessian(subject, *subject.values)
    else:
        y, blocks = rows(subject, *subject.values)
    for found, block, x in zip(got, blocks, subject.values):
        wanted = block.reshape(y.shape if asked.operator == "hessian" else y.shape + x.shape)
        if asked.name == "pinn":
            wanted = wanted.diagonal(0, 0, 1).movedim(-1, 0)
        assert torch.allclose(found, wanted.reshape(found.shape), rtol=1e-9, atol=1e-9)

"""The study of the gate and the evidence on real functions: the corpus, planted errors, counts."""

from __future__ import annotations

import json

import psutil
import pytest
import torch
from in_process import gradbench
from torch.utils._pytree import tree_flatten

from gradbench.core.cases import Case
from gradbench.runner.wire import WorkerOptions
from gradbench.runner.workers import discover
from gradbench.store.logs import Ended
from gradbench.store.studies import Trial, begin, find, read
from gradbench.studies import budgets, corpus, evidence, gate
from gradbench.studies.corpus import plants, process
from gradbench.worker.loading import resolve
from gradbench.worker.subject import Subject

EXAMPLES = corpus.load()


def target(name):
    return resolve(EXAMPLES[name].target)


def spec(name, dtype="float32"):
    return gate.question(vars(EXAMPLES[name]), dtype, seed=1).spec()


# ── the corpus ────────────────────────────────────────────────────────────────────────────────


def test_the_corpus_has_many_functions_of_as_many_kinds():
    assert len(EXAMPLES) >= 60
    assert len({each.field for each in EXAMPLES.values()}) == len(EXAMPLES)


def test_every_function_of_the_corpus_is_finite_and_depends_on_its_inputs():
    for name in EXAMPLES:
        function = target(name)
        torch.manual_seed(7)
        inputs = process.leaves(function.inputs(), torch.float32)
        values, _ = tree_flatten(plants.call(function, inputs))
        assert all(bool(value.isfinite().all()) for value in values), name
        assert any(value.requires_grad for value in values), name


def test_the_same_seed_draws_the_same_point():
    first, again = (tree_flatten(_drawn("attention", 3))[0] for _ in range(2))
    other, _ = tree_flatten(_drawn("attention", 4))
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))


def _drawn(name, seed):
    torch.manual_seed(seed)
    return target(name).inputs()


def test_two_functions_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two functions named 'focal'"):
        corpus.declare("focal", "", lambda x: x, lambda: (torch.ones(1),))


# ── one function ──────────────────────────────────────────────────────────────────────────────


def test_right_modes_pass_and_errors_in_results_do_not():
    found = process.tried(spec("pinball"), plant=True)
    assert "backward" in found["ok"]
    assert found.keys().isdisjoint({"wrong", "refused"})
    assert len(found["planted"]) >= 9
    assert all(error["caught"] for error in found["planted"])
    assert all(error["size"] > 0 for error in found["planted"])


def test_labels_stay_labels_in_fresh_inputs():
    # Binary cross-entropy raises where a label leaves [0, 1].
    subject = Subject(spec("item_response"))
    drawn = subject.draw(None, torch.Generator().manual_seed(0))
    same = [torch.equal(x, y) for x, y in zip(drawn, subject.values)]
    assert dict(zip(subject.names, same)) == {
        **dict.fromkeys(("skill", "hard", "steep"), False),
        "right": True,
    }


def test_a_dtype_that_torch_lacks_is_unsupported():
    found = process.tried(spec("gp_likelihood", "bfloat16"))
    assert "BFloat16" in found["unsupported"]


def test_the_registry_is_as_before():
    with process.registered():
        functions, modes = set(process.registry.FUNCTIONS), set(process.registry.MODES)
    process.tried(spec("pinball"))
    assert set(process.registry.FUNCTIONS) == functions
    assert set(process.registry.MODES) == modes


@pytest.mark.parametrize("kind", ["sign", "off by 1e-3", "detached branch", "right once"])
def test_an_error_in_a_backward_is_caught_by_the_evidence(kind):
    found = process.planted(spec("attention"), kind)
    assert (found["kind"], found["caught"]) == (kind, "evidence")


def test_an_error_that_changes_nothing_is_not_counted():
    # There is one operation, whose value is a single number, and no matrix among the inputs.
    assert process.planted(spec("huber"), "transposed square") == {"absent": True}


@pytest.mark.parametrize("kind", gate.KINDS)
def test_an_error_changes_the_backward_and_not_the_value(kind):
    name = "covariance"
    function = target(name)
    inputs = process.leaves(_drawn(name, 0), torch.float64)
    sites = plants.sites(function, inputs)
    wrong = [plants.planted(function, kind, site) for site in sites]
    values = [plants.call(each, inputs) for each in wrong]
    assert all(torch.equal(value, plants.call(function, inputs)) for value in values)
    sizes = [process.effect(function, inputs, kind, site) for site in sites]
    assert max(sizes) > process.EFFECT


def test_the_kinds_are_those_that_the_process_plants():
    assert set(gate.KINDS) == set(plants.KINDS)


def test_a_small_entry_beside_a_large_one_has_its_own_size():
    right = torch.tensor([1e5, 1.0, 0.0])
    assert plants.deviation([torch.tensor([1e5, 2.0, 0.0])], [right]) == 1.0
    assert plants.deviation([right], [right]) == 0.0
    assert plants.block("factor 2 in one entry", right).tolist() == [1e5, 2.0, 0.0]


# ── counting ──────────────────────────────────────────────────────────────────────────────────


def trial(name, dtype="float32", point=1, way=gate.TRIED, **fields):
    case = Case.parse(f"advise/{name}/point={point}/{dtype}/cpu/1/{way}")
    key = f"{name}/{dtype}/{point}/{way}/{fields.get('values', {}).get('kind')}"
    return Trial(key=key, way=way, case=case, process=0, group=0, **fields)


@pytest.fixture
def study(tmp_path):
    """A study of four functions, with faults of every kind."""
    settings = gate.settings(["a", "b", "c", "d"], ["float32"], 1, 0)
    environment = {"torch": "2.13.0"}
    log, study = begin(tmp_path, "gate", settings, {}, environment, ["gradbench"])
    caught = {"kind": "sign", "size": 2.0, "caught": True}
    missed = {"kind": "off by 1e-3", "size": 1e-3, "caught": False, "share": 0.5}
    trials = [
        trial("a", values={"ok": ["grad", "jacrev"], "planted": [caught, missed]}),
        trial("b", values={"ok": [], "wrong": {"grad": "by x[0]: 1 instead of 2"}}),
        trial("c", values={"refused": "autograd gives 1", "contradicted": True}),
        trial("d", values={"unsupported": "no such thing"}),
        trial("a", way=gate.PLANTED, values={"kind": "sign", "size": 2.0, "caught": "evidence"}),
        trial("b", way=gate.PLANTED, values={"absent": True}),
    ]
    with log:
        for each in trials:
            log.append(each)
        log.append(Ended("2026-01-01T00:00:00Z", True, 1.0))
    return read(study.path)


def test_faults_are_counted_over_the_supported_cases(study):
    (row,) = gate.rows(study)
    wanted = {"functions": 4, "trials": 3, "unsupported": 1, "modes": 3, "called_wrong": 1}
    wanted |= {"contradicted": 1, "named": 1}
    assert row.items() >= wanted.items()
    assert [(f["function"], f["fault"]) for f in gate.faults(study)] == [
        ("b", "grad wrong: by x[0]: 1 instead of 2"),
        ("c", "autograd gives 1"),
    ]


def test_errors_are_counted_by_place_and_kind_and_the_missed_ones_listed(study):
    found = [(r["place"], r["kind"], r["found"], r["trials"]) for r in gate.planted_rows(study)]
    assert found == [
        ("results of modes", "sign", 1, 1),
        ("results of modes", "off by 1e-3", 0, 1),
        ("results of modes", "all", 1, 2),
        ("backwards", "sign", 1, 1),
        ("backwards", "all", 1, 1),
    ]
    (missed,) = gate.missed(study)
    assert (missed["function"], missed["size"], missed["share"]) == ("a", 1e-3, 0.5)


def test_the_page_has_every_table_of_the_study(study, tmp_path):
    page = evidence.write([study], tmp_path)[0].read_text()
    for title, rows in gate.tables(study):
        assert f"**{title}**" in page
        assert rows
    assert "by x\\[0\\]: 1 instead of 2" in page


# ── the command ───────────────────────────────────────────────────────────────────────────────


def test_a_small_study_is_stored_and_its_answer_has_the_counts(tmp_path):
    done = gradbench(
        *("study", "gate", "-f", "pinball", "--points", 1, "--dtype", "float32"),
        *("--results", tmp_path, "--format", "json"),
    )
    assert "14 cases" in done.stderr
    records = json.loads(done.stdout)
    assert records[0]["trials"] == 1
    assert records[0]["called_wrong"] == 0
    stored = find(tmp_path, "latest", "gate")
    assert stored.finished
    assert len(stored.trials) == 1 + len(gate.KINDS)


def test_what_torch_computes_wrong_is_refused_and_no_fault(tmp_path):
    """`torch.func.linearize` of a function that adds to a buffer in place."""
    done = gradbench(
        *("study", "gate", "-f", "scattered", "--points", 1, "--dtype", "float64", "--quick"),
        *("--results", tmp_path, "--format", "json"),
    )
    (row, *_) = json.loads(done.stdout)
    assert row["called_wrong"] == 0
    assert row["wrong_in_torch"] == 2
    assert row["named"] == 1
    assert done.returncode == 0


def test_resuming_tries_what_is_left(tmp_path):
    done = gradbench("study", "gate", "-f", "nobody", "--results", tmp_path)
    assert done.returncode == 2
    assert "'nobody' is not a function of the corpus" in done.stderr
    settings = gate.settings(["pinball"], ["float32", "float64"], 1, 0)
    settings["planted"] = []
    environment = discover(WorkerOptions()).environment
    log, study = begin(tmp_path, "gate", settings, {}, environment, ["gradbench"])
    steps = gate.plan(settings, ())
    with log:
        log.append(steps[0].trial(values={"ok": ["grad"]}))
        log.append(Ended("2026-01-01T00:00:00Z", False, 1.0))
    resumed = gradbench("study", "gate", "--resume", study.name, "--results", tmp_path)
    assert "1 case:" in resumed.stderr
    assert resumed.returncode == 0
    stored = read(study.path)
    assert stored.finished
    assert [t.case.comparison.dtype for t in stored.trials] == ["float32", "float64"]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ({"ok": ["grad"], "failed": {"jacfwd": "RuntimeError: no"}}, "jacfwd failed: RuntimeError"),
        ({"ok": ["grad"], "wrong": {"jacfwd": "by x"}}, "jacfwd wrong: by x"),
        ({"ok": ["grad"], "passed_in_error": ["linearize_vmap"]}, "linearize_vmap ok, and torch"),
        ({"broken": "ValueError: it broke"}, "ValueError: it broke"),
    ],
)
def test_whatever_a_process_answers_is_stored_and_read_again(tmp_path, monkeypatch, answer, fault):
    settings = gate.settings(["pinball"], ["float32"], 1, 0) | {"planted": []}
    environment = discover(WorkerOptions()).environment
    log, study = begin(tmp_path, "gate", settings, {}, environment, ["gradbench"])
    monkeypatch.setattr(gate, "listed", lambda: {"pinball": {}})
    monkeypatch.setattr(gate, "request", lambda *asked: {})
    monkeypatch.setattr(gate.Process, "ask", lambda self, **asked: dict(answer))
    with log:
        gate.carry_out(log, study, gate.plan(settings, ()), lambda said: None, WorkerOptions())
    stored = read(study.path)
    assert not stored.problems
    (row,) = gate.faults(stored)
    assert row["fault"].startswith(fault)


# ── budgets ───────────────────────────────────────────────────────────────────────────────────


def test_some_functions_come_from_all_parts_of_the_list():
    assert gate.some(list("abcdefgh"), 4) == list("aceg")
    assert gate.some(list("abc"), 4) == list("abc")


def test_each_function_is_asked_about_alone_and_beside_busy_processes():
    steps = budgets.plan(budgets.settings(["a", "b"], 30.0, 4, 0), ())
    assert [(s.way, s.case.comparison.function) for s in steps] == [
        *(("alone", "a"), ("alone", "b"), ("busy", "a"), ("busy", "b")),
    ]
    assert {s.way for s in budgets.plan(budgets.settings(["a"], 30.0, 0, 0), ())} == {"alone"}


def test_busy_processes_work_and_end():
    with budgets.load(2) as pids:
        assert all(map(psutil.pid_exists, pids))
    assert not any(map(psutil.pid_exists, pids))


def test_late_and_empty_answers_are_counted(tmp_path):
    settings = budgets.settings(["a", "b", "c"], 10.0, 4, 0)
    log, study = begin(tmp_path, "budgets", settings, {}, {"torch": "2.13.0"}, ["gradbench"])
    steps = budgets.plan(settings, ())
    told = {"winner": "grad", "told": ["evidence"]}
    with log:
        log.append(steps[0].trial(elapsed=9.0, values=told))
        log.append(steps[1].trial(elapsed=12.0, values=told))
        log.append(steps[2].trial(elapsed=1.0, values={"refused": "it returns int64"}))
        log.append(steps[3].trial(elapsed=10.5, values=told))
    alone, busy = budgets.rows(read(study.path))
    assert (alone["trials"], alone["late"], alone["empty"], alone["winners"]) == (3, 1, 1, 2)
    assert alone["longest"] == pytest.approx(0.2)
    assert (busy["trials"], busy["late"], busy["neighbour"]) == (1, 0, "4 processes")
    assert [(r["function"], r["fault"]) for r in budgets.late(read(study.path))] == [
        *(("b", "late"), ("c", "it returns int64")),
    ]


def test_a_small_budget_is_asked_for_and_stored(tmp_path, few_rounds):
    done = gradbench(
        *("study", "budgets", "-f", "pinball", "--budget", 20, "--busy", 0),
        *("--results", tmp_path, "--format", "json"),
    )
    assert "1 answer: up to 20 s" in done.stderr
    (row,) = [r for r in json.loads(done.stdout) if "late" in r]
    assert (row["trials"], row["empty"], row["winners"]) == (1, 0, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["studies"]

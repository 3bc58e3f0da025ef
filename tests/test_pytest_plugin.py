"""The pytest plugin, as the tests of somebody else's project use it."""

import importlib
import json
import re
import subprocess
import sys
from collections import Counter
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from gradbench.core.verdicts import Verdict
from gradbench.integrations.pytest_plugin import claims, comparing, fixture, storing, turns
from gradbench.integrations.pytest_plugin.room import Record
from gradbench.statistics import Estimate, at_most
from gradbench.store import runs as log

PLUGIN = "gradbench.integrations.pytest_plugin"

LOADED = [] if any(e.value == PLUGIN for e in entry_points(group="pytest11")) else ["-p", PLUGIN]
"""Where this checkout was installed before it had the entry point."""

MODEL = """
import torch

def field(x):
    return torch.sin(x) * x.sum()

def jacobian(x):
    return torch.diag(torch.cos(x) * x.sum()) + torch.sin(x)[:, None]

def transposed(x):
    return jacobian(x).T.contiguous()

def loss(x):
    return (x**3).sum()
"""


FEW_ROUNDS = """
from gradbench.advise import advice

advice.SESSIONS, advice.ROUNDS = 2, 8
"""
"""Times that are there after a few rounds, on any machine."""


def project(folder, tests, **files):
    """A user's project: its package, and a file of tests."""
    (folder / "model.py").write_text(MODEL)
    top = "import pytest\nimport torch\n\nimport model\nfrom model import *\n\n"
    (folder / "test_model.py").write_text(top + tests)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_text(content)
    return folder


def ran(folder, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "pytest", *LOADED, "-p", "no:cacheprovider", "-q", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=900,
    )


def outcomes(done):
    """Each test's outcome by name, from the lines of -rA."""
    found = {}
    for line in done.stdout.splitlines():
        word, _, rest = line.partition(" ")
        if word in ("PASSED", "FAILED", "ERROR"):
            found[rest.rpartition("::")[2].split(" ")[0]] = word
    return found


def test_a_forked_session_has_no_module_of_another_test(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "other")
    monkeypatch.delitem(sys.modules, "model", raising=False)
    importlib.import_module("model")
    done = ran(project(tmp_path, "def test_it():\n    assert field\n"))
    del sys.modules["model"]
    assert done.returncode == 0, done.stdout


def test_the_options_on_the_page_exist():
    page = (Path(__file__).parent.parent / "docs" / "pytest.md").read_text("utf-8")
    source = Path(sys.modules[PLUGIN].__file__).read_text("utf-8")
    assert len(named := set(re.findall(r"--gradbench[a-z-]*|gradbench_[a-z]+", page))) > 9
    assert {name for name in named if f'"{name}"' not in source} == {"gradbench_case"}


FAULTS = {
    "raises": (
        "def f(x): raise KeyError('no weights')\ngradbench(f, torch.ones(3)).jacobian()",
        "it raises KeyError: 'no weights'",
    ),
    "no_tensor": (
        "gradbench(lambda x: 3.0, torch.ones(3)).gradient()",
        "it returns a float, no tensor",
    ),
    "derivative_raises": (
        "def mine(x): raise KeyError('no rows')\ngradbench(field, torch.ones(3)).jacobian(mine)",
        "mine raises: KeyError: 'no rows'",
    ),
    "no_tensor_either": (
        "gradbench(field, torch.ones(3)).jacobian(lambda x: 3.0)",
        "own is wrong: by x: is a float, not a tensor",
    ),
    "wrong_shape": (
        "gradbench(field, torch.rand(3)).jacobian(lambda x: jacobian(x)[None])",
        "has shape (1, 3, 3) instead of (3, 3)",
    ),
    "wrong_dtype": (
        "gradbench(field, torch.rand(3, dtype=torch.float64)).jacobian("
        "lambda x: jacobian(x).float())",
        "is torch.float32 instead of torch.float64",
    ),
    "wrong_value": (
        "gradbench(field, torch.rand(3)).jacobian(transposed)",
        "transposed is wrong: by x",
    ),
    "no_inputs": ("gradbench(field).jacobian(jacobian)", "no input for its argument 'x'"),
    "too_many": ("gradbench(loss, torch.ones(2), 1).gradient()", "it takes 1 input"),
    "no_function": ("gradbench(3, torch.ones(2)).gradient()", "should be callable"),
    "no_function_yet": ("gradbench(None)", "function should be callable, not None"),
    "dtype": (
        "gradbench(field, torch.rand(3), dtype='float8').jacobian(jacobian)",
        "dtype 'float8' is none of float32",
    ),
    "layout": (
        "gradbench(field, torch.eye(3).to_sparse()).jacobian()",
        "x has the layout torch.sparse_coo: pass x.to_dense()",
    ),
    "integers": (
        "gradbench(field, torch.arange(3)).jacobian()",
        "x is torch.int64: pass x.float()",
    ),
    "called_already": (
        "x = torch.rand(3)\ngradbench(field, x).jacobian(jacobian(x))",
        "pass it without calling it",
    ),
    "operator": ("gradbench(field, torch.ones(3)).jacobain(jacobian)", "did you mean jacobian"),
    "no_such_operator": (
        "gradbench(field, torch.rand(3)).gradient()",
        "for this function there are jacobian",
    ),
    "mode": (
        "gradbench(field, torch.rand(3)).jacobian(jacobian).assert_no_slower_than('jacrv')",
        "there is no mode 'jacrv' of this jacobian; did you mean jacrev",
    ),
    "mode_as_derivative": (
        "gradbench(field, torch.rand(3)).jacobian('jacrv')",
        "there is no mode 'jacrv'",
    ),
    "globs": (
        "gradbench(field, torch.rand(3), modes='jacrv').jacobian(jacobian)",
        "modes: no mode matches 'jacrv'; did you mean jacrev",
    ),
    "by": (
        "gradbench(field, torch.rand(3)).jacobian(jacobian)"
        ".assert_no_slower_than('jacrev', by=0.5)",
        "by is 0.5",
    ),
    "within": (
        "gradbench(field, torch.rand(3)).jacobian(jacobian).assert_fastest(within='1')",
        "within should be a number",
    ),
    "itself": (
        "gradbench(field, torch.rand(3)).jacobian('jacrev').assert_no_slower_than('jacrev')",
        "compared with itself",
    ),
    "nothing_to_claim": (
        "gradbench(field, torch.rand(3)).jacobian().assert_fastest()",
        "there is no derivative to claim this of",
    ),
    "claim_too_early": (
        "gradbench(field, torch.rand(3)).assert_no_slower_than('jacrev')",
        "name a derivative first: gradbench(f, x).jacobian(my_jacobian).assert_no_slower_than(",
    ),
    "value_too_early": (
        "gradbench(field, torch.rand(3)).seconds",
        "name a derivative first",
    ),
    "no_call": (
        "gradbench.assert_fastest()",
        "call the fixture with a function and its inputs first: gradbench(f, x).assert_fastest(",
    ),
    "no_call_either": (
        "gradbench.jacobian(field)",
        "call the fixture with a function and its inputs first: gradbench(f, x).jacobian(",
    ),
    "budget": (
        "gradbench(field, torch.rand(3), budget=-1).jacobian(jacobian)",
        "budget is -1",
    ),
    "undecided": (
        "gradbench(field, torch.rand(3), undecided='pass').jacobian(jacobian)",
        "undecided is 'pass'",
    ),
}


@pytest.fixture
def faulty(tmp_path):
    """What pytest says of a test for each fault."""
    tests = "".join(
        f"def test_{name}(gradbench):\n    {code.replace(chr(10), chr(10) + '    ')}\n\n"
        for name, (code, _) in FAULTS.items()
    )
    tests += (
        "@pytest.mark.gradbench(bugdet=3)\n"
        "def test_marker(gradbench):\n    gradbench(field, torch.rand(3)).jacobian(jacobian)\n"
    )
    return ran(project(tmp_path, tests))


def test_each_fault_is_one_clear_failure_at_the_users_line(faulty):
    assert faulty.returncode == 1
    assert f"{len(FAULTS) + 1} failed" in faulty.stdout
    assert "the marker has no option 'bugdet'; did you mean budget?" in faulty.stdout
    for name, (_, message) in FAULTS.items():
        _, _, rest = faulty.stdout.partition(f"___ test_{name} ___")
        said = rest.partition("\n____")[0]
        errors = [line for line in said.splitlines() if line.startswith("E  ")]
        assert len(errors) == 1, said
        assert message in errors[0]
        assert "test_model.py:" in said
        # No frame of the plugin's own.
        assert "/gradbench/" not in said


RIGHT = """
def test_right(gradbench):
    assert gradbench(field, torch.rand(3)).jacobian(jacobian).assert_right().seconds is None

def test_claims(gradbench):
    gradbench(field, torch.rand(3)).jacobian(jacobian).assert_no_slower_than("jacrev", by=1.1)

def test_closure(gradbench):
    scale = torch.tensor(2.0)
    def f(x):
        return (scale * field(x)).sum()
    gradbench(f, torch.rand(3)).gradient(lambda x: scale * jacobian(x).sum(0)).assert_right()

def test_seeded(gradbench):
    def mine(v, x):
        return v @ jacobian(x)
    gradbench(field, torch.rand(3)).vjp(mine)
    gradbench(field, torch.rand(3)).jvp(lambda t, x: jacobian(x) @ t)
    gradbench(loss, torch.rand(3)).hessian(lambda x: torch.diag(6 * x))
    gradbench(loss, torch.rand(3)).hvp(lambda t, x: 6 * x * t)

def test_inputs_by_name_in_any_order(gradbench):
    def f(a, b):
        return (a * b).sum()
    gradbench(f, b=torch.rand(3), a=torch.rand(3)).gradient(lambda a, b: (b, a))

def test_whatever_suits(gradbench):
    assert "gradient" in repr(gradbench(loss, torch.rand(3)).assert_right())
    assert "jacobian" in repr(gradbench(field, torch.rand(3)).assert_right())

def test_module(gradbench):
    net = torch.nn.Linear(3, 1)
    gradbench(lambda net, x: net(x).sum(), net, torch.rand(3)).gradient()

def test_a_mode_by_name(gradbench):
    gradbench(field, torch.rand(3)).jacobian("jacrev", also=[jacobian]).assert_right()

def test_nothing_is_left_behind(gradbench):
    torch.manual_seed(3)
    before = torch.rand(2)
    torch.manual_seed(3)
    threads, x = torch.get_num_threads(), torch.rand(3, requires_grad=True)
    torch.manual_seed(3)
    with torch.no_grad():
        gradbench(field, x).jacobian(jacobian)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.rand(2), before)
    assert x.grad is None and torch.get_num_threads() == threads

class TestMarked:
    pytestmark = pytest.mark.gradbench(wrt="b")

    def test_options_of_a_class(self, gradbench):
        def f(a, b):
            return (a * b).sum()
        gradbench(f, torch.rand(3), torch.rand(3)).gradient(lambda a, b: a)

def test_without():
    pass
"""


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    folder = project(tmp_path_factory.mktemp("right"), RIGHT)
    return ran(folder, "-rA", "--strict-markers")


class TestChecking:
    def test_right_derivatives_of_every_kind_pass(self, checked):
        found = outcomes(checked)
        assert checked.returncode == 0, checked.stdout
        assert [name for name, word in found.items() if word != "PASSED"] == []

    def test_a_claim_about_times_is_skipped_and_says_how_to_try_it(self, checked):
        assert "1 skipped" in checked.stdout
        assert "right, and not timed: pytest --gradbench times it" in checked.stdout
        # At the user's test, not in the plugin.
        (line,) = (line for line in checked.stdout.splitlines() if line.startswith("SKIPPED"))
        assert "test_model.py" in line

    def test_the_section_says_that_nothing_was_timed(self, checked):
        assert "14 derivatives checked, none timed: --gradbench times them" in checked.stdout

    def test_the_marker_selects_the_tests_with_the_fixture(self, tmp_path):
        folder = project(tmp_path, RIGHT)
        done = ran(folder, "-m", "not gradbench")
        assert "1 passed" in done.stdout

    def test_a_function_alone_checks_nothing_and_the_test_warns(self, tmp_path):
        tests = (
            "def test_forgotten(gradbench):\n    gradbench(field, torch.rand(3))\n\n"
            "def test_used(gradbench):\n    gradbench(field, torch.rand(3)).jacobian(jacobian)\n"
        )
        folder = project(tmp_path, tests)
        done = ran(folder)
        assert done.returncode == 0
        assert done.stdout.count("alone checks nothing: add .assert_right() or a derivative") == 1
        assert "test_forgotten: gradbench(field, …)" in done.stdout
        strict = ran(folder, "-W", "error::gradbench.integrations.pytest_plugin.GradbenchWarning")
        assert strict.returncode == 1

    def test_a_suite_that_does_not_use_it_sees_nothing_of_it(self, tmp_path):
        done = ran(project(tmp_path, "def test_plain():\n    assert torch.ones(1)\n"))
        assert done.returncode == 0
        assert "gradbench" not in done.stdout


class TestOptions:
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["--gradbench-budget", "0"], "is not a number of seconds above 0"),
            (["--gradbench-budget", "long"], "'long' is not a number of seconds"),
            (["--gradbench-compare", "nothing"], "no run named 'nothing'"),
            (["--gradbench-compare", "latest"], "'pytest --gradbench-save' makes one"),
            (["--gradbench-compare", "", "--gradbench-fail-on", "slower"], "must not be empty"),
            (["--gradbench-results", ""], "must not be empty"),
            (["--gradbench-save", "--gradbench-results", "model.py"], "model.py: Not a directory"),
            (["--gradbench-fail-on", "slower"], "add --gradbench-compare REF"),
            (["--gradbench-undecided", "pass"], "invalid choice: 'pass'"),
        ],
    )
    def test_a_bad_option_is_one_line(self, tmp_path, arguments, said):
        done = ran(project(tmp_path, "def test_plain():\n    pass\n"), *arguments)
        assert done.returncode == 4
        assert said in done.stderr
        assert "Traceback" not in done.stdout + done.stderr

    @pytest.mark.parametrize("option", ["--gradbench-save", "--gradbench-compare=latest"])
    def test_collecting_times_nothing_and_leaves_no_folder(self, tmp_path, option):
        done = ran(project(tmp_path, TIMED), "--collect-only", option)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3 tests collected" in done.stdout
        assert not (tmp_path / "results").exists()

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("gradbench_budget = much", "gradbench_budget is 'much'"),
            ("gradbench_undecided = pass", "gradbench_undecided is 'pass'"),
        ],
    )
    def test_a_bad_line_of_the_ini_file_is_one_line(self, tmp_path, line, said):
        folder = project(tmp_path, "", pytest_ini=f"[pytest]\n{line}\n")
        done = ran(folder)
        assert done.returncode == 4
        assert said in done.stderr
        assert "Traceback" not in done.stdout + done.stderr


TIMED = """
pytestmark = pytest.mark.gradbench(modes=["jacrev"])

def slow(x):
    for _ in range(200):
        made = jacobian(x)
    return made

def test_slow(gradbench):
    gradbench(field, torch.rand(3)).jacobian(slow).assert_no_slower_than("jacrev", by=1.1)

def test_fast(gradbench, benchmark):
    d = gradbench(field, torch.rand(3)).jacobian(jacobian)
    d.assert_right().assert_no_slower_than("jacrev", by=50).assert_fastest(within=50)
    assert d.seconds < 1 and d.advice.run

def test_not_timed(gradbench):
    gradbench(field, torch.rand(3)).jacobian(jacobian).assert_no_slower_than("loop_grad")
"""


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    """A session that times and stores; `results` is its folder."""
    folder = project(tmp_path_factory.mktemp("timed"), TIMED, conftest_py=FEW_ROUNDS)
    done = ran(folder, "--gradbench-save", "--gradbench-budget", "60", "-rA")
    return SimpleNamespace(done=done, folder=folder, results=folder / "results")


class TestTiming:
    def test_the_section_has_a_line_for_each_test(self, timed):
        section = timed.done.stdout.partition("= gradbench =")[2]
        assert "test_model.py::test_fast  jacobian " in section
        assert "4 claims about times: " in section

    def test_a_claim_states_its_interval_or_is_open(self, timed):
        found = outcomes(timed.done)
        assert found.get("test_slow") != "PASSED"
        assert "ERROR" not in found.values()
        said = timed.done.stdout
        assert re.search(r"slow takes [\w ]*\d.* times as long as jacrev", said)

    def test_a_mode_that_was_left_out_makes_a_claim_undecided(self, timed):
        assert "loop_grad was not timed: it is none of modes=['jacrev']" in timed.done.stdout
        assert outcomes(timed.done).get("test_not_timed") != "PASSED"

    def test_the_session_is_stored_as_one_run_that_commands_read(self, timed):
        run = log.find(timed.results, "latest")
        assert f"Stored as {run.name}" in timed.done.stdout
        assert run.finished
        assert run.problems == []
        names = [entry.comparison.function for entry in run.started.plan]
        assert names == [f"test_model::test_{name}" for name in ("slow", "fast", "not_timed")]
        assert len({worker.process for worker in run.workers}) == len(run.workers)
        assert not (timed.results / "pytest").exists()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "gradbench", "show", "--format", "json"),
                *("--results", str(timed.results)),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        rows = json.loads(done.stdout)
        assert {row["mode"] for row in rows} >= {"jacobian", "jacrev", "forward"}

    def test_the_table_of_pytest_benchmark_has_a_row_for_each_mode(self, timed):
        table = timed.done.stdout.partition("- benchmark ")[2].partition("Legend")[0]
        rows = [line.split()[0] for line in table.splitlines() if line[:1].isalpha()]
        assert {"jacobian", "jacrev"} <= set(rows)


def test_a_session_that_timed_nothing_is_not_stored_and_says_so(tmp_path):
    tests = "def test_it(gradbench):\n    gradbench(loss, torch.ones(3)).gradient()\n"
    done = ran(project(tmp_path, tests), "--gradbench-save", "--gradbench-budget", "0.01")
    assert done.returncode == 1, done.stdout
    assert "Nothing was timed, so nothing is stored." in done.stdout
    assert not (tmp_path / "results" / "runs").exists()


def scaled(run, factor, modes):
    """The run with the times of some modes multiplied."""

    def longer(entrant):
        if entrant.mode not in modes:
            return entrant
        samples = [[round(t * factor) for t in visit] for visit in entrant.samples]
        cpu = [[round(t * factor) for t in visit] for visit in entrant.cpu]
        return msgspec.structs.replace(entrant, samples=samples, cpu=cpu)

    sessions = [
        msgspec.structs.replace(s, entrants=list(map(longer, s.entrants))) for s in run.sessions
    ]
    made = type(run)(run.path, run.started)
    made.take([*run.workers, *sessions, *run.ends])
    return made


def records(run):
    return [
        Record(
            f"test of {e.comparison.function}", "jacobian", e.comparison.function, "", [], log="-"
        )
        for e in run.started.plan
    ]


STORED = Path(__file__).parent.parent / "results"


@pytest.fixture(scope="module")
def run():
    """A stored run of one function, as if a test had made it."""
    run = log.find(STORED, "20261122-052809")
    name = run.started.plan[0].comparison
    made = type(run)(run.path, msgspec.structs.replace(run.started, plan=run.started.plan[:1]))
    made.take([*run.workers, *(s for s in run.sessions if s.comparison == name), *run.ends])
    return made


class TestComparing:
    def mode(self, run):
        return next(e.mode for e in run.sessions[0].entrants if e.samples and e.mode != "forward")

    def test_a_slowdown_of_a_tests_own_derivative_fails_and_names_the_test(self, run):
        mode = self.mode(run)
        (record,) = records(run)
        record.subjects = [mode]
        found = comparing.compared(run, scaled(run, 1.5, {mode}), [record], "slower")
        assert found.fails
        text = "\n".join(found.lines())
        assert f"slower: {record.test} {mode} 1.50" in text
        assert f"FAILED --gradbench-fail-on slower: {record.test}" in text

    def test_what_is_too_close_to_call_says_how_much_may_be_in_it_and_what_to_do(self, run):
        mode = self.mode(run)
        (record,) = records(run)
        record.subjects, record.budget = [mode], 20.0
        few = type(run)(run.path, run.started)
        few.take([*run.workers, *run.sessions[:2], *run.ends])
        found = comparing.compared(few, scaled(few, 1.04, {mode}), [record], "slower")
        assert not found.fails
        text = "\n".join(found.lines())
        assert f"undecided: {record.test} {mode} 1.0" in text
        assert re.search(r"1 too close to call: (slowdowns up to \d+%|large slowd)", text)
        assert "--gradbench-budget 80 for both runs" in text
        one = type(run)(run.path, run.started)
        one.take([*run.workers, *run.sessions[:1], *run.ends])
        found = comparing.compared(one, scaled(one, 1.75, {mode}), [record], "slower")
        assert "times as long, in too few processes" in "\n".join(found.lines())

    def test_a_slowdown_of_another_mode_does_not_concern_the_test(self, run):
        (record,) = records(run)
        record.subjects = [self.mode(run)]
        others = {e.mode for e in run.sessions[0].entrants} - {self.mode(run)}
        found = comparing.compared(run, scaled(run, 1.5, others), [record], "slower")
        assert [change.verdict for change in found.compared.changes] != [Verdict.SLOWER]
        assert not found.fails

    def test_a_test_that_the_other_run_lacks_is_named(self, run):
        new = Record("test_new", "jacobian", "test_new", "", [""], log="-")
        found = comparing.compared(run, run, [*records(run), new], "slower")
        assert "test_new" in "\n".join(found.lines())

    def test_what_else_differs_between_two_machines_is_said(self, run):
        worker = msgspec.structs.replace(
            run.workers[0], environment={**run.workers[0].environment, "torch": "2.99.0"}
        )
        machine = {**run.started.machine, "cpu": "Another"}
        other = type(run)(run.path, msgspec.structs.replace(run.started, machine=machine))
        other.take([worker, *run.sessions, *run.ends])
        text = "\n".join(comparing.compared(run, other, records(run), None).lines())
        assert re.search(r"cpu: .* → Another", text)
        assert re.search(r"torch: .* → 2\.99\.0", text)

    def test_runs_without_a_common_test_are_refused(self, run):
        (record,) = records(run)
        record.function = "another"
        with pytest.raises(ValueError, match="no timed case in common"):
            comparing.compared(run, run, [record], None)


def estimate(ratio, error, sessions=5, **more):
    import math

    half = 2.776 * error
    return Estimate(
        ratio,
        math.exp(math.log(ratio) - half),
        math.exp(math.log(ratio) + half),
        0.95,
        0.01,
        sessions,
        50,
        0.01,
        error,
        sessions - 1,
        error / 2,
        **more,
    )


class TestClaims:
    @pytest.mark.parametrize(
        ("ratio", "factor", "holds"),
        [(1.0, 1.1, True), (1.3, 1.1, False), (1.1, 1.1, None), (1.06, 1.1, None)],
    )
    def test_the_interval_decides(self, ratio, factor, holds):
        bound = at_most(estimate(ratio, 0.02), factor)
        assert bound.holds is holds
        assert (bound.p <= 0.025) is (holds is not None)

    def test_one_process_is_undecided(self):
        assert at_most(estimate(2.0, 0.001, sessions=1), 1.1).holds is None

    @pytest.mark.parametrize(
        ("ratio", "error", "sessions", "said"),
        [
            (1.1, 0.02, 5, "too close to 1.1 to call"),
            (0.3, 1.0, 2, "about 0.30 times as long as jacrev, 2 processes say too little"),
            (2.0, 0.01, 1, "one process says nothing of how processes differ"),
        ],
    )
    def test_an_open_claim_says_why_and_what_to_do(self, ratio, error, sessions, said):
        timed = SimpleNamespace(advice=SimpleNamespace(budget=60.0))
        found = estimate(ratio, error, sessions)
        text = claims._sentence(timed, "mine", "jacrev", found, 1.1, at_most(found, 1.1))
        assert said in text
        assert text.endswith(": raise the budget of 60 s")

    def test_one_of_many_that_is_slower_pays_for_their_number(self):
        close = estimate(1.18, 0.02)
        assert at_most(close, 1.1).holds is False
        assert at_most(close, 1.1, among=20).holds is None

    def test_odds_are_never_called_impossible(self):
        assert claims.odds_of(0.0) == "p < 0.0001"
        assert claims.odds_of(0.0123) == "p = 0.012"


def label(nodeid, operator="jacobian"):
    """The name in a run of a test with this id."""
    bench = fixture.Bench.__new__(fixture.Bench)
    bench.node, bench._names = SimpleNamespace(nodeid=nodeid), Counter()
    return bench.label(operator)


def test_every_test_has_a_name_of_its_own_in_the_run():
    long = "some/folder/test_model.py::test_it[" + "n=3-" * 60
    names = [f"{long}{end}]" for end in ("1", "2", "ünï", "a b")] + ["test_a.py::test_it"]
    labels = [label(name) for name in names]
    assert len(set(labels)) == len(names)
    assert labels[-1] == "test_a::test_it"
    assert all(len(one) <= fixture.LONGEST and "/" not in one for one in labels)


class TestTurns:
    def test_who_measures_waits_for_the_tests_of_others_and_they_for_it(self, tmp_path):
        import threading

        first, second = (turns.Turns(tmp_path, name) for name in ("gw0", "gw1"))
        told, leave = [], threading.Event()
        begun = threading.Event()

        def test():
            with first.taken():
                begun.set()
                leave.wait(60)
                told.append("test")

        def measure():
            with second.taken(), second.alone():
                told.append("measure")

        threads = [threading.Thread(target=test)]
        threads[0].start()
        assert begun.wait(60)
        threads.append(threading.Thread(target=measure))
        threads[1].start()
        threads[1].join(0.3)
        leave.set()
        for thread in threads:
            thread.join(60)
        assert told == ["test", "measure"]

    def test_two_that_want_to_measure_do_not_wait_for_each_other(self, tmp_path):
        import threading

        both = threading.Barrier(2)

        def measure(name):
            own = turns.Turns(tmp_path, name)
            with own.taken():
                both.wait(60)
                with own.alone():
                    done.append(name)

        done = []
        threads = [threading.Thread(target=measure, args=(name,)) for name in ("gw0", "gw1")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(done) == ["gw0", "gw1"]


def test_of_a_test_that_was_repeated_the_last_times_are_stored(timed, tmp_path):
    run = log.find(timed.results, "latest")
    one = type(run)(run.path, msgspec.structs.replace(run.started, plan=run.started.plan[:1]))
    name = run.started.plan[0].comparison
    one.take([*run.workers, *(s for s in run.sessions if s.comparison == name), *run.ends])
    parts = [storing.Part(one, "test_a"), storing.Part(one, "test_a"), storing.Part(one, "test_b")]
    made = storing.store(tmp_path, parts, ["pytest"])
    assert [entry.comparison.function for entry in made.started.plan] == ["test_a", "test_b"]
    assert len(made.sessions) == 2 * len(one.sessions)
    assert made.problems == []

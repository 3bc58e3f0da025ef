"""Families of functions: what `--family` selects and shows, and the multiples of an evaluation."""

import json
import re

import pytest
import torch
from in_process import gradbench
from made_runs import page_of, stored, without_data

from gradbench.analysis.filters import filtered
from gradbench.analysis.multiples import OBJECTIVES, multiples
from gradbench.analysis.runs import judged
from gradbench.analysis.table import record
from gradbench.core.cases import Comparison, Selection, SelectionError, expand
from gradbench.core.families import APPLICATIONS
from gradbench.core.operators import OPERATORS
from gradbench.problems import registry
from gradbench.problems.function import elementwise
from gradbench.report import content
from gradbench.report.data import selected, table
from gradbench.report.multiples import tables
from gradbench.runner.settings import PROFILES
from gradbench.worker.offers import offer
from gradbench.worker.session import Session

registry.load_builtin()
OFFERS = [
    offer(function, operator)
    for function in registry.FUNCTIONS.values()
    for operator in function.derivatives
]


def families(**selection):
    """The functions that a selection selects, by their families."""
    found = {}
    for entry in expand(OFFERS, Selection(**selection)):
        name = entry.comparison.function
        found.setdefault(registry.FUNCTIONS[name].family, set()).add(name)
    return found


@pytest.mark.parametrize("sweep", ["documents", "standard", "full"])
def test_without_a_family_the_source_notebooks_functions_are_selected(sweep):
    assert (
        set(families(sweep=sweep)) == set(families(sweep=sweep, functions=("*",))) == {"notebooks"}
    )
    assert "exp" in families(sweep=sweep)["notebooks"]


def test_a_family_selects_its_functions_and_all_selects_every_one():
    own = families(families=(APPLICATIONS,))
    assert set(own) == {APPLICATIONS}
    assert {"gmm", "bundle_adjustment", "lstm"} <= own[APPLICATIONS]
    both = families(families=("all",))
    assert both == families(families=(APPLICATIONS, "notebooks"))
    assert both == {**own, **families()}


def test_a_function_that_is_named_needs_no_family():
    assert families(functions=("gmm", "exp")) == {APPLICATIONS: {"gmm"}, "notebooks": {"exp"}}


def test_a_pattern_that_fits_another_family_alone_says_what_to_add():
    with pytest.raises(SelectionError, match=r"of another family; add --family applications$"):
        families(functions=("gm*",))
    assert families(functions=("gm*",), families=(APPLICATIONS,)) == {APPLICATIONS: {"gmm"}}


def test_an_unknown_family_is_told_the_names_that_there_are():
    with pytest.raises(SelectionError) as refused:
        families(families=("application",))
    assert str(refused.value) == (
        "there is no family 'application'; did you mean applications? "
        "(families: all, applications, notebooks)"
    )


def test_the_profile_has_the_family_and_all_its_sizes():
    profile = PROFILES[APPLICATIONS]
    entries = expand(OFFERS, profile.swept(Selection()))
    there = {(e.comparison.function, e.comparison.size) for e in entries}
    assert {name for name, _ in there} == {
        name for name, f in registry.FUNCTIONS.items() if f.family == APPLICATIONS
    }
    assert {("gmm", "d=2,k=5,n=200"), ("gmm", "d=64,k=25,n=1000")} <= there
    assert set(OBJECTIVES) <= {name for name, _ in there}
    notebooks = expand(OFFERS, profile.swept(Selection(families=("notebooks",))))
    assert {registry.FUNCTIONS[e.comparison.function].family for e in notebooks} == {"notebooks"}


def test_the_command_line_lists_a_family_and_refuses_one_that_there_is_not():
    done = gradbench("list", "--family", "applications", "--format", "json")
    rows = json.loads(done.stdout)
    assert {row["family"] for row in rows} == {APPLICATIONS}
    assert "hand_tracking" in {row["function"] for row in rows}
    done = gradbench("run", "--family", "mine", "--dry-run")
    assert done.returncode == 2
    assert "there is no family 'mine' (families: all, applications, notebooks)" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


OWN = """
import gradbench
import torch
from gradbench.problems.function import elementwise

@gradbench.function(
    family="cubes",
    example=lambda: (torch.ones(4, dtype=torch.float64),),
    example_size={"n": 4},
    draw=lambda size, generator: (torch.rand(size["n"], generator=generator).double(),),
    derivatives=elementwise(lambda x: 3 * x**2),
)
def cubed(x):
    "xᵢ³"
    return x**3
"""


def test_a_file_has_a_family_of_its_own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    more = ("--from", str(path), "--format", "json")
    rows = json.loads(gradbench("list", "--family", "cubes", *more).stdout)
    assert [(row["function"], row["family"]) for row in rows] == [("cubed", "cubes")]
    assert "cubed" not in {row["function"] for row in json.loads(gradbench("list", *more).stdout)}


@pytest.mark.parametrize("family", ["all", "", "a\tb", 3])
def test_a_family_that_no_option_could_select_is_refused(family, monkeypatch):
    monkeypatch.setattr(registry, "FUNCTIONS", {})
    with pytest.raises(ValueError, match="cannot be a family's name"):
        registry.function(
            family=family,
            example=lambda: (torch.ones(2),),
            example_size={"n": 2},
            draw=lambda size, generator: (torch.ones(size["n"]),),
            derivatives=elementwise(lambda x: x),
        )(torch.exp)


# ── stored cases ──────────────────────────────────────────────────────────────────────────────


def case(operator, function, size="documents"):
    return Comparison(operator, function, size, "float64")


MEASURED = {
    case("jacobian", "exp"): {"forward": 2.0, "loop_backward": 40.0, "jacrev": 30.0},
    case("gradient", "gmm", "d=2,k=5,n=200"): {
        **{"forward": 100.0, "manual": 120.0, "backward": 300.0, "grad": 250.0}
    },
    case("jacobian", "hand_tracking", "n=20"): {
        **{"forward": 500.0, "loop_backward": 60e3, "jacfwd": 2000.0}
    },
    case("jacobian", "hand_tracking", "n=200"): {
        "forward": 600.0,
        "loop_backward": ("refused", "600 passes of at least 1 ms each", 0.6),
        "jacfwd": 9000.0,
    },
    case("jacobian", "hand_tracking", "n=2000"): {
        "forward": 600.0,
        "loop_backward": ("refused", "would need about 9 GiB"),
        "jacfwd": 90000.0,
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("run")
    path = stored(place, MEASURED, families={"gmm": APPLICATIONS, "hand_tracking": APPLICATIONS})
    return place, path


def test_stored_cases_are_shown_by_family(run):
    place, path = run
    rows = judged(path).rows
    own = filtered(rows, families=("applications",))
    assert {row.comparison.function for row in own} == {"gmm", "hand_tracking"}
    assert {r.comparison.function for r in filtered(rows, families=("notebooks",))} == {"exp"}
    assert len(filtered(rows, families=("all",))) == len(rows)
    frame = table(place)
    assert set(selected(frame, families=("applications",))["function"]) == {"gmm", "hand_tracking"}
    shown = gradbench("show", "--results", str(place), "--family", "notebooks", "--format", "json")
    assert {row["function"] for row in json.loads(shown.stdout)} == {"exp"}


@pytest.mark.parametrize("command", [("show",), ("report", "--no-code"), ("plot", "heatmap")])
def test_a_family_that_nothing_stored_is_of_is_refused(run, command, tmp_path):
    place, _ = run
    more = {"report": ("--to", str(tmp_path)), "plot": ("--to", str(tmp_path / "a.svg"))}
    words = (*command, "--family", "mine", *more.get(command[0], ()))
    done = gradbench(*words, "--results", str(place))
    assert done.returncode == 2
    assert "is of the family 'mine' (families: all, applications, notebooks)" in done.stderr


def test_runs_are_compared_by_family(tmp_path):
    known = {"gmm": APPLICATIONS, "hand_tracking": APPLICATIONS}
    for number in (0, 1):
        stored(tmp_path, MEASURED, number=number, families=known)
    names = [path.name.removesuffix(".jsonl") for path in sorted(tmp_path.glob("runs/*.jsonl"))]
    words = ("compare", *names, "--results", str(tmp_path), "--all", "--format", "json")
    done = gradbench(*words, "--family", "applications")
    functions = {row["case"].split("/")[1] for row in json.loads(done.stdout)}
    assert functions == {"gmm", "hand_tracking"}


def found_in(run):
    shown = judged(run[1])
    return {
        (m.comparison.function, m.comparison.size): m
        for m in multiples(record(row, shown) for row in shown.rows)
    }


def test_the_multiple_of_an_evaluation_is_that_of_their_loop_and_of_the_fastest(run):
    found = found_in(run)
    gmm = found["gmm", "d=2,k=5,n=200"]
    assert gmm.objective == "GMM"
    assert gmm.evaluation == pytest.approx(1e-4, rel=0.02)
    assert gmm.theirs.mode == "backward"
    assert gmm.theirs.multiple.value == pytest.approx(3, rel=0.03)
    # What is written by hand is not automatic.
    assert gmm.best.mode == "grad"
    assert gmm.best.multiple.low <= gmm.best.multiple.value <= gmm.best.multiple.high
    hand = found["hand_tracking", "n=20"]
    assert hand.theirs.mode == "loop_backward"
    assert hand.theirs.multiple.value == pytest.approx(120, rel=0.03)
    assert hand.best.multiple.value == pytest.approx(4, rel=0.03)
    assert found["exp", "documents"].objective == ""


def test_a_loop_that_was_refused_says_so(run):
    hand = found_in(run)["hand_tracking", "n=200"]
    assert (hand.theirs.multiple, hand.theirs.status) == (None, "refused")
    assert hand.best.mode == "jacfwd"
    words = ("show", "--results", str(run[0]), "--multiples", "-f", "hand*")
    lines = gradbench(*words).stdout.splitlines()
    said = {size: next(s for s in lines if f" {size} " in s) for size in ("n=200", "n=2000")}
    # 0.6 s at least, of 600 µs.
    assert re.search(r" over (99\d|10\d\d) .*jacfwd", said["n=200"]), said
    assert re.search(r" refused .*jacfwd", said["n=2000"]), said
    rows = json.loads(gradbench(*words, "--format", "json").stdout)
    assert [row["theirs_multiple"] is None for row in rows] == [False, True, True]
    assert [row["theirs_over"] and round(row["theirs_over"], -2) for row in rows] == [
        *(None, 1000, None)
    ]


def test_a_run_without_gradients_and_jacobians_has_no_multiples(tmp_path):
    stored(tmp_path, {case("vjp", "exp"): {"forward": 1.0, "grad": 2.0}})
    done = gradbench("show", "--results", str(tmp_path), "--multiples")
    assert done.returncode == 2
    assert "no gradient or jacobian" in done.stderr


def test_the_page_has_the_multiples_of_the_objectives(run, monkeypatch):
    # Drawing them takes long, and they are not what is asked for.
    monkeypatch.setattr(content.Report, "figures", [])
    words = ("--format", "html", "--format", "md")
    page = without_data(page_of(run[0], *words))
    markdown = (run[0] / "report" / "report.md").read_text(encoding="utf-8")
    for text in (page, markdown):
        assert "Multiples of the evaluation" in text
        assert "GMM (gmm, float64)" in text
    rows = [line for line in markdown.splitlines() if line.startswith("| HT (hand")]
    assert len(rows) == 3
    assert re.search(r"\| over (99\d|10\d\d)× \|", rows[1]), rows
    assert "| refused |" in rows[2].replace("  ", " ")
    assert "jacobian, exp" not in page


def test_a_multiple_whose_interval_says_nothing_stands_alone(tmp_path):
    stored(tmp_path, MEASURED)
    frame = table(tmp_path)
    frame["to_forward_low"], frame["to_forward_high"] = 0.0, 1e308
    cells = {row[0]: row for rows in tables(frame) for row in rows[1:]}
    assert re.fullmatch(r"~ (3|3\.\d+|2\.9\d*)×", cells["GMM (gmm, float64)"][3])


# ── verified ──────────────────────────────────────────────────────────────────────────────────

MINE = [name for name, f in registry.FUNCTIONS.items() if f.family == APPLICATIONS]


@pytest.mark.parametrize("name", MINE)
def test_the_usual_choice_is_right_for_each_application(name):
    session = Session(memory_limit=4 << 30)
    # The first operator is what the function is for.
    operator = next(iter(registry.FUNCTIONS[name].derivatives))
    session.open(f"{operator}/{name}/documents/float64/cpu/1", 0, [1])
    answer = session.prepare(OPERATORS[operator].first, 0, 0, [0])
    assert answer["status"] == "ok", answer

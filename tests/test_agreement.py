"""Which machines agree on the fastest mode: by the verdicts of each, never by times of two."""

import json

import pandas as pd
import pytest
import schemas
from in_process import gradbench
from made_runs import OURS, jacobian, page_of, stored, without_data

import gradbench as package
from gradbench.analysis import schema

EPYC, XEON = "test, 2 cores, 8 GiB", "Xeon, 2 cores, 8 GiB"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two machines that agree on exp, whatever the times, and differ on tanh; and on sine one whose
    fastest mode is tied. A third one has another torch."""
    place = tmp_path_factory.mktemp("agreement") / "results"

    def run(number, exp, tanh, sine, **given):
        modes = ("loop_grad", "jacrev")
        cases = {"exp": exp, "tanh": tanh, "sine": sine}
        comparisons = {jacobian(name): dict(zip(modes, us)) for name, us in cases.items()}
        stored(place, comparisons, number, **given)

    run(0, (50.0, 10.0), (10.0, 30.0), (10.0, 10.0), torch="2.9.0+cpu")
    run(1, (9.0, 4.0), (30.0, 10.0), (10.0, 30.0), machine={**OURS, "cpu": "Xeon"})
    run(2, (50.0, 10.0), (10.0, 30.0), (10.0, 30.0), torch="2.10.0+cpu")
    run(3, (1.0, 4.0), (10.0, 30.0), (10.0, 30.0), machine={**OURS, "cpu": "Xeon"}, sessions=0)
    return place


def test_machines_agree_or_differ_by_their_own_verdicts(results):
    found = package.machines(results)
    same = found[found["torch"] == "2.9.0+cpu"].astype({"function": str})
    said = dict(same[["function", "agreement"]].drop_duplicates().itertuples(index=False))
    assert said["exp"] == "agree"
    assert said["tanh"] == "differ"
    assert said["sine"] in ("agree", "undecided")
    exp = same[same["function"] == "exp"].set_index("machine")
    assert exp.loc[EPYC, "fastest"] == exp.loc[XEON, "fastest"] == "jacrev"
    assert exp.loc[EPYC, "seconds"] == pytest.approx(10e-6, rel=0.1)
    assert set(found[found["torch"] == "2.10.0+cpu"]["agreement"]) == {""}


def test_its_columns_do_not_depend_on_the_data(results):
    full, empty = package.machines(results), package.machines(results, "20260101-000000-000003")
    assert list(full) == list(empty) == list(schema.MACHINES)
    assert full.dtypes.astype(str).tolist() == empty.dtypes.astype(str).tolist()
    assert not len(empty)


def test_the_command_shows_the_matrix(results):
    done = gradbench("show", "--machines", "--results", results, COLUMNS="100")
    assert done.returncode == 0, done.stderr
    assert f"A: {EPYC}" in done.stdout
    assert f"B: {XEON}" in done.stdout
    lines = [line for line in done.stdout.splitlines() if "tanh" in line and "loop_grad" in line]
    assert any("jacrev" in line and "differ" in line for line in lines)
    said = " ".join(done.stdout.split())
    assert "2 machines measured 3 comparisons with torch 2.9.0+cpu" in said
    assert "(jacobian of tanh differ)" in said
    one = gradbench("show", "--machines", "--function", "exp", "--results", results)
    assert "tanh" not in one.stdout
    none = gradbench("show", "--machines", "--function", "tank", "--results", results)
    assert none.returncode == 2
    assert "did you mean tanh" in none.stderr


def test_programs_get_the_rows(results):
    done = gradbench("show", "--machines", "--results", results, "--format", "json")
    rows = json.loads(done.stdout)
    schemas.require("show --machines", rows)
    assert len(rows) == len(package.machines(results))


def test_one_machine_has_nobody_to_agree_with(results, tmp_path):
    stored(tmp_path, {jacobian(): {"loop_grad": 3.0, "jacrev": 4.0}})
    done = gradbench("show", "--machines", "--results", tmp_path)
    assert "No comparison was measured by two machines." in done.stdout


def test_a_report_says_where_its_machines_agree(results):
    page = without_data(page_of(results))
    assert "differ in 1" in " ".join(page.split())
    assert isinstance(package.machines(results), pd.DataFrame)

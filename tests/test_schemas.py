"""The JSON of every command has the fields that docs/schemas.md says, with their types."""

import json
from pathlib import Path

import click
import pytest
import schemas
from every_command import commands
from in_process import gradbench
from made_runs import PLAIN, stored
from made_tracks import Made
from warm import python

RESULTS = Path(__file__).parents[1] / "results"
NEWEST = {
    kind: sorted((RESULTS / "studies").glob(f"{kind}-*"))[-1].name.split(".")[0]
    for kind in ("aa", "power", "coverage", "peers", "budgets", "experts", "gate")
}
LARGE = ("aa", "power", "coverage", "peers")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    place = tmp_path_factory.mktemp("results")
    stored(place, PLAIN)
    stored(place, PLAIN, number=1)
    return place


@pytest.fixture(scope="module")
def track(tmp_path_factory):
    place = tmp_path_factory.mktemp("track")
    Made({"2.8.0": 1.0, "2.9.0": 1.0, "2.10.0": 1.1}).write(place, 0)
    return place


def answered(*words):
    done = gradbench(*words, "--format", "json")
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def test_every_command_with_a_table_has_json_and_a_section():
    known = schemas.sections()
    for words, command in commands():
        for parameter in command.params:
            if parameter.name == "form":
                assert "json" in parameter.type.choices, words
                name = " ".join(words)
                named = name in known or any(k.startswith(f"{name} ") for k in known)
                assert named or words[0] == "study", f"docs/schemas.md lacks {name}"


def test_what_has_no_json_prints_no_table():
    """A command that begins to print one belongs above."""
    without = {
        " ".join(words)
        for words, command in commands()
        if not any(parameter.name == "form" for parameter in command.params)
    }
    assert without <= {
        *("import", "merge", "report", "plot", "export", "completion", "init"),
        "releases asv",
    }


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("show", ["show"]),
        ("show --summary", ["show", "--summary"]),
        ("show --runs", ["show", "--runs"]),
        ("compare", ["compare", "20260101-000000-000000", "latest"]),
    ],
)
def test_rows_of_runs(results, command, words):
    schemas.require(command, answered(*words, "--results", results))


def test_a_run_ends_with_its_cases_for_programs(tmp_path):
    words = ["run", "-f", "exp", "-o", "vjp", "-m", "grad", "--sessions", "1", "--budget", "0.01"]
    done = gradbench(*words, "--results", tmp_path, "--format", "json")
    schemas.require("run", json.loads(done.stdout))
    assert "Stored in" in done.stderr
    assert gradbench("show", "--results", tmp_path, "--format", "json").stdout == done.stdout


@pytest.mark.parametrize("what", ["functions", "operators", "modes", "cases"])
def test_lists(what):
    schemas.require(f"list {what}", answered("list", what, "-f", "exp"))


def test_the_code_of_modes_is_a_field_on_request():
    rows = answered("list", "modes", "-o", "jacobian", "-m", "jacrev", "--source")
    schemas.require("list modes", rows)
    assert "def jacrev" in rows[0]["source"]


def test_checked_cases():
    schemas.require("verify", answered("verify", "-f", "exp", "-o", "vjp", "-m", "grad", "--all"))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("releases show", ["show"]),
        ("releases show --by", ["show", "--by", "mode"]),
        ("releases compare", ["compare", "2.8.0", "2.10.0"]),
    ],
)
def test_rows_of_releases(track, command, words):
    schemas.require(command, answered("releases", *words, "--results", track))


def test_environments_and_known_releases(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADBENCH_RELEASES", str(tmp_path))
    schemas.require("releases list", answered("releases", "list", "--all"))
    planned = answered("releases", "install", "2.9.0", "--dry-run", "--yes")
    schemas.require("releases install", planned)
    assert [(row["name"], row["state"]) for row in planned] == [("2.9.0", "")]
    word = f"mine={python(tmp_path / 'bin')}"
    made = answered("releases", "install", word)
    schemas.require("releases install", made)
    assert [(row["name"], row["state"]) for row in made] == [("mine", "pointed at")]
    gone = answered("releases", "remove", "mine")
    schemas.require("releases remove", gone)
    assert gone == [{"name": "mine", "gib": 0.0}]
    assert answered("releases", "remove", "--all") == []


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] * (k in LARGE)) for k in NEWEST]
)
def test_rows_of_studies(kind):
    rows = answered("study", "report", NEWEST[kind], "--by-case", "--results", RESULTS)
    schemas.require("study", rows)
    for row in rows:
        assert row["study"] == NEWEST[kind]


def test_several_studies_are_one_document():
    names = [NEWEST["budgets"], NEWEST["experts"]]
    rows = answered("study", "report", *names, "--results", RESULTS)
    assert {row["study"] for row in rows} == set(names)
    done = gradbench("study", "report", *names, "--results", RESULTS, "--format", "csv")
    assert len(done.stdout.splitlines()) == len(rows) + 1


def test_a_group_has_one_row_for_each_step(track):
    rows = answered("releases", "show", "--by", "function", "--results", track)
    keys = [(r["group"], r["before"], r["after"], r["first_to_last"]) for r in rows]
    assert len(set(keys)) == len(keys)
    (exp,) = (r for r in rows if r["group"] == "exp" and r["before"] == "2.9.0")
    assert (exp["after"], exp["slower"], exp["cases"]) == ("2.10.0", 2, 2)
    assert exp["ratio_median"] == pytest.approx(1.1, abs=0.01)
    assert {r["after"] for r in rows if r["first_to_last"]} == {"2.10.0"}


# ── standard output ───────────────────────────────────────────────────────────────────────────


def test_files_can_go_to_standard_output(results):
    place = ("--results", results)
    table = gradbench("export", "-t", "-", "--what", "verdicts", *place)
    assert table.stdout.startswith("run,operator,function")
    assert "rows in standard output" in table.stderr
    rows = json.loads(gradbench("export", "-t", "-", "--format", "json", *place).stdout)
    assert rows[0]["operator"] == "jacobian"
    figure = gradbench("plot", "dots", "-t", "-", *place)
    assert figure.stdout.startswith("<?xml")
    assert figure.stdout.rstrip().endswith("</svg>")


@pytest.mark.slow
def test_a_page_can_go_to_standard_output(results):
    page = gradbench("report", "-t", "-", "--no-code", "--results", results)
    assert page.stdout.startswith("<!DOCTYPE html>")
    assert not (results / "report").exists()


def test_a_format_and_a_suffix_that_disagree_are_refused(results, tmp_path):
    target = tmp_path / "x.svg"
    done = gradbench("plot", "dots", "-t", target, "--format", "png", "--results", results)
    assert done.returncode == 2
    assert "another format" in done.stderr
    done = gradbench("report", "-t", "-", "--format", "md", "--results", results)
    assert done.returncode == 2
    assert "one HTML file" in done.stderr


def test_a_terminal_gets_no_binary_file(results, monkeypatch):
    monkeypatch.setattr("gradbench.cli.output.sys.stdout.isatty", lambda: True, raising=False)
    from gradbench.cli.output import target_file

    with pytest.raises(click.UsageError, match="pipe it"), target_file(Path("-"), ".png"):
        pass

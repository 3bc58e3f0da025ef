"""Defaults of one's own: variables and `[tool.gradbench]`, their precedence and their mistakes."""

import json
import os

import click
import pytest
from every_command import commands
from in_process import gradbench
from made_runs import PLAIN, stored

from gradbench.cli import settings
from gradbench.core import project


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project with a run in `results`, and a folder in it from which commands are called."""
    stored(tmp_path / "results", PLAIN)
    (tmp_path / "src").mkdir()
    monkeypatch.chdir(tmp_path / "src")
    for name in [name for name in os.environ if name.startswith("GRADBENCH_")]:
        monkeypatch.delenv(name)
    return tmp_path


def write(place, text):
    (place / "pyproject.toml").write_text(f'[project]\nname = "x"\n{text}', encoding="utf-8")


def test_the_nearest_file_with_the_table_sets_defaults_and_paths_are_relative_to_it(place):
    write(place, '[tool.gradbench]\nresults = "results"\nformat = "json"\n')
    (place / "src" / "pyproject.toml").write_text('[tool.other]\nname = "gradbench"\n')
    assert json.loads(gradbench("show").stdout)[0]["operator"] == "jacobian"


def test_the_command_line_comes_before_variables_those_before_the_file(place):
    write(place, '[tool.gradbench]\nresults = "results"\nformat = "csv"\n')
    assert gradbench("show").stdout.startswith("run,")
    assert gradbench("show", GRADBENCH_FORMAT="md").stdout.startswith("| run")
    assert gradbench("show", GRADBENCH_FORMAT="md", GRADBENCH_SHOW_FORMAT="json").stdout[0] == "["
    assert gradbench("show", "--format", "json", GRADBENCH_FORMAT="md").stdout[0] == "["


def test_what_is_set_for_one_command_comes_before_what_is_set_for_all(place):
    write(
        place,
        '[tool.gradbench]\nresults = "results"\nformat = "csv"\n'
        '[tool.gradbench.show]\nformat = "json"\nsummary = true\nfloor = 0.2\n',
    )
    assert "average" in json.loads(gradbench("show").stdout)[0]
    runs = gradbench("show", "--runs", "--format", "csv")
    assert runs.stdout.startswith("run,started")


def test_a_setting_for_measuring_hides_no_stored_case(place):
    write(place, '[tool.gradbench]\nresults = "results"\ndevice = "cuda"\nformat = "json"\n')
    assert json.loads(gradbench("show").stdout)
    assert gradbench("show", GRADBENCH_SHOW_DEVICE="cuda").returncode == 2


def test_quiet_and_verbose_are_settings_too(place):
    write(place, '[tool.gradbench]\nresults = "results"\nverbose = true\n')
    said = gradbench("show").stderr
    assert f"{place}/pyproject.toml [tool.gradbench] sets results, verbose" in said
    assert gradbench("show", "-q").stderr == ""
    assert gradbench("show", GRADBENCH_QUIET="1").stderr == ""


def test_verbose_names_the_variables_that_count(place):
    said = gradbench("show", "-v", GRADBENCH_RESULTS=place / "results", GRADBENCH_DEVICE="cuda")
    assert "environment variables: GRADBENCH_RESULTS\n" in said.stderr


MISTAKES = [
    ("[tool.gradbench]\nresult = 'x'", "tool.gradbench.result: unknown key; did you mean results?"),
    ("[tool.gradbench]\nbudget = 1", "goes into [tool.gradbench.COMMAND]"),
    ("[tool.gradbench.shwo]\nall = true", "tool.gradbench.shwo: unknown key; did you mean show?"),
    ("[tool.gradbench.releases.lst]\nall = true", "releases.lst: unknown key; did you mean list?"),
    ("[tool.gradbench.show]\nal = true", "tool.gradbench.show.al: 'gradbench show' has no such"),
    ("[tool.gradbench.show]\nresume = 'latest'", "tool.gradbench.show.resume"),
    ("[tool.gradbench]\nshow = 3", "tool.gradbench.show: should be a table"),
    ("[tool]\ngradbench = 3", "tool.gradbench: should be a table"),
    ("[tool.gradbench]\nthreshold = '0.1'", "tool.gradbench.threshold: should be a number, not"),
    ("[tool.gradbench]\nthreshold = true", "should be a number, not true"),
    ("[tool.gradbench]\nthreshold = [0.1]", "takes one value here, not a list"),
    ("[tool.gradbench]\nthreshold = 2", "threshold in {}/pyproject.toml [tool.gradbench]: 2.0 is"),
    ("[tool.gradbench]\nresults = 3", "tool.gradbench.results: should be a string, not 3"),
    ("[tool.gradbench]\nresults = 2026-01-01", "should be a string, not a date"),
    ("[tool.gradbench]\nformat = 'jsn'", "did you mean json?"),
    ("[tool.gradbench.show]\nformat = 'jsn'", "pyproject.toml [tool.gradbench.show]: 'jsn' is"),
    ("[tool.gradbench.show]\nall = 'yes'", "tool.gradbench.show.all: should be true or false"),
    ("[tool.gradbench]\nresults = x", "not valid TOML"),
]


@pytest.mark.parametrize(("text", "says"), MISTAKES, ids=[says for _, says in MISTAKES])
def test_a_mistake_is_one_line_that_names_the_file_and_the_key(place, text, says):
    write(place, text)
    done = gradbench("show")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert says.format(place) in done.stderr
    assert str(place / "pyproject.toml") in done.stderr
    # Help is there, whatever the file has.
    assert gradbench("show", "--help").returncode == 0


def test_a_mistake_in_a_variable_is_named(place):
    for name in ("GRADBENCH_THRESHOLD", "GRADBENCH_SHOW_THRESHOLD"):
        done = gradbench("show", **{name: "much"})
        assert done.returncode == 2
        assert f"Invalid value for {name}: 'much' is not a number" in done.stderr


@pytest.mark.parametrize("kind", ["folder", "pipe", "binary", "broken", "other"])
def test_a_file_that_has_nothing_for_gradbench_is_passed_over(place, kind):
    path = place / "src" / "pyproject.toml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        content = {"binary": b"\xff\x00", "broken": b"gradbench = [", "other": b"[tool.x]\n"}
        path.write_bytes(content[kind])
    write(place, '[tool.gradbench]\nresults = "results"\n')
    assert project.find().path == place / "pyproject.toml"


def test_the_file_is_read_from_where_the_command_is_called(place):
    write(place, '[tool.gradbench]\nfrom = "bench.py"\nmemory_limit = 2\nthreads = [1, 4]\n')
    found = project.find()
    every = dict(commands())
    chosen = settings.defaults(found, ("run",), every["run",], {"run": {}})
    assert chosen == {
        "files": [str(place / "bench.py")],
        "memory_limit": 2,
        "threads": [1, 4],
    }


@pytest.mark.parametrize("words", [words for words, _ in commands()], ids=" ".join)
def test_every_option_has_a_variable_of_its_command_and_quiet_and_verbose(words):
    command = dict(commands())[words]
    names = {}
    for parameter in command.params:
        key = settings.key_of(parameter)
        if isinstance(parameter, click.Option) and key:
            own = "GRADBENCH_" + "_".join([*words, key]).replace("-", "_").upper()
            assert parameter.envvar[0] == own
            assert names.setdefault(own, parameter) is parameter
    assert {"quiet", "verbose"} <= {parameter.name for parameter in command.params}


def test_the_page_names_every_shared_setting():
    from test_docs import ROOT

    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    for key in settings.SHARED:
        assert f"| `{key}` |" in page, key


def test_the_doctor_looks_at_the_settings_of_every_command(place):
    from gradbench.cli import cli, groups

    def said(text):
        write(place, text)
        return list(settings.mistakes(project.find(), groups.every(cli), groups.names()))

    assert said("[tool.gradbench]\nthreads = 2\n[tool.gradbench.run]\nsessions = 3\n") == []
    (one,) = said("[tool.gradbench.releases.track]\nsesions = 3\n")
    assert "tool.gradbench.releases.track.sesions" in one
    assert "did you mean sessions?" in one
    for_run, *_ = said('[tool.gradbench]\nprofile = "gate"\n')
    assert "for 'run': 'gate' is not one of quick, standard" in for_run

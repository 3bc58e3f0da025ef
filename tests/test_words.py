"""How much commands say, with `-q` and `-v`, and what a mistyped name is answered."""

import logging

import pytest
from in_process import gradbench
from made_runs import PLAIN, stored

from gradbench.runner import showing
from gradbench.runner.progress import Lines, Progress
from gradbench.runner.wire import WorkerOptions, ask


@pytest.fixture
def results(tmp_path):
    stored(tmp_path, PLAIN)
    return tmp_path


def test_quiet_has_the_results_and_no_advice(results):
    usual = gradbench("releases", "list", GRADBENCH_RELEASES=results / "none")
    quiet = gradbench("releases", "list", "-q", GRADBENCH_RELEASES=results / "none")
    assert "shows every known release" in usual.stdout
    assert usual.stdout.startswith(quiet.stdout)
    assert "0 environments" in quiet.stdout
    shown = [gradbench("show", *words, "--results", results).stdout for words in ((), ("-q",))]
    assert shown[0] == shown[1]


def test_quiet_keeps_warnings_and_errors(results):
    (results / "runs" / "zz.jsonl").write_text("{}\n")
    assert "zz.jsonl: not a run log" in gradbench("show", "-q", "--results", results).stderr
    assert "no run named" in gradbench("show", "nothing", "-q", "--results", results).stderr


def test_a_narrow_table_says_what_it_lacks_unless_quiet(results):
    words = ("show", "--runs", "--results", results)
    assert "No room" in gradbench(*words, COLUMNS="40").stdout
    assert "No room" not in gradbench(*words, "-q", COLUMNS="40").stdout


def test_quiet_and_verbose_exclude_each_other(results):
    done = gradbench("show", "-q", "-v", "--results", results)
    assert done.returncode == 2
    assert "remove one" in done.stderr


def test_verbose_says_what_is_run_and_stops_with_the_command(results):
    done = gradbench("list", "cases", "-f", "exp", "-o", "vjp", "-m", "grad", "-v")
    first, second, *_ = done.stderr.splitlines()
    assert first.startswith("gradbench ")
    assert "-m gradbench.worker (torch " in second
    assert not logging.getLogger("gradbench").handlers
    assert "worker" not in gradbench("list", "-f", "exp").stderr


def test_the_details_are_a_logger_of_the_python_functions(caplog):
    with caplog.at_level(logging.DEBUG, "gradbench"):
        ask(WorkerOptions(), "discover", 60)
    assert any("gradbench.worker" in record.getMessage() for record in caplog.records)


def test_lines_of_progress_end_with_one_that_says_that_all_is_done():
    said = []
    lines = Lines("measuring", said.append)
    lines.FIRST = lines.EVERY = 0.0
    lines(Progress(1, 4, "vjp/exp", 1.0, unit="sessions"))
    lines.EVERY = 1e9
    for done in (2, 3, 4):
        lines(Progress(done, 4, "", float(done), unit="sessions"))
    lines.end()
    assert said == [
        "measuring: 1 of 4 sessions, 1 s so far, about 3 s left (vjp/exp)",
        "measuring: 4 of 4 sessions, 4 s so far",
    ]


def test_a_command_that_was_fast_or_stopped_has_no_last_line():
    said = []
    lines = Lines("measuring", said.append)
    lines(Progress(4, 4, "", 0.1))
    lines.end()
    assert said == []
    lines._begun = True
    lines(Progress(3, 4, "", 0.1))
    lines.end()
    assert said == []


@pytest.mark.parametrize("progress", [True, False, None])
def test_progress_without_a_terminal_is_whole_lines(capsys, progress, monkeypatch):
    monkeypatch.setattr(Lines, "EVERY", 0.0)
    with showing.showing("advising", progress) as report:
        report(Progress(1, 2, "a\x1b[2Jb", 1.0, unit="s"))
        report(Progress(2, 2, "", 2.0, unit="s"))
    err = capsys.readouterr().err
    assert "\r" not in err
    assert "\x1b" not in err
    assert err.endswith("\n") == bool(progress)
    assert len(err.splitlines()) == (2 if progress else 0)


def test_a_notebook_gets_a_line_that_is_written_over(monkeypatch):
    """As in Jupyter, with no widgets installed."""
    import sys
    import types

    updates = []

    class Shell:
        pass

    place = types.SimpleNamespace(update=lambda data, raw: updates.append(data["text/plain"]))

    def display(data, raw, display_id):
        updates.append(data["text/plain"])
        return place

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = Shell
    shown = types.ModuleType("IPython.display")
    shown.display = display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    with showing.showing("measuring", None) as report:
        report(Progress(3, 6, "vjp", 1.0, unit="sessions"))
    assert updates[0] == "measuring: starting"
    assert "3 of 6 sessions, 1 s, about 1 s left vjp" in updates[1]
    assert updates[-1] == ""


NAMES = [
    (["show", "--formt", "json"], "no such option '--formt'; did you mean --format?"),
    (["run", "--sesions", "3"], "did you mean --sessions?"),
    (["show", "--flor", "0.1"], "no such option '--flor'"),
    (["--results", "x", "run"], "options follow the command: gradbench COMMAND"),
    (["study", "ab"], "there are aa, "),
    (["show", "lastest"], "did you mean latest?"),
    (["show", "20260101-000000-00001"], "did you mean 20260101-000000-000000"),
    (["show", "--comparison", "jacobian/epx"], "did you mean jacobian/exp?"),
    (["show", "-o", "hessian"], "has an operator 'hessian'"),
    (["plot", "atlas", "-t", "x.sgv"], "did you mean .svg?"),
    (["plot", "heatmp", "-t", "x.svg"], "Invalid value for 'KIND'"),
    (["completion", "bsh"], "Invalid value for 'SHELL'"),
    (["study", "report", "lates"], "their names begin with aa-"),
]


@pytest.mark.parametrize(("words", "says"), NAMES, ids=[" ".join(words) for words, _ in NAMES])
def test_a_mistyped_name_gets_the_nearest(results, words, says):
    done = gradbench(*words, GRADBENCH_RESULTS=results)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1

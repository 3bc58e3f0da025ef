"""Any arguments at all: a command ends by itself or with one line, never with a traceback.

Nothing is measured here: workers and other processes cannot be started, and figures are not drawn.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import click
import cpuinfo
import pytest
from click.testing import CliRunner
from every_command import commands
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gradbench.cli import cli, parameters
from gradbench.core.cases import Comparison, Entry
from gradbench.runner.wire import Worker, WorkerError
from gradbench.store.runs import (
    KIND,
    Entrant,
    RunEnded,
    RunStarted,
    SessionMeasured,
    WorkerStarted,
    folder,
)
from gradbench.studies import asv_steps

VJP = Comparison.parse("vjp/exp/documents/float32/cpu/1")
RUN = "20261101-120000-abcdef"


EVERY = list(commands())

NASTY = [
    "", " ", "-", "--", "-1", "0", "1", "2", "nan", "-inf", "1e400", "1e-320", "9" * 400, "½", "é",
    "\x1b[2J", "a\0b", "\udce9", "..", "../..", ".", "x" * 300, "y" * 5000, "a/b", "*", "[", "[!",
    "n=x", "n=1,n=2", "n=4", "m=3,n=4", "=", "a=", "=b", "a=2.9.0", "latest", RUN, RUN[:9], VJP,
    "json", "csv", "md", "table", "exp", "vjp", "grad", "documents", "float32", "cpu", "cuda",
    "cuda:²", "cpu+cold", "2.9.0", "v2.9.0", "2.9.9", "99.0", "mine=/nowhere/python", "torch",
    "out.csv", "out.json", "out.svg", "out.PNG", "there.csv", "folder.csv", "pipe.csv", "dead.csv",
    "there.csv/x.csv", "none/x.csv", "results", "folder", "file.py", "pipe.py", "there.csv", "page",
    "x=randn(3)", "x=__import__('os')", "x=load(/dev/null)", "file.py:f", "os:getcwd", ":", "a:b:c",
    "2.9.0=2026-01-01", "2.9.0=x", "/proc/nowhere/x", "/dev/full", "🙂", "=1+1", "`id`", "$(id)",
]  # fmt: skip

VALUES = st.one_of(st.sampled_from(NASTY), st.text(max_size=6))


@st.composite
def lines(draw):
    """A command with options of its own and values that fit them, or do not."""
    words, command = draw(st.sampled_from(EVERY))
    given_words = list(words)
    for parameter in draw(st.lists(st.sampled_from(command.params), max_size=5)):
        kind = parameter.type
        fitting = st.sampled_from(list(kind.choices)) if isinstance(kind, click.Choice) else VALUES
        value = draw(st.one_of(fitting, VALUES))
        if isinstance(parameter, click.Argument):
            given_words.append(value)
        elif parameter.is_flag:
            given_words.append(draw(st.sampled_from(parameter.opts)))
        else:
            given_words += [draw(st.sampled_from(parameter.opts)), value]
    return given_words + draw(st.lists(VALUES, max_size=1))


def stored(results: Path) -> None:
    """A run of one comparison, one that was stopped before anything was measured, and no log."""
    plan = [
        Entry(
            VJP,
            (
                "backward",
                "grad",
            ),
        )
    ]
    for name, measured in ((RUN, True), ("20261102-120000-000000", False)):
        header = RunStarted(1, name, "2026-11-01T12:00:00Z", {"sessions": 1}, {"cpu": "x"}, plan)
        with KIND.create(folder(results), header) as log:
            if not measured:
                continue
            log.append(WorkerStarted(1, {"torch": "2.9.0"}, "2026-11-01T12:00:00Z"))
            entrants = [
                Entrant(mode, "ok", number=10, samples=[[1000 + place], [1010 + place]])
                for place, mode in enumerate(("backward", "grad", "backward"))
            ]
            log.append(
                SessionMeasured(
                    VJP, 0, 1, "backward", entrants, [[0, 1, 2]] * 2, "rounds", 1.0, 2.0, 0.1
                )
            )
            log.append(RunEnded("2026-11-01T12:01:00Z", True, 3.0, 1.0))
    (results / "runs" / "x.jsonl").write_bytes(b"\x00\xff{")


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A folder of its own, three levels below the one that is looked at afterwards."""
    outside = tmp_path_factory.mktemp("command-line")
    inside = outside / "a" / "b" / "c"

    def no_worker(self, *arguments, **fields):
        raise WorkerError("no worker is started in this test")

    def no_process(*arguments, **fields):
        raise OSError(2, "no process is started in this test")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "__init__", no_worker)
        patch.setattr(subprocess, "Popen", no_process)
        patch.setattr(cpuinfo, "get_cpu_info", dict)
        patch.setattr(asv_steps, "study", lambda *arguments: iter(()))
        patch.setenv("GRADBENCH_RELEASES", str(outside / "environments"))
        inside.mkdir(parents=True)
        patch.chdir(inside)
        yield inside


def prepared(inside: Path) -> None:
    """The folder as it is before a command: files of the user's, and a few stored runs."""
    os.chdir(inside.parent)
    shutil.rmtree(inside)
    inside.mkdir()
    os.chdir(inside)
    for name in ("there.csv", "file.py"):
        (inside / name).write_text("mine")
    for name in ("folder", "folder.csv"):
        (inside / name).mkdir()
    for name in ("pipe.csv", "pipe.py"):
        os.mkfifo(inside / name)
    (inside / "dead.csv").symlink_to("nowhere")
    stored(inside / "results")


@given(lines())
@example(["show", "--size", "n=x"])
@example(["export", "-t", "x" * 300 + ".csv"])
@example(["export", "-t", "there.csv/x.csv"])
@example(["show", "--results", ""])
@example(["show", "20261102", "--format", "json"])
@example(["export", "20261102", "-t", "out.csv"])
@example(["show", "x" * 300 + ".jsonl"])
@example(["compare", RUN, "20261102"])
@example(["plot", "dots", "20261102", "-t", "out.svg"])
@example(["report", "20261102", "--no-code"])
@example(["import", "there.csv"])
@example(["releases", "install", "2.9.0", "--installer", "pip", "--python", "/nowhere"])
@settings(deadline=None, suppress_health_check=list(HealthCheck))
def test_no_arguments_give_a_traceback(place, words):
    prepared(place)
    answer = CliRunner().invoke(cli, words, standalone_mode=False)
    error = answer.exception
    if not isinstance(error, (click.ClickException, click.exceptions.Exit, type(None))):
        raise AssertionError(words) from error
    if isinstance(error, click.ClickException):
        assert error.format_message().strip()
    if words[0] not in ("export", "plot"):
        assert (place / "there.csv").read_text() == "mine"
    assert (place / "file.py").read_text() == "mine"
    assert (place / "dead.csv").is_symlink()
    assert os.path.exists(place / "pipe.csv")
    # Whatever was made is below this test's folder, and no draft is left.
    assert not list(place.rglob(".draft-*"))


def test_every_kind_of_value_is_tried():
    """What the test above draws from: a parameter of a new kind needs values of its own."""
    for words, command in EVERY:
        for parameter in command.params:
            if not getattr(parameter, "is_flag", False):
                assert isinstance(
                    parameter.type,
                    (
                        *(parameters.Real, parameters.Whole, parameters.Text, parameters.Choice),
                        parameters.Location,
                    ),
                ), words

"""What the shell completes: every kind of name, without importing torch, and fast."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from every_command import commands
from made_runs import PLAIN, stored

from gradbench.cli import cli, completing
from gradbench.problems import registry

RESULTS = Path(__file__).parents[1] / "results"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("GRADBENCH_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("GRADBENCH_RELEASES", str(tmp_path / "environments"))


def completed(*words):
    *before, begun = words
    shell = ShellComplete(cli, {}, "gradbench", "_GRADBENCH_COMPLETE")
    return [item.value for item in shell.get_completions(list(before), begun)]


def kept(tmp_path):
    """Has the names of a worker kept, as any command that starts one does."""
    from gradbench.cli import options
    from gradbench.runner.wire import WorkerOptions

    options.discovered(WorkerOptions())


def test_names_are_known_before_any_worker_was_started():
    assert "softmax" in completed("run", "-f", "so")
    assert completed("run", "-o", "hess") == ["hessian", "hessian_diagonal"]
    registry.load_builtin()
    assert set(completing._declared()) <= set(registry.FUNCTIONS)


def test_a_worker_s_names_are_kept(tmp_path):
    kept(tmp_path)
    assert set(completed("run", "-f", "")) >= set(registry.FUNCTIONS)
    assert "jacrev" in completed("verify", "-m", "jac")
    assert "n=64" in completed("run", "--size", "n=")
    assert "grad" in completed("run", "--baseline", "gr")
    assert completed("explain", "vjp/ex") == ["vjp/exp/"]
    assert "vjp/exp/grad" in completed("explain", "vjp/exp/gr")
    assert "vjp/exp/grad" in completed("study", "aa", "-c", "vjp/exp/gr")
    assert "vjp/" in completed("releases", "bisect", "vj")
    (entry,) = (tmp_path / "cache" / "gradbench" / "verdicts").glob("*")
    entry.write_bytes(b"damaged")
    assert "softmax" in completed("run", "-f", "so")


def test_stored_names(tmp_path):
    stored(tmp_path / "results", PLAIN)
    (name,) = (path.stem for path in (tmp_path / "results" / "runs").glob("*.jsonl"))
    for words in (["show"], ["compare"], ["compare", name], ["export"], ["report"]):
        assert completed(*words, "2026") == [name], words
    assert completed("run", "--resume", "la") == ["latest"]
    assert completed("show", "-m", "jac") == ["jacfwd", "jacrev"]
    assert completed("show", "-f", "") == ["exp"]
    assert completed("show", "--device", "") == ["cpu"]
    assert completed("show", "--comparison", "jac") == ["jacobian/exp/documents/float32/cpu/1"]
    assert completed("plot", "dots", "2026") == [name]


def test_tracks_studies_and_releases(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADBENCH_RESULTS", str(RESULTS))
    assert completed("plot", "power", "")[0].startswith("power-")
    assert all(name.startswith("aa-") for name in completed("study", "report", "aa"))
    assert all(name.startswith("gate-") for name in completed("study", "gate", "--resume", "g"))
    (track, *_) = completed("releases", "show", "--track", "2")
    assert completed("plot", "releases", "2")[0] == track
    assert "2.10.0" in completed("releases", "compare", "2.1")
    assert "2.9.1" in completed("releases", "install", "2.9")
    assert completed("releases", "remove", "2") == []


def test_words_of_a_choice_and_commands():
    assert completed("st") == ["study"]
    assert completed("show", "--format", "j") == ["json"]
    assert completed("run", "--prof") == ["--profile"]
    assert completed("list", "mo") == ["modes"]
    assert completed("plot", "heat") == ["heatmap"]


def test_the_results_folder_of_the_project_is_looked_at(tmp_path, monkeypatch):
    stored(tmp_path / "mine", PLAIN)
    monkeypatch.delenv("GRADBENCH_RESULTS")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.gradbench]\nresults = "mine"\n')
    assert len(completed("show", "2026")) == 1
    (tmp_path / "pyproject.toml").write_text("[tool.gradbench]\nresult = 3\n")
    assert completed("show", "2026") == []


def test_what_is_damaged_completes_nothing(tmp_path):
    folder = tmp_path / "results" / "runs"
    folder.mkdir(parents=True)
    (folder / "x.jsonl").write_bytes(b"\x00{")
    assert completed("show", "-f", "") == []
    (folder / "a\x1b[2J;rm.jsonl").write_text("{}")
    assert all("\x1b" not in name for name in completed("show", ""))


def test_every_argument_that_names_something_stored_completes():
    """A new argument or option of a known kind is completed too."""
    wanted = {
        *("RUN", "OLD", "NEW", "CASE", "TRACK", "STUDY", "RELEASE"),
        *("run", "old", "new", "runs", "case"),
    }
    for words, command in commands():
        for parameter in command.params:
            label = (parameter.metavar or parameter.name or "").strip("[].")
            if label in wanted or (isinstance(parameter, click.Argument) and "STUDY" in label):
                assert parameter._custom_shell_complete is not None, (words, label)


def test_neither_torch_nor_pandas_is_imported_to_complete():
    code = (
        "import sys\n"
        "from click.shell_completion import ShellComplete\n"
        "from gradbench.cli import cli\n"
        "shell = ShellComplete(cli, {}, 'gradbench', '_GRADBENCH_COMPLETE')\n"
        "for words in (['run', '-f'], ['show', '-m'], ['explain'], ['releases', 'compare'],\n"
        "              ['study', 'report'], ['plot', 'dots'], ['releases', 'install']):\n"
        "    shell.get_completions(words, '')\n"
        "import json\n"
        "print(json.dumps(sorted({'torch', 'pandas', 'matplotlib'} & set(sys.modules))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"GRADBENCH_RESULTS": str(RESULTS)},
        check=True,
    )
    assert json.loads(done.stdout) == []

"""Functions of the user's own in runs, tracks, searches and pytest: no derivative by hand."""

import json
import linecache
import subprocess
import sys
from pathlib import Path

import click
import msgspec
import pytest
import warm
from every_command import commands, lacking
from in_process import gradbench

from gradbench.analysis.tracks import History
from gradbench.cli import cli
from gradbench.core import own
from gradbench.core.cases import Comparison, fits
from gradbench.releases import environments
from gradbench.releases.environments import install, parse
from gradbench.releases.installing import Installer
from gradbench.runner import profiling
from gradbench.store import runs, tracks
from gradbench.worker import identity, loading
from gradbench.worker.subject import Subject

ROOT = Path(__file__).parent.parent

MODEL = '''
"""A script that knows nothing of gradbench."""
import os
import time

import torch

if "TEST_OLD" in os.environ:
    from torch import something_that_only_newer_releases_have

STEPS = 2
PACE = float(os.environ.get("TEST_PACE", "0"))


def step(h, w):
    # A comment.
    return torch.tanh(h @ w)


def loss(x, w):
    """The loss."""
    for _ in range(STEPS):
        x = step(x, w)
    until = time.thread_time() + PACE * 1e-4
    while PACE and time.thread_time() < until:
        pass
    return (x**2).mean()


def unrelated(x):
    return x


def inputs():
    return {"x": torch.randn(2, 3), "w": torch.randn(3, 3)}
'''


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A folder with a script, in which commands run."""
    monkeypatch.setenv("GRADBENCH_RELEASES", str(tmp_path / "environments"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def command(*words):
    return cli.main([str(word) for word in words], standalone_mode=False)


def build(folder, name, **variables):
    """An environment of this Python with variables of its own."""
    install(parse(f"{name}={warm.python(folder / f'python-{name}', **variables)}"), Installer())


def recorded(folder, *names):
    """The same, not asked who they are: for what is refused before anything is measured."""
    for name in names:
        path = str(warm.python(folder / f"python-{name}"))
        made = environments.Environment(1, name, path, path, {"torch": "2.13.0"}, "", 0)
        (environments.home() / name).mkdir(parents=True)
        record = environments.home() / name / environments.RECORD
        record.write_bytes(msgspec.json.encode(made))


# ── names ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("model:loss", "model:loss"),
        ("pkg.model:Net.forward", "pkg.model:Net.forward"),
        ("a/b/model.py:loss", "model:loss"),
        ("model.py:loss", "model:loss"),
    ],
)
def test_a_function_is_named_by_module_and_function(text, label):
    assert own.is_target(text)
    assert own.label(text) == label


@pytest.mark.parametrize("text", ["exp", "batch_*", "*:loss", "model:", ":f", "m:f@1a2b3c4d"])
def test_a_glob_or_a_stored_name_names_no_function_to_look_at(text):
    assert not own.is_target(text)


def test_a_stored_function_is_found_with_its_version_and_without():
    name = "model:loss@1a2b3c4d"
    assert all(fits(name, (glob,)) for glob in (name, "model:loss", "model:*", "*@1a2b*"))
    assert not fits(name, ("model:los",))
    assert not fits("model:other", ("model:loss",))
    assert Comparison.parse(f"gradient/{name}/documents/float32/cpu/1").function == name


def digest(path, target="loss", inputs=(("x", "randn(2, 3)"), ("w", "randn(3,3)")), maker=""):
    """The digest of a function in a file that is loaded anew."""
    spec = {
        "target": f"{path}:{target}",
        "inputs": list(inputs),
        "wrt": [],
        "dtype": "float32",
        "seed": 0,
        "passed": "",
        "maker": maker,
        "also": [],
    }
    loading._files.clear()
    linecache.clearcache()
    sys.modules.pop("model", None)
    return identity.identity(Subject(spec), spec)[0]


def test_only_what_changes_the_function_makes_it_another_one(model):
    before = digest(model)
    assert digest(model) == before
    assert digest(model, inputs=(("x", "randn(2,3)"), ("w", "randn( 3, 3 )"))) == before
    for old, new, same in [
        ("# A comment.", "# Another comment.", True),
        ('"""The loss."""', '"""What is to be small."""', True),
        ("def unrelated(x):\n    return x", "def unrelated(x):\n    return 2 * x", True),
        ("torch.tanh(h @ w)", "torch.sigmoid(h @ w)", False),
        ("STEPS = 2", "STEPS = 3", False),
        ("(x**2)", "(x**4)", False),
    ]:
        assert old in MODEL
        model.write_text(MODEL.replace(old, new))
        assert (digest(model) == before) == same, new
    model.write_text(MODEL)
    assert digest(model, inputs=(("x", "randn(2,3)"), ("w", "randn(3,4)"))) != before
    by_maker = digest(model, inputs=(), maker=f"{model}:inputs")
    model.write_text(MODEL.replace('randn(2, 3), "w"', 'rand(2, 3), "w"'))
    assert digest(model, inputs=(), maker=f"{model}:inputs") != by_maker


# ── runs ──────────────────────────────────────────────────────────────────────────────────────


def test_a_run_measures_a_plain_function_and_says_when_it_has_changed(model, tmp_path, capsys):
    words = ["run", "--function", "model.py:loss", "--inputs", "model.py:inputs", "-m", "backward"]
    words += ["--sessions", "1", "--budget", "0.05"]
    assert command(*words) == 0
    said = capsys.readouterr()
    assert "model:loss: reverse mode agrees with float64 finite differences" in said.err
    first = runs.find(Path("results"), "latest")
    (entry,) = first.started.plan
    name = entry.comparison.function
    assert own.unversioned(name) == "model:loss"
    assert own.is_own(name)
    assert first.sessions[0].entrants[-1].status == "ok"
    # What was looked at is on record, and an edited file is not executed by a resumed run.
    (suite,) = first.started.files
    assert "finite differences" in Path(suite).read_text()
    assert str(model) in first.started.digests
    model.write_text(MODEL.replace("STEPS = 2", "STEPS = 3"))
    assert command(*words) == 0
    assert f"have changed since {first.name} ({name}, now model:loss@" in capsys.readouterr().err
    (second,) = runs.find(Path("results"), "latest").started.plan
    assert second.comparison.function != name
    assert command("show", "-f", "model:loss") == 0
    assert second.comparison.function in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-f", "model.py:los", "--input", "x=randn(2,3)"], "has no 'los'; did you mean"),
        (["-f", "none.py:loss", "--input", "x=randn(2,3)"], "there is no file none.py"),
        (["-f", "model.py:loss"], "give the inputs"),
        (["-f", "model.py:loss", "--input", "y=randn(2)"], "no argument 'y'"),
        (["-f", "model.py:loss", "-f", "exp", "--input", "x=1"], "measured alone: remove"),
        (["-f", "model.py:loss", "-f", "model.py:loss", "--input", "x=1"], "given twice"),
        (["-f", "exp", "--input", "x=1"], "is for a function of your own"),
        (["-f", "exp", "--name", "mine"], "is for a function of your own"),
        (["-f", "model.py:loss", "--input", "x=1", "--size", "n=3"], "n=3 is for the catalogue"),
        (["-f", "model.py:loss", "--input", "x=1", "--name", "a/b"], "no '/'"),
        (
            ["-f", "model.py:loss", "--inputs", "model.py:inputs", "-o", "hesian"],
            "did you mean hessian?",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_function_is_one_line_before_anything_is_measured(model, words, says):
    with pytest.raises(click.UsageError) as raised:
        command("run", *words)
    said = raised.value.message
    assert says in said
    assert "\n" not in said
    assert not lacking(("run", *words), said)
    assert not Path("results/runs").exists()


OWN = [
    path for path, command in commands() if {"maker", "label"} <= {p.name for p in command.params}
]


@pytest.mark.parametrize("path", OWN, ids=" ".join)
def test_a_command_names_only_options_of_its_own(path, model, tmp_path, monkeypatch):
    """A case is named by options in some commands, and by an argument in others."""
    monkeypatch.setattr(profiling, "require_valgrind", lambda: None)
    recorded(tmp_path, *"abc")
    tail = [*"abc"[: 3 if "bisect" in path else 2]] if path[0] == "releases" else []
    by_case = "explain" in path

    def refused(operator="gradient", function="model.py:loss", size="", more=()):
        if by_case:
            words = ["/".join(filter(None, (operator, function, size, "grad"))), *tail]
        else:
            words = [*tail, "-f", function, "-o", operator, "-m", "grad"]
            words += ["--size", size] * bool(size)
        done = gradbench(*path, *words, *more)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        return line

    for more in (("--input", "x=ones(2)"), ("--inputs", "model.py:inputs"), ("--name", "mine")):
        said = refused(function="exp", more=more)
        assert f"{more[0]} is for a function of your own: name it" in said
        assert ("--function" in said) is not by_case
    assert "size n=4 is for the catalogue" in refused(size="n=4", more=("--input", "x=ones(2)"))
    assert "give the inputs: --input" in refused()
    # The function is looked at, in a process of its own.
    inputs = ("--inputs", "model.py:inputs")
    assert "operator diagonal: for this function there are" in refused("diagonal", more=inputs)


# ── tracks and searches ───────────────────────────────────────────────────────────────────────


def test_a_track_measures_it_where_it_loads_and_names_the_release_where_not(
    model, tmp_path, capsys
):
    for name, variables in (("one", {}), ("two", {}), ("old", {"TEST_OLD": "1"})):
        build(tmp_path, name, **variables)
    words = ["releases", "track", "one", "two", "old", "--baseline", "one", "-m", "backward"]
    words += ["--function", "model.py:loss", "--inputs", "model.py:inputs"]
    assert command(*words, "--dry-run") == 0
    assert "Would measure 1 case in 3 builds of torch" in capsys.readouterr().out
    assert not Path("results").exists()
    assert not tracks.paths(Path("results"))
    assert command(*words, "--sessions", "2", "--profile", "quick") == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("old: ")]
    assert len(said) == 1
    assert "something_that_only_newer_releases_have" in said[0]
    history = History.of(tracks.read_all(Path("results"))[0])
    told = {b.name: history.point(b, history.cases[0]).status for b in history.builds}
    assert told == {"one": "ok", "two": "ok", "old": "unsupported"}
    # asv could not run it again.
    assert not list(Path("results").glob("asv/**/v*.json"))
    assert command("releases", "show", "-f", "model:loss") == 0
    assert "model:loss@" in capsys.readouterr().out


def test_a_search_takes_the_words_of_a_track(model, tmp_path, capsys):
    for name, pace in (("a", 1), ("b", 1), ("c", 100), ("d", 100)):
        build(tmp_path, name, TEST_PACE=str(pace))
    words = ["releases", "bisect", *"abcd", "--function", "model.py:loss", "-m", "backward"]
    words += ["--inputs", "model.py:inputs", "--sessions", "3", "--threshold", "0.5"]
    assert command(*words, "--dry-run") == 0
    assert "Would search 2 releases between a and d" in capsys.readouterr().out
    command(*words)
    # On a busy machine one of the two steps between may be too close to call.
    said = capsys.readouterr()
    assert "Changed " in said.out
    assert "d compared with a: slower" in said.err
    assert all(tracks.read(path).started.search for path in tracks.paths(Path("results")))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bisect", "a", "b", "c", "-f", "exp"], "a search is for one case"),
        (["bisect", "vjp/exp/grad", "a", "b", "c", "-m", "backward"], "remove --mode backward"),
        (["bisect", "vjp/exp/grad", "jvp/exp/jvp", "a", "b"], "'jvp/exp/jvp' is no release"),
        (["bisect", "vjp/exp/grad", "a"], "name both ends"),
        (["bisect", "vjp/exp/grad", "a", "b"], "is no release"),
        (["track", "a", "b", "-f", "nothing"], "no function matches 'nothing'"),
        (["track", "a", "b", "--from", "model.py"], "declares no function or mode"),
        (["track", "a", "b", "--instrument", "flops"], "add 'wall_time' to the instruments"),
        (["track", "a", "gone"], "gone: its Python"),
        (["track", "a", ".."], "a name has letters"),
        (["track", "a", "no such"], "a name has letters"),
        (["track", "a", "/usr/bin"], "give it a name, as in mine=/usr/bin"),
        (["track", "a", "2.13.7+cpu"], "the nearest releases are 2.13.0"),
        (["track", "a", "2.0.1", "--python", "3.13"], "for Python 3.8 to 3.11"),
        (["install", "2.0.1", "--python", "/none"], "--python /none: No such file"),
        (["install", "gone"], "gone: its Python"),
        (["remove", ".."], "names no environment"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_before_anything_is_measured(model, tmp_path, words, says):
    recorded(tmp_path, "a", "b", "c", "gone")
    (tmp_path / "python-gone").unlink()
    with pytest.raises(click.UsageError) as raised:
        command("releases", *words)
    said = raised.value.message
    assert says in said
    assert "\n" not in said
    assert not tracks.paths(Path("results"))


def test_an_environment_whose_python_is_gone_is_not_installed(model, tmp_path, capsys):
    recorded(tmp_path, "a", "gone")
    (tmp_path / "python-gone").unlink()
    assert [e.name for e in environments.installed()] == ["a"]
    assert command("releases", "list", "--format", "json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["a"]["state"] == "pointed at"
    assert rows["gone"]["state"] == "broken"
    assert "is gone" in rows["gone"]["reason"]
    assert command("releases", "remove", "gone") == 0
    # One that gradbench made is made again.
    made = environments.Environment(1, "2.9.0", "2.9.0", "/none", {"torch": "2.9.0"}, "", 9)
    (environments.home() / "2.9.0").mkdir()
    (environments.home() / "2.9.0" / environments.RECORD).write_bytes(msgspec.json.encode(made))
    assert environments.missing([parse("2.9.0")]) == [parse("2.9.0")]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    place = tmp_path / "file"
    place.write_text("")
    monkeypatch.setenv("GRADBENCH_RELEASES", str(place / "inside"))
    with pytest.raises(click.UsageError, match="cannot write to"):
        command("releases", "install", "2.9.0", "--yes")


def test_installing_is_foretold_with_disk_and_time(model, capsys):
    assert command("releases", "install", "2.9.0", "2.10.0", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "Would install 2.9.0, 2.10.0 into" in said
    assert "GiB free, about" in said
    assert not environments.home().exists()


# ── pytest ────────────────────────────────────────────────────────────────────────────────────


def test_pytest_measures_it_too(model):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "benchmarks/", "-p", "no:cacheprovider"),
            *(f"--gradbench-function={model}:loss", f"--gradbench-inputs={model}:inputs"),
            "--gradbench-mode=backward",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "gradient/model:loss@" in done.stdout
    assert "1 passed" in done.stdout

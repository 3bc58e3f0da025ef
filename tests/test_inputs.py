"""Bad input is one line that says what to type, and exit code 2, before anything is done."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import click
import msgspec
import pytest
import torch
from click.testing import CliRunner
from every_command import commands

from gradbench.advise import advice
from gradbench.cli import cli, options, parameters
from gradbench.core import arguments
from gradbench.core.cases import Comparison, Place, nothing_fits
from gradbench.core.releases import ReleaseError
from gradbench.core.suggest import hint, nearest
from gradbench.releases import builds, environments
from gradbench.runner.wire import WorkerError, WorkerOptions
from gradbench.runner.workers import discover

EVERY = [
    pytest.param(command, parameter, id=f"{' '.join(words)} {parameter.name}")
    for words, command in commands()
    for parameter in command.params
    if not getattr(parameter, "is_flag", False)
]


def refused(parameter, command, value) -> str:
    """What a parameter says of a value that it must refuse."""
    with click.Context(command) as context, pytest.raises(click.BadParameter) as error:
        parameter.type.convert(value, parameter, context)
    message = error.value.format_message()
    assert "\n" not in message
    assert len(message) < 1500
    message.encode()
    return message


def of_kind(*kinds):
    return [given for given in EVERY if isinstance(given.values[1].type, kinds)]


@pytest.mark.parametrize(("command", "parameter"), EVERY)
def test_every_parameter_refuses_nothing_at_all(command, parameter):
    for value in ("", " ", "\t\n"):
        refused(parameter, command, value)


@pytest.mark.parametrize(("command", "parameter"), EVERY)
def test_every_parameter_refuses_what_no_name_has(command, parameter):
    for value in ("a\0b", "x" * 100_000):
        refused(parameter, command, value)


@pytest.mark.parametrize(("command", "parameter"), of_kind(click.types.FloatParamType))
def test_every_number_is_finite(command, parameter):
    for value in ("nan", "NaN", "-nan", "inf", "-inf", "infinity", "1e400", "-1e400", "9" * 400):
        refused(parameter, command, value)


@pytest.mark.parametrize(("command", "parameter"), of_kind(click.types.IntParamType))
def test_every_whole_number_has_an_end(command, parameter):
    for value in (
        str(10**30),
        "-1" + "0" * 30,
        "9" * 5000,
        "1e3",
        "0x10",
        "1_000",
        "½",
        "-1",
        "1.5",
    ):
        refused(parameter, command, value)


@pytest.mark.parametrize(("command", "parameter"), of_kind(click.Choice))
def test_every_choice_suggests_the_nearest(command, parameter):
    word = parameter.type.choices[-1]
    assert f"did you mean {word}" in refused(parameter, command, word + "x")


@pytest.mark.parametrize(("command", "parameter"), of_kind(parameters.Location))
def test_every_path_refuses_what_can_be_no_place_for_it(command, parameter, tmp_path):
    file = tmp_path / "file.py"
    file.write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for value in (file / "below.py", tmp_path / ("x" * 300), tmp_path / "loop"):
        refused(parameter, command, str(value))


def test_no_parameter_has_a_kind_that_refuses_nothing():
    kinds = (
        *(parameters.Real, parameters.Whole, parameters.Text, parameters.Choice),
        parameters.Location,
    )
    for given in EVERY:
        assert isinstance(given.values[1].type, kinds), given.id


def test_defaults_are_values_that_would_be_accepted():
    for given in EVERY:
        command, parameter = given.values
        with click.Context(command) as context:
            default = parameter.get_default(context)
            values = default if isinstance(default, (tuple, list)) else [default]
            for value in values:
                if isinstance(value, (str, int, float)):
                    assert parameter.type.convert(value, parameter, context) == value


def test_a_file_to_read_is_an_ordinary_one(tmp_path):
    kind = parameters.ReadableFile((".py",))
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / "dead.py").symlink_to(tmp_path / "nowhere.py")
    (tmp_path / "folder.py").mkdir()
    (tmp_path / "text.txt").write_text("")
    for name, says in (
        ("pipe.py", "not a regular file"),
        ("dead.py", "does not exist"),
        ("folder.py", "is a folder"),
        ("text.txt", "does not end in .py"),
    ):
        with pytest.raises(click.BadParameter, match=says):
            kind.convert(str(tmp_path / name), None, None)


def test_a_file_to_write_is_an_ordinary_one_in_a_folder_that_is_there(tmp_path):
    kind = parameters.NewFile((".csv",))
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "full.csv").symlink_to("/dev/full")
    (tmp_path / "folder.csv").mkdir()
    for name, says in (
        ("pipe.csv", "not a regular file"),
        ("full.csv", "not a regular file"),
        ("folder.csv", "is a folder"),
        ("none/x.csv", "does not exist"),
        ("x.py", "the suffix must be one of .csv"),
    ):
        with pytest.raises(click.BadParameter, match=says):
            kind.convert(str(tmp_path / name), None, None)
    assert kind.convert(str(tmp_path / "x.CSV"), None, None) == tmp_path / "x.CSV"
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)


def test_a_folder_that_cannot_be_written_to_is_named_before_there_is_anything_to_write(
    tmp_path, monkeypatch
):
    closed = tmp_path / "closed"
    (closed / "inside").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, mode: closed not in (path, *path.parents))
    for kind, name in (
        (parameters.NewFile((".csv",)), "closed/x.csv"),
        (parameters.NewFolder(), "closed"),
        (parameters.NewFolder(), "closed/new/report"),
        (parameters.NewFolder(), "closed/inside/report"),
    ):
        with pytest.raises(click.BadParameter, match=r"closed.* cannot be written to"):
            kind.convert(str(tmp_path / name), None, None)
    assert parameters.NewFolder().convert(str(tmp_path / "a/b"), None, None) == tmp_path / "a/b"
    assert str(parameters.NewFolder().convert("-", None, None)) == "-"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["lst"], "did you mean list"),
        (["Run"], "did you mean run"),
        (["reprot"], "did you mean report"),
        (["releases", "instal"], "did you mean install"),
        (["releases", "biscet"], "did you mean bisect"),
        (["study", "covrage"], "did you mean coverage"),
        (["show", "--comparision", "x"], "--comparison"),
        (["run", "--profile", "quik"], "did you mean quick"),
        (["plot", "heat", "-t", "x.svg"], "did you mean heatmap"),
    ],
)
def test_a_word_that_is_not_there_gets_the_nearest(words, meant):
    answer = CliRunner().invoke(cli, words, standalone_mode=False)
    assert isinstance(answer.exception, click.UsageError)
    assert meant in answer.exception.format_message()


# ── names that are not there ──────────────────────────────────────────────────────────────────

MODES = ["backward", "grad", "graphed_grad", "func_grad", "loop_grad", "jacrev", "compiled_jacrev"]
OPT_IN = ["graphed_grad", "compiled_jacrev"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("autograd_grad", "grad"),
        ("torch.autograd.grad", "grad"),
        ("Grad", "grad"),
        ("graphed_gard", "graphed_grad"),
        ("jacrve", "jacrev"),
        ("torch.func.jacrev", "jacrev"),
        ("compiled_jacrv", "compiled_jacrev"),
        ("backwards", "backward"),
        ("grad_loop", "grad"),
    ],
)
def test_the_usual_mode_is_suggested_unless_another_was_nearly_typed(typed, meant):
    assert nearest(typed, MODES, usual=["grad", "jacrev"], exotic=OPT_IN)[0] == meant


@pytest.mark.parametrize("typed", ["", "x", "zzzzzz", "é" * 50, "y" * 100_000])
def test_nothing_is_suggested_for_what_is_like_no_name(typed):
    assert hint(typed, MODES) == ""


C = [
    Comparison("vjp", "exp", "documents", "float32").case("grad"),
    Comparison("vjp", "mse", "n=64", "float32").case("backward"),
]


@pytest.mark.parametrize(
    ("globs", "says"),
    [
        ({"functions": ("exq",)}, "no stored case has a function 'exq'; did you mean exp?"),
        ({"sizes": ("n=63",)}, "did you mean n=64?"),
        ({"devices": ("cuda:0",)}, "there are cpu"),
        ({"functions": ("exp",), "modes": ("backward",)}, "matches all of these options"),
        ({"functions": ("exp", "[")}, "no stored case has a function '['"),
    ],
)
def test_a_selection_of_stored_cases_that_fits_none_says_which_part(globs, says):
    assert says in nothing_fits(C, **globs)


@pytest.mark.parametrize(
    "size",
    ["n=x", "n=", "=3", "n=1,n=2", "n=1,m=2,n=1", "n=-1", "n=0", "n=1.5", "n=" + "9" * 30, "n=١",
     "n=1,", "n=1;m=2", "n=" + "9" * 5000, "n =", "1=2", "n=1=2"],
)  # fmt: skip
@pytest.mark.parametrize("command", ["run", "show", "list", "report"])
def test_a_size_that_can_be_none_is_refused_before_anything_is_done(command, size):
    answer = CliRunner().invoke(cli, [command, f"--size={size}"], standalone_mode=False)
    assert isinstance(answer.exception, click.BadParameter), answer
    assert len(str(answer.exception)) < 300


def test_a_size_is_named_in_any_order():
    with click.Context(cli) as context:
        assert options._size_globs(context, cli, ("n=5,m=3", "n=*", "documents")) == (
            "m=3,n=5",
            "n=*",
            "documents",
        )


@pytest.mark.parametrize(
    "label", ["cuda:²", "cuda:-1", "cuda:01", "cuda:99999", "gpu", "cpu+", "cpu+²sets", "cpu+0sets"]
)
def test_a_device_that_can_be_none_is_refused(label):
    with pytest.raises(ValueError, match="device"):
        Place.parse(label)


# ── files that take part ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("x = 1", "it declares no function or mode"),
        ("", "it declares no function or mode"),
        ("import sys; sys.exit()", "SystemExit"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines"),
        ("def f(:", "SyntaxError"),
        ("print('hello'); 1 / 0", "ZeroDivisionError"),
        ("import os; os._exit(5)", "exit code 5"),
    ],
)
def test_a_file_that_brings_nothing_is_one_line_that_names_it(tmp_path, content, says):
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(WorkerError, match=says) as error:
        discover(WorkerOptions(files=(str(path),)))
    assert "\n" not in str(error.value)
    if "exit code" not in says:
        assert str(path) in str(error.value)


def test_a_file_that_holds_only_a_mode_takes_part(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\nfrom gradbench.problems.registry import mode\n\n@mode('gradient')\n"
        "def mine(problem):\n"
        "    return lambda inputs: torch.autograd.grad(problem.forward(*inputs), inputs)\n"
    )
    found = discover(WorkerOptions(files=(str(path),)))
    assert any(mode["mode"] == "mine" for mode in found.modes)


# ── releases ──────────────────────────────────────────────────────────────────────────────────


def requests(*names):
    return [environments.parse(name) for name in names]


@pytest.mark.parametrize("names", [("2.13.0", "v2.13.0"), ("a=2.13.0", "a=2.9.0")])
def test_a_release_named_twice_is_refused(names):
    with pytest.raises(ReleaseError, match=r"is named twice; .* give it two names"):
        builds.different(requests("2.9.0", *names))


def test_two_names_of_one_release_are_refused_unless_they_were_given():
    with pytest.raises(ReleaseError, match=r"2\.13 and 2\.13\.0 are the same release"):
        builds.different(requests("2.13", "2.13.0"))
    assert len(builds.different(requests("a=2.13.0", "b=2.13.0"))) == 2


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["track", "2.13.0", "2.13.0"], "named twice"),
        (["track", "2.13.0"], "name two different releases"),
        (["track", "2.13.0", "--baseline", "2.13"], "name two different releases"),
        (["bisect", "vjp/exp/grad", "2.13.0", "2.13.0"], "named twice"),
        (["install", "2.13.0", "2.13.0"], "named twice"),
    ],
)
def test_one_build_is_nothing_to_compare(tmp_path, monkeypatch, command, says):
    place = tmp_path / "environments" / "2.13.0"
    place.mkdir(parents=True)
    made = environments.Environment(
        1, "2.13.0", "2.13.0", sys.executable, {"torch": "2.13.0"}, "", 9
    )
    (place / environments.RECORD).write_bytes(msgspec.json.encode(made))
    monkeypatch.setenv("GRADBENCH_RELEASES", str(place.parent))
    answer = CliRunner().invoke(
        cli,
        ["releases", *command],
        standalone_mode=False,
        env={"GRADBENCH_RESULTS": str(tmp_path / "results")},
    )
    assert says in str(answer.exception)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("told", "held"),
    [("AVX2", "avx2"), ("DEFAULT", "default"), ("NO AVX", "default"), ("AVX512", "avx512")],
)
def test_a_build_is_held_to_the_instructions_that_it_tells(told, held):
    made = environments.Environment(
        1, "x", "x", "python", {"torch": "2.9.0", "cpu_capability": told}, "", 1
    )
    builds._require_held([made], held)
    builds._require_held([made], "")
    other = "avx2" if held != "avx2" else "avx512"
    with pytest.raises(ReleaseError, match=f"cannot be held to {other}"):
        builds._require_held([made], other)


@pytest.mark.parametrize("name", ["avx1024", "AVX2", "avx", "none"])
def test_instructions_that_torch_does_not_know_are_refused(name):
    answer = CliRunner().invoke(
        cli, ["releases", "track", "2.9.0", "2.10.0", "--cpu-capability", name],
        standalone_mode=False,
    )  # fmt: skip
    assert "is not one of" in answer.exception.format_message()


@pytest.mark.parametrize(
    "date",
    ["2.9.0", "2.9.0=", "=2026-01-01", "2.9.0=2026-13-01", "2.9.0=yesterday", "x=2026-01-01"],
)
def test_a_date_that_is_none_is_refused(date):
    with pytest.raises(ReleaseError, match="--date"):
        builds._dates([date], ["2.9.0"])


def test_a_second_date_of_one_release_is_refused():
    with pytest.raises(ReleaseError, match="has a date already"):
        builds._dates(["2.9.0=2026-01-01", "v2.9.0=2026-01-02"], ["2.9.0"])


# ── make clean ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["photos", "my photos", "."])
def test_make_clean_deletes_nothing_but_a_virtual_environment(tmp_path, name):
    makefile = Path(__file__).parents[1] / "Makefile"
    place = tmp_path / name
    place.mkdir(exist_ok=True)
    (place / "1.jpg").write_text("")
    command = ["make", "-f", str(makefile), "clean", f"VENV={place}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert "not a virtual environment" in done.stderr
    assert (place / "1.jpg").exists()
    (place / "pyvenv.cfg").write_text("")
    if name == "photos":
        subprocess.run(command, cwd=tmp_path, check=True)
        assert not place.exists()


# ── advice ────────────────────────────────────────────────────────────────────────────────────


def advised(tmp_path, *arguments):
    return CliRunner().invoke(
        cli,
        ["advise", "m:f", *arguments, "--results", str(tmp_path / "results")],
        standalone_mode=False,
    )


def left_by(tmp_path):
    return [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("error", [advice.Refusal("no"), KeyboardInterrupt(), WorkerError("no")])
def test_a_refusal_takes_the_users_data_with_it(tmp_path, monkeypatch, error):
    kept = tmp_path / "advise"
    kept.mkdir()
    passed = kept / "passed_1.pickle"
    passed.write_bytes(b"the user's function and inputs")

    def looked(found, question, files, *rest):
        files.pattern.write_bytes(b"places")
        raise error

    monkeypatch.setattr(advice, "_look", looked)
    question = advice.Question(":f", (), passed=str(passed))
    with pytest.raises(type(error)):
        advice.advise(question, tmp_path, lambda progress: None, [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fields", [{"dtype": "tf32"}, {"operator": "x"}, {"device": "gpu"}])
def test_a_question_that_is_refused_unseen_leaves_nothing(tmp_path, monkeypatch, fields):
    monkeypatch.setattr(advice, "Look", lambda *arguments: pytest.fail("looked at"))
    passed = tmp_path / "advise" / "passed_1.pickle"
    passed.parent.mkdir()
    passed.write_bytes(b"")
    with pytest.raises(advice.Refusal):
        advice.advise(
            advice.Question(":f", (), passed=str(passed), **fields), tmp_path, lambda p: None, []
        )
    assert list(tmp_path.iterdir()) == []


def test_what_else_is_in_the_folder_of_advice_stays(tmp_path):
    (tmp_path / "advise").mkdir()
    other = tmp_path / "advise" / "pattern_of_another_run.pt"
    other.write_bytes(b"")
    with pytest.raises(advice.Refusal):
        advice.advise(advice.Question(":f", (), device="gpu"), tmp_path, lambda p: None, [])
    assert left_by(tmp_path) == [other]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--input", "x=1", "--input", "x=2"], "--input x is given twice"),
        (["--input", "x"], "not of the form NAME=EXPR"),
        (["--input", "x=randn(3"], "--input x: 'randn(3' is no expression"),
        (["--input", "x=random(3)"], "random() is not known; there are randn, rand, "),
        (["--input", "x=randn(n)"], "'randn(n)' is neither a literal nor one of randn"),
        (["--input", "x=ones(3, dtype=int9)"], "dtype 'int9' is none of float64"),
        (["--input", f"x={'(' * 300}"], "is no expression"),
        (["--input", f"x={'-' * 2000}1 +"], "…"),
        (["--input", "x=1", "--operator", "jacobain"], "did you mean jacobian"),
        (["--input", "x=1", "--budget", "nan"], "not a finite number"),
        (["--input", "x=1", "--device", ""], "must not be empty"),
    ],
)
def test_a_bad_question_is_refused_before_anything_is_looked_at(
    tmp_path, monkeypatch, arguments, says
):
    monkeypatch.setattr(advice, "Look", lambda *arguments: pytest.fail("looked at"))
    answer = advised(tmp_path, *arguments)
    assert says in answer.exception.format_message()
    assert not (tmp_path / "results").exists()


def positional(x, /, y=1.0):
    return x * y


def any_position(*xs):
    return xs[0]


def any_name(**named):
    return named["x"]


@pytest.mark.parametrize(
    ("target", "given", "says"),
    [
        (positional, ["z"], "it has no argument 'z', but x, y"),
        (positional, ["x", "yy"], "did you mean y"),
        (positional, ["x", "y"], ""),
        (any_position, ["whatever"], ""),
        (any_name, ["whatever"], ""),
        (torch.nn.Linear(2, 2), ["x"], "but input"),
        (torch.nn.Linear(2, 2), ["input"], ""),
        (lambda: 1, ["x"], "but none"),
    ],
)
def test_an_input_goes_to_the_argument_of_its_name(target, given, says):
    refusal = arguments.signature(target).refusal(given)
    assert says in refusal
    assert bool(says) == bool(refusal)


def test_the_arguments_of_a_function_in_c_are_not_known():
    assert arguments.signature(torch.sin) is None
    assert arguments.argument_names(torch.sin, 2) == ["x0", "x1"]

"""The command line as its users meet it: answers, formats, and one clear line for what is wrong."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import schemas
from every_command import lacking

from gradbench.runner import doctor
from gradbench.store import runs as log


def gradbench(*arguments, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "gradbench", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=180,
        **kwargs,
    )


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A results folder with one short finished run."""
    place = tmp_path_factory.mktemp("results")
    done = gradbench(
        *("run", "-f", "square", "-f", "exp", "-o", "d*", "-o", "jacobian", "--sessions", 2),
        *("--results", place),
    )
    assert done.returncode == 0, done.stderr
    assert "of it timing" in done.stdout
    assert "What to try first" in done.stdout
    assert "Too close to call: " in done.stdout
    return place


@pytest.mark.parametrize("command", ["--help", "show"])
def test_help_and_show_import_neither_torch_nor_pandas(results, command):
    code = (
        "import sys\n"
        "from gradbench.__main__ import main\n"
        f"sys.argv = ['gradbench', {command!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as left:\n    assert not left.code, left.code\n"
        "assert not {'torch', 'pandas', 'matplotlib', 'scipy.stats'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"GRADBENCH_RESULTS": str(results)},
    )
    assert done.returncode == 0, done.stderr


BAD = [
    (("run", "-f", "nothing"), "no function matches 'nothing'"),
    (("run", "-f", "exp", "--dtype", "tf32"), "needs a CUDA device: add the device cuda"),
    (("verify", "-f", "exp", "--device", "cpu+1sets"), "sets go from 2 to 1000"),
    (("verify", "-f", "exp", "--device", "cpu+transfer"), "nothing is transferred"),
    (("run", "-m", "jacrve"), "did you mean jacrev"),
    (("run", "-o", "vjp", "-f", "square", "--size", "n=4"), "selection is empty"),
    (("run", "--size", "n=-3"), "not of the form name=positive integer"),
    (("run", "--device", "cuda:99"), "not available here"),
    (("run", "--sessions", "0"), "--sessions"),
    (("run", "--budget", "-1"), "--budget"),
    (("run", "--dtype", "float31"), "float31"),
    (("run", "--from", "no/such/file.py"), "no/such/file.py"),
    (("run", "--baseline", "magic"), "'magic'"),
    (("run", "--resume", "never"), "no run named 'never'"),
    (("run", "--resume", "latest", "-f", "exp"), "own plan: remove -f"),
    (("show", "never"), "no run named 'never'"),
    (("show", "--comparison", "never"), "no comparison of this run matches"),
    (("compare", "latest", "never"), "no run named 'never'"),
    (("export", "-t", "x.xlsx"), ".parquet"),
    (("verify", "-f", "nothing"), "no function matches"),
    (("frobnicate",), "frobnicate"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD, ids=[" ".join(a) for a, _ in BAD])
def test_bad_input_is_one_clear_line_and_exit_code_2(results, arguments, says):
    done = gradbench(*arguments, env=os.environ | {"GRADBENCH_RESULTS": str(results)})
    assert done.returncode == 2
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert says in lines[0]
    assert not lacking(arguments, lines[0])


def test_a_function_without_the_sizes_asked_for_is_named():
    done = gradbench("list", "-f", "exp", "-f", "softmax", "--size", "n=4")
    assert done.returncode == 0
    assert "exp" in done.stdout
    assert "softmax" not in done.stdout
    assert "without a size n=4: softmax" in done.stderr


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = gradbench("run", "-f", "square", "-m", "manual", "--results", blocked / "inside")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) <= 2
    assert str(blocked) in done.stderr


def test_no_runs_yet_says_how_to_make_one(tmp_path):
    done = gradbench("show", "--results", tmp_path)
    assert done.returncode == 2
    assert "'gradbench run' makes one" in done.stderr


def test_show_has_one_line_per_comparison_and_all_of_one(results):
    overview = gradbench("show", "--results", results)
    assert overview.returncode == 0
    assert overview.stdout.count("square") == 1
    full = gradbench("show", "--results", results, "--comparison", "jacobian/exp")
    for mode in ("forward", "manual", "jacrev", "loop_grad", "functional_jacobian"):
        assert mode in full.stdout
    assert "square" not in full.stdout


@pytest.mark.parametrize("form", ["json", "csv", "md"])
def test_every_format_has_every_case(results, form):
    done = gradbench("show", "--results", results, "--format", form)
    assert done.returncode == 0
    if form == "json":
        rows = json.loads(done.stdout)
        assert rows[0]["mode"] == "forward"
        assert {"seconds", "verdict", "to_fastest_low", "ulps"} <= set(rows[0])
    elif form == "csv":
        assert len(list(csv.DictReader(io.StringIO(done.stdout)))) > 30
    else:
        assert done.stdout.startswith("| run | operator")


def test_another_floor_judges_an_old_run_again():
    # A stored run: what a run of this moment decides depends on what else the machine does.
    stored = Path(__file__).parents[1] / "results"
    words = ["show", "20261122-052809", "--results", stored, "--format", "json", "--floor"]

    def slower(floor):
        rows = json.loads(gradbench(*words, floor).stdout)
        return sum(row["verdict"] == "slower" for row in rows)

    assert slower(0.01) > slower(0.9) > 0


def test_what_is_damaged_is_named_on_the_way(results, tmp_path):
    place = log.folder(results) / "zz-foreign.jsonl"
    place.write_text("{}\n")
    try:
        done = gradbench("show", "--results", results)
        assert done.returncode == 0
        assert "zz-foreign.jsonl: not a run log" in done.stderr
    finally:
        place.unlink()


def test_runs_are_listed(results):
    done = gradbench("show", "--runs", "--results", results, "--format", "json")
    (run,) = json.loads(done.stdout)
    assert run["finished"] is True
    assert run["torch"]
    # The command is kept, but not the folder of this machine that the log itself is in.
    assert "-f square" in run["command"]
    assert str(results) not in log.paths(results)[0].read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--runs", "-f", "exp"], "--runs lists every stored run: remove -f"),
        (["latest", "--runs"], "--runs lists every stored run: remove RUN"),
        (["--machines", "latest"], "--machines is of all cases of all runs: remove RUN"),
        (["--machines", "--comparison", "*"], "of all runs: remove --comparison"),
        (["--summary", "--all"], "--all and --summary show different tables: remove one"),
        (["--runs", "--multiples"], "--multiples and --runs show different tables: remove one"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(results, words, said):
    done = gradbench("show", *words, "--results", results)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stdout == ""


def test_options_that_say_how_much_is_told_go_with_everything(results):
    assert gradbench("show", "--runs", "-v", "--results", results).returncode == 0
    for words in (["run"], ["releases", "track"], ["study", "gate"]):
        done = gradbench(*words, "--resume", "nothing", "-q", "--results", results)
        assert "named 'nothing'" in done.stderr
    assert gradbench("show", "--summary", "--comparison", "*", "--results", results).stdout


def test_what_is_shown_can_be_narrowed_to_a_device(results):
    there = gradbench("show", "--device", "cpu", "--format", "json", "--results", results)
    assert {row["device"] for row in json.loads(there.stdout)} == {"cpu"}
    none = gradbench("show", "--device", "cuda", "--results", results)
    assert none.returncode == 2
    assert "no stored case has a device" in none.stderr


def test_a_run_ends_with_what_the_device_can_do(results):
    shown = gradbench("show", "--results", results).stdout
    assert "Limits of cpu (1 thread): copies" in shown
    assert "matmul float32" in shown


def test_a_run_compared_with_itself_shows_no_change(results):
    name = log.paths(results)[0].stem
    done = gradbench("compare", name, name, "--results", results, "--fail-on", "any")
    assert done.returncode == 0
    assert "0 slower, 0 faster" in done.stdout


@pytest.mark.parametrize("what", ["cases", "samples", "verdicts"])
@pytest.mark.parametrize("ending", ["csv", "parquet", "json"])
def test_exports_can_be_read_again(results, tmp_path, what, ending):
    import pandas as pd

    target = tmp_path / f"out.{ending}"
    done = gradbench("export", "--what", what, "-t", target, "--results", results)
    assert done.returncode == 0, done.stderr
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet, "json": pd.read_json}[ending]
    data = read(target)
    assert f"{len(data)} rows" in done.stdout
    assert "mode" in data.columns


def test_the_python_api_reads_what_the_command_line_wrote(results):
    import gradbench as package

    cases = package.load(results)
    assert set(cases["status"]) <= {"ok", "unsupported"}
    assert cases.query("status == 'ok'")["seconds"].gt(0).all()
    assert len(package.samples(results)) > len(cases)
    assert "fastest" in set(package.verdicts(results)["verdict"])


def test_verify_prints_the_counts_and_fails_on_a_wrong_mode(tmp_path):
    good = gradbench("verify", "-f", "square", "-o", "derivative")
    assert good.returncode == 0
    assert "0 wrong" in good.stdout
    suite = tmp_path / "suite.py"
    suite.write_text(
        "from gradbench.problems.registry import mode\n"
        "@mode('derivative')\n"
        "def off_by_one_percent(problem):\n"
        "    '''wrong'''\n"
        "    formula = problem.function.derivatives['derivative']\n"
        "    return lambda inputs: formula(*inputs) * 1.01\n"
    )
    bad = gradbench("verify", "-f", "square", "-o", "derivative", "--from", suite)
    assert bad.returncode == 1
    assert "2 wrong" in bad.stdout
    assert "off_by_one_percent" in bad.stdout


def test_list_shows_functions_modes_operators_and_cases():
    functions = json.loads(gradbench("list", "--format", "json").stdout)
    assert len(functions) >= 36
    cases = gradbench("list", "cases", "-f", "square", "-o", "derivative", "-m", "grad")
    assert cases.stdout.split() == ["derivative/square/documents/float32/cpu/1/grad"]
    assert "autograd.grad" in gradbench("list", "modes", "-f", "square").stdout
    code = gradbench("list", "modes", "-o", "jacobian", "-m", "jacrev", "--source").stdout
    assert "def jacrev(problem" in code


def test_a_dry_run_measures_nothing(tmp_path):
    done = gradbench("run", "--dry-run", "--results", tmp_path)
    assert done.returncode == 0
    assert "comparisons" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell):
    done = gradbench("completion", shell)
    assert done.returncode == 0
    assert "_GRADBENCH_COMPLETE" in done.stdout


def test_completion_knows_the_stored_names(results):
    done = gradbench(
        env=os.environ
        | {
            "_GRADBENCH_COMPLETE": "bash_complete",
            "COMP_WORDS": "gradbench run -f ",
            "COMP_CWORD": "3",
            "GRADBENCH_RESULTS": str(results),
        }
    )
    assert "square" in done.stdout


def test_doctor_says_what_it_found():
    done = gradbench("doctor", "--format", "json")
    assert done.returncode in (0, 1)
    schemas.require("doctor", json.loads(done.stdout))
    found = {row["what"]: row for row in json.loads(done.stdout)}
    assert {"torch", "noise", "memory", "other work", "clock resolution"} <= set(found)
    assert "differs from itself by" in found["noise"]["found"]


@pytest.mark.parametrize(
    ("usable", "said", "grade"),
    [([1], "0.00 of 1 usable core busy now", "good"), ([0, 2], "1.50 of 2 usable cores", "poor")],
)
def test_doctor_counts_the_cores_that_may_be_used(monkeypatch, usable, said, grade):
    monkeypatch.setattr(doctor.machine, "usable_cores", lambda: usable)
    monkeypatch.setattr(doctor.psutil, "cpu_percent", lambda interval, percpu: [100.0, 0.0, 50.0])
    (check,) = doctor._load()
    assert said in check.found
    assert check.grade == grade


def test_a_reader_that_leaves_early_is_no_error(results):
    done = subprocess.run(
        f"{sys.executable} -m gradbench show --all --results {results} | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr

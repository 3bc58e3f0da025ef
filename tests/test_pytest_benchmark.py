"""pytest-benchmark over the catalogue, and its JSON on the way into the results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gradbench.integrations import pytest_json
from gradbench.store import runs as log
from gradbench.store.runs import StoreError

ROOT = Path(__file__).parent.parent
FAULTS = Path(__file__).parent / "suites" / "faults.py"


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks/", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )


def gradbench(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "gradbench", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def select(**globs):
    return [f"--gradbench-{what}={glob}" for what, given in globs.items() for glob in given]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A run with modes that are wrong, raise or are not supported, and what pytest said."""
    path = tmp_path_factory.mktemp("pytest") / "benchmark.json"
    done = run(
        *select(function=["mse", "square_chain"], operator=["gradient"]),
        *select(mode=["backward", "grad", "wrong_transpose", "manual_materialised"]),
        *select(mode=["late_liar", "late_raiser"]),
        *("--gradbench-from", str(FAULTS), "--benchmark-json", str(path), "-rfs"),
    )
    return done, path


def test_conditions_are_those_of_a_run(tmp_path):
    path = tmp_path / "benchmark.json"
    done = run(
        *select(function=["exp"], operator=["vjp"], mode=["backward", "grad"]),
        *select(device=["cpu+cold", "cpu+3sets"]),
        *("--benchmark-json", str(path)),
    )
    assert done.returncode == 0, done.stdout
    stored = json.loads(path.read_text())["benchmarks"]
    assert {one["group"].split("/")[4] for one in stored} == {"cpu+cold", "cpu+3sets"}
    cold = [one["stats"] for one in stored if "+cold" in one["group"]]
    assert all(one["iterations"] == 1 for one in cold)


class TestMeasuring:
    def test_a_table_per_comparison_names_the_modes(self, measured):
        done, _ = measured
        for function in ("mse", "square_chain"):
            of = f"benchmark 'gradient/{function}/documents/float32/cpu/1': 2 tests"
            assert of in done.stdout
        assert "\nbackward " in done.stdout

    def test_what_is_wrong_fails_and_is_never_timed_or_stored(self, measured):
        done, path = measured
        assert done.returncode == 1
        assert "FAILED" in done.stdout
        assert "wrong: by x" in done.stdout
        stored = {one["extra_info"]["case"] for one in json.loads(path.read_text())["benchmarks"]}
        assert not any("wrong_transpose" in case for case in stored)

    def test_what_lies_only_once_it_is_timed_fails_and_its_times_are_dropped(self, measured):
        done, path = measured
        assert "wrong: after timing: by x" in done.stdout
        names = {one["name"] for one in json.loads(path.read_text())["benchmarks"]}
        assert "late_liar" not in names
        assert "\nlate_liar " not in done.stdout

    def test_what_raises_while_it_is_timed_fails_in_one_line_and_its_times_are_dropped(
        self, measured
    ):
        done, path = measured
        said = "failed: while timed: RuntimeError: no more than a hundred calls"
        assert done.stdout.count(f"\n{said}\n") == 2
        names = {one["name"] for one in json.loads(path.read_text())["benchmarks"]}
        assert names == {"backward", "grad"}
        assert "\nlate_raiser " not in done.stdout

    def test_what_is_not_supported_is_skipped_with_its_reason(self, measured):
        done, _ = measured
        assert "unsupported: the function has no formula that forms the jacobian" in done.stdout

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (select(function=["nothing"]), "no function matches 'nothing'"),
            (select(dtype=["float31"], function=["exp"]), "float31"),
            (select(device=["cuda:99"], function=["exp"]), "not available here"),
            (["--gradbench-from", "no/such/file.py"], "no/such/file.py"),
            (["--gradbench-seconds", "0"], "--gradbench-seconds"),
        ],
    )
    def test_a_bad_selection_is_one_line(self, arguments, told):
        done = run(*arguments)
        assert done.returncode == 4, done.stdout
        assert told in done.stderr
        assert "Traceback" not in done.stdout + done.stderr


class TestImport:
    def test_a_file_becomes_a_run_whose_verdicts_stay_undecided(self, measured, tmp_path):
        _, path = measured
        done = gradbench("import", path, "--results", tmp_path)
        assert done.returncode == 0, done.stderr
        assert "every verdict is 'undecided'" in done.stdout
        shown = gradbench("show", "--format", "json", "--results", tmp_path)
        rows = {(row["function"], row["mode"]): row for row in json.loads(shown.stdout)}
        assert {row["verdict"] for row in rows.values()} == {"fastest", "undecided", ""}
        timed = rows["mse", "backward"]
        assert timed["status"] == "ok"
        assert 1e-7 < timed["seconds"] < 1
        assert (timed["sessions"], timed["rounds"]) == (1, 1)
        assert rows["square_chain", "wrong_transpose"]["status"] == "wrong"
        assert rows["square_chain", "late_liar"]["status"] == "wrong"
        assert rows["square_chain", "late_raiser"]["status"] == "failed"
        assert rows["mse", "manual_materialised"]["status"] == "unsupported"
        run = log.find(tmp_path, "latest")
        assert run.finished
        assert run.environment(1)["torch"]

    def test_the_times_are_those_that_pytest_benchmark_tells(self, measured, tmp_path):
        _, path = measured
        run = pytest_json.store(tmp_path, path)
        told = {
            one["extra_info"]["case"]: one["stats"]
            for one in json.loads(path.read_text())["benchmarks"]
        }
        for session in run.sessions:
            for entrant in session.entrants:
                if entrant.samples:
                    stats = told[f"{session.comparison}/{entrant.mode}"]
                    (fastest,) = entrant.visits.wall
                    assert fastest == pytest.approx(stats["min"], rel=1e-4)

    def test_a_file_is_imported_once(self, measured, tmp_path):
        _, path = measured
        pytest_json.store(tmp_path, path)
        with pytest.raises(StoreError, match="imported already"):
            pytest_json.store(tmp_path, path)
        assert len(log.paths(tmp_path)) == 1

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda text: "", "not JSON, or cut off"),
            (lambda text: text[:500], "not JSON, or cut off"),
            (lambda text: "[]", "not pytest-benchmark's JSON"),
            (lambda text: '{"benchmarks": []}', "not from 'pytest benchmarks/'"),
            (lambda text: text.replace('"case": "gradient/', '"case": "'), "is damaged"),
            (lambda text: text.replace('"iterations"', '"turns"'), "is damaged"),
            (lambda text: text.replace('"data"', '"dates"'), "no single times"),
            (lambda text: text.replace('"schema": 1', '"schema": 9'), "newer gradbench"),
            (lambda text: text.replace('"datetime": "2', '"datetime": "x'), "is damaged"),
        ],
    )
    def test_a_foreign_or_damaged_file_is_one_line_and_stores_nothing(
        self, measured, tmp_path, change, told
    ):
        _, path = measured
        other = tmp_path / "other.json"
        other.write_text(change(path.read_text()))
        with pytest.raises(StoreError, match=told) as caught:
            pytest_json.store(tmp_path / "results", other)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "results").exists()

    def test_the_command_says_what_is_wrong_in_one_line(self, tmp_path):
        other = tmp_path / "other.json"
        other.write_text("{}")
        done = gradbench("import", other, "--results", tmp_path)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "is not pytest-benchmark's JSON" in done.stderr

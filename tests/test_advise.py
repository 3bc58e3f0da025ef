"""Advice on functions of a user's own, from the first look to the answer."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from in_process import gradbench

from gradbench.advise.advice import Question, Refusal, advise, examine
from gradbench.advise.answer import Interrupted
from gradbench.advise.live import compare
from gradbench.advise.telling import close, gain, sentences
from gradbench.advise.theory import in_order, ruled_out
from gradbench.analysis.table import Ratio
from gradbench.core.verdicts import Verdict
from gradbench.runner.progress import silent
from gradbench.worker.expressions import evaluate

SUBJECTS = str(Path(__file__).parent / "suites" / "subjects.py")


def question(name, *inputs, **fields):
    return Question(f"{SUBJECTS}:{name}", inputs or (("x", "randn(5)"),), **fields)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrong_backward", r"output \[2\] by x\[2\], .*see OffInOneEntry"),
        ("detached", r"detach at subjects.py:\d+ hides a part"),
        ("all_detached", r"gives 0 for output \[0\] by x\[0\].*detach at subjects.py"),
        ("not_a_number", "NaN or infinity in 5 of 5"),
        ("stateful", "two calls with the same input differ"),
        ("mutating", "changes its input x in place"),
        ("raising", r"KeyError: 'no such key' \(at .*subjects.py:\d+: raise KeyError"),
        ("dying", "exit code 3"),
        ("eating", "not enough memory|can't allocate memory|out of memory"),
        ("missing", "has no 'missing'"),
        ("of_complex", "it returns torch.complex64: return real numbers"),
        ("partly_complex", "it returns torch.complex64: return real numbers"),
        ("of_integers", "it returns torch.int64: only floating-point values"),
        ("of_python", r"it returns a float, no tensor: leave out float\(\) or .item\(\)$"),
        ("of_nothing", "it returns a dict without a tensor$"),
        ("of_dataclass", "it returns a Fields, no tensor: return its tensors, in a dict"),
        ("through_numpy", r"in reverse mode, .*\.numpy\(\).*, nothing of the inputs reaches"),
        ("partly_through_numpy", r"\.numpy\(\) at subjects.py:\d+ hides a part of it"),
    ],
)
def test_a_function_that_misbehaves_gets_one_line_that_says_how(name, said):
    with pytest.raises(Refusal, match=said) as refusal:
        examine(question(name))
    assert "\n" not in str(refusal.value)


def test_an_input_without_a_derivative_is_named_with_the_cure():
    with pytest.raises(Refusal, match=r"its input x holds NaN or infinity in 2 of 5.*--wrt"):
        examine(Question(f"{SUBJECTS}:elementwise", (), maker=f"{SUBJECTS}:not_finite"))


def test_a_probe_that_is_killed_from_outside_is_sent_once_more(tmp_path):
    suite = tmp_path / "killed.py"
    suite.write_text(
        "import os, pathlib, signal\n"
        f"seen = pathlib.Path({str(tmp_path / 'seen')!r})\n"
        "def f(x):\n"
        "    if not seen.exists():\n"
        "        seen.touch()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return x**2\n"
    )
    found = examine(Question(f"{suite}:f", (("x", "randn(5)"),)))
    assert found["operators"][0] == "diagonal"
    suite.write_text(
        "import os, signal\ndef f(x):\n    os.kill(os.getpid(), signal.SIGKILL)\n    return x\n"
    )
    with pytest.raises(Refusal, match="SIGKILL"):
        examine(Question(f"{suite}:f", (("x", "randn(5)"),)))


def test_a_function_that_forks_gets_one_answer(tmp_path):
    suite = tmp_path / "forks.py"
    suite.write_text(
        "import os\n"
        "calls = 0\n"
        "def f(x):\n"
        "    global calls\n"
        "    calls += 1\n"
        "    if calls <= 3:\n"
        "        os.fork()\n"
        "    return x.sin()\n"
    )
    with pytest.raises(Refusal, match="it changes child processes"):
        examine(Question(f"{suite}:f", (("x", "randn(2)"),)))


def test_a_function_that_never_ends_is_stopped():
    with pytest.raises(Refusal, match="did not end within 2 s"):
        examine(question("endless", timeout=2.0))


def test_what_the_function_prints_does_not_reach_the_answer():
    assert examine(question("chatty"))["operators"][0] == "diagonal"


def test_a_diagonal_jacobian_is_found_and_offered():
    found = examine(question("elementwise"))
    assert found["structured"]
    assert found["structure"][0].startswith("diagonal")
    assert "agrees with float64 finite differences" in found["evidence"][0]


def test_integers_plain_values_and_nested_outputs_take_part():
    given = (("x", "randn(4)"), ("index", "tensor([0, 2])"), ("power", "3"))
    found = examine(question("scaled", *given))
    assert found["wrt"] == ["x"]
    assert found["operators"][0] == "jacobian"


def test_a_module_is_differentiated_by_its_parameters():
    found = examine(question("module", ("input", "randn(2, 3)")))
    assert found["wrt"] == ["weight", "bias"]


def test_only_floating_point_inputs_can_be_differentiated_by():
    given = (("x", "randn(4)"), ("index", "tensor([0, 2])"))
    with pytest.raises(Refusal, match="--wrt index"):
        examine(question("scaled", *given, wrt=("index",)))


def test_inputs_are_made_without_running_code(tmp_path):
    torch.save(torch.ones(2), tmp_path / "w.pt")
    assert evaluate(f"load({tmp_path / 'w.pt'})").tolist() == [1, 1]
    assert evaluate("zeros(2, 3, dtype=float64)").dtype == torch.float64
    assert evaluate("[1, 2]") == [1, 2]
    for bad in ("__import__('os')", "open('x')", "randn(2).sum()", "x", "randn("):
        with pytest.raises(ValueError, match=r"\S"):
            evaluate(bad)


def run(*arguments):
    return gradbench("advise", *arguments)


@pytest.mark.usefixtures("few_rounds")
def test_the_answer_names_a_winner_and_its_code_and_is_stored(tmp_path):
    made = run(
        f"{SUBJECTS}:elementwise", "--input", "x=randn(6)", "--operator", "diagonal",
        "--budget", "900", "--results", str(tmp_path),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "fastest" in made.stdout
    assert "The code of" in made.stdout
    assert len(list((tmp_path / "runs").glob("*.jsonl"))) == 1


TIMED = ("slower", "faster", "fastest", "undecided", "same", "needed")
"""The end of the row of a mode that was timed: its verdict, or "more time needed"."""


def modes(made):
    """The rows of the table: mode to what is said of it."""
    rows = (line.split() for line in made.stdout.splitlines() if line.startswith(" "))
    return {row[0]: row[-1] for row in rows if len(row) > 2}


@pytest.mark.usefixtures("few_rounds")
def test_own_derivatives_and_inputs_from_a_function_take_part(tmp_path):
    made = run(
        f"{SUBJECTS}:elementwise", "--inputs", f"{SUBJECTS}:made_inputs",
        "--also", f"{SUBJECTS}:own_jacobian", "--also", f"{SUBJECTS}:wrong_jacobian",
        "--operator", "jacobian", "--budget", "900", "--results", str(tmp_path),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert modes(made)["own_jacobian"] in TIMED
    assert "wrong_jacobian: wrong: by x[1, 1]" in made.stdout
    assert re.search(r"Took \d+ s \(budget 900 s\)", made.stdout)
    assert re.search(r"\d+ B", made.stdout), "peak memory beside the time"


@pytest.mark.usefixtures("few_rounds")
def test_a_branch_under_vmap_and_a_death_while_measuring_cost_their_modes_alone(tmp_path):
    for name in ("branching", "late"):
        made = run(
            f"{SUBJECTS}:{name}", "--input", "x=randn(4)", "--operator", "jacobian",
            "--budget", "900", "--results", str(tmp_path),
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        assert "fastest" in modes(made).values()
        said = "vmap" if name == "branching" else r"jacrev[^:]*: crashed: "
        assert re.search(said, made.stdout)
        assert "Traceback" not in made.stderr


@pytest.mark.usefixtures("few_rounds")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_dtypes_are_measured_in_their_own_precision(tmp_path, dtype):
    made = run(
        f"{SUBJECTS}:loss", "--input", "x=rand(4)", "--input", "scale=2.0", "--operator", "hvp",
        "--dtype", dtype, "--budget", "900", "--results", str(tmp_path),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "fastest" in modes(made).values()
    assert "reverse mode twice agrees" in made.stdout


def test_many_entries_are_checked_along_directions_and_a_wrong_one_is_still_seen():
    large = (("x", "randn(2000)"),)
    found = examine(question("elementwise", *large))
    assert re.search(r"along \d+ random directions", found["evidence"][0])
    with pytest.raises(Refusal, match="a backward formula is wrong"):
        examine(question("wrong_backward", *large))


@pytest.mark.usefixtures("few_rounds")
@pytest.mark.parametrize("name", ["holding", "by_module"])
def test_a_function_may_hold_weights_of_its_own_in_single_precision(tmp_path, name):
    made = run(
        f"{SUBJECTS}:{name}", "--input", "x=randn(5, 4)", "--budget", "900",
        "--results", str(tmp_path),
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    assert "agrees with float64 finite differences" in made.stdout
    assert "agrees with reverse mode" in made.stdout
    rows = modes(made)
    assert rows["vmap_jacrev"] in TIMED
    assert "wrong" not in made.stdout


def test_what_cannot_be_formed_is_refused_with_the_reason(tmp_path):
    made = run(
        f"{SUBJECTS}:dense", "--input", "x=randn(3000)", "--operator", "hessian",
        "--results", str(tmp_path),
    )  # fmt: skip
    assert made.returncode == 1
    reason = made.stderr.strip().splitlines()[-1]
    assert "9000000 by 3000 takes 101 GiB, more than the limit of 4 GiB" in reason


@pytest.mark.parametrize("dtype", ["tf32", "float31"])
def test_a_dtype_that_advice_is_not_given_in_is_named(dtype):
    with pytest.raises(Refusal, match=f"dtype '{dtype}' is none of float32, float64"):
        compare(torch.sin, torch.ones(3), dtype=dtype)


def test_a_slow_function_is_answered_within_the_budget_by_what_is_known(tmp_path):
    made = run(
        f"{SUBJECTS}:napping", "--input", "x=rand(4)", "--budget", "15",
        "--results", str(tmp_path),
    )  # fmt: skip
    assert "4 outputs by 4 inputs" in made.stdout
    assert "(budget 15 s)" in made.stdout
    assert not list(tmp_path.rglob("*.p*"))


def test_what_is_found_before_the_process_hangs_or_dies_stays():
    for name, said in (("hanging_nearby", "time ran out while"), ("dying_nearby", "exit code 3")):
        target, maker = f"{SUBJECTS}:{name}", f"{SUBJECTS}:at_start"
        found = examine(Question(target, (), maker=maker, budget=8.0))
        assert found["operators"][0] == "jacobian"
        assert said in found["evidence"][-1]
        assert "def jacobian(x):" in found["code"]["jacrev"]


def test_hopeless_modes_are_ruled_out_by_their_passes_before_a_call():
    found = {
        "passes": {"jacfwd": (4000, True), "loop": (200, False)},
        "transforms": [],
        "traced": [],
        "seconds": 1e-3,
    }
    modes = ["forward", "backward", "jacfwd", "loop"]
    said = ruled_out(found, modes, dict.fromkeys(modes, 0.1))
    assert said == {
        "jacfwd": "4000 passes where 1 will do",
        "loop": "200 passes, each longer than the function's 1 ms: over 200 ms a call",
    }
    assert in_order(found, reversed(modes)) == ["forward", "backward", "jacfwd", "loop"]


def test_of_modes_with_as_many_passes_those_of_torch_func_come_first_and_may_be_the_only_ones():
    modes = ["vectorized", "batched", "jacrev", "jacrev_chunked"]
    passes = dict.fromkeys(modes, (3000, True))
    found = {
        "passes": passes,
        "transforms": ["jacrev", "jacrev_chunked"],
        "traced": [],
        "seconds": 2e-3,
    }
    assert in_order(found, modes) == ["jacrev", "jacrev_chunked", "vectorized", "batched"]
    # Of single passes nothing is copied: the order is that of the modes.
    assert in_order(found | {"passes": {}}, modes) == modes
    assert not ruled_out(found, modes, dict.fromkeys(modes, 6.0))
    # A batch that copies for every pass may take minutes.
    assert list(ruled_out(found, modes, dict.fromkeys(modes, 3.0))) == ["vectorized", "batched"]


def test_modes_that_trace_the_function_in_every_call_come_last():
    found = examine(question("dense", ("x", "randn(8)")))
    traced = [mode for mode in found["code"] if "torch.func.linearize" in found["code"][mode]]
    assert {"linearize_vmap", "linearize_loop"} <= set(traced)
    order = in_order(found, found["code"])
    assert set(order[-len(traced) :]) == set(traced)


@pytest.mark.parametrize(
    ("statuses", "dtype", "also", "said"),
    [
        (
            ["unsupported", "wrong", "wrong"],
            "float32",
            "",
            r"all 2 modes .* wrong in float32, which",
        ),
        (["wrong", "wrong"], "float32", ", in float64 too", r"all 2 modes .* that is wrong\.$"),
        (["wrong"], "float64", "", r"the one mode .* that is wrong\.$"),
        (["wrong", "failed"], "float32", "", r"No mode could be timed\.$"),
        (["unsupported"], "float32", "", r"No mode could be timed\.$"),
    ],
)
def test_where_every_mode_is_wrong_the_function_is_named_as_the_cause(statuses, dtype, also, said):
    modes = [f"mode_{number}" for number in range(len(statuses))]
    rows = [
        SimpleNamespace(mode=m, status=s, verdict="", reason=f"by x{also}")
        for m, s in zip(modes, statuses)
    ]
    code = dict.fromkeys(modes, "")
    found = {"operators": ["gradient"], "code": code, "ruled_out": [], "passes": {}}
    advice = SimpleNamespace(
        rows=lambda: rows,
        budget=30.0,
        found=found | {"traced": [], "transforms": []},
        question=SimpleNamespace(dtype=dtype),
    )
    assert re.search(said, " ".join(sentences(advice)))


@pytest.mark.parametrize(
    ("ratios", "near", "usual"),
    [
        ({"a": (1.01, 0.99, 1.04)}, "a is too close to it to call", ""),
        ({"a": (24, 0.1, 9e3)}, "a was measured too briefly to compare", ""),
        (
            {"a": (1.01, 0.99, 1.04), "b": (1.02, 0.98, 1.05), "c": (7, 0, 1e300)},
            "a, b are too close to it to call, and c was measured too briefly to compare",
            "",
        ),
        ({"usual": (1.0, 0.98, 1.02)}, "", "against usual, the usual choice, it is too close to"),
        ({"usual": (7.7, 0.02, 3e3)}, "", "usual, the usual choice, was measured too briefly to"),
    ],
)
def test_what_was_measured_too_briefly_is_not_called_close(ratios, near, usual):
    rows = [
        SimpleNamespace(
            mode=mode, to_fastest=Ratio(*ends), verdict=Verdict.UNDECIDED, sessions=2, reason=""
        )
        for mode, ends in ratios.items()
    ]
    best = SimpleNamespace(mode="best", to_fastest=Ratio(1, 1, 1), verdict=Verdict.FASTEST)
    advice = SimpleNamespace(
        rows=lambda: [best, *rows],
        first="usual" if usual else "best",
        budget=30.0,
        question=SimpleNamespace(passed=""),
    )
    assert " ".join(close(advice)).startswith(near)
    assert usual in gain(advice)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--device", "cuda:7", "--input", "x=rand(4)"), 1, "--device cuda:7: there "),
        ((), 2, "give the inputs"),
        (("--inputs", f"{SUBJECTS}:no_inputs"), 1, "it returns a int"),
        (("--input", "x=rand(4)", "--also", f"{SUBJECTS}:nothing"), 1, "has no 'nothing'"),
        (("--input", "x=rand(4)", "--operator", "hvp"), 1, "for this function there are"),
    ],
)
def test_each_bad_option_is_one_line(tmp_path, arguments, code, said):
    made = run(f"{SUBJECTS}:elementwise", *arguments, "--results", str(tmp_path))
    assert made.returncode == code
    assert said in made.stderr
    assert "Traceback" not in made.stderr


def test_bad_input_is_one_line_and_no_traceback(tmp_path):
    usage = run("m:f", "--input", "randn(3)", "--results", str(tmp_path))
    assert usage.returncode == 2
    assert "not of the form NAME=EXPR" in usage.stderr
    absent = run("no_such_module:f", "--input", "x=randn(3)", "--results", str(tmp_path))
    assert absent.returncode == 1
    assert "No module named 'no_such_module'" in absent.stderr
    assert "Traceback" not in usage.stderr + absent.stderr


def test_what_the_first_call_shows_stays_where_the_second_ends_the_process(tmp_path):
    target, maker = f"{SUBJECTS}:dying_again", f"{SUBJECTS}:at_start"
    question = Question(target, (), maker=maker, budget=900.0)
    found = advise(question, tmp_path, silent, [])
    assert found.operator == "jacobian"
    assert "calling the function again" in found.found["evidence"][-1]
    assert "exit code 3" in found.found["evidence"][-1]
    assert "def jacobian(x):" in found.code()
    assert "By the count of passes, try" in str(found)
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("moment", ["holding its derivatives", "jacobian/yours"])
def test_ctrl_c_raises_with_what_is_known_and_leaves_nothing(tmp_path, moment):
    def report(progress):
        if progress.label.startswith(moment):
            raise KeyboardInterrupt

    question = Question(f"{SUBJECTS}:dense", (("x", "randn(5)"),), budget=900.0)
    with pytest.raises(Interrupted) as stopped:
        advise(question, tmp_path, report, [])
    said = str(stopped.value.advice)
    assert "5 outputs by 5 inputs" in said
    assert "Stopped before anything was timed. By the count of passes, try" in said
    assert not list(tmp_path.rglob("*.*"))

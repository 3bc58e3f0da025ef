"""The gate: what is right passes, and every planted fault is caught for what it is."""

import itertools
from pathlib import Path

import pytest
import torch

from gradbench import state
from gradbench.core.cases import Comparison
from gradbench.problems import registry
from gradbench.worker import contestant, gate
from gradbench.worker.contestant import SLOW
from gradbench.worker.known import Known
from gradbench.worker.session import Session
from gradbench.worker.settling import settle
from gradbench.worker.subject import Subject, declare

FAULTS = Path(__file__).parent / "suites" / "faults.py"


@pytest.fixture(scope="module")
def session():
    """A worker's session with the built-in registry and the faulty suite."""
    if not registry.FUNCTIONS:
        registry.load_builtin()
    functions, modes = dict(registry.FUNCTIONS), dict(registry.MODES)
    registry.load_file(str(FAULTS))
    yield Session(memory_limit=1 << 30)
    for kept, now in ((functions, registry.FUNCTIONS), (modes, registry.MODES)):
        now.clear()
        now.update(kept)


def prepare(session, operator, function, mode, dtype="float64", size="documents", warm=0):
    session.open(str(Comparison(operator, function, size, dtype)), 0, [1, 2])
    return session.prepare(mode, 0, warm, [0, 1])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("operator", "function", "mode", "says"),
    [
        ("gradient", "square_chain", "wrong_transpose", "instead of"),
        ("gradient", "square_chain", "unreset_grad", "x.grad"),
        ("gradient", "square_chain", "remembers", "instead of"),
        ("gradient", "square_chain", "mutates", "changes x in place"),
        ("gradient", "square_chain", "wrong_dtype", "float16"),
        ("gradient", "square_chain", "not_a_number", "nan"),
        ("jacobian", "wide_map", "zero_column", "0 instead of"),
        ("jacobian", "wide_map", "transposed", "shape (3, 2) instead of (2, 3)"),
    ],
)
def test_planted_faults_are_wrong_and_named(session, operator, function, mode, says, dtype):
    answer = prepare(session, operator, function, mode, dtype)
    assert answer["status"] == "wrong"
    assert says in answer["reason"]


def test_a_wrong_transpose_is_caught_at_every_size(session):
    for size in ("n=1", "n=2", "n=7"):
        answer = prepare(session, "gradient", "square_chain", "wrong_transpose", size=size)
        # In one dimension there is nothing to transpose.
        assert answer["status"] == ("ok" if size == "n=1" else "wrong")


def test_a_mode_that_goes_wrong_later_is_caught_after_timing(session):
    answer = prepare(session, "gradient", "square_chain", "late_liar", warm=1_000_000)
    assert answer["status"] == "ok"
    session.visit([0] * 40)  # A visit has one call at least.
    after = session.check(0, [1])
    assert after["status"] == "wrong"
    assert after["reason"].startswith("after timing")


LATE = """
import torch


class Late(torch.autograd.Function):
    calls = 0

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x ** 3

    @staticmethod
    def backward(ctx, v):
        Late.calls += 1
        return v * 3 * ctx.saved_tensors[0] ** 2 * (1 if Late.calls <= 40 else 1.01)


def late(x):
    return Late.apply(x).sum()
"""


def stepping(step, at=None):
    """A clock that goes on by a step with every reading, or with one of them."""
    read = itertools.count(1)
    now = itertools.accumulate(step if at in (None, n) else 1 for n in read)
    return lambda: next(now)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("delayed", [0, 1, 2, 3, "all calls"])
def test_a_backward_that_goes_wrong_after_forty_calls_is_caught_after_timing(
    session, tmp_path, dtype, delayed, monkeypatch
):
    if delayed == "all calls":  # Others have the processor meanwhile: none is a slow one.
        monkeypatch.setattr(contestant, "CLOCK", stepping(2 * SLOW))
    elif delayed:  # This evaluation in float64 is a slow one, and stands for all.
        monkeypatch.setattr(gate, "CLOCK", stepping(SLOW + 1, at=2 * delayed))
        monkeypatch.setattr(gate, "look", lambda: None)
    file = tmp_path / "late.py"
    file.write_text(LATE)
    with state.preserve(state.Changes(), loading=True):
        subject = Subject(
            {
                "target": f"{file}:late", "inputs": [("x", "randn(5)")], "wrt": [], "seed": 0,
                "dtype": dtype, "passed": "", "maker": "", "also": [],
            }
        )  # fmt: skip
    settle(subject)
    name = f"late_{dtype}_{delayed}".replace(" ", "_")
    declare(subject, "late", ["gradient"], Known(), False, name)
    session.open(str(Comparison("gradient", name, "documents", dtype)), 0, [1, 2])
    answer = session.prepare("grad", 0, 1_000, [0])
    assert answer["status"] == "ok", answer
    # The exact derivatives of both calls, and each dtype's own, are from before.
    session.visit([0] * 40)
    after = session.check(0, [1])
    assert after["status"] == "wrong"
    assert after["reason"].startswith("after timing")


def test_an_error_is_failed_not_wrong_and_keeps_its_line(session):
    answer = prepare(session, "gradient", "square_chain", "raises")
    assert answer["status"] == "failed"
    assert "no such [bold]luck[/bold] today" in answer["reason"]
    assert "faults.py" in answer["where"]


def test_refused_before_anything_is_built(session):
    answer = prepare(session, "jvp", "wide_map", "huge")
    assert answer["status"] == "refused"
    assert "would need about" in answer["reason"]


def test_a_dense_jacobian_is_refused_by_its_size(session):
    answer = prepare(session, "jacobian", "exp", "functional_jacobian", "float32", "n=65536")
    assert answer["status"] == "refused"
    assert "GiB" in answer["reason"]


def test_an_unknown_mode_is_unsupported(session):
    assert prepare(session, "jvp", "wide_map", "nothing")["status"] == "unsupported"


def test_an_api_that_torch_lacks_is_unsupported_by_name(session):
    registry.mode("jvp", name="tomorrow", needs=("torch.func.tomorrow",))(lambda problem: None)
    answer = prepare(session, "jvp", "wide_map", "tomorrow")
    assert answer["status"] == "unsupported"
    assert "torch.func.tomorrow" in answer["reason"]


def test_data_dependent_control_flow_is_unsupported_where_a_mode_cannot_follow_it(session):
    answer = prepare(session, "jvp", "norm_doubling_vector", "linearize", "float32")
    assert answer["status"] == "unsupported"
    assert "branch" in answer["reason"]
    answer = prepare(session, "jacobian", "norm_doubling_vector", "loop_grad", "float32")
    assert answer["status"] == "ok"


@pytest.mark.parametrize("mode", ["forward", "backward", "manual", "func_vjp"])
def test_a_dtype_too_narrow_for_the_answer_is_unsupported_and_says_how_far_it_goes(session, mode):
    answer = prepare(session, "vjp", "norm_doubling", mode, "float16")
    assert answer["status"] == "unsupported"
    assert (
        "overflows float16: its maximum is 6.55e+04, and the exact result has" in answer["reason"]
    )
    assert prepare(session, "vjp", "norm_doubling", mode, "bfloat16")["status"] == "ok"


def test_what_underflows_in_a_narrow_dtype_is_right_and_zeros_for_numbers_are_wrong(session):
    """∂²/∂x² is −y⁴ sin(xy²): less than float16 can tell from zero for y below 0.015."""
    name = ("batch_hessian", "batched_scalar_field_xy")
    assert prepare(session, *name, "grad_twice", "float16")["status"] == "ok"

    @registry.mode("batch_hessian", name="all_zeros")
    def all_zeros(problem):
        """zeros for the whole hessian"""
        return lambda inputs: tuple(inputs[0].new_zeros(shape) for shape in problem.result)

    assert prepare(session, *name, "all_zeros", "float16")["status"] == "wrong"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_error_of_a_few_units_passes_and_of_a_thousand_does_not(session, dtype):
    unit = torch.finfo(getattr(torch, dtype)).eps
    for factor, status in ((4 * unit, "ok"), (1000 * unit, "wrong")):
        registry.MODES.pop(("jacobian", "scaled"), None)

        @registry.mode("jacobian", name="scaled")
        def scaled(problem, factor=factor):
            """the jacobian with a relative error"""
            formula = problem.function.derivatives["jacobian"]
            return lambda inputs: formula(*inputs) * (1 + factor)

        answer = prepare(session, "jacobian", "wide_map", "scaled", dtype)
        assert answer["status"] == status
        assert answer["ulps"] == pytest.approx(factor / unit, rel=0.3)


def test_what_is_left_out_for_want_of_time_is_said(session):
    session.open(str(Comparison("jacobian", "wide_map", "documents", "float32")), 0, [1])
    answer = session.prepare("jacrev", 0, 0, [0], limit=1)
    assert answer["status"] == "ok"
    assert "no time for others" in answer["note"]
    # Whether it is rounding takes draws.
    registry.MODES.pop(("jacobian", "scaled"), None)

    @registry.mode("jacobian", name="scaled")
    def scaled(problem):
        """the jacobian with a relative error"""
        formula = problem.function.derivatives["jacobian"]
        return lambda inputs: formula(*inputs) * (1 + 1e-3)

    answer = session.prepare("scaled", 0, 0, [0], limit=1)
    assert answer["status"] == "refused"
    assert "no time is left to see whether that is rounding" in answer["reason"]
    assert session.prepare("scaled", 0, 0, [0])["status"] == "wrong"


def test_the_fresh_inputs_differ_and_repeat(session):
    name = str(Comparison("gradient", "square_chain", "documents", "float64"))
    session.open(name, 0, [1, 2])
    first = session.gate
    session.open(name, 0, [1, 2])
    second = session.gate
    assert torch.equal(first.fresh[0].inputs[0], second.fresh[0].inputs[0])
    assert not torch.equal(first.fresh[0].inputs[0], first.fresh[1].inputs[0])
    session.open(name, 1, [1, 2])
    assert not torch.equal(first.fresh[0].inputs[0], session.gate.fresh[0].inputs[0])


def test_compiled_vjp_zeros_would_be_caught(session):
    """A vjp of silent zeros, as a compiled one in torch 2.6 gave."""
    registry.mode("vjp", name="zeros")(
        lambda problem: lambda inputs, seed: torch.zeros_like(inputs[0])
    )
    assert prepare(session, "vjp", "wide_map", "zeros")["status"] == "wrong"


@pytest.fixture
def saturated(session):
    """tanh where 1 - y², of autograd's own formula, cancels: the slope at 8 is 4.5e-7."""
    from gradbench.problems.function import Function, elementwise, normal, vector

    registry.FUNCTIONS.pop("saturated", None)
    registry.function(
        Function(
            name="saturated",
            document="",
            formula="tanh",
            derivative="1 / cosh²",
            forward=torch.tanh,
            example=lambda: (vector(0.5, 4.5, 5.0, 8.0),),
            example_size={"n": 4},
            draw=lambda size, g: (8 + normal(g, size["n"]).clamp(-3, 1),),
            derivatives=elementwise(lambda x: torch.cosh(x) ** -2),
        )
    )
    return session


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize(
    ("operator", "mode"),
    [("diagonal", "ones_grad"), ("jacobian", "jacrev"), ("jvp", "dual"), ("vjp", "func_vjp")],
)
def test_what_cancels_inside_is_allowed_for(saturated, operator, mode, dtype):
    answer = prepare(saturated, operator, "saturated", mode, dtype)
    assert answer["status"] == "ok"
    assert 0 < answer["error"] <= 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_error_that_rounding_could_hide_is_found_by_the_modes_own_float64(saturated, dtype):
    registry.MODES.pop(("diagonal", "off"), None)

    @registry.mode("diagonal", name="off")
    def off(problem):
        """autograd's slope, with a factor of 1.01 in the last entry"""

        def call(inputs):
            x = inputs[0].clone().requires_grad_()
            slope = torch.autograd.grad(torch.tanh(x).sum(), x)[0]
            return slope * torch.tensor([1, 1, 1, 1.01], dtype=slope.dtype)

        return call

    answer = prepare(saturated, "diagonal", "saturated", "off", dtype)
    assert answer["status"] == "wrong"
    assert "by x[3]" in answer["reason"]
    assert ("in float64 too" in answer["reason"]) == (dtype == "float32")


def test_a_small_entry_is_not_hidden_by_a_large_one_in_its_row(session):
    registry.MODES.pop(("jacobian", "doubled"), None)

    @registry.mode("jacobian", name="doubled")
    def doubled(problem):
        """the smallest entry of a row is doubled: 1e-6 of the largest"""
        factor = torch.tensor([1, 1, 2])
        return lambda inputs: problem.function.derivatives["jacobian"](*inputs) * factor

    for dtype in ("float32", "float64"):
        assert prepare(session, "jacobian", "wide_map", "doubled", dtype)["status"] == "wrong"


def test_a_message_shows_as_many_digits_as_tell_the_two_numbers_apart():
    from gradbench.worker.comparing import told_apart

    assert told_apart(2.0, 3.0) == ("2", "3")
    found, wanted = told_apart(2.998340001, 2.998340002)
    assert found != wanted
    assert (float(found), float(wanted)) == (2.998340001, 2.998340002)
    # Infinities and NaN, which no digits tell apart, end it too.
    assert told_apart(float("nan"), float("nan")) == ("nan", "nan")

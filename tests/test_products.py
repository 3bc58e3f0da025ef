"""Results with too many entries to compute each exactly: the gate compares random products."""

import pytest
import torch

from gradbench import state
from gradbench.core.cases import YOURS
from gradbench.core.deadline import Deadline
from gradbench.problems import registry
from gradbench.problems.arguments import draw, pose
from gradbench.problems.mode import Unsupported
from gradbench.worker import products
from gradbench.worker.gate import Gate, NoTime
from gradbench.worker.known import Known
from gradbench.worker.settling import settle
from gradbench.worker.subject import Subject, declare

registry.load_builtin()
SUITE = """
import torch

M = torch.randn(30, 30, generator=torch.Generator().manual_seed(0)) / 5


class Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx, v):
        return v * ctx.saved_tensors[0].cos()


def values(x, y):
    m = M.to(x.dtype)
    return torch.tanh(m @ x) * (m @ y.exp())


def one(x, y):
    return (torch.tanh(M.to(x.dtype) @ x) * y).square().sum()


def several(x, y):
    m = M[:7].to(x.dtype)
    return torch.tanh(m @ x) * (m @ y.exp())


def cancelling(x, y):
    square = x * x
    return y * torch.where(torch.arange(30) < 3, square - (square - 1e-3), square)


def reverse_only(x, y):
    return Backward.apply(M.to(x.dtype) @ x) + y


def survival(x, y):
    risk = y[:, None] * y @ x
    return (torch.logcumsumexp(risk, 0) - risk).sum()
"""
PLANTED = {
    "an entry": lambda block: block[3, 5].mul_(1.01),
    "a sign": lambda block: block[3, 5].neg_(),
    "rows": lambda block: block.copy_(block.flip(0)),
    "a column": lambda block: block[..., 4].zero_(),
    "a factor": lambda block: block.mul_(1.001),
}


@pytest.fixture
def gate(tmp_path, monkeypatch):
    """Makes the gate of an operator of a function in `SUITE`, large results by products."""
    monkeypatch.setattr(products, "MOST_CHECKED", 500)
    file = tmp_path / "large.py"
    file.write_text(SUITE)
    modes = dict(registry.MODES)

    def made(name, operator, dtype="float32"):
        spec = {
            "target": f"{file}:{name}", "inputs": [("x", "randn(30)"), ("y", "randn(30)")],
            "wrt": [], "dtype": dtype, "seed": 0, "passed": "", "maker": "", "also": [],
        }  # fmt: skip
        with state.preserve(state.Changes(), loading=True):
            subject = Subject(spec)
        settle(subject)
        function = declare(subject, name, [operator], Known(), False)
        problem, timed = pose(function, operator, None, dtype, "cpu", 1)
        return Gate(problem, timed, [draw(problem, function.example_size, 2)])

    yield made
    registry.MODES.clear()
    registry.MODES.update(modes)
    registry.FUNCTIONS.pop(YOURS, None)


def judged(gate, mode, fault=lambda block: None):
    declared = registry.MODES[gate.problem.operator, mode]
    built = declared.build(gate.problem)

    def call(*arguments):
        blocks = tuple(b.detach().clone() for b in built(*arguments))
        fault(blocks[0])
        return blocks

    return gate.enter(mode, call, declared.leaves).check([0])


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "operator", "modes"),
    [
        ("values", "jacobian", ("jacrev", "jacfwd", "loop_grad")),
        ("one", "hessian", ("func_hessian", "jacrev_jacfwd", "grad_twice")),
        ("several", "hessian", ("func_hessian", "jacrev_jacfwd", "functional_jacobian_twice")),
    ],
)
def test_right_results_pass(gate, name, operator, modes, dtype):
    one = gate(name, operator, dtype)
    assert one.products is not None
    for mode in modes:
        finding = judged(one, mode)
        assert finding.passed, finding.reason


@pytest.mark.parametrize(
    ("name", "operator", "mode", "planted"),
    [
        *(("values", "jacobian", "jacrev", planted) for planted in PLANTED),
        *(("one", "hessian", "func_hessian", planted) for planted in ("an entry", "rows")),
        *(("several", "hessian", "func_hessian", planted) for planted in ("an entry", "a column")),
        *(("reverse_only", "jacobian", "loop_grad", planted) for planted in ("a sign", "a factor")),
    ],
)
def test_planted_errors_are_found(gate, name, operator, mode, planted):
    finding = judged(gate(name, operator), mode, PLANTED[planted])
    assert "times the error allowed" in finding.reason


@pytest.fixture
def planted_mode():
    """Declares a mode that makes `jacrev` wrong in one entry of `values`."""

    def made(factor, dtypes=(torch.float64, torch.bfloat16), own=False):
        def build(problem):
            built = registry.MODES["jacobian", "jacrev"].build(problem)
            if problem.dtype not in dtypes:
                raise Unsupported("not in this dtype")

            def call(inputs):
                blocks = tuple(b.clone() for b in built(inputs))
                blocks[0][3, 5] *= factor
                return blocks

            return call

        if not own:
            build.__module__ = "gradbench.modes.planted"
        registry.mode("jacobian", name="planted")(build)
        return "planted"

    return made


@pytest.mark.parametrize(("most", "own"), [(500, False), (500, True), (10**6, False)])
def test_one_percent_of_an_entry_is_found_in_bfloat16_where_the_mode_computes_in_float64(
    gate, planted_mode, monkeypatch, most, own
):
    monkeypatch.setattr(products, "MOST_CHECKED", most)
    one = gate("values", "jacobian", "bfloat16")
    finding = judged(one, planted_mode(1.01, own=own))
    assert finding.reason.endswith("in float64 too")
    assert judged(one, "jacrev").passed


def test_an_entry_that_is_wrong_in_the_dtype_alone_is_named(gate):
    finding = judged(gate("values", "jacobian", "bfloat16"), "jacrev", lambda b: b[3, 5].mul_(-1))
    assert finding.reason.startswith("by x[3, 5]: ")


def test_a_row_of_several_hessians_is_named_by_its_place(gate):
    finding = judged(
        gate("several", "hessian", "float32"), "func_hessian", lambda b: b[3, 5, 7].mul_(1.001)
    )
    assert finding.reason.startswith("by x, x[3, 5, 7]: ")


def test_the_rows_that_are_most_off_are_compared_where_there_is_no_float64(gate, planted_mode):
    one = gate("values", "jacobian", "bfloat16")
    assert judged(one, planted_mode(1.0, dtypes=(torch.bfloat16,))).passed
    finding = judged(one, "planted", lambda b: b[3, 5].mul_(-1))
    assert finding.reason.startswith("by x[3, 5]: ")


def test_a_float32_table_of_the_users_own_is_no_error_in_bfloat16(gate):
    table = torch.rand(30, 1, generator=torch.Generator().manual_seed(3)).double() + 0.5
    rounded = table.float().double() / table

    def build(problem):
        built = registry.MODES["jacobian", "jacrev"].build(problem)
        return lambda inputs: tuple((b * rounded).to(b) for b in built(inputs))

    registry.mode("jacobian", name="tabled")(build)
    finding = judged(gate("values", "jacobian", "bfloat16"), "tabled")
    assert finding.passed, finding.reason


def test_a_few_rows_that_cancel_take_no_draws_of_all_rows(gate, monkeypatch):
    monkeypatch.setattr(products, "MOST_CHECKED", 10**6)
    one = gate("cancelling", "jacobian")
    assert judged(one, "jacrev").passed
    assert one._expect(False, 0)._spread == []
    finding = judged(one, "jacrev", lambda block: block[5, 5].mul_(1.5))
    assert "by x[5, 5]" in finding.reason


def test_without_forward_mode_products_from_the_left_decide(gate):
    one = gate("reverse_only", "jacobian")
    assert judged(one, "loop_grad").passed
    assert len(one.products.dimensions) == 2


def test_a_constant_inside_torchs_forward_mode_is_no_error_in_a_users_function(gate):
    one = gate("survival", "gradient", "float64")
    assert judged(one, "jacfwd").passed
    finding = judged(one, "jacfwd", lambda block: block[5].mul_(1 + 1e-5))
    assert "by x[5]" in finding.reason


def test_without_time_for_every_entry_products_stand_in(gate, monkeypatch):
    monkeypatch.setattr(products, "MOST_CHECKED", 10**6)
    one = gate("values", "jacobian")
    assert one.products is None
    monkeypatch.setattr("gradbench.worker.gate.REFERENCE_SHARE", 0.0)
    one.deadline = Deadline(1e6)
    assert judged(one, "jacrev").passed
    assert one.products is not None


@pytest.mark.parametrize(
    ("name", "operator", "mode"), [("values", "jacobian", "jacrev"), ("one", "gradient", "jacfwd")]
)
def test_without_time_for_the_exact_derivative_nothing_is_called_right_or_wrong(
    gate, name, operator, mode
):
    one = gate(name, operator)
    one.deadline = Deadline(0)
    with pytest.raises(NoTime, match="derivative take"):
        judged(one, mode)

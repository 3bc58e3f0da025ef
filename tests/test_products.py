"""Results with too many entries to compute each exactly: the gate compares random products."""

import pytest

from gradbench import state
from gradbench.core.cases import YOURS
from gradbench.core.deadline import Deadline
from gradbench.problems import registry
from gradbench.problems.arguments import draw, pose
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
    "a column": lambda block: block[:, 4].zero_(),
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
    ],
)
def test_right_results_pass(gate, name, operator, modes, dtype):
    one = gate(name, operator, dtype)
    assert one.products is not None
    for mode in modes:
        finding = judged(one, mode)
        assert finding.passed, finding.reason


@pytest.mark.parametrize("planted", PLANTED)
@pytest.mark.parametrize(
    ("name", "operator", "mode"),
    [
        ("values", "jacobian", "jacrev"),
        ("one", "hessian", "func_hessian"),
        ("reverse_only", "jacobian", "loop_grad"),
    ],
)
def test_planted_errors_are_found(gate, name, operator, mode, planted):
    finding = judged(gate(name, operator), mode, PLANTED[planted])
    assert "times the error allowed" in finding.reason
    assert "random vector" in finding.reason


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

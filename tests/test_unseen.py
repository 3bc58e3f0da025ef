"""What is said of a function that there was no time to call."""

import sys

import pytest
import torch

from gradbench.advise import unseen
from gradbench.advise.advice import advise
from gradbench.advise.looking import Look
from gradbench.advise.question import Question
from gradbench.runner.progress import silent

FUNCTIONS = """
import torch


def energy(x, k, power=2):
    return (k[: len(x)].float() * x**power).sum()


def wide(x, k):
    return torch.outer(x, k.float()).flatten()


def narrow(x, k):
    return x[:2] * k[0]
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("unseen") / "few_functions.py"
    path.write_text(FUNCTIONS)
    sys.path.insert(0, str(path.parent))
    yield path
    sys.path.remove(str(path.parent))


def found(file, name, **given):
    inputs = (("x", "randn(4)"), ("k", "tensor([2, 3, 4, 5])"))
    return unseen.findings(Question(f"{file}:{name}", inputs, **given))


def pasted(code):
    defined = {}
    exec(code, defined)
    return defined


@pytest.mark.parametrize(
    ("name", "operator"),
    [
        ("energy", "derivative"), ("energy", "gradient"), ("energy", "hessian"),
        ("wide", "derivative"), ("narrow", "derivative"), ("wide", "jacobian"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("wrt", [(), ("x",)])
def test_the_code_differentiates_by_the_size_of_the_value(file, name, operator, wrt):
    code = found(file, name, operator=operator.replace("derivative", ""), wrt=wrt)["code"]
    defined = pasted(code[unseen.CODE])
    x, k = torch.randn(4), torch.tensor([2, 3, 4, 5])
    result = defined[operator](x, k)
    while isinstance(result, tuple):
        (result,) = result
    by = torch.func.hessian if operator == "hessian" else torch.func.jacrev
    torch.testing.assert_close(result, by(defined[name])(x, k))


def test_the_code_of_products_takes_a_seed_or_tangents(file):
    x, k, t = torch.randn(4), torch.tensor([2, 3, 4, 5]), (torch.randn(4),)
    for name, operator, seed in (("narrow", "vjp", torch.ones(2)), ("wide", "jvp", t)):
        defined = pasted(found(file, name, operator=operator)["code"][unseen.CODE])
        jacobian = torch.func.jacrev(defined[name])(x, k)
        wanted = jacobian.T @ seed if operator == "vjp" else jacobian @ t[0]
        result = defined[operator](seed, x, k)
        torch.testing.assert_close(result[0] if operator == "vjp" else result, wanted)
    defined = pasted(found(file, "energy", operator="hvp")["code"][unseen.CODE])
    torch.testing.assert_close(defined["hvp"](t, x, k)[0], 2 * k * t[0])


def test_the_cost_counts_what_the_expressions_of_the_inputs_show(file):
    (said,) = found(file, "wide")["cost"]
    assert said.startswith("wide by x, 4 numbers: if it returns one number")
    assert "jacfwd takes 4 passes" in said
    (said,) = unseen.findings(Question("m:f", (), maker="m:inputs"))["cost"]
    assert "jacfwd takes a pass for each input number" in said
    assert not found(file, "wide", operator="diagonal")["code"]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("randn(3, 4)", 12), ("rand((2, 5))", 10), ("zeros(7)", 7), ("full((2, 2), 1.5)", 4),
        ("linspace(0, 1, 9)", 9), ("tensor([[1.0, 2], [3, 4]])", 4), ("tensor([1, 2])", 0),
        ("randint(3, (5,))", 0), ("2.5", 0), ("load(w.pt)", -1), ("randn(n)", -1),
    ],
)  # fmt: skip
def test_the_numbers_of_an_input_are_read_from_its_expression(text, count):
    assert unseen.numbers(text) == count


def test_where_torch_is_not_imported_in_time_the_answer_still_has_code(file, tmp_path, monkeypatch):
    monkeypatch.setattr(Look, "_left", lambda look: 0.0)
    question = Question(f"{file}:wide", (("x", "randn(4)"), ("k", "tensor([2, 3])")), budget=9.0)
    advice = advise(question, tmp_path, silent, [])
    assert not advice.winner()
    said = str(advice)
    assert "importing torch was not over" in said
    assert "--budget 27" in said
    assert "wide by x, 4 numbers" in " ".join(said.split())
    assert "def derivative(*inputs):" in advice.code()
    assert not list(tmp_path.rglob("*.*"))

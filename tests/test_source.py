"""The source of a lambda for the code to paste, and what that code says of what it lacks."""

import functools
import pickle

import pytest
import torch
import torch.nn.functional as F

from gradbench.advise import live, shown
from gradbench.advise.question import Question
from gradbench.core.source import lambda_source, with_lambda
from gradbench.problems import registry
from gradbench.problems.operators import Problem
from gradbench.worker import paste
from gradbench.worker.subject import Subject

registry.load_builtin()


def pair(*functions):
    return functions


def test_the_source_of_a_lambda_is_found_where_it_stands():
    scale = 2.0
    first, second = pair(lambda x: x.sin().sum(), lambda x: (x * scale).sum())
    assert lambda_source(first) == "lambda x: x.sin().sum()"
    assert lambda_source(second) == "lambda x: (x * scale).sum()"
    assert lambda_source(lambda a, *b, c=1, **d: a) == "lambda a, *b, c=1, **d: a"
    long = pair(
        lambda x: (
            x.sin()
            + 1
        ).sum()
    )[0]  # fmt: skip
    assert eval(lambda_source(long))(torch.zeros(3)) == 3
    assert [lambda_source(lambda x, k=k: x * k) for k in (1, 2)] == ["", ""]


@pytest.mark.parametrize(
    "function", [torch.sin, functools.partial(torch.sum, dim=0), eval("lambda x: x")]
)
def test_what_has_no_source_has_none(function):
    assert lambda_source(function) == ""


def pasted(function, tmp_path):
    """The code to paste of a pass in reverse mode, and the problem's inputs."""
    x = torch.randn(3, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "passed.pickle"
    content = live._pickled((function, {"x": x}, {}))
    path.write_bytes(pickle.dumps(([], "float32", content)))
    target = live._target(function)
    subject = Subject(Question(target, (), passed=str(path)).spec())

    class AsFunction:
        forward = staticmethod(subject.forward)
        differentiated = 1
        name = "yours"
        derivatives = {"gradient": torch.sin}  # noqa: RUF012

    cpu = torch.device("cpu")
    problem = Problem(AsFunction(), "gradient", ((3,),), (), torch.float32, cpu)
    code = paste.code(subject, target, registry.MODES["gradient", "grad"], problem)
    return with_lambda(code, function), x


def test_a_lambda_is_pasted_with_its_source(tmp_path):
    weights = torch.arange(1.0, 4.0)

    def whole(x):
        return F.softplus(weights * x).sum()

    function = lambda x: F.softplus(weights * x).sum()  # noqa: E731
    code, x = pasted(function, tmp_path)
    assert "# weights: as where this was compared\n" in code
    assert "import torch.nn.functional as F\n" in code
    room = {"weights": weights}
    exec(code, room)
    assert torch.equal(room["gradient"](x), torch.func.grad(whole)(x))


def test_code_says_what_to_put_where_there_is_no_source(tmp_path):
    code, x = pasted(eval("lambda x: x.sin().sum()"), tmp_path)
    line = "# Put the function that was compared in place of the dots\nthe_function = ...\n"
    assert line in code
    room = {}
    exec(code.replace("the_function = ...", "the_function = lambda x: x.sin().sum()"), room)
    assert torch.allclose(room["gradient"](x), x.cos())


def test_a_function_with_a_name_is_used_by_it(tmp_path):
    def energy(x):
        return x.sin().sum()

    code, x = pasted(energy, tmp_path)
    assert "# energy is the function that was compared\n" in code
    room = {"energy": energy}
    exec(code, room)
    assert torch.allclose(room["gradient"](x), x.cos())


def test_a_page_has_no_empty_column_and_breaks_no_option():
    rows = [("grad", "1 µs", "1", "", "fastest"), ("jacrev", "2 µs", "2", "", "slower")]
    headings, *filled = shown._filled(shown.HEADINGS, rows)
    assert headings == ("mode", "time", "× fastest", "verdict")
    assert filled[1] == ("jacrev", "2 µs", "2", "slower")
    assert shown._filled(shown.HEADINGS, []) == []
    said = str(shown._options("<f> needs more time (--budget 120)."))
    assert said.startswith("&lt;f&gt; needs")
    assert '<span style="white-space: nowrap">--budget 120</span>' in said

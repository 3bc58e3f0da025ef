"""Errors planted in large results, and how many of them the gate finds: see docs/correctness.md.

Three results of more than four million entries: the Jacobian of exp(Wx), the Jacobian of a user's
function by two inputs, and the Hessian of another. Each error is planted once in each: in the code
of the mode, so that its float64 result has it too; in the result of one dtype alone; and in a mode
that does not compute in float64, as compiled ones. Places are drawn at random. The whole table
takes ten minutes; ``python tests/suites/large_results.py float32`` is one dtype's, and further
words after it are parts of the names of errors: ``bfloat16 row``.
"""

import functools
import sys
from pathlib import Path

import torch

GENERATOR = torch.Generator().manual_seed(0)


def _matrix(*shape):
    """A matrix that bfloat16 represents, so that the function is the same in every dtype."""
    drawn = torch.randn(*shape, generator=GENERATOR) / shape[1] ** 0.5
    return drawn.bfloat16().float()


A, B, C = _matrix(1500, 1500), _matrix(1500, 1400), _matrix(60, 2100) * 4


def values(x, y):
    return torch.tanh(A.to(x.dtype) @ x) * (B.to(x.dtype) @ y)


def values_jacobian(x, y):
    a, b = A.to(x.dtype), B.to(x.dtype)
    t = torch.tanh(a @ x)
    return ((1 - t * t) * (b @ y))[:, None] * a, t[:, None] * b


def energy(x):
    return torch.nn.functional.softplus(C.to(x.dtype) @ x).sum()


def energy_hessian(x):
    c = C.to(x.dtype)
    s = torch.sigmoid(c @ x)
    return ((c.T * (s * (1 - s))) @ c,)


def exp_jacobian(x, w):
    return (torch.exp(w @ x)[:, None] * w,)


SIZES = (0.1, 0.01, 1e-3)
ENTRIES = 100


def _times(places, block, at, size):
    block[places(block, *at)] *= 1 + size


def _small(block, i, j):
    """An entry among the smallest hundredth of its row."""
    return i, int(block[i].abs().argsort()[block.shape[1] // 100])


def _several(block, i, j):
    order = torch.randperm(block.numel(), generator=torch.Generator().manual_seed(i))[:ENTRIES]
    return order // block.shape[1], order % block.shape[1]


def _set(places, value, block, at, size):
    block[places(block, *at)] = value


def _swapped(dim, block, at, size):
    pair = torch.tensor([at[dim], (at[dim] + 1) % block.shape[dim]])
    block.index_copy_(dim, pair, block.index_select(dim, pair.flip(0)))


def _entry(block, i, j):
    return i, j


def _row(block, i, j):
    return i


def _column(block, i, j):
    return slice(None), j


def _all(block, i, j):
    return slice(None)


GRADED = {
    "an entry": _entry,
    "a small entry": _small,
    f"{ENTRIES} entries": _several,
    "a row": _row,
    "a column": _column,
    "all entries": _all,
}
ERRORS = {
    **{
        (kind, size): functools.partial(_times, places)
        for kind, places in GRADED.items()
        for size in SIZES
    },
    ("an entry has the other sign", 0): functools.partial(_times, _entry),
    ("an entry is zero", 0): functools.partial(_set, _entry, 0.0),
    ("an entry is NaN", 0): functools.partial(_set, _entry, torch.nan),
    ("a row is zero", 0): functools.partial(_set, _row, 0.0),
    ("a column is zero", 0): functools.partial(_set, _column, 0.0),
    ("two rows are swapped", 0): functools.partial(_swapped, 0),
    ("two columns are swapped", 0): functools.partial(_swapped, 1),
    ("nothing", 0): None,
}
WHERE = ("in its code", "in this dtype alone", "without float64")
planted = {"error": None, "size": 0.0, "at": (0, 0)}


def declare_modes(jacobians, hessians):
    """Modes with the planted error, one for each of `WHERE`."""
    from gradbench.problems import registry
    from gradbench.problems.mode import Unsupported

    def declare(operator, formulas, where):
        def build(problem):
            if problem.dtype == torch.float64 != planted["dtype"] and where == WHERE[2]:
                raise Unsupported("there is no such mode in float64")
            right = problem.dtype == torch.float64 != planted["dtype"] and where == WHERE[1]

            def call(inputs):
                blocks = formulas[problem.function.name](*inputs)
                if planted["error"] and not right:
                    block = blocks[-1].reshape(-1, blocks[-1].shape[-1])
                    at = tuple(int(u * n) for u, n in zip(planted["at"], block.shape))
                    planted["error"](block, at, planted["size"])
                return blocks

            return call

        build.__module__, build.__doc__ = "gradbench.modes.of_this_file", where
        registry.mode(operator, name=where.replace(" ", "_"))(build)

    for where in WHERE:
        declare("jacobian", jacobians, where)
        declare("hessian", hessians, where)


def gates(dtype):
    """The gates of the three results."""
    from gradbench import state
    from gradbench.problems import registry
    from gradbench.problems.arguments import pose
    from gradbench.worker.gate import Gate
    from gradbench.worker.known import Known
    from gradbench.worker.settling import settle
    from gradbench.worker.subject import Subject, declare

    def own(name, operator, **inputs):
        spec = {"target": f"{Path(__file__).resolve()}:{name}", "inputs": list(inputs.items())}
        spec |= {"wrt": [], "dtype": dtype, "seed": 0, "passed": "", "maker": "", "also": []}
        with state.preserve(state.Changes(), loading=True):
            subject = Subject(spec)
        settle(subject)
        registry.FUNCTIONS.pop(name, None)
        return declare(subject, name, [operator], Known(), False, name), operator, None

    for function, operator, size in (
        (registry.FUNCTIONS["dense_map"], "jacobian", {"m": 2100, "n": 2000}),
        own("values", "jacobian", x="randn(1500)", y="randn(1400)"),
        own("energy", "hessian", x="randn(2100)"),
    ):
        problem, timed = pose(function, operator, size, dtype, "cpu", 1)
        gate = Gate(problem, timed, [])
        assert gate.products is not None
        yield gate


def checked(gate, where):
    """What the gate finds in the mode with the planted error."""
    from gradbench.problems import registry

    gate._wider.clear()
    gate._slow.clear()
    gate._suspects.clear()
    mode = registry.MODES[gate.problem.operator, where.replace(" ", "_")]
    call = mode.build(gate.problem)
    return gate.enter(mode.name, call, mode.leaves).check([], False)


def cell(findings):
    """How many of the errors were caught, and what share of what is allowed the others took."""
    missed = [f"{finding.error:.2f}" for finding in findings if finding.passed]
    shares = f" ({', '.join(missed)})" * bool(planted["error"] and missed)
    return f"{len(findings) - len(missed)} of {len(findings)}{shares}"


def main(dtypes, named=()):
    from gradbench.problems import registry

    registry.load_builtin()
    declare_modes(
        {"dense_map": exp_jacobian, "values": values_jacobian}, {"energy": energy_hessian}
    )
    for dtype in dtypes:
        planted["dtype"] = getattr(torch, dtype)
        kept = list(gates(dtype))
        # In float64 these are all the same.
        columns = WHERE[:1] if dtype == "float64" else WHERE
        print(f"| {dtype}: wrong | by | " + " | ".join(columns) + " |")
        print("|---|---|" + "---|" * len(columns), flush=True)
        for number, ((kind, size), error) in enumerate(ERRORS.items()):
            if named and not any(name in kind for name in named):
                continue
            at = torch.rand(2, generator=torch.Generator().manual_seed(number)).tolist()
            planted.update(error=error, size=-2.0 if "sign" in kind else size, at=at)
            cells = [cell([checked(gate, where) for gate in kept]) for where in columns]
            by = f"{size:g}" if size else ""
            print(f"| {kind} | {by} | " + " | ".join(cells) + " |", flush=True)
        print()


if __name__ == "__main__":
    given = sys.argv[1:]
    every = ["float64", "float32", "bfloat16"]
    main([n for n in every if n in given] or every, [n for n in given if n not in every])

"""The smallest errors in one entry that the gate finds in a large result: see docs/correctness.md.

The result is the Jacobian of exp(Wx), 1000 × 1000; the entry is of ordinary size, or among the
smallest hundredth of its row. Errors are of the mode (in float64 too), of its result in the dtype
alone, or of a mode that does not compute in float64.
"""

import torch

from gradbench.problems import registry
from gradbench.problems.arguments import pose
from gradbench.problems.mode import Unsupported
from gradbench.worker import products
from gradbench.worker.gate import Gate

SIZE = {"m": 1000, "n": 1000}
TRIALS = 3
LADDER = [4.0**-k for k in range(20, -5, -1)]
"""Relative errors of an entry, from small to large."""

products.MOST_CHECKED = 0
registry.load_builtin()
fault = {"at": (0, 0), "by": 0.0}


def declared(name, narrow_only=False, wide=True):
    @registry.mode("jacobian", name=name)
    def build(problem):
        if problem.dtype == torch.float64 and not wide:
            raise Unsupported("there is no such mode in float64")

        def call(inputs):
            x, w = inputs
            block = torch.exp(w @ x)[:, None] * w
            if problem.dtype != torch.float64 or not narrow_only:
                block[fault["at"]] *= 1 + fault["by"]
            return (block,)

        return call

    build.__module__ = "gradbench.modes.of_this_file"
    return name


KINDS = (
    ("in the mode's code", declared("in_code")),
    ("in the result in this dtype alone", declared("in_dtype", narrow_only=True)),
    ("in a mode without float64", declared("in_one_dtype", wide=False)),
)


def smallest(gate, name, at):
    """The smallest error on the ladder from which on all are found, by bisection; None: none is."""
    low, high = -1, len(LADDER)
    while high - low > 1:
        middle = (low + high) // 2
        fault.update(at=at, by=LADDER[middle])
        gate._wider.clear()
        gate._slow.clear()
        mode = registry.MODES["jacobian", name]
        passed = gate.enter(name, mode.build(gate.problem), mode.leaves).check([], False).passed
        low, high = (middle, high) if passed else (low, middle)
    return LADDER[high] if high < len(LADDER) else None


def shown(values):
    worst = sorted(values, key=lambda v: v or 1e300)
    return " to ".join(
        f"{v:.1g}" if v else f"over {LADDER[-1]:g}" for v in dict.fromkeys((worst[0], worst[-1]))
    )


print("| dtype | entry | " + " | ".join(kind for kind, _ in KINDS) + " |")
print("|---|---|" + "---|" * len(KINDS))
function = registry.FUNCTIONS["dense_map"]
for dtype in ("float64", "float32", "float16", "bfloat16"):
    problem, timed = pose(function, "jacobian", SIZE, dtype, "cpu", 1)
    gate = Gate(problem, timed, [])
    exact = torch.exp(timed.inputs[1].double() @ timed.inputs[0].double())[:, None]
    sizes = (exact * timed.inputs[1].double()).abs()
    generator = torch.Generator().manual_seed(0)
    ordinary, small = [], []
    for row in torch.randint(SIZE["m"], (TRIALS,), generator=generator).tolist():
        order = sizes[row].argsort()
        ordinary.append((row, int(order[SIZE["n"] // 2])))
        small.append((row, int(order[SIZE["n"] // 100])))
    for which, places in (("ordinary", ordinary), ("small", small)):
        # In float64 these are all the same.
        kinds = KINDS[:1] if dtype == "float64" else KINDS
        cells = [shown([smallest(gate, name, at) for at in places]) for _, name in kinds]
        cells += [""] * (len(KINDS) - len(kinds))
        print(f"| {dtype} | {which} | " + " | ".join(cells) + " |", flush=True)

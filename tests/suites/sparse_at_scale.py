"""A sparse jacobian beside a dense loop, by size: see docs/advise.md.

The function is the residual of a reaction and diffusion on a periodic grid, each of whose outputs
depends on five inputs: −Δu + u³ − b. Everything is done as `gradbench advise` does it: the pattern
is found by looking, the reference computed in float64, the mode passes the gate. Times are the
fastest of five calls, in one thread; memory is the peak of tensor memory above the start of a call,
and what the process has grown by since the smallest size was looked at, with the pattern, the
reference and the gate.
"""

import resource
import time

import torch

from gradbench.core.deadline import Deadline
from gradbench.core.units import call_time, size
from gradbench.problems import registry
from gradbench.problems.arguments import pose
from gradbench.problems.function import as_tuple
from gradbench.worker.gate import Gate
from gradbench.worker.instruments.peak_memory import on_cpu
from gradbench.worker.known import Known
from gradbench.worker.structures import structure
from gradbench.worker.subject import Subject, declare

GRIDS = ((10, 100), (100, 100), (250, 400), (400, 500))
MODES = ("sparse_rows", "sparse_rows_loop", "sparse_columns", "sparse_columns_loop")
CALLS = 5
PART = 0.01


def residual(u, b):
    around = u.roll(1, 0) + u.roll(-1, 0) + u.roll(1, 1) + u.roll(-1, 1)
    return 4 * u - around + u**3 - b


def timed(call, *arguments, calls=CALLS):
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        call(*arguments)
        times.append(time.perf_counter() - began)
    return min(times)


def row_loop(u, b, count):
    """The first rows of the dense jacobian, a pass each, none of which is kept."""
    u = u.detach().requires_grad_()
    y = residual(u, b)
    for i in range(count):
        seed = torch.zeros_like(y)
        seed.view(-1)[i] = 1.0
        torch.autograd.grad(y, u, seed, retain_graph=True)


def resident():
    """The most memory that the process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(rows, columns, before):
    n = rows * columns
    torch.manual_seed(0)
    u, b = torch.rand(rows, columns) + 0.5, torch.rand(rows, columns)
    subject = Subject(
        {
            "target": f"{__file__}:residual",
            "inputs": [("u", f"rand({rows}, {columns})"), ("b", f"rand({rows}, {columns})")],
            "wrt": ["u"],
            "dtype": "float32",
            "seed": 0,
            "passed": "",
            "maker": "",
            "also": [],
        }
    )
    began = time.perf_counter()
    with subject.wide:
        found = structure(subject, Deadline(600))
    looked = time.perf_counter() - began
    registry.FUNCTIONS.pop("yours", None)
    function = declare(subject, "residual", ["jacobian_sparse"], Known(found), False, "yours")
    problem, arguments = pose(function, "jacobian_sparse", None, "float32", "cpu", 1)
    gate = Gate(problem, arguments, [])
    times, checks, memory = {}, {}, {}
    for name in MODES:
        mode = registry.MODES["jacobian_sparse", name]
        began = time.perf_counter()
        contestant = gate.enter(name, mode.build(problem), mode.leaves)
        finding = contestant.check([], True)
        assert finding.passed, finding.reason
        checks[name] = time.perf_counter() - began
        times[name] = timed(contestant.call, *contestant.arguments)
        memory[name] = on_cpu(contestant.call, contestant.arguments)
    best = min(times, key=times.get)
    entries = sum(block._nnz() for block in as_tuple(contestant.call(*contestant.arguments)))
    count = max(1, round(PART * n))
    loop = timed(row_loop, u, b, count, calls=1)
    dense = 4 * n * n
    return (
        f"| {n:,} × {n:,} | {entries:,} | {found.kind}, {min(found.passes)} | {looked:.2f} s "
        f"| {max(checks.values()):.2f} s | {best} | {call_time(times[best])} "
        f"| {size(memory[best])} | {memory[best] / entries:.0f} | {size(resident() - before)} "
        f"| {size(dense)} "
        f"| {count:,}: {call_time(loop)} |"
    )


def main():
    torch.set_num_threads(1)
    registry.load_builtin()
    print(
        "| jacobian | entries | structure, passes | looking | gate | fastest | a call "
        "| peak memory | bytes an entry | process | dense | 1 % of the rows by a loop |"
    )
    print("|" + "---|" * 12)
    measured(*GRIDS[0], 0)
    before = resident()
    for rows, columns in GRIDS:
        print(measured(rows, columns, before), flush=True)


if __name__ == "__main__":
    main()

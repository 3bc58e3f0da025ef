"""What torch.compile buys and costs, by function and size: the table of docs/when.md.

A compiled mode beside the uncompiled ones of its operator: the first call, which compiles, and the
fastest of several blocks of calls, taken in turns, and the peak of tensor memory above the start of
a call. Nothing compiled is kept on disk, and torch's
own start, the first compilation of a process, is shown apart. Results are compared.
"""

import os
import sys
import tempfile
import time
import warnings

os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()
os.environ["TORCHINDUCTOR_FX_GRAPH_CACHE"] = "0"
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
os.environ["KINETO_LOG_LEVEL"] = "99"

import torch

from gradbench.core.cases import parse_size
from gradbench.core.units import call_time
from gradbench.core.units import size as in_bytes
from gradbench.problems import registry
from gradbench.problems.arguments import pose
from gradbench.problems.function import as_tuple
from gradbench.worker.gate import Gate
from gradbench.worker.instruments.peak_memory import on_cpu

CASES = (
    ("gradient", "mse", "m=10", "compiled_grad", "grad backward"),
    ("gradient", "mse", "m=1000000", "compiled_grad", "grad backward"),
    ("diagonal", "log_sin_reciprocal", "n=10", "compiled_ones_vjp", "ones_grad ones_backward"),
    ("diagonal", "log_sin_reciprocal", "n=1000000", "compiled_ones_vjp", "ones_grad ones_backward"),
    ("jacobian", "softmax", "m=10", "compiled_jacrev", "grads_batched jacrev loop_grad"),
    ("jacobian", "softmax", "m=1000", "compiled_jacrev", "grads_batched jacrev"),
    ("gradient", "lse", "n=100", "compiled_grad", "grad backward"),
    ("gradient", "lse", "n=1000000", "compiled_grad", "grad backward"),
    ("gradient", "gmm", "k=5,n=200,d=2", "compiled_grad", "grad backward"),
    ("gradient", "gmm", "k=25,n=1000,d=64", "compiled_grad", "grad backward"),
    ("gradient", "kmeans", "k=25,n=10000,d=10", "compiled_grad", "grad backward"),
    ("gradient", "lstm", "l=1,h=8,T=8", "compiled_grad", "grad backward"),
    ("gradient", "lstm", "l=2,h=16,T=24", "compiled_grad", "grad backward"),
    ("hvp", "lse", "n=1000", "compiled_hvp", "grad_twice forward_over_reverse"),
    ("hvp", "lse", "n=1000000", "compiled_hvp", "grad_twice forward_over_reverse"),
    ("batch_jacobian", "reprojection", "N=100", "compiled_vmap_jacrev", "grads_batched loop_grad"),
    ("batch_jacobian", "reprojection", "N=10000", "compiled_vmap_jacrev",
     "grads_batched loop_grad"),
)  # fmt: skip
ROUNDS, BLOCK = 7, 0.02


def entered(operator, function, size, name):
    """A mode's call on arguments of its own."""
    problem, timed = pose(function, operator, parse_size(size), "float32", "cpu", 0)
    mode = registry.MODES[operator, name]
    contestant = Gate(problem, timed, []).enter(name, mode.build(problem), mode.leaves)
    return lambda: contestant.call(*contestant.arguments)


def seconds(call, number):
    began = time.perf_counter()
    for _ in range(number):
        call()
    return (time.perf_counter() - began) / number


def compared(operator, function, size, compiled, others):
    """The first call of a compiled mode, and the fastest calls and the peak memory of it and of the
    others."""
    calls = {name: entered(operator, function, size, name) for name in others.split()}
    right = [block.detach().clone() for block in as_tuple(next(iter(calls.values()))())]
    fast = entered(operator, function, size, compiled)
    began = time.perf_counter()
    found = as_tuple(fast())
    compiling = time.perf_counter() - began
    for mine, wanted in zip(found, right, strict=True):
        torch.testing.assert_close(mine.detach(), wanted, rtol=1e-3, atol=1e-3)
    calls[compiled] = fast
    numbers = {name: max(1, int(BLOCK / seconds(call, 3))) for name, call in calls.items()}
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            least[name] = min(least[name], seconds(call, numbers[name]))
    return compiling, least, {name: on_cpu(call, ()) for name, call in calls.items()}


def main():
    registry.load_builtin()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    torch.compile(lambda x: x + 1)(torch.ones(3))
    print(f"the first compilation of a process: {time.perf_counter() - began:.1f} s")
    print(
        "| derivative | fastest uncompiled → compiled | factor | peak memory | compiling "
        "| pays after |"
    )
    print("|---|---|---|---|---|---|")
    for operator, name, size, compiled, others in CASES:
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        compiling, least, peak = compared(
            operator, registry.FUNCTIONS[name], size, compiled, others
        )
        fast = least.pop(compiled)
        best = min(least, key=least.get)
        saved = least[best] - fast
        pays = f"{compiling / saved:,.0f} calls" if saved > 0 else "never"
        print(
            f"| {operator} of `{name}`, {size} | {call_time(least[best])} `{best}` "
            f"→ {call_time(fast)} | {least[best] / fast:.2f} "
            f"| {in_bytes(peak[best])} → {in_bytes(peak[compiled])} | {compiling:.1f} s | {pays} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

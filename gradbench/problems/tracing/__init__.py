"""The zeros of a Jacobian, traced through the operations of a function.

Every number that the function computes carries the set of the coordinates that it may depend on, as
in SparseConnectivityTracer.jl (A. Hill and G. Dalle, 2025). The sets follow from what the
operations are, not from the numbers, so the pattern is true for every input, unless the function
looks at its numbers: a branch, or an index made of them. An operation without a rule depends on all
that goes in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradbench.core.deadline import Deadline
from gradbench.problems.tracing.products import RULES
from gradbench.problems.tracing.rules import everything, pointwise
from gradbench.problems.tracing.sets import CoordinateSets, TooMany
from gradbench.problems.tracing.tracer import Reads, Tracer


@dataclass(frozen=True)
class Traced:
    """The entries that a Jacobian can have, by row and column, or why they are not known."""

    rows: Tensor
    columns: Tensor
    failed: str = ""
    branches: tuple[int, ...] = ()
    """The inputs whose values decided what was computed, by number: the entries are those of that
    branch. Empty for a pattern that is true for every input."""
    batched: bool = False
    """Whether each sample of the value along dimension 0 depends on that sample of every input
    alone; then the entries may be too many to be listed."""


def trace(
    f: Callable[..., Tensor],
    wrt: Sequence[Tensor],
    constants: Sequence[Tensor],
    deadline: Deadline,
) -> Traced:
    """The pattern of the jacobian of ``f(*wrt, *constants)`` by the inputs `wrt` together.

    Columns count through the inputs, each flattened, one after another. `f` runs once, with its
    inputs as leaves. The values of constants are inputs too: where they decide, `branches` has
    them. Raises what `f` raises.
    """
    leaves = [x.detach().clone().requires_grad_() for x in wrt]
    others = [x.detach().clone() for x in constants]
    sets = CoordinateSets(sum(x.numel() for x in leaves))
    tracer = Tracer(RULES, pointwise, everything, sets, deadline)
    begin = 1
    for i, x in enumerate(leaves):
        tracer.write(x, torch.arange(begin, begin + x.numel()).reshape(x.shape), 1 << i)
        begin += x.numel()
    for i, x in enumerate(others, len(leaves)):
        tracer.write(x, None, 1 << i)
    tracer.differentiated = (1 << len(leaves)) - 1
    none = torch.empty(0, dtype=torch.int64)
    with torch.enable_grad():
        with Reads(tracer), tracer:
            y = f(*leaves, *others)
        if tracer.failed:
            return Traced(none, none, tracer.failed)
        found = tracer.sets_of(y)
    branches = tuple(i for i in range(len(leaves) + len(others)) if tracer.branches >> i & 1)
    if found is None:
        return Traced(none, none, branches=branches)
    try:
        rows, columns = sets.members(found.reshape(-1))
    except TooMany:
        batched = _is_batched(sets, found, leaves)
        failed = "" if batched else "its entries are too many to list"
        return Traced(none, none, failed, branches, batched)
    return Traced(rows, columns, branches=branches)


def _is_batched(sets: CoordinateSets, found: Tensor, inputs: Sequence[Tensor]) -> bool:
    batch = len(found) if found.dim() else 0
    if batch < 2 or any(not x.dim() or len(x) != batch for x in inputs):
        return False
    sample = torch.cat([torch.arange(batch).repeat_interleave(x.numel() // batch) for x in inputs])
    rows = found.reshape(batch, -1)
    samples = torch.arange(batch)[:, None].expand(rows.shape)
    distinct = torch.unique(torch.stack([samples.reshape(-1), rows.reshape(-1)]), dim=1)
    try:
        positions, members = sets.members(distinct[1])
    except TooMany:
        return False
    return torch.equal(distinct[0][positions], sample[members])

"""The entries that a sparse jacobian has: found by looking, declared by the function, or traced."""

from __future__ import annotations

import contextlib

import torch

from gradbench.core.deadline import Deadline
from gradbench.problems.mixing import Mixed, mixed_of
from gradbench.problems.mode import Unsupported
from gradbench.problems.operators import Problem
from gradbench.problems.structure import Structure, structure_of
from gradbench.problems.tracing import trace

SECONDS = 60.0
"""What tracing may take."""

KEPT = 2
"""How many structures are kept: those of the comparison in hand."""

INDEX_BYTES = 8
"""Of an index along one dimension."""

_FOUND: dict[str, tuple[Structure, Mixed | None]] = {}
_KEPT: dict[tuple[str, tuple[tuple[int, ...], ...]], Structure] = {}
_SPLIT: dict[tuple[str, tuple[tuple[int, ...], ...]], Mixed | None] = {}


def know(function: str, structure: Structure, mixed: Mixed | None = None) -> None:
    """Makes known what was found by looking at the function of this name: the structure of its
    jacobian, and the split into passes of both directions where there is one."""
    _FOUND[function] = structure, mixed
    _KEPT.clear()
    _SPLIT.clear()


def sparsity(problem: Problem) -> Structure:
    """The structure of the problem's jacobian, with the entries listed.

    Raises Unsupported where its entries are not known, or none of them is zero.
    """
    structure = _kept(problem)
    entries = structure.rows.numel()
    if not entries:
        raise Unsupported(f"its jacobian has no zeros that are known: {structure.evidence}")
    if entries == problem.outputs * problem.coordinates:
        raise Unsupported("no entry of its jacobian is always zero: ask for the dense jacobian")
    return structure


def _kept(problem: Problem) -> Structure:
    """The structure of the problem's jacobian; without entries where they are too many to list."""
    key = (problem.function.name, problem.inputs)
    if key not in _KEPT:
        structure = _found(problem)
        while len(_KEPT) >= KEPT:
            del _KEPT[next(iter(_KEPT))]
        _KEPT[key] = structure
    return _KEPT[key]


def split(problem: Problem) -> Mixed:
    """Which entries of the problem's jacobian come from passes in reverse mode, the others in
    forward mode. Raises Unsupported where passes in one direction are as few."""
    structure = sparsity(problem)
    key = (problem.function.name, problem.inputs)
    if key not in _SPLIT:
        while len(_SPLIT) >= KEPT:
            del _SPLIT[next(iter(_SPLIT))]
        known = _FOUND.get(problem.function.name)
        _SPLIT[key] = known[1] if known else mixed_of(structure, Deadline(SECONDS))
    mixed = _SPLIT[key]
    if mixed is None:
        raise Unsupported("passes in both directions save none: those in one are as few")
    return mixed


def numbers(problem: Problem) -> int:
    """What a sparse jacobian holds, in numbers of the problem's dtype: values and their indices.

    Those of a dense one where the entries are not known.
    """
    entries = 0
    with contextlib.suppress(Unsupported):
        entries = _kept(problem).rows.numel()
    lengths = [len(problem.output) + len(shape) for shape in problem.wrt]
    each = 1 + max(lengths, default=0) * INDEX_BYTES // problem.width
    return (entries or problem.outputs * problem.coordinates) * each


def _found(problem: Problem) -> Structure:
    function = problem.function
    known = _FOUND.get(function.name)
    if known is not None:
        if known[0].inputs != problem.wrt:
            raise Unsupported("the structure was found at another size")
        return known[0]
    if function.pattern is not None:
        rows, columns = function.pattern(problem.inputs)
        evidence, is_global = "declared by the function", True
    else:
        rows, columns, is_global = _traced(problem)
        evidence = "traced through the operations"
    return structure_of(
        problem.wrt, problem.output, rows, columns, evidence, is_global=is_global, saving=False
    )


def _traced(problem: Problem) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """The entries by row and column, and whether they are the same for all inputs."""
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.rand(shape, generator=generator, dtype=torch.float64) + 0.5
        for shape in problem.inputs
    ]
    n = problem.differentiated
    try:
        traced = trace(problem.forward, inputs[:n], inputs[n:], Deadline(SECONDS))
    except Exception as error:
        raise Unsupported(f"its pattern cannot be traced: {type(error).__name__}") from error
    if traced.failed:
        raise Unsupported(f"its pattern cannot be traced: {traced.failed}")
    return traced.rows, traced.columns, not traced.branches

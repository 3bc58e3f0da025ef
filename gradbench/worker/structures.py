"""The zeros of a user's jacobian, and whether its samples are independent."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gradbench.core.deadline import Deadline
from gradbench.problems.detection import MOST_COORDINATES, detect, filled, products
from gradbench.problems.structure import POINTS, Structure, blocks, dense, structure_of
from gradbench.problems.tracing import Traced, trace
from gradbench.worker.reference import AGREEMENT
from gradbench.worker.samples import number_of, parts_of_a_value, rows_of
from gradbench.worker.subject import Subject

TRACING, TRACING_ALONE = 0.3, 0.8
"""The part of the time that is left that tracing may take, and where bisection cannot stand in for
it."""

FEW_TIMES, FEW_MORE = 3, 4
"""A pattern that holds for every input may take so many times the passes of one that holds near the
input, or so many more: they share one batched pass, and the other has to check itself."""

MOST_SECONDS = 30.0
"""What tracing may take at most: a trace costs tens of microseconds per operation."""


def structure(subject: Subject, deadline: Deadline | None = None) -> Structure:
    """The structure of the jacobian by the differentiated inputs.

    The zeros are traced through the operations and compared with products at points near the given
    ones; where the trace leaves no zeros, or none that are true for every input, they are those at
    these points. The same in every process: the seeds are fixed. Raises what the function raises.
    """
    return _structure(subject, subject.forward, tuple(_value_shape(subject)), deadline)


def hessian_structure(subject: Subject, deadline: Deadline | None = None) -> Structure:
    """The structure of the hessian of a function of one number, as the jacobian of its gradient.

    Its rows are numbered like its columns. Its pattern is symmetric. Raises what the function
    raises.
    """
    n = subject.differentiated

    def gradient(*inputs: Tensor) -> Tensor:
        wrt = inputs[:n]
        y = subject.forward(*inputs)
        grads: tuple[Tensor | None, ...] = (None,) * n
        if y.requires_grad:
            grads = torch.autograd.grad(y, wrt, create_graph=True, allow_unused=True)
        return torch.cat(
            [(torch.zeros_like(x) if g is None else g).reshape(-1) for g, x in zip(grads, wrt)]
        )

    size = sum(x.numel() for x in subject.values[:n])
    return _structure(subject, gradient, (size,), deadline, symmetric=True)


def _value_shape(subject: Subject) -> torch.Size:
    return subject.forward(*subject.values).shape


def _structure(
    subject: Subject,
    f: Callable[..., Tensor],
    output: tuple[int, ...],
    deadline: Deadline | None,
    symmetric: bool = False,
) -> Structure:
    n, deadline = subject.differentiated, deadline or Deadline(math.inf)
    wrt, constants = subject.values[:n], subject.values[n:]
    shapes = tuple(tuple(x.shape) for x in wrt)
    if math.prod(output) < 2 or sum(x.numel() for x in wrt) < 2:
        return dense(shapes, output, "a jacobian of one row or column has no structure")
    alone = max(math.prod(output), sum(x.numel() for x in wrt)) > MOST_COORDINATES
    share = TRACING_ALONE if alone else TRACING
    limit = Deadline(min(share * deadline.left, MOST_SECONDS))
    try:
        traced = trace(f, wrt, constants, limit)
    except Exception as error:
        # It runs without the trace: some functions depend on how they are dispatched.
        none = torch.empty(0, dtype=torch.int64)
        traced = Traced(none, none, f"it raises {type(error).__name__} while it is traced")
    known = _known(subject, traced, shapes, output, symmetric)
    drawn = [subject.draw(None, torch.Generator().manual_seed(s)) for s in range(POINTS)]
    jvp, vjp = products(lambda *x: f(*x, *constants), [inputs[:n] for inputs in drawn])
    if symmetric:
        # A gradient by `torch.autograd.grad` has no forward mode through `torch.func`.
        jvp = None
    generator = torch.Generator().manual_seed(0)
    why = f"tracing failed: {traced.failed}"
    if known is not None and known.kind != "dense":
        shown = filled(known, jvp, vjp, POINTS, generator, deadline)
        if shown is None or shown[1]:
            return known if shown is None else _cheaper(known, shown[0])
        why = "the derivative has entries that the operations do not explain: is a backward wrong?"
    elif known is not None:
        why = "traced through the operations it is dense"
    seen = detect(jvp, vjp, shapes, output, generator, deadline=deadline)
    rows, columns = seen.rows, seen.columns
    if known is not None and known.kind != "dense" and seen.kind != "dense":
        # What either has is an entry.
        keys = torch.cat([known.rows, rows]) * known.coordinates
        keys = torch.unique(keys + torch.cat([known.columns, columns]))
        rows, columns = keys // known.coordinates, keys % known.coordinates
    elif seen.kind == "dense" and known is not None and known.kind == "dense":
        return known
    if seen.kind == "dense":
        return seen
    evidence = f"{seen.evidence}; {why}"
    return structure_of(shapes, output, rows, columns, evidence, is_global=False)


def _known(
    subject: Subject,
    traced: Traced,
    shapes: tuple[tuple[int, ...], ...],
    output: tuple[int, ...],
    symmetric: bool,
) -> Structure | None:
    """The structure that was traced; None if tracing failed."""
    if traced.failed:
        return None
    is_global = not traced.branches
    if is_global:
        evidence = "traced through the operations"
    else:
        names = ", ".join(subject.names[i] for i in traced.branches)
        evidence = f"traced through the operations that ran, which the values of {names} decided"
    if traced.batched:
        return blocks(shapes, output, evidence, is_global=is_global)
    rows, columns = traced.rows, traced.columns
    if symmetric:
        n = math.prod(output)
        keys = torch.unique(torch.cat([rows * n + columns, columns * n + rows]))
        rows, columns = keys // n, keys % n
    return structure_of(shapes, output, rows, columns, evidence, is_global=is_global)


def _cheaper(known: Structure, nonzero: Tensor) -> Structure:
    """The traced structure, or that of the entries that products show if it takes far fewer
    passes."""
    count = int(nonzero.sum())
    if not known.entries:
        return known
    evidence = f"{known.evidence}; {count} of its {known.entries} entries were not zero at "
    evidence += f"{POINTS} random points"
    if count < known.entries:
        rows, columns = known.rows[nonzero], known.columns[nonzero]
        seen = structure_of(
            known.inputs, known.output, rows, columns,
            f"{evidence}, and these take {{}} passes instead of {min(known.passes)}",
            is_global=False,
        )  # fmt: skip
        few = min(seen.passes)
        if seen.kind != "dense" and min(known.passes) > max(FEW_TIMES * few, few + FEW_MORE):
            return replace(seen, evidence=seen.evidence.format(few))
    return replace(known, evidence=evidence)


def per_sample(subject: Subject) -> str:
    """The evidence that output i depends on row i of the constants alone, and the differentiated
    inputs are shared; empty where it does not, or where there are no rows."""
    y = subject.forward(*subject.values)
    n = subject.differentiated
    if y.dim() == 0:
        return _per_sample_of_one(subject)
    if len(y) < 2:
        return ""
    rows = [x.dim() > 0 and len(x) == len(y) for x in subject.values[n:]]
    if not any(rows):
        return ""
    places = sorted({0, len(y) // 2, len(y) - 1})
    for seed in range(POINTS):
        inputs = subject.draw(None, torch.Generator().manual_seed(seed))
        whole = subject.forward(*inputs)
        for i in places:
            one = [x[i : i + 1] if row else x for x, row in zip(inputs[n:], rows)]
            try:
                alone = subject.forward(*inputs[:n], *one)
            except Exception:
                return ""
            if alone.shape != whole[i : i + 1].shape or not torch.allclose(
                alone, whole[i : i + 1], rtol=AGREEMENT, atol=AGREEMENT * float(whole.abs().max())
            ):
                return ""
    names = ", ".join(name for name, row in zip(subject.names[n:], rows) if row)
    return (
        f"per sample, near this input: outputs {', '.join(map(str, places))} came out the same "
        f"from their own rows of {names} alone, at {POINTS} random points"
    )


def _per_sample_of_one(subject: Subject) -> str:
    """The same of a function of one number: the evidence that it is the mean or the sum of what it
    makes of each sample alone."""
    kinds = set()
    for seed in range(POINTS):
        inputs = subject.draw(None, torch.Generator().manual_seed(seed))
        try:
            kinds.add(parts_of_a_value(subject, inputs))
        except Exception:
            return ""
    if len(kinds) > 1 or "" in kinds:
        return ""
    count = number_of(subject, subject.values)
    rows = rows_of(subject, subject.values, count)
    names = ", ".join(name for name, row in zip(subject.names, rows) if row)
    return (
        f"per sample, near this input: the value is the {kinds.pop()} of those of parts of the "
        f"{count} rows of {names}, each alone, at {POINTS} random points"
    )

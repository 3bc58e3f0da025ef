"""The rules of products, windows and normalization, and the table of all rules."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradbench.problems.tracing.rules import BASIC, everything, is_constant, named, united
from gradbench.problems.tracing.tracer import Operation, Rule

MOST_PRODUCTS = 2_000_000
"""The terms of a matmul beyond which the zeros of a constant factor are not looked at."""


# -- normalization ------------------------------------------------------------------------------


def _normalized(
    operation: Operation, along: Tensor | None, shape: Sequence[int]
) -> list[Tensor | None]:
    """The first target from the sets of its statistics and of the weights, the others whole."""
    weights = [operation.sets(name) for name in ("weight", "bias")]
    parts = [along, *(w if w is None else w.reshape(tuple(shape)) for w in weights)]
    rest = [everything(operation) for _ in operation.targets[1:]]
    return [united(operation, parts), *rest]


def _layer_norm(operation: Operation) -> list[Tensor | None]:
    sets, last = operation.sets("input"), operation.bound["normalized_shape"]
    if sets is not None:
        dims = list(range(sets.dim() - len(last), sets.dim()))
        sets = operation.tracer.sets.along(sets, dims)
    return _normalized(operation, sets, last)


def _batch_norm(operation: Operation) -> list[Tensor | None] | Tensor | None:
    x = operation.bound["input"]
    if operation.targets[0].shape != x.shape:
        return everything(operation)
    sets = operation.sets("input")
    training = operation.bound.get("training", operation.bound.get("train", True))
    if sets is not None and training:
        dims = [d for d in range(x.dim()) if d != 1]
        sets = operation.tracer.sets.along(sets, dims)
    return _normalized(operation, sets, [1, -1] + [1] * (x.dim() - 2))


def _group_norm(operation: Operation) -> list[Tensor | None]:
    x, groups = operation.bound["input"], operation.bound["group"]
    sets = operation.sets("input")
    if sets is not None:
        rows = sets.reshape(x.shape[0] * groups, -1)
        along = operation.tracer.sets.along(rows, [1])
        sets = along.expand(rows.shape).reshape(x.shape)
    return _normalized(operation, sets, [1, -1] + [1] * (x.dim() - 2))


# -- products -----------------------------------------------------------------------------------


def _product(operation: Operation, left: Tensor, right: Tensor) -> Tensor | None:
    """The sets of a matrix product: rows of the left with columns of the right factor."""
    tracer = operation.tracer
    a, b = tracer.sets_of(left), tracer.sets_of(right)
    left, right = _densified(left), _densified(right)
    vectors = left.dim() == 1, right.dim() == 1
    found: Tensor | None = None
    if a is not None and b is None and is_constant(operation, right):
        found = _by_zeros(operation, a, right)
    elif b is not None and a is None and is_constant(operation, left):
        found = _by_zeros(operation, _transposed(b), _transposed(left))
        found = None if found is None else _transposed(found)
    if found is not None:
        return found
    rows = None if a is None else tracer.sets.along(a, [a.dim() - 1])
    columns = None
    if b is not None:
        columns = tracer.sets.along(b, [b.dim() - 1 if vectors[1] else b.dim() - 2])
        columns = columns[0] if vectors[1] else columns
    if rows is not None:
        rows = rows[..., 0] if vectors[1] else rows
    if vectors[0] and columns is not None:
        columns = columns.reshape(columns.shape[1:])
    return united(operation, [rows, columns])


def _transposed(factor: Tensor) -> Tensor:
    return factor.mT if factor.dim() > 1 else factor


def _densified(factor: Tensor) -> Tensor:
    """A sparse factor with its zeros."""
    return factor if factor.layout == torch.strided else factor.to_dense()


def _by_zeros(operation: Operation, sets: Tensor, factor: Tensor) -> Tensor | None:
    """The sets of ``x @ factor``, where the constant factor has zeros; None if it has none, or too
    many numbers."""
    if factor.dim() > 2 or sets.dim() > 2:
        return None
    matrix = factor if factor.dim() == 2 else factor[:, None]
    inner, outer = (matrix != 0).nonzero(as_tuple=True)
    rows = sets if sets.dim() == 2 else sets[None]
    if inner.numel() == matrix.numel() or inner.numel() * len(rows) > MOST_PRODUCTS:
        return None
    count = matrix.shape[1]
    groups = torch.arange(len(rows))[:, None] * count + outer
    numbers = rows[:, inner]
    union = operation.tracer.sets.unions(
        groups.reshape(-1), numbers.reshape(-1), len(rows) * count
    ).reshape(len(rows), count)
    if factor.dim() == 1:
        union = union[:, 0]
    return union if sets.dim() == 2 else union[0]


def product(left: str, right: str, added: str = "") -> Rule:
    def rule(operation: Operation) -> Tensor | None:
        factors = operation.bound[left], operation.bound[right]
        parts = [_product(operation, *factors)]
        if added and operation.bound.get("beta", 1) != 0:
            parts.append(operation.sets(added))
        return united(operation, parts)

    return rule


def _addr(operation: Operation) -> Tensor | None:
    first, second = operation.sets("vec1"), operation.sets("vec2")
    column = None if first is None else first[:, None]
    return united(operation, [operation.sets("self"), column, second])


def _distances(operation: Operation) -> Tensor | None:
    parts = []
    for name, away in (("x1", -1), ("x2", -2)):
        sets = operation.sets(name)
        if sets is not None:
            along = operation.tracer.sets.along(sets, [sets.dim() - 1])
            parts.append(along if away == -1 else along.mT)
    return united(operation, parts)


# -- windows ------------------------------------------------------------------------------------


def _listed(value: Any, count: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * count if len(values) == 1 else values


def _windowed(
    operation: Operation,
    sets: Tensor,
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    taps: Tensor | None = None,
) -> Tensor:
    """The unions over the windows along the last dimensions; `taps` says which count."""
    count = len(kernel)
    pads: list[int] = []
    for d in range(count):
        reach = (out[d] - 1) * stride[d] + dilation[d] * (kernel[d] - 1) + 1
        after = max(0, reach - sets.shape[d - count] - padding[d])
        pads = [padding[d], after, *pads]
    padded = torch.nn.functional.pad(sets, pads)
    union: Tensor | None = None
    for tap in itertools.product(*(range(k) for k in kernel)):
        if taps is not None and not taps[tap]:
            continue
        part = padded
        for d in range(count):
            begin = tap[d] * dilation[d]
            end = begin + (out[d] - 1) * stride[d] + 1
            part = part.narrow(d - count, begin, end - begin)
            part = part.movedim(d - count, 0)[:: stride[d]].movedim(0, d - count)
        union = united(operation, [union, part])
    shape = (*sets.shape[: sets.dim() - count], *out)
    return torch.zeros(shape, dtype=torch.int64) if union is None else union


def _pooled(operation: Operation) -> Tensor | None:
    bound, sets = operation.bound, operation.sets("self")
    if sets is None:
        return None
    kernel = list(bound["kernel_size"])
    count = int(operation.name.partition("d")[0][-1])
    kernel = _listed(kernel, count)
    stride = _listed(bound["stride"] or kernel, count)
    dilation = _listed(bound.get("dilation") or 1, count)
    out = operation.targets[0].shape[-count:]
    return _windowed(
        operation, sets, out, kernel, stride, _listed(bound["padding"], count), dilation
    )


def _spaced(sets: Tensor, stride: Sequence[int]) -> Tensor:
    """The sets with empty ones between them, along the last dimensions."""
    for d, step in zip(range(-len(stride), 0), stride):
        narrow = sets.movedim(d, -1)
        wide = narrow.new_zeros(*narrow.shape[:-1], (narrow.shape[-1] - 1) * step + 1)
        wide[..., ::step] = narrow
        sets = wide.movedim(-1, d)
    return sets


def _filters(operation: Operation, filters: Tensor) -> Tensor:
    """The set of all weights of each output channel.

    A filter is (outputs, inputs / groups, …), if transposed (inputs, outputs / groups, …).
    """
    if operation.bound["transposed"]:
        own = filters.reshape(operation.bound["groups"], -1, *filters.shape[1:])
        return operation.tracer.sets.along(own, [1, *range(3, own.dim())]).reshape(-1)
    return operation.tracer.sets.along(filters, list(range(1, filters.dim()))).reshape(-1)


def _convolved(operation: Operation) -> Tensor | None:
    bound = operation.bound
    x, weight, target = bound["input"], bound["weight"], operation.targets[0]
    count, groups = weight.dim() - 2, bound["groups"]
    bias, sets = operation.sets("bias"), operation.sets("input")
    filters = operation.sets("weight")
    by_channel = [bias, None if filters is None else _filters(operation, filters)]
    parts = [None if part is None else part.reshape(-1, *[1] * count) for part in by_channel]
    if sets is not None:
        stride, dilation = _listed(bound["stride"], count), _listed(bound["dilation"], count)
        padding, kernel = _listed(bound["padding"], count), list(weight.shape[2:])
        channels = sets.reshape(len(x), groups, -1, *x.shape[2:])
        sets = operation.tracer.sets.along(channels, [2])[:, :, 0]
        taps = (weight != 0).flatten(0, 1).any(0) if is_constant(operation, weight) else None
        if bound["transposed"]:
            sets, stride = _spaced(sets, stride), [1] * count
            padding = [dilation[d] * (kernel[d] - 1) - padding[d] for d in range(count)]
            taps = None if taps is None else taps.flip(*range(count))
        out = target.shape[2:]
        found = _windowed(operation, sets, out, kernel, stride, padding, dilation, taps)
        parts.append(found.repeat_interleave(target.shape[1] // groups, 1))
    return united(operation, parts)


def _glu(operation: Operation) -> Tensor | None:
    sets = operation.sets("self")
    return (
        sets
        if sets is None
        else operation.tracer.sets.pairs(*sets.chunk(2, operation.bound["dim"]))
    )


def _trace_of(operation: Operation) -> Tensor | None:
    sets = operation.sets("self")
    return sets if sets is None else operation.tracer.sets.along(sets.diagonal(), [0])[0]


def _cross(operation: Operation) -> Tensor | None:
    """The product's component i depends on the two others."""
    dim = operation.bound["dim"]
    sets = united(operation, [operation.sets("self"), operation.sets("other")])
    if sets is None:
        return None
    sets = sets.expand(operation.targets[0].shape)
    return operation.tracer.sets.pairs(sets.roll(1, dim), sets.roll(2, dim))


RULES: dict[str, Rule] = {
    **BASIC,
    **named(_cross, "linalg_cross"),
    **named(product("self", "mat2"), "mm bmm _sparse_mm"),
    **named(product("self", "vec"), "mv"),
    **named(product("self", "tensor"), "dot"),
    **named(product("self", "other"), "vdot"),
    **named(product("mat1", "mat2", "self"), "addmm _addmm_activation"),
    **named(product("mat", "vec", "self"), "addmv"),
    **named(product("batch1", "batch2", "self"), "baddbmm"),
    **named(_addr, "addr"),
    **named(_distances, "_cdist_forward"),
    **named(_convolved, "convolution"),
    **named(_pooled, "max_pool2d_with_indices max_pool3d_with_indices avg_pool2d avg_pool3d"),
    **named(_layer_norm, "native_layer_norm"),
    **named(_batch_norm, "native_batch_norm _native_batch_norm_legit cudnn_batch_norm"),
    **named(_batch_norm, "_batch_norm_with_update _native_batch_norm_legit_no_training"),
    **named(_group_norm, "native_group_norm"),
    **named(_glu, "glu"),
    **named(_trace_of, "trace"),
}
"""All rules by the name of the operation."""

"""The sets of coordinates that the results of an operation depend on, operation by operation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from gradbench.problems.tracing.tracer import Operation, Rule


def everything(operation: Operation) -> Tensor | None:
    """Each target depends on all that goes in."""
    found = [operation.tracer.sets_of(x) for x in operation.operands]
    every = [torch.unique(sets) for sets in found if sets is not None]
    if not every:
        return None
    numbers = torch.cat(every)
    union = operation.tracer.sets.unions(torch.zeros_like(numbers), numbers, 1)
    return union.reshape(())


def united(operation: Operation, parts: Sequence[Tensor | None]) -> Tensor | None:
    """The unions place by place, of sets that broadcast; a part without sets adds none."""
    union: Tensor | None = None
    for part in parts:
        if part is not None:
            union = part if union is None else operation.tracer.sets.pairs(union, part)
    return union


def pointwise(operation: Operation) -> Tensor | None:
    """Each number depends on those in its place. A factor that is constantly zero, or a constant
    condition, takes out what it hides."""
    shown = [x for x in operation.operands if not _is_target(operation, x)]
    parts = [operation.tracer.sets_of(x) for x in shown]
    union = united(operation, parts)
    if union is None:
        return None
    if operation.name == "mul" and not operation.in_place:
        for x, part in zip(shown, parts):
            if part is None and is_constant(operation, x) and x.dim():
                union = torch.where(x == 0, 0, union)
    return union


def _is_target(operation: Operation, x: Tensor) -> bool:
    """Whether the tensor is only written, as by `out=`."""
    return not operation.in_place and any(x is target for target in operation.targets)


def is_constant(operation: Operation, x: Tensor) -> bool:
    """Whether the tensor's numbers are the same for all inputs."""
    return operation.tracer.values_of(x) == 0


def _where(operation: Operation) -> Tensor | None:
    condition = operation.bound["condition"]
    a, b = operation.sets("self"), operation.sets("other")
    return _chosen(operation, condition, a, b)


def _masked_fill(operation: Operation) -> Tensor | None:
    return _chosen(
        operation, operation.bound["mask"], operation.sets("value"), operation.sets("self")
    )


def _chosen(
    operation: Operation, condition: Tensor, a: Tensor | None, b: Tensor | None
) -> Tensor | None:
    """Either branch; for a constant condition the one that it takes."""
    if a is None and b is None:
        return None
    if is_constant(operation, condition) and not operation.in_place:
        zero = torch.zeros((), dtype=torch.int64)
        return torch.where(condition != 0, zero if a is None else a, zero if b is None else b)
    return united(operation, [a, b])


def _copied(name: str) -> Rule:
    """Each number is a function of the one in its place of this argument."""
    return lambda operation: operation.sets(name)


def _constant(operation: Operation) -> None:
    """The result depends on shapes alone."""


# -- data movement ------------------------------------------------------------------------------


def moved(operation: Operation) -> Tensor | None:
    """The operation itself moves the sets as it moves the numbers."""
    tracer = operation.tracer
    bound = dict(operation.bound)
    indices = [x for x in operation.operands if not (x.is_floating_point() or x.is_complex())]
    values = _values(operation, indices)
    masked = any(x.dtype in (torch.bool, torch.uint8) for x in indices)
    if values & tracer.differentiated and not masked:
        if not _spread(operation, bound):
            return everything(operation)
    else:
        # The pattern holds for these indices. A mask made of numbers decides the shape.
        tracer.look(values)

    def sets_for(x: Any) -> Any:
        if not isinstance(x, Tensor) or not (x.is_floating_point() or x.is_complex()):
            return x
        sets = tracer.sets_of(x)
        return torch.zeros(x.shape, dtype=torch.float64) if sets is None else sets.double()

    spread = bound.pop("spread", None)
    arguments = {k: tree_map(sets_for, v) for k, v in bound.items()}
    if spread is not None:
        arguments["self"] = spread.double()
    for filled in ("value", "fill_value", "dtype"):
        if not isinstance(arguments.get(filled), Tensor):
            arguments.pop(filled, None)
    return _run(operation, arguments).long()


def _run(operation: Operation, arguments: dict[str, Any]) -> Tensor:
    """The operation out of place, with other arguments."""
    function = operation.function
    if operation.in_place:
        packet = getattr(torch.ops.aten, operation.name)
        function = getattr(packet, function._overloadname)
    schema = function._schema.arguments
    needed = {
        a.name: arguments.get(a.name, 0) for a in schema if a.name in arguments or a.name == "value"
    }
    positional = [a.name for a in schema if not a.kwarg_only]
    last = max((i for i, name in enumerate(positional) if name in needed), default=-1)
    args = [needed.pop(name, None) for name in positional[: last + 1]]
    result: Tensor = function(*args, **needed)
    return result


READING = {"gather": "dim", "index_select": "dim", "take_along_dim": "dim", "index": "", "take": ""}


def _spread(operation: Operation, bound: dict[str, Any]) -> bool:
    """Makes every number that an index can reach depend on all of them. False if it is no reading
    by index."""
    if operation.name not in READING:
        return False
    x, sets = bound["self"], operation.sets("self")
    if sets is None:
        return True
    if operation.name == "index":
        dims = [d for d, index in enumerate(bound["indices"]) if index is not None]
    else:
        dims = [bound["dim"]] if READING[operation.name] else list(range(x.dim()))
    bound["spread"] = operation.tracer.sets.along(sets, dims).expand(x.shape)
    return True


def _index_put(operation: Operation) -> Tensor | None:
    if operation.bound["accumulate"]:
        return _accumulated(operation, lambda positions: _indexed(positions, operation), "values")
    if any(_own(operation, x) for x in operation.bound["indices"] if x is not None):
        return everything(operation)
    own, values = operation.sets("self"), operation.sets("values")
    if own is None and values is None:
        return None
    operation.tracer.look(_values(operation, operation.bound["indices"]))
    shape = operation.bound["self"].shape
    result = torch.zeros(shape, dtype=torch.int64) if own is None else own.clone()
    places = _indexed(torch.arange(math.prod(shape)).reshape(shape), operation)
    filled = torch.zeros((), dtype=torch.int64) if values is None else values
    result.view(-1)[places.reshape(-1)] = filled.expand(places.shape).reshape(-1)
    return result


def _values(operation: Operation, indices: Sequence[Tensor | None]) -> int:
    values = 0
    for index in indices:
        values |= 0 if index is None else operation.tracer.values_of(index)
    return values


def _own(operation: Operation, index: Tensor) -> bool:
    """Whether an index is made of what is differentiated by."""
    tracer = operation.tracer
    return bool(tracer.values_of(index) & tracer.differentiated)


def _indexed(positions: Tensor, operation: Operation) -> Tensor:
    result: Tensor = torch.ops.aten.index.Tensor(positions, operation.bound["indices"])
    return result


def _accumulated(operation: Operation, read: Any, source: str) -> Tensor | None:
    """Numbers are added in places: `read` takes from the numbered places those of the source."""
    indices = [x for x in operation.operands if not (x.is_floating_point() or x.is_complex())]
    if any(_own(operation, x) for x in indices):
        return everything(operation)
    own, added = operation.sets("self"), operation.sets(source)
    if own is None and added is None:
        return None
    operation.tracer.look(_values(operation, indices))
    shape = operation.bound["self"].shape
    if added is None:
        return own
    positions = torch.arange(math.prod(shape)).reshape(shape)
    return _gathered(operation, own, added, read(positions), shape)


def _gathered(
    operation: Operation, own: Tensor | None, added: Tensor, places: Tensor, shape: Sequence[int]
) -> Tensor:
    """The unions of what is added to each place with what is there."""
    count = math.prod(shape)
    numbers = added.expand(places.shape).reshape(-1)
    groups = places.reshape(-1)
    if own is not None:
        numbers = torch.cat([numbers, own.reshape(-1)])
        groups = torch.cat([groups, torch.arange(count)])
    return operation.tracer.sets.unions(groups, numbers, count).reshape(tuple(shape))


def _index_add(operation: Operation) -> Tensor | None:
    bound = operation.bound
    return _accumulated(operation, lambda p: p.index_select(bound["dim"], bound["index"]), "source")


def _scatter_add(operation: Operation) -> Tensor | None:
    bound = operation.bound
    index = bound["index"]
    source = "src"
    if bound.get("reduce") is not None and not isinstance(bound.get("src"), Tensor):
        return everything(operation)
    if bound[source].shape != index.shape:
        return everything(operation)
    return _accumulated(operation, lambda p: p.gather(bound["dim"], index), source)


def _embedding_backward(operation: Operation) -> Tensor | None:
    bound = operation.bound
    added = operation.sets("grad_output")
    if added is None:
        return None
    operation.tracer.look(operation.tracer.values_of(bound["indices"]))
    shape = (bound["num_weights"], added.shape[-1])
    places = torch.arange(math.prod(shape)).reshape(shape)[bound["indices"]]
    return _gathered(operation, None, added, places, shape)


def _unfold_backward(operation: Operation) -> Tensor | None:
    bound, added = operation.bound, operation.sets("grad_in")
    if added is None:
        return None
    shape = tuple(bound["input_sizes"])
    positions = torch.arange(math.prod(shape)).reshape(shape)
    places = positions.unfold(bound["dim"], bound["size"], bound["step"])
    return _gathered(operation, None, added, places, shape)


# -- reductions ---------------------------------------------------------------------------------


def dims_of(operation: Operation, x: Tensor) -> list[int]:
    dims = operation.bound.get("dim", operation.bound.get("dims"))
    if dims is None or (isinstance(dims, (list, tuple)) and not dims):
        return list(range(x.dim()))
    return [dims] if isinstance(dims, int) else list(dims)


def reduced(operation: Operation) -> list[Tensor | None] | None:
    """Each number depends on those along the reduced dimensions, whether these stay or not."""
    operands = [x for x in operation.operands if not _is_target(operation, x)]
    first = next(x for x in operands if x.is_floating_point() or x.is_complex())
    union = united(operation, [operation.tracer.sets_of(x) for x in operands])
    if union is None:
        return None
    if union.shape != first.shape:
        union = union.expand(first.shape)
    along = operation.tracer.sets.along(union, dims_of(operation, first))
    return [_fitted(operation, along, y) for y in operation.targets]


def _fitted(operation: Operation, along: Tensor, target: Tensor) -> Tensor | None:
    if target.numel() == along.numel():
        return along.reshape(target.shape)
    if target.dim() == along.dim():
        return along.expand(target.shape)
    return everything(operation)


def _scanned(operation: Operation) -> Tensor | None:
    """Each number depends on those before it along a dimension."""
    sets = operation.sets("self")
    if sets is None or not sets.dim():
        return sets
    dim = operation.bound["dim"]
    sets, step = sets.movedim(dim, 0), 1
    while step < len(sets):
        tail = operation.tracer.sets.pairs(sets[step:], sets[:-step])
        sets, step = torch.cat([sets[:step], tail]), 2 * step
    return sets.movedim(0, dim)


def _leading(trailing: int) -> Rule:
    """Each member of a batch depends on all of that member, over the last dimensions."""

    def rule(operation: Operation) -> list[Tensor | None] | Tensor | None:
        operands = [x for x in operation.operands if x.is_floating_point() or x.is_complex()]
        batch = operands[0].shape[: max(operands[0].dim() - trailing, 0)]
        parts: list[Tensor | None] = []
        for x in operands:
            sets = operation.tracer.sets_of(x)
            if sets is None:
                continue
            if x.shape[: len(batch)] != batch:
                return everything(operation)
            along = operation.tracer.sets.along(sets, list(range(len(batch), x.dim())))
            parts.append(along.reshape(batch))
        union = united(operation, parts)
        if union is None:
            return None
        if any(y.shape[: len(batch)] != batch for y in operation.targets):
            return everything(operation)
        return [union.reshape(batch + (1,) * (y.dim() - len(batch))) for y in operation.targets]

    return rule


def _per_row(operation: Operation) -> list[Tensor | None] | Tensor | None:
    """A loss over classes: each row's, or all of them."""
    sets = operation.sets("self")
    if sets is None or operation.targets[0].dim() == 0 or sets.dim() != 2:
        return everything(operation)
    return [operation.tracer.sets.along(sets, [1])[:, 0], None]


def _per_row_backward(operation: Operation) -> Tensor | None:
    sets = operation.sets("grad_output")
    return sets[:, None] if sets is not None and sets.dim() == 1 else sets


def _loss(operation: Operation) -> Tensor | None:
    return pointwise(operation) if operation.targets[0].dim() else everything(operation)


def named(rule: Rule, *names: str) -> dict[str, Rule]:
    return dict.fromkeys(" ".join(names).split(), rule)


BASIC: dict[str, Rule] = {
    **named(_where, "where"),
    **named(_masked_fill, "masked_fill"),
    **named(_copied("src"), "copy"),
    **named(_copied("self"), "_to_copy clone contiguous view_as_real_copy"),
    **named(_copied("value"), "fill"),
    **named(_constant, "zeros_like ones_like full_like empty_like rand_like randn_like"),
    **named(_constant, "randint_like new_zeros new_ones new_full new_empty new_empty_strided"),
    **named(_constant, "zero bernoulli uniform normal exponential random"),
    **named(pointwise, "complex polar _prelu_kernel prelu rrelu_with_noise native_dropout"),
    **named(pointwise, "log_sigmoid_forward log_sigmoid_backward mse_loss_backward"),
    **named(pointwise, "_prelu_kernel_backward smooth_l1_loss_backward huber_loss_backward"),
    **named(pointwise, "binary_cross_entropy_backward soft_margin_loss_backward"),
    **named(pointwise, "native_dropout_backward rrelu_with_noise_backward"),
    **named(_loss, "mse_loss smooth_l1_loss huber_loss binary_cross_entropy soft_margin_loss"),
    **named(_loss, "binary_cross_entropy_with_logits"),
    **named(_per_row, "nll_loss_forward nll_loss"),
    **named(_per_row_backward, "nll_loss_backward"),
    **named(moved, "cat stack roll flip repeat constant_pad_nd index index_select gather take"),
    **named(
        moved, "masked_select tril triu diag_embed slice_scatter select_scatter diagonal_scatter"
    ),
    **named(moved, "as_strided_scatter scatter index_copy index_fill embedding im2col"),
    **named(moved, "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d"),
    **named(moved, "replication_pad2d replication_pad3d pixel_shuffle pixel_unshuffle"),
    **named(moved, "channel_shuffle upsample_nearest1d upsample_nearest2d upsample_nearest3d"),
    **named(moved, "select_backward slice_backward diagonal_backward _unsafe_index block_diag"),
    **named(_index_put, "index_put _unsafe_index_put _index_put_impl"),
    **named(_index_add, "index_add"),
    **named(_scatter_add, "scatter_add scatter_reduce"),
    **named(_embedding_backward, "embedding_dense_backward"),
    **named(_unfold_backward, "unfold_backward"),
    **named(reduced, "sum mean amax amin prod var std var_mean std_mean linalg_vector_norm norm"),
    **named(reduced, "logsumexp nansum nanmedian median max min mode kthvalue sort topk aminmax"),
    **named(reduced, "_softmax _log_softmax _safe_softmax _fft_r2c _fft_c2c _fft_c2r argsort"),
    **named(reduced, "_softmax_backward_data _log_softmax_backward_data"),
    **named(_scanned, "cumsum cumprod logcumsumexp _cummax_helper _cummin_helper"),
    **named(_leading(2), "linalg_inv_ex inverse _linalg_solve_ex linalg_cholesky_ex cholesky"),
    **named(_leading(2), "linalg_lu_factor_ex linalg_lu linalg_lu_solve _linalg_svd _linalg_eigh"),
    **named(_leading(2), "linalg_eig linalg_qr _linalg_det _linalg_slogdet linalg_matrix_exp"),
    **named(_leading(2), "linalg_solve_triangular triangular_solve cholesky_solve linalg_pinv"),
    **named(_leading(2), "cholesky_inverse _scaled_dot_product_flash_attention_for_cpu"),
    **named(_leading(2), "_adaptive_avg_pool2d upsample_bilinear2d upsample_bicubic2d"),
    **named(_leading(2), "adaptive_max_pool2d lu_unpack"),
    **named(_leading(3), "grid_sampler_2d _adaptive_avg_pool3d upsample_trilinear3d"),
    **named(_leading(1), "upsample_linear1d"),
}
"""The rules of data movement and reductions by the name of the operation. Pointwise operations are
known by their tag."""

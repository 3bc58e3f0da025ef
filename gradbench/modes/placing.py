"""Where the numbers of few passes belong in a result that is zero elsewhere.

Shared by the modes that know the zeros of one function: `register_for` makes them modes of it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradbench.modes.local import CHECKS
from gradbench.problems.function import Tensors
from gradbench.problems.mode import Call, Passes, Unsupported
from gradbench.problems.operators import Problem
from gradbench.problems.registry import mode

SPARSE = "jacobian_sparse"
"""The operator whose blocks are in torch's sparse layout."""


def register_for(
    function: str,
    operator: str,
    builders: Sequence[tuple[Callable[[Problem, Any], Call], bool, Passes]],
    known: Any,
    suffix: str | None,
    needs: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Registers modes of an operator that hold for one function alone, and returns their names.

    Builders take the problem and what is known of the function, at inputs of the shapes
    `known.inputs`; beside each stand whether the inputs arrive as leaves, and its passes. Names
    end in `suffix`, by default the function's name, so several functions can have such modes.
    Where `known.is_global` is false, each call checks its result. Raises ValueError if the
    function has modes of these names already.
    """
    names = []
    for builder, leaves, passes in builders:

        @functools.wraps(builder)
        def build(problem: Problem, builder: Callable[..., Call] = builder) -> Call:
            if problem.function.name != function:
                raise Unsupported(f"its structure is that of {function}")
            if problem.wrt != known.inputs:
                raise Unsupported("the structure was found at another size")
            call = builder(problem, known)
            return call if known.is_global else CHECKS[operator](problem, call)

        name = builder.__name__ + (f"_of_{function}" if suffix is None else suffix)
        count = functools.partial(_always, passes)
        mode(operator, name=name, leaves=leaves, needs=needs, passes=count)(build)
        names.append(name)
    return tuple(names)


def _always(passes: Passes, problem: Problem) -> Passes:
    """The passes of a mode that are known beforehand."""
    return passes


def colour_seeds(problem: Problem, colours: Tensor) -> Tensor:
    """One flat seed per colour, with ones in its places: (colours, len(colours)). What has colour
    -1 is in no seed."""
    seeds = torch.zeros(int(colours.max()) + 1, len(colours), dtype=problem.dtype)
    coloured = colours >= 0
    seeds[colours[coloured], torch.arange(len(colours))[coloured]] = 1
    return seeds.to(problem.device)


def like(tangents: Tensors, wrt: Tensors) -> Tensors:
    """The tangents in the dtypes of the inputs, which forward mode requires."""
    return tuple(t.to(x) for t, x in zip(tangents, wrt))


def joined(values: Sequence[Tensor]) -> Tensor:
    """The numbers of all tensors, one after another."""
    if len(values) == 1:
        return values[0].reshape(-1)
    return torch.cat([value.reshape(-1) for value in values])


FEW = 1000
"""So many entries are written by their indices as fast as in strides."""


def strides_of(numbers: Tensor) -> tuple[list[int], list[list[int]]] | None:
    """The sizes of a grid, and the strides of each row of `numbers` in it; None where they are no
    such grid, of four dimensions at most."""
    rows = numbers
    sizes: list[int] = []
    strides: list[list[int]] = []
    while rows.shape[1] > 1 and len(sizes) < 4:
        step = rows[:, 1] - rows[:, 0]
        others = (rows.diff(dim=1) != step[:, None]).any(0).nonzero()
        run = int(others[0]) + 1 if len(others) else rows.shape[1]
        regular = rows[:, ::run, None] + step[:, None, None] * torch.arange(run)
        if rows.shape[1] % run or not regular.flatten(1).equal(rows) or bool((step < 0).any()):
            return None
        sizes.insert(0, run)
        strides.insert(0, step.tolist())
        rows = rows[:, ::run]
    return (sizes, [list(each) for each in zip(*strides)]) if rows.shape[1] == 1 else None


def placing(
    problem: Problem, shapes: Sequence[tuple[int, ...]], places: Tensor, sources: Tensor
) -> Callable[[Tensor], Tensors]:
    """The function that makes blocks of these shapes from the values of all passes, a vector.

    Entry e is value `sources[e]`, and is added to number `places[e]` of the flattened blocks, one
    after another.
    """
    order = torch.argsort(sources)
    sources, places = sources[order], places[order]
    in_order = bool((sources == torch.arange(len(sources))).all())
    repeated = len(places.unique()) < len(places)
    sizes = [math.prod(shape) for shape in shapes]
    both = torch.stack([sources, places])
    grid = strides_of(both) if len(places) > FEW and not repeated else None
    begin = both[:, 0].tolist() if grid else []
    sources, places = sources.to(problem.device), places.to(problem.device)

    def place(values: Tensor) -> Tensors:
        dense = values.new_zeros(sum(sizes))
        if grid is not None:
            # Takes a fifth of the time of indices, which are longer than what they place.
            shape, (read, written) = grid
            chosen = values.as_strided(shape, read, values.storage_offset() + begin[0])
            dense.as_strided(shape, written, begin[1]).copy_(chosen)
        else:
            if not in_order or len(values) > len(places):
                values = values.index_select(0, sources)
            if repeated:
                dense.index_add_(0, places, values)
            else:
                # Takes half the time of an assignment by indices.
                dense.scatter_(0, places, values)
        if len(shapes) == 1:
            return (dense.view(shapes[0]),)
        return tuple(block.view(shape) for block, shape in zip(dense.split(sizes), shapes))

    return place


def block_places(rows: Tensor, columns: Tensor, outputs: int, sizes: Sequence[int]) -> Tensor:
    """The places of the entries of a jacobian in its blocks by inputs of `sizes` numbers, each
    flattened, one after another."""
    width = torch.tensor(sizes)
    first = width.cumsum(0) - width
    block = torch.repeat_interleave(torch.arange(len(width)), width)[columns]
    return outputs * first[block] + rows * width[block] + columns - first[block]


def jacobian_placing(problem: Problem, known: Any, sources: Tensor) -> Callable[[Tensor], Tensors]:
    """The function that makes the blocks of a jacobian from the values of all passes, a vector.

    `known` has the rows and columns of the entries, in the shapes `inputs` and `output`; the value
    of entry e is number `sources[e]`. Blocks are sparse where the operator's are.
    """
    made = sparse_blocks if problem.operator == SPARSE else dense_blocks
    return made(problem, known, sources)


def dense_blocks(problem: Problem, known: Any, sources: Tensor) -> Callable[[Tensor], Tensors]:
    """As `jacobian_placing`, with zeros everywhere else."""
    sizes = [math.prod(shape) for shape in known.inputs]
    places = block_places(known.rows, known.columns, math.prod(known.output), sizes)
    return placing(problem, [known.output + shape for shape in known.inputs], places, sources)


def sparse_blocks(problem: Problem, known: Any, sources: Tensor) -> Callable[[Tensor], Tensors]:
    """As `jacobian_placing`, in torch's sparse layout."""
    blocks, begin = [], 0
    for shape in known.inputs:
        size = math.prod(shape)
        own = ((known.columns >= begin) & (known.columns < begin + size)).nonzero().flatten()
        # A coalesced tensor has its entries row by row.
        own = own[torch.argsort(known.rows[own] * size + known.columns[own])]
        places = unravelled(known.rows[own], known.output)
        places += unravelled(known.columns[own] - begin, shape)
        stacked = torch.stack(places) if places else torch.empty(0, len(own), dtype=torch.int64)
        full = (*known.output, *shape)
        blocks.append((stacked.to(problem.device), sources[own].to(problem.device), full))
        begin += size

    def place(values: Tensor) -> Tensors:
        return tuple(
            torch.sparse_coo_tensor(
                places,
                values.detach().index_select(0, source),
                full,
                is_coalesced=True,
                check_invariants=False,
            )
            for places, source, full in blocks
        )

    return place


def unravelled(flat: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    """The indices along each dimension of flat indices into a shape."""
    indices = []
    for length in reversed(shape):
        indices.append(flat % length)
        flat = flat // length
    return indices[::-1]

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


def parts(flat: Tensor, like: Tensors) -> Tensors:
    """Flat seeds of several tensors, (k, numbers of all), as seeds of each: (k, *x.shape)."""
    split = flat.to(like[0]).split([x.numel() for x in like], 1)
    return tuple(part.reshape(-1, *x.shape) for part, x in zip(split, like))


def placing(
    problem: Problem, shapes: Sequence[tuple[int, ...]], places: Tensor, sources: Tensor
) -> Callable[[Tensor], Tensors]:
    """The function that makes blocks of these shapes from the values of all passes, a vector.

    Entry e is value `sources[e]`, and is added to number `places[e]` of the flattened blocks, one
    after another.
    """
    order = torch.argsort(sources)
    sources, places = sources[order].to(problem.device), places[order].to(problem.device)
    in_order = bool((sources == torch.arange(len(sources), device=sources.device)).all())
    repeated = len(places.unique()) < len(places)
    sizes = [math.prod(shape) for shape in shapes]

    def place(values: Tensor) -> Tensors:
        if not in_order or len(values) > len(places):
            values = values.index_select(0, sources)
        dense = values.new_zeros(sum(sizes))
        if repeated:
            dense.index_add_(0, places, values)
        else:
            # Takes half the time of an assignment by indices.
            dense.scatter_(0, places, values)
        return tuple(block.view(shape) for block, shape in zip(dense.split(sizes), shapes))

    return place


def block_places(rows: Tensor, columns: Tensor, outputs: int, sizes: Sequence[int]) -> Tensor:
    """The places of the entries of a jacobian in its blocks by inputs of `sizes` numbers, each
    flattened, one after another."""
    width = torch.tensor(sizes)
    first = width.cumsum(0) - width
    block = torch.repeat_interleave(torch.arange(len(width)), width)[columns]
    return outputs * first[block] + rows * width[block] + columns - first[block]

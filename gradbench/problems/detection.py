"""The structure of a jacobian as its products show it, at a few points.

Entries are located by bisection: a tangent of random numbers on some columns shows in which rows
these have entries. Columns whose rows are known to be apart share a pass, so a banded jacobian of
n columns takes some multiple of log n passes. Only exact zeros count as zeros: rounding can make a
pattern fuller than it is, never emptier. What is an entry at one point only is an entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradbench.core.deadline import Deadline
from gradbench.problems.colouring import colour
from gradbench.problems.function import parts_of
from gradbench.problems.structure import (
    POINTS,
    Shapes,
    Structure,
    blocks,
    dense,
    passes_of,
    samples_of,
    structure_of,
)

MOST_PASSES = 200
"""Passes that bisection may take at each point."""

SAMPLED = 6
"""Columns or rows that are looked at before all are."""

MOST_COORDINATES = 20_000
"""Bisection does not look at larger jacobians: its bookkeeping is in Python."""

AGREEMENT = 1e-6
"""How far a random product may be from what the entries explain, relative to the sum of its terms'
sizes: a function may hold numbers of single precision."""

Product = Callable[[int, Tensor], Tensor]
"""``product(point, seed)``: the jacobian at the point of that number times a flat tangent of all
coordinates, or a flat cotangent of the output times the jacobian."""


class _TooMany(Exception):
    """More passes would be needed than are allowed."""


class _NoTime(Exception):
    """The deadline is over."""


def _timely(product: Product, deadline: Deadline) -> Product:
    def timely(point: int, seed: Tensor) -> Tensor:
        if deadline.over:
            raise _NoTime
        return product(point, seed)

    return timely


def products(
    f: Callable[..., Tensor], points: Sequence[Sequence[Tensor]]
) -> tuple[Product | None, Product]:
    """The jvp and the vjp of a function of tensors, at float64 points of the same shapes.

    Tangents, cotangents and results are flat. The jvp is None if forward mode fails.
    """

    def jvp(point: int, tangent: Tensor) -> Tensor:
        x = tuple(points[point])
        tangents = parts_of(tangent, [a.shape for a in x])
        pushed: Tensor = torch.func.jvp(f, x, tangents)[1]
        return pushed.detach().reshape(-1)

    def vjp(point: int, cotangent: Tensor) -> Tensor:
        x = tuple(a.detach().clone().requires_grad_() for a in points[point])
        y = f(*x)
        grads: Sequence[Tensor | None] = [None] * len(x)
        if y.requires_grad:
            grads = torch.autograd.grad(y, x, cotangent.reshape(y.shape), allow_unused=True)
        return torch.cat(
            [(torch.zeros_like(a) if g is None else g).reshape(-1) for g, a in zip(grads, x)]
        )

    try:
        jvp(0, torch.ones(sum(a.numel() for a in points[0]), dtype=points[0][0].dtype))
    except Exception:
        return None, vjp
    return jvp, vjp


def detect(
    jvp: Product | None,
    vjp: Product,
    inputs: Sequence[Sequence[int]],
    output: Sequence[int],
    generator: torch.Generator,
    *,
    points: int = POINTS,
    most_passes: int = MOST_PASSES,
    deadline: Deadline | None = None,
) -> Structure:
    """Detects the structure of the Jacobian by all inputs, at `points` points, in float64.

    Uses at most about `most_passes` passes at each point in one direction, plus twice the binary
    logarithm of the batch; a Jacobian that would need more, or more time than there is, counts as
    dense. If `jvp` is None, only `vjp` is used. Raises whatever the products raise.
    """
    limit = deadline or Deadline(math.inf)
    forward = None if jvp is None else _timely(jvp, limit)
    shapes = tuple(tuple(shape) for shape in inputs), tuple(output)
    try:
        return _detected(forward, _timely(vjp, limit), *shapes, generator, points, most_passes)
    except _NoTime:
        return dense(*shapes, "there was no time to look for structure")


def _detected(
    jvp: Product | None,
    vjp: Product,
    shapes_in: Shapes,
    shape_out: tuple[int, ...],
    generator: torch.Generator,
    points: int,
    most_passes: int,
) -> Structure:
    n, m = sum(math.prod(shape) for shape in shapes_in), math.prod(shape_out)
    where = f"at {points} random points"
    if n < 2 or m < 2:
        return dense(shapes_in, shape_out, "a jacobian of one row or column has no structure")

    if all(math.prod(shape) == m for shape in shapes_in):
        # A pullback shows the diagonal by every input at once.
        push = jvp if jvp is not None and len(shapes_in) == 1 else vjp
        flat = tuple((m,) for _ in shapes_in)
        if _is_batched(push, flat, (m,), push is jvp, points, generator):
            every = torch.arange(n)
            return structure_of(
                shapes_in, shape_out, every % m, every, _halves_say(where), is_global=False
            )

    by_columns = jvp is not None and n < m
    push, wide, other = (jvp, n, m) if jvp is not None and by_columns else (vjp, m, n)
    name = "columns" if by_columns else "rows"
    if _is_full(push, wide, other, generator):
        evidence = f"{SAMPLED} {name} drawn at random are more than half full"
        return dense(shapes_in, shape_out, evidence)
    spent = 0
    supports: list[list[int]] | None = None
    if n <= MOST_COORDINATES and m <= MOST_COORDINATES:
        supports, spent = _locate(push, wide, other, points, most_passes, generator)
    if supports is not None:
        seeded = torch.tensor([i for i, support in enumerate(supports) for _ in support])
        shown = torch.tensor([j for support in supports for j in support])
        rows, columns = (shown, seeded) if by_columns else (seeded, shown)
        evidence = f"{spent} passes with random seeds on groups of {name}, each {where}, located "
        evidence += f"{rows.numel()} of {m * n} entries; the others were exactly zero each time"
        return structure_of(
            shapes_in, shape_out, rows.long(), columns.long(), evidence, is_global=False
        )
    if _is_batched(push, shapes_in, shape_out, by_columns, points, generator):
        return blocks(shapes_in, shape_out, _halves_say(where), is_global=False)
    evidence = f"no structure within {most_passes} passes {where}"
    return dense(shapes_in, shape_out, evidence)


def _random(n: int, generator: torch.Generator) -> Tensor:
    # Away from zero, so that no entry is lost by a seed of nearly nothing.
    return torch.rand(n, generator=generator, dtype=torch.float64) + 0.5


def _is_full(push: Product, n: int, m: int, generator: torch.Generator) -> bool:
    """Whether a few columns (rows) drawn at random are more than half full: if no more than half
    of all are, that happens once in 2 ** SAMPLED times."""
    for _ in range(SAMPLED):
        seed = torch.zeros(n, dtype=torch.float64)
        seed[int(torch.randint(n, (), generator=generator))] = 1
        if 2 * int((push(0, seed) != 0).sum()) <= m:
            return False
    return True


def _halves_say(where: str) -> str:
    return (
        f"random seeds on half of the samples, {where}, left the other half exactly zero, for "
        "halves that part every two samples"
    )


def _locate(
    push: Product, n: int, m: int, points: int, most: int, generator: torch.Generator
) -> tuple[list[list[int]] | None, int]:
    """The places of the entries of each seed's coordinate, and the passes spent at each point.

    None where they take more passes than `most`.
    """
    spent = 0

    def shows(coordinates: Sequence[range]) -> list[bool]:
        nonlocal spent
        if spent >= most:
            raise _TooMany
        spent += 1
        seed = torch.zeros(n, dtype=torch.float64)
        for block in coordinates:
            seed[block.start : block.stop] = _random(len(block), generator)
        nonzero = torch.zeros(m, dtype=torch.bool)
        for point in range(points):
            nonzero |= push(point, seed) != 0
        return nonzero.tolist()

    def bisect() -> list[list[int]]:
        blocks = [(range(n), list(range(m)))]
        while any(len(block) > 1 for block, _ in blocks):
            colours = colour([support for _, support in blocks])
            halves: list[tuple[range, list[int]]] = []
            if 2 * (max(colours) + 1) > min(n, most):
                raise _TooMany
            parted = [_halves(block) for block, _ in blocks]
            seen = [
                [shows([p[side] for p, c in zip(parted, colours) if c == k]) for side in (0, 1)]
                for k in range(max(colours) + 1)
            ]
            for (_, support), halved, k in zip(blocks, parted, colours):
                for side, half in enumerate(halved):
                    if half:
                        halves.append((half, [i for i in support if seen[k][side][i]]))
            blocks = halves
        return [support for _, support in blocks]

    try:
        return bisect(), spent
    except _TooMany:
        if n > most - spent:
            return None, spent
    each = [shows([range(i, i + 1)]) for i in range(n)]
    return [[i for i, shown in enumerate(row) if shown] for row in each], spent


def _halves(block: range) -> tuple[range, range]:
    middle = block.start + (len(block) + 1) // 2
    return range(block.start, middle), range(middle, block.stop)


def _is_batched(
    push: Product,
    shapes_in: Shapes,
    shape_out: tuple[int, ...],
    by_columns: bool,
    points: int,
    generator: torch.Generator,
) -> bool:
    """Whether no sample along dimension 0 depends on another, by the bits of their numbers."""
    batch = samples_of(shapes_in, shape_out)
    if not batch:
        return False
    of_input = torch.cat(
        [torch.arange(batch).repeat_interleave(math.prod(s) // batch) for s in shapes_in]
    )
    of_output = torch.arange(batch).repeat_interleave(math.prod(shape_out) // batch)
    seeded, shown = (of_input, of_output) if by_columns else (of_output, of_input)
    for bit in range((batch - 1).bit_length()):
        for chosen in (0, 1):
            for point in range(points):
                seed = _random(seeded.numel(), generator) * (((seeded >> bit) & 1) == chosen)
                product = push(point, seed)
                if (product[((shown >> bit) & 1) != chosen] != 0).any():
                    return False
    return True


def filled(
    structure: Structure,
    jvp: Product | None,
    vjp: Product,
    points: int,
    generator: torch.Generator,
    deadline: Deadline,
    most_passes: int = MOST_PASSES,
) -> tuple[Tensor, bool] | None:
    """Which entries of a structure are not zero at some point, and whether they explain a random
    product at each.

    None where that takes more passes than `most_passes` at a point, or more time at the first.
    Further points are left out when the deadline is over.
    """
    by_rows = jvp is None or structure.passes[1] <= structure.passes[0]
    push = vjp if jvp is None or by_rows else jvp
    n, m = structure.coordinates, structure.outputs
    seeded, shown = structure.rows, structure.columns
    colours, size, other = structure.row_colours, m, n
    if not by_rows:
        seeded, shown = shown, seeded
        colours, size, other = structure.column_colours, n, m
    if passes_of(colours) > most_passes:
        return None
    push = _timely(push, deadline)
    nonzero = torch.zeros(seeded.shape, dtype=torch.bool)
    explained = True
    for point in range(points):
        seed = _random(size, generator)
        try:
            passes = [push(point, (colours == k).double()) for k in range(passes_of(colours))]
            product = push(point, seed)
        except _NoTime:
            if point:
                break
            return None
        values = torch.stack(passes).reshape(-1)[colours[seeded] * other + shown]
        nonzero |= values != 0
        terms = values * seed[seeded]
        sums = torch.zeros(2, other, dtype=product.dtype)
        sums.index_add_(1, shown, torch.stack([terms, terms.abs()]))
        if bool(torch.isfinite(product).all()) and bool(torch.isfinite(sums).all()):
            allowed = AGREEMENT * (sums[1] + 1e-3 * sums[1].max())
            explained &= bool(((product - sums[0]).abs() <= allowed).all())
    return nonzero, explained

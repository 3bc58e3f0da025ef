"""The structure of a jacobian, found from what its products show, never from shapes alone.

Entries are located by bisection: a tangent of random numbers on some columns shows in which rows
these have entries. Columns whose rows are known to be apart share a pass, so a banded jacobian of
n columns takes some multiple of log n passes. Only exact zeros count as zeros there: rounding can
make a pattern fuller than it is, never emptier. What is an entry at one point only is an entry. A
diagonal is recognised by fewer passes, up to `TOLERANCE`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradbench.problems.colouring import Support, colour

POINTS = 3
MOST_PASSES = 200
"""Passes that bisection may take at each point."""

MOST_COORDINATES = 20_000
"""Bisection does not look at larger jacobians: its bookkeeping is in Python."""

TOLERANCE = 1e-12
"""Rounding that may lie between J·r and (J·1)·r, in float64, relative to the entry."""

Product = Callable[[int, Tensor], Tensor]
"""``product(point, seed)``: the jacobian at the point of that number times the tangent of the
input's shape, or the cotangent of the output's shape times the jacobian."""


@dataclass(frozen=True)
class Structure:
    """The known zeros of a Jacobian.

    `rows` and `columns` are the positions of the entries in the flattened output and input, one
    pair per entry; they are empty for a dense Jacobian. Columns (rows) of one colour share a
    forward (reverse) pass: `column_colours` has one number per coordinate, `row_colours` one per
    output.
    """

    kind: str
    """"dense", "diagonal", "batched", "banded" or "sparse"."""
    evidence: str
    input: tuple[int, ...]
    output: tuple[int, ...]
    rows: Tensor
    columns: Tensor
    column_colours: Tensor
    row_colours: Tensor

    @property
    def outputs(self) -> int:
        return math.prod(self.output)

    @property
    def coordinates(self) -> int:
        return math.prod(self.input)

    @property
    def entries(self) -> int:
        """The number of entries that are not known to be zero."""
        if self.kind == "dense":
            return self.outputs * self.coordinates
        return self.rows.numel()

    @property
    def passes(self) -> tuple[int, int]:
        """The number of passes for all entries: in forward mode, and in reverse mode."""
        return _count(self.column_colours), _count(self.row_colours)


def _count(colours: Tensor) -> int:
    return int(colours.max()) + 1 if colours.numel() else 0


class _TooMany(Exception):
    """More passes would be needed than are allowed."""


def products(
    f: Callable[[Tensor], Tensor], points: Sequence[Tensor]
) -> tuple[Product | None, Product]:
    """The jvp and the vjp of a function of one tensor, at float64 points of one shape.

    The jvp is None if forward mode fails for the function.
    """

    def jvp(point: int, tangent: Tensor) -> Tensor:
        pushed: Tensor = torch.func.jvp(f, (points[point],), (tangent,))[1]
        return pushed.detach()

    def vjp(point: int, cotangent: Tensor) -> Tensor:
        x = points[point].detach().clone().requires_grad_()
        y = f(x)
        if not y.requires_grad:
            return torch.zeros_like(x)
        (grad,) = torch.autograd.grad(y, x, cotangent, allow_unused=True)
        return torch.zeros_like(x) if grad is None else grad

    try:
        jvp(0, torch.ones_like(points[0]))
    except Exception:
        return None, vjp
    return jvp, vjp


def detect(
    jvp: Product | None,
    vjp: Product,
    input: Sequence[int],
    output: Sequence[int],
    generator: torch.Generator,
    *,
    points: int = POINTS,
    most_passes: int = MOST_PASSES,
) -> Structure:
    """Detects the structure of the Jacobian of one input, at `points` points, in float64.

    Uses at most about `most_passes` passes at each point in one direction, plus twice the binary
    logarithm of the batch; a Jacobian that would need more counts as dense. If `jvp` is None, only
    `vjp` is used. Raises whatever the products raise.
    """
    shape_in, shape_out = tuple(input), tuple(output)
    n, m = math.prod(shape_in), math.prod(shape_out)
    where = f"at {points} random points"
    if n < 2 or m < 2:
        return _dense(shape_in, shape_out, "a jacobian of one row or column has no structure")

    reverse = _flat(vjp, shape_out)
    forward = None if jvp is None else _flat(jvp, shape_in)
    if n == m and _is_diagonal(forward or reverse, n, points, generator):
        every = torch.arange(n)
        one = torch.zeros(n, dtype=torch.int64)
        evidence = (
            f"two random seeds {where} came back as the seed of ones does, times the seed: "
            f"entries off the diagonal above {TOLERANCE:g} of their row would show"
        )
        return Structure("diagonal", evidence, shape_in, shape_out, every, every, one, one)

    by_columns = forward is not None and n < m
    push, wide, other = (forward, n, m) if by_columns and forward else (reverse, m, n)
    name = "columns" if by_columns else "rows"
    spent = 0
    supports: list[list[int]] | None = None
    if n <= MOST_COORDINATES and m <= MOST_COORDINATES:
        supports, spent = _locate(push, wide, other, points, most_passes, generator)
    if supports is not None:
        located = [(i, j) for i, support in enumerate(supports) for j in support]
        pairs = located if not by_columns else [(j, i) for i, j in located]
        kind = _kind(pairs, shape_in, shape_out)
        evidence = f"{spent} passes with random seeds on groups of {name}, each {where}, located "
        evidence += f"{len(pairs)} of {m * n} entries; the others were exactly zero each time"
        structure = _structure(kind, evidence, shape_in, shape_out, pairs)
        if kind in ("batched", "banded") or min(structure.passes) <= min(n, m) // 2:
            return structure
        return _dense(shape_in, shape_out, evidence + ": too many to save passes")
    if _is_batched(push, shape_in, shape_out, by_columns, points, generator):
        batch = shape_in[0]
        a, b = m // batch, n // batch
        evidence = f"seeds on random numbers of half of the samples, {where}, left the other half "
        evidence += "exactly zero, for halves that part every two samples"
        row, column = torch.meshgrid(torch.arange(a), torch.arange(b), indexing="ij")
        starts = torch.arange(batch)[:, None]
        return Structure(
            "batched",
            evidence,
            shape_in,
            shape_out,
            (starts * a + row.reshape(-1)).reshape(-1),
            (starts * b + column.reshape(-1)).reshape(-1),
            torch.arange(b).repeat(batch),
            torch.arange(a).repeat(batch),
        )
    evidence = f"no structure within {most_passes} passes {where}"
    return _dense(shape_in, shape_out, evidence)


def _flat(product: Product, shape: tuple[int, ...]) -> Product:
    return lambda point, seed: product(point, seed.reshape(shape)).reshape(-1)


def _random(n: int, generator: torch.Generator) -> Tensor:
    # Away from zero, so that no entry is lost by a seed of nearly nothing.
    return torch.rand(n, generator=generator, dtype=torch.float64) + 0.5


def _is_diagonal(push: Product, n: int, points: int, generator: torch.Generator) -> bool:
    for point in range(points):
        diagonal = push(point, torch.ones(n, dtype=torch.float64))
        for _ in range(2):
            seed = _random(n, generator)
            product = push(point, seed)
            if not torch.isfinite(product).all():
                return False
            # Entries at the scale of the row alone: elsewhere's large numbers excuse nothing.
            if ((product - diagonal * seed).abs() > TOLERANCE * product.abs()).any():
                return False
    return True


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
    shape_in: tuple[int, ...],
    shape_out: tuple[int, ...],
    by_columns: bool,
    points: int,
    generator: torch.Generator,
) -> bool:
    """Whether no sample along dimension 0 depends on another, by the bits of their numbers."""
    batch = shape_in[0] if shape_in else 0
    if batch < 2 or not shape_out or shape_out[0] != batch:
        return False
    seeded = math.prod(shape_in if by_columns else shape_out) // batch
    samples = torch.arange(batch)
    for bit in range((batch - 1).bit_length()):
        ones = (samples >> bit) & 1 == 1
        for chosen in (ones, ~ones):
            for point in range(points):
                seed = _random(batch * seeded, generator) * chosen.repeat_interleave(seeded)
                if (push(point, seed).reshape(batch, -1)[~chosen] != 0).any():
                    return False
    return True


def _kind(
    pairs: Sequence[tuple[int, int]], shape_in: tuple[int, ...], shape_out: tuple[int, ...]
) -> str:
    n, m = math.prod(shape_in), math.prod(shape_out)
    if shape_in and shape_out and shape_in[0] == shape_out[0] > 1:
        batch = shape_in[0]
        if batch < n and all(i // (m // batch) == j // (n // batch) for i, j in pairs):
            return "batched"
    offsets = [j - i for i, j in pairs]
    if offsets:
        low, high = min(offsets), max(offsets)
        band = sum(min(m, n - k) - max(0, -k) for k in range(low, high + 1))
        if 2 * (high - low + 1) <= min(n, m) and 2 * len(pairs) >= band:
            return "banded"
    return "sparse"


def _structure(
    kind: str,
    evidence: str,
    shape_in: tuple[int, ...],
    shape_out: tuple[int, ...],
    pairs: Sequence[tuple[int, int]],
) -> Structure:
    by_column: list[list[int]] = [[] for _ in range(math.prod(shape_in))]
    by_row: list[list[int]] = [[] for _ in range(math.prod(shape_out))]
    for i, j in pairs:
        by_column[j].append(i)
        by_row[i].append(j)

    def coloured(supports: Sequence[Support]) -> Tensor:
        return torch.tensor(colour(supports), dtype=torch.int64)

    return Structure(
        kind,
        evidence,
        shape_in,
        shape_out,
        torch.tensor([i for i, _ in pairs], dtype=torch.int64),
        torch.tensor([j for _, j in pairs], dtype=torch.int64),
        coloured(by_column),
        coloured(by_row),
    )


def _dense(shape_in: tuple[int, ...], shape_out: tuple[int, ...], evidence: str) -> Structure:
    none = torch.empty(0, dtype=torch.int64)
    return Structure(
        "dense",
        evidence,
        shape_in,
        shape_out,
        none,
        none,
        torch.arange(math.prod(shape_in)),
        torch.arange(math.prod(shape_out)),
    )

"""The structure of a jacobian: its zeros, and which passes they save.

Without a trace (`gradbench.problems.tracing`), entries are located by bisection: a tangent of
random numbers on some columns shows in which rows these have entries. Columns whose rows are known
to be apart share a pass, so a banded jacobian of n columns takes some multiple of log n passes.
Only exact zeros count as zeros there: rounding can make a pattern fuller than it is, never emptier.
What is an entry at one point only is an entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gradbench.core.deadline import Deadline
from gradbench.problems.colouring import Support, colour

POINTS = 3
MOST_PASSES = 200
"""Passes that bisection may take at each point."""

SAMPLED = 6
"""Columns or rows that are looked at before all are."""

MOST_COORDINATES = 20_000
"""Bisection does not look at larger jacobians: its bookkeeping is in Python."""

MOST_ENTRIES = 1_000_000
"""Entries are coloured in Python: about a second for so many."""

MOST_LISTED = 16_000_000
"""Entries of a batched Jacobian that are listed: a quarter of a gigabyte."""

AGREEMENT = 1e-6
"""How far a random product may be from what the entries explain, relative to the sum of its terms'
sizes: a function may hold numbers of single precision."""

Product = Callable[[int, Tensor], Tensor]
"""``product(point, seed)``: the jacobian at the point of that number times a flat tangent of all
coordinates, or a flat cotangent of the output times the jacobian."""

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Structure:
    """The known zeros of a Jacobian by all differentiated inputs together.

    Its columns are the coordinates of all inputs, each flattened, one after another. `rows` and
    `columns` are the positions of the entries, one pair per entry. For a dense Jacobian they are
    empty, or the entries of one whose zeros save no pass by rows or columns alone; for a batched
    one of more than `MOST_LISTED` entries they are empty. Columns (rows) of one colour share a
    forward (reverse) pass: `column_colours` has one number per coordinate, `row_colours` one per
    output. A reverse pass serves all inputs.
    """

    kind: str
    """"dense", "diagonal" (by every input), "batched", "banded" or "sparse"."""
    evidence: str
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    rows: Tensor
    columns: Tensor
    column_colours: Tensor
    row_colours: Tensor
    is_global: bool
    """Whether the zeros are known for every input: traced through the operations, not only seen
    near a point."""

    @property
    def outputs(self) -> int:
        return math.prod(self.output)

    @property
    def sizes(self) -> list[int]:
        """The number of coordinates of each input."""
        return [math.prod(shape) for shape in self.inputs]

    @property
    def coordinates(self) -> int:
        return sum(self.sizes)

    @property
    def entries(self) -> int:
        """The number of entries that are not known to be zero."""
        if self.kind == "dense":
            return self.outputs * self.coordinates
        if self.kind == "batched" and not self.rows.numel():
            return self.outputs * self.coordinates // self.output[0]
        return self.rows.numel()

    @property
    def passes(self) -> tuple[int, int]:
        """The number of passes for all entries: in forward mode, and in reverse mode."""
        return _count(self.column_colours), _count(self.row_colours)

    def block(self, number: int) -> tuple[Tensor, Tensor]:
        """The rows and columns of the entries by one input; its own first column is 0."""
        begin, size = sum(self.sizes[:number]), self.sizes[number]
        inside = (self.columns >= begin) & (self.columns < begin + size)
        return self.rows[inside], self.columns[inside] - begin


def _count(colours: Tensor) -> int:
    return int(colours.max()) + 1 if colours.numel() else 0


class _TooMany(Exception):
    """More passes, or more time, would be needed than is allowed."""


def products(
    f: Callable[..., Tensor], points: Sequence[Sequence[Tensor]]
) -> tuple[Product | None, Product]:
    """The jvp and the vjp of a function of tensors, at float64 points of the same shapes.

    Tangents, cotangents and results are flat. The jvp is None if forward mode fails.
    """

    def jvp(point: int, tangent: Tensor) -> Tensor:
        x = tuple(points[point])
        tangents = tuple(
            t.reshape(a.shape) for t, a in zip(tangent.split([a.numel() for a in x]), x)
        )
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
    shapes_in, shape_out = tuple(tuple(shape) for shape in inputs), tuple(output)
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
        evidence = (
            f"{SAMPLED} {name} drawn at random have entries in more than half of their places"
        )
        return dense(shapes_in, shape_out, evidence)
    spent = 0
    supports: list[list[int]] | None = None
    if n <= MOST_COORDINATES and m <= MOST_COORDINATES:
        supports, spent = _locate(
            push, wide, other, points, most_passes, generator, deadline or Deadline(math.inf)
        )
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
    push: Product,
    n: int,
    m: int,
    points: int,
    most: int,
    generator: torch.Generator,
    deadline: Deadline,
) -> tuple[list[list[int]] | None, int]:
    """The places of the entries of each seed's coordinate, and the passes spent at each point.

    None where they take more passes than `most`, or more time.
    """
    spent = 0

    def shows(coordinates: Sequence[range]) -> list[bool]:
        nonlocal spent
        if spent >= most or deadline.over:
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
        if n > most - spent or deadline.over:
            return None, spent
    each = [shows([range(i, i + 1)]) for i in range(n)]
    return [[i for i, shown in enumerate(row) if shown] for row in each], spent


def _halves(block: range) -> tuple[range, range]:
    middle = block.start + (len(block) + 1) // 2
    return range(block.start, middle), range(middle, block.stop)


def _batch(shapes_in: Shapes, shape_out: tuple[int, ...]) -> int:
    """The number of samples along dimension 0 of every input and of the output; 0 for none."""
    batches = {shape[0] if shape else 0 for shape in (*shapes_in, shape_out)}
    batch = batches.pop()
    return batch if not batches and batch > 1 else 0


def _is_batched(
    push: Product,
    shapes_in: Shapes,
    shape_out: tuple[int, ...],
    by_columns: bool,
    points: int,
    generator: torch.Generator,
) -> bool:
    """Whether no sample along dimension 0 depends on another, by the bits of their numbers."""
    batch = _batch(shapes_in, shape_out)
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


def blocks(
    shapes_in: Shapes, shape_out: tuple[int, ...], evidence: str, *, is_global: bool
) -> Structure:
    """The structure of samples that do not depend on each other."""
    batch = shape_out[0]
    a = math.prod(shape_out) // batch
    rows, columns, colours = [], [], []
    begin = taken = 0
    samples = torch.arange(batch)[:, None, None]
    for shape in shapes_in:
        b = math.prod(shape) // batch
        block = (batch, a, b) if a * sum(map(math.prod, shapes_in)) <= MOST_LISTED else (0, a, b)
        listed = samples[: block[0]]
        rows.append((listed * a + torch.arange(a)[:, None]).expand(block).reshape(-1))
        columns.append((begin + listed * b + torch.arange(b)).expand(block).reshape(-1))
        colours.append((taken + torch.arange(b)).repeat(batch))
        begin, taken = begin + batch * b, taken + b
    return Structure(
        "batched",
        evidence,
        shapes_in,
        shape_out,
        torch.cat(rows),
        torch.cat(columns),
        torch.cat(colours),
        torch.arange(a).repeat(batch),
        is_global,
    )


def _kind(rows: Tensor, columns: Tensor, shapes_in: Shapes, shape_out: tuple[int, ...]) -> str:
    n, m = sum(math.prod(shape) for shape in shapes_in), math.prod(shape_out)
    if not rows.numel():
        return "sparse"
    if all(math.prod(shape) == m for shape in shapes_in) and bool((columns % m == rows).all()):
        return "diagonal"
    if n == m and torch.equal(rows, columns):
        return "diagonal"
    batch = _batch(shapes_in, shape_out)
    if batch and batch < n:
        sample = torch.cat(
            [torch.arange(batch).repeat_interleave(math.prod(s) // batch) for s in shapes_in]
        )
        if bool((sample[columns] == rows // (m // batch)).all()):
            return "batched"
    offsets = columns - rows
    low, high = int(offsets.min()), int(offsets.max())
    if 2 * (high - low + 1) <= min(n, m):
        band = sum(min(m, n - k) - max(0, -k) for k in range(low, high + 1))
        if 2 * rows.numel() >= band:
            return "banded"
    return "sparse"


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

    None where that takes more passes than `most_passes` at a point. Points beyond the first are
    left out when the deadline is over.
    """
    by_rows = jvp is None or structure.passes[1] <= structure.passes[0]
    push = vjp if jvp is None or by_rows else jvp
    n, m = structure.coordinates, structure.outputs
    seeded, shown = structure.rows, structure.columns
    colours, size, other = structure.row_colours, m, n
    if not by_rows:
        seeded, shown = shown, seeded
        colours, size, other = structure.column_colours, n, m
    if _count(colours) > most_passes:
        return None
    nonzero = torch.zeros(seeded.shape, dtype=torch.bool)
    explained = True
    for point in range(points):
        if point and deadline.over:
            break
        passes = [push(point, (colours == k).double()) for k in range(_count(colours))]
        values = torch.stack(passes).reshape(-1)[colours[seeded] * other + shown]
        nonzero |= values != 0
        seed = _random(size, generator)
        product = push(point, seed)
        terms = values * seed[seeded]
        sums = torch.zeros(2, other, dtype=product.dtype)
        sums.index_add_(1, shown, torch.stack([terms, terms.abs()]))
        if bool(torch.isfinite(product).all()) and bool(torch.isfinite(sums).all()):
            allowed = AGREEMENT * (sums[1] + 1e-3 * sums[1].max())
            explained &= bool(((product - sums[0]).abs() <= allowed).all())
    return nonzero, explained


def structure_of(
    shapes_in: Shapes,
    shape_out: tuple[int, ...],
    rows: Tensor,
    columns: Tensor,
    evidence: str,
    *,
    is_global: bool,
) -> Structure:
    """The structure with these entries, dense where they are too many to save passes.

    A diagonal is filled in where entries of it are missing: they save no pass. A flat output may be
    the gradient by one input: its rows are samples as that input's are.
    """
    n, m = sum(math.prod(shape) for shape in shapes_in), math.prod(shape_out)
    of_input = len(shapes_in) == 1 and shape_out == (n,)
    kind = _kind(rows, columns, shapes_in, shapes_in[0] if of_input else shape_out)
    if kind == "diagonal":
        columns = torch.arange(n)
        rows = columns % m
    batch = _batch(shapes_in, shape_out)
    if kind == "batched" and batch and rows.numel() == n * m // batch:
        return blocks(shapes_in, shape_out, evidence, is_global=is_global)
    if kind != "diagonal" and rows.numel() > MOST_ENTRIES:
        return dense(shapes_in, shape_out, evidence + ": too many to colour")

    def coloured(of: Tensor, along: Tensor, count: int) -> Tensor:
        order = torch.argsort(of, stable=True)
        sizes = torch.bincount(of, minlength=count).tolist()
        supports: Sequence[Support] = [part.tolist() for part in along[order].split(sizes)]
        return torch.tensor(colour(supports), dtype=torch.int64)

    structure = Structure(
        kind,
        evidence,
        shapes_in,
        shape_out,
        rows,
        columns,
        coloured(columns, rows, n),
        coloured(rows, columns, m),
        is_global,
    )
    if kind in ("diagonal", "batched", "banded") or min(structure.passes) <= min(n, m) // 2:
        return structure
    return replace(structure, kind="dense", evidence=evidence + ": too many to save passes")


def dense(shapes_in: Shapes, shape_out: tuple[int, ...], evidence: str) -> Structure:
    """A Jacobian without zeros that are known."""
    none = torch.empty(0, dtype=torch.int64)
    return Structure(
        "dense",
        evidence,
        shapes_in,
        shape_out,
        none,
        none,
        torch.arange(sum(math.prod(shape) for shape in shapes_in)),
        torch.arange(math.prod(shape_out)),
        True,
    )

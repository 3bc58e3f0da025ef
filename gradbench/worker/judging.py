"""A derivative by autograd against finite differences: entry by entry, or along random directions.

Differences contradict an entry only where they disagree well beyond their own error, at the point
and at points nearby.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradbench.core.deadline import Deadline
from gradbench.worker import differences
from gradbench.worker.comparing import told_apart
from gradbench.worker.differences import (
    BEYOND,
    REASONS,
    Judged,
    Ladder,
    Line,
    Scale,
    Slopes,
    verdict,
)
from gradbench.worker.rounding import Rounding

DIRECTIONS = 8
CLASSES = (1e-2, 1e-5)
"""Coordinates whose part of a product is below these shares of the largest get directions of their
own: errors of small entries do not drown in large ones."""
SHARP = 1e-3
"""How much more precise differences along a direction should be, where one entry may be wrong."""
MUTED = 1e9
"""Outputs whose slope is below so many times its noise have a smaller part in a product."""
CANDIDATES = 8
"""Entries by one input that are tried at other points before differences contradict."""
NEARBY, MOVE, TRIALS = 2, 0.01, 5
"""The points nearby that must contradict too, how far they are, and how many are tried."""


@dataclass
class Contradiction(Exception):
    """Differences and autograd disagree about an entry."""

    input: str
    place: str
    got: float
    wanted: float
    error: float

    def __str__(self) -> str:
        got, wanted = told_apart(self.got, self.wanted)
        return (
            f"autograd gives {got} for {self.place}, finite differences {wanted} ± "
            f"{self.error:.1g}, and they disagree at {NEARBY} points nearby too"
        )


MAGNIFIED = 2.0**-40
"""The rounding that is tried, relative: it shows beside that of float64, and is scaled down."""


class Map:
    """A function of tensors, of which the first `differentiated` are moved, and its derivative.

    `value(*inputs)` may be of any shape; `pull(seed, *inputs)`, of a seed of that shape, gives a
    block for each differentiated input. Both are used flattened and in float64; `unit` is the
    relative rounding error of the arithmetic that they rest on.
    """

    def __init__(
        self,
        value: Callable[..., Tensor],
        pull: Callable[..., Sequence[Tensor]],
        names: Sequence[str],
        inputs: tuple[Tensor, ...],
        differentiated: int,
        unit: float,
    ) -> None:
        self._value, self._pull, self.names = value, pull, names
        self.inputs, self.differentiated = inputs, differentiated
        began = time.perf_counter()
        here = value(*inputs).detach()
        self.seconds = time.perf_counter() - began
        """The time of a call."""
        self.shape, self.dtype = here.shape, here.dtype
        self.unit = unit
        self.here = here.reshape(-1).double()
        self.sizes = [_sizes(x) for x in inputs[:differentiated]]
        self.noise = self.coarse = self.unit * self.here.abs()

    def at(self, inputs: tuple[Tensor, ...]) -> Map:
        """The same map at another point, of at least the same noise."""
        there = Map(self._value, self._pull, self.names, inputs, self.differentiated, self.unit)
        there.noise = torch.maximum(there.noise, self.noise)
        there.coarse = torch.maximum(there.noise, self.coarse)
        return there

    def value(self, *inputs: Tensor) -> Tensor:
        """The values, NaN where the function fails."""
        began = time.perf_counter()
        try:
            found = self._value(*inputs).detach().reshape(-1).double()
        except Exception:
            found = self.here.new_zeros(0)
        # The first calls load code.
        self.seconds = min(self.seconds, time.perf_counter() - began)
        if found.shape != self.here.shape:
            return torch.full_like(self.here, torch.nan)
        return torch.where(torch.isfinite(found), found, torch.nan)

    def pull(self, seed: Tensor) -> list[Tensor]:
        """A seed of shape (outputs,) times the derivative, flat blocks of (coordinates,)."""
        pulled = self._pull(seed.reshape(self.shape).to(self.dtype), *self.inputs)
        return [block.detach().reshape(-1).double() for block in pulled]

    def coordinate(self, number: int, flat: int) -> Line:
        """The line along one coordinate of one input, whatever its layout."""
        x = self.inputs[number]
        index = unravelled(flat, x.shape)

        def along(step: float) -> tuple[float, Tensor]:
            moved = x.detach().clone()
            moved[index] += step
            taken = float(moved[index].double() - x[index].double())
            return taken, self.value(*self.inputs[:number], moved, *self.inputs[number + 1 :])

        return along

    def direction(self, tangents: Sequence[Tensor]) -> Line:
        """The line along flat tangents, one for each differentiated input."""
        shaped = [t.reshape(x.shape).to(x.dtype) for x, t in zip(self.inputs, tangents)]

        def along(step: float) -> tuple[float, Tensor]:
            moved = [x.detach().clone().add_(t, alpha=step) for x, t in zip(self.inputs, shaped)]
            return step, self.value(*moved, *self.inputs[self.differentiated :])

        return along

    def random(self, generator: torch.Generator) -> list[Tensor]:
        """Random flat tangents of the size of the coordinates."""
        return [normal(size.numel(), generator) * size for size in self.sizes]

    def measure_noise(self, coarse: bool = True) -> None:
        """Measures the noise of the values, in 9 calls, or in 27, and in 3 of Monte Carlo
        arithmetic: where what is rounded inside is large beside the value, the value may not change
        at all over the steps, and shows no noise."""
        self.noise = torch.maximum(self._rounding(), self.noise)
        generator = torch.Generator().manual_seed(3)
        measured = differences.noise(
            lambda: self.direction(self.random(generator)), self.here, coarse
        )
        self.noise = torch.maximum(measured[0], self.noise)
        self.coarse = torch.maximum(measured[1], self.noise)

    def _rounding(self) -> Tensor:
        """How far rounding of what is computed inside moves the values, absolute."""
        largest = torch.zeros_like(self.here)
        for seed in range(3):
            try:
                with Rounding(MAGNIFIED, torch.float64, seed):
                    drawn = self._value(*self.inputs).detach().reshape(-1).double()
            except Exception:
                break
            if drawn.shape == self.here.shape:
                off = (drawn - self.here).abs().nan_to_num(nan=0.0, posinf=0.0)
                largest = torch.maximum(largest, off)
        return largest * (self.unit / MAGNIFIED)

    def entry(self, number: int, i: int, j: int) -> tuple[float, Judged]:
        """What autograd claims of output i by coordinate j of an input, and what differences say
        of it at every step."""
        pulled, sizes = self.pull(unit(self.here, i))[number], self.sizes[number]
        line = self.coordinate(number, j)

        def of_one(step: float) -> tuple[float, Tensor]:
            taken, values = line(step)
            return taken, values[i : i + 1]

        size = float(sizes[j])
        reach = max(size, typical(self.inputs[number]))
        scale = Scale(self.noise[i : i + 1], self.coarse[i : i + 1], self.unit, size, reach)
        ladder = Ladder(of_one, self.here[i : i + 1], scale)
        row = ((pulled.abs() * sizes).amax() / sizes[j]).reshape(1)
        return float(pulled[j]), ladder.judge(pulled[j : j + 1], row)

    def place(self, number: int, i: int, j: int) -> str:
        """An entry in words."""
        name, x = self.names[number], self.inputs[number]
        by = f"{name}{list(unravelled(j, x.shape))}" if x.dim() else name
        return f"{self.output(i)} by {by}"

    def output(self, i: int) -> str:
        """An output in words."""
        return f"output {list(unravelled(i, self.shape))}" if len(self.shape) else "the output"


def unravelled(flat: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The indices of a flat index (`torch.unravel_index` is missing before torch 2.2)."""
    indices = []
    for length in reversed(shape):
        flat, index = divmod(flat, length)
        indices.append(index)
    return tuple(indices[::-1])


def typical(x: Tensor) -> float:
    """The size of an input's coordinates that are not zero; 1 where there are none."""
    magnitudes = x.detach().abs()
    magnitudes = magnitudes[magnitudes > 0]
    return float(magnitudes.median()) if magnitudes.numel() else 1.0


def _sizes(x: Tensor) -> Tensor:
    """The size of each coordinate, flat: that of the others where it is zero."""
    magnitudes = x.detach().abs().reshape(-1).double()
    return torch.where(magnitudes > 0, magnitudes, typical(x))


def normal(count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, generator=generator, dtype=torch.float64)


def unit(like: Tensor, i: int) -> Tensor:
    seed = torch.zeros_like(like)
    seed[i] = 1.0
    return seed


@dataclass
class Tally:
    """How many entries (or directions) differences confirmed, and why not the others."""

    what: str
    confirmed: int = 0
    open: dict[str, int] = field(default_factory=dict)
    tried: int = 0
    skipped: int = 0
    """Coordinates (or directions) that were tried, and that were left out for want of time."""
    example: str = ""
    """Of what differs at this very point alone: an entry, and both values."""

    def add(self, confirmed: Tensor, reasons: Sequence[str]) -> None:
        """Adds verdicts on outputs, with a reason for each where one is not confirmed."""
        self.confirmed += int(confirmed.sum())
        for agreed, reason in zip(confirmed.tolist(), reasons):
            if not agreed:
                self.open[reason] = self.open.get(reason, 0) + 1
        self.tried += 1

    def why(self) -> str:
        said = ", ".join(f"{count} {REASONS[reason]}" for reason, count in self.open.items())
        return said + f"; {self.example}" * bool(self.example)


def entry_by_entry(map: Map, blocks: Sequence[Tensor], deadline: Deadline) -> Tally:
    """Holds every entry of blocks of shape (outputs, coordinates) against differences.

    Raises Contradiction.
    """
    tally = Tally("entries")
    for number, block in enumerate(blocks):
        sizes, reach = map.sizes[number], typical(map.inputs[number])
        rows = (block.abs() * sizes).amax(1) / sizes[:, None] if block.shape[1] else block.T
        ladders = []
        for j, size in enumerate(sizes.tolist()):
            if deadline.over:
                break
            scale = Scale(map.noise, map.coarse, map.unit, size, max(size, reach))
            ladders.append(Ladder(map.coordinate(number, j), map.here, scale))
            ladders[-1].sample(2)
        # Two steps settle nearly all entries; they are judged at once.
        settled = _settled(ladders, block.T, rows)
        tries = CANDIDATES
        for j, ladder in enumerate(ladders):
            if bool(settled[j].all()):
                tally.add(settled[j], [])
                continue
            if deadline.over:
                ladders = ladders[:j]
                break
            judged = ladder.judge(block[:, j], rows[j])
            reasons = [] if bool(judged.confirmed.all()) else ladder.reasons()
            for i in judged.contradicted.nonzero()[:, 0].tolist():
                reasons[i] = "point"
                if tries:
                    tries -= 1
                    reasons[i], said = require_agreement(map, number, i, j)
                    tally.example = tally.example or said
            tally.add(judged.confirmed, reasons)
        tally.skipped += block.shape[1] - len(ladders)
    return tally


def _settled(ladders: Sequence[Ladder], columns: Tensor, rows: Tensor) -> Tensor:
    """What the steps so far confirm of each column, of shape (columns, outputs)."""
    slopes = [ladder.slopes() for ladder in ladders]
    settled = torch.zeros(len(ladders), columns.shape[1], dtype=torch.bool)
    numbers = [j for j, one in enumerate(slopes) if len(one.steps) == 2]
    if not numbers:
        return settled
    outputs = columns.shape[1]
    sizes = torch.tensor([float(ladders[j].scale.size) for j in numbers], dtype=torch.float64)
    first = ladders[0].scale
    sizes = sizes.repeat_interleave(outputs)
    reaches = torch.tensor([float(ladders[j].scale.reach) for j in numbers], dtype=torch.float64)
    reaches = reaches.repeat_interleave(outputs)
    noise, coarse = first.noise.repeat(len(numbers)), first.coarse.repeat(len(numbers))
    scale = Scale(noise, coarse, first.unit, sizes, reaches)
    judged = verdict(
        Slopes.joined([slopes[j] for j in numbers]),
        scale,
        columns[numbers].reshape(-1),
        rows[numbers].reshape(-1),
    )
    settled[numbers] = judged.confirmed.reshape(len(numbers), outputs)
    return settled


def require_agreement(map: Map, number: int, i: int, j: int) -> tuple[str, str]:
    """Raises Contradiction where output i by coordinate j of an input is contradicted here and at
    points nearby, and the rounding of autograd's own computation does not explain it.

    Otherwise the reason, a key of `REASONS`, and what autograd and differences say, in words.
    """
    claimed, judged = map.entry(number, i, j)
    value, error = float(judged.value), float(judged.error)
    if not bool(judged.contradicted):
        return "point", ""
    place = map.place(number, i, j)
    got, wanted = told_apart(claimed, value)
    here_alone = f"autograd gives {got} for {place}, differences {wanted}"
    gap = abs(claimed - value)
    if BEYOND * _own_rounding(map, number, i, j, claimed) > gap:
        return "own", here_alone
    if BEYOND * _beside(map, number, i, j, claimed) > gap:
        return "point", here_alone
    generator = torch.Generator().manual_seed(4)
    contradicted = 0
    for _ in range(TRIALS):
        there = map.at(nearby(map, generator))
        if not bool(torch.isfinite(there.here[i])):
            continue
        again = there.entry(number, i, j)[1]
        if bool(again.confirmed):
            return "point", here_alone
        contradicted += int(again.contradicted)
        if contradicted == NEARBY:
            raise Contradiction(map.names[number], place, claimed, value, error)
    return "point", here_alone


def nearby(map: Map, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Inputs nearby, of which the differentiated ones have moved, zeros too."""
    moved = [
        x.detach() + MOVE * t.reshape(x.shape).to(x.dtype)
        for x, t in zip(map.inputs, map.random(generator))
    ]
    return (*moved, *map.inputs[map.differentiated :])


def _beside(map: Map, number: int, i: int, j: int, claimed: float) -> float:
    """How far autograd's entry moves where the inputs move by a few units in the last place."""
    generator = torch.Generator().manual_seed(5)
    spread = 0.0
    for _ in range(3):
        moved = [
            x.detach() + 4 * torch.finfo(x.dtype).eps * t.reshape(x.shape).to(x.dtype)
            for x, t in zip(map.inputs, map.random(generator))
        ]
        there = map.at((*moved, *map.inputs[map.differentiated :]))
        spread = max(spread, abs(float(there.pull(unit(map.here, i))[number][j]) - claimed))
    return spread


def _own_rounding(map: Map, number: int, i: int, j: int, claimed: float) -> float:
    """How far autograd's entry moves where what is computed inside is rounded once more."""
    spread = 0.0
    for seed in range(3):
        try:
            with Rounding(MAGNIFIED, torch.float64, seed):
                drawn = float(map.pull(unit(map.here, i))[number][j])
        except Exception:
            break
        if math.isfinite(drawn):
            spread = max(spread, abs(drawn - claimed) * (map.unit / MAGNIFIED))
    return spread


def by_directions(map: Map, deadline: Deadline, directions: int = DIRECTIONS) -> Tally:
    """Holds products of random seeds with the derivative against differences along random tangents.

    Raises Contradiction, of an entry that is found by halving.
    """
    tally = Tally("products")
    generator = torch.Generator().manual_seed(0)
    tries = CANDIDATES
    for _ in range(directions):
        if deadline.over and tally.tried:
            tally.skipped += 1
            continue
        seed = normal(len(map.here), generator)
        parts = [b.abs() * size for b, size in zip(map.pull(seed), map.sizes)]
        for mask in _classes(parts):
            if deadline.over and tally.tried:
                tally.skipped += 1
                continue
            tangents = [t * m for t, m in zip(map.random(generator), mask)]
            product = Product(map, tangents, normal(len(map.here), generator))
            judged = product.judge()
            reasons = [] if bool(judged.confirmed) else product.ladder.reasons()
            if bool(judged.contradicted) and tries:
                tries -= 1
                reasons = ["point"]
                if (place := product.located()) is not None:
                    reasons[0], said = require_agreement(map, *place)
                    tally.example = tally.example or said
            tally.add(judged.confirmed, reasons)
    return tally


def elsewhere(map: Map, deadline: Deadline) -> None:
    """Holds a product at each of two points nearby against differences: a derivative can be right
    at one point alone. Raises Contradiction."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(NEARBY):
        if deadline.over:
            break
        there = map.at(nearby(map, generator))
        if bool(torch.isfinite(there.here).all()):
            by_directions(there, deadline, 1)


def _classes(parts: Sequence[Tensor]) -> list[list[Tensor]]:
    """Masks of coordinates whose parts of a product are of similar size."""
    largest = max((float(p.max()) for p in parts if p.numel()), default=0.0)
    edges = [float("inf"), *(share * largest for share in CLASSES), -1.0]
    masks = [
        [((p <= high) & (p > low)).double() for p in parts]
        for high, low in itertools.pairwise(edges)
    ]
    return [mask for mask in masks if any(bool(m.any()) for m in mask)]


class Product:
    """A seed times the derivative times tangents, by autograd and by differences.

    The seed is weighed so that every output has a like part in it.
    """

    def __init__(self, map: Map, tangents: list[Tensor], seed: Tensor) -> None:
        self.map, self.tangents = map, tangents
        self.line = map.direction(tangents)
        step = differences.START
        self.slopes = (self.line(step)[1] - self.line(-step)[1]) / (2 * step)
        sizes = self.slopes.abs().nan_to_num(nan=0.0) + MUTED * map.noise / step
        sizes = torch.where(sizes > 0, sizes, float(sizes.max()) or 1.0)
        self.seed = seed / sizes
        self.ladder = self._ladder(self.line)

    def _ladder(self, line: Line) -> Ladder:
        def weighed(step: float) -> tuple[float, Tensor]:
            taken, values = line(step)
            return taken, (values * self.seed).sum().reshape(1)

        noise = (self.map.noise * self.seed).norm().reshape(1)
        coarse = (self.map.coarse * self.seed).norm().reshape(1)
        here = (self.map.here * self.seed).sum().reshape(1)
        return Ladder(weighed, here, Scale(noise, coarse, self.map.unit, 1.0, 1.0))

    def judge(self) -> Judged:
        parts = [p * t for p, t in zip(self.map.pull(self.seed), self.tangents)]
        claimed = torch.stack([p.sum() for p in parts]).sum().reshape(1)
        row = torch.stack([p.abs().sum() for p in parts]).sum().reshape(1)
        return self.ladder.judge(claimed, row, SHARP)

    def located(self) -> tuple[int, int, int] | None:
        """Input, output and coordinate of an entry that is contradicted, by halving the tangents
        and then the seed; None where the trail is lost."""
        flat = torch.cat(self.tangents)
        lengths = [len(t) for t in self.tangents]
        places = flat.nonzero()[:, 0]
        pulled = torch.cat(self.map.pull(self.seed))
        while len(places) > 1:
            for half in (places[: len(places) // 2], places[len(places) // 2 :]):
                part = torch.zeros_like(flat)
                part[half] = flat[half]
                ladder = self._ladder(self.map.direction(part.split(lengths)))
                products = pulled * part
                row = products.abs().sum().reshape(1)
                judged = ladder.judge(products.sum().reshape(1), row, SHARP)
                if bool(judged.contradicted):
                    places = half
                    break
            else:
                return None
        flat_j, number = int(places[0]), 0
        while flat_j >= lengths[number]:
            flat_j, number = flat_j - lengths[number], number + 1
        return number, self._output(number, flat_j), flat_j

    def _output(self, number: int, j: int) -> int:
        """The output whose derivative by a coordinate is furthest from differences, by halving."""
        line = self.map.coordinate(number, j)
        step = differences.START * float(self.map.sizes[number][j])
        (right, plus), (left, minus) = line(step), line(-step)
        slopes = ((plus - minus) / (right - left)).nan_to_num(nan=0.0)
        low, high = 0, len(slopes)
        while high - low > 1:
            middle = (low + high) // 2
            gaps = []
            for part in (slice(low, middle), slice(middle, high)):
                seed = torch.zeros_like(self.seed)
                seed[part] = self.seed[part]
                gaps.append(abs(float(self.map.pull(seed)[number][j] - (seed * slopes).sum())))
            low, high = (low, middle) if gaps[0] >= gaps[1] else (middle, high)
        return low

"""The errors that the gate allows: what rounding in the dtype does to the derivative.

An entry may always be off by

    ENTRY · (u · |exact| + the smallest positive number of the dtype)

u is the unit in the last place of the dtype (`torch.finfo(dtype).eps`) or of TF32. In functions of
the user's own an entry may also be off by LIBRARY of its row's largest, up to LIBRARY_ENTRY of
itself: torch's formulas have small constants of their own. Where that does
not do, the derivative is evaluated again in Monte Carlo arithmetic (`gradbench.worker.rounding`),
and an entry may be off by SPREAD times its largest deviation more. Most results pass without, and
the more draws are only due before a result is called wrong: see `LEVELS`.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradbench.problems import registry
from gradbench.problems.arguments import Arguments
from gradbench.problems.function import Tensors, as_tuple, parts_of, uniform
from gradbench.problems.mode import Unsupported
from gradbench.problems.operators import Problem
from gradbench.worker import differences
from gradbench.worker.failures import line_of
from gradbench.worker.rounding import Rounding
from gradbench.worker.urgency import Late

ENTRY = 32
ROW = 16
INPUT = 16
SPREAD = 4

LIBRARY, LIBRARY_ENTRY = 1e-10, 1e-6
"""Constants inside torch's formulas, such as the 1e-13 that forward mode of `logcumsumexp` adds to
a denominator of up to 1, are no rounding, and no error of whoever uses them. Wrong formulas, and
float32 inside, are off by more than 1e-8."""

SMALLEST_STEP = 2.0**-46
"""The smallest relative move of a number: below it, float64 rounding of the exact derivative
matters. The deviation is then scaled down to the unit of the dtype."""

LINES, MOST_NOISE = 3, 2**18
"""Lines along which the noise of each way in float64 is measured before a result is called wrong
(one beside the first draws), and the most numbers of a result for which it is."""

FLOAT64 = 2.0**-52

PATIENCE, FIRST_PATIENCE = 10.0, 1.0
"""Seconds from which on a level, or the first one, takes no further draws, if it has two."""

REPEATS = 1e-9
"""How far a way may be off its own earlier result, relative to the largest of the row."""

CHANGES = "the function's own derivative changes from call to call"

Path = Callable[[Arguments], Tensors]
"""One way of computing a result."""


def computed_by(name: str, problem: Problem) -> Path:
    """The way of the mode of this name that computes in float64 on the CPU. Calling it raises what
    the mode raises, and Unsupported where there is none, or the function cannot be evaluated in
    float64."""
    exact = problem.function.exact or problem.forward
    wide = dataclasses.replace(
        problem,
        function=dataclasses.replace(problem.function, forward=exact),
        dtype=torch.float64,
        device=torch.device("cpu"),
        tf32=False,
    )

    def way(arguments: Arguments) -> Tensors:
        mode = registry.MODES.get((problem.operator, name))
        if mode is None or mode.opt_in:
            raise Unsupported("there is no such mode")
        if problem.function.precise is None:
            raise Unsupported("the function is not computed in float64")
        call = mode.build(wide)
        with torch.enable_grad(), problem.function.precise():
            result = call(*arguments.deliver(wide, mode.leaves))
        return tuple(block.detach() for block in as_tuple(result))

    return way


@dataclass(frozen=True)
class Level:
    """How often each way is drawn."""

    draws: int
    first: bool = False
    """Whether the exact way alone is drawn: a formula, where others take a pass for each row."""
    last: bool = False
    """Whether inputs move too, steps are not magnified, and further ways are drawn."""


LEVELS = (Level(8, first=True), Level(2), Level(8), Level(32, last=True))
"""More draws show more of what flips where rounding decides: a unit that switches on, the nearest
of two. Inputs move last, because that makes equal numbers unequal."""


def _row_scale(block: Tensor, rows: int | Tensor) -> Tensor:
    """The largest magnitude in each row, broadcastable against the block. `rows` is the number of
    leading dimensions that number them, or of a vector the row of each of its numbers."""
    if isinstance(rows, Tensor):
        if not block.numel():
            return block.abs()
        largest = block.new_zeros(int(rows.max()) + 1)
        return largest.scatter_reduce(0, rows, block.abs(), "amax")[rows]
    if block.dim() == rows or block.numel() == 0:
        return block.abs()
    return block.abs().amax(dim=tuple(range(rows, block.dim())), keepdim=True)


def moved(
    arguments: Arguments, differentiated: int, step: float, generator: torch.Generator
) -> Arguments:
    """The arguments, every number of a differentiated input and of the seed changed by a relative
    error of up to `step`. The others stay: a label of 1 is no label if it is more."""
    constants = range(differentiated, len(arguments.inputs))
    # Moves of random length: two moves of equal length would cancel half of the time.
    return arguments.replaced(
        tuple(
            x * (1 + step * uniform(generator, *x.shape))
            if x.is_floating_point() and place not in constants
            else x
            for place, x in enumerate(arguments.tensors())
        )
    )


class Allowance:
    """The exact result for one set of arguments, with the errors allowed, in float64.

    `ways` compute the result; the first is exact (`blocks`, where that is known). `further` are
    other ways, for the last level. `library` allows for LIBRARY. Levels are computed when asked
    for, and kept; Late is raised where there is no time to.
    """

    def __init__(
        self,
        ways: Sequence[Path],
        further: Sequence[Path],
        arguments: Arguments,
        differentiated: int,
        rows: Sequence[int | Tensor],
        unit: float,
        dtype: torch.dtype,
        entry_unit: float | None = None,
        blocks: Tensors | None = None,
        library: bool = False,
    ) -> None:
        self.ways = tuple(ways)
        self.further = tuple(further)
        self.arguments = arguments.cast(torch.float64)
        self.differentiated = differentiated
        self.rows = tuple(rows)
        self.unit = unit
        self.dtype = dtype
        self.entry_unit = unit if entry_unit is None else entry_unit
        self.blocks = self.ways[0](self.arguments) if blocks is None else blocks
        self.library = library
        self._levels = [one for one in LEVELS if not one.first or len(self.ways) > 1]
        self._spread: list[Tensors] = []
        self._plain: dict[Path, Tensors] = {self.ways[0]: self.blocks}
        self.trouble = ""
        """Why rounding of intermediates is not known, as a clause; empty where it is."""

    @property
    def levels(self) -> int:
        return 1 + len(self._spread if self.trouble else self._levels)

    def known(self, level: int) -> bool:
        """Whether the errors allowed at this level take no evaluation."""
        return level <= len(self._spread)

    def allowed(self, level: int) -> Tensors:
        """The error allowed to each entry of each block; level 0 takes no evaluation."""
        info = torch.finfo(self.dtype)
        smallest = float(info.tiny * info.eps)
        cheap = tuple(ENTRY * (self.entry_unit * b.abs() + smallest) for b in self.blocks)
        if self.library:
            cheap = tuple(
                a + torch.minimum(LIBRARY * _row_scale(b, leading), LIBRARY_ENTRY * b.abs())
                for a, b, leading in zip(cheap, self.blocks, self.rows)
            )
        if not level:
            return cheap
        return tuple(a + s for a, s in zip(cheap, self._spread_at(level)))

    def in_a_row(self, unit: float = 0.0) -> Tensors:
        """The error allowed to each entry where the mode is right in float64: that of a sum, which
        is rounded on the scale of its row, in units of the dtype or in those given."""
        return tuple(
            a + ROW * (unit or self.unit) * _row_scale(block, leading)
            for a, block, leading in zip(self.allowed(0), self.blocks, self.rows)
        )

    def _spread_at(self, level: int) -> Tensors:
        while len(self._spread) < level:
            self._spread.append(self._next_level())
        return self._spread[level - 1]

    def _next_level(self) -> Tensors:
        number = len(self._spread)
        level = self._levels[number]
        largest = self._spread[-1] if self._spread else tuple(b * 0.0 for b in self.blocks)
        ways = self.ways[:1] if level.first else self.ways + (self.further if level.last else ())
        earlier = self._levels[number - 1] if number and not level.last else Level(0)
        patience = FIRST_PATIENCE if level.first else PATIENCE
        began, done, trouble = time.perf_counter(), 0, ""
        for draw in range(level.draws):
            for which, way in enumerate(ways):
                if draw < earlier.draws and not (earlier.first and which):
                    continue
                try:
                    deviation = self._deviation(way, 1000 * which + 100 * number + draw, level)
                except Late:
                    raise
                except Exception as error:
                    trouble = trouble or line_of(error)
                    continue
                done += 1
                largest = tuple(torch.maximum(a, SPREAD * d) for a, d in zip(largest, deviation))
            if done >= 2 and time.perf_counter() - began > patience:
                break
        # What takes no dispatch mode is quick: it comes first, and once more at last.
        lines = LINES if level.last else 1 - min(number, 1)
        for line, way in itertools.product(range(lines), [*self._plain]):
            if done >= 2 and time.perf_counter() - began > 2 * patience:
                break
            noise = self._noise(way, line)
            largest = tuple(torch.maximum(a, SPREAD * n) for a, n in zip(largest, noise))
        if not done and level.first:
            return largest
        if not done:
            self.trouble = f"its intermediates cannot be rounded: {trouble}"
            return self._without_intermediates()
        if not all(self._repeats(way) for way in ways if way in self._plain):
            # What draws then show is no rounding.
            self.trouble = CHANGES
            return self._spread[-1] if self._spread else tuple(b * 0.0 for b in self.blocks)
        return largest

    def _repeats(self, way: Path) -> bool:
        """Whether a way still gives what it gave before, on the scale of each row."""
        return all(
            bool(((now - block).abs() <= REPEATS * _row_scale(block, leading)).all())
            for now, block, leading in zip(way(self.arguments), self._plain[way], self.rows)
            if block.isfinite().all()
        )

    def _deviation(self, way: Path, seed: int, level: Level) -> Tensors:
        """How far one draw of a way is off that way's own result, in the unit of the dtype."""
        if way not in self._plain:
            self._plain[way] = way(self.arguments)
        plain = self._plain[way]
        step = self.unit if level.last else max(self.unit, SMALLEST_STEP)
        arguments = self.arguments
        if level.last:
            arguments = moved(
                arguments, self.differentiated, step, torch.Generator().manual_seed(seed)
            )
        with Rounding(step, self.dtype, seed):
            drawn = way(arguments)
        return tuple(
            # What is not finite says nothing about size.
            ((d - p).abs() * (self.unit / step)).nan_to_num(nan=0.0, posinf=0.0)
            for d, p in zip(drawn, plain)
        )

    def _noise(self, way: Path, seed: int) -> Tensors:
        """The noise of a way's float64 results along a line, in the unit of the dtype.

        Torch may take another formula in Monte Carlo arithmetic than it does otherwise, as for the
        derivative of `prod`: this shows the rounding of the other one.
        """
        plain = self._plain[way]
        if sum(block.numel() for block in plain) > MOST_NOISE:
            return tuple(torch.zeros_like(block) for block in plain)

        def line(step: float) -> tuple[float, Tensor]:
            generator = torch.Generator().manual_seed(seed)
            there = way(moved(self.arguments, self.differentiated, step, generator))
            return step, torch.cat([block.reshape(-1) for block in there])

        noise = differences.level(line, differences.FINE) * (self.unit / FLOAT64)
        return parts_of(noise, [block.shape for block in plain])

    def _without_intermediates(self) -> Tensors:
        """The errors by cancellation in a row, and by rounding the inputs."""
        changes = [torch.zeros_like(block) for block in self.blocks]
        generator = torch.Generator().manual_seed(0)
        step = max(self.unit, SMALLEST_STEP)
        for _ in range(5):
            other = self.ways[0](moved(self.arguments, self.differentiated, step, generator))
            for change, block, now in zip(changes, self.blocks, other):
                torch.maximum(change, (now - block).abs() * (self.unit / step), out=change)
        return tuple(
            ROW * self.unit * _row_scale(block, leading) + INPUT * change
            for block, leading, change in zip(self.blocks, self.rows, changes)
        )

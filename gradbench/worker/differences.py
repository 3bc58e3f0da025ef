"""Derivatives by finite differences, each entry with its own error, held against a claim.

Along a line through the point, values at steps that shrink by a factor of 8 on both sides give
central differences. Neville's extrapolation to step 0 of two and of three neighbouring ones, in the
square of the step, gives an estimate; how far the extrapolation moves it is its error (C. Ridders,
Accurate computation of F'(x) and F'(x)F''(x), Advances in Engineering Software 4, 1982), and the
noise of the values over the smallest step is added. The noise is measured from differences of high
order of values in a row (J. Moré and S. Wild, Estimating computational noise, SIAM J. Sci. Comput.
33, 2011).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

RATIO = 8.0
START, SMALLEST, LARGEST = 2.0**-10, 2.0**-36, 0.5
"""The first step, the smallest and the largest, relative to the coordinate's size."""

TOLERANCE = 1e-6
"""How far a claim may be from the estimate, relative to the entry, beside its error."""
ROUNDING = 4096
"""The same in units of the last place of the row, for the claim's own rounding."""
RESOLVED, RESOLVED_ROW, RESOLVED_NOISE = 1e-4, 1e-9, 2.0**14
"""An estimate decides where its error is at most this share of the entry, or of its row, or where
entry and error are at most so many times the noise of the value over the coordinate's size."""
RESOLVED_LAST = 0.05
"""The share of the entry after all steps, where none of them differs."""
BEYOND = 20.0
"""A claim disagrees where it is further from the estimate than so many times the error."""

IN_A_ROW = 9
FINE, COARSER, COARSE = 2.0**-38, (2.0**-20, 2.0**-21), 2.0**-17
"""The noise is measured of so many values at these spacings, relative to the coordinates' sizes."""

Line = Callable[[float], tuple[float, Tensor]]
"""From a signed step to the step that is taken, after rounding, and the values there."""


def noise(line_of: Callable[[], Line], here: Tensor, coarse: bool = True) -> tuple[Tensor, Tensor]:
    """The noise of each value, absolute, where steps are small and where they are at least `COARSE`
    times the coordinate's size.

    `line_of()` is a random line through the point, of tangents of the size of the coordinates.
    Rounding shows at any spacing of the values; what is computed in a lower precision inside, or in
    steps, shows at a larger one alone.
    """
    fine = level(line_of(), FINE)
    if not coarse:
        return fine, fine
    return fine, torch.maximum(fine, torch.maximum(*(level(line_of(), s) for s in COARSER)))


def level(line: Line, spacing: float) -> Tensor:
    """Three times the standard deviation of the noise of values in a row.

    They begin beside the point, which is the likeliest place of a kink or a jump.
    """
    row = torch.stack([line(spacing * (k + 1))[1] for k in range(IN_A_ROW)])
    levels = []
    for order in range(1, 7):
        row = row[1:] - row[:-1]
        if order > 2:
            gamma = math.factorial(order) ** 2 / math.factorial(2 * order)
            levels.append((gamma * row.square().mean(0)).sqrt())
    return 3 * torch.stack(levels).nan_to_num(nan=0.0).amin(0)


@dataclass
class Judged:
    """What differences along a line say of each output's claim; all of shape (outputs,)."""

    confirmed: Tensor
    contradicted: Tensor
    value: Tensor
    error: Tensor
    """The estimate of the least error, and that error."""


@dataclass
class Slopes:
    """Difference quotients at steps from large to small: to the right, to the left, and central, of
    shape (steps, outputs). `steps` may be of shape (steps, 1)."""

    steps: Tensor
    right: Tensor
    left: Tensor
    central: Tensor

    @staticmethod
    def joined(many: Sequence[Slopes]) -> Slopes:
        """The outputs of several lines, with the same number of steps each, side by side."""
        return Slopes(
            torch.cat([one.steps.expand_as(one.right) for one in many], 1),
            *(
                torch.cat([getattr(one, name) for one in many], 1)
                for name in ("right", "left", "central")
            ),
        )


@dataclass
class Scale:
    """What estimates are measured by; tensors of shape (outputs,), or numbers.

    `noise` is that of the values, `coarse` the same for steps of at least `COARSE` times the size,
    `unit` the last place of their dtype. `size` is that of the
    coordinate (1 along a tangent of the coordinates' sizes), `reach` that of its neighbours where
    they are larger.
    """

    noise: Tensor
    coarse: Tensor
    unit: float
    size: Tensor | float
    reach: Tensor | float

    def level(self, steps: Tensor) -> Tensor:
        """The noise at steps of shape (steps, 1) or (steps, outputs)."""
        return torch.where(steps < COARSE * self.size, self.noise, self.coarse)


def verdict(
    slopes: Slopes,
    scale: Scale,
    claimed: Tensor,
    row: Tensor,
    sharp: float = 1.0,
    last: bool = False,
) -> Judged:
    """What slopes say of claims, where errors may be `sharp` times what they may be.

    `row` is the scale of each output's derivatives, in units of this one. `last` takes the slopes
    for the best that there will be.
    """
    steps, unit = slopes.steps, scale.unit
    if len(steps) < 2:
        never = torch.zeros_like(claimed, dtype=torch.bool)
        nothing = torch.full_like(claimed, torch.nan)
        return Judged(never, never, nothing, nothing)
    values, errors = _extrapolated(steps, slopes.central, 2)
    if not bool(torch.isfinite(values).all()):
        # Outside the domain on one side: the other one alone.
        for side in (slopes.right, slopes.left):
            one, its_error = _extrapolated(steps, side, 1)
            lacking = ~torch.isfinite(values) & torch.isfinite(one)
            values = torch.where(lacking, one, values)
            errors = torch.where(lacking, its_error, errors)
    smallest = torch.cat([steps[1:], steps[2:]])
    floor = scale.level(smallest) / smallest
    errors = (errors + floor).nan_to_num(nan=torch.inf)
    gap = (values - claimed).abs().nan_to_num(nan=torch.inf)
    larger = torch.maximum(claimed.abs(), values.abs().nan_to_num(nan=0.0))
    allowed = max(sharp * TOLERANCE, 64 * unit) * larger + ROUNDING * unit * row
    hidden = torch.maximum(larger, errors) * scale.reach <= RESOLVED_NOISE * scale.noise
    resolved = (
        (errors <= sharp * max(RESOLVED, 1e4 * unit) * larger)
        | (errors <= RESOLVED_ROW * row)
        | hidden
        | ((errors == floor) & (values == claimed))
    )
    # The error estimate of the first steps is large beside the error that a smooth function has
    # there: a claim within that estimate alone is held against smaller steps.
    agrees = resolved & (gap <= allowed + 2 * (errors if last else floor[:1]))
    differs = (gap > allowed + BEYOND * errors) & torch.isfinite(errors)
    # Below the last place of a lower precision inside, a value does not change at all.
    still = (errors == floor) & (values == 0) & (smallest < COARSE * scale.size)
    differs &= ~still
    least = torch.where(differs, smallest, torch.inf).amin(0)
    agrees &= ~_cannot_tell(values, allowed + 2 * errors, errors, differs)
    contradicted = (differs.sum(0) >= 3) & ~agrees.any(0)
    bends = _lasting((slopes.right - slopes.left).abs(), steps, BEYOND * scale.level(steps))
    if bool(contradicted.any()):
        contradicted &= _down_to_noise(gap, floor, smallest, differs, least, still)
        contradicted &= _outside(claimed, slopes, bends, scale.coarse, least)
    confirmed = (agrees & (smallest <= least)).any(0)
    if last:
        hidden = errors * scale.reach <= RESOLVED_NOISE * scale.noise
        nearly = ((errors <= RESOLVED_LAST * larger) | hidden) & (gap <= allowed + 2 * errors)
        confirmed |= nearly.any(0) & ~differs.any(0)
    confirmed &= ~bends
    best = errors.argmin(0, keepdim=True)
    value, error = values.gather(0, best)[0], errors.gather(0, best)[0]
    return Judged(confirmed, contradicted, value, error)


def _extrapolated(steps: Tensor, slopes: Tensor, power: int) -> tuple[Tensor, Tensor]:
    """Estimates at step 0 from each two and each three neighbouring steps, and their errors, of
    shape (windows, outputs): first the pairs, then the triples."""
    z = steps**power
    pairs = slopes[1:] + (slopes[1:] - slopes[:-1]) * (z[1:] / (z[:-1] - z[1:]))
    pair_errors = (slopes[1:] - slopes[:-1]).abs()
    if len(steps) < 3:
        return pairs, pair_errors
    triples = pairs[1:] + (pairs[1:] - pairs[:-1]) * (z[2:] / (z[:-2] - z[2:]))
    moves = torch.maximum((triples - pairs[1:]).abs(), (triples - pairs[:-1]).abs())
    return torch.cat([pairs, triples]), torch.cat([pair_errors, moves])


def _cannot_tell(values: Tensor, reach: Tensor, errors: Tensor, differs: Tensor) -> Tensor:
    """Whether an estimate is compatible with the most precise of those that differ from the claim,
    so that its agreement with the claim says nothing."""
    precise = torch.where(differs, errors, torch.inf)
    best = precise.argmin(0, keepdim=True)
    apart = (values - values.gather(0, best)).abs()
    return differs.any(0) & (apart <= reach + 2 * precise.gather(0, best))


def _down_to_noise(
    gap: Tensor, floor: Tensor, smallest: Tensor, differs: Tensor, least: Tensor, still: Tensor
) -> Tensor:
    """Whether only noise, or a value that stands `still`, keeps smaller steps from showing the same
    disagreement."""
    shown = torch.where(differs & (smallest == least), gap, torch.inf).amin(0)
    silent = (smallest < least) & (BEYOND * floor < shown / 2) & ~still
    return ~silent.any(0)


def _outside(
    claimed: Tensor, slopes: Slopes, bends: Tensor, noise: Tensor, least: Tensor
) -> Tensor:
    """Whether noise at the step `least` cannot explain the claim, nor a kink, where the value
    `bends`: there any slope between those of both sides may be claimed."""
    number = (slopes.steps - least).abs().argmin(0, keepdim=True)
    if number.shape[1] == 1:
        number = number.expand(1, len(claimed))
    sides = torch.cat([slopes.right.gather(0, number), slopes.left.gather(0, number)])
    low, high = sides.nan_to_num(nan=torch.inf).amin(0), sides.nan_to_num(nan=-torch.inf).amax(0)
    central = slopes.central.gather(0, number)[0]
    smooth = ~bends & torch.isfinite(central)
    low, high = torch.where(smooth, central, low), torch.where(smooth, central, high)
    margin = BEYOND / 2 * noise / least
    return (claimed < low - margin) | (claimed > high + margin)


class Ladder:
    """Values along a line through a point at steps that shrink, and what follows from them.

    `here` are the values at the point.
    """

    def __init__(self, line: Line, here: Tensor, scale: Scale) -> None:
        self.line, self.here, self.scale = line, here, scale
        size, reach = float(scale.size), float(scale.reach)
        self.steps = [START * size]
        while self.steps[-1] / RATIO >= SMALLEST * size:
            self.steps.append(self.steps[-1] / RATIO)
        step = self.steps[0] * RATIO
        while step <= LARGEST * max(size, reach, 1.0):
            self.steps.append(step)
            step *= RATIO
        self._points: dict[float, tuple[float, float, Tensor, Tensor]] = {}
        """By the step: those taken to the right and to the left, and the values there."""

    def sample(self, count: int) -> None:
        """Takes the first `count` steps, where they were not taken."""
        for step in self.steps[:count]:
            if step not in self._points:
                (right, plus), (left, minus) = self.line(step), self.line(-step)
                if right > 0 > left:
                    self._points[step] = right, -left, plus, minus

    def judge(self, claimed: Tensor, row: Tensor, sharp: float = 1.0) -> Judged:
        """Judges with as many steps as that takes, all of them before it contradicts."""
        for count in range(2, len(self.steps)):
            self.sample(count)
            judged = verdict(self.slopes(), self.scale, claimed, row, sharp)
            if bool(judged.confirmed.all()):
                return judged
        self.sample(len(self.steps))
        return verdict(self.slopes(), self.scale, claimed, row, last=True)

    def slopes(self) -> Slopes:
        """The quotients at the steps that were taken."""
        steps = sorted(self._points, reverse=True)
        taken = [self._points[step] for step in steps]
        if not taken:
            nothing = self.here.new_zeros(0, len(self.here))
            return Slopes(nothing, nothing, nothing, nothing)
        return Slopes(
            self.here.new_tensor(steps)[:, None],
            torch.stack([(plus - self.here) / h for h, _, plus, _ in taken]),
            torch.stack([(self.here - minus) / h for _, h, _, minus in taken]),
            torch.stack([(plus - minus) / (h + k) for h, k, plus, minus in taken]),
        )

    def reasons(self) -> list[str]:
        """Why differences cannot judge each output: keys of `REASONS`."""
        slopes = self.slopes()
        steps, right, left = slopes.steps, slopes.right, slopes.left
        if len(steps) < 3:
            return ["noise"] * len(self.here)
        jumps, bends = ((right + left) * steps / 2).abs(), (right - left).abs()
        lacking = (~torch.isfinite(jumps)).sum(0) > len(steps) - 3
        level = BEYOND * self.scale.level(steps)
        bends = _lasting(bends, steps, level)
        # A jump that lasts is a slope that grows as the step shrinks.
        jumps = _lasting(jumps, torch.ones_like(steps), level)
        kinds = torch.where(bends, 2, 3)
        kinds = torch.where(jumps, 1, kinds)
        return [("domain", "jump", "kink", "noise")[k] for k in torch.where(lacking, 0, kinds)]


def _lasting(sizes: Tensor, steps: Tensor, level: Tensor) -> Tensor:
    """Whether what shrinks with the step where a function is smooth, and of which `sizes · steps`
    shows above `level`, lasts to the smallest steps at which it would show; of shape (outputs,)."""
    if len(sizes) < 2:
        return torch.zeros(sizes.shape[1], dtype=torch.bool)
    numbers = torch.arange(len(sizes))[:, None]
    last = torch.where(sizes * steps > level, numbers, -1).amax(0, keepdim=True)
    here = sizes.gather(0, last.clamp(min=0))
    before = sizes.gather(0, (last - 1).clamp(min=0))
    gone = ((numbers > last) & (here * steps > level)).any(0)
    return (last >= 1)[0] & (here > before / 2)[0] & ~gone


REASONS = {
    "domain": "at the edge of the domain",
    "jump": "beside a jump of the value",
    "kink": "at a kink",
    "noise": "hidden by the rounding or noise of the value",
    "own": "differ by no more than the rounding of autograd's own computation",
    "point": "differ at this very point, but not near it (a branch or a kink there)",
}
"""Why differences cannot judge an entry."""

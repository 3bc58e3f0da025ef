"""The evidence for a user's derivatives: reverse mode against finite differences and forward mode.

What differences cannot decide (kinks, jumps, noise) rests on the agreement of independent modes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gradbench.core.deadline import Deadline
from gradbench.core.operators import OPERATORS
from gradbench.core.units import counted
from gradbench.modes.capability import unsupported_reason
from gradbench.problems.function import parts_of
from gradbench.worker import hints
from gradbench.worker.judging import (
    DIRECTIONS,
    MAGNIFIED,
    Contradiction,
    Map,
    Tally,
    by_directions,
    elsewhere,
    entry_by_entry,
    nearby,
    normal,
    unravelled,
)
from gradbench.worker.reference import (
    hessian,
    hessian_product,
    pullback,
    pushforward,
    rows,
)
from gradbench.worker.rounding import Rounding
from gradbench.worker.subject import Subject

CONFIRMED, OPEN, DEFINED = "confirmed", "not confirmed", "by definition"

ENTRIES, COORDINATES = 1_000_000, 5_000
"""Jacobians of so many entries and of so few coordinates are held against differences entry by
entry where time allows, others along random directions."""
CALLS = 10
"""Calls of the function that the differences of a coordinate take, about."""
NOISE_CALLS = 27
"""Calls that measuring the noise takes at all spacings."""
LEAST_CALLS = 25
"""Calls that differences take at least: they are not begun where the time is shorter."""
PATIENCE = 10.0
"""Seconds that the evidence may take without a deadline."""
ENTRYWISE = 0.5
"""The share of the time that is left which entry by entry may take."""
HELD = 0.8
"""The share of the time for differences; the rest is for what follows them."""
SECOND = 4
"""Directions along which the hessian is tried where it is not tried entry by entry."""
TANGENTS = 3

LINE = 120
"""The most characters of an error that a sentence quotes."""
FLOAT64 = 2.0**-52
AGREEMENT = 1e-8
"""How far forward and reverse mode may be apart, relative to the sum of the products' sizes."""
NOISE = 1e4
"""The same, and what counts as zero, in units of the noise of the value over the coordinates' size:
the rounding of the computation shows in the value, also where the derivative is small."""


PULLED = ("vjp", "gauss_newton_product")
"""The operators whose reference is a pullback of seeds that are not of a one each."""
LINEAR_UNIT = 2.0**-23
"""The coarsest arithmetic in which a pullback is tried with seeds of several sizes."""

STAYS = 1e-3
"""A derivative changes by less than this share of itself where rounding is magnified."""


class Refused(Exception):
    """No advice can be given; the message says why."""


@dataclass
class Evidence:
    """What the derivatives rest on: the verdict, sentences, and hints on the function."""

    verdict: str = CONFIRMED
    sentences: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)


def gather(
    subject: Subject,
    inputs: tuple[Tensor, ...],
    y: Tensor,
    operator: str,
    deadline: Deadline,
    definition: str = "differences",
    told: Callable[[Evidence], None] = lambda evidence: None,
) -> Evidence:
    """What autograd's derivatives at `inputs`, where the value is `y`, were held against.

    With the definition "autograd" differences are reported, and contradict nothing. What `deadline`
    leaves no time for is left out, and said; `told` gets what is known after each step. Raises
    Refused where autograd is contradicted, and whatever the function raises.
    """
    until = Deadline(min(deadline.left, PATIENCE))
    evidence = Evidence()
    first = Map(
        subject.forward,
        lambda seed, *at: pullback(subject, seed, *at),
        subject.names,
        inputs,
        subject.differentiated,
        subject.unit,
    )
    if not len(first.here):
        raise Refused("its value is empty: there is nothing to differentiate")
    _require_finite(subject, first)
    twice = bool(operator) and OPERATORS[operator].order == 2
    mode = "forward mode" if subject.manner.forward_only else "reverse mode"
    left_out, blocks, agreed = [], [], False
    if LEAST_CALLS * first.seconds > deadline.left:
        evidence.verdict = OPEN
        left_out.append("finite differences")
    else:
        first.measure_noise(_affordable(first, until))
        blocks = _hold(evidence, subject, first, mode, definition, until.share(HELD / (1 + twice)))
        told(evidence)
    if not subject.manner.forward_only:
        _require_graph(subject, inputs)
        if y.dim() and not until.over:
            evidence.sentences += _linear(first, operator, definition)
    if subject.manner.forward_only:
        pass
    elif until.over:
        left_out.append("forward mode")
    else:
        agreed = _forward_mode(evidence, subject, first, until)
        told(evidence)
    if until.over:
        left_out.append("zeros")
    else:
        evidence.sentences += _zeros(first)
    if twice:
        second = Gradient(subject, inputs, _weights(y), several=operator == "hessian")
        _require_finite_twice(second)
        if LEAST_CALLS * second.seconds > deadline.left:
            evidence.verdict = OPEN
            left_out.append("differences of the gradient")
        else:
            second.measure_noise(_affordable(second, until))
            _hold(evidence, subject, second, "reverse mode twice", definition, until)
    if evidence.verdict != CONFIRMED:
        evidence.sentences.append(_ground(evidence.verdict, agreed))
    if left_out:
        evidence.sentences.append(f"not looked at for want of time: {', '.join(left_out)}")
    told(evidence)
    if not until.over:
        evidence.hints += hints.gather(subject, inputs, y, blocks)
    return evidence


def _affordable(map: Map, deadline: Deadline) -> bool:
    """Whether there is time to measure the noise at several spacings."""
    return NOISE_CALLS * map.seconds <= deadline.share(0.2).left


def _require_finite(subject: Subject, map: Map) -> None:
    """Raises Refused where the derivative is not finite."""
    seed = torch.ones_like(map.here).reshape(map.shape).to(map.dtype)
    for number, block in enumerate(pullback(subject, seed, *map.inputs)):
        if not bool(torch.isfinite(block).all()):
            raise Refused(hints.not_finite(subject, map.inputs, number, block))


def _require_finite_twice(gradient: Map) -> None:
    """Raises Refused where the derivative of the gradient is not finite."""
    for name, pulled in zip(gradient.names, gradient.pull(torch.ones_like(gradient.here))):
        if bad := int((~torch.isfinite(pulled)).sum()):
            raise Refused(
                f"its gradient is finite, but its second derivative by {name} is NaN or infinite "
                f"in {bad} of {len(pulled)} entries at this input: there is none there, or torch's "
                "formula divides by zero (norms at 0 and equal eigenvalues do)"
            )


def _linear(map: Map, operator: str, definition: str) -> list[str]:
    """Sentences on a pullback that is not linear in its seed, as where a hook clips it: a jacobian
    by seeds of a one each may be right where products with other seeds are not. Raises Refused
    where `operator` is such a product."""
    if map.unit > LINEAR_UNIT:
        return []
    generator = torch.Generator().manual_seed(8)
    v, w = normal(len(map.here), generator), normal(len(map.here), generator)
    by_v, by_w = map.pull(v), map.pull(w)
    for scale, other in ((1.0, -3.0), (100.0, 0.0), (1e-4, 0.0)):
        pulled = map.pull(scale * v + other * w)
        for name, a, b, c in zip(map.names, by_v, by_w, pulled):
            size = scale * a.abs() + abs(other) * b.abs()
            off = (c - scale * a - other * b).abs()
            if bool((off <= max(AGREEMENT, 256 * map.unit) * size.max()).all()):
                continue
            said = (
                f"reverse mode is not linear in its seed (by {name}): a hook clips or changes it, "
                "or a backward formula is wrong"
            )
            if operator in PULLED and definition != "autograd":
                raise Refused(f"{said}; {hints.MEANT}")
            return [f"{said}; products with it (vjp) are not those of the jacobian"]
    return []


def _require_graph(subject: Subject, inputs: tuple[Tensor, ...]) -> None:
    """Raises Refused where autograd sees no dependence at all; differences see none either."""
    n = subject.differentiated
    with torch.enable_grad():
        leaves = (x.detach().clone().requires_grad_() for x in inputs[:n])
        if not subject.forward(*leaves, *inputs[n:]).requires_grad:
            raise Refused(
                "its value does not depend on the inputs for autograd, and differences see no "
                "change near here: the derivative is zero, there is nothing to measure"
            )


class Gradient(Map):
    """The gradient, whose derivative is the hessian by reverse mode twice.

    Of several values that of their sum times `weights`, which are of the value's shape. With
    `several`, its dense derivative is put together from the hessian of each.
    """

    def __init__(
        self, subject: Subject, inputs: tuple[Tensor, ...], weights: Tensor, several: bool = True
    ) -> None:
        self.weights, self.several = weights, several
        wrt = inputs[: subject.differentiated]
        self._subject, self._shapes = subject, [x.shape for x in wrt]
        self._lengths = [x.numel() for x in wrt]

        def gradient(*at: Tensor) -> Tensor:
            return torch.cat([g.reshape(-1) for g in pullback(subject, weights, *at)])

        super().__init__(gradient, self._products, subject.names, inputs, len(wrt), subject.unit)

    def _products(self, seed: Tensor, *at: Tensor) -> Sequence[Tensor]:
        tangents = parts_of(seed, self._shapes)
        return hessian_product(self._subject, tangents, *at, seed=self.weights)

    def at(self, inputs: tuple[Tensor, ...]) -> Map:
        there = Gradient(self._subject, inputs, self.weights, self.several)
        there.noise = torch.maximum(there.noise, self.noise)
        there.coarse = torch.maximum(there.noise, self.coarse)
        return there

    def output(self, i: int) -> str:
        number = 0
        while i >= self._lengths[number]:
            i, number = i - self._lengths[number], number + 1
        index = list(unravelled(i, self._shapes[number])) if self._shapes[number] else ""
        return f"the gradient by {self.names[number]}{index}"


def _weights(y: Tensor) -> Tensor:
    """One for a value of one number, random numbers for several."""
    if y.dim() == 0:
        return torch.ones_like(y)
    return normal(y.numel(), torch.Generator().manual_seed(7)).reshape(y.shape).to(y.dtype)


def _blocks(subject: Subject, map: Map) -> list[Tensor]:
    """The dense derivative by autograd, blocks of shape (outputs, coordinates)."""
    if not isinstance(map, Gradient):
        return [b.double() for b in rows(subject, *map.inputs)[1]]
    if map.several:
        weights = map.weights.reshape(-1)
        each = (
            b.reshape(len(weights), *b.shape[map.weights.dim() :])
            for b in hessian(subject, *map.inputs)
        )
        blocks = [torch.tensordot(weights, b, 1) for b in each]
    else:
        blocks = list(hessian(subject, *map.inputs, seed=map.weights))
    wrt = map.inputs[: map.differentiated]
    flat = [b.double().reshape(a.numel(), -1) for b, a in zip(blocks, _each(wrt))]
    return [torch.cat(flat[number :: len(wrt)]) for number in range(len(wrt))]


def _each(wrt: Sequence[Tensor]) -> list[Tensor]:
    """The input of each block's rows."""
    return [x for x in wrt for _ in wrt]


def _hold(
    evidence: Evidence, subject: Subject, map: Map, mode: str, definition: str, deadline: Deadline
) -> list[Tensor]:
    """Adds what differences say of a mode, and returns its dense derivative where it was formed.

    Raises Refused where differences contradict it.
    """
    kind = "float64" if map.unit <= FLOAT64 else str(subject.dtype).removeprefix("torch.")
    what = f"{kind} finite differences" + " of the gradient" * isinstance(map, Gradient)
    coordinates = sum(len(size) for size in map.sizes)
    needed = CALLS * coordinates * map.seconds
    blocks: list[Tensor] = []
    try:
        if not len(map.here) * coordinates:
            return blocks
        if (
            len(map.here) * coordinates <= ENTRIES
            and coordinates <= COORDINATES
            and needed <= deadline.share(ENTRYWISE).left
        ):
            blocks = _blocks(subject, map)
            tally = entry_by_entry(map, blocks, deadline)
        else:
            directions = SECOND if isinstance(map, Gradient) else DIRECTIONS
            tally = by_directions(map, deadline, directions)
        elsewhere(map, deadline)
    except Contradiction as found:
        if definition != "autograd":
            cause = hints.cause(subject, map.inputs, found.got, found.wanted, found.error)
            raise Refused(f"{found}: {cause}") from found
        evidence.verdict = DEFINED
        evidence.sentences.append(f"by definition autograd is right where {found}")
        return blocks
    if tally.open or not tally.tried:
        evidence.verdict = OPEN
    evidence.sentences.append(_said(tally, mode, what))
    return blocks


def _said(tally: Tally, mode: str, what: str) -> str:
    """A tally in words."""
    if not tally.tried:
        return f"no time was left to hold {mode} against {what}"
    total = tally.confirmed + sum(tally.open.values())
    if tally.what == "entries":
        said = f"{mode} agrees with {what} in "
        columns = counted(tally.tried, "column")
        said += f"every entry of {columns}" if tally.skipped else "every entry"
        if tally.open and not tally.confirmed:
            said = f"{what} cannot decide any of {counted(total, 'entry')}: {tally.why()}"
        elif tally.open:
            said = f"{mode} agrees with {what} in {tally.confirmed} of {total} entries; "
            said += f"differences cannot decide the others: {tally.why()}"
        if tally.skipped:
            said += f" (the other {tally.skipped} were left out for want of time)"
        return said
    said = f"{mode} agrees with {what} along {counted(tally.confirmed, 'random direction')}"
    if tally.open and not tally.confirmed:
        said = f"{what} cannot decide along {counted(total, 'random direction')}: {tally.why()}"
    elif tally.open:
        said += f" of {total}; differences cannot decide the others: {tally.why()}"
    if tally.skipped:
        said += f" ({tally.skipped} more were left out for want of time)"
    return said


def _ground(verdict: str, agreed: bool) -> str:
    """What the derivative rests on where differences do not confirm it."""
    why = "by definition" if verdict == DEFINED else "not confirmed by differences"
    if agreed:
        return f"{why}: it rests on the agreement of forward and reverse mode"
    return f"{why}, and nothing independent agrees: the modes are held against reverse mode alone"


def _zeros(map: Map) -> list[str]:
    """Sentences on the inputs by which the derivative is zero, here and nearby.

    Coarser arithmetic than float64 does not tell a small derivative from rounding.
    """
    generator = torch.Generator().manual_seed(6)
    zero = [len(size) > 0 for size in map.sizes]
    exact = list(zero)
    for there in (map, map.at(nearby(map, generator)), map.at(nearby(map, generator))):
        seed = normal(len(map.here), generator)
        noise = float((seed * there.noise).norm())
        if not bool(torch.isfinite(there.here).all()):
            continue
        for number, (pulled, size) in enumerate(zip(there.pull(seed), there.sizes)):
            most = NOISE * noise if there.unit == FLOAT64 else 0.0
            small = zero[number] and bool((pulled.abs() * size <= most).all())
            zero[number] = small and _is_rounding(there, seed, number, pulled)
            exact[number] = exact[number] and not bool(pulled.any())
    return [
        f"the derivative by {name} is zero everywhere near here" + ", but for rounding" * (not just)
        for name, nothing, just in zip(map.names, zero, exact)
        if nothing
    ]


def _is_rounding(map: Map, seed: Tensor, number: int, pulled: Tensor) -> bool:
    """Whether what a seed pulls back to an input is nothing but rounding: more of it changes all
    of it. A small derivative beside a large value stays."""
    try:
        with Rounding(MAGNIFIED, torch.float64, 0):
            drawn = map.pull(seed)[number]
    except Exception:
        return True
    return bool((drawn - pulled).abs().max() >= STAYS * pulled.abs().max())


def _forward_mode(evidence: Evidence, subject: Subject, map: Map, deadline: Deadline) -> bool:
    """Adds what forward mode says beside reverse mode; whether they agree."""
    tried = 0
    generator = torch.Generator().manual_seed(1)
    wrt = map.inputs[: map.differentiated]
    while tried < TANGENTS and not (tried and deadline.over):
        tried += 1
        flat = map.random(generator)
        tangents = tuple(t.reshape(x.shape).to(x.dtype) for t, x in zip(flat, wrt))
        try:
            pushed = pushforward(subject, tangents, *map.inputs)
        except Exception as error:
            line = " ".join(str(error).split())
            line = line if len(line) <= LINE else line[:LINE].rpartition(" ")[0] + " …"
            why = (
                unsupported_reason(error) or f"forward mode failed ({type(error).__name__}: {line})"
            )
            evidence.sentences.append(why)
            return False
        pushed = pushed.reshape(-1).double()
        for _ in range(TANGENTS):
            seed = normal(len(map.here), generator)
            products = [p * t for p, t in zip(map.pull(seed), flat)]
            there = sum(float(p.sum()) for p in products)
            scale = sum(float(p.abs().sum()) for p in products)
            noise = float((seed.abs() * torch.maximum(NOISE * map.noise, 1e3 * map.coarse)).sum())
            gap = abs(float((pushed * seed).sum()) - there)
            if not gap <= max(AGREEMENT, 1e4 * map.unit) * scale + noise:
                evidence.sentences.append(
                    "forward mode DISAGREES with reverse mode: its modes will be found wrong"
                    + "; it may draw other random numbers there" * bool(subject.manner.random)
                )
                return False
    evidence.sentences.append(
        f"forward mode agrees with reverse mode along {counted(tried, 'random tangent')}"
    )
    return True

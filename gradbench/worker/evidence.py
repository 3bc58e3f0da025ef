"""The evidence for a user's derivatives: reverse mode against finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gradbench.core.deadline import Deadline
from gradbench.worker.reference import hessian_product, pullback, rows
from gradbench.worker.subject import Subject

ENTRIES, COORDINATES = 1_000_000, 1_000
"""Jacobians of so many entries and of so few coordinates are held against differences entry by
entry, others along `DIRECTIONS` random ones."""
DIRECTIONS = 8
TANGENTS = 3

STEP = 1e-3
TOLERANCE = 1e-6


class Refused(Exception):
    """No advice can be given; the message says why."""


def gather(
    subject: Subject, inputs: tuple[Tensor, ...], y: Tensor, operator: str, deadline: Deadline
) -> list[str]:
    """Sentences on what the derivatives were held against, at `inputs`, where the value is `y`.

    Raises Refused where autograd is contradicted, and whatever the function raises.
    """
    outputs, coordinates = y.numel(), sum(x.numel() for x in inputs[: subject.differentiated])
    if outputs * coordinates <= ENTRIES and coordinates <= COORDINATES:
        reverse = rows(subject, *inputs)[1]
        with torch.no_grad():
            evidence = [_entry_by_entry(subject, inputs, reverse)]
    else:
        evidence = [_by_directions(subject, inputs)]
    evidence.append(_forward_mode(subject, inputs))
    if operator in ("hessian", "hvp") and y.dim() == 0:
        evidence.append(_second(subject, inputs))
    return evidence


def _differences(subject: Subject, inputs: tuple[Tensor, ...], number: int) -> tuple[Tensor, ...]:
    """Central differences by one input with one Richardson step, and their error by estimate;
    both of shape (outputs, coordinates of the input). float64."""
    x = inputs[number]
    columns, errors = [], []
    for j in range(x.numel()):
        estimates = []
        for halving in (1.0, 0.5):
            h = STEP * halving * max(1.0, abs(float(x.reshape(-1)[j])))
            ends = []
            for sign in (1, -1):
                moved = x.clone()
                moved.reshape(-1)[j] += sign * h
                ends.append(subject.forward(*inputs[:number], moved, *inputs[number + 1 :]))
            estimates.append(((ends[0] - ends[1]) / (2 * h)).reshape(-1))
        columns.append((4 * estimates[1] - estimates[0]) / 3)
        errors.append((estimates[1] - estimates[0]).abs())
    return torch.stack(columns, 1), torch.stack(errors, 1)


def _entry_by_entry(subject: Subject, inputs: tuple[Tensor, ...], reverse: Sequence[Tensor]) -> str:
    """Holds every entry against differences. Raises Refused where one disagrees."""
    for number, (name, block) in enumerate(zip(subject.names, reverse)):
        exact, error = _differences(subject, inputs, number)
        scale = float(exact.abs().max()) or 1.0
        excess = (block - exact).abs() - (TOLERANCE * scale + 2 * error)
        if not bool((excess <= 0).all()):
            i, j = divmod(int(excess.nan_to_num(nan=torch.inf).argmax()), block.shape[1])
            place = f"output {i} by {name} entry {j}"
            raise _disagree(place, float(block[i, j]), float(exact[i, j]))
    return "reverse mode agrees with float64 finite differences in every entry"


def _disagree(place: str, got: float, wanted: float) -> Refused:
    hint = (
        "something is detached inside"
        if got == 0
        else "a backward formula is wrong, or this point has a kink"
    )
    return Refused(f"autograd gives {got:.6g} for {place}, finite differences {wanted:.6g}: {hint}")


def _along(
    value: Callable[..., Tensor], inputs: Sequence[Tensor], number: int, tangent: Tensor
) -> tuple[Tensor, Tensor]:
    """Central differences of a value along a tangent of one input with one Richardson step, and
    their error by estimate."""
    estimates = []
    for h in (STEP, STEP / 2):
        ends = [
            value(*inputs[:number], inputs[number] + sign * h * tangent, *inputs[number + 1 :])
            for sign in (1, -1)
        ]
        estimates.append((ends[0] - ends[1]) / (2 * h))
    return (4 * estimates[1] - estimates[0]) / 3, (estimates[1] - estimates[0]).abs()


def _random(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)


def _by_directions(subject: Subject, inputs: tuple[Tensor, ...]) -> str:
    """Holds pullbacks of random seeds against differences along random tangents, by each input.

    Raises Refused where they disagree.
    """
    generator = torch.Generator().manual_seed(0)
    for _ in range(DIRECTIONS):
        with torch.no_grad():
            seed = _random(subject.forward(*inputs).shape, generator)
        pulled = pullback(subject, seed, *inputs)
        for number, (name, block) in enumerate(zip(subject.names, pulled)):
            x = inputs[number]
            tangent = _random(x.shape, generator) * x.abs().clamp(min=1.0)
            with torch.no_grad():
                parts, error = _along(subject.forward, inputs, number, tangent)
            exact, got = float((parts * seed).sum()), float((block * tangent).sum())
            scale = float((parts * seed).abs().sum()) or 1.0
            if not abs(got - exact) <= TOLERANCE * scale + 2 * float((error * seed.abs()).sum()):
                raise _disagree(f"a product of random vectors by {name}", got, exact)
    return (
        f"reverse mode agrees with float64 finite differences along {DIRECTIONS} random tangents "
        "of each input (too many entries to try each)"
    )


def _forward_mode(subject: Subject, inputs: tuple[Tensor, ...]) -> str:
    """What forward mode says beside reverse mode."""
    wrt, rest = inputs[: subject.differentiated], inputs[subject.differentiated :]
    generator = torch.Generator().manual_seed(1)
    for _ in range(TANGENTS):
        tangents = tuple(_random(x.shape, generator) for x in wrt)
        try:
            pushed = torch.func.jvp(lambda *w: subject.forward(*w, *rest), wrt, tangents)[1]
        except Exception as error:
            return f"forward mode failed ({type(error).__name__})"
        for _ in range(TANGENTS):
            seed = _random(pushed.shape, generator)
            pulled = pullback(subject, seed, *inputs)
            products = [(b * t).sum() for b, t in zip(pulled, tangents)]
            there, scale = torch.stack(products).sum(), sum(float(p.abs()) for p in products)
            if not float(((pushed * seed).sum() - there).abs()) <= 1e-8 * (scale or 1.0):
                return "forward mode DISAGREES with reverse mode: its modes will be found wrong"
    return f"forward mode agrees with reverse mode along {TANGENTS} random tangents"


def _second(subject: Subject, inputs: tuple[Tensor, ...]) -> str:
    """Holds products with the hessian against differences of the gradient. Raises Refused."""
    generator = torch.Generator().manual_seed(2)
    one = torch.ones((), dtype=torch.float64)
    for number in range(subject.differentiated):
        for _ in range(TANGENTS):
            tangent = _random(inputs[number].shape, generator)
            tangents = [torch.zeros_like(x) for x in inputs[: subject.differentiated]]
            tangents[number] = tangent
            got = hessian_product(subject, tuple(tangents), *inputs)

            def gradient(*at: Tensor) -> Tensor:
                return torch.cat([g.reshape(-1) for g in pullback(subject, one, *at)])

            exact, error = _along(gradient, inputs, number, tangent)
            flat = torch.cat([g.reshape(-1) for g in got])
            scale = float(exact.abs().max()) or 1.0
            if not bool(((flat - exact).abs() <= TOLERANCE * scale + 2 * error).all()):
                worst = int((flat - exact).abs().argmax())
                place = f"entry {worst} of a product with the hessian"
                raise _disagree(place, float(flat[worst]), float(exact[worst]))
    return "reverse mode twice agrees with float64 finite differences of the gradient"

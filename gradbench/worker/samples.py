"""A function of a batch, sample by sample: what each sample alone makes of what all share."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gradbench.worker.subject import Subject

AGREEMENT = 1e-9
"""How far a value may be from that of its samples, in float64, relative to the largest."""


def rows_of(subject: Subject, inputs: Sequence[Tensor], count: int) -> list[bool]:
    """Which of the inputs have a row for each of so many samples: constants alone can."""
    n = subject.differentiated
    return [i >= n and x.dim() > 0 and len(x) == count for i, x in enumerate(inputs)]


def number_of(subject: Subject, inputs: Sequence[Tensor]) -> int:
    """The number of samples of a function of one number: the rows of its first constant that has
    dimensions; 0 without one."""
    constants = inputs[subject.differentiated :]
    return next((len(x) for x in constants if x.dim()), 0)


class PerSample:
    """A subject of one number as the vector of its values at each sample alone."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.differentiated, self.manner = subject.differentiated, subject.manner

    @classmethod
    def of(cls, subject: Subject) -> Subject:
        """It, for the functions that take a subject to differentiate."""
        return cast("Subject", cls(subject))

    def forward(self, *inputs: Tensor) -> Tensor:
        count = number_of(self.subject, inputs)
        rows = rows_of(self.subject, inputs, count)
        values = []
        for i in range(count):
            one = (x[i : i + 1] if row else x for x, row in zip(inputs, rows))
            values.append(self.subject.forward(*one).sum())
        return torch.stack(values)


def parts_of_a_value(subject: Subject, inputs: Sequence[Tensor]) -> str:
    """How the function's one number comes from its samples: "mean" or "sum"; empty for neither.

    Its values at the first sample, the other samples of the first half, and the rest, each alone,
    are added up. Raises what the function raises.
    """
    count = number_of(subject, inputs)
    rows = rows_of(subject, inputs, count)
    if count < 2:
        return ""
    whole = subject.forward(*inputs)
    ends = sorted({0, 1, (count + 1) // 2, count})
    values, weights = [], []
    for start, end in itertools.pairwise(ends):
        part = (x[start:end] if row else x for x, row in zip(inputs, rows))
        values.append(subject.forward(*part))
        weights.append((end - start) / count)
    allowed = AGREEMENT * torch.stack([whole, *values]).abs().max()
    mean = sum(v * w for v, w in zip(values, weights))
    if bool((mean - whole).abs() <= allowed):
        return "mean"
    return "sum" if bool((sum(values) - whole).abs() <= allowed) else ""

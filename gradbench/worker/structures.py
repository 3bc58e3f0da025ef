"""The zeros of a user's jacobian, and whether its samples are independent."""

from __future__ import annotations

import torch
from torch import Tensor

from gradbench.problems.structure import POINTS, Structure, detect, products
from gradbench.worker.reference import AGREEMENT
from gradbench.worker.subject import Subject


def structure(subject: Subject) -> Structure:
    """The structure of the jacobian by the differentiated inputs, at points near the given ones.

    The same in every process: the seeds are fixed. Raises what the function raises.
    """
    n = subject.differentiated
    drawn = [subject.draw(None, torch.Generator().manual_seed(s)) for s in range(POINTS)]
    y = subject.forward(*subject.values)
    constants = subject.values[n:]

    def of_wrt(*wrt: Tensor) -> Tensor:
        return subject.forward(*wrt, *constants)

    jvp, vjp = products(of_wrt, [inputs[:n] for inputs in drawn])
    shapes = [tuple(x.shape) for x in subject.values[:n]]
    return detect(jvp, vjp, shapes, tuple(y.shape), torch.Generator().manual_seed(0))


def per_sample(subject: Subject) -> str:
    """The evidence that output i depends on row i of the constants alone, and the differentiated
    inputs are shared; empty where it does not, or where there are no rows."""
    y = subject.forward(*subject.values)
    n = subject.differentiated
    if y.dim() == 0 or len(y) < 2:
        return ""
    rows = [x.dim() > 0 and len(x) == len(y) for x in subject.values[n:]]
    if not any(rows):
        return ""
    places = sorted({0, len(y) // 2, len(y) - 1})
    for seed in range(POINTS):
        inputs = subject.draw(None, torch.Generator().manual_seed(seed))
        whole = subject.forward(*inputs)
        for i in places:
            one = [x[i : i + 1] if row else x for x, row in zip(inputs[n:], rows)]
            try:
                alone = subject.forward(*inputs[:n], *one)
            except Exception:
                return ""
            if alone.shape != whole[i : i + 1].shape or not torch.allclose(
                alone, whole[i : i + 1], rtol=AGREEMENT, atol=AGREEMENT * float(whole.abs().max())
            ):
                return ""
    names = ", ".join(name for name, row in zip(subject.names[n:], rows) if row)
    return (
        f"per sample: outputs {', '.join(map(str, places))} came out the same from their own rows "
        f"of {names} alone, at {POINTS} random points"
    )

"""Which operators a function of the user's has, and why some must not be measured."""

from __future__ import annotations

from torch import Tensor

from gradbench.core.operators import (
    ADVISED,
    NUMBER,
    NUMBERS,
    OPERATORS,
    SAMPLES,
    SHARED,
    STRUCTURE,
)
from gradbench.problems.structure import Structure
from gradbench.worker.cost import refuse
from gradbench.worker.subject import Subject

INSTEAD = "products (vjp, jvp), for a sparse one where most entries are zero (jacobian_sparse)"
"""What can be asked for instead of a dense jacobian."""


def of_kind(kind: str) -> list[str]:
    """The operators for a kind of the user's functions, the most usual first."""
    return [name for name in ADVISED if kind in OPERATORS[name].applies]


def askable(y: Tensor) -> list[str]:
    """The operators that a look at a function of this value may find."""
    several = (*of_kind(STRUCTURE), *of_kind(SAMPLES)) if y.dim() else ()
    return [*several, *of_kind(SHARED)]


def _not_one_each(subject: Subject, y: Tensor, structure: Structure | None) -> str:
    """Why the value is not one number for each sample of a batch; empty if it is, and without a
    structure if it may be."""
    shapes = {x.shape[:1] for x in subject.values[: subject.differentiated]}
    if y.numel() != len(y) or shapes != {y.shape[:1]}:
        wrt = ", ".join(subject.names[: subject.differentiated])
        return (
            "it takes a function of one number, or of one number for each sample along dimension "
            f"0 of {wrt}: this one returns shape {tuple(y.shape)}"
        )
    if structure is None or len(y) == 1 or structure.kind in ("batched", "diagonal"):
        return ""
    return "its values are not those of independent samples: sum them up, or ask for the hessian"


def operators_of(
    subject: Subject,
    y: Tensor,
    structure: Structure | None,
    sparse: bool,
    shared: bool,
    width: int,
    limit: int,
) -> tuple[list[str], dict[str, str]]:
    """The operators that apply, the one that is measured by default first, and why some must not
    be measured. `sparse`: whether zeros of the jacobian save passes. `shared`: whether its samples
    are independent, and share the inputs.

    `width` is the bytes of a number, `limit` those that a result may take.
    """
    wrt = subject.values[: subject.differentiated]
    coordinates = sum(x.numel() for x in wrt)
    refusals: dict[str, str] = {}
    operators = of_kind(NUMBERS if y.dim() else NUMBER)
    if y.dim() and (reason := refuse(y.numel(), coordinates, width, limit, INSTEAD)):
        refusals["jacobian"] = reason
    if reason := refuse(y.numel() * coordinates, coordinates, width, limit):
        refusals["hessian"] = reason
    if y.dim():
        _add_structured(operators, refusals, subject, y, structure, sparse)
    if shared and y.dim() < 2:
        operators += of_kind(SHARED)
    if subject.manner.forward_only:
        operators = [name for name in operators if OPERATORS[name].forward_only]
    return operators, refusals


def _add_structured(
    operators: list[str],
    refusals: dict[str, str],
    subject: Subject,
    y: Tensor,
    structure: Structure | None,
    sparse: bool,
) -> None:
    """Adds the operators that follow from the structure, and why some do not."""
    wrt = subject.values[: subject.differentiated]
    if structure is not None and len(wrt) == 1:
        own = {"batched": "batch_jacobian"}.get(structure.kind, "")
        if structure.kind == "diagonal" and y.shape == wrt[0].shape:
            own = "diagonal"
        # Without a check of its own, an operator that leaves entries out must hold everywhere.
        if own:
            operators.insert(0 if structure.is_global else len(operators) - 1, own)
    if sparse:
        # First where the dense result would be too large.
        alone = operators[0] == "jacobian" and "jacobian" in refusals
        operators.insert(0 if alone else len(operators), "jacobian_sparse")
    if reason := _not_one_each(subject, y, structure):
        refusals |= {name: f"--operator {name}: {reason}" for name in of_kind(SAMPLES)}
    elif structure is not None or len(y) == 1:
        operators += of_kind(SAMPLES)

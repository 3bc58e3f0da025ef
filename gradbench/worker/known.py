"""What was found of the zeros of a user's derivative, and the modes that use it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from gradbench.core.deadline import Deadline
from gradbench.core.units import counted
from gradbench.modes import gathered, mixed, second_structured, structured
from gradbench.modes.gathered import Gathered
from gradbench.problems import sparsity
from gradbench.problems.mixing import Mixed, mixed_of
from gradbench.problems.structure import POINTS, Structure
from gradbench.worker.gathers import gathers

if TYPE_CHECKING:
    from gradbench.worker.subject import Subject

GATHERING, MOST_SECONDS = 0.2, 20.0
"""The part of the time that is left, and the seconds at most, to look at what is gathered, and at
splits into passes of both directions."""


@dataclass(frozen=True)
class Known:
    """The zeros of a function's jacobian, or of the jacobian of a scalar function's gradient."""

    structure: Structure | None = None
    mixed: Mixed | None = None
    gathered: Gathered | None = None
    of_gradient: bool = False

    @property
    def is_sparse(self) -> bool:
        """Whether a jacobian has entries that are known, and zeros that save passes."""
        return self.saves and self.structure is not None and bool(self.structure.rows.numel())

    @property
    def saves(self) -> bool:
        """Whether passes are saved by the structure, in one direction or in both."""
        if self.structure is None:
            return False
        return self.structure.kind != "dense" or self.mixed is not None

    def __bool__(self) -> bool:
        """Whether any mode uses it."""
        dense = self.structure is None or self.structure.kind == "dense"
        return not dense or self.mixed is not None or self.gathered is not None

    @property
    def local(self) -> list[str]:
        """The names of what is known near the input only."""
        names = ("structure", "mixed", "gathered")
        values = [(name, getattr(self, name)) for name in names]
        return [name for name, value in values if value is not None and not value.is_global]

    @property
    def sentences(self) -> list[str]:
        """What is said of it in the answer."""
        said = []
        if self.structure is not None:
            empty = self.structure.kind == "sparse" and not len(self.structure.rows)
            kind = "zero" if empty else self.structure.kind
            what = f"{kind}, {_extent(self.structure.is_global)}"
            if self.structure.kind == "dense" and not len(self.structure.rows):
                # No zeros are known, for whatever reason.
                what = "counts as dense"
            said.append(f"{what}: {self.structure.evidence}")
        if self.mixed is not None:
            forward, reverse = self.mixed.passes
            said.append(
                f"mixed: {reverse} in reverse mode for the fullest rows and {forward} in forward "
                "mode for the rest give all entries"
            )
        if self.gathered is not None:
            extent = _extent(self.gathered.is_global)
            said.append(
                f"gathered, {extent}: {counted(self.gathered.passes, 'pass')} in reverse mode to "
                f"{self.gathered.evidence}"
            )
        return said

    def save(self, path: str) -> None:
        """Writes it to a file that `load` reads."""
        fields = {name: getattr(self, name) for name in ("structure", "mixed", "gathered")}
        if not self.saves:
            del fields["structure"]
        kept = {name: dataclasses.asdict(value) for name, value in fields.items() if value}
        torch.save({**kept, "of_gradient": self.of_gradient}, path)

    @classmethod
    def load(cls, path: str) -> Known:
        """What `save` wrote to a file."""
        kinds: dict[str, Any] = {"structure": Structure, "mixed": Mixed, "gathered": Gathered}
        kept = torch.load(path, weights_only=True)
        of_gradient = kept.pop("of_gradient")
        found = {name: kinds[name](**fields) for name, fields in kept.items()}
        return cls(**found, of_gradient=of_gradient)

    def register(self, operator: str, function: str) -> None:
        """Registers the modes of an operator that use it, for the function of this name."""
        if self.structure is not None and self.of_gradient:
            second_structured.register(function, self.structure, "", operator)
        if operator == "jacobian_sparse" and self.structure is not None:
            sparsity.know(function, self.structure, self.mixed)
        if operator != "jacobian":
            return
        if self.structure is not None:
            structured.register(function, self.structure, suffix="")
        if self.mixed is not None:
            mixed.register(function, self.mixed, suffix="")
        if self.gathered is not None:
            gathered.register(function, self.gathered, suffix="")


def _extent(is_global: bool) -> str:
    return "for every input" if is_global else "near this input"


def known(subject: Subject, structure: Structure, deadline: Deadline) -> Known:
    """The structure of a subject's jacobian, with the ways to all entries that take fewer passes:
    in both directions, and by what is gathered from the inputs."""
    fewest = min(structure.passes)
    both = mixed_of(structure, Deadline(min(GATHERING * deadline.left, MOST_SECONDS)))
    if both is not None:
        fewest = sum(both.passes)
    limit = Deadline(min(GATHERING * deadline.left, MOST_SECONDS))
    drawn = [subject.draw(None, torch.Generator().manual_seed(s)) for s in range(POINTS)]
    try:
        by_tensors = gathers(subject.forward, drawn, subject.differentiated, fewest, limit)
    except Exception:
        # The other ways do without.
        by_tensors = None
    if by_tensors is not None:
        by_tensors = dataclasses.replace(
            by_tensors, is_global=by_tensors.is_global and structure.is_global
        )
    return Known(structure, both, by_tensors)

"""What a worker offers to measure: each function under each operator."""

from __future__ import annotations

from gradbench.core.cases import Offer, size_label
from gradbench.core.operators import OPERATORS
from gradbench.problems import registry
from gradbench.problems.function import Function


def offer(function: Function, operator: str) -> Offer:
    """A function under an operator, with its sizes and the modes of the operator."""
    modes = registry.modes_of(operator)
    workloads = [m for m in modes if m.workloads and function.document]
    on_request = [m for m in modes if m.opt_in or m in workloads]
    return Offer(
        operator=operator,
        function=function.name,
        document=function.document,
        formula=function.formula,
        derivative=function.derivative,
        dtype=function.dtype,
        example_size=size_label(function.example_size),
        sizes=tuple(map(size_label, function.sizes)),
        large_sizes=tuple(map(size_label, function.large_sizes)),
        modes=tuple(m.name for m in modes if m not in on_request),
        opt_in=tuple(m.name for m in on_request),
        size_names=tuple(function.example_size),
        workloads=tuple(m.name for m in workloads),
        cuda=tuple(m.name for m in modes if m.cuda),
        first=OPERATORS[operator].first,
        atlas=tuple(map(size_label, function.atlas)),
        named_only=operator not in function.derivatives,
        family=function.family,
    )

"""Whether a user's function gathers numbers from its inputs, and which pass shows which entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradbench.core.deadline import Deadline
from gradbench.modes.gathered import NEEDS, Gathered, nodes
from gradbench.modes.placing import block_places
from gradbench.problems.detection import detect, products
from gradbench.problems.function import Tensors
from gradbench.problems.mode import available
from gradbench.problems.structure import Structure, structure_of
from gradbench.problems.tracing import trace

GATHERS = (
    "AliasBackward0",
    "AsStridedBackward0",
    "CatBackward0",
    "CloneBackward0",
    "ConstantPadNdBackward0",
    "DiagonalBackward0",
    "EmbeddingBackward0",
    "ExpandBackward0",
    "FlipBackward0",
    "GatherBackward0",
    "IndexBackward0",
    "IndexSelectBackward0",
    "PermuteBackward0",
    "RepeatBackward0",
    "ReshapeAliasBackward0",
    "RollBackward0",
    "SelectBackward0",
    "SliceBackward0",
    "SplitBackward0",
    "SplitWithSizesBackward0",
    "SqueezeBackward0",
    "SqueezeBackward1",
    "SqueezeBackward2",
    "StackBackward0",
    "TBackward0",
    "TakeBackward0",
    "TransposeBackward0",
    "UnbindBackward0",
    "UnfoldBackward0",
    "UnsqueezeBackward0",
    "UnsafeViewBackward0",
    "ViewBackward0",
)
"""Names of the graph's nodes whose result has numbers of its argument, each unchanged."""


MOST_NUMBERS = 20_000
"""The pattern by more gathered numbers is not looked for."""

MOST_PASSES = 100
"""Passes that looking for the pattern may take at each point: few colours are of use."""

Edge = Any
"""A `GradientEdge`: a node of a graph, and which of its outputs."""


class _None(Exception):
    """Nothing is gathered that saves passes."""


def gathers(
    forward: Callable[..., Tensor],
    points: Sequence[Tensors],
    differentiated: int,
    passes: int,
    deadline: Deadline,
) -> Gathered | None:
    """How the outputs depend on what is gathered from the differentiated inputs; None where that
    does not take fewer than `passes` passes in reverse mode, or cannot be found in time.

    `points` are float64 inputs of the same shapes. Raises what the function raises.
    """
    if not all(available(name) for name in NEEDS):
        return None
    try:
        return _gathers(forward, points, differentiated, passes, deadline)
    except _None:
        return None


def _gathers(
    forward: Callable[..., Tensor],
    points: Sequence[Tensors],
    n: int,
    passes: int,
    deadline: Deadline,
) -> Gathered:
    seen = [_Looked(forward, inputs, n) for inputs in points]
    first = seen[0]
    if any(other.key != first.key for other in seen) or not _same(seen):
        raise _None
    owners, sizes = first.owners, [x.numel() for x in first.wrt]
    # Where no number is gathered twice, the outputs meet there as they do at the inputs.
    if not sum(sizes) < len(owners) <= MOST_NUMBERS:
        raise _None

    def of_tensors(*tensors: Tensor) -> Tensor:
        if deadline.over:
            raise _None
        return first.of_tensors(tensors)

    found = _pattern(of_tensors, seen, deadline)
    if found.kind == "dense" or found.passes[1] >= passes:
        raise _None
    # What is gathered from no input, such as padding, is no column of the jacobian.
    inside = owners[found.columns] >= 0
    rows, numbers = found.rows[inside], found.columns[inside]
    graph = nodes(first.y)
    return Gathered(
        tuple(tuple(x.shape) for x in first.wrt),
        found.output,
        tuple((graph.index(edge.node), edge.output_nr) for edge in first.edges),
        tuple(tensor.numel() for tensor in first.tensors),
        len(graph),
        f"{len(first.edges)} tensors that are gathered from the inputs; {found.evidence}",
        found.row_colours,
        rows,
        numbers,
        block_places(rows, owners[numbers], first.y.numel(), sizes),
        found.is_global,
    )


def _pattern(
    of_tensors: Callable[..., Tensor], seen: Sequence[_Looked], deadline: Deadline
) -> Structure:
    """The structure of the jacobian by the gathered tensors: traced, or else seen at the points."""
    first = seen[0]
    shapes, output = tuple(tuple(t.shape) for t in first.tensors), tuple(first.y.shape)
    traced = trace(of_tensors, first.tensors, (), deadline)
    if not (traced.failed or traced.batched):
        evidence = "the pattern by them was traced through the operations"
        is_global = not traced.branches
        return structure_of(
            shapes, output, traced.rows, traced.columns, evidence, is_global=is_global
        )
    jvp, vjp = products(of_tensors, [looked.tensors for looked in seen])
    generator = torch.Generator().manual_seed(0)
    return detect(
        jvp, vjp, shapes, output, generator, points=len(seen), most_passes=MOST_PASSES,
        deadline=deadline,
    )  # fmt: skip


class _Looked:
    """The function at one point, with the tensors that it gathers from its inputs.

    Raises _None where it gathers none.
    """

    def __init__(self, forward: Callable[..., Tensor], inputs: Tensors, n: int) -> None:
        self.forward, self.constants = forward, inputs[n:]
        self.wrt = tuple(x.detach().clone().requires_grad_() for x in inputs[:n])
        with torch.enable_grad(), _Recording() as recording:
            self.y = forward(*self.wrt, *self.constants)
        self.edges = edges(self.y, self.wrt)
        if not any(edge.node.next_functions for edge in self.edges):
            raise _None
        made: dict[Any, tuple[int, int]] = {}
        for call, result in enumerate(recording.results):
            for part, tensor in enumerate(_flat(result)):
                if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
                    made.setdefault((tensor.grad_fn, tensor.output_nr), (call, part))
        self.leaves: dict[int, int] = {}
        """The number among the gathered tensors of each input that stands for itself."""
        self.calls: dict[int, dict[int, int]] = {}
        """By call of torch and part of its result, the number of the gathered tensor."""
        self.tensors: list[Tensor] = []
        leaves = [torch.autograd.graph.get_gradient_edge(x).node for x in self.wrt]
        for number, edge in enumerate(self.edges):
            if edge.node in leaves:
                self.leaves[leaves.index(edge.node)] = number
                self.tensors.append(self.wrt[leaves.index(edge.node)].detach())
                continue
            if (edge.node, edge.output_nr) not in made:
                raise _None
            call, part = made[edge.node, edge.output_nr]
            self.calls.setdefault(call, {})[part] = number
            self.tensors.append(_flat(recording.results[call])[part].detach())
        self.key = (
            [node.name() for node in nodes(self.y)],
            self.leaves,
            self.calls,
            [tuple(tensor.shape) for tensor in self.tensors],
        )
        self.owners = self._owners()

    def of_tensors(self, tensors: Sequence[Tensor]) -> Tensor:
        """The function's value by what it gathers."""
        wrt = [x.detach() for x in self.wrt]
        for leaf, number in self.leaves.items():
            wrt[leaf] = tensors[number]
        calls = {
            call: {part: tensors[number] for part, number in parts.items()}
            for call, parts in self.calls.items()
        }
        with _Replacing(calls):
            return self.forward(*wrt, *self.constants)

    def _owners(self) -> Tensor:
        """The column of the jacobian by all inputs that each gathered number is; -1 for none.

        Raises _None where a number is not one of an input's, unchanged.
        """
        first, owners = 1, []
        for edge, tensor in zip(self.edges, self.tensors):
            v = torch.zeros_like(tensor, requires_grad=True)
            owner, first = torch.zeros_like(tensor), 1
            for i, x in enumerate(self.wrt):
                columns = torch.arange(first, first + x.numel()).to(x).reshape(x.shape)
                if self.leaves.get(i) is not None and edge is self.edges[self.leaves[i]]:
                    owner = columns
                else:
                    owner = owner + _picked(edge, x, v, columns)
                first += x.numel()
            owners.append(owner.reshape(-1))
        found = torch.cat(owners).round().long()
        # Each number is the one that it is said to be, or a constant.
        values = torch.cat([tensor.reshape(-1) for tensor in self.tensors])
        numbers = torch.cat([values.new_zeros(1), *(x.detach().reshape(-1) for x in self.wrt)])
        if int(found.max()) >= first or not ((numbers[found] == values) | (found == 0)).all():
            raise _None
        return found - 1


def _same(seen: Sequence[_Looked]) -> bool:
    """Whether the same numbers are gathered at all points, whatever their values."""
    return all(looked.owners.equal(seen[0].owners) for looked in seen)


def _picked(edge: Edge, x: Tensor, v: Tensor, columns: Tensor) -> Tensor:
    """What of `columns` is gathered as of `x`: the transpose of what scatters `v` back to it."""
    try:
        (scattered,) = torch.autograd.grad(
            [edge], x, [v], create_graph=True, retain_graph=True, allow_unused=True
        )
    except (TypeError, AttributeError):
        # Older releases take no edge to start from.
        raise _None from None
    if scattered is None or not scattered.requires_grad:
        return torch.zeros_like(v)
    picked: Tensor = torch.autograd.grad(scattered, v, columns, retain_graph=True)[0]
    return picked


def edges(y: Tensor, wrt: Tensors) -> list[Edge]:
    """Where the graph of `y` has tensors gathered from the leaves `wrt`; a leaf that is used
    otherwise stands for itself.

    A tensor stands for what is gathered from it where all its uses are gathers: autograd gives the
    derivative by it through all of its uses, never through some.
    """
    users: dict[Any, dict[int, list[Any]]] = {}
    for node in nodes(y):
        for source, number in node.next_functions:
            users.setdefault(source, {}).setdefault(number, []).append(node)
    found: dict[Edge, None] = {}
    pending = [torch.autograd.graph.get_gradient_edge(x) for x in wrt]
    for edge in pending:
        uses = users.get(edge.node, {}).get(edge.output_nr, [])
        if uses and all(user.name() in GATHERS and user is not y.grad_fn for user in uses):
            for user in dict.fromkeys(uses):
                for number in users[user]:
                    pending.append(torch.autograd.graph.GradientEdge(user, number))
        elif uses:
            found[edge] = None
    return list(found)


def _flat(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


class _Recording(TorchFunctionMode):
    """Keeps the results of all calls of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.results.append(result)
        return result


class _Replacing(TorchFunctionMode):
    """Gives other results for some calls of torch: by the number of the call, and by the part."""

    def __init__(self, calls: dict[int, dict[int, Tensor]]) -> None:
        super().__init__()
        self.calls, self.number = calls, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        parts = self.calls.get(self.number, {})
        self.number += 1
        if not parts:
            return result
        replaced = [parts.get(i, part) for i, part in enumerate(_flat(result))]
        return type(result)(replaced) if isinstance(result, (tuple, list)) else replaced[0]

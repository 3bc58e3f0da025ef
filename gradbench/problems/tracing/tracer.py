"""Follows the sets of coordinates through the operations of a function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from gradbench.core.deadline import Deadline
from gradbench.problems.dispatch import DispatchMode, tensors_in
from gradbench.problems.tracing.sets import CoordinateSets, TooMany

LOOKS = {
    *("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "_unique"),
    *("_unique2", "unique_dim", "unique_consecutive", "bincount", "argwhere"),
}
"""Operations that turn numbers into Python's own, or into a shape."""

OUT_OF_SIGHT = (Tensor.tolist, Tensor.numpy, Tensor.__array__)
"""Methods that read numbers without an operation."""

METADATA = {
    *("squeeze", "unsqueeze", "transpose", "t", "swapaxes", "swapdims", "detach", "as_strided"),
    "requires_grad",
}
"""Operations whose in-place forms change no number."""

RESIZES = {"set", "resize", "resize_as"}


@dataclass
class _Held:
    """What is known of a storage: the set of each of its numbers, and whose values it was made
    of (a bit for each input)."""

    alive: StorageWeakRef
    width: int
    sets: Tensor | None
    values: int


@dataclass(frozen=True)
class Operation:
    """One operation as a rule sees it."""

    name: str
    """Without the underscore of the in-place form."""
    function: Any
    in_place: bool
    bound: dict[str, Any]
    """The arguments by the names of the schema, defaults included."""
    targets: list[Tensor]
    """The tensors that it returns or writes."""
    tracer: Tracer = field(repr=False)

    @property
    def operands(self) -> list[Tensor]:
        return tensors_in(self.bound)

    def sets(self, name: str) -> Tensor | None:
        """The sets of an argument; None for a constant or no tensor."""
        value = self.bound.get(name)
        return self.tracer.sets_of(value) if isinstance(value, Tensor) else None


Rule = Callable[[Operation], Any]
"""Returns the sets of each target, or of all where it is a single tensor; None for no set."""


class Tracer(DispatchMode):
    """Follows the sets of coordinates while it is on. Raises nothing: see `failed`."""

    def __init__(
        self, rules: dict[str, Rule], pointwise: Rule, everything: Rule, sets: CoordinateSets,
        deadline: Deadline,
    ) -> None:  # fmt: skip
        super().__init__()  # type: ignore[no-untyped-call]
        self.rules, self.pointwise, self.everything = rules, pointwise, everything
        self.sets, self.deadline = sets, deadline
        self.failed = ""
        self.branches = 0
        self.differentiated = 0
        """The bits of the inputs that are differentiated."""
        self._held: dict[int, _Held] = {}
        self._purged = 0

    # -- what is known of a tensor ------------------------------------------------------------

    def _find(self, x: Tensor) -> _Held | None:
        if x.layout != torch.strided:
            if x.requires_grad:
                self.failed = f"a tensor is {x.layout}"
            return None
        return self._held.get(x.untyped_storage()._cdata)

    def values_of(self, x: Tensor) -> int:
        """The inputs whose values the tensor was made of, as bits."""
        held = self._find(x)
        return held.values if held else 0

    def sets_of(self, x: Tensor) -> Tensor | None:
        """The set of each number of a tensor; None if it is constant for derivatives."""
        held = self._find(x)
        if held is None or held.sets is None:
            return None
        if not (x.is_floating_point() or x.is_complex()):
            return None
        if torch.is_grad_enabled() and not x.requires_grad:
            # Detached, or computed without gradients. With gradients off, such as inside a custom
            # function, nothing tells what is meant to be constant.
            return None
        return self._as(x, held)

    def _as(self, x: Tensor, held: _Held) -> Tensor:
        assert held.sets is not None
        width = x.element_size()
        if width == held.width:
            return held.sets.as_strided(x.shape, x.stride(), x.storage_offset())
        if width < held.width:
            fine = held.sets.repeat_interleave(held.width // width)
            return fine.as_strided(x.shape, x.stride(), x.storage_offset())
        united = self.sets.along(held.sets.reshape(-1, width // held.width), [1])[:, 0]
        return united.as_strided(x.shape, x.stride(), x.storage_offset())

    def write(self, x: Tensor, sets: Tensor | None, values: int) -> None:
        """Makes these the sets of a tensor's numbers; they are broadcast to its shape."""
        held = self._find(x)
        if not (x.is_floating_point() or x.is_complex()):
            sets = None
        if held is None:
            if (sets is None and not values) or x.layout != torch.strided:
                return
            storage = x.untyped_storage()
            held = _Held(StorageWeakRef(storage), x.element_size(), None, 0)
            self._held[storage._cdata] = held
        held.values |= values
        if sets is None and held.sets is None:
            return
        if held.sets is None:
            count = x.untyped_storage().nbytes() // held.width
            held.sets = torch.zeros(count, dtype=torch.int64)
        new = torch.zeros((), dtype=torch.int64) if sets is None else sets
        width = x.element_size()
        if width < held.width:
            held.sets = held.sets.repeat_interleave(held.width // width)
            held.width = width
        if width > held.width:
            part = width // held.width
            parts = held.sets.reshape(-1, part)
            for i in range(part):
                column = parts[:, i].as_strided(
                    x.shape, [part * s for s in x.stride()], part * x.storage_offset() + i
                )
                column.copy_(new.expand(x.shape))
            return
        view = held.sets.as_strided(x.shape, x.stride(), x.storage_offset())
        view.copy_(new.expand(x.shape))

    def _purge(self) -> None:
        """Forgets storages that are gone: their addresses may be used again."""
        self._purged += 1
        if self._purged % 256 == 0:
            self._held = {k: held for k, held in self._held.items() if not held.alive.expired()}

    # -- following ----------------------------------------------------------------------------

    def look(self, values: int) -> None:
        """Notes that numbers made of these inputs decided what was computed."""
        self.branches |= values

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self.failed:
            if self.deadline.over:
                self.failed = "there was no time to trace it"
                return result
            try:
                self._follow(func, args, kwargs, result)
            except TooMany:
                self.failed = "its entries are too many to trace"
            except Exception as error:
                self.failed = f"{func} could not be traced: {type(error).__name__}: {error}"
        return result

    def _follow(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        self._purge()
        operands = tensors_in((args, kwargs))
        values = 0
        for x in operands:
            values |= self.values_of(x)
        outputs = tensors_in(result)
        schema = func._schema
        if not values and not schema.is_mutable:
            return
        name = schema.name.partition("::")[2]
        base = name.removesuffix("_")
        if base in LOOKS:
            self.look(values)
        bound = _bind(schema, args, kwargs)
        written = [
            x
            for argument in schema.arguments
            if argument.alias_info is not None and argument.alias_info.is_write
            for x in tensors_in(bound[argument.name])
        ]
        if written and base in RESIZES and values:
            self.failed = f"it calls {name}"
            return
        if written and base in METADATA:
            return
        if not written:
            own = {x.untyped_storage()._cdata for x in operands if x.layout == torch.strided}
            outputs = [
                y
                for y in outputs
                if y.layout != torch.strided or y.untyped_storage()._cdata not in own
            ]
        targets = [*written, *(y for y in outputs if not any(y is x for x in written))]
        if not targets:
            return
        found: Any = None
        # Whole numbers have no derivative: what they are made of is known by `values`.
        if values and any(y.is_floating_point() or y.is_complex() for y in targets):
            in_place = bool(written) and name.endswith("_")
            operation = Operation(base, func, in_place, bound, targets, self)
            found = self._rule(func, base)(operation)
        if not isinstance(found, list):
            found = [found] * len(targets)
        for target, sets in zip(targets, found):
            self.write(target, sets, values)

    def _rule(self, func: Any, base: str) -> Rule:
        if func.namespace != "aten":
            return self.everything
        if base in self.rules:
            return self.rules[base]
        return self.pointwise if torch.Tag.pointwise in func.tags else self.everything


def _bind(schema: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    bound = {}
    for i, argument in enumerate(schema.arguments):
        if i < len(args) and not argument.kwarg_only:
            bound[argument.name] = args[i]
        elif argument.name in kwargs:
            bound[argument.name] = kwargs[argument.name]
        else:
            bound[argument.name] = argument.default_value if argument.has_default_value() else None
    return bound


class Reads(TorchFunctionMode):
    """Notes the reading of numbers that is no operation."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in OUT_OF_SIGHT:
            try:
                self.tracer.look(self.tracer.values_of(args[0]))
            except Exception:
                self.tracer.failed = f"it calls {func.__name__}"
        return func(*args, **(kwargs or {}))

"""A function's inputs as flat tensors: dicts, lists, dataclasses and modules hold several.

A tensor inside an input is named by its place: ``weights.a``, ``layers.0.bias``. Complex tensors
become real ones of their real and imaginary parts, along a last dimension of 2.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from gradbench.core.arguments import signature


@dataclass(frozen=True)
class Leaf:
    """One tensor of an input, or of a module that is one."""

    name: str
    input: str
    """The input's name; empty for a parameter of the function, which is a module itself."""
    tensor: Tensor
    """float64 where it can be differentiated, on the CPU, detached."""
    code: str = ""
    """Where it is in the input, as code: ``weights["a"]``; empty for a module's parameter."""
    is_complex: bool = False

    @property
    def can_be_differentiated(self) -> bool:
        return self.tensor.is_floating_point()


def is_container(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple)) or (
        dataclasses.is_dataclass(value) and not isinstance(value, type)
    )


def items(value: Any) -> Iterator[tuple[str, str, Any]]:
    """The parts of a container: name, access as code, and the part."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield str(key), f"[{key!r}]", part
    elif hasattr(value, "_fields"):
        for field in value._fields:
            yield field, f".{field}", getattr(value, field)
    elif isinstance(value, (list, tuple)):
        for number, part in enumerate(value):
            yield str(number), f"[{number}]", part
    else:
        for field in dataclasses.fields(value):
            if hasattr(value, field.name):
                yield field.name, f".{field.name}", getattr(value, field.name)


def rebuilt(value: Any, parts: Sequence[Any]) -> Any:
    """A container like this one, of other parts."""
    if type(value) in (list, tuple):
        return type(value)(parts)
    if hasattr(value, "_fields"):
        return type(value)(*parts)
    new = copy.copy(value)
    if isinstance(value, dict):
        new.update(zip(value, parts))
    elif isinstance(value, list):
        new[:] = parts
    elif isinstance(value, tuple):
        new = type(value)(parts)
    else:
        for (name, _, _), part in zip(items(value), parts):
            object.__setattr__(new, name, part)
    return new


Takes = Callable[[str, str, torch.nn.Parameter], bool]
"""Whether a parameter becomes a leaf: of the module of this input, by its name in it."""


class Binding:
    """How flat tensors become the function's arguments.

    Parameters that `takes` does not take stay in their modules. Raises TypeError for a parameter
    that it takes and that cannot be a leaf.
    """

    def __init__(
        self,
        target: Any,
        inputs: Mapping[str, Any],
        takes: Takes,
        captured: Mapping[str, torch.nn.Module] = MappingProxyType({}),
    ) -> None:
        self.target, self.takes = target, takes
        self.leaves: list[Leaf] = []
        self.plain: dict[str, Any] = {}
        """The inputs without a leaf."""
        self.modules: dict[str, torch.nn.Module] = {}
        """The modules that are inputs or in them, or `captured` by the function, by place; the
        function's own by ""."""
        self.held: list[tuple[str, str, int]] = []
        """Each leaf that is a parameter: the module's place, its name in it, the leaf's number."""
        self.copied: list[tuple[str, str]] = []
        """The buffers that each call works on copies of: the module's place, its name in it."""
        self.tracked: list[int] = []
        """The leaves that require grad whenever the function is called."""
        self._taken: set[int] = set()
        self._room: dict[str, Any] = {
            "rebuilt": rebuilt,
            "Tensor": Tensor,
            "view_as_complex": torch.view_as_complex,
            "functional_call": torch.func.functional_call,
        }
        module = module_of(target)
        if module is not None:
            self._module(module, "", "")
        for name, module in captured.items():
            self._module(module, name, name)
        self.made: dict[str, str] = {}
        """The code of each input, of the leaves t0, t1, … and what is in the room."""
        for name, value in inputs.items():
            before = len(self.leaves)
            self.made[name] = self._value(value, name, name, name)
            if len(self.leaves) == before:
                self.plain[name] = value
        known = signature(target)
        names = list(inputs)
        self.positional, self.named = (names, []) if known is None else known.split(names)

    @property
    def swapped(self) -> list[str]:
        """The places of the modules of which calls replace parameters or buffers."""
        held, copied = [p for p, _, _ in self.held], [p for p, _ in self.copied]
        return list(dict.fromkeys(held + copied))

    def _known(self, value: Any) -> str:
        """The name of a value in the room of the code."""
        name = f"c{len(self._room)}"
        self._room[name] = value
        return name

    def _leaf(self, leaf: Leaf) -> str:
        name = f"t{len(self.leaves)}"
        self.leaves.append(leaf)
        return f"view_as_complex({name}.contiguous())" if leaf.is_complex else name

    def _value(self, value: Any, name: str, input: str, code: str) -> str:
        """The code of a value; its tensors become leaves."""
        if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized:
            x = value.detach().to("cpu")
            if x.is_complex():
                real = torch.view_as_real(x.to(torch.complex128).resolve_conj())
                return self._leaf(Leaf(name, input, real, code, is_complex=True))
            x = x.to(torch.float64) if x.is_floating_point() else x
            return self._leaf(Leaf(name, input, x, code))
        if isinstance(value, torch.nn.Module):
            self._module(value, name, input)
        elif is_container(value):
            parts = list(items(value))
            before = len(self.leaves)
            made = [self._value(p, f"{name}.{n}", input, code + c) for n, c, p in parts]
            if len(self.leaves) > before:
                return self._container(value, made)
        return self._known(value)

    def _container(self, value: Any, made: Sequence[str]) -> str:
        inner = "".join(f"{part}, " for part in made)
        if type(value) is dict:
            return f"{{{''.join(f'{self._known(k)}: {part}, ' for k, part in zip(value, made))}}}"
        if type(value) in (list, tuple):
            return f"[{inner}]" if type(value) is list else f"({inner})"
        return f"rebuilt({self._known(value)}, [{inner}])"

    def _module(self, module: torch.nn.Module, place: str, input: str) -> None:
        self.modules[place] = module
        for name, parameter in module.named_parameters():
            if not self.takes(input, name, parameter) or id(parameter) in self._taken:
                continue
            if isinstance(module, torch.jit.ScriptModule):
                raise TypeError("parameters of a scripted module cannot be replaced: name inputs")
            if torch.nn.parameter.is_lazy(parameter):
                raise TypeError(f"parameter {name} has no shape yet: call the module once before")
            if not parameter.is_floating_point():
                raise TypeError(f"parameter {name} is {parameter.dtype}, not floating-point")
            self._taken.add(id(parameter))
            self.held.append((place, name, len(self.leaves)))
            x = parameter.detach().to("cpu", torch.float64)
            self.leaves.append(Leaf(f"{place}.{name}" if place else name, input, x))

    def _compiled(self, order: Sequence[int], code: str, **known: Any) -> Callable[..., Any]:
        """A function of the leaves in this order, as if it were written for this subject: what it
        costs is in all that is timed."""
        room = {**self._room, **known}
        lines = f"    return {code}\n"
        if known.get("one"):
            lines = f"    y = {code}\n    return y if isinstance(y, Tensor) else one(y)\n"
        if "called" in known:
            lines = "".join(f"    {tracking(f't{i}')}\n" for i in self.tracked) + lines
        exec(f"def call({', '.join(f't{i}' for i in order)}):\n{lines}", room)
        made: Callable[..., Any] = room["call"]
        return made

    def call(
        self, order: Sequence[int], one: Callable[[Any], Tensor] | None = None
    ) -> Callable[..., Any]:
        """The function of the leaves in this order; `one` makes a tensor of what is none."""
        args = "".join(f"{self.made[name]}, " for name in self.positional)
        named = ", ".join(f"{name!r}: {self.made[name]}" for name in self.named)
        if self.swapped:
            code = f"functional_call(called, {self._weights(self.target)}, ({args}), {{{named}}})"
            return self._compiled(order, code, called=self._swapping(self.target), one=one)
        if all(name.isidentifier() for name in self.named):
            named = ", ".join(f"{name}={self.made[name]}" for name in self.named)
            return self._compiled(order, f"called({args}{named})", called=self.target, one=one)
        code = f"called({args}**{{{named}}})"
        return self._compiled(order, code, called=self.target, one=one)

    def arguments(self, order: Sequence[int]) -> Callable[..., tuple[Any, ...]]:
        """Makes the function's arguments, in the order of the inputs, of the leaves in this one."""
        return self._compiled(order, f"({''.join(f'{code}, ' for code in self.made.values())})")

    def swapping(self, function: Any, order: Sequence[int]) -> Callable[..., Any]:
        """The function of the leaves in this order that gives a function of arguments: it is called
        while the modules have these parameters, and copies of their buffers."""
        call = f"lambda *args: functional_call(called, {self._weights(function)}, args)"
        return self._compiled(order, call, called=self._swapping(function))

    def _is_own(self, function: Any) -> bool:
        """Whether a function is the only module of which calls replace parameters or buffers."""
        return self.swapped == [""] and function is self.modules[""]

    def _swapping(self, function: Any) -> torch.nn.Module:
        """A function as a module that `torch.func.functional_call` calls."""
        own: torch.nn.Module = (
            self.modules[""]
            if self._is_own(function)
            else _Bundle(function, list(self.modules.values()))
        )
        return own

    def _weights(self, function: Any) -> str:
        """The code of the parameters, and of the copies of buffers, by their names."""
        own = self._is_own(function)
        prefixes = {place: "" if own else f"m{i}." for i, place in enumerate(self.modules)}
        parts = [f"{prefixes[place] + name!r}: t{number}" for place, name, number in self.held]
        for place, name in self.copied:
            buffer = self._known(self.modules[place].get_buffer(name))
            parts.append(f"{prefixes[place] + name!r}: {buffer}.clone()")
        return f"{{{', '.join(parts)}}}"


class _Bundle(torch.nn.Module):
    """A function as a module of those modules of which calls replace parameters or buffers."""

    def __init__(self, call: Callable[..., Any], modules: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        # In a tuple, so that a module is not counted a second time.
        self.callable = (call,)
        for number, module in enumerate(modules):
            self.add_module(f"m{number}", module)

    def forward(self, *args: Any, **named: Any) -> Any:
        return self.callable[0](*args, **named)


def tracking(name: str) -> str:
    """The code that makes a tensor of this name require grad, in any mode but torch.func's."""
    return f"{name} = {name} if {name}.requires_grad else {name}.view_as({name}).requires_grad_()"


def module_of(target: Any) -> torch.nn.Module | None:
    """The module that a function is, or whose method it is."""
    owner = target if isinstance(target, torch.nn.Module) else getattr(target, "__self__", None)
    return owner if isinstance(owner, torch.nn.Module) else None

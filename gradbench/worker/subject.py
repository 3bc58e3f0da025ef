"""A user's function as one of the suite's own, its reference derivative from evidence."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gradbench.core.arguments import signature
from gradbench.core.cases import YOURS
from gradbench.core.suggest import hint
from gradbench.modes import second_order, structured
from gradbench.problems import registry
from gradbench.problems.dispatch import tensors_in
from gradbench.problems.function import Function, Tensors
from gradbench.problems.mode import Call
from gradbench.problems.operators import Problem
from gradbench.worker import loading
from gradbench.worker.binding import Binding, Leaf, is_container, module_of
from gradbench.worker.expressions import evaluate
from gradbench.worker.known import Known
from gradbench.worker.loading import Unusable, inputs_from, resolve
from gradbench.worker.owned import modules_read, reached, variable
from gradbench.worker.precision import MEASURED, Wide
from gradbench.worker.reference import Trust, formulas, products
from gradbench.worker.second_order import formulas as second_order_formulas
from gradbench.worker.settling import Manner, seed_again
from gradbench.worker.sparse import sparse_jacobian


@dataclass
class _Loaded:
    """What a request names, found."""

    target: Any
    inputs: dict[str, Any]
    ways: dict[str, Callable[..., Any]]
    """The user's own derivatives by name."""
    access: dict[str, str] = field(default_factory=dict)
    """Where an input is in what `--inputs` returns, as code."""


def _loaded(spec: dict[str, Any]) -> _Loaded:
    """Raises Unusable where something cannot be used, and whatever the user's code raises."""
    # Weights that are drawn at import have to be the same in every process.
    loading.seed_everything(spec["seed"])
    if spec["passed"]:
        found = _Loaded(*loading.passed(spec["passed"]))
    else:
        found = _Loaded(resolve(spec["target"]), {}, {})
        loading.seed_everything(spec["seed"])
        try:
            found.inputs = {name: evaluate(text) for name, text in spec["inputs"]}
        except ValueError as error:
            raise Unusable(f"--input: {error}") from error
        if spec["maker"]:
            more, found.access = inputs_from(spec["maker"], found.target)
            for name in found.inputs:
                if name in more:
                    raise Unusable(f"--input {name}: --inputs {spec['maker']} returns it too")
            found.inputs |= more
    if not callable(found.target):
        raise Unusable(f"{spec['target']} is a {type(found.target).__name__}, no function")
    for also in spec["also"]:
        name = also.rpartition(":")[2].rpartition(".")[2]
        if name in found.ways:
            raise Unusable(f"--also {also}: there are two of the name {name}")
        found.ways[name] = resolve(also)
        if not callable(found.ways[name]):
            raise Unusable(f"--also {also}: it is a {type(found.ways[name]).__name__}")
    known = signature(found.target)
    if known is not None and (refusal := known.refusal(list(found.inputs))):
        raise Unusable(refusal)
    return found


class Subject:
    """The function with its inputs: differentiated ones first, then the other tensors.

    An input that is a dict, a list, a dataclass or a module counts as the tensors in it. Without
    `wrt`, a function is differentiated by its parameters where it has any: those of a module that
    it is or takes, else the tensors in dicts and the like. Outputs that are pytrees are flattened
    into one vector. Raises Unusable where an input cannot be used.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.dtype: torch.dtype = getattr(torch, spec["dtype"])
        before = torch.get_default_dtype()
        found = _loaded(spec)
        after = torch.get_default_dtype()
        self.default = None if after == before else after
        """The default dtype that the user's code has set, while it was loaded."""
        self.target, self.ways, self.access = found.target, found.ways, found.access
        self.maker: str = spec["maker"]
        inputs = self.inputs = found.inputs
        wrt = list(dict.fromkeys(spec["wrt"]))
        captured = _captured(self.target, inputs, wrt)
        read = modules_read(self.target)
        self.outside = [name for name in read if name not in captured and name not in inputs]
        """The modules that the function reads from outside, and is not differentiated by."""
        captured |= {name: read[name] for name in self.outside}
        try:
            self.binding = Binding(
                self.target, inputs, _taken(self.target, inputs, wrt, self.outside), captured
            )
        except TypeError as error:
            raise Unusable(str(error)) from error
        leaves = self.binding.leaves
        self.notes: list[str] = []
        """Sentences on what is differentiated, and how the function is called."""
        if wrt:
            chosen = _named(wrt, leaves, inputs, self.target)
        else:
            chosen, said = _default(leaves, inputs)
            self.notes += said
        order = chosen + [i for i in range(len(leaves)) if i not in chosen]
        self.leaves = [leaves[i] for i in order]
        self.names = [leaf.name for leaf in self.leaves]
        self.differentiated = len(chosen)
        self.values: Tensors = tuple(leaf.tensor for leaf in self.leaves)
        self._order = order
        self.wide = Wide(())
        """The context of evidence and references: `forward` computes in float64 inside."""
        self.settle(Manner(**spec.get("manner") or {}))

    def settle(self, manner: Manner) -> None:
        """Calls the function in this manner from now on."""
        self.manner = manner
        self.binding.copied = [(place, name) for place, name in manner.buffers]
        self.binding.tracked = self._order[: self.differentiated] if manner.tracked else []
        self._call = self.binding.call(self._order)
        self._call_as_one: Callable[..., Tensor] = self.binding.call(self._order, _one)
        simple = not manner.random and self.default is None
        self.measured: Callable[..., Tensor] = self._call_as_one if simple else self._as_one
        """The function's value as one tensor, as it is timed."""
        self._arguments = self.binding.arguments(self._order)
        tensors, _ = reached(self.target, self.binding.plain, *self.binding.modules.values())
        draws = self.dtype if manner.draws or manner.random else None
        self.wide = Wide(tensors, manner.precision, draws)

    @property
    def unit(self) -> float:
        """The relative rounding error of the arithmetic that evidence and references rest on."""
        return self.manner.unit if self.manner.precision == MEASURED else 2.0**-52

    def forward(self, *inputs: Tensor) -> Tensor:
        """The function's value as one tensor; within `wide` in float64, with grad mode on."""
        if not self.wide.is_on:
            return self.measured(*inputs)
        with torch.enable_grad():
            value = self.measured(*self._wide(inputs))
            value = value.double() if value.is_floating_point() else value
        return value if torch.is_grad_enabled() else _without_graph(value)

    def _wide(self, inputs: Tensors) -> Tensors:
        """The inputs as the function takes them within `wide`."""
        if self.manner.precision != MEASURED:
            return inputs
        return tuple(x.to(self.dtype) if x.is_floating_point() else x for x in inputs)

    def value(self, *inputs: Tensor) -> Any:
        """What the function returns, as it is."""
        with self._prepared():
            return self._call(*inputs)

    def looked_at(self, *inputs: Tensor) -> Tensor:
        """The value as one tensor, whose parts are remembered: they take no further call."""
        value = self.value(*inputs)
        self.returned = 0 if isinstance(value, Tensor) else len(_leaves(value))
        y = _one(value)
        self.is_several = y.dim() > 0
        return y

    def _as_one(self, *inputs: Tensor) -> Tensor:
        with self._prepared():
            return self._call_as_one(*inputs)

    @contextmanager
    def _prepared(self) -> Iterator[None]:
        """Seeds the generators, and sets the default dtype of the user's code."""
        if self.manner.random:
            seed_again(self.manner.random)
        if self.default is None or self.wide.sets_dtype:
            yield
            return
        before = torch.get_default_dtype()
        torch.set_default_dtype(self.default)
        try:
            yield
        finally:
            torch.set_default_dtype(before)

    @cached_property
    def returned(self) -> int:
        """The number of floating-point tensors that the function returns in a pytree; 0 where it
        returns one alone."""
        with self.wide:
            value = self.value(*self._wide(self.values))
        return 0 if isinstance(value, Tensor) else len(_leaves(value))

    @cached_property
    def is_several(self) -> bool:
        """Whether the function's value has dimensions."""
        with self.wide:
            return self.forward(*self.values).dim() > 0

    def called(self, way: Callable[..., Any]) -> Callable[..., Any]:
        """A derivative of the user's own as a mode's callable, of the inputs and a seed.

        It takes the function's arguments; a seed or tangents before them, the parameters of a
        function that is a module as a dict before all.
        """
        binding, arguments = self.binding, self._arguments
        held = [
            (name, self._order.index(number)) for place, name, number in binding.held if not place
        ]
        others = len(held) < len(binding.held)
        swapping = binding.swapping(way, self._order) if others else None

        def call(inputs: Tensors, *seed: Any) -> Any:
            first = [s[0] if isinstance(s, tuple) and len(s) == 1 else s for s in seed]
            if held:
                first.insert(0, {name: inputs[place] for name, place in held})
            if swapping is None:
                return way(*first, *arguments(*inputs))
            # What takes the module itself differentiates by its parameters.
            wrt = [x.detach().requires_grad_() for x in inputs[: self.differentiated]]
            wrt += inputs[self.differentiated :]
            return swapping(*wrt)(*first, *arguments(*wrt))

        return call

    def draw(self, size: Any, generator: torch.Generator) -> Tensors:
        """Inputs near the given ones, so that they stay in the function's domain; those that are
        not differentiated stay as they are, for a label or a mask has no values nearby."""
        wrt = self.values[: self.differentiated]
        moved = (
            x * (1 + 0.01 * torch.randn(x.shape, generator=generator, dtype=x.dtype)) for x in wrt
        )
        return (*moved, *self.values[self.differentiated :])


def _without_graph(value: Tensor) -> Tensor:
    """The value as it is without grad mode: detached, which alone would drop its tangent."""
    tangent = forward_ad.unpack_dual(value).tangent
    if tangent is None:
        return value.detach()
    dual: Tensor = forward_ad.make_dual(value.detach(), tangent.detach())
    return dual


def _one(value: Any) -> Tensor:
    """A pytree's floating-point tensors as one vector; the only one as it is."""
    leaves = _leaves(value)
    return leaves[0] if len(leaves) == 1 else torch.cat([leaf.reshape(-1) for leaf in leaves])


def _leaves(value: Any) -> list[Tensor]:
    """A pytree's floating-point tensors. Raises Unusable where it has none, or complex ones."""
    leaves = tensors_in(value)
    real = [leaf for leaf in leaves if leaf.is_floating_point()]
    for leaf in leaves:
        if leaf.is_complex():
            raise Unusable(
                f"it returns {leaf.dtype}: return real numbers, such as "
                "torch.view_as_real(result) or result.abs()"
            )
    if not real and leaves:
        raise Unusable(f"it returns {leaves[0].dtype}: only floating-point values have derivatives")
    if not real:
        nested = isinstance(value, (dict, list, tuple))
        what = " without a tensor" if nested else ", no tensor"
        cure = ": leave out float() or .item()" if isinstance(value, (int, float)) else ""
        if is_container(value) and not nested:
            cure = ": return its tensors, in a dict, list or tuple"
        raise Unusable(f"it returns a {type(value).__name__}{what}{cure}")
    return real


def _matches(wanted: str, name: str) -> bool:
    """Whether `wanted` is a name, or what holds it: ``weights`` for ``weights.a``."""
    return name == wanted or name.startswith(wanted + ".")


def _taken(
    target: Any, inputs: dict[str, Any], wrt: Sequence[str], outside: Sequence[str]
) -> Callable[[str, str, torch.nn.Parameter], bool]:
    """Which parameters of modules are differentiated: those that are named, or all that require
    grad of the function itself, else of its arguments."""
    own = module_of(target)

    def takes(input: str, name: str, parameter: torch.nn.Parameter) -> bool:
        if wrt:
            return any(
                (w == input and parameter.requires_grad)
                or (w != input and _matches(w, f"{input}.{name}" if input else name))
                for w in wrt
                if input or w.partition(".")[0] not in inputs
            )
        return parameter.requires_grad and bool(input) == (own is None) and input not in outside

    return takes


def _captured(
    target: Any, inputs: dict[str, Any], wrt: Sequence[str]
) -> dict[str, torch.nn.Module]:
    """The modules that `wrt` names, and that the function reads from outside of it."""
    found = {}
    for name in dict.fromkeys(wanted.partition(".")[0] for wanted in wrt):
        value = None if name in inputs else variable(target, name)
        if isinstance(value, torch.nn.Module):
            found[name] = value
    return found


def _named(
    wrt: Iterable[str], leaves: Sequence[Leaf], inputs: dict[str, Any], target: Any
) -> list[int]:
    """The numbers of the leaves that `wrt` names. Raises Unusable where it names none."""
    chosen: list[int] = []
    for wanted in wrt:
        found = [i for i, leaf in enumerate(leaves) if _matches(wanted, leaf.name)]
        real = [i for i in found if leaves[i].can_be_differentiated]
        if real and not any(leaves[i].tensor.numel() for i in real):
            raise Unusable(f"--wrt {wanted}: it is empty")
        real = [i for i in real if leaves[i].tensor.numel()]
        if not real:
            raise Unusable(
                f"--wrt {wanted}: {_why_not(wanted, bool(found), leaves, inputs, target)}"
            )
        chosen += [i for i in real if i not in chosen]
    return chosen


def _why_not(
    wanted: str, found: bool, leaves: Sequence[Leaf], inputs: dict[str, Any], target: Any
) -> str:
    if found:
        return "it holds no floating-point numbers"
    if wanted in inputs:
        value = inputs[wanted]
        if isinstance(value, torch.nn.Module):
            return "it is a module without parameters that require grad"
        if isinstance(value, Tensor):
            return f"its layout {value.layout} is not supported: pass a dense tensor"
        as_tensor = isinstance(value, (bool, int, float)) or type(value).__module__ == "numpy"
        cure = (
            f": pass torch.tensor({value!r})"
            if isinstance(value, (int, float))
            else (": pass torch.as_tensor of it" if as_tensor else "")
        )
        return f"it is a {type(value).__name__}, no tensor{cure}"
    names = [*inputs, *(leaf.name for leaf in leaves)]
    module = module_of(target)
    if module is not None:
        names += [name for name, _ in module.named_parameters()]
    near = hint(wanted, names)
    if isinstance(variable(target, wanted.partition(".")[0]), Tensor):
        return "it is a tensor from outside of the function: make it an argument"
    return f"there is no input of that name, but {', '.join(inputs)}" + (
        f"; {near}" if near else ""
    )


def _cure(name: str, value: Any) -> str:
    """How an input becomes a tensor to differentiate by; empty where it cannot be told."""
    if type(value).__module__ == "numpy":
        return f"pass {name} as torch.as_tensor({name})"
    if isinstance(value, Tensor) and value.layout != torch.strided:
        return f"{name} has the layout {value.layout}: pass {name}.to_dense()"
    if isinstance(value, Tensor) and not (value.is_floating_point() or value.is_complex()):
        return f"{name} is {value.dtype}: pass {name}.float()"
    return ""


def _default(leaves: Sequence[Leaf], inputs: dict[str, Any]) -> tuple[list[int], list[str]]:
    """The numbers of the leaves to differentiate by where nothing is named, and what to say of
    that. Raises Unusable where there are none."""
    real = [i for i, leaf in enumerate(leaves) if leaf.can_be_differentiated]
    if real and not any(leaves[i].tensor.numel() for i in real):
        raise Unusable(f"there is nothing to differentiate by: {leaves[real[0]].name} is empty")
    # The derivative by an empty tensor is empty.
    real = [i for i in real if leaves[i].tensor.numel()]
    if not real:
        cures = [f": {cure}" for name, v in inputs.items() if (cure := _cure(name, v))]
        raise Unusable(f"there is no floating-point tensor to differentiate by{''.join(cures[:1])}")
    parameters = [i for i in real if not leaves[i].code]
    inside = [i for i in real if leaves[i].code and leaves[i].name != leaves[i].input]
    chosen = parameters or inside or real
    left = list(dict.fromkeys(leaves[i].input for i in real if i not in chosen))
    if not left or chosen is real:
        return chosen, []
    of = list(dict.fromkeys(leaves[i].input for i in chosen))
    if of == [""]:
        return chosen, []
    what = "parameters" if parameters else "tensors"
    by = ", ".join(f"{what} of {name}" for name in of)
    return chosen, [f"differentiated by the {by}; for {left[0]}: --wrt {left[0]}"]


def _own(operators: Sequence[str], name: str, way: Callable[..., Any], subject: Subject) -> None:
    """Registers a derivative of the user's own as a mode."""

    def build(problem: Problem) -> Call:
        called = subject.called(way)

        def call(inputs: Tensors, *seed: Any) -> Any:
            result = called(inputs, *seed)
            if is_container(result):
                return tuple(tensors_in(result))
            return result

        return call

    build.__doc__ = "the derivative that was given to be measured beside"
    registry.mode(*operators, name=name)(build)


def register(spec: dict[str, Any]) -> None:
    """Makes the user's function, and the modes that use its structure, part of the registry."""
    known = Known.load(spec["pattern"]) if spec["structured"] else Known()
    if "folder" in spec:
        # Of a log that is resumed elsewhere.
        loading.findable(spec["folder"])
    name = spec.get("name", YOURS)
    declare(Subject(spec), spec["target"], spec["operators"], known, spec["per_sample"], name)


def within(subject: Subject, call: Callable[..., Any]) -> Callable[..., Any]:
    """The same call in the subject's `wide`."""

    def wide(*arguments: Any) -> Any:
        with subject.wide:
            return call(*arguments)

    return wide


def declare(
    subject: Subject,
    target: str,
    operators: Sequence[str],
    known: Known,
    per_sample: bool,
    name: str = YOURS,
) -> Function:
    """Registers a subject as a function of this name, and the modes of its own.

    These are the user's own derivatives and the modes that use what is known of the zeros or, for a
    jacobian, that its outputs are those of independent samples.
    """
    references = formulas(subject) | second_order_formulas(subject)
    if known.structure is not None:
        references["jacobian_sparse"] = functools.partial(
            sparse_jacobian, subject, known.structure, known.mixed, Trust()
        )
    function = Function(
        name=name,
        document="",
        formula=target,
        derivative="float64 reverse mode, held against finite differences",
        forward=subject.measured,
        example=lambda: subject.values,
        example_size={},
        draw=subject.draw,
        derivatives={name: within(subject, references[name]) for name in operators},
        products={
            name: (within(subject, right), within(subject, left))
            for name, (right, left) in products(subject).items()
            if name in operators
        },
        exact=within(subject, subject.forward),
        precise=None if subject.manner.precision == MEASURED else lambda: subject.wide,
        reverse=True,
        unit=subject.manner.unit,
        inputs=tuple(subject.names),
        constants=tuple(subject.names[subject.differentiated :]),
        dtype=str(subject.dtype).removeprefix("torch."),
    )
    registry.function(function)
    for operator in operators:
        known.register(operator, name)
    if "jacobian" in operators and per_sample:
        structured.register_samples()
    if "hessian" in operators and subject.is_several:
        second_order.register_several()
    for mode, way in subject.ways.items():
        _own(operators, mode, way, subject)
    return function

"""A user's function as one of the suite's own, its reference derivative from evidence."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Sequence
from inspect import Parameter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from gradbench.core.arguments import argument_names
from gradbench.core.cases import YOURS
from gradbench.core.suggest import hint
from gradbench.modes import structured
from gradbench.problems import registry
from gradbench.problems.function import Function, Tensors
from gradbench.problems.mode import Call
from gradbench.problems.operators import Problem
from gradbench.problems.structure import Structure
from gradbench.worker.expressions import evaluate
from gradbench.worker.reference import formulas

POSITIONAL_OR_KEYWORD = Parameter.POSITIONAL_OR_KEYWORD
KEYWORD_ONLY = Parameter.KEYWORD_ONLY


class Unusable(Exception):
    """The function or an input is not there, or is not what it should be; the message says how."""


def resolve(target: str) -> Any:
    """The object that ``module:name`` or ``file.py:name`` names. Raises Unusable where there
    is none, and whatever importing the module raises."""
    place, colon, name = target.rpartition(":")
    if not (colon and place and name):
        raise Unusable(f"{target!r} is not of the form module:function or file.py:function")
    sys.path.insert(0, os.getcwd())
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location("gradbench_subject", place)
        if spec is None or spec.loader is None or not os.path.exists(place):
            raise Unusable(f"there is no file {place}")
        module = importlib.util.module_from_spec(spec)
        sys.modules["gradbench_subject"] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    member: Any = module
    for part in name.split("."):
        if not hasattr(member, part):
            raise Unusable(f"{place} has no {part!r}")
        member = getattr(member, part)
    return member


def inputs_from(maker: str, target: Any) -> dict[str, Any]:
    """The inputs by name that ``module:function`` returns as a dict, or as a tuple in the order of
    the target's arguments. Raises Unusable if it returns neither, and whatever it raises itself."""
    inputs = resolve(maker)()
    if isinstance(inputs, dict) and all(isinstance(name, str) for name in inputs):
        return inputs
    if isinstance(inputs, (tuple, list)):
        return dict(zip(argument_names(target, len(inputs)), inputs))
    if isinstance(inputs, Tensor):
        return dict(zip(argument_names(target, 1), [inputs]))
    raise Unusable(
        f"--inputs {maker}: it returns a {type(inputs).__name__}, not a dict of inputs by name or "
        "a tuple of them"
    )


def _require_arguments(target: Any, inputs: Iterable[str]) -> None:
    """Raises Unusable for an input by a name that no argument of the target has."""
    called = target.forward if isinstance(target, torch.nn.Module) else target
    try:
        arguments = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):
        # Functions written in C hide their arguments' names: order decides.
        return
    if any(one.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) for one in arguments):
        return
    names = [one.name for one in arguments]
    for name in inputs:
        if name not in names:
            near = hint(name, names)
            raise Unusable(
                f"--input {name}: it has no argument of that name, but {', '.join(names) or 'none'}"
                + (f"; {near}" if near else "")
            )


def passed(path: str) -> tuple[Any, dict[str, Any], dict[str, Callable[..., Any]]]:
    """The function, the inputs by name and the user's own derivatives by name that
    `gradbench.compare` wrote to a file.

    Raises Unusable where they cannot be made again in this process.
    """
    with open(path, "rb") as file:
        folders, content = pickle.load(file)
    # What the caller could import can be imported here.
    sys.path += [folder for folder in folders if folder not in sys.path]
    try:
        target, inputs, ways = pickle.loads(content)
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise Unusable(
            f"it cannot be sent to the measuring process: {type(error).__name__}: {line}"
        ) from error
    return target, inputs, ways


class Promoted(TorchFunctionMode):
    """While it is on, an operation on tensors of several precisions is one of float64.

    A user's function may hold weights of its own in float32. It is measured with those as they
    are; the evidence and the references need its value at float64 inputs too.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat, tree = tree_flatten((args, kwargs))
        kinds = {x.dtype for x in flat if isinstance(x, Tensor) and x.is_floating_point()}
        if torch.float64 in kinds and len(kinds) > 1:
            flat = [
                x.double() if isinstance(x, Tensor) and x.is_floating_point() else x for x in flat
            ]
            args, kwargs = tree_unflatten(flat, tree)
        return func(*args, **kwargs)


def promoted(call: Callable[..., Any]) -> Callable[..., Any]:
    """The same call with `Promoted` on."""

    def wide(*arguments: Any) -> Any:
        with Promoted():
            return call(*arguments)

    return wide


class Subject:
    """The function with its inputs: differentiated ones first, then the other tensors.

    A module is differentiated by its parameters unless `wrt` names inputs. Outputs that are
    pytrees are flattened into one vector. Raises Unusable where an input cannot be used.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        kind = getattr(torch, spec["dtype"])
        self.ways: dict[str, Callable[..., Any]] = {}
        if spec["passed"]:
            self.target, inputs, self.ways = passed(spec["passed"])
        else:
            self.target = resolve(spec["target"])
            torch.manual_seed(spec["seed"])
            try:
                inputs = {name: evaluate(text) for name, text in spec["inputs"]}
            except ValueError as error:
                raise Unusable(f"--input: {error}") from error
            if spec["maker"]:
                more = inputs_from(spec["maker"], self.target)
                for name in inputs:
                    if name in more:
                        raise Unusable(f"--input {name}: --inputs {spec['maker']} returns it too")
                inputs |= more
            _require_arguments(self.target, inputs)
        for also in spec["also"]:
            name = also.rpartition(":")[2].rpartition(".")[2]
            if name in self.ways:
                raise Unusable(f"--also {also}: there are two of the name {name}")
            self.ways[name] = resolve(also)
            if not callable(self.ways[name]):
                raise Unusable(f"--also {also}: it is a {type(self.ways[name]).__name__}")
        if not callable(self.target):
            raise Unusable(f"{spec['target']} is a {type(self.target).__name__}, no function")
        tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        self.plain = {name: value for name, value in inputs.items() if name not in tensors}
        self.order = list(inputs)
        self.parameters: list[str] = []
        wrt = list(dict.fromkeys(spec["wrt"]))
        if isinstance(self.target, torch.nn.Module) and not wrt:
            held = dict(self.target.named_parameters())
            self.parameters = wrt = list(held)
            tensors |= {name: value.detach() for name, value in held.items()}
        wrt = wrt or [name for name, value in tensors.items() if value.is_floating_point()]
        for name in wrt:
            if name not in tensors or not tensors[name].is_floating_point():
                raise Unusable(f"--wrt {name}: there is no floating-point input of that name")
        if not wrt:
            raise Unusable("there is no floating-point input to differentiate by")
        self.names = wrt + [name for name in tensors if name not in wrt]
        self.differentiated = len(wrt)
        self.dtype = kind
        self.values = tuple(
            tensors[n].detach().to(torch.float64 if tensors[n].is_floating_point() else None)
            for n in self.names
        )
        try:
            known = inspect.signature(
                self.target.forward if isinstance(self.target, torch.nn.Module) else self.target
            ).parameters
            any_name = any(one.kind == Parameter.VAR_KEYWORD for one in known.values())
            self.by_name = all(
                known[name].kind in (POSITIONAL_OR_KEYWORD, KEYWORD_ONLY)
                if name in known
                else any_name
                for name in self.order
            )
        except (TypeError, ValueError):
            self.by_name = False

    def forward(self, *inputs: Tensor) -> Tensor:
        """The function's value as one tensor."""
        value = self.value(*inputs)
        if isinstance(value, Tensor):
            return value
        leaves = [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]
        if not leaves:
            raise TypeError(f"it returns a {type(value).__name__} without any tensor in it")
        return torch.cat([leaf.reshape(-1) for leaf in leaves])

    def called(self, way: Callable[..., Any], inputs: Sequence[Tensor], *seed: Any) -> Any:
        """What a derivative of the user's own returns, which takes the function's arguments; a
        seed or tangents before them, a module's parameters as a dict before all."""
        bound = dict(zip(self.names, inputs)) | self.plain
        first = [s[0] if isinstance(s, tuple) and len(s) == 1 else s for s in seed]
        if self.parameters:
            first.insert(0, {name: bound[name] for name in self.parameters})
        return way(*first, *(bound[name] for name in self.order))

    def value(self, *inputs: Tensor) -> Any:
        """What the function returns, as it is."""
        bound = dict(zip(self.names, inputs)) | self.plain
        args = () if self.by_name else tuple(bound[name] for name in self.order)
        named = {name: bound[name] for name in self.order} if self.by_name else {}
        if self.parameters:
            parameters = {name: bound[name] for name in self.parameters}
            return torch.func.functional_call(self.target, parameters, args, named)
        return self.target(*args, **named)

    def draw(self, size: Any, generator: torch.Generator) -> Tensors:
        """Inputs near the given ones, so that they stay in the function's domain."""
        return tuple(
            x * (1 + 0.01 * torch.randn(x.shape, generator=generator, dtype=x.dtype))
            if x.is_floating_point()
            else x
            for x in self.values
        )


def _own(operators: Sequence[str], name: str, way: Callable[..., Any], subject: Subject) -> None:
    """Registers a derivative of the user's own as a mode."""

    def build(problem: Problem) -> Call:
        def call(inputs: Tensors, *seed: Any) -> Any:
            result = subject.called(way, inputs, *seed)
            return tuple(result.values()) if isinstance(result, dict) else result

        return call

    build.__doc__ = "the derivative that was given to be measured beside"
    registry.mode(*operators, name=name)(build)


def register(spec: dict[str, Any]) -> None:
    """Makes the user's function, and the modes that use its structure, part of the registry."""
    structure = None
    if spec["structured"]:
        structure = Structure(**torch.load(spec["pattern"], weights_only=True))
    declare(Subject(spec), spec["target"], spec["operators"], structure, spec["per_sample"])


def declare(
    subject: Subject,
    target: str,
    operators: Sequence[str],
    structure: Structure | None,
    per_sample: bool,
) -> Function:
    """Registers a subject as the function `yours`, and the modes of its own.

    These are the user's own derivatives and, for a jacobian, the modes that use `structure` or
    that its outputs are those of independent samples.
    """
    references = formulas(subject)
    function = Function(
        name=YOURS,
        document="",
        formula=target,
        derivative="float64 reverse mode, held against finite differences",
        forward=subject.forward,
        example=lambda: subject.values,
        example_size={},
        draw=subject.draw,
        derivatives={name: promoted(references[name]) for name in operators},
        exact=promoted(subject.forward),
        inputs=tuple(subject.names),
        constants=tuple(subject.names[subject.differentiated :]),
        dtype=str(subject.dtype).removeprefix("torch."),
    )
    registry.function(function)
    if "jacobian" in operators:
        if structure:
            structured.register(YOURS, structure, suffix="")
        if per_sample:
            structured.register_samples()
    for name, way in subject.ways.items():
        _own(operators, name, way, subject)
    return function

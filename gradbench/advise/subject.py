"""A user's function as one of the suite's own, its reference derivative from evidence."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pickle
import sys
from inspect import Parameter
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from gradbench import registry
from gradbench.advise.code import literal
from gradbench.advise.expressions import evaluate
from gradbench.advise.structure import POINTS, Structure, detect, products
from gradbench.catalogue.function import Formula, Function, Tensors
from gradbench.modes import structured

POSITIONAL_OR_KEYWORD = Parameter.POSITIONAL_OR_KEYWORD
KEYWORD_ONLY = Parameter.KEYWORD_ONLY

NAME = "yours"
"""The name under which the user's function takes part in its run."""


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
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise Unusable(f"{place} has no {part!r}")
        found = getattr(found, part)
    return found


def passed(path: str) -> tuple[Any, dict[str, Any]]:
    """The function and the inputs by name that `gradbench.compare` wrote to a file.

    Raises Unusable where they cannot be made again in this process.
    """
    with open(path, "rb") as file:
        folders, content = pickle.load(file)
    # What the caller could import can be imported here.
    sys.path += [folder for folder in folders if folder not in sys.path]
    try:
        target, given = pickle.loads(content)
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise Unusable(
            f"it cannot be sent to the measuring process: {type(error).__name__}: {line}"
        ) from error
    return target, given


class Subject:
    """The function with its inputs: differentiated ones first, then the other tensors.

    A module is differentiated by its parameters unless `wrt` names inputs. Outputs that are
    pytrees are flattened into one vector. Raises Unusable where an input cannot be used.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        kind = getattr(torch, spec["dtype"])
        if spec["passed"]:
            self.target, given = passed(spec["passed"])
        else:
            self.target = resolve(spec["target"])
            torch.manual_seed(spec["seed"])
            try:
                given = {name: evaluate(text) for name, text in spec["inputs"]}
            except ValueError as error:
                raise Unusable(f"--input: {error}") from error
        if not callable(self.target):
            raise Unusable(f"{spec['target']} is a {type(self.target).__name__}, no function")
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        self.plain = {name: value for name, value in given.items() if name not in tensors}
        self.order = list(given)
        self.parameters: list[str] = []
        wrt = list(spec["wrt"])
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
            self.by_name = all(
                name in known and known[name].kind in (POSITIONAL_OR_KEYWORD, KEYWORD_ONLY)
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

    def value(self, *inputs: Tensor) -> Any:
        """What the function returns, as it is."""
        bound = dict(zip(self.names, inputs)) | self.plain
        args = () if self.by_name else tuple(bound[name] for name in self.order)
        named = {name: bound[name] for name in self.order} if self.by_name else {}
        if self.parameters:
            parameters = {name: bound[name] for name in self.parameters}
            return torch.func.functional_call(self.target, parameters, args, named)
        return self.target(*args, **named)

    def form(self, target: str, pattern: str) -> dict[str, Any]:
        """What `gradbench.advise.code` needs to write the function down.

        `pattern` is the file that the places of a sparse jacobian's entries are kept in, empty
        where there is none.
        """
        value = self.value(*self.values)
        return {
            "target": target,
            "names": self.names,
            "differentiated": self.differentiated,
            "order": self.order,
            "by_name": self.by_name,
            "plain": {name: literal(given) for name, given in self.plain.items()},
            "parameters": self.parameters,
            "tree": not isinstance(value, Tensor),
            "shapes": [list(x.shape) for x in self.values],
            "output": list(self.forward(*self.values).shape),
            "pattern": pattern,
        }

    def draw(self, size: Any, generator: torch.Generator) -> Tensors:
        """Inputs near the given ones, so that they stay in the function's domain."""
        return tuple(
            x * (1 + 0.01 * torch.randn(x.shape, generator=generator, dtype=x.dtype))
            if x.is_floating_point()
            else x
            for x in self.values
        )

    def rows(self, *inputs: Tensor) -> tuple[Tensor, Tensors]:
        """The value y, and dense jacobian blocks of shape (y.numel(), x.numel()), by reverse mode.

        Rounding apart they are exact where every backward formula is right.
        """
        with torch.enable_grad():
            wrt = tuple(x.detach().clone().requires_grad_() for x in inputs[: self.differentiated])
            y = self.forward(*wrt, *inputs[self.differentiated :])
            blocks = tuple(x.new_zeros(y.numel(), x.numel()) for x in wrt)
            if not y.requires_grad:
                return y, blocks
            seeds = torch.eye(y.numel(), dtype=y.dtype).reshape(-1, *y.shape)
            try:
                # Far faster than one by one, where vmap can.
                pulled: Any = torch.autograd.grad(
                    y, wrt, seeds, retain_graph=True, is_grads_batched=True, allow_unused=True
                )
            except RuntimeError:
                rows = [
                    torch.autograd.grad(y, wrt, seed, retain_graph=True, allow_unused=True)
                    for seed in seeds
                ]
                pulled = [None if c[0] is None else torch.stack(c) for c in zip(*rows)]
            found = tuple(
                block if g is None else g.reshape(block.shape) for g, block in zip(pulled, blocks)
            )
        return y.detach(), tuple(g.detach() for g in found)


def _formulas(subject: Subject) -> dict[str, Formula]:
    def jacobian(*inputs: Tensor) -> Tensors:
        y, blocks = subject.rows(*inputs)
        return tuple(b.reshape(y.shape + x.shape) for b, x in zip(blocks, inputs))

    def diagonal(*inputs: Tensor) -> Tensors:
        return tuple(
            b.diagonal().reshape(x.shape) for b, x in zip(subject.rows(*inputs)[1], inputs)
        )

    def batch_jacobian(*inputs: Tensor) -> Tensors:
        y, blocks = subject.rows(*inputs)
        dense = (b.reshape(y.shape + x.shape) for b, x in zip(blocks, inputs))
        return tuple(d.diagonal(0, 0, y.dim()).movedim(-1, 0) for d in dense)

    def vjp(v: Tensor, *inputs: Tensor) -> Tensors:
        blocks = subject.rows(*inputs)[1]
        return tuple((v.reshape(-1) @ b).reshape(x.shape) for b, x in zip(blocks, inputs))

    def jvp(t: Tensors, *inputs: Tensor) -> Tensor:
        y, blocks = subject.rows(*inputs)
        parts = [b @ s.reshape(-1) for b, s in zip(blocks, t)]
        return torch.stack(parts).sum(0).reshape(y.shape)

    return {
        "gradient": jacobian,
        "jacobian": jacobian,
        "diagonal": diagonal,
        "batch_jacobian": batch_jacobian,
        "vjp": vjp,
        "jvp": jvp,
    }


def structures(subject: Subject) -> list[Structure]:
    """The structure of the jacobian by each differentiated input, at points near the given ones.

    The same in every process: the seeds are fixed. Raises what the function raises.
    """
    drawn = [subject.draw(None, torch.Generator().manual_seed(s)) for s in range(POINTS)]
    y = subject.forward(*subject.values)
    found = []
    for number in range(subject.differentiated):

        def of_one(x: Tensor, number: int = number) -> Tensor:
            inputs = subject.values
            return subject.forward(*inputs[:number], x, *inputs[number + 1 :])

        jvp, vjp = products(of_one, [inputs[number] for inputs in drawn])
        shape = tuple(subject.values[number].shape)
        generator = torch.Generator().manual_seed(number)
        found.append(detect(jvp, vjp, shape, tuple(y.shape), generator))
    return found


def register(spec: dict[str, Any]) -> Subject:
    """Makes the user's function, and the modes that use its structure, part of the registry."""
    subject = Subject(spec)
    formulas = _formulas(subject)
    registry.function(
        Function(
            name=NAME,
            document="",
            formula=spec["target"],
            derivative="float64 reverse mode, held against finite differences",
            forward=subject.forward,
            example=lambda: subject.values,
            example_size={},
            draw=subject.draw,
            derivatives={name: formulas[name] for name in spec["operators"]},
            inputs=tuple(subject.names),
            constants=tuple(subject.names[subject.differentiated :]),
            dtype=spec["dtype"],
        )
    )
    if spec["structured"]:
        structured.register(NAME, structures(subject))
    return subject

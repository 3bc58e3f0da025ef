"""A user's function as one of the suite's own, its reference derivative from evidence."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from gradbench import registry
from gradbench.advise.expressions import evaluate
from gradbench.catalogue.function import Formula, Function, Tensors
from gradbench.modes.mode import Call, Unsupported
from gradbench.operators import Problem

NAME = "yours"
"""The name under which the user's function takes part in its run."""


def resolve(target: str) -> Any:
    """The object that ``module:name`` or ``file.py:name`` names. Raises ValueError where there
    is none, and whatever importing the module raises."""
    place, colon, name = target.rpartition(":")
    if not (colon and place and name):
        raise ValueError(f"{target!r} is not of the form module:function or file.py:function")
    sys.path.insert(0, os.getcwd())
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location("gradbench_subject", place)
        if spec is None or spec.loader is None or not os.path.exists(place):
            raise ValueError(f"there is no file {place}")
        module = importlib.util.module_from_spec(spec)
        sys.modules["gradbench_subject"] = module
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{place} has no {part!r}")
        found = getattr(found, part)
    return found


class Subject:
    """The function with its inputs: differentiated ones first, then the other tensors.

    A module is differentiated by its parameters unless `wrt` names inputs. Outputs that are
    pytrees are flattened into one vector. Raises ValueError where an input cannot be used.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.target = resolve(spec["target"])
        if not callable(self.target):
            raise ValueError(f"{spec['target']} is a {type(self.target).__name__}, no function")
        torch.manual_seed(spec["seed"])
        kind = getattr(torch, spec["dtype"])
        given = {name: evaluate(text) for name, text in spec["inputs"]}
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
                raise ValueError(f"--wrt {name}: there is no floating-point input of that name")
        if not wrt:
            raise ValueError("there is no floating-point input to differentiate by")
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
            self.by_name = all(name in known for name in self.order)
        except (TypeError, ValueError):
            self.by_name = False

    def forward(self, *inputs: Tensor) -> Tensor:
        """The function's value as one tensor."""
        bound = dict(zip(self.names, inputs)) | self.plain
        args = () if self.by_name else tuple(bound[name] for name in self.order)
        named = {name: bound[name] for name in self.order} if self.by_name else {}
        if self.parameters:
            parameters = {name: bound[name] for name in self.parameters}
            value = torch.func.functional_call(self.target, parameters, args, named)
        else:
            value = self.target(*args, **named)
        if isinstance(value, Tensor):
            return value
        leaves = [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor)]
        if not leaves:
            raise TypeError(f"it returns a {type(value).__name__} without any tensor in it")
        return torch.cat([leaf.reshape(-1) for leaf in leaves])

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
            found: list[list[Tensor]] = [[] for _ in wrt]
            for i in range(y.numel()):
                grads: Any = [None] * len(wrt)
                if y.requires_grad:
                    grads = torch.autograd.grad(
                        y.reshape(-1)[i], wrt, retain_graph=True, allow_unused=True
                    )
                for column, g, x in zip(found, grads, wrt):
                    column.append((torch.zeros_like(x) if g is None else g).reshape(-1))
        blocks = tuple(torch.stack(c).detach() for c in found)
        return y.detach(), blocks


def _formulas(subject: Subject) -> dict[str, Formula]:
    n = subject.differentiated

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

    def hessian(*inputs: Tensor) -> Tensors:
        with torch.enable_grad():
            found = torch.autograd.functional.hessian(
                lambda *wrt: subject.forward(*wrt, *inputs[n:]), inputs[:n]
            )
        return tuple(block for row in found for block in row)

    return {
        "gradient": jacobian,
        "jacobian": jacobian,
        "diagonal": diagonal,
        "batch_jacobian": batch_jacobian,
        "vjp": vjp,
        "jvp": jvp,
        "hessian": hessian,
    }


def _compressed(spec: dict[str, Any], rows: bool) -> Callable[[Problem], Call]:
    """The builder of a mode that pulls back (pushes) one seed per colour of the pattern."""
    found = spec["structure"]
    i, j = (torch.tensor(found[key], dtype=torch.int64) for key in ("i", "j"))
    colours = torch.tensor(found["row_colours" if rows else "column_colours"], dtype=torch.int64)
    count = int(colours.max()) + 1 if len(colours) else 0

    def build(problem: Problem) -> Call:
        if problem.differentiated != 1 or not count:
            raise Unsupported("compression is made for one differentiated input")
        f, shape = problem.forward, problem.result[0]
        seeds = torch.nn.functional.one_hot(colours, count).T.to(problem.device, problem.dtype)
        at, into = (i, j) if rows else (j, i)
        at, into = at.to(problem.device), into.to(problem.device)
        place = (i * problem.coordinates + j).to(problem.device)
        colour = colours.to(problem.device)[at]

        def spread(short: Tensor) -> Tensor:
            dense = short.new_zeros(problem.outputs * problem.coordinates)
            dense[place] = short[colour, into]
            return dense.reshape(shape)

        def pull(inputs: Tensors) -> Tensor:
            y = f(*inputs)
            parts = [
                torch.autograd.grad(y, inputs[0], seed.reshape(y.shape), retain_graph=True)[0]
                for seed in seeds
            ]
            return spread(torch.stack(parts).reshape(count, -1))

        def push(inputs: Tensors) -> Tensor:
            x, rest = inputs[0], inputs[1:]
            parts = [
                torch.func.jvp(lambda x: f(x, *rest), (x,), (seed.reshape(x.shape),))[1]
                for seed in seeds
            ]
            return spread(torch.stack(parts).reshape(count, -1))

        return pull if rows else push

    return build


def register(spec: dict[str, Any]) -> Subject:
    """Makes the user's function, and the modes that use its structure, part of the registry."""
    subject = Subject(spec)
    formulas = _formulas(subject)
    registry.function(
        Function(
            name=NAME,
            document="U",
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
    if spec.get("structure"):
        pull, push = _compressed(spec, True), _compressed(spec, False)
        pull.__doc__ = "one pulled-back seed per colour of the jacobian's rows, then spread"
        push.__doc__ = "one pushed tangent per colour of the jacobian's columns, then spread"
        registry.mode("jacobian", name="compressed_rows", leaves=True)(pull)
        registry.mode("jacobian", name="compressed_columns", needs=("torch.func.jvp",))(push)
    return subject



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
from gradbench.core.code import literal
from gradbench.core.suggest import hint
from gradbench.modes import structured
from gradbench.problems import registry
from gradbench.problems.function import Formula, Function, Tensors
from gradbench.problems.mode import Call
from gradbench.problems.operators import Problem
from gradbench.problems.structure import POINTS, Structure, detect, products
from gradbench.worker.expressions import evaluate

AGREEMENT = 1e-9
"""How far a structured derivative's product may be from the pullback, in float64, relative to its
largest number."""

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
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise Unusable(f"{place} has no {part!r}")
        found = getattr(found, part)
    return found


def made(maker: str, target: Any) -> dict[str, Any]:
    """The inputs by name that ``module:function`` returns: a dict, or a tuple in the order of the
    target's arguments. Raises Unusable where it returns neither, and what it raises itself."""
    given = resolve(maker)()
    if isinstance(given, dict) and all(isinstance(name, str) for name in given):
        return given
    if isinstance(given, (tuple, list)):
        return dict(zip(argument_names(target, len(given)), given))
    if isinstance(given, Tensor):
        return dict(zip(argument_names(target, 1), [given]))
    raise Unusable(
        f"--inputs {maker}: it returns a {type(given).__name__}, not a dict of inputs by name or a "
        "tuple of them"
    )


def _require_arguments(target: Any, given: Iterable[str]) -> None:
    """Raises Unusable for an input by a name that no argument of the target has."""
    called = target.forward if isinstance(target, torch.nn.Module) else target
    try:
        arguments = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):
        # Functions written in C do not tell their arguments' names: order decides.
        return
    if any(one.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD) for one in arguments):
        return
    names = [one.name for one in arguments]
    for name in given:
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
        target, given, ways = pickle.loads(content)
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise Unusable(
            f"it cannot be sent to the measuring process: {type(error).__name__}: {line}"
        ) from error
    return target, given, ways


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
            self.target, given, self.ways = passed(spec["passed"])
        else:
            self.target = resolve(spec["target"])
            torch.manual_seed(spec["seed"])
            try:
                given = {name: evaluate(text) for name, text in spec["inputs"]}
            except ValueError as error:
                raise Unusable(f"--input: {error}") from error
            if spec["maker"]:
                more = made(spec["maker"], self.target)
                for name in given:
                    if name in more:
                        raise Unusable(f"--input {name}: --inputs {spec['maker']} returns it too")
                given |= more
            _require_arguments(self.target, given)
        for also in spec["also"]:
            name = also.rpartition(":")[2].rpartition(".")[2]
            if name in self.ways:
                raise Unusable(f"--also {also}: there are two of the name {name}")
            self.ways[name] = resolve(also)
            if not callable(self.ways[name]):
                raise Unusable(f"--also {also}: it is a {type(self.ways[name]).__name__}")
        if not callable(self.target):
            raise Unusable(f"{spec['target']} is a {type(self.target).__name__}, no function")
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        self.plain = {name: value for name, value in given.items() if name not in tensors}
        self.order = list(given)
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

    def form(self, target: str, pattern: str) -> dict[str, Any]:
        """What `gradbench.core.code` needs to write the function down.

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

    def pullback(self, seed: Tensor, *inputs: Tensor) -> Tensors:
        """The seed, of the value's shape, times the jacobian, by one pass in reverse mode."""
        with torch.enable_grad():
            wrt = tuple(x.detach().clone().requires_grad_() for x in inputs[: self.differentiated])
            y = self.forward(*wrt, *inputs[self.differentiated :])
            if not y.requires_grad:
                return tuple(torch.zeros_like(x) for x in wrt)
            pulled = torch.autograd.grad(y, wrt, seed, allow_unused=True)
        return _filled(pulled, wrt)

    def _gradients(self, *inputs: Tensor) -> tuple[Tensors, Tensors]:
        """Leaves, and the gradient of a scalar value with its graph."""
        wrt = tuple(x.detach().clone().requires_grad_() for x in inputs[: self.differentiated])
        y = self.forward(*wrt, *inputs[self.differentiated :])
        return wrt, _filled(torch.autograd.grad(y, wrt, create_graph=True, allow_unused=True), wrt)

    def hessian_product(self, tangents: Tensors, *inputs: Tensor) -> Tensors:
        """The hessian of a scalar value times the tangents, by reverse mode twice."""
        with torch.enable_grad():
            wrt, grads = self._gradients(*inputs)
            pairs = [(g, t) for g, t in zip(grads, tangents) if g.requires_grad]
            if not pairs:
                return tuple(torch.zeros_like(x) for x in wrt)
            first, seeds = zip(*pairs)
            return _filled(torch.autograd.grad(first, wrt, seeds, allow_unused=True), wrt)

    def hessian(self, *inputs: Tensor) -> Tensors:
        """The blocks of a scalar value's hessian, row by row, of shape (x.shape + z.shape)."""
        blocks: list[Tensor] = []
        with torch.enable_grad():
            wrt, grads = self._gradients(*inputs)
            for g in grads:
                if not g.requires_grad:
                    blocks += (g.new_zeros(g.shape + x.shape) for x in wrt)
                    continue
                seeds = torch.eye(g.numel(), dtype=g.dtype).reshape(-1, *g.shape)
                rows = [
                    _filled(
                        torch.autograd.grad(g, wrt, seed, retain_graph=True, allow_unused=True), wrt
                    )
                    for seed in seeds
                ]
                blocks += (
                    torch.stack(c).reshape(g.shape + x.shape) for c, x in zip(zip(*rows), wrt)
                )
        return tuple(b.detach() for b in blocks)

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


def _filled(found: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensors:
    """Zeros where nothing was found, and no graph unless it is wanted."""
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(found, like))


def _agrees(product: Tensors, wanted: Tensors) -> bool:
    """Whether a structure explains what a random seed pulls back."""
    return all(
        bool(((p - w).abs() <= AGREEMENT * w.abs().max()).all()) for p, w in zip(product, wanted)
    )


def _formulas(subject: Subject) -> dict[str, Formula]:
    def jacobian(*inputs: Tensor) -> Tensors:
        y, blocks = subject.rows(*inputs)
        return tuple(b.reshape(y.shape + x.shape) for b, x in zip(blocks, inputs))

    # The next two take few passes where a random seed shows that the structure holds here too.
    def diagonal(*inputs: Tensor) -> Tensors:
        y = subject.forward(*inputs)
        found = subject.pullback(torch.ones_like(y), *inputs)
        v = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)
        if _agrees(tuple(d * v for d in found), subject.pullback(v, *inputs)):
            return found
        return tuple(
            b.diagonal().reshape(x.shape) for b, x in zip(subject.rows(*inputs)[1], inputs)
        )

    def batch_jacobian(*inputs: Tensor) -> Tensors:
        y = subject.forward(*inputs)
        samples = y[0].numel()
        seeds = torch.eye(samples, dtype=y.dtype).reshape(samples, 1, *y.shape[1:])
        rows = [subject.pullback(seed.expand_as(y), *inputs) for seed in seeds]
        found = tuple(torch.stack(c, 1).reshape(y.shape + c[0].shape[1:]) for c in zip(*rows))
        v = torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=y.dtype)
        seeded = v.reshape(len(y), samples, 1)
        product = tuple(
            (b.reshape(len(y), samples, -1) * seeded).sum(1).reshape(x.shape)
            for b, x in zip(found, inputs)
        )
        if _agrees(product, subject.pullback(v, *inputs)):
            return found
        y, blocks = subject.rows(*inputs)
        dense = (b.reshape(y.shape + x.shape) for b, x in zip(blocks, inputs))
        return tuple(d.diagonal(0, 0, y.dim()).movedim(-1, 0) for d in dense)

    def vjp(v: Tensor, *inputs: Tensor) -> Tensors:
        return subject.pullback(v, *inputs)

    def hvp(t: Tensors, *inputs: Tensor) -> Tensors:
        return subject.hessian_product(t, *inputs)

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
        "hessian": subject.hessian,
        "hvp": hvp,
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


def per_sample(subject: Subject) -> str:
    """The evidence that output i depends on row i of the constants alone, and the differentiated
    inputs are shared; empty where it does not, or where there are no rows."""
    y = subject.forward(*subject.values)
    n = subject.differentiated
    if y.dim() == 0 or len(y) < 2:
        return ""
    rows = [x.dim() > 0 and len(x) == len(y) for x in subject.values[n:]]
    if not any(rows):
        return ""
    places = sorted({0, len(y) // 2, len(y) - 1})
    for seed in range(POINTS):
        inputs = subject.draw(None, torch.Generator().manual_seed(seed))
        whole = subject.forward(*inputs)
        for i in places:
            one = [x[i : i + 1] if row else x for x, row in zip(inputs[n:], rows)]
            try:
                alone = subject.forward(*inputs[:n], *one)
            except Exception:
                return ""
            if alone.shape != whole[i : i + 1].shape or not torch.allclose(
                alone, whole[i : i + 1], rtol=AGREEMENT, atol=AGREEMENT * float(whole.abs().max())
            ):
                return ""
    names = ", ".join(name for name, row in zip(subject.names[n:], rows) if row)
    return (
        f"per sample: outputs {', '.join(map(str, places))} came out the same from their own rows "
        f"of {names} alone, at {POINTS} random points"
    )


def _own(operators: Sequence[str], name: str, way: Callable[..., Any], subject: Subject) -> None:
    """Registers a derivative of the user's own as a mode."""

    def build(problem: Problem) -> Call:
        def call(inputs: Tensors, *seed: Any) -> Any:
            found = subject.called(way, inputs, *seed)
            return tuple(found.values()) if isinstance(found, dict) else found

        return call

    build.__doc__ = "the derivative that was given to be measured beside"
    registry.mode(*operators, name=name)(build)


def register(spec: dict[str, Any]) -> Subject:
    """Makes the user's function, and the modes that use its structure, part of the registry."""
    subject = Subject(spec)
    formulas = _formulas(subject)
    registry.function(
        Function(
            name=YOURS,
            document="",
            formula=spec["target"],
            derivative="float64 reverse mode, held against finite differences",
            forward=subject.forward,
            example=lambda: subject.values,
            example_size={},
            draw=subject.draw,
            derivatives={name: promoted(formulas[name]) for name in spec["operators"]},
            exact=promoted(subject.forward),
            inputs=tuple(subject.names),
            constants=tuple(subject.names[subject.differentiated :]),
            dtype=spec["dtype"],
        )
    )
    if spec["structured"] and "jacobian" in spec["operators"]:
        found = [Structure(**kept) for kept in torch.load(spec["pattern"], weights_only=True)]
        structured.register(YOURS, found, suffix="")
    if spec["per_sample"] and "jacobian" in spec["operators"]:
        structured.register_samples()
    for name, way in subject.ways.items():
        _own(spec["operators"], name, way, subject)
    return subject

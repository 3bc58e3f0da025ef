"""Why a user's derivative is not what differences say, and hints that save a day."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradbench.problems.dispatch import tensors_in
from gradbench.worker.loading import SENT
from gradbench.worker.reference import nodes
from gradbench.worker.subject import Subject

MEANT = "if that is meant, --definition=autograd takes autograd's derivative as the definition"
HIDING = "detach, no_grad, .item(), .data, numpy"

SPECTRAL = (
    "spectral norm in training mode takes a step of its power iteration in each call, which "
    "autograd leaves out: the derivative is the one that training uses, and exact only once the "
    "iteration has converged; .eval() keeps its vectors as they are"
)

_OURS = (
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
    os.path.dirname(os.path.abspath(torch.__file__)) + os.sep,
)


class Detaching(TorchFunctionMode):
    """Records where a function takes tensors out of the graph while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []
        """Such as ``detach at model.py:12``."""
        self._watched = {
            torch.Tensor.detach: "detach",
            torch.Tensor.detach_: "detach_",
            torch.Tensor.item: ".item()",
            torch.Tensor.tolist: ".tolist()",
            torch.Tensor.numpy: ".numpy()",
            torch.Tensor.__array__: "numpy",
            torch.Tensor.__float__: "float()",
        }
        self._data: Any = torch.Tensor.data.__get__  # type: ignore[attr-defined]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        said = ""
        if func is torch._C._set_grad_enabled:
            said = "no_grad" if args and args[0] is False and torch.is_grad_enabled() else ""
        elif args and isinstance(args[0], Tensor) and args[0].requires_grad:
            said = self._watched.get(func, ".data" if func == self._data else "")
        if said:
            self._note(said)
        result = func(*args, **(kwargs or {}))
        if not said and (said := _without_derivative(func, (args, kwargs), result)):
            self._note(said)
        return result

    def _note(self, said: str) -> None:
        if place := _users_line():
            self.places.append(f"{said} at {place}")


FRESH = re.compile(r"new_\w+|\w+_like|__\w+__|data|grad_fn")
"""The names of what takes nothing but the shape and the dtype of a tensor."""


def _without_derivative(func: Any, arguments: Any, result: Any) -> str:
    """The name of an operation that returns numbers without a graph for tensors with one, such as
    a special function without a derivative; empty for any other."""
    name: str = getattr(func, "__name__", "")
    if not torch.is_grad_enabled() or FRESH.fullmatch(name):
        return ""
    numbers = [x for x in tensors_in(result) if x.is_floating_point()]
    cut = numbers and not any(x.requires_grad for x in numbers)
    return name if cut and any(x.requires_grad for x in tensors_in(arguments)) else ""


_SWITCHES = ("grad_mode.py", "_contextlib.py", "overrides.py", "_tensor.py")
"""Files of torch that switch grad mode for others."""


def _users_line() -> str:
    """The innermost line on the stack that is neither torch's nor ours; before it the function of
    torch's that it calls, if that is where a tensor leaves the graph."""
    frame, inside = sys._getframe(1), ""
    while frame is not None:
        name = frame.f_code.co_filename
        if not name.startswith((*_OURS, "<frozen")) and "contextlib" not in name:
            place = f"{Path(name).name}:{frame.f_lineno}"
            place = f"line {frame.f_lineno}" if name == SENT else place
            return f"{place} (in {inside} of torch)" if inside else place
        if name.startswith(_OURS[1]) and not name.endswith(_SWITCHES):
            owner = frame.f_locals.get("self")
            kind = "" if owner is None else f"{type(owner).__name__}."
            inside = inside or f"{kind}{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def _traced(subject: Subject, inputs: Sequence[Tensor]) -> tuple[Tensor, list[str]]:
    """The value with its graph, and where tensors leave it."""
    n = subject.differentiated
    leaves = [x.detach().clone().requires_grad_() for x in inputs[:n]]
    y = torch.zeros(())
    # What has forward mode alone may raise where inputs require grad.
    raised = [Exception] if subject.manner.forward_only else []
    with contextlib.suppress(*raised), torch.enable_grad(), Detaching() as detaching:
        y = subject.forward(*leaves, *inputs[n:])
    return y, list(dict.fromkeys(detaching.places))


def _custom(y: Tensor) -> list[str]:
    """The names of the user's own autograd functions in a graph."""
    classes = [getattr(node, "_forward_cls", None) for node in nodes(y)]
    own = [c for c in classes if c is not None and not c.__module__.startswith("torch.")]
    return list(dict.fromkeys(c.__name__ for c in own))


def cause(
    subject: Subject, inputs: Sequence[Tensor], got: float, wanted: float, error: float
) -> str:
    """The likely reason why autograd gives `got` where differences give `wanted` ± `error`."""
    y, places = _traced(subject, inputs)
    custom = _custom(y)
    reasons = []
    if any("SpectralNorm." in place for place in places):
        return f"{SPECTRAL}; {MEANT}"
    if places:
        more = f" (and {len(places) - 3} more)" if len(places) > 3 else ""
        places_said = ", ".join(places[:3]) + more
        hide = "hides" if len(places) == 1 else "hide"
        reasons.append(f"{places_said} {hide} a part of it from autograd")
        if any(place.startswith("grad at ") for place in places):
            reasons[-1] += " (torch.autograd.grad does without create_graph=True)"
    if custom and (got != 0 or not places):
        reasons.append(f"a backward formula is wrong (see {', '.join(custom[:3])})")
    if got == 0 and not places:
        reasons.append(f"something is detached inside ({HIDING})")
    if not reasons:
        reasons.append(f"a backward formula is wrong, or a part is detached ({HIDING})")
    if got != 0 and abs(wanted) <= error:
        reasons.append("the value moves in steps, as with a straight-through estimator")
    return f"{', or '.join(reasons)}; {MEANT}"


def not_finite(subject: Subject, inputs: Sequence[Tensor], number: int, pulled: Tensor) -> str:
    """What is wrong where the value is finite, but the derivative by an input is not."""
    bad = ~torch.isfinite(pulled)
    flat = int(bad.reshape(-1).nonzero()[0])
    value = float(pulled.reshape(-1)[flat])
    said = (
        f"its value is finite, but its derivative by {subject.names[number]} is NaN or infinite in "
        f"{int(bad.sum())} of {pulled.numel()} entries at this input ({value:g} in entry {flat})"
    )
    y, _ = _traced(subject, inputs)
    names = {type(node).__name__ for node in nodes(y)}
    culprit, infinite = _first_not_finite(y)
    if culprit:
        said += f", first in {culprit}" + ", whose slope is infinite there" * infinite
    if not infinite and any(name.startswith(("WhereBackward", "MaskedFill")) for name in names):
        said += (
            ": torch.where passes a derivative of 0 to the branch that it does not take, and 0 · "
            "inf is NaN. Make the argument safe first, then choose: "
            "torch.where(ok, f(torch.where(ok, x, 1.0)), other)"
        )
    return said


def _first_not_finite(y: Tensor) -> tuple[str, bool]:
    """The backward function, such as SqrtBackward0, that is the first to make NaN or infinity of
    finite numbers when ones are pulled back from a value with a graph, and whether it is infinity;
    empty where none is found."""
    found: list[tuple[str, bool]] = []

    def watch(node: Any) -> Callable[..., None]:
        def hook(after: Sequence[Tensor | None], before: Sequence[Tensor | None]) -> None:
            if not found and _all_finite(before) and not _all_finite(after):
                nan = any(bool(x.isnan().any()) for x in after if x is not None)
                found.append((type(node).__name__, not nan))

        return hook

    graph = list(nodes(y))
    watched = [node.register_hook(watch(node)) for node in graph]
    leaves = [node.variable for node in graph if hasattr(node, "variable")]
    with contextlib.suppress(RuntimeError):
        torch.autograd.grad(y, leaves, torch.ones_like(y))
    for handle in watched:
        handle.remove()
    return found[0] if found else ("", False)


def _all_finite(tensors: Sequence[Tensor | None]) -> bool:
    return all(bool(x.isfinite().all()) for x in tensors if x is not None)


def gather(
    subject: Subject, inputs: tuple[Tensor, ...], y: Tensor, derivatives: Sequence[Tensor]
) -> list[str]:
    """Hints on a function at inputs, where its value is `y`; `derivatives` are what is known of its
    derivative."""
    hints = [*_subnormal(subject.dtype, "values", [y])]
    hints += _subnormal(subject.dtype, "derivatives", derivatives)
    if y.dim():
        hints += _without_batching(subject, inputs, y)
    if _compiled(subject.target):
        hints.append(
            "it is compiled (torch.compile): what is measured is the compiled function where "
            "autograd runs it, and what torch.func makes of it; compiling itself is not timed"
        )
    return hints


def _subnormal(dtype: torch.dtype, what: str, tensors: Sequence[Tensor]) -> list[str]:
    tiny = torch.finfo(dtype).tiny
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    total = sum(t.numel() for t in tensors)
    sizes = [t.detach().abs() for t in tensors]
    small = sum(int(((s > 0) & (s < tiny) & (s >= least / 2)).sum()) for s in sizes)
    lost = sum(int(((s > 0) & (s < least / 2)).sum()) for s in sizes)
    name = str(dtype).removeprefix("torch.")
    hints = []
    if small:
        hints.append(
            f"{small} of {total} {what} are subnormal in {name} (below {tiny:.2g}): they lose "
            "digits, and processors may be slow on them (torch.set_flush_denormal(True), or scale)"
        )
    if lost:
        hints.append(f"{lost} of {total} {what} underflow to zero in {name}")
    return hints


def _without_batching(subject: Subject, inputs: tuple[Tensor, ...], y: Tensor) -> list[str]:
    """The operations for which vmap falls back to a loop."""
    n = subject.differentiated

    def of_wrt(*wrt: Tensor) -> Tensor:
        return subject.forward(*wrt, *inputs[n:])

    seeds = torch.stack([torch.ones_like(y), torch.zeros_like(y)])
    tangents = tuple(torch.stack([torch.ones_like(x), torch.zeros_like(x)]) for x in inputs[:n])
    reverse = torch.func.vmap(lambda seed: torch.func.vjp(of_wrt, *inputs[:n])[1](seed))
    forward = torch.func.vmap(lambda *t: torch.func.jvp(of_wrt, inputs[:n], t)[1])
    found: dict[str, None] = {}
    for call, arguments in ((reverse, (seeds,)), (forward, tangents)):
        found |= dict.fromkeys(_fallbacks(call, arguments))
    if not found:
        return []
    return [
        f"torch has no batching rule for {', '.join(found)}: under vmap (jacrev, jacfwd, "
        "is_grads_batched) it runs one by one"
    ]


def _fallbacks(call: Callable[..., Any], arguments: tuple[Tensor, ...]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            call(*arguments)
        except Exception:
            return []
    said = [re.search(r"batching rule for ([\w:.]+)", str(w.message)) for w in caught]
    return [match[1].rstrip(".") for match in said if match]


def _compiled(target: Any) -> bool:
    wraps = "_torchdynamo_orig_callable"
    return hasattr(target, wraps) or hasattr(getattr(target, "forward", None), wraps)

"""Advice on a function of the caller's process, where torch is already there: `gradbench.compare`.

Everything is measured in workers still.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gradbench.advise import OPERATORS
from gradbench.advise.advice import Question, Refusal, advise
from gradbench.advise.answer import Advice
from gradbench.core import arguments
from gradbench.store.lines import new_id


def compare(
    function: Callable[..., Any],
    *inputs: Any,
    wrt: str | Sequence[str] = (),
    operator: str = "",
    dtype: str = "",
    budget: float = 30.0,
    timeout: float = 60.0,
    memory_limit: int = 4 << 30,
    seed: int = 0,
    also: Callable[..., Any] | Sequence[Callable[..., Any]] = (),
    results: str | Path = "results",
) -> Advice:
    """Measures every way of differentiating `function` at `inputs` and finds the fastest.

    cloudpickle sends the function to separate processes, so it can be a closure, a lambda, a
    notebook cell or a module, and a crash or a hang does not affect the caller. `inputs` are plain
    values and tensors in the function's order, all on the device to measure on. `wrt` names the
    inputs to differentiate by; the default is every floating-point input, or a module's
    parameters. `dtype` defaults to that of the first floating-point input. `also` are derivatives
    of your own to measure too: they take the function's arguments and return a tensor for each
    differentiated input. `budget` and `timeout` are in seconds, `memory_limit` in bytes: see
    `gradbench advise`. The run is stored in the folder `results`.

    Raises Refusal with one line if gradbench cannot advise on the function, StoreError if the run
    cannot be stored, WorkerError if no process can be started.
    """
    import cloudpickle
    import torch

    place = arguments.folder("results", results)
    if not callable(function):
        raise TypeError(f"function should be callable, not a {type(function).__name__}")
    arguments.number("budget", budget, 0, 1e7, low_open=True)
    arguments.number("timeout", timeout, 0, 1e7, low_open=True)
    arguments.number("memory_limit", memory_limit, 1, 2.0**60)
    arguments.number("seed", seed, 0, 2**32 - 1)
    if operator:
        arguments.choice("operator", operator, OPERATORS)
    wrt = (arguments.texts("wrt", wrt) or ()) if wrt else ()
    if callable(also):
        also = (also,)

    tensors = [x for x in inputs if isinstance(x, torch.Tensor)]
    if isinstance(function, torch.nn.Module):
        tensors += function.parameters()
    devices = {str(x.device) for x in tensors}
    if len(devices) > 1:
        raise Refusal(f"the inputs are on several devices: {', '.join(sorted(devices))}")
    device = devices.pop() if devices else "cpu"
    if not dtype:
        kinds = [str(x.dtype) for x in tensors if x.is_floating_point()]
        dtype = kinds[0].removeprefix("torch.") if kinds else "float32"
    names = arguments.argument_names(function, len(inputs))
    values = {
        name: x.detach().cpu() if isinstance(x, torch.Tensor) else x
        for name, x in zip(names, inputs)
    }
    try:
        ways: dict[str, Callable[..., Any]] = {}
        for number, way in enumerate(also):
            name = getattr(way, "__name__", "own")
            ways[f"{name}_{number}" if name in ways else name] = way
        content = cloudpickle.dumps((function, values, ways))
    except Exception as error:
        raise Refusal(
            f"it cannot be sent to the measuring process: {' '.join(str(error).split())[:200]}"
        ) from error
    kept = place.resolve() / "advise"
    kept.mkdir(parents=True, exist_ok=True)
    path = kept / f"passed_{new_id()}.pickle"
    path.write_bytes(pickle.dumps((sys.path, content)))
    question = Question(
        _target(function),
        (),
        wrt,
        operator,
        dtype,
        budget,
        timeout,
        memory_limit,
        seed,
        str(path),
        device=device,
    )
    return advise(question, place, lambda progress: None, [])


def _target(function: Callable[..., Any]) -> str:
    """The function as ``module:name`` where it can be imported, else ``:name``."""
    name = getattr(function, "__qualname__", type(function).__name__)
    module = getattr(function, "__module__", "") or ""
    member: Any = sys.modules.get(module)
    for part in name.split("."):
        member = getattr(member, part, None)
    return f"{module}:{name}" if member is function and module != "__main__" else f":{name}"

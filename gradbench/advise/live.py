"""Advice on a function of the caller's process, where torch is already there: `gradbench.compare`.

Everything is measured in workers still.
"""

from __future__ import annotations

import dataclasses
import pickle
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradbench.advise import DEFINITIONS
from gradbench.advise.advice import Question, Refusal, advise
from gradbench.advise.answer import Advice
from gradbench.core import arguments
from gradbench.core.cases import MOST_THREADS
from gradbench.core.operators import ADVISED
from gradbench.core.source import UNNAMED, with_lambda
from gradbench.runner.progress import Report
from gradbench.runner.showing import require_report, showing
from gradbench.store.lines import new_id


def compare(
    function: Callable[..., Any],
    *inputs: Any,
    wrt: str | Sequence[str] = (),
    operator: str = "",
    definition: str = "differences",
    dtype: str = "",
    budget: float = 30.0,
    timeout: float = 60.0,
    memory_limit: int = 4 << 30,
    seed: int = 0,
    threads: int = 1,
    progress: bool | Report | None = None,
    also: Callable[..., Any] | Sequence[Callable[..., Any]] = (),
    results: str | Path = "results",
    **named: Any,
) -> Advice:
    """Measures every way of differentiating `function` at `inputs` and finds the fastest.

    cloudpickle sends the function to separate processes, so it can be a closure, a lambda, a
    notebook cell or a module, and a crash or a hang does not affect the caller. `inputs` are in the
    function's order, `named` by the names of its arguments: tensors, all on the device to measure
    on, modules, dicts, lists and dataclasses of tensors, and plain values. `wrt` names what to
    differentiate by: an input, or a tensor in one, such as "net", "weights.a"; the default is the
    parameters where there are any (modules, or tensors in dicts and the like), else every
    floating-point input. `dtype` defaults to that of the first floating-point input. `also` are
    derivatives of your own to measure too: they take the function's arguments and return a tensor
    for each differentiated input. `definition` "autograd" takes autograd's derivative as it is,
    where it differs from finite differences on purpose. `budget` and `timeout` are in seconds,
    `memory_limit` in bytes, `threads` those that torch may use: see `gradbench advise`. `progress`
    is a function that is called with each step, or whether progress is shown: as a bar on a
    terminal and in a notebook, as lines on standard error elsewhere. By default it is where there
    is a bar. The run is stored in the folder `results`.

    Raises Refusal with one line if gradbench cannot advise on the function, StoreError if the run
    cannot be stored, WorkerError if no process can be started. Ctrl-C raises a KeyboardInterrupt
    whose `advice` has what was known by then, if anything was.
    """
    place = arguments.folder("results", results)
    require_report(progress)
    ways: dict[str, Callable[..., Any]] = {}
    for number, way in enumerate(arguments.callables("also", also)):
        name = getattr(way, "__name__", "own")
        ways[f"{name}_{number}" if name in ways else name] = way
    question, content = asked(
        function,
        inputs,
        named,
        ways,
        wrt=wrt,
        operator=operator,
        definition=definition,
        dtype=dtype,
        budget=budget,
        timeout=timeout,
        memory_limit=memory_limit,
        seed=seed,
        threads=threads,
    )
    with showing("advising", progress) as report:
        advice = answered(question, content, place, report)
    code = advice.found["code"]
    code |= {mode: with_lambda(text, function) for mode, text in code.items()}
    return advice


def asked(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    named: dict[str, Any],
    ways: Mapping[str, Callable[..., Any]],
    *,
    wrt: str | Sequence[str] = (),
    operator: str = "",
    definition: str = "differences",
    dtype: Any = "",
    budget: float = 30.0,
    timeout: float = 60.0,
    memory_limit: int = 4 << 30,
    seed: int = 0,
    threads: int = 1,
    modes: Sequence[str] = (),
) -> tuple[Question, bytes]:
    """A question on a function of the caller's, and the content of the file that hands it over.

    The arguments are those of `compare`, `ways` the derivatives of the caller's own by name, and
    `modes` globs of the modes to measure beside them and the usual choice; none are all. Raises
    Refusal, TypeError and ValueError for arguments that cannot be used.
    """
    import torch

    if not callable(function):
        raise TypeError(f"function should be callable, not {arguments.kind_of(function)}")
    arguments.number("budget", budget, 0, 1e7, low_open=True)
    arguments.number("timeout", timeout, 0, 1e7, low_open=True)
    arguments.number("memory_limit", memory_limit, 1, 2.0**60)
    arguments.number("seed", seed, 0, 2**32 - 1)
    arguments.number("threads", threads, 1, MOST_THREADS)
    if operator := arguments.optional("operator", operator):
        arguments.choice("operator", operator, ADVISED)
    arguments.choice("definition", definition, DEFINITIONS)
    wrt, modes = arguments.several("wrt", wrt), arguments.several("modes", modes)

    given = _by_name(function, inputs, named)
    tensors = [x for value in given.values() for x in _tensors(value)]
    tensors += _tensors(getattr(function, "__self__", function))
    devices = {str(x.device) for x in tensors}
    if len(devices) > 1:
        raise Refusal(f"the inputs are on several devices: {', '.join(sorted(devices))}")
    device = devices.pop() if devices else "cpu"
    if dtype is None or (isinstance(dtype, str) and not dtype):
        kinds = [x.dtype for x in tensors if x.is_floating_point()]
        dtype = kinds[0] if kinds else torch.float32
    dtype = arguments.dtype("dtype", dtype)
    try:
        default = str(torch.get_default_dtype()).removeprefix("torch.")
        content = _pickled((function, given, dict(ways)))
    except Exception as error:
        raise Refusal(
            f"it cannot be sent to the measuring process: {' '.join(str(error).split())[:200]}"
        ) from error
    question = Question(
        _target(function),
        (),
        tuple(wrt),
        operator,
        dtype,
        budget,
        timeout,
        memory_limit,
        seed,
        definition=definition,
        device=device,
        threads=threads,
        sizes=tuple((name, _numbers(value)) for name, value in given.items()),
        modes=tuple(modes),
    )
    return question, pickle.dumps((sys.path, default, content))


def answered(question: Question, content: bytes, results: Path, report: Report) -> Advice:
    """The advice on a question of `asked`; the run is stored in `results`. Raises as `compare`."""
    kept = results.resolve() / "advise"
    kept.mkdir(parents=True, exist_ok=True)
    path = kept / f"passed_{new_id()}.pickle"
    path.write_bytes(content)
    try:
        return advise(dataclasses.replace(question, passed=str(path)), results, report, [])
    except Refusal as error:
        raise Refusal(arguments.of_options(str(error))) from error


def _by_name(
    function: Callable[..., Any], inputs: Sequence[Any], named: dict[str, Any]
) -> dict[str, Any]:
    """All inputs by name, in the function's order, in which the caller's own derivatives get them.

    Raises Refusal where the function does not take them.
    """
    known = arguments.signature(function)
    names = arguments.argument_names(function, len(inputs))
    if known is not None and not known.any_position:
        most = len(known.positional_only + known.either)
        if len(inputs) > most:
            raise Refusal(f"it takes {most} inputs by position, and {len(inputs)} are given")
    for name in named:
        if name in names:
            raise Refusal(f"its argument {name!r} is given by position and by name")
    given = dict(zip(names, inputs)) | named
    if known is None:
        return given
    if refusal := known.refusal(list(given)):
        raise Refusal(refusal)
    place = {name: number for number, name in enumerate(known.names)}
    return dict(sorted(given.items(), key=lambda item: place.get(item[0], len(place))))


def _tensors(value: Any) -> list[Any]:
    """The tensors in a value: of a dict, list or dataclass, and a module's parameters."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, torch.nn.Module):
        return list(value.parameters())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = vars(value)
    parts = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list, tuple)):
        return []
    return [x for part in parts for x in _tensors(part)]


def _numbers(value: Any) -> int:
    """How many floating-point numbers an input has."""
    return sum(x.numel() for x in _tensors(value) if x.is_floating_point())


def _pickled(content: Any) -> bytes:
    """By cloudpickle, with every tensor on the CPU and without its graph."""
    import io

    import cloudpickle
    import torch

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        def reducer_override(self, value: Any) -> Any:
            kind = type(value)
            if kind in (torch.Tensor, torch.nn.Parameter) and not (value.is_cpu and value.is_leaf):
                moved = value.detach().cpu()
                if kind is torch.nn.Parameter:
                    return kind, (moved, value.requires_grad)
                return moved.__reduce_ex__(pickle.HIGHEST_PROTOCOL)
            return super().reducer_override(value)

    file = io.BytesIO()
    Pickler(file).dump(content)
    return file.getvalue()


def _target(function: Callable[..., Any]) -> str:
    """The function as ``module:name`` where it can be imported, else ``:name``.

    An object that is called, such as a module or a partial, goes by the name of a variable of the
    user's session that has it: its class is another thing.
    """
    name = getattr(function, "__qualname__", "")
    if not name:
        session = vars(sys.modules["__main__"]).items()
        names = (n for n, value in session if value is function and not n.startswith("_"))
        return f":{next(names, UNNAMED)}"
    module = getattr(function, "__module__", "") or ""
    member: Any = sys.modules.get(module)
    for part in name.split("."):
        member = getattr(member, part, None)
    return f"{module}:{name}" if member is function and module != "__main__" else f":{name}"

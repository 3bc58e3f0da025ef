"""The state of the measuring process: what one mode could change for all others.

A mode is a guest in a process that it shares. `look` notes the state before it is built or called,
`put_back` restores what is another afterwards and says what that was. docs/correctness.md has the
rule of what follows. What is read here is bound when this module is imported, so that nothing of
the user's can stand in for it later.

Torch and the standard library alone: this is the worker's side. What a release of torch lacks is
left out. Random numbers are not watched: drawing them is normal, and the suite's own inputs come
from generators of their own.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import builtins
import contextlib
import gc
import json
import locale
import math
import operator
import os
import signal
import sys
import threading
import time
import tracemalloc
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.func
import torch.library
import torch.nn.modules.module
import torch.utils._device
import torch.utils._python_dispatch
from torch.autograd import forward_ad

from gradbench.text import line

NAP = 0.02
"""Seconds in which threads left running show whether they work."""

BUSY = 0.25
"""The share of a nap's time that they work at least, if they do."""

GRACE = 0.1
"""Seconds that threads get to end by themselves."""

LONGEST = 60
"""Characters of a value in a message."""


class StateLost(BaseException):
    """Something was changed that cannot be put back: this process must not measure any more.

    Like SystemExit no `Exception`, since it has to end what runs.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"changes {what}, which cannot be put back")
        self.what = f"{what} (which cannot be put back)"


class Item(NamedTuple):
    """One part of the state: how it is read, and how a value that was read is put back."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    measured: bool = True
    """Whether it changes what a call computes or how long it takes."""
    by_torch: bool = False
    """Whether torch changes it too, where it loads a part of itself on first use: no mode is named
    for that."""
    same: Callable[[Any], bool] | None = None
    """Whether a value that was read is still the present one, where reading it takes long."""


@dataclass
class Left:
    """What was found changed, and put back: that on which results and times depend, and the
    rest."""

    measured: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.measured or self.other)

    def add(self, later: Left) -> None:
        for mine, more in ((self.measured, later.measured), (self.other, later.other)):
            mine.extend(what for what in more if what not in mine)

    @property
    def what(self) -> str:
        """All of it in words."""
        return listed(self.measured + self.other)


def listed(names: list[str]) -> str:
    """The first few of these as words of a sentence."""
    shown = names[:4]
    if len(names) > len(shown):
        shown = [*shown[:3], f"{len(names) - 3} more"]
    return " and ".join(filter(None, (", ".join(shown[:-1]), *shown[-1:])))


Seen = tuple[Any, ...]
"""The values of all items, or of the quick ones, in their order."""


def look(thorough: bool = True) -> Seen:
    """The state now; unless `thorough`, what takes a few microseconds to read."""
    if thorough:
        _loaded.clear()
        _loaded.update(sys.modules)
    return tuple([item.read() for item in (ALL if thorough else QUICK)])


_loaded: set[str] = set()
"""The modules that were loaded at the last thorough look."""


def put_back(before: Seen) -> Left:
    """Restores what has changed since, and says what that was.

    Raises StateLost where something does not change back.
    """
    changed = _changed(before)
    left = Left()
    if not changed:
        return left
    torch_loads = any(name.startswith("torch.") for name in sys.modules.keys() - _loaded)
    for position, now in changed.items():
        item = ALL[position]
        if item.by_torch and torch_loads:
            continue
        (left.measured if item.measured else left.other).append(
            _told(item.name, before[position], now)
        )
    for _ in range(2):
        # One flag may stand behind another, so what is written first may need a second turn.
        for position in changed:
            with contextlib.suppress(Exception):
                ALL[position].write(before[position])
        changed = _changed(before)
        if not changed:
            return left
    stuck = [_told(ALL[p].name, before[p], now) for p, now in changed.items()]
    raise StateLost(listed(stuck))


@contextlib.contextmanager
def kept(left: Left, guest: bool = True) -> Iterator[None]:
    """The state after the block is that before it; adds to `left` what the block has changed.

    What is no guest is not called again, so that others must live with what cannot be put back;
    and sys.path stays as it leaves it, for its modes may import more later.
    """
    before = look()
    try:
        yield
    finally:
        if not guest:
            position = next(i for i, item in enumerate(ALL) if item.name == "sys.path")
            before = (*before[:position], ALL[position].read(), *before[position + 1 :])
        try:
            left.add(put_back(before))
        except StateLost as lost:
            if guest:
                raise
            left.measured.append(lost.what)


def _changed(before: Seen) -> dict[int, Any]:
    """The positions of the items that are not as before, with what they are now."""
    found = {}
    for position, (item, then) in enumerate(zip(ALL, before)):
        if item.same is not None and item.same(then):
            continue
        now = item.read()
        if now is not then and not _same(then, now):
            found[position] = now
    return found


_PLAIN = frozenset((int, float, str, bytes, bool, frozenset, types.NoneType))


def _same(then: Any, now: Any) -> bool:
    """Whether two values read are the same; of what a user may have made only identity counts."""
    kind = type(then)
    if then is now:
        return True
    if kind is not type(now):
        return False
    if kind in _PLAIN:
        return bool(then == now)
    if kind is tuple:
        return len(then) == len(now) and (
            all(map(operator.is_, then, now)) or all(map(_same, then, now))
        )
    if kind is dict:
        return then.keys() == now.keys() and all(_same(then[key], now[key]) for key in then)
    if isinstance(then, _Names):
        return not then.differing(now)
    return kind.__module__.startswith("torch") and bool(then == now)


def _told(name: str, then: Any, now: Any) -> str:
    """What has changed, with both values where they are short."""
    if isinstance(then, _Names):
        return f"{name} ({listed(then.differing(now))})"
    if type(then) is tuple and then and isinstance(then[0], _Names):
        replaced = [found for a, b in zip(then, now) for found in a.differing(b)]
        return f"{name} ({listed(replaced)})"
    if type(then) is dict:
        return f"{name} ({listed(_keys(then, now))})"
    shown = (int, float, str, bool, torch.dtype)
    if isinstance(then, shown) and isinstance(now, shown):
        return f"{name} ({line(str(then), LONGEST)} → {line(str(now), LONGEST)})"
    return name


def _keys(then: dict[Any, Any], now: Any) -> list[str]:
    keys = dict.fromkeys([*then, *now])
    missing = object()
    return [
        line(os.fsdecode(key) if isinstance(key, bytes) else str(key), LONGEST)
        for key in keys
        if not _same(then.get(key, missing), now.get(key, missing))
    ]


# ── namespaces: functions that someone has replaced ───────────────────────────────────────────


class _Names:
    """The functions and classes in one module or class, by name."""

    def __init__(self, owner: Any, told: str) -> None:
        self.owner = owner
        self.told = told
        self.values = dict(vars(owner))

    def differing(self, later: _Names) -> list[str]:
        """The names of those that were replaced or removed, and of those that now come before an
        inherited one."""
        found = []
        missing = object()
        for key, value in self.values.items():
            if later.values.get(key, missing) is not value and callable(value):
                if key == "Storage":
                    # Torch's own, which goes with the default dtype.
                    continue
                found.append(f"{self.told}.{key}")
        if isinstance(self.owner, type):
            for key in later.values.keys() - self.values.keys():
                if any(key in vars(base) for base in self.owner.__mro__[1:]):
                    found.append(f"{self.told}.{key}")
        return found

    def put_back(self) -> None:
        now = _Names(self.owner, self.told)
        for name in self.differing(now):
            key = name.rpartition(".")[2]
            if key in self.values:
                setattr(self.owner, key, self.values[key])
            else:
                delattr(self.owner, key)


def _put_names_back(before: tuple[_Names, ...]) -> None:
    for names in before:
        names.put_back()


def _owners() -> list[tuple[Any, str]]:
    """Modules and classes on whose functions every mode and the harness rest."""
    import torch.autograd.functional
    import torch.nn.functional

    here: list[Any] = [builtins, time, json, os, math, gc, threading, torch, torch.Tensor]
    here += [torch.autograd, torch.autograd.functional, torch.autograd.graph, torch.func]
    here += [forward_ad, torch.autograd.Function, torch.nn.functional, torch.nn.Module]
    here += [torch.linalg, torch.special, torch.optim, torch.library]
    below = ("_VariableFunctions", "_functorch", "_nn", "_linalg", "_special", "_autograd")
    here += [torch._C, *(getattr(torch._C, n) for n in below if hasattr(torch._C, n))]
    for name in ("torch._functorch.eager_transforms", "torch._functorch.apis"):
        if name in sys.modules:
            here.append(sys.modules[name])
    for name, module in list(sys.modules.items()):
        if name.startswith("gradbench.") and not name.startswith("gradbench.modes."):
            here.append(module)
            here += [v for v in vars(module).values() if _class_of(v, name)]
    return [(owner, _path(owner)) for owner in here if hasattr(owner, "__dict__")]


def _class_of(value: Any, module: str) -> bool:
    return isinstance(value, type) and value.__module__ == module


def _path(owner: Any) -> str:
    if isinstance(owner, type):
        prefix = "" if owner.__module__ == "builtins" else f"{owner.__module__}."
        return f"{prefix}{owner.__qualname__}".replace("torch._tensor.", "torch.")
    return str(getattr(owner, "__name__", owner))


def _same_names(before: tuple[_Names, ...]) -> bool:
    """Whether nothing at all has changed: values are the same objects in nearly every case, and
    then comparing them takes no code of theirs."""
    try:
        return all(vars(names.owner) == names.values for names in before)
    except Exception:
        return False


class _Namespaces:
    """Reads all owners, which are found on first use: the package is imported by then."""

    def __init__(self) -> None:
        self.owners: list[tuple[Any, str]] = []

    def read(self) -> tuple[_Names, ...]:
        if not self.owners:
            self.owners = _owners()
        return tuple([_Names(*owner) for owner in self.owners])


_BASIC = (
    *((torch.autograd, name) for name in ("grad", "backward")),
    *((torch.Tensor, name) for name in ("backward", "detach", "requires_grad_", "sum")),
    *((torch.func, name) for name in ("grad", "vjp", "jvp", "jacrev", "jacfwd", "hessian", "vmap")),
    *((torch, name) for name in ("ones_like", "zeros_like", "ones", "zeros", "stack", "eye")),
    *((torch, name) for name in ("empty", "matmul", "einsum", "no_grad", "enable_grad", "compile")),
    *((time, name) for name in ("perf_counter_ns", "perf_counter", "monotonic", "time")),
)
"""What the modes rest on most: looked at around each visit."""


def _read_basic() -> tuple[Any, ...]:
    return tuple([getattr(owner, name, None) for owner, name in _BASIC])


def _write_basic(before: tuple[Any, ...]) -> None:
    for (owner, name), value in zip(_BASIC, before):
        if getattr(owner, name, None) is not value:
            setattr(owner, name, value)


# ── torch ─────────────────────────────────────────────────────────────────────────────────────

_C: Any = torch._C


def _stack(kind: str) -> Item:
    """A stack of modes that intercept operations: of functions, or of what they dispatch."""
    size = getattr(_C, f"_len_torch_{kind}_stack")
    at = getattr(_C, f"_get_{kind}_stack_at")
    pop, push = getattr(_C, f"_pop_torch_{kind}_stack"), getattr(_C, f"_push_on_torch_{kind}_stack")

    def read() -> tuple[Any, ...]:
        return tuple([at(i) for i in range(size())])

    def write(before: tuple[Any, ...]) -> None:
        for _ in range(size()):
            try:
                pop()
            except TypeError:
                pop(None)
        for mode in before:
            push(mode)

    return Item(f"torch's {kind} modes", read, write)


def _module_values(module: Any, names: tuple[str, ...]) -> tuple[Callable[[], Any], Any]:
    """Reads and writes of plain variables of a module, as many as there are."""
    there = vars(module)
    known = tuple(name for name in names if name in there)

    def read() -> tuple[Any, ...]:
        return tuple([there.get(name) for name in known])

    def write(before: tuple[Any, ...]) -> None:
        there.update(zip(known, before))

    return read, write


def _default_device() -> Item:
    """The device of `torch.set_default_device`, whose function mode is on the stack besides."""
    holder: Any = getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None)
    local = isinstance(holder, threading.local)

    def read() -> tuple[Any, Any]:
        now = getattr(holder, "device_context", None) if local else vars(torch).get(slot)
        return now, getattr(torch.utils._device, "CURRENT_DEVICE", None)

    def write(before: tuple[Any, Any]) -> None:
        if local:
            holder.device_context = before[0]
        else:
            setattr(torch, slot, before[0])
        if hasattr(torch.utils._device, "CURRENT_DEVICE"):
            torch.utils._device.CURRENT_DEVICE = before[1]

    slot = "_GLOBAL_DEVICE_CONTEXT"
    return Item("the default device", read, write)


def _levels() -> Iterator[Item]:
    """What grad, vmap and jvp leave open where they are not closed."""
    functorch = getattr(_C, "_functorch", None)
    if functorch is not None and hasattr(functorch, "maybe_current_level"):
        current = functorch.maybe_current_level

        def write(depth: int | None) -> None:
            ends = {
                "Grad": "_grad_decrement_nesting",
                "Jvp": "_jvp_decrement_nesting",
                "Vmap": "_vmap_decrement_nesting",
                "Functionalize": "_func_decrement_nesting",
            }
            while (current() or 0) > (depth or 0):
                kind = functorch.peek_interpreter_stack().key()
                getattr(functorch, ends[kind.name])()

        yield Item("the open levels of torch.func", current, write)
    transforms: Any = sys.modules.get("torch._functorch.eager_transforms")
    if transforms is not None:
        yield Item("the open levels of jvp", *_module_values(transforms, ("JVP_NESTING",)))

    def level() -> int:
        return forward_ad._current_level

    def close(before: int) -> None:
        while forward_ad._current_level > before:
            forward_ad.exit_dual_level()

    yield Item("the open levels of forward-mode AD", level, close)


_guards: list[Any] = []
"""Guards that hold inference mode off for good."""


def _leave_inference(before: bool) -> None:
    guard = torch.inference_mode(before)
    guard.__enter__()
    _guards.append(guard)


def _flags() -> Iterator[Item]:
    """torch's switches that have a reader and a writer of the same name, of any release."""
    for name in sorted(dir(_C)):
        what = name.removeprefix("_get_")
        setter = getattr(_C, f"_set_{what}", None)
        if what == name or setter is None or what in ("thread_name", "graph_exec_group"):
            continue
        getter = _told_or_not(getattr(_C, name))
        value = getter()
        plain = (bool, int, float, str, tuple, types.NoneType)
        if value is not UNREADABLE and (isinstance(value, plain) or _enumerated(value)):
            yield Item(f"torch's {what.replace('_', ' ').strip()}", getter, partial(_set, setter))
    for kind in ("flash", "mem_efficient", "math", "cudnn", "overrideable"):
        enabled = getattr(_C, f"_get_{kind}_sdp_enabled", None)
        enable = getattr(_C, f"_set_sdp_use_{kind}", None)
        if enabled is not None and enable is not None:
            yield Item(f"the {kind} attention", enabled, enable)


class _Unreadable:
    """Stands for the value of a flag that torch refuses to tell."""


UNREADABLE = _Unreadable()


def _told_or_not(getter: Callable[[], Any]) -> Callable[[], Any]:
    def read() -> Any:
        try:
            value = getter()
        except Exception:
            return UNREADABLE
        return tuple(value) if type(value) is list else value

    return read


def _enumerated(value: Any) -> bool:
    return type(value).__module__.startswith("torch") and hasattr(type(value), "__members__")


def _set(setter: Callable[..., Any], value: Any) -> None:
    if isinstance(value, tuple):
        try:
            setter(*value)
        except TypeError:
            setter(list(value))
    else:
        setter(value)


_FP32 = tuple(
    (backend, operation)
    for backend, operations in (
        ("generic", ("all",)),
        ("cuda", ("all", "matmul", "conv", "rnn")),
        ("mkldnn", ("all", "matmul", "conv", "rnn")),
    )
    for operation in operations
)


def _precision() -> Iterator[Item]:
    getter = getattr(_C, "_get_fp32_precision_getter", None)
    setter = getattr(_C, "_set_fp32_precision_setter", None)
    if getter is None or setter is None:
        return

    def read() -> tuple[Any, ...]:
        return tuple([getter(*place) for place in _FP32])

    def write(before: tuple[Any, ...]) -> None:
        for place, value in zip(_FP32, before):
            setter(*place, value)

    if _told_or_not(read)() is not UNREADABLE:
        yield Item("the precision of float32 products", read, write)


def _deterministic(before: tuple[bool, bool]) -> None:
    _C._set_deterministic_algorithms(before[0], warn_only=before[1])


def _autocast() -> Iterator[Item]:
    """Autocast by device type, the depth to which it is nested, and its cache."""
    devices = ("cpu", "cuda")
    if hasattr(torch, "get_autocast_dtype"):
        enabled = torch.is_autocast_enabled
        dtype, set_enabled = torch.get_autocast_dtype, torch.set_autocast_enabled
        set_dtype = torch.set_autocast_dtype

        def read() -> tuple[Any, ...]:
            return tuple([(enabled(d), dtype(d)) for d in devices])

        def write(before: tuple[Any, ...]) -> None:
            for device, (on, kind) in zip(devices, before):
                set_enabled(device, on)
                set_dtype(device, kind)

        yield Item("autocast", read, write)
    else:
        # Before torch 2.4 each device had functions of its own.
        old: Any = torch
        for on, kind in (("autocast", "autocast_gpu"), ("autocast_cpu", "autocast_cpu")):
            yield Item(
                "autocast",
                getattr(old, f"is_{on}_enabled"),
                getattr(old, f"set_{on}_enabled"),
            )
            yield Item(
                "autocast's dtype",
                getattr(old, f"get_{kind}_dtype"),
                getattr(old, f"set_{kind}_dtype"),
            )
    yield Item(
        "autocast's cache", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled
    )
    increment, decrement = torch.autocast_increment_nesting, torch.autocast_decrement_nesting

    def depth() -> int:
        increment()
        return int(decrement())

    def leave(before: int) -> None:
        while depth() > before:
            decrement()
        while depth() < before:
            increment()
        torch.clear_autocast_cache()

    yield Item("the open levels of autocast", depth, leave)


def _saved_tensor_hooks() -> Iterator[Item]:
    autograd: Any = _C._autograd
    top = getattr(autograd, "_top_saved_tensors_default_hooks", None)
    if top is not None:

        def read() -> Any:
            return top(True)

        def write(before: Any) -> None:
            for _ in range(1000):
                now = top(True)
                if now is None or (before is not None and _same(before, now)):
                    break
                autograd._pop_saved_tensors_default_hooks()
            if before is not None and top(True) is None:
                autograd._push_saved_tensors_default_hooks(*before)

        yield Item("the hooks on saved tensors", read, write)
    told = getattr(autograd, "_saved_tensors_hooks_get_disabled_error_message", None)
    if told is not None:

        def switch(before: str | None) -> None:
            if before is None:
                autograd._saved_tensors_hooks_enable()
            else:
                autograd._saved_tensors_hooks_disable(before)

        yield Item("whether tensors may be saved with hooks", told, switch)


def _module_hooks() -> Iterator[Item]:
    """Hooks on every `torch.nn.Module` and every optimizer."""
    for module in (torch.nn.modules.module, sys.modules["torch.optim.optimizer"]):
        hooks = [v for n, v in vars(module).items() if n.startswith("_global_") and _is_dict(v)]

        def read(hooks: list[Any] = hooks) -> tuple[Any, ...]:
            return tuple([tuple(each.items()) if each else () for each in hooks])

        def write(before: tuple[Any, ...], hooks: list[Any] = hooks) -> None:
            for each, then in zip(hooks, before):
                each.clear()
                each.update(then)

        yield Item("the hooks on all modules or optimizers", read, write)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


_LATER = ("/Meta", "/CompositeImplicitAutograd", "/FuncTorchBatched")
"""What torch itself adds kernels for when it is first needed: shapes alone, and vmap."""


class _Kernels:
    """How many kernels of torch's own operators were replaced through `torch.library`."""

    def __init__(self) -> None:
        self.names: Any = getattr(torch.library, "_impls", set())
        self.size = -1
        self.found = 0

    def read(self) -> int:
        if len(self.names) != self.size:
            self.size = len(self.names)
            self.found = sum(map(self._counts, self.names))
        return self.found

    @staticmethod
    def _counts(name: str) -> bool:
        return name.startswith("aten/") and not name.endswith(_LATER)


def _profiler() -> Iterator[Item]:
    enabled = getattr(_C._autograd, "_profiler_enabled", None)
    if enabled is not None:
        from torch.autograd import profiler

        def write(before: bool) -> None:
            if not before:
                _C._autograd._disable_profiler()
                if hasattr(profiler, "_is_profiler_enabled"):
                    profiler._is_profiler_enabled = False

        yield Item("torch's profiler", enabled, write)


def _compiler() -> Iterator[Item]:
    """What `torch.compile` goes by, as far as it is loaded."""
    frames: Any = getattr(getattr(_C, "_dynamo", None), "eval_frame", None)
    if frames is not None and hasattr(frames, "get_eval_frame_callback"):
        yield Item(
            "torch.compile's hook on frames", frames.get_eval_frame_callback, frames.set_eval_frame
        )
    name = "torch._dynamo.eval_frame"

    def stance() -> str:
        loaded: Any = sys.modules.get(name)
        return str(getattr(getattr(loaded, "_stance", None), "stance", "default"))

    def set_stance(before: str) -> None:
        there = vars(sys.modules[name])
        there["_stance"] = type(there["_stance"])(before)

    yield Item("the stance of torch.compile", stance, set_stance)


def _torch_items() -> Iterator[Item]:
    """In the order in which they are put back: what intercepts the calls that do it comes first."""
    yield _stack("function")
    yield _default_device()
    yield _stack("dispatch")
    flags = (
        "_is_in_torch_dispatch_mode",
        "_is_in_non_infra_torch_dispatch_mode",
        "_is_in_any_mode_without_ignore_compile_internals",
    )
    yield Item("the flags of dispatch modes", *_module_values(torch.utils._python_dispatch, flags))
    yield from _levels()
    yield from _compiler()
    yield Item("inference mode", torch.is_inference_mode_enabled, _leave_inference)
    yield Item("grad mode", torch.is_grad_enabled, _C._set_grad_enabled)
    for what, getter, setter in (
        ("forward-mode AD", "_is_fwd_grad_enabled", "_set_fwd_grad_enabled"),
        ("autograd's multithreading", "_is_multithreading_enabled", "_set_multithreading_enabled"),
        ("view replay", "_is_view_replay_enabled", "_set_view_replay_enabled"),
    ):
        if hasattr(_C, getter) and hasattr(_C, setter):
            yield Item(what, getattr(_C, getter), getattr(_C, setter))
    yield Item(
        "anomaly detection",
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda before: _C.set_anomaly_enabled(*before),
    )
    yield Item("the default dtype", torch.get_default_dtype, torch.set_default_dtype)
    yield Item("the number of threads", torch.get_num_threads, torch.set_num_threads)
    yield from _precision()
    yield Item(
        "deterministic algorithms",
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        _deterministic,
    )
    yield from (item for item in _flags() if "deterministic algorithms" not in item.name)
    yield from _autocast()
    yield from _saved_tensor_hooks()
    yield from _module_hooks()
    yield from _profiler()
    for module, names in (
        (torch.backends, ("__allow_nonbracketed_mutation_flag",)),
        (sys.modules.get("torch.backends.opt_einsum"), ("enabled", "strategy")),
    ):
        if module is not None:
            yield Item(f"the flags of {module.__name__}", *_module_values(module, names))
    yield Item("the kernels of torch's operators", _Kernels().read, lambda before: gc.collect())
    yield Item("the CUDA device", _cuda, _set_cuda)


def _cuda() -> Any:
    if not torch.cuda.is_initialized():
        return ()
    stream = torch.cuda.current_stream()
    return (torch.cuda.current_device(), int(stream.cuda_stream))


def _set_cuda(before: Any) -> None:
    if before:
        torch.cuda.set_device(before[0])
        torch.cuda.set_stream(torch.cuda.default_stream())


# ── Python and the system ─────────────────────────────────────────────────────────────────────

_TINY, _HALF, _ONE = 5e-324, 2.0**-53, 1.0


def _arithmetic() -> tuple[bool, bool, bool]:
    """Whether numbers below the normal ones are flushed to zero, and how sums round."""
    return _TINY * _ONE == 0, _ONE + _HALF == _ONE, -_ONE - _HALF == -_ONE


def _put_arithmetic_back(before: tuple[bool, bool, bool]) -> None:
    torch.set_flush_denormal(before[0])
    import ctypes

    if before[1:] == (True, True):
        ctypes.CDLL(None).fesetround(0)


def _set_profile(before: Any) -> None:
    sys.setprofile(before)


def _set_trace(before: Any) -> None:
    sys.settrace(before)


def _hooks() -> Iterator[Item]:
    yield Item("the trace function", sys.gettrace, _set_trace)
    yield Item("the profile function", sys.getprofile, _set_profile)
    later = _module_values(threading, ("_trace_hook", "_profile_hook"))
    yield Item("the trace or profile function of new threads", *later)
    monitoring = getattr(sys, "monitoring", None)
    if monitoring is not None:

        def read() -> tuple[Any, ...]:
            tools = range(6)
            names = [monitoring.get_tool(tool) for tool in tools]
            return tuple([(n, monitoring.get_events(t) if n else 0) for t, n in zip(tools, names)])

        def write(before: tuple[Any, ...]) -> None:
            for tool, ((then, events), (now, _)) in enumerate(zip(before, read())):
                if now is not None:
                    monitoring.set_events(tool, events if then is not None else 0)
                    if then is None:
                        monitoring.free_tool_id(tool)

        yield Item("tools of sys.monitoring", read, write)


def _timers() -> Iterator[Item]:
    for what, which in (("real", 0), ("virtual", 1), ("profiling", 2)):

        def read(which: int = which) -> bool:
            return bool(_signal.getitimer(which) != (0.0, 0.0))

        def write(before: bool, which: int = which) -> None:
            if not before:
                _signal.setitimer(which, 0)

        yield Item(f"the {what} timer", read, write)


def _collector() -> Iterator[Item]:
    yield Item(
        "whether garbage is collected",
        gc.isenabled,
        lambda before: gc.enable() if before else gc.disable(),
    )
    yield Item("the collector's thresholds", gc.get_threshold, lambda b: gc.set_threshold(*b))
    yield Item("the collector's debugging flags", gc.get_debug, gc.set_debug)
    yield Item(
        "the collector's callbacks",
        lambda: tuple(gc.callbacks),
        lambda before: gc.callbacks.__setitem__(slice(None), before),
    )


class _Threads:
    """How many threads of Python's work besides those that were there; idle ones are let be."""

    def __init__(self) -> None:
        self.idle = 0
        """How many more there are that have turned out to be idle."""

    def read(self) -> int:
        return _thread._count() - self.idle

    def write(self, before: int) -> None:
        until = time.monotonic() + GRACE
        while self.read() > before and time.monotonic() < until:
            time.sleep(0.001)
        if self.read() <= before:
            # Fewer than before: one that was idle has ended.
            self.idle += self.read() - before
            return
        # Twice, for one may just have been at its end.
        if not (_working() and _working()):
            self.idle += self.read() - before


def _working() -> bool:
    """Whether other threads of this process take the processor's time."""
    start = time.process_time() - time.thread_time()
    time.sleep(NAP)
    return time.process_time() - time.thread_time() - start > BUSY * NAP


def _system() -> Iterator[Item]:
    if hasattr(os, "sched_getaffinity"):
        yield Item(
            "the processors it may use",
            lambda: frozenset(os_affinity(0)),
            lambda before: os.sched_setaffinity(0, before),
        )
    if hasattr(os, "getpriority"):
        yield Item(
            "its priority",
            partial(os.getpriority, os.PRIO_PROCESS, 0),
            partial(os.setpriority, os.PRIO_PROCESS, 0),
        )
    if hasattr(os, "sched_getscheduler"):
        yield Item(
            "its scheduling",
            partial(os.sched_getscheduler, 0),
            lambda before: os.sched_setscheduler(0, before, os.sched_param(0)),
        )


os_affinity = getattr(os, "sched_getaffinity", None) or (lambda pid: ())


def _python_items() -> Iterator[Item]:
    """What others have only a small part in: a note on the mode is enough."""
    for what, getter, setter in (
        ("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
        ("the switch interval", sys.getswitchinterval, sys.setswitchinterval),
    ):
        yield Item(what, getter, setter, False)
    if hasattr(sys, "get_int_max_str_digits"):
        yield Item(
            "the longest number as text",
            sys.get_int_max_str_digits,
            sys.set_int_max_str_digits,
            False,
        )
    yield Item(
        "the environment",
        _environment,
        _put_environment_back,
        False,
    )
    for path in ("path", "meta_path", "path_hooks"):
        there = getattr(sys, path)

        def read(path: str = path) -> tuple[Any, ...]:
            now = getattr(sys, path)
            return (now, *now)

        def write(before: tuple[Any, ...], path: str = path) -> None:
            before[0][:] = before[1:]
            setattr(sys, path, before[0])

        if isinstance(there, list):
            yield Item(f"sys.{path}", read, write, False)
    hooks = ("excepthook", "unraisablehook", "displayhook", "breakpointhook")
    yield Item("the interpreter's hooks", *_module_values(sys, hooks), False)
    yield Item("the hook on errors of threads", *_module_values(threading, ("excepthook",)), False)
    yield Item("the standard streams", *_module_values(sys, ("stdin", "stdout", "stderr")), False)
    yield Item("the folder it works in", _folder, _put_folder_back, False)
    yield Item("the umask", _umask, os.umask, False)
    signals = tuple(sorted(int(number) for number in signal.valid_signals()))
    if signals:
        yield Item("signal handlers", partial(_handlers, signals), _put_handlers_back, False)
    if hasattr(signal, "pthread_sigmask"):
        yield Item(
            "blocked signals",
            lambda: frozenset(map(int, signal_mask(signal.SIG_BLOCK, ()))),
            lambda before: signal.pthread_sigmask(signal.SIG_SETMASK, before),
            False,
        )
    yield Item("the warnings filters", _filters, _put_filters_back, False, by_torch=True)


_environ: Any = os.environ
environ: dict[Any, Any] = getattr(_environ, "_data", _environ)
signal_mask: Any = getattr(_signal, "pthread_sigmask", None)


def _environment() -> dict[Any, Any]:
    """Without what torch.compile sets for itself."""
    return {k: v for k, v in environ.items() if not k.startswith(_COMPILERS)}


_COMPILERS: Any = ("TORCHINDUCTOR_", "TRITON_")
if os.supports_bytes_environ:
    _COMPILERS = tuple(map(os.fsencode, _COMPILERS))


def _put_environment_back(before: dict[Any, Any]) -> None:
    for key in [key for key in _environment() if key not in before]:
        name = os.fsdecode(key)
        del os.environ[name]
    for key, value in before.items():
        if environ.get(key) != value:
            os.environ[os.fsdecode(key)] = os.fsdecode(value)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return ""


def _put_folder_back(before: str) -> None:
    if before:
        os.chdir(before)


def _umask() -> int:
    now = _set_umask(0o22)
    _set_umask(now)
    return now


_set_umask = os.umask


def _handlers(numbers: tuple[int, ...]) -> dict[int, Any]:
    return {number: _getsignal(number) for number in numbers}


def _put_handlers_back(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        if _getsignal(number) is not handler and handler is not None:
            _signal.signal(number, handler)


_getsignal = _signal.getsignal


def _filters() -> tuple[Any, ...]:
    now = warnings.filters
    return (now, warnings.showwarning, *now)


def _put_filters_back(before: tuple[Any, ...]) -> None:
    filters: Any = before[0]
    filters[:] = before[2:]
    warnings.filters = filters
    warnings.showwarning = before[1]
    mutated: Any = getattr(warnings, "_filters_mutated", None)
    if mutated is not None:
        mutated()


def _thorough_items() -> Iterator[Item]:
    """What takes longer to read, and is looked at around each build and each call of the gate."""
    names = _Namespaces()
    yield Item(
        "functions that others use", names.read, _put_names_back, by_torch=True, same=_same_names
    )
    yield Item(
        "modules that were loaded",
        lambda: _Modules(),
        lambda before: before.put_back(),
        False,
        same=_same_modules,
    )
    if hasattr(os, "waitid"):
        yield Item("child processes", _children, _end_children)
    with contextlib.suppress(ImportError):
        import resource

        kinds = ("AS", "CORE", "CPU", "DATA", "FSIZE", "NOFILE", "NPROC", "STACK")
        which = [n for k in kinds if (n := getattr(resource, f"RLIMIT_{k}", None)) is not None]

        def limits() -> dict[int, Any]:
            found = {}
            for number in which:
                with contextlib.suppress(OSError, ValueError):
                    found[number] = resource.getrlimit(number)
            return found

        def set_limits(before: dict[int, Any]) -> None:
            now = limits()
            for number, limit in before.items():
                if now.get(number) != limit:
                    resource.setrlimit(number, limit)

        yield Item("limits on resources", limits, set_limits, False)
    yield Item(
        "the locale",
        lambda: locale.setlocale(locale.LC_ALL),
        lambda before: locale.setlocale(locale.LC_ALL, before),
        False,
    )
    yield Item("numpy's handling of errors", _numpy_errors, _set_numpy_errors, False)


def _same_modules(before: _Modules) -> bool:
    try:
        return before.values == sys.modules
    except Exception:
        return False


class _Modules(_Names):
    """The modules that are loaded; those that come later are no change."""

    def __init__(self) -> None:
        self.values = dict(sys.modules)

    def differing(self, later: _Names) -> list[str]:
        missing = object()
        return [
            name
            for name, module in self.values.items()
            if later.values.get(name, missing) is not module
        ]

    def put_back(self) -> None:
        sys.modules.update(self.values)


def _numpy_errors() -> Any:
    numpy: Any = sys.modules.get("numpy")
    if numpy is None or not hasattr(numpy, "geterr"):
        return str(())
    return str(sorted(numpy.geterr().items()))


def _set_numpy_errors(before: str) -> None:
    import ast

    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.seterr(**dict(ast.literal_eval(before)))


_TORCHS_OWN = (b"_inductor", b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
"""What the command lines of processes hold that torch.compile keeps for later."""


def _children() -> frozenset[int]:
    """The processes that this one has started and that run, where the system tells."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:
        return frozenset()
    own, found = os.getpid(), []
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    with open(f"/proc/{name}/stat", "rb") as file:
                        state, parent = file.read().rpartition(b")")[2].split()[:2]
                    if int(parent) == own and state not in (b"Z", b"X"):
                        with open(f"/proc/{name}/cmdline", "rb") as file:
                            command = file.read()
                        if not any(part in command for part in _TORCHS_OWN):
                            found.append(int(name))
    return frozenset(found)


def _end_children(before: frozenset[int]) -> None:
    for pid in _children() - before:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _quick_items() -> Iterator[Item]:
    yield from _hooks()
    yield Item("functions that all modes use", _read_basic, _write_basic)
    yield from _torch_items()
    yield Item("how numbers are rounded", _arithmetic, _put_arithmetic_back)
    yield from _timers()
    yield from _collector()
    yield Item(
        "tracemalloc",
        tracemalloc.is_tracing,
        lambda before: tracemalloc.start() if before else tracemalloc.stop(),
    )
    threads = _Threads()
    yield Item("threads", threads.read, threads.write, False)
    yield from _system()
    yield from _python_items()


QUICK = tuple(_quick_items())
ALL = (*QUICK, *_thorough_items())

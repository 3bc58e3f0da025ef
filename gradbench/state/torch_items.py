"""Torch's part of the state: its settings, modes that intercept operations, hooks and levels."""

from __future__ import annotations

import gc
import sys
import threading
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.library
import torch.nn.modules.module
import torch.utils._device
import torch.utils._python_dispatch
from torch.autograd import forward_ad

from gradbench.state.item import Item, module_values, same

_C: Any = torch._C


def _stack(kind: str) -> Item:
    """The stack of function modes or of dispatch modes."""
    size = getattr(_C, f"_len_torch_{kind}_stack")
    get = getattr(_C, f"_get_{kind}_stack_at")
    pop, push = getattr(_C, f"_pop_torch_{kind}_stack"), getattr(_C, f"_push_on_torch_{kind}_stack")

    def read() -> tuple[Any, ...]:
        return tuple([get(i) for i in range(size())])

    def write(before: tuple[Any, ...]) -> None:
        for _ in range(size()):
            try:
                pop()
            except TypeError:
                pop(None)
        for mode in before:
            push(mode)

    return Item(f"torch's {kind} modes", read, write)


def _default_device() -> Item:
    """The device of `torch.set_default_device`, which also pushes a function mode."""
    name = "_GLOBAL_DEVICE_CONTEXT"
    holder: Any = getattr(torch, name, None)
    local = isinstance(holder, threading.local)

    def read() -> tuple[Any, Any]:
        now = getattr(holder, "device_context", None) if local else vars(torch).get(name)
        return now, getattr(torch.utils._device, "CURRENT_DEVICE", None)

    def write(before: tuple[Any, Any]) -> None:
        if local:
            holder.device_context = before[0]
        else:
            setattr(torch, name, before[0])
        if hasattr(torch.utils._device, "CURRENT_DEVICE"):
            torch.utils._device.CURRENT_DEVICE = before[1]

    return Item("the default device", read, write)


def _levels() -> Iterator[Item]:
    """The levels that grad, vmap and jvp open, in case they are left open."""
    functorch = getattr(_C, "_functorch", None)
    if functorch is not None and hasattr(functorch, "maybe_current_level"):
        current = functorch.maybe_current_level

        def write(depth: int | None) -> None:
            while (current() or 0) > (depth or 0):
                kind = functorch.peek_interpreter_stack().key().name
                short = "func" if kind == "Functionalize" else kind.lower()
                getattr(functorch, f"_{short}_decrement_nesting")()

        yield Item("open levels of torch.func", current, write)
    transforms: Any = sys.modules.get("torch._functorch.eager_transforms")
    if transforms is not None:
        yield Item("open levels of jvp", *module_values(transforms, ("JVP_NESTING",)))

    def close(before: int) -> None:
        while forward_ad._current_level > before:
            forward_ad.exit_dual_level()

    yield Item("open levels of forward-mode AD", lambda: forward_ad._current_level, close)


_guards: list[Any] = []
"""Entered for good: torch cannot set inference mode in any other way."""


def _set_inference_mode(before: bool) -> None:
    guard = torch.inference_mode(before)
    guard.__enter__()
    _guards.append(guard)


def _flags() -> Iterator[Item]:
    """Every pair of functions `_get_x` and `_set_x` of `torch._C`, in any release."""
    plain = (bool, int, float, str, tuple, types.NoneType)
    for name in sorted(dir(_C)):
        flag = name.removeprefix("_get_")
        setter = getattr(_C, f"_set_{flag}", None)
        if flag == name or setter is None or flag in ("thread_name", "graph_exec_group"):
            continue
        getter = _caught(getattr(_C, name))
        value = getter()
        if isinstance(value, plain) or _is_enum(value):
            yield Item(f"torch's {flag.replace('_', ' ').strip()}", getter, partial(_set, setter))
    for kind in ("flash", "mem_efficient", "math", "cudnn", "overrideable"):
        enabled = getattr(_C, f"_get_{kind}_sdp_enabled", None)
        enable = getattr(_C, f"_set_sdp_use_{kind}", None)
        if enabled is not None and enable is not None:
            yield Item(f"the {kind} attention", enabled, enable)


UNREADABLE = object()
"""The value of a flag whose getter raises."""


def _caught(getter: Callable[[], Any]) -> Callable[[], Any]:
    """The getter, with `UNREADABLE` in place of an error and tuples in place of lists."""

    def read() -> Any:
        try:
            value = getter()
        except Exception:
            return UNREADABLE
        return tuple(value) if type(value) is list else value

    return read


def _is_enum(value: Any) -> bool:
    return type(value).__module__.startswith("torch") and hasattr(type(value), "__members__")


def _set(setter: Callable[..., Any], value: Any) -> None:
    if isinstance(value, tuple):
        try:
            setter(*value)
        except TypeError:
            setter(list(value))
    else:
        setter(value)


_FP32 = (
    ("generic", "all"),
    *(("cuda", operation) for operation in ("all", "matmul", "conv", "rnn")),
    *(("mkldnn", operation) for operation in ("all", "matmul", "conv", "rnn")),
)
"""The backends and operations that have a setting of their own."""


def _precision() -> Iterator[Item]:
    getter = getattr(_C, "_get_fp32_precision_getter", None)
    setter = getattr(_C, "_set_fp32_precision_setter", None)
    if getter is None or setter is None:
        return

    def read() -> tuple[Any, ...]:
        return tuple([getter(*key) for key in _FP32])

    def write(before: tuple[Any, ...]) -> None:
        for key, value in zip(_FP32, before):
            setter(*key, value)

    if _caught(read)() is not UNREADABLE:
        yield Item("the precision of float32 matmul", read, write)


def _autocast() -> Iterator[Item]:
    """Autocast per device, its nesting depth and its cache."""
    devices = ("cpu", "cuda")
    if hasattr(torch, "get_autocast_dtype"):
        is_enabled, set_enabled = torch.is_autocast_enabled, torch.set_autocast_enabled
        get_dtype, set_dtype = torch.get_autocast_dtype, torch.set_autocast_dtype

        def read() -> tuple[Any, ...]:
            return tuple([(is_enabled(d), get_dtype(d)) for d in devices])

        def write(before: tuple[Any, ...]) -> None:
            for device, (enabled, dtype) in zip(devices, before):
                set_enabled(device, enabled)
                set_dtype(device, dtype)

        yield Item("autocast", read, write)
    else:
        # Before torch 2.4 each device had functions of its own.
        old = vars(torch)
        for suffix in ("", "_cpu"):
            enabled = f"autocast{suffix}_enabled"
            yield Item("autocast", old[f"is_{enabled}"], old[f"set_{enabled}"])
        for suffix in ("_gpu", "_cpu"):
            dtype = f"autocast{suffix}_dtype"
            yield Item("autocast's dtype", old[f"get_{dtype}"], old[f"set_{dtype}"])
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

    yield Item("open levels of autocast", depth, leave)


def _saved_tensor_hooks() -> Iterator[Item]:
    autograd: Any = _C._autograd
    top = getattr(autograd, "_top_saved_tensors_default_hooks", None)
    if top is not None:

        def read() -> Any:
            return top(True)

        def write(before: Any) -> None:
            for _ in range(1000):
                now = top(True)
                if now is None or (before is not None and same(before, now)):
                    break
                autograd._pop_saved_tensors_default_hooks()
            if before is not None and top(True) is None:
                autograd._push_saved_tensors_default_hooks(*before)

        yield Item("the hooks on saved tensors", read, write)
    disabled = getattr(autograd, "_saved_tensors_hooks_get_disabled_error_message", None)
    if disabled is not None:

        def switch(message: str | None) -> None:
            if message is None:
                autograd._saved_tensors_hooks_enable()
            else:
                autograd._saved_tensors_hooks_disable(message)

        yield Item("whether saved tensors may have hooks", disabled, switch)


def _module_hooks() -> Iterator[Item]:
    """Hooks on every `torch.nn.Module` and every optimizer."""
    for module in (torch.nn.modules.module, sys.modules["torch.optim.optimizer"]):
        global_values = [v for name, v in vars(module).items() if name.startswith("_global_")]
        hooks: list[Any] = [value for value in global_values if isinstance(value, dict)]

        def read(hooks: list[Any] = hooks) -> tuple[Any, ...]:
            return tuple([tuple(each.items()) if each else () for each in hooks])

        def write(before: tuple[Any, ...], hooks: list[Any] = hooks) -> None:
            for each, then in zip(hooks, before):
                each.clear()
                each.update(then)

        yield Item("the hooks on all modules or optimizers", read, write)


_LAZY = ("/Meta", "/CompositeImplicitAutograd", "/FuncTorchBatched")
"""Dispatch keys for which torch itself registers kernels when they are first needed."""

_LOADED = ("aten/_nested_get_jagged_dummy/",)
"""Operators whose kernels torch registers for the processor when it loads a part of itself: 2.3
does, of nested tensors, at the first step of an optimizer."""


class _Kernels:
    """Counts the kernels of torch's own operators that `torch.library` has replaced."""

    def __init__(self) -> None:
        self.names: Any = getattr(torch.library, "_impls", set())
        self.size = -1
        self.replaced = 0

    def read(self) -> int:
        if len(self.names) != self.size:
            self.size = len(self.names)
            ours = [name for name in self.names if name.startswith("aten/")]
            self.replaced = sum(
                not name.endswith(_LAZY) and not name.startswith(_LOADED) for name in ours
            )
        return self.replaced


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
    """The frame hook and the stance of `torch.compile`, if it is loaded."""
    frames: Any = getattr(getattr(_C, "_dynamo", None), "eval_frame", None)
    if frames is not None and hasattr(frames, "get_eval_frame_callback"):
        yield Item(
            "the frame hook of torch.compile", frames.get_eval_frame_callback, frames.set_eval_frame
        )
    name = "torch._dynamo.eval_frame"

    def stance() -> str:
        loaded: Any = sys.modules.get(name)
        return str(getattr(getattr(loaded, "_stance", None), "stance", "default"))

    def set_stance(before: str) -> None:
        module: Any = sys.modules[name]
        module._stance = type(module._stance)(before)

    yield Item("the stance of torch.compile", stance, set_stance)


def torch_items() -> Iterator[Item]:
    """All items, in the order in which they are restored: modes come first, since they would
    intercept the calls that restore the rest."""
    yield _stack("function")
    yield _default_device()
    yield _stack("dispatch")
    dispatch = torch.utils._python_dispatch
    flags = tuple(name for name in vars(dispatch) if name.startswith("_is_in_"))
    yield Item("the flags of dispatch modes", *module_values(dispatch, flags))
    yield from _levels()
    yield from _compiler()
    yield Item("inference mode", torch.is_inference_mode_enabled, _set_inference_mode)
    yield Item("grad mode", torch.is_grad_enabled, _C._set_grad_enabled)
    for name, flag in (
        ("forward-mode AD", "fwd_grad_enabled"),
        ("autograd's multithreading", "multithreading_enabled"),
        ("view replay", "view_replay_enabled"),
    ):
        if hasattr(_C, f"_is_{flag}") and hasattr(_C, f"_set_{flag}"):
            yield Item(name, getattr(_C, f"_is_{flag}"), getattr(_C, f"_set_{flag}"))
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
        lambda before: _C._set_deterministic_algorithms(before[0], warn_only=before[1]),
    )
    yield from (item for item in _flags() if "deterministic algorithms" not in item.name)
    yield from _autocast()
    yield from _saved_tensor_hooks()
    yield from _module_hooks()
    yield from _profiler()
    backends = torch.backends
    yield Item("torch.backends", *module_values(backends, ("__allow_nonbracketed_mutation_flag",)))
    einsum = sys.modules.get("torch.backends.opt_einsum")
    if einsum is not None:
        yield Item("torch.backends.opt_einsum", *module_values(einsum, ("enabled", "strategy")))
    yield Item("the kernels of torch's operators", _Kernels().read, lambda before: gc.collect())
    yield Item("the CUDA device", _cuda_device, _set_cuda_device)


def _cuda_device() -> Any:
    if not torch.cuda.is_initialized():
        return ()
    stream = torch.cuda.current_stream()
    return (torch.cuda.current_device(), int(stream.cuda_stream))


def _set_cuda_device(before: Any) -> None:
    if before:
        torch.cuda.set_device(before[0])
        torch.cuda.set_stream(torch.cuda.default_stream())

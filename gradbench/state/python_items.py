"""Python's and the operating system's part of the state: hooks, limits, signals, threads, files."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import contextlib
import ctypes
import gc
import locale
import os
import signal
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from gradbench.state.item import Item, module_values
from gradbench.state.namespaces import (
    LoadedModules,
    NamespaceReader,
    gate_namespaces,
    modules_unchanged,
    namespaces_unchanged,
    read_basic,
    restore_namespaces,
    shared_namespaces,
    write_basic,
)
from gradbench.state.torch_items import torch_items

NAP = 0.1
"""Seconds over which the processor time of leftover threads is measured."""

BUSY = 0.02
"""Leftover threads that use less than this share of the processor count as idle."""

GRACE = 0.1
"""Seconds that threads get to end by themselves."""

_TINY, _HALF, _ONE = 5e-324, 2.0**-53, 1.0


def _rounding() -> tuple[bool, bool, bool]:
    """Whether subnormal numbers are flushed to zero, and how sums are rounded."""
    return _TINY * _ONE == 0, _ONE + _HALF == _ONE, -_ONE - _HALF == -_ONE


def _set_rounding(before: tuple[bool, bool, bool]) -> None:
    torch.set_flush_denormal(before[0])
    if before[1:] == (True, True):
        ctypes.CDLL(None).fesetround(0)


def _hooks() -> Iterator[Item]:
    yield Item("the trace function", sys.gettrace, sys.settrace)
    yield Item("the profile function", sys.getprofile, sys.setprofile)
    of_threads = module_values(threading, ("_trace_hook", "_profile_hook"))
    yield Item("the trace or profile function of new threads", *of_threads)
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
    for number, name in enumerate(("real", "virtual", "profiling")):

        def read(number: int = number) -> bool:
            return bool(_signal.getitimer(number) != (0.0, 0.0))

        def write(before: bool, number: int = number) -> None:
            if not before:
                _signal.setitimer(number, 0)

        yield Item(f"the {name} timer", read, write)


def _collector() -> Iterator[Item]:
    yield Item("garbage collection", gc.isenabled, lambda on: gc.enable() if on else gc.disable())
    yield Item("the collector's thresholds", gc.get_threshold, lambda b: gc.set_threshold(*b))
    yield Item("the collector's debugging flags", gc.get_debug, gc.set_debug)
    yield Item(
        "the collector's callbacks",
        lambda: tuple(gc.callbacks),
        lambda before: gc.callbacks.__setitem__(slice(None), before),
    )


class _Threads:
    """Counts Python's threads, without those that were left running but idle."""

    def __init__(self) -> None:
        self.idle = 0

    def read(self) -> int:
        return _thread._count() - self.idle

    def no_more_than(self, before: int) -> bool:
        """A thread that ends is no change."""
        return self.read() <= before

    def write(self, before: int) -> None:
        deadline = time.monotonic() + GRACE
        while self.read() > before and time.monotonic() < deadline:
            time.sleep(0.001)
        if self.read() > before and not _other_threads_busy():
            self.idle += self.read() - before


def _other_threads_busy() -> bool:
    start = time.process_time() - time.thread_time()
    time.sleep(NAP)
    return time.process_time() - time.thread_time() - start > BUSY * NAP


def _scheduling() -> Iterator[Item]:
    if hasattr(os, "sched_getaffinity"):
        read, write = partial(os.sched_getaffinity, 0), partial(os.sched_setaffinity, 0)
        yield Item("the CPU affinity", read, write)
    if hasattr(os, "getpriority"):
        yield Item(
            "the process's priority",
            partial(os.getpriority, os.PRIO_PROCESS, 0),
            partial(os.setpriority, os.PRIO_PROCESS, 0),
        )
    if hasattr(os, "sched_getscheduler"):
        yield Item(
            "the process's scheduler",
            partial(os.sched_getscheduler, 0),
            lambda before: os.sched_setscheduler(0, before, os.sched_param(0)),
        )


def _harmless_items() -> Iterator[Item]:
    """State that does not affect results or times: a change is only noted."""
    yield Item("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit)
    yield Item("the switch interval", sys.getswitchinterval, sys.setswitchinterval)
    if hasattr(sys, "get_int_max_str_digits"):
        read, write = sys.get_int_max_str_digits, sys.set_int_max_str_digits
        yield Item("the limit on digits of an int", read, write)
    # The comparison runs no measured code: all keys and values are bytes or strings.
    yield Item(
        "the environment",
        _environment,
        _restore_environment,
        unchanged=lambda before: bool(before == _environ),
    )
    for path in ("path", "meta_path", "path_hooks"):

        def read_path(path: str = path) -> tuple[Any, ...]:
            now = getattr(sys, path)
            return (now, *now)

        def write_path(before: tuple[Any, ...], path: str = path) -> None:
            before[0][:] = before[1:]
            setattr(sys, path, before[0])

        if isinstance(getattr(sys, path), list):
            yield Item(f"sys.{path}", read_path, write_path)
    hooks = ("excepthook", "unraisablehook", "displayhook", "breakpointhook")
    yield Item("the interpreter's hooks", *module_values(sys, hooks))
    yield Item("threading.excepthook", *module_values(threading, ("excepthook",)))
    yield Item("the standard streams", *module_values(sys, ("stdin", "stdout", "stderr")))
    yield Item("the working directory", _directory, os.chdir)
    yield Item("the umask", _umask, os.umask)
    numbers = sorted(int(number) for number in signal.valid_signals())
    if numbers:
        yield Item("signal handlers", partial(_handlers, numbers), _set_handlers)
    if hasattr(signal, "pthread_sigmask"):
        # The function of _signal makes no enumeration members of what it returns.
        mask = partial(_signal.pthread_sigmask, signal.SIG_BLOCK, ())
        yield Item("blocked signals", mask, partial(signal.pthread_sigmask, signal.SIG_SETMASK))
    yield Item("the warnings filters", _filters, _set_filters, by_torch=True)


_os_environ: Any = os.environ
_environ: dict[Any, Any] = getattr(_os_environ, "_data", _os_environ)
_COMPILERS: Any = ("TORCHINDUCTOR_", "_TORCHINDUCTOR_", "TRITON_")
if os.supports_bytes_environ:
    _COMPILERS = tuple(map(os.fsencode, _COMPILERS))


def _environment() -> dict[Any, Any]:
    """The environment variables, without those that torch.compile sets for itself."""
    return {k: v for k, v in _environ.items() if not k.startswith(_COMPILERS)}


def _restore_environment(before: dict[Any, Any]) -> None:
    for key in _environment().keys() - before.keys():
        del os.environ[os.fsdecode(key)]
    for key, value in before.items():
        if _environ.get(key) != value:
            os.environ[os.fsdecode(key)] = os.fsdecode(value)


def _directory() -> str:
    """The working directory; empty if it was deleted."""
    try:
        return os.getcwd()
    except OSError:
        return ""


_set_umask = os.umask


def _umask() -> int:
    now = _set_umask(0o22)
    _set_umask(now)
    return now


_getsignal = _signal.getsignal


def _handlers(numbers: list[int]) -> dict[int, Any]:
    return {number: _getsignal(number) for number in numbers}


def _set_handlers(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        if _getsignal(number) is not handler and handler is not None:
            _signal.signal(number, handler)


def _filters() -> tuple[Any, ...]:
    now = warnings.filters
    return (now, warnings.showwarning, *now)


def _set_filters(before: tuple[Any, ...]) -> None:
    filters: Any = before[0]
    filters[:] = before[2:]
    warnings.filters = filters
    warnings.showwarning = before[1]
    mutated: Any = getattr(warnings, "_filters_mutated", None)
    if mutated is not None:
        mutated()


def _numpy_errors() -> dict[str, str]:
    numpy: Any = sys.modules.get("numpy")
    return dict(numpy.geterr()) if hasattr(numpy, "geterr") else {}


def _set_numpy_errors(before: dict[str, str]) -> None:
    if "numpy" in sys.modules:
        sys.modules["numpy"].seterr(**before)


_TORCH_HELPERS = (b"_inductor", b"multiprocessing.resource_tracker", b"multiprocessing.forkserver")
"""Parts of the command lines of processes that torch.compile keeps for later."""


def _children() -> frozenset[int]:
    """The running child processes, where /proc lists them."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except OSError:
        return frozenset()
    own, children = os.getpid(), []
    with contextlib.suppress(OSError):
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    state, parent = file.read().rpartition(b")")[2].split()[:2]
                if int(parent) == own and state not in (b"Z", b"X"):
                    with open(f"/proc/{name}/cmdline", "rb") as file:
                        command = file.read()
                    if not any(part in command for part in _TORCH_HELPERS):
                        children.append(int(name))
    return frozenset(children)


def _end_children(before: frozenset[int]) -> None:
    for pid in _children() - before:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _resource_limits() -> Iterator[Item]:
    try:
        import resource
    except ImportError:
        return
    kinds = ("AS", "CORE", "CPU", "DATA", "FSIZE", "NOFILE", "NPROC", "STACK")
    numbers = [n for k in kinds if (n := getattr(resource, f"RLIMIT_{k}", None)) is not None]

    def read() -> dict[int, Any]:
        limits = {}
        for number in numbers:
            with contextlib.suppress(OSError, ValueError):
                limits[number] = resource.getrlimit(number)
        return limits

    def write(before: dict[int, Any]) -> None:
        for number, limit in before.items():
            if resource.getrlimit(number) != limit:
                resource.setrlimit(number, limit)

    yield Item("resource limits", read, write, harmful=False)


def quick_items() -> Iterator[Item]:
    """Items that take microseconds to read."""
    yield from _hooks()
    yield Item("basic functions of torch", read_basic, write_basic)
    yield from torch_items()
    yield Item("floating-point rounding", _rounding, _set_rounding)
    yield from _timers()
    yield from _collector()
    yield Item(
        "tracemalloc",
        tracemalloc.is_tracing,
        lambda before: tracemalloc.start() if before else tracemalloc.stop(),
    )
    threads = _Threads()
    yield Item("threads", threads.read, threads.write, False, unchanged=threads.no_more_than)
    yield from _scheduling()
    yield from (item._replace(harmful=False) for item in _harmless_items())


def gate_items() -> Iterator[Item]:
    """The functions that check the result of a call."""
    yield _functions("functions of the gate", NamespaceReader(gate_namespaces))


def _functions(name: str, reader: NamespaceReader) -> Item:
    return Item(name, reader.read, restore_namespaces, unchanged=namespaces_unchanged)


def thorough_items() -> Iterator[Item]:
    """Items that may take milliseconds to read: compared after each build, check and request."""
    functions = _functions("shared functions", NamespaceReader(shared_namespaces))
    yield functions._replace(by_torch=True)
    restore = LoadedModules.restore
    yield Item("loaded modules", LoadedModules, restore, False, unchanged=modules_unchanged)
    if hasattr(os, "waitid"):
        yield Item("child processes", _children, _end_children)
    yield from _resource_limits()
    get_or_set_locale = partial(locale.setlocale, locale.LC_ALL)
    yield Item("the locale", get_or_set_locale, get_or_set_locale, harmful=False)
    yield Item("numpy's error handling", _numpy_errors, _set_numpy_errors, harmful=False)

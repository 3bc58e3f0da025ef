"""What Python and the system keep of hooks, limits and places."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _thread
import contextlib
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
from gradbench.state.names import (
    Modules,
    Namespaces,
    judges,
    owners,
    put_names_back,
    read_basic,
    same_modules,
    same_names,
    write_basic,
)
from gradbench.state.of_torch import torch_items

NAP = 0.1
"""Seconds in which threads left running show whether they work."""

BUSY = 0.02
"""The share of a nap's time that they work at least, if they do."""

GRACE = 0.1
"""Seconds that threads get to end by themselves."""


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
    later = module_values(threading, ("_trace_hook", "_profile_hook"))
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

    def no_more_than(self, before: int) -> bool:
        """Whether there are none besides: one that ends is no change."""
        return self.read() <= before

    def write(self, before: int) -> None:
        until = time.monotonic() + GRACE
        while self.read() > before and time.monotonic() < until:
            time.sleep(0.001)
        if self.read() > before and not _working():
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
        # Bytes and text alone: comparing them runs no code of anyone's.
        same=lambda before: bool(before == environ),
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
    yield Item("the interpreter's hooks", *module_values(sys, hooks), False)
    yield Item("the hook on errors of threads", *module_values(threading, ("excepthook",)), False)
    yield Item("the standard streams", *module_values(sys, ("stdin", "stdout", "stderr")), False)
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


_COMPILERS: Any = ("TORCHINDUCTOR_", "_TORCHINDUCTOR_", "TRITON_")
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


def near_items() -> Iterator[Item]:
    """What judges the result of a call."""
    names = Namespaces(judges)
    yield Item("functions of the gate", names.read, put_names_back, same=same_names)


def thorough_items() -> Iterator[Item]:
    """What takes milliseconds to read where it is in no cache: looked at after each build, each
    check and each request."""
    names = Namespaces(owners)
    yield Item(
        "functions that others use", names.read, put_names_back, by_torch=True, same=same_names
    )
    yield Item(
        "modules that were loaded",
        lambda: Modules(),
        lambda before: before.put_back(),
        False,
        same=same_modules,
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


def quick_items() -> Iterator[Item]:
    yield from _hooks()
    yield Item("functions that all modes use", read_basic, write_basic)
    yield from torch_items()
    yield Item("how numbers are rounded", _arithmetic, _put_arithmetic_back)
    yield from _timers()
    yield from _collector()
    yield Item(
        "tracemalloc",
        tracemalloc.is_tracing,
        lambda before: tracemalloc.start() if before else tracemalloc.stop(),
    )
    threads = _Threads()
    yield Item("threads", threads.read, threads.write, False, same=threads.no_more_than)
    yield from _system()
    yield from _python_items()

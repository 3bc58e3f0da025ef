"""Modes with right results that change the state of their process.

Each change makes three modes: `build_NAME` changes it while it is built, `call_NAME` at the end of
each call, and `late_NAME` in its twelfth call, while it is timed. Loaded by `gradbench --from` and
by the tests themselves.
"""

import gc
import io
import json
import locale
import os
import resource
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import types
import warnings

import torch
from torch.autograd import forward_ad, profiler
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from gradbench.problems import registry
from gradbench.worker import gate

kept = []
"""Keeps objects alive that would undo their change when freed."""


class Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Function(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def enter(made):
    kept.append(made)
    made.__enter__()


def nothing(*arguments, **named):
    return None


def same(value):
    return value


def slow_grad(*arguments, _grad=torch.autograd.grad, **named):
    time.sleep(0.001)
    return _grad(*arguments, **named)


def child():
    kept.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]))


def idle_thread():
    threading.Thread(target=threading.Event().wait, args=(100,), daemon=True).start()


def timer():
    signal.signal(signal.SIGPROF, nothing)
    signal.setitimer(signal.ITIMER_PROF, 0.01, 0.01)


def fewer_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))


MEASURED = {
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "check_nan": lambda: torch.autograd.set_detect_anomaly(False, check_nan=False),
    "profile_hook": lambda: sys.setprofile(nothing),
    "trace_hook": lambda: sys.settrace(nothing),
    "thread_hook": lambda: threading.setprofile(nothing),
    "no_grad": lambda: torch.set_grad_enabled(False),
    "inference_mode": lambda: enter(torch.inference_mode()),
    "meta_device": lambda: torch.set_default_device("meta"),
    "cpu_device": lambda: torch.set_default_device("cpu"),
    "device_context": lambda: enter(torch.device("meta")),
    "default_dtype": lambda: torch.set_default_dtype(torch.float64),
    "threads": lambda: torch.set_num_threads(3),
    "precision": lambda: torch.set_float32_matmul_precision("medium"),
    "tf32": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "cudnn_benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "deterministic": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "flush_denormal": lambda: torch.set_flush_denormal(True),
    "dispatch_mode": lambda: enter(Dispatch()),
    "function_mode": lambda: enter(Function()),
    "vmap_level": lambda: torch._C._functorch._vmap_increment_nesting(3, "error"),
    "grad_level": lambda: torch._C._functorch._grad_increment_nesting(),
    "dual_level": forward_ad.enter_dual_level,
    "autocast": lambda: enter(torch.autocast("cpu", dtype=torch.bfloat16)),
    "saved_hooks": lambda: enter(torch.autograd.graph.saved_tensors_hooks(same, same)),
    "hooks_disabled": lambda: enter(torch.autograd.graph.disable_saved_tensors_hooks("no")),
    "multithreading": lambda: torch._C._set_multithreading_enabled(False),
    "profiler": lambda: enter(profiler.profile()),
    "mkldnn": lambda: torch._C._set_mkldnn_enabled(False),
    "module_hook": lambda: torch.nn.modules.module.register_module_forward_hook(nothing),
    "collector": lambda: gc.disable() if gc.isenabled() else gc.enable(),
    "collector_threshold": lambda: gc.set_threshold(1),
    "collector_callback": lambda: gc.callbacks.append(nothing),
    "tracemalloc": tracemalloc.start,
    "timer": timer,
    "patched_grad": lambda: setattr(torch.autograd, "grad", slow_grad),
    "patched_backward": lambda: setattr(torch.Tensor, "backward", nothing),
    "shadowed_method": lambda: setattr(torch.Tensor, "__mul__", nothing),
    "patched_clock": lambda: setattr(time, "perf_counter_ns", lambda: 0),
    "patched_json": lambda: setattr(json, "dumps", nothing),
    "patched_gate": lambda: setattr(gate.Gate, "judge", nothing),
    "child": child,
}
"""Results or times depend on these."""

OTHER = {
    "recursion_limit": lambda: sys.setrecursionlimit(sys.getrecursionlimit() + 1000),
    "switch_interval": lambda: sys.setswitchinterval(1.0),
    "environment": lambda: os.environ.__setitem__("OMP_NUM_THREADS", "7"),
    "folder": lambda: os.chdir("/"),
    "path": lambda: sys.path.insert(0, "/nowhere"),
    "another_path": lambda: setattr(sys, "path", []),
    "signal": lambda: signal.signal(signal.SIGUSR1, nothing),
    "blocked_signal": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2]),
    "umask": lambda: os.umask(0o777),
    "warnings": lambda: warnings.simplefilter("error"),
    "excepthook": lambda: setattr(sys, "excepthook", nothing),
    "stdout": lambda: setattr(sys, "stdout", io.StringIO()),
    "locale": lambda: locale.setlocale(locale.LC_ALL, "C"),
    "module": lambda: sys.modules.__setitem__("decimal", types.ModuleType("decimal")),
    "resource_limit": fewer_files,
    "idle_thread": idle_thread,
}
"""These are restored, and the mode stays ok."""


def busy_thread():
    def work():
        while True:
            pass

    threading.Thread(target=work, daemon=True).start()


def kernel():
    made = torch.library.Library("aten", "IMPL")
    kept.append(made)
    made.impl("ceil", lambda x: x, "CPU")


LOST = {"busy_thread": busy_thread, "kernel": kernel}
"""These cannot be restored."""

LATE = 12
"""More calls than the gate and warming up make, and fewer than a visit makes."""


def declare(name, change):
    def plain(inputs, problem):
        wrt = inputs[: problem.differentiated]
        return torch.autograd.grad(problem.forward(*inputs), wrt)

    @registry.mode("gradient", name=f"build_{name}", leaves=True)
    def build(problem):
        """changes it while it is built"""
        change()
        return lambda inputs: plain(inputs, problem)

    @registry.mode("gradient", name=f"call_{name}", leaves=True)
    def in_calls(problem):
        """changes it in each call"""

        def call(inputs):
            found = plain(inputs, problem)
            change()
            return found

        return call

    @registry.mode("gradient", name=f"late_{name}", leaves=True)
    def late(problem):
        """changes it in later calls"""
        calls = 0

        def call(inputs):
            nonlocal calls
            calls += 1
            found = plain(inputs, problem)
            if calls == LATE:
                change()
            return found

        return call


for name, change in {**MEASURED, **OTHER, **LOST}.items():
    declare(name, change)


@registry.mode("gradient", leaves=True)
def tidy(problem):
    """changes several settings and restores them itself"""

    def call(inputs):
        with torch.autograd.set_detect_anomaly(True), torch.device("cpu"), Dispatch():
            wrt = inputs[: problem.differentiated]
            return torch.autograd.grad(problem.forward(*inputs), wrt)

    return call


@registry.mode("gradient", leaves=True)
def relies_on_its_build(problem):
    """relies on the default dtype that its builder sets"""
    torch.set_default_dtype(torch.float64)

    def call(inputs):
        wrt = inputs[: problem.differentiated]
        found = torch.autograd.grad(problem.forward(*inputs), wrt)
        assert torch.ones(1).dtype == torch.float64, "the default dtype is not float64"
        return found

    return call


@registry.mode("gradient", leaves=True)
def raises_and_leaves(problem):
    """turns gradients off and raises"""

    def call(inputs):
        torch.set_grad_enabled(False)
        raise RuntimeError("no more")

    return call

"""Processes of gradbench that tests start, forked from the process of the tests.

Starting Python and importing torch takes seconds of processor time. A forked process has both
behind it, and imports everything of gradbench anew. It differs from one that was started in what
`/proc` shows of it: the command and the environment are those of the tests.
"""

from __future__ import annotations

import gc
import os
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from pathlib import Path

MODULES = (
    *("gradbench", "gradbench.worker", "gradbench.worker.probe"),
    *("gradbench.studies.corpus.process", "pytest"),
)
"""What is forked: `python -m` one of these."""

STARTED = subprocess.Popen
HERE = str(Path(__file__).parent)

written = HERE + os.sep
"""Where tests write: `conftest.py` sets it. Other temporary folders may have an environment with
torch, which no process can import twice."""

_pythons: dict[str, tuple[str, dict[str, str]]] = {sys.executable: ("", {})}
_showwarning = warnings.showwarning
_rewrites = "_pytest.assertion.rewrite"


def python(path: Path, script: Path | str = "", **variables: str) -> Path:
    """Makes a file that stands for this Python: it sets variables, and runs the script, if one is
    given, whatever it is told to run."""
    given = " ".join(f"{name}={value}" for name, value in variables.items())
    path.write_text(f'#!/bin/sh\nexec env {given} {sys.executable} {script} "$@"\n')
    path.chmod(0o755)
    _pythons[str(path)] = str(script), variables
    return path


class Popen(subprocess.Popen):
    """Forks for `python -m` of one of MODULES; starts any other command as ever."""

    def _execute_child(
        self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo,
        creationflags, shell, *rest,
    ) -> None:  # fmt: skip
        words = [] if shell or isinstance(args, (str, bytes)) else [*map(os.fsdecode, args)]
        ours = words[1:2] == ["-m"] and words[0] in _pythons and words[2] in MODULES
        if not ours or preexec_fn or pass_fds or sys.platform != "linux":
            super()._execute_child(
                args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo,
                creationflags, shell, *rest,
            )  # fmt: skip
            return
        ends, start_new_session = rest[:6], rest[11]
        script, variables = _pythons[words[0]]
        one_thread()
        with warnings.catch_warnings():
            # There are other threads, none of which holds what the new process needs.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                if start_new_session:
                    os.setsid()
                if cwd is not None:
                    os.chdir(cwd)
                _take_streams(ends[0], ends[3], ends[5])
                # Torch takes this once, and those that are forked inherit it.
                sys.modules["torch"].set_num_interop_threads = lambda number: None
                _forget_tests(dict(os.environ if env is None else env) | variables)
                code = _run(script, words[2:])
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        self._child_created = True
        self._close_pipe_fds(*ends)


def one_thread() -> None:
    """Has torch start no threads in this process: those that are forked would wait for them."""
    import torch

    torch.set_num_threads(1)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)


def _take_streams(*ends: int) -> None:
    """Makes these the standard streams, where they are not -1, and closes all other descriptors."""
    for number, end in enumerate(ends):
        if end != -1:
            os.dup2(end, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, closefd=False) for number, mode in enumerate("rww")
    )
    sys.stderr.reconfigure(line_buffering=True)


def _forget_tests(environment: dict[str, str]) -> None:
    """Sets what a new Python finds: its environment, signals, warnings and path."""
    os.environ.clear()
    os.environ.update({os.fsdecode(k): os.fsdecode(v) for k, v in environment.items()})
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            mine = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, mine)
    warnings.resetwarnings()
    for ignored in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", ignored)
    warnings.showwarning = _showwarning
    added = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    sys.path[:] = [os.getcwd(), *added, *(p for p in sys.path if p not in added and p != HERE)]
    sys.path_importer_cache.clear()
    # pytest rewrites the assertions of packages with plugins, and cannot run their modules.
    sys.meta_path[:] = [f for f in sys.meta_path if type(f).__module__ != _rewrites]


def _of_tests(name: str) -> bool:
    """Whether a module is gradbench's, one of the tests, or one that a test wrote: a new Python has
    loaded none of them."""
    place = str(getattr(sys.modules[name], "__file__", None))
    return name.startswith("gradbench") or place.startswith((HERE + os.sep, written))


def _run(script: str, words: list[str]) -> int:
    """Runs the script, or the module that is the first word, as Python does; the exit code."""
    # Kept, so that nothing is cleaned up here that the process of the tests still needs.
    kept = [sys.modules.pop(name) for name in list(sys.modules) if _of_tests(name)]
    gc.freeze()
    try:
        if script:
            sys.argv[:] = [script, "-m", *words]
            runpy.run_path(script, run_name="__main__")
        else:
            sys.argv[:] = words
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    except SystemExit as left:
        if not isinstance(left.code, (int, type(None))):
            print(left.code, file=sys.stderr)
            return 1
        return left.code or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        del kept
    return 0

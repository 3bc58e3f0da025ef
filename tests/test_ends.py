"""How a command ends: stopped by a signal, with closed or full streams, on poor terminals, by a
fault of gradbench itself. Never with a traceback, and never without what was measured."""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from gradbench.cli import streams

ENTRY = (sys.executable, "-m", "gradbench")
STORED = Path(__file__).parents[1] / "results" / "runs" / "20261125-063236-ebd80c.jsonl.xz"
TINY = ("run", "-f", "exp", "-o", "vjp", "-m", "grad", "-m", "forward", "--sessions", "1")
TINY += ("--budget", "0.01")

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals and pipes of Unix")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    place = tmp_path_factory.mktemp("results")
    (place / "runs").mkdir()
    shutil.copy(STORED, place / "runs")
    return place


def shell(line, **environment):
    """A line for the shell, in which `gradbench` is the command."""
    script = f'gradbench() {{ {sys.executable} -m gradbench "$@"; }}\nset -o pipefail\n{line}'
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        timeout=180,
        env=os.environ | environment,
    )


def stored(results):
    """The lines of the one run that there is."""
    (path,) = (results / "runs").glob("*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


# ── streams ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("ends", "code"),
    [
        ("<&- >&- 2>&-", 0),
        (">/dev/full", 2),
        ("2>/dev/full >&-", 0),
        ("2>&1 | head -1", 0),
    ],
)
def test_a_run_measures_whatever_becomes_of_its_streams(tmp_path, ends, code):
    done = shell(f"gradbench {' '.join(TINY)} {ends}", GRADBENCH_RESULTS=str(tmp_path))
    assert done.returncode == code, done.stderr
    kinds = [line["kind"] for line in stored(tmp_path)]
    assert kinds.count("session") == 1
    assert stored(tmp_path)[-1]["finished"]
    err = done.stderr.decode()
    assert "Traceback" not in err
    assert ("cannot write to standard output: no space left on device" in err) == (code == 2)


@pytest.mark.parametrize(
    ("ends", "code", "lines"),
    [
        (">&-", 0, 0),
        ("2>&-", 0, 0),
        ("| true", 0, 0),
        ("| head -1 >/dev/null", 0, 0),
        (">/dev/full", 2, 1),
        (">/dev/full 2>&1", 2, 0),
        ("2>/dev/full >/dev/null", 0, 0),
    ],
)
@pytest.mark.parametrize("command", ["show --all", "show --format csv", "--help"])
def test_nothing_is_raised_where_nobody_reads(results, command, ends, code, lines):
    done = shell(f"gradbench {command} {ends}", GRADBENCH_RESULTS=str(results))
    assert done.returncode == code, done.stderr
    assert len(done.stderr.splitlines()) == lines, done.stderr


def test_a_pipe_that_breaks_leaves_the_exit_code(results):
    """A gate that a script reads is not opened by `head`."""
    done = shell(
        f"gradbench compare --fail-on any {STORED} {STORED} | true; echo ${{PIPESTATUS[0]}}",
        GRADBENCH_RESULTS=str(results),
    )
    assert done.stdout.split() == [b"0"]
    done = shell("gradbench show never | true; echo ${PIPESTATUS[0]}")
    assert done.stdout.split() == [b"2"]


# ── terminals ─────────────────────────────────────────────────────────────────────────────────

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("environment", [C_LOCALE, {"PYTHONIOENCODING": "ascii"}], ids=str)
@pytest.mark.parametrize(
    "command", ["show --all", "show --format json", "show --format csv", "show --format md"]
)
def test_a_terminal_without_unicode_is_shown_the_nearest_letters(results, command, environment):
    done = shell(f"gradbench {command}", GRADBENCH_RESULTS=str(results), **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert done.stderr.isascii()
    assert b"\\x" not in done.stdout
    if command == "show --all":
        assert b" us" in done.stdout
        assert b"x fastest" in done.stdout
    if "json" in command:
        json.loads(done.stdout)


def on_a_terminal(*words, size=(24, 80), **environment):
    """The exit code and all that a command writes on a pseudo-terminal of a size."""
    import fcntl
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    process = subprocess.Popen(
        [*ENTRY, *words],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={k: v for k, v in os.environ.items() if k != "COLUMNS"} | environment,
    )
    os.close(theirs)
    written = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:
            break
        if not piece:
            break
        written += piece
    os.close(ours)
    return process.wait(60), written


@pytest.mark.parametrize(
    ("size", "environment"),
    [
        ((24, 80), {}),
        ((0, 0), {}),
        ((1, 1), {}),
        ((24, 80), {"COLUMNS": "0"}),
        ((24, 80), {"COLUMNS": "junk"}),
        ((24, 80), {"TERM": "dumb"}),
        ((24, 80), {"NO_COLOR": "1"}),
        ((24, 80), {"PYTHONIOENCODING": "ascii", "TERM": "xterm"}),
    ],
    ids=str,
)
def test_any_terminal_will_do(results, size, environment):
    terminal = {"TERM": "xterm-256color"} | environment
    code, written = on_a_terminal("show", "--all", "--results", str(results), size=size, **terminal)
    assert code == 0, written
    assert b"Traceback" not in written
    codes = set(re.findall(rb"\x1b\[([\d;]*)m", written))
    colours = {c for c in codes if any(30 <= int(n or 0) <= 107 for n in c.split(b";"))}
    assert bool(codes) == (environment.get("TERM") != "dumb")
    assert not colours or "NO_COLOR" not in environment
    # What is not a style is text.
    assert b"\x1b" not in re.sub(rb"\x1b\[[\d;]*m", b"", written)


def test_a_stream_shows_what_it_must_not_obey(tmp_path):
    target = tmp_path / "written"
    with target.open("wb") as file:
        stream = streams.Stream(file.fileno(), None)
        print("a\x1b[31mb\x00c\udce9d\u202ee\tf", file=stream)
        stream.flush()
    assert target.read_bytes() == b"a\\x1b[31mb\\x00c\\udce9d\\u202ee\tf\n"


# ── signals ───────────────────────────────────────────────────────────────────────────────────


def started(*words, until, **environment):
    """A command that runs until its standard error or the file system says what is waited for."""
    process = subprocess.Popen(
        [*ENTRY, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    end = time.monotonic() + 120
    while not until(process):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    return process


def measuring(process):
    """Whether the command has started a process that measures."""
    return any("gradbench.worker" in " ".join(c.cmdline()) for c in children(process))


def children(process):
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def assert_gone(processes):
    """The processes have ended; whether somebody has asked for their exit code is not ours."""

    def ended(process):
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    end = time.monotonic() + 60
    while alive := [process for process in processes if not ended(process)]:
        assert time.monotonic() < end, alive
        time.sleep(0.05)


def has_log(results, folder="runs"):
    def look(process):
        logs = list((results / folder).glob("*.jsonl"))
        return bool(logs) and logs[0].read_text().count("\n") > 1 and measuring(process)

    return look


@pytest.mark.started
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_run_that_is_stopped_says_how_to_resume_it(tmp_path, name):
    process = started(*TINY, "--results", str(tmp_path), until=has_log(tmp_path))
    left = children(process)
    # The others come while the first is being seen to; on a busy machine all at once, in any order.
    sent = (getattr(signal, name), signal.SIGTERM, signal.SIGINT)
    for number in sent:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode in {128 + number for number in sent}
    assert out == ""
    assert re.search(r"^Resume it with: gradbench run --resume \S+\n\Z", err, re.M), err
    assert "Traceback" not in err
    assert stored(tmp_path)[-1]["kind"] == "end"
    assert not stored(tmp_path)[-1]["finished"]
    assert_gone(left)


@pytest.mark.started
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("verify",), "checked"),
        (("study", "aa", "--trials", "20"), "Resume it with: gradbench study aa"),
        (("report", "--to", "page"), "written whole or not at all"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_every_long_command_ends_with_one_word_on_a_signal(results, tmp_path, words, says):
    place = tmp_path / "results"
    shutil.copytree(results, place)
    until = has_log(place, "studies") if words[0] == "study" else measuring
    process = started(*words, until=until, GRADBENCH_RESULTS=str(place))
    left = children(process)
    process.terminate()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    # What has measured or checked something by then shows it.
    assert out == "" or words[0] in ("study", "verify")
    assert says in err.splitlines()[-1], err
    assert "Traceback" not in err
    assert_gone(left)


HANGING = """
import pathlib, time
from gradbench.problems.registry import mode

@mode("derivative")
def half(problem):
    "wrong"
    formula = problem.function.derivatives["derivative"]
    return lambda inputs: formula(*inputs) / 2

@mode("derivative")
def stuck(problem):
    "does not come back"
    def call(inputs):
        pathlib.Path({marker!r}).touch()
        time.sleep(600)
    return call
"""


@pytest.mark.started
@pytest.mark.parametrize("form", ["table", "json", "csv"])
def test_a_verification_that_is_stopped_shows_what_was_checked(tmp_path, form):
    marker, suite = tmp_path / "reached", tmp_path / "hanging.py"
    suite.write_text(HANGING.format(marker=str(marker)))
    words = ("verify", "-f", "square", "-f", "residual", "-o", "derivative", "--format", form)
    words += ("-m", "grad", "-m", "half", "-m", "stuck", "--dtype", "float64", "--from", str(suite))
    process = started(*words, until=lambda process: marker.exists())
    left = children(process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Stopped: 2 of 2 comparisons left unchecked." in err.splitlines()[-1]
    if form == "table":
        assert "2 cases: 1 ok, 1 wrong" in out
    elif form == "json":
        assert [row["status"] for row in json.loads(out)] == ["wrong"]
    assert "derivative/square/documents/float64/cpu/1/half" in out
    assert_gone(left)


AT_IMPORT = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            sys.meta_path.remove(self)
            {action}
sys.meta_path.insert(0, Finder())
sys.argv[:] = ["gradbench", *{words!r}]
from gradbench.__main__ import main
main()
"""
SIGNALLED = "exec('os.kill(os.getpid(), signal.{})')"


def at_import(module, action, *words, **environment):
    """Something that happens just as the command imports a module."""
    code = AT_IMPORT.format(module=module, action=action, words=words)
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )


MOMENTS = ("click", "rich.console", "gradbench.cli.ending", "gradbench.cli.show_command")
MOMENTS += ("gradbench.store.runs", "gradbench.analysis.runs", "rich.text")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.parametrize("module", MOMENTS)
def test_a_signal_at_any_moment_is_one_line(results, module, name):
    action = SIGNALLED.format(name)
    done = at_import(module, action, "show", "--results", str(results))
    assert done.stderr == "gradbench: stopped\n"
    assert done.returncode == 128 + getattr(signal, name)


def test_a_signal_that_is_ignored_stays_ignored(results):
    """As under nohup, whose point that is."""
    action = SIGNALLED.format("SIGHUP")
    code = AT_IMPORT.format(module="gradbench.analysis.runs", action=action, words=["show"])
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\n" + code,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"GRADBENCH_RESULTS": str(results)},
    )
    assert done.returncode == 0, done.stderr
    assert "Cases" in done.stdout


# ── faults ────────────────────────────────────────────────────────────────────────────────────

RAISED = {
    "RuntimeError('broken\\n\\x1b[31m')": (70, "internal error: RuntimeError (broken \\x1b[31m)"),
    "MemoryError()": (70, "internal error: MemoryError"),
    "RecursionError('too deep')": (70, "internal error: RecursionError"),
    "UnicodeDecodeError('utf-8', b'x', 0, 1, 'y')": (70, "internal error: UnicodeDecodeError"),
    "EOFError()": (70, "internal error"),
    "OSError(28, 'No space left on device', 'a\\x1bb')": (2, "a\\x1bb: no space left on device"),
    "OSError(30, 'Read-only file system')": (2, "read-only file system"),
    "PermissionError(13, 'Permission denied', 'x')": (2, "x: permission denied"),
    "OSError(24, 'Too many open files')": (2, "too many open files"),
    "OSError(36, 'File name too long', 'y')": (2, "y: file name too long"),
}


@pytest.mark.parametrize("error", RAISED)
def test_an_error_that_nobody_expected_is_one_line(results, error):
    code, says = RAISED[error]
    action = f"raise {error}"
    done = at_import("gradbench.analysis.runs", action, "show", "--results", str(results))
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"gradbench: {says}"), done.stderr


def test_a_warning_is_one_line(results):
    action = "import warnings; warnings.warn('odd\\n\\x1b[31m')"
    done = at_import("gradbench.analysis.runs", action, "show", "--results", str(results))
    assert done.returncode == 0
    assert done.stderr == "note: odd \\x1b[31m\n"


def test_a_signal_that_comes_in_a_finaliser_is_not_lost(results):
    """Python drops the exception; the command ends where it next says how far it is."""
    code = """if True:
        import os, signal, sys
        from gradbench.cli import ending, output, progress, streams
        from gradbench.runner.progress import Progress

        class Final:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGTERM)

        streams.prepare()
        ending.listen()
        final = Final()
        del final
        try:
            with progress.progress("measuring") as report:
                report(Progress(0, 1, "", 0.0))
        except KeyboardInterrupt:
            ending.leave(output.stopped("Stopped"))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (143, "Stopped\n")


def test_a_traceback_is_shown_to_who_asks_for_it(results):
    done = at_import(
        "gradbench.analysis.runs",
        "raise RuntimeError('broken')",
        *("show", "--results", str(results)),
        GRADBENCH_TRACEBACK="1",
    )
    assert done.returncode == 70
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("gradbench: internal error: RuntimeError")


def test_a_folder_that_is_gone_is_named(tmp_path):
    gone = tmp_path / "gone"
    for command in ("show", "list", "run --dry-run"):
        gone.mkdir()
        done = shell(f"cd {gone}; rmdir {gone}; gradbench {command}")
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].endswith(
            b"does not exist any more: change to another one"
        )
        assert b"Traceback" not in done.stderr


# ── one way out ───────────────────────────────────────────────────────────────────────────────


def test_commands_write_through_one_module():
    """What writes past it would show text from outside as it is."""
    package = Path(streams.__file__).parents[1]
    past = re.compile(
        r"\bclick\.(s?echo|secho|confirm|prompt)\(|\bprint\(|\bConsole\(|sys\.std(out|err)"
    )
    may = {"output.py", "progress.py", "streams.py", "ending.py", "__init__.py"}
    worker_side = {
        *(
            "__main__.py",
            "failures.py",
            "probe.py",
            "registry.py",
            "process.py",
            "bound.py",
            "detection.py",
        )
    }
    # What Python functions show, and what asv's process writes.
    from_python = {"showing.py", "asv_suite.py"}
    for path in package.rglob("*.py"):
        if path.name in may | worker_side | from_python:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert not past.search(line.replace(".print(", "")), f"{path}:{number}: {line}"

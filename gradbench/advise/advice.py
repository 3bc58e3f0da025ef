"""Advice on a user's function: probe it, measure every way that applies, say what was found."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradbench.advise import OPERATORS
from gradbench.analysis.runs import Judged, Row, judged, record
from gradbench.core import text
from gradbench.core.cases import (
    FORWARD,
    TORCH_DTYPES,
    YOURS,
    Comparison,
    Entry,
    Place,
    Selection,
    expand,
)
from gradbench.core.instruments import PEAK_MEMORY, WALL_TIME
from gradbench.core.suggest import hint
from gradbench.core.units import reading
from gradbench.runner.answers import cleaned
from gradbench.runner.plan import start
from gradbench.runner.progress import Report
from gradbench.runner.run import measure
from gradbench.runner.settings import PROFILES, Settings
from gradbench.runner.wire import Worker, WorkerOptions
from gradbench.runner.workers import Discovery, discover
from gradbench.store.files import write_text
from gradbench.store.lines import new_id

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PEAK = PEAK_MEMORY.name

SESSIONS = 8
"""Processes that measure, as far as the budget allows."""

FIRST_OF_ALL = {"batch_jacobian": "naive_full", "diagonal": "dense_diagonal"}
"""What people write first who do not know of the structure."""

PATIENCE = 0.003
"""The share of the budget that one call of a mode may take."""

LAST = 0.5
"""Seconds kept for judging what was measured."""

LEAN = 0.5
"""Another mode's memory is worth a word below this share of the fastest's, where it takes no more
than `NEARLY` times as long."""
NEARLY = 1.5


class Refusal(Exception):
    """gradbench cannot advise on the function; the message says why, in one line."""


@dataclass(frozen=True)
class Question:
    """What is asked. `inputs` are pairs of a name and an expression; times in seconds.

    `budget` is what the whole answer may take: looking at the function, starting processes,
    checking and timing.
    `passed` is the file that the function and its inputs were written to, where they are objects
    of the caller's; `inputs` is empty then.
    """

    target: str
    inputs: tuple[tuple[str, str], ...]
    wrt: tuple[str, ...] = ()
    operator: str = ""
    dtype: str = "float32"
    budget: float = 30.0
    timeout: float = 60.0
    memory_limit: int = 4 << 30
    seed: int = 0
    passed: str = ""
    maker: str = ""
    """A function, as ``module:function``, that returns further inputs."""
    device: str = "cpu"
    also: tuple[str, ...] = ()
    """Derivatives of the user's own to measure beside, as ``module:function``."""

    def spec(self, pattern: str = "") -> dict[str, Any]:
        """What the processes that load the function are told."""
        return {
            "target": self.target,
            "inputs": list(self.inputs),
            "wrt": list(self.wrt),
            "dtype": self.dtype,
            "memory_limit": self.memory_limit,
            "seed": self.seed,
            "passed": self.passed,
            "maker": self.maker,
            "also": list(self.also),
            "device": self.device,
            "pattern": pattern,
            "operator": self.operator,
        }


@dataclass(frozen=True, repr=False)
class Advice:
    """The findings on a function, and the judged run.

    In a notebook it displays itself as a table and a figure for each operator.
    """

    target: str
    found: dict[str, Any]
    """The evidence, the structure and the theoretical cost, in sentences, and the inputs."""
    judged: Judged
    path: Path
    """The stored run."""
    seconds: float
    budget: float
    """The time the answer took, and its budget, in seconds."""

    @property
    def name(self) -> str:
        """The function's name without its module."""
        return self.target.rpartition(":")[2].rpartition(".")[2]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """A row per mode, with the columns of `gradbench.verdicts`."""
        import pandas as pd

        return pd.DataFrame([record(row, self.judged) for row in self.judged.rows])

    @property
    def operators(self) -> list[str]:
        """The operators that were measured."""
        return [Comparison.parse(name).operator for name in self.judged.baselines]

    def winner(self, operator: str = "") -> str:
        """The fastest mode of an operator (default: the first); empty if none was timed."""
        row = _winner(self.rows(operator))
        return row.mode if row else ""

    def rows(self, operator: str = "") -> list[Row]:
        """The modes of an operator, the fastest first, modes without times last.

        Raises ValueError if the operator was not measured.
        """
        operator = operator or self.operators[0]
        if operator not in self.operators:
            raise ValueError(f"{operator!r} was not measured, but {', '.join(self.operators)}")
        mine = [
            row
            for row in self.judged.rows
            if Comparison.parse(row.comparison).operator == operator and row.mode != FORWARD
        ]
        return sorted(mine, key=lambda r: math.inf if r.seconds is None else r.seconds)

    def code(self, operator: str = "", mode: str = "") -> str:
        """The code of a mode (default: the fastest), to paste.

        Raises ValueError if there is no such mode.
        """
        operator, mode = operator or self.operators[0], mode or self.winner(operator)
        code: dict[str, str] = self.found["code"] | self.found["own"]
        if operator not in self.operators or mode not in code:
            raise ValueError(f"there is no code of a mode {mode!r} of {operator}")
        return code[mode]

    def gain(self, operator: str = "") -> str:
        """A sentence on how much faster the fastest mode is than the usual choice; empty if they
        are the same."""
        rows = self.rows(operator)
        best = _winner(rows)
        first = self.judged.baselines[rows[0].comparison] if rows else ""
        usual = next((row for row in rows if row.mode == first), None)
        if best is None or usual is None or usual is best or usual.to_fastest is None:
            return ""
        ratio = usual.to_fastest
        return (
            f"{best.mode} is {ratio.value:.3g}× faster than {first}, the usual choice "
            f"(95 % interval {ratio.low:.3g} to {ratio.high:.3g}"
            f"{', too close to call' if usual.verdict == 'undecided' else ''})."
        )

    def own(self, operator: str = "") -> list[str]:
        """A sentence for each derivative given with `also`."""
        best, said = _winner(self.rows(operator)), []
        for row in self.rows(operator):
            if row.mode not in self.found["own"] or row is best:
                continue
            if row.to_fastest is None or best is None:
                said.append(f"Your {row.mode} was not timed: {row.status}, {row.reason}.")
                continue
            ratio = row.to_fastest
            said.append(
                f"Your {row.mode} takes {ratio.value:.3g}× the time of {best.mode} (95 % interval "
                f"{ratio.low:.3g} to {ratio.high:.3g}; {row.verdict})."
            )
        return said

    def memory(self, operator: str = "") -> str:
        """A sentence on the mode that needs far less memory in nearly the same time as the fastest;
        empty if there is none."""
        rows = [row for row in self.rows(operator) if PEAK in row.readings and row.seconds]
        best = _winner(rows)
        if best is None or best.seconds is None:
            return ""
        near = [row for row in rows if row.seconds and row.seconds <= NEARLY * best.seconds]
        lean = min(near, key=lambda row: row.readings[PEAK])
        if lean.readings[PEAK] > LEAN * best.readings[PEAK]:
            return ""
        return (
            f"{lean.mode} needs {reading(lean.readings[PEAK], 'bytes')} of memory instead of "
            f"{reading(best.readings[PEAK], 'bytes')}, in "
            f"{lean.seconds / best.seconds:.3g}× the time."  # type: ignore[operator]
        )

    def told(self, operator: str = "") -> list[str]:
        """The sentences of `gain`, `own` and `memory`."""
        said = [self.gain(operator), *self.own(operator), self.memory(operator)]
        return [sentence for sentence in said if sentence]

    @property
    def took(self) -> str:
        """A sentence on how long the answer took."""
        return f"Took {self.seconds:.0f} s (budget {self.budget:g} s)."

    def figure(self, operator: str = "") -> Figure:
        """A plot of each mode's time as a multiple of the fastest's, with its interval.

        Raises NothingToDraw if no mode was timed.
        """
        from matplotlib.figure import Figure

        from gradbench.report.ratios import dots

        name = self.rows(operator)[0].comparison
        frame = self.frame.assign(
            comparison=[row.comparison for row in self.judged.rows], by_hand=False
        )
        # Not of pyplot: a notebook would show it a second time.
        drawn = Figure(figsize=(8.6, 1.5 + 0.27 * len(self.rows(operator))))
        ax = drawn.add_subplot()
        dots(frame[frame["comparison"] == name], ax)
        ax.set_title(f"{Comparison.parse(name).operator} of {self.name}", loc="left", fontsize=9.5)
        ax.set_title("")
        return drawn

    def __repr__(self) -> str:
        told = [f"{operator}: {self.winner(operator) or 'none'}" for operator in self.operators]
        return f"<Advice on {self.name}: {', '.join(told)}>"

    def _repr_html_(self) -> str:
        return html(self)


def _winner(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row.verdict == "fastest"), None)


_PAGE = """
{% for part in parts %}
<h4>{{ part.title }}</h4>
<table><thead><tr>{% for c in columns %}<th>{{ c }}</th>{% endfor %}</tr></thead><tbody>
{% for row in part.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>
{% if part.picture %}<img src="data:image/png;base64,{{ part.picture }}"
  alt="{{ part.title }}: time as a multiple of the fastest" style="max-width: 100%">{% endif %}
{% for line in part.said %}<p>{{ line }}</p>
{% endfor %}
{% if part.code %}<pre>{{ part.code }}</pre>{% endif %}
{% endfor %}
<details><summary>Evidence, structure and cost</summary><ul>
{% for line in said %}<li>{{ line }}</li>{% endfor %}</ul></details>
"""


def _figures(number: float) -> str:
    """A number with three figures at least, and no exponent."""
    return f"{number:,.0f}" if number >= 99.5 else f"{number:.3g}"


def html(advice: Advice) -> str:
    """The advice as a piece of a page: a table, a figure and the code for each operator."""
    import base64
    import io

    import jinja2

    from gradbench.report.style import NothingToDraw, write

    parts = []
    for operator in advice.operators:
        rows = advice.rows(operator)
        picture = io.BytesIO()
        with contextlib.suppress(NothingToDraw):
            write(advice.figure(operator), picture, format="png", dpi=110, bbox_inches="tight")
        parts.append(
            {
                "title": f"{operator} of {advice.name}, by {', '.join(advice.found['wrt'])}",
                "rows": [
                    (
                        row.mode,
                        _figures(row.seconds * 1e6) if row.seconds is not None else "",
                        _figures(row.to_fastest.value) if row.to_fastest else "",
                        reading(row.readings[PEAK], "bytes") if PEAK in row.readings else "",
                        row.verdict or f"{row.status}: {row.reason}",
                    )
                    for row in rows
                ],
                "picture": base64.b64encode(picture.getvalue()).decode(),
                "said": advice.told(operator),
                "code": advice.code(operator) if _winner(rows) else "",
            }
        )
    found = advice.found
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, finalize=text.finalized)
    page = environment.from_string(_PAGE)
    return page.render(
        parts=parts,
        columns=("mode", "µs a call", "× fastest", "peak memory", "verdict"),
        said=[*found["evidence"], *found["structure"], *found["cost"], advice.took],
    )


OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
"""What ends a process from outside: it is tried once more."""

FOUND = {
    *("code", "pattern", "operators", "refusals", "wrt", "evidence", "structured", "per_sample"),
    *("structure", "own", "cost"),
}
"""What the probing process tells of a function on which advice can be given."""


def examine(question: Question, pattern: str = "") -> dict[str, Any]:
    """What the probing process finds. Raises Refusal, also where that process dies or hangs.

    `pattern` is the file to keep the places of a sparse jacobian's entries in.
    """
    out, err, code = _probed(question, pattern)
    if -code in OUTSIDE:
        out, err, code = _probed(question, pattern)
    try:
        answer = cleaned(json.loads(out))
    except (ValueError, RecursionError):
        with contextlib.suppress(ValueError):
            how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            raise Refusal(f"it ends its process ({how}){_last_seen(err)}") from None
        raise Refusal(f"it ends its process (signal {-code})") from None
    if isinstance(answer, dict) and "refused" in answer:
        raise Refusal(text.line(str(answer["refused"]), 600))
    if not isinstance(answer, dict) or not answer.keys() >= FOUND:
        raise Refusal("what its process answers cannot be read: does it write on descriptors?")
    return answer


def _probed(question: Question, pattern: str) -> tuple[bytes, bytes, int]:
    """What one probing process writes, on standard output and error, and its exit code."""
    with tempfile.TemporaryDirectory(prefix="gradbench-") as scratch:
        spec = Path(scratch) / "spec.json"
        spec.write_text(json.dumps(question.spec(pattern)))
        process = subprocess.Popen(
            [sys.executable, "-m", "gradbench.worker.probe", str(spec), str(os.getpid())],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=min(question.timeout, question.budget))
        except subprocess.TimeoutExpired:
            if question.budget < question.timeout:
                raise _too_short(question, f"more than {question.budget:g} s") from None
            raise Refusal(f"it did not end within {question.timeout:g} s (--timeout)") from None
        finally:
            # The group may outlive the process that it is named after.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return out, err, process.returncode


def _last_seen(written: bytes) -> str:
    """Where the function was when its process died, if Python could still say so."""
    _, _, frames = written.decode(errors="replace").rpartition("Fatal Python error")
    ours = (str(Path(__file__).parents[1]), str(Path(sys.prefix) / "lib"))
    for place, line in re.findall(r'File "([^"<]+)", line (\d+)', frames):
        if not place.startswith(ours) and f"{os.sep}site-packages{os.sep}" not in place:
            return f" at {place}:{line}"
    return ""


def advise(question: Question, results: Path, report: Report, command: list[str]) -> Advice:
    """Probes, gates and measures; the run is stored in `results` like any other.

    The whole ends within the question's budget where two processes can measure in that; where a
    single call of the function outlasts it, it ends after what cannot be left out.

    Raises Refusal where no advice can be given, StoreError and WorkerError as `run.measure` does.
    """
    began = time.perf_counter()
    # What the run needs stays beside the runs, so that an interrupted one can be resumed.
    suites = results.resolve() / "advise"
    suites.mkdir(parents=True, exist_ok=True)
    name = new_id()
    pattern = suites / f"pattern_{name}.pt"
    suite = suites / f"suite_{name.replace('-', '_')}.py"
    passed = [Path(question.passed)] if question.passed else []
    try:
        # With TF32 the code to paste would lack what switches it on.
        if question.dtype not in TORCH_DTYPES:
            raise Refusal(f"dtype {question.dtype!r} is none of {', '.join(TORCH_DTYPES)}")
        if question.operator and question.operator not in OPERATORS:
            near = hint(question.operator, OPERATORS)
            raise Refusal(
                f"--operator {question.operator}: it is none of {', '.join(OPERATORS)}"
                + (f"; {near}" if near else "")
            )
        _require_device(question.device)
        found, prepared = _prepared(question, pattern, suite, began)
        entries, settings, discovery, options = prepared
        loaded = [str(file) for file in (*passed, pattern) if Path(file).exists()]
        log, run = start(results, entries, settings, discovery, options.files, command, loaded)
    except BaseException:
        # Nothing was measured, so there is nothing to resume: the user's data go with the refusal.
        _delete([pattern, suite, *passed])
        raise
    with log:
        run = measure(log, run, settings, options, discovery, report)
    if run.finished:
        # A run that is over is not resumed; the code to paste may need the pattern.
        _delete([suite, *passed, *([] if found["pattern"] else [pattern])])
    answer = judged(run.path)
    seconds = time.perf_counter() - began
    return Advice(question.target, found, answer, run.path, seconds, question.budget)


def _delete(paths: Sequence[Path]) -> None:
    """Deletes files, and their folder where nothing else is in it."""
    for path in paths:
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        paths[0].parent.rmdir()


def _require_device(device: str) -> None:
    """Raises Refusal where nothing can be measured on a device here."""
    try:
        place = Place.parse(device)
    except ValueError as error:
        raise Refusal(f"--device: {error}") from error
    if str(place) != place.device:
        raise Refusal(f"--device {device}: advice is given on a device alone, as {place.device}")
    if not place.on_cpu:
        with Worker(WorkerOptions()) as worker:
            there, torch = worker.environment["devices"], worker.environment["torch"]
        if place.device not in there:
            raise Refusal(f"--device {device}: there are {', '.join(there)} with torch {torch}")


def _too_short(question: Question, needed: str) -> Refusal:
    return Refusal(
        f"a budget of {question.budget:g} s is too short: looking at the function and starting "
        f"processes take {needed} here (--budget)"
    )


Prepared = tuple[list[Entry], Settings, Discovery, WorkerOptions]


def _prepared(
    question: Question, pattern: Path, suite: Path, began: float
) -> tuple[dict[str, Any], Prepared]:
    """What was found of the function, and the run that is to be made of it.

    Raises Refusal where there is none to be made.
    """
    found = examine(question, str(pattern))
    asked = question.operator or found["operators"][0]
    if asked in found["refusals"]:
        raise Refusal(found["refusals"][asked])
    if asked not in found["operators"]:
        there = [name for name in found["operators"] if name not in found["refusals"]]
        raise Refusal(f"--operator {asked}: for this function there are {', '.join(there)}")
    spec = question.spec(str(pattern)) | {
        "operators": [asked],
        **{k: found[k] for k in ("structured", "per_sample")},
    }
    write_text(suite, f"from gradbench.worker.subject import register\n\nregister({spec!r})\n")
    options = WorkerOptions(files=(str(suite),), memory_limit=question.memory_limit)
    before = time.perf_counter()
    discovery = discover(options)
    start_up = time.perf_counter() - before
    by_hand = set(discovery.by_hand)
    entries = [
        replace(entry, modes=tuple(m for m in entry.modes if m not in by_hand))
        for entry in expand(
            discovery.offers,
            Selection(functions=(YOURS,), dtypes=(question.dtype,), devices=(question.device,)),
        )
    ]
    base = PROFILES["quick"].settings
    spent = time.perf_counter() - began + LAST
    needed = spent + 3 * start_up
    if question.budget < needed:
        raise _too_short(question, f"{needed:.0f} s")
    instruments: tuple[str, ...] = (WALL_TIME,)
    if not discovery.unavailable.get(PEAK):
        instruments += (PEAK,)
    settings = replace(
        base,
        sessions=SESSIONS,
        stopping=replace(base.stopping, max_rounds=100, budget=question.budget),
        timeout=question.timeout,
        memory_limit=question.memory_limit,
        seed=question.seed,
        instruments=instruments,
        baseline=FIRST_OF_ALL.get(asked, ""),
        total=question.budget - spent,
        patience=PATIENCE * question.budget,
    )
    return found, (entries, settings, discovery, options)

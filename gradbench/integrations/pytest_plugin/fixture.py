"""The fixture: `gradbench(f, x).jacobian(my_jacobian)` and what a test claims of it."""

from __future__ import annotations

import dataclasses
import functools
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import cloudpickle
import pytest

from gradbench.advise.live import asked
from gradbench.advise.question import Question, Refusal
from gradbench.core import arguments
from gradbench.core.cases import fits
from gradbench.core.operators import ADVISED
from gradbench.core.suggest import hint
from gradbench.core.text import line
from gradbench.integrations.pytest_plugin import UNDECIDED, GradbenchWarning
from gradbench.integrations.pytest_plugin.checking import Checked, check, known_modes
from gradbench.integrations.pytest_plugin.claims import Claim, Timed, faster_than_all, no_slower
from gradbench.integrations.pytest_plugin.room import Record, Room
from gradbench.runner.wire import WorkerError
from gradbench.store.lines import StoreError

OPTIONS = (
    "budget",
    "threads",
    "modes",
    "wrt",
    "dtype",
    "definition",
    "undecided",
    "timeout",
    "memory_limit",
    "seed",
)
"""What the marker, and a call of the fixture, may say."""

LONGEST = 200
"""Characters of a test's name in a run."""

OFF = "right, and not timed: pytest --gradbench times it"


def _fail(message: str) -> NoReturn:
    __tracebackhide__ = True
    raise pytest.fail.Exception(f"gradbench: {message}") from None


class Bench:
    """The fixture of one test: call it with a function and its inputs."""

    def __init__(self, request: pytest.FixtureRequest, room: Room) -> None:
        self.room = room
        self.node = request.node
        self.module = getattr(request, "module", None)
        self.table = _benchmark(request)
        self.records: list[Record] = []
        self.unused: list[Differentiable] = []
        """The functions of which no derivative was named yet."""
        self.open: list[str] = []
        """Claims that are too close to call."""
        self.off = False
        """Whether a claim could not be tried as nothing is timed."""
        self.undecided = room.undecided
        self._names: Counter[tuple[str, str]] = Counter()

    def __call__(self, function: Callable[..., Any], *inputs: Any, **named: Any) -> Differentiable:
        """Takes a function and its inputs, by position or by name, as `gradbench.compare` does.

        Options, by name: `wrt`, `dtype`, `definition`, `threads`, `seed`, `memory_limit` and
        `timeout` as for `gradbench.compare`; `budget`, seconds for timing; `modes`, globs of the
        modes to time beside your derivative and the usual choice; `undecided`, what a claim that
        is too close to call does. The marker `gradbench` sets them for a test, a class or a file.
        """
        __tracebackhide__ = True
        options = self._marked()
        options |= {name: named.pop(name) for name in OPTIONS if name in named}
        undecided = options.pop("undecided", self.undecided)
        if undecided not in UNDECIDED:
            _fail(f"undecided is {undecided!r}, and should be one of {', '.join(UNDECIDED)}")
        self.undecided = undecided
        options["budget"] = self.room.budget_for(options.get("budget"))
        if not callable(function):
            _fail(f"function should be callable, not {arguments.kind_of(function)}")
        asked_about = Differentiable(self, function, inputs, named, options)
        self.unused.append(asked_about)
        return asked_about

    def __getattr__(self, name: str) -> NoReturn:
        __tracebackhide__ = True
        if name not in ADVISED and not _is_claim(name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        _fail(f"call the fixture with a function and its inputs first: gradbench(f, x).{name}(...)")

    def _marked(self) -> dict[str, Any]:
        """The options that markers set, the nearest last."""
        __tracebackhide__ = True
        options: dict[str, Any] = {}
        for mark in reversed(list(self.node.iter_markers("gradbench"))):
            if mark.args:
                _fail("the marker takes options by name, as pytest.mark.gradbench(budget=10)")
            for name in mark.kwargs:
                if name not in OPTIONS:
                    near = hint(name, OPTIONS) or f"there are {', '.join(OPTIONS)}"
                    _fail(f"the marker has no option {name!r}; {near}")
            options |= mark.kwargs
        return options

    def label(self, operator: str) -> str:
        """The name of a function in the run: that of the test, and a number where it repeats."""
        test = self.node.nodeid.replace("/", ".").replace(".py::", "::")
        name = line(test, len(test))
        if len(name) > LONGEST:
            # Tests of many parameters differ at the end.
            digest = zlib.crc32(name.encode("utf-8", "surrogatepass"))
            name = f"{name[: LONGEST - 9]}~{digest:08x}"
        self._names[name, operator] += 1
        number = self._names[name, operator]
        return name if number == 1 else f"{name} #{number}"

    def settle(self) -> None:
        """After the test: skips it, or warns, where claims are open or nothing was checked."""
        __tracebackhide__ = True
        for unused in self.unused:
            said = f"{self.node.nodeid}: gradbench({unused}, …) alone checks nothing"
            said += ": add .assert_right() or a derivative"
            warnings.warn(GradbenchWarning(said), stacklevel=1)
        if self.open:
            said = "; ".join(self.open)
            if self.undecided == "fail":
                _fail(said)
            if self.undecided == "skip":
                raise pytest.skip.Exception(f"gradbench: {said}", _use_item_location=True)
            for one in self.open:
                # An error where the user turns warnings into errors.
                warnings.warn(GradbenchWarning(f"{self.node.nodeid}: {one}"), stacklevel=1)
        if self.off:
            raise pytest.skip.Exception(f"gradbench: {OFF}", _use_item_location=True)

    def end(self) -> None:
        for record in self.records:
            self.room.keep(record)


def _benchmark(request: pytest.FixtureRequest) -> Any:
    """The fixture of pytest-benchmark, where the test asks for it too."""
    if "benchmark" not in request.fixturenames:
        return None
    return request.getfixturevalue("benchmark")


class Differentiable:
    """A function at its inputs. Its methods take a derivative of it.

    That is a function of your own, which takes the function's arguments (after a seed for vjp,
    after tangents for jvp and hvp) and returns a tensor for each differentiated input; the name of
    a mode, such as "jacrev"; or nothing, to check autograd's own and time the modes alone. `also`
    are more of your own to check and to time beside.

    Each checks at once, and fails the test where the derivative is wrong.
    """

    def __init__(
        self,
        bench: Bench,
        function: Callable[..., Any],
        inputs: Sequence[Any],
        named: dict[str, Any],
        options: dict[str, Any],
    ) -> None:
        self._bench = bench
        self._function = function
        self._inputs = inputs
        self._named = named
        self._options = options

    def __str__(self) -> str:
        return _name(self._function)

    def assert_right(self) -> Derivative:
        """Autograd's own derivative is right: the gradient of a scalar function, else the jacobian,
        or what suits its structure."""
        __tracebackhide__ = True
        return self._checked("")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *ADVISED]

    def __getattr__(self, name: str) -> Callable[..., Derivative]:
        __tracebackhide__ = True
        if name.startswith("_"):
            raise AttributeError(name)
        if name in ADVISED:
            return functools.partial(self._checked, name)
        if _is_claim(name):
            _fail(f"name a derivative first: gradbench(f, x).jacobian(my_jacobian).{name}(...)")
        near = hint(name, ADVISED) or f"there are {', '.join(ADVISED)}"
        _fail(f"there is no derivative {name!r}; {near}")

    def _checked(self, operator: str, derivative: Any = None, also: Any = ()) -> Derivative:
        __tracebackhide__ = True
        bench, function, target = self._bench, self._function, str(self)
        if self in bench.unused:
            bench.unused.remove(self)
        try:
            ways, subject = _ways(derivative, also, known_modes(operator))
            with _by_value(bench.module):
                options = self._options | {"operator": operator}
                modes = arguments.several("modes", options.get("modes"))
                if subject and subject not in ways and modes:
                    options["modes"] = (*modes, subject)
                question, content = asked(function, self._inputs, self._named, ways, **options)
            question.require_valid()
            names = dict.fromkeys([*ways, *([subject] if subject else [])])
            checked = check(question, content, list(names))
            _require_modes(question)
            question = dataclasses.replace(question, operator=checked.comparison.operator)
        except (Refusal, TypeError, ValueError) as error:
            _fail(f"{target}: {error}")
        _require_right(checked, subject, ways)
        operator = checked.comparison.operator
        record = Record(
            bench.node.nodeid, operator, bench.label(operator), subject, [*ways] or [subject]
        )
        bench.records.append(record)
        timed = None
        if bench.room.timing:
            try:
                timed = bench.room.measured(question, content, record)
            except (Refusal, StoreError, WorkerError) as error:
                _fail(f"{target}: {error}")
            for name in record.subjects:
                if said := timed.against(name):
                    _fail(said)
            if bench.table is not None:
                from gradbench.integrations.pytest_plugin.table import fill

                fill(bench.table, timed)
        return Derivative(bench, record, checked, timed, ways)


def _name(function: Any) -> str:
    own = getattr(function, "__name__", "") or type(function).__name__
    return line(str(own), 60)


def _ways(derivative: Any, also: Any, taken: set[str]) -> tuple[dict[str, Any], str]:
    """The user's own derivatives by name, and the name of the one that claims are about; empty
    where there is none. Raises TypeError and ValueError."""
    subject = ""
    given = list(also) if isinstance(also, (list, tuple)) else [also]
    if isinstance(derivative, str):
        subject = arguments.text("the derivative", derivative)
    elif derivative is not None:
        given.insert(0, derivative)
    ways: dict[str, Any] = {}
    for way in given:
        if not callable(way):
            what = "the derivative" if way is derivative else "also"
            raise TypeError(
                f"{what} should be a function, or the name of a mode, not "
                f"{arguments.kind_of(way)}: pass it without calling it"
            )
        name = "own" if _name(way) == "<lambda>" else _name(way).replace("/", "_")
        while name in taken or name in ways:
            name = f"own_{name}"
        ways[name] = way
    if derivative is not None and not subject:
        subject = next(iter(ways))
    return ways, subject


def _is_claim(name: str) -> bool:
    """Whether a derivative has a method or value of this name."""
    return not name.startswith("_") and (hasattr(Derivative, name) or name in ("seconds", "advice"))


class _by_value:
    """While the test's file is pickled by value: no other process can import every such file."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __enter__(self) -> None:
        if self.module is not None:
            cloudpickle.register_pickle_by_value(self.module)

    def __exit__(self, *exception: object) -> None:
        if self.module is not None:
            cloudpickle.unregister_pickle_by_value(self.module)


def _require_modes(question: Question) -> None:
    """Raises ValueError for a glob that fits no mode; one of another operator may stand in a marker
    for a whole file."""
    known = known_modes()
    for glob in question.modes:
        if not any(fits(name, (glob,)) for name in known):
            near = hint(glob, known)
            raise ValueError(f"modes: no mode matches {glob!r}" + (f"; {near}" if near else ""))


def _require_right(checked: Checked, subject: str, ways: dict[str, Any]) -> None:
    """Fails the test where a derivative is not right."""
    __tracebackhide__ = True
    if subject and subject not in ways and subject not in checked.modes:
        _unknown(subject, checked)
    for name, answer in checked.answers.items():
        status = answer["status"]
        if status != "ok":
            place = answer.get("where", "").rpartition("; ")[2]
            verb = {"wrong": "is wrong", "failed": "raises"}.get(status, f"is {status}")
            _fail(f"{name} {verb}: {answer['reason']}" + (f" (at {place})" if place else ""))


def _unknown(name: str, checked: Checked) -> NoReturn:
    __tracebackhide__ = True
    operator = checked.comparison.operator
    near = hint(name, checked.modes) or f"there are {', '.join(checked.modes)}"
    _fail(f"there is no mode {name!r} of this {operator}; {near}")


class Derivative:
    """A derivative that is right, and its times where they were measured.

    `seconds`    of a call of your derivative, or of the mode that was named; None without times
    `advice`     what `gradbench.compare` returns: `print` shows it; None without times
    """

    def __init__(
        self,
        bench: Bench,
        record: Record,
        checked: Checked,
        timed: Timed | None,
        ways: dict[str, Any],
    ) -> None:
        self._bench = bench
        self._record = record
        self._checked = checked
        self._timed = timed
        self._ways = ways
        self.advice = timed.advice if timed is not None else None
        self.seconds = timed.seconds(record.subject) if timed is not None else None

    def __repr__(self) -> str:
        r = self._record
        return f"<{r.operator} of {r.function}: {r.subject or 'autograd'} is right>"

    def assert_right(self) -> Derivative:
        """The derivative agrees with the reference; a wrong one has failed the test before."""
        return self

    def assert_no_slower_than(self, other: Any, by: float = 1.05) -> Derivative:
        """A call takes at most `by` times the time of another mode: "jacrev", or one of `also`."""
        __tracebackhide__ = True
        self._require_factor("by", by)
        own = (name for name, way in self._ways.items() if way is other)
        name = other if isinstance(other, str) else next(own, _name(other))
        if name not in self._checked.modes:
            _unknown(name, self._checked)
        if name == self._record.subject:
            _fail(f"{name} is compared with itself")
        if self._timed is None:
            self._bench.off = True
            return self
        return self._claimed(no_slower(self._timed, self._record.subject, name, by))

    def assert_fastest(self, within: float = 1.05) -> Derivative:
        """A call takes at most `within` times the time of every mode that was timed."""
        __tracebackhide__ = True
        self._require_factor("within", within)
        if self._timed is None:
            self._bench.off = True
            return self
        return self._claimed(faster_than_all(self._timed, self._record.subject, within))

    def _require_factor(self, name: str, factor: Any) -> None:
        __tracebackhide__ = True
        if not self._record.subject:
            _fail("there is no derivative to claim this of: pass yours, or the name of a mode")
        try:
            arguments.number(name, factor, 1, 1e6)
        except (TypeError, ValueError) as error:
            _fail(f"{error}: {name}=1.1 allows a tenth more time")

    def _claimed(self, claim: Claim) -> Derivative:
        __tracebackhide__ = True
        self._record.claims.append(dataclasses.asdict(claim))
        if claim.holds is None:
            self._bench.open.append(claim.said)
        elif not claim.holds:
            _fail(claim.said)
        return self

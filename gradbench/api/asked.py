"""The arguments of `gradbench.run` and `gradbench.track`, checked and put together."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gradbench.advise import DEFINITIONS
from gradbench.advise.yours import Yours
from gradbench.core import arguments, own
from gradbench.core.cases import (
    DTYPES,
    MOST_THREADS,
    Place,
    Selection,
    SelectionError,
    size_glob,
)
from gradbench.core.instruments import INSTRUMENTS, WALL_TIME
from gradbench.core.releases import ReleaseError
from gradbench.runner.choosing import Measuring
from gradbench.runner.wire import WorkerOptions
from gradbench.runner.workers import Discovery, discover

Texts = str | Collection[str]
"""One name or glob, or several; () for all."""

Inputs = Mapping[str, Any] | str
"""The inputs of a function of one's own: expressions by name, or the function that returns them."""

_SEVERAL = (
    "function",
    "family",
    "operator",
    "mode",
    "size",
    "dtype",
    "device",
    "instrument",
    "input",
)
"""Options whose argument is in the plural."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after which what was measured is stored; the message says how to go on."""

    def __init__(self, path: Path, name: str, function: str) -> None:
        super().__init__(
            f"stopped: everything measured so far is in {path}; "
            f"gradbench.{function}(resume={name!r}) resumes it"
        )
        self.path = path
        self.name = name


@contextlib.contextmanager
def by_argument() -> Iterator[None]:
    """Has errors name arguments where those of the commands name options."""
    try:
        yield
    except (SelectionError, ReleaseError) as error:
        said = arguments.of_options(str(error), _SEVERAL)
        if said != str(error):
            raise type(error)(said) from error
        raise


def warned(said: str) -> None:
    """Tells the caller of something that does not stop the measurement."""
    warnings.warn(said, stacklevel=4)


def discovered(worker: WorkerOptions) -> Discovery:
    discovery = discover(worker)
    for problem in discovery.broken:
        warned(problem)
    return discovery


def selected(
    functions: Texts,
    operators: Texts,
    modes: Texts,
    sizes: Texts,
    dtypes: Any,
    devices: Texts,
    threads: int | Collection[int],
    compiled: bool,
    families: Texts = (),
) -> Selection:
    """The selection that arguments make. Raises TypeError or ValueError."""

    if callable(functions):
        raise TypeError(
            "functions should be names: of the catalogue, or 'FILE.py:FUNCTION' of your own with "
            "inputs; gradbench.compare takes a function itself"
        )
    kinds = [arguments.dtype("dtypes", one) for one in _several(() if dtypes is None else dtypes)]
    labels = tuple(map(size_glob, arguments.several("sizes", sizes)))
    named = arguments.several("devices", devices)
    places = dict.fromkeys(str(Place.parse(device)) for device in named)
    counts = [_whole("threads", each, 1, MOST_THREADS) for each in _several(threads)]
    if not places or not counts:
        raise SelectionError(f"{'threads' if places else 'devices'} is empty: name one")
    return Selection(
        arguments.several("functions", functions),
        arguments.several("operators", operators),
        arguments.several("modes", modes),
        sizes=labels,
        dtypes=tuple(arguments.choice("dtypes", kind, DTYPES) for kind in kinds),
        devices=tuple(places),
        threads=tuple(counts),
        compiled=arguments.flag("compiled", compiled),
        families=arguments.several("families", families),
    )


def yours(
    inputs: Inputs, also: Texts, wrt: Texts, definition: str, name: str, selection: Selection
) -> Yours:
    """What arguments say of a function of the user's own. Raises TypeError or ValueError."""
    maker: str | None = None
    given: tuple[str, ...] = ()
    if isinstance(inputs, str):
        maker = arguments.text("inputs", inputs)
        if not own.is_target(maker):
            raise ValueError(
                f"inputs is {maker!r}, and should be expressions by name, as in "
                "{'x': 'randn(3,4)'}, or 'MODULE:FUNCTION' that returns the inputs"
            )
    elif isinstance(inputs, Mapping):
        given = tuple(f"{key}={_expression(key, value)}" for key, value in inputs.items())
    else:
        raise TypeError(f"inputs should be a dict or a string, not {arguments.kind_of(inputs)}")
    if not (inputs or maker) and any(map(own.is_target, selection.functions)):
        raise ValueError(
            "inputs is empty: a function of your own needs expressions by name, as in "
            "{'x': 'randn(3,4)'}, or 'MODULE:FUNCTION' that returns the inputs"
        )
    name = arguments.optional("name", name)
    if "/" in name or "@" in name:
        raise ValueError(f"name is {name!r}, and should have no '/' and no '@'")
    return Yours(
        given,
        maker,
        arguments.several("also", also),
        arguments.several("wrt", wrt),
        arguments.choice("definition", definition, DEFINITIONS),
        name or None,
    )


def _expression(name: Any, value: Any) -> str:
    if isinstance(value, (bool, int, float)):
        return repr(value)
    if not isinstance(value, str):
        raise TypeError(
            f"inputs[{name!r}] should be an expression, as in 'randn(3,4)', not a "
            f"{type(value).__name__}: gradbench.compare takes tensors"
        )
    return value


def measured(
    profile: str,
    sessions: int | None,
    budget: float | None,
    instruments: Texts,
    seed: int,
    timeout: float,
    memory_limit: int,
    baseline: str = "",
    least_sessions: int = 1,
) -> Measuring:
    """How closely to measure, as arguments say. Raises TypeError or ValueError."""
    if sessions is not None:
        sessions = _whole("sessions", sessions, least_sessions, 100)
    if budget is not None:
        arguments.number("budget", budget, 0, 1e7, low_open=True)
    arguments.number("timeout", timeout, 0, 1e7, low_open=True)
    names = arguments.several("instruments", instruments)
    for name in names:
        arguments.choice("instruments", name, [WALL_TIME, *INSTRUMENTS])
    return Measuring(
        *(profile, sessions, budget, names, _whole("seed", seed, 0, 2**32 - 1), timeout),
        memory_limit=_whole("memory_limit", memory_limit, 1, 2**60),
        baseline=arguments.optional("baseline", baseline) or None,
    )


def _several(value: Any) -> Sequence[Any]:
    return tuple(value) if isinstance(value, (list, tuple, set, frozenset, range)) else (value,)


def _whole(name: str, value: Any, low: int, high: int) -> int:
    number = arguments.number(name, value, low, high)
    if number != int(number):
        raise ValueError(f"{name} is {value!r}, and should be a whole number")
    return int(number)


def files_of(files: Any) -> tuple[str, ...]:
    """The paths of the user's files. Raises TypeError or ValueError."""
    return tuple(dict.fromkeys(map(_file, arguments.several("files", files))))


def _file(name: str) -> str:
    path = Path(name).expanduser().resolve()
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"files: {name!r} is not a Python file that there is")
    return str(path)

"""The one registry of functions and modes, which every face of the suite reads."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar, overload

from gradbench.core.arguments import kind_of
from gradbench.core.cases import is_name
from gradbench.core.families import ALL
from gradbench.core.places import of_code, of_error, short
from gradbench.core.suggest import hint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager

    import torch
    from typing_extensions import Unpack

    from gradbench.core.cases import Size
    from gradbench.problems.function import Formula, Function, Tensors
    from gradbench.problems.mode import Mode, Passes
    from gradbench.problems.operators import Problem

F = TypeVar("F", bound="Callable[..., torch.Tensor]")
B = TypeVar("B", bound="Callable[[Problem], Callable[..., Any]]")

FUNCTIONS: dict[str, Function] = {}
MODES: dict[tuple[str, str], Mode] = {}
"""By operator and name, in the order of their registration."""


@overload
def function(declared: Function, /) -> Function: ...


@overload
def function(
    *,
    example: Callable[[], Tensors],
    example_size: Size,
    draw: Callable[[Size, torch.Generator], Tensors],
    derivatives: Mapping[str, Formula],
    name: str = ...,
    document: str = ...,
    formula: str = ...,
    derivative: str = ...,
    products: Mapping[str, tuple[Formula, Formula]] = ...,
    variants: Mapping[str, Mapping[str, Formula]] = ...,
    inputs: tuple[str, ...] = ...,
    constants: tuple[str, ...] = ...,
    dtype: str = ...,
    sizes: tuple[Size, ...] = ...,
    large_sizes: tuple[Size, ...] = ...,
    atlas: tuple[Size, ...] = ...,
    steps: Callable[..., tuple[Any, Sequence[Callable[[Any], Any]]]] | None = ...,
    pattern: Callable[[tuple[tuple[int, ...], ...]], tuple[torch.Tensor, torch.Tensor]]
    | None = ...,
    exact: Callable[..., torch.Tensor] | None = ...,
    precise: Callable[[], AbstractContextManager[Any]] | None = ...,
    reverse: bool = ...,
    unit: float = ...,
    family: str = ...,
) -> Callable[[F], F]: ...


def function(declared: Function | None = None, /, **fields: Any) -> Any:
    """Registers a function: a `Function`, or the decorated map with the given fields.

    The fields are those of `gradbench.problems.function.Function` without `forward`. Defaults:
    `name` is the map's name, `formula` the first line of its docstring, `document` and `derivative`
    are empty. Returns its argument. Raises ValueError if the name is taken, TypeError if a field is
    missing or unknown.

    ```python
    @gradbench.function(
        example=lambda: (torch.ones(4, dtype=torch.float64),),
        example_size={"n": 4},
        draw=lambda size, generator: (normal(generator, size["n"]),),
        derivatives=elementwise(lambda x: 3 * x**2),
    )
    def cube(x):
        "xᵢ³"
        return x**3
    ```
    """
    from gradbench.problems.function import Function

    if declared is not None:
        if fields:
            raise TypeError("function() takes a Function, or the fields of one, not both")
        if not isinstance(declared, Function):
            raise TypeError(
                f"function() takes a Function, not {kind_of(declared)}; a decorator has the fields "
                "of one: @gradbench.function(example=…, example_size=…, draw=…, derivatives=…)"
            )
        _require_name(declared.name)
        _require_family(declared)
        _require_formulas(declared)
        if declared.name in FUNCTIONS:
            raise ValueError(f"a function named {declared.name!r} is registered already")
        FUNCTIONS[declared.name] = declared
        return declared

    def register(forward: Callable[..., Any]) -> Callable[..., Any]:
        defaults: dict[str, Any] = {
            "name": forward.__name__,
            "document": "",
            "formula": _first_line(forward),
            "derivative": "",
        }
        function(Function(**{**defaults, **fields, "forward": forward}))
        return forward

    return register


def _first_line(declared: Any) -> str:
    return ((declared.__doc__ or "").strip().splitlines() or [""])[0]


class ModeFields(TypedDict, total=False):
    """The fields of a `Mode` that a declaration gives by name."""

    name: str
    leaves: bool
    needs: tuple[str, ...]
    document: str
    by_hand: bool
    opt_in: bool
    cuda: bool
    workloads: bool
    memory: Callable[[Problem], int] | None
    passes: Callable[[Problem], Passes] | None


def mode(*operators: str, **fields: Unpack[ModeFields]) -> Callable[[B], B]:
    """Registers the decorated builder as a mode of the given operators.

    The fields are those of `gradbench.problems.mode.Mode`. The name defaults to the builder's name,
    and the summary is the first line of its docstring. Raises ValueError if an operator already has
    a mode of that name, or does not exist.
    """
    from gradbench.problems.mode import Mode

    if not operators or not all(isinstance(one, str) for one in operators):
        raise TypeError("mode() takes the operators that the mode computes: @mode('gradient')")
    for operator in operators:
        _require_operator(operator)

    def register(build: B) -> B:
        given: dict[str, Any] = {"name": getattr(build, "__name__", ""), **fields}
        summary = _first_line(build)
        declared = Mode(operators=operators, build=build, summary=summary, **given)
        _require_name(declared.name)
        _require_mode(declared)
        for operator in operators:
            key = (operator, declared.name)
            if key in MODES:
                raise ValueError(f"{operator} has a mode named {declared.name!r} already")
            MODES[key] = declared
        return build

    return register


def _require_name(name: object) -> None:
    """Raises ValueError for a name that no case could have."""
    if not isinstance(name, str) or not is_name(name) or "/" in name:
        raise ValueError(
            f"{str(name)[:80]!r} cannot be a name: letters, digits and signs but '/' make one"
        )


def _require_family(declared: Function) -> None:
    """Raises ValueError for a family that no option could select."""
    family = declared.family
    if not isinstance(family, str) or not is_name(family) or family == ALL:
        raise ValueError(
            f"{declared.name}: {str(family)[:80]!r} cannot be a family's name, as 'applications' is"
        )


def _require_formulas(declared: Function) -> None:
    """Raises ValueError or TypeError for derivatives that are none."""
    for operator, formula in dict(declared.derivatives).items():
        _require_operator(operator)
        if not callable(formula):
            raise TypeError(f"the {operator} of {declared.name} is {kind_of(formula)}")


def _require_operator(operator: str) -> None:
    from gradbench.core.operators import OPERATORS

    if operator not in OPERATORS:
        near = hint(operator, OPERATORS) or f"there are {', '.join(OPERATORS)}"
        raise ValueError(f"there is no operator {operator!r}; {near}")


def _require_mode(declared: Mode) -> None:
    """Raises TypeError for fields that would fail when the mode is met."""
    if not callable(declared.build):
        raise TypeError(f"{declared.name}: a mode is a function that returns the callable to time")
    if not isinstance(declared.needs, (tuple, list)):
        raise TypeError(
            f"{declared.name}: needs should be a tuple of names, not {kind_of(declared.needs)}"
        )
    for field in ("memory", "passes"):
        value = getattr(declared, field)
        if value is not None and not callable(value):
            raise TypeError(f"{declared.name}: {field} is {kind_of(value)}, no function")


def modes_of(operator: str) -> list[Mode]:
    """The modes of an operator in the order in which they are shown."""
    modes = [mode for (of, _), mode in MODES.items() if of == operator]
    return sorted(modes, key=lambda mode: mode.rank(operator))


def places() -> dict[str, str]:
    """Where each mode that is not of this package is declared, by name: ``file.py:line``."""
    found: dict[str, list[str]] = {}
    for (_, name), declared in MODES.items():
        place = of_code(declared.build)
        if place and place not in found.setdefault(name, []):
            found[name].append(place)
    return {name: ", ".join(own) for name, own in found.items() if own}


PACKAGES = (
    "gradbench.problems.catalogue",
    "gradbench.problems.catalogue.applications",
    "gradbench.modes",
)
"""Where the built-in functions and modes are declared."""


def load_builtin() -> None:
    """Imports every family of the catalogue and of the modes: a new file is found by itself."""
    for package in PACKAGES:
        path = importlib.import_module(package).__path__
        for module in sorted(e.name for e in pkgutil.iter_modules(path) if not e.ispkg):
            importlib.import_module(f"{package}.{module}")


def load_file(path: str) -> list[str]:
    """Imports a user's file, whose declarations join the registry.

    What it changes in the process, other than sys.path, is put back; returns a line about that
    where it does. Raises ImportError where it declares nothing, and whatever it raises itself.
    """
    from gradbench import state

    name = "gradbench_from_" + Path(path).stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    declared = len(FUNCTIONS) + len(MODES)
    functions, modes = dict(FUNCTIONS), dict(MODES)
    changes = state.Changes()
    try:
        with state.preserve(changes, loading=True):
            spec.loader.exec_module(module)
    except BaseException:
        _put_back(functions, modes)
        raise
    if len(FUNCTIONS) + len(MODES) == declared:
        # Whoever gives a file wants to see it measured, not the whole catalogue without it.
        raise ImportError("it declares no function or mode (@gradbench.function, @gradbench.mode)")
    return _notes(path, changes)


def _put_back(functions: dict[str, Function], modes: dict[tuple[str, str], Mode]) -> None:
    """What does not load leaves nothing behind."""
    FUNCTIONS.clear()
    FUNCTIONS.update(functions)
    MODES.clear()
    MODES.update(modes)


def _notes(what: str, changes: Any) -> list[str]:
    return [f"{what} changes {changes.summary} while it is loaded: put back"] if changes else []


def load() -> list[str]:
    """Registers the built-in functions and modes, then those of installed packages.

    Returns one line for each package's entry point that could not be loaded, or that changes the
    state of the process.
    """
    load_builtin()
    return load_entry_points()


def _declaration(entry: importlib.metadata.EntryPoint) -> str:
    """The file and line of an entry point itself."""
    path = getattr(entry.dist, "_path", None)
    file = Path(str(path), "entry_points.txt")
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return "its entry_points.txt"
    numbers = [n for n, text in enumerate(lines, 1) if text.partition("=")[0].strip() == entry.name]
    return f"{short(str(file))}:{numbers[0] if numbers else 1}"


GROUPS = ("gradbench.functions", "gradbench.modes")
"""The entry points by which an installed package brings functions and modes of its own."""


def load_entry_points() -> list[str]:
    """Imports what installed packages declare under `GROUPS`, whose declarations join the registry.

    An entry point names a module, or anything in one; a `Function` that it names and that is not
    registered yet is registered. Returns one line for each that failed; such a one leaves nothing
    behind. So too for what one changes in the process, which is put back.
    """
    from gradbench import state
    from gradbench.problems.function import Function

    broken = []
    for group in GROUPS:
        for entry in sorted(importlib.metadata.entry_points(group=group)):
            functions, modes = dict(FUNCTIONS), dict(MODES)
            changes = state.Changes()
            try:
                with state.preserve(changes, loading=True):
                    loaded = entry.load()
                if isinstance(loaded, Function) and FUNCTIONS.get(loaded.name) is not loaded:
                    function(loaded)
            except (Exception, SystemExit) as error:
                _put_back(functions, modes)
                what = " ".join(f"{type(error).__name__}: {error}".split())
                package = entry.dist.name if entry.dist else "a package"
                place = of_error(error) or _declaration(entry)
                broken.append(
                    f"{package} is left out: its entry point {entry.name} = {entry.value} of "
                    f"{group} does not load ({what}, at {place})"
                )
            broken += _notes(f"the entry point {entry.name} = {entry.value} of {group}", changes)
    return broken

"""The identity of what is measured: operators, functions, sizes, places; selecting cases.

Both sides of the wire use this module, so it needs nothing but the standard library.
"""

from __future__ import annotations

import fnmatch
import functools
import re
import zlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from gradbench.core.devices import Place as Place
from gradbench.core.devices import is_number
from gradbench.core.families import ALL, NOTEBOOKS, require_families
from gradbench.core.families import SelectionError as SelectionError
from gradbench.core.own import unversioned
from gradbench.core.suggest import hint
from gradbench.core.text import UNSAFE, line

YOURS = "yours"
"""The name under which a user's own function takes part in a run of its own."""

DOCUMENTS = "documents"
"""The size label of the documents' own inputs."""

FORWARD = "forward"
"""The contestant that evaluates the function and differentiates nothing."""

TF32 = "tf32"
"""float32 whose matrix products may round their factors to TF32, on a CUDA device."""

TORCH_DTYPES = ("float32", "float64", "float16", "bfloat16")
DTYPES = (*TORCH_DTYPES, TF32)
"""How a case computes, as its name says it: torch's dtypes, and TF32."""

LONGEST_NAME = 1000
NAME = rf"\A[^\t\n{UNSAFE}]{{1,{LONGEST_NAME}}}\Z"
"""The pattern of a name that can be part of a case: not empty, no control characters."""

MOST_THREADS = 1 << 16

PARTS = 6
"""Parts of a comparison's name."""

Size = Mapping[str, int]

LARGEST_SIZE = 10**12


def is_name(text: str) -> bool:
    """Whether a function, an operator or a mode can have this name."""
    return re.search(NAME, text) is not None


def size_label(size: Size) -> str:
    """The canonical form of a size: ``{"m": 3, "n": 4}`` is ``"m=3,n=4"``."""
    return ",".join(f"{name}={size[name]}" for name in sorted(size))


def parse_size(label: str) -> dict[str, int]:
    """The size that a label such as ``"m=3,n=4"`` stands for.

    Raises ValueError with one clear line where a part is no ``name=positive integer``.
    """
    size: dict[str, int] = {}
    for part in label.split(","):
        name, equals, digits = (piece.strip() for piece in part.partition("="))
        number = int(digits) if re.fullmatch(r"[0-9]{1,15}", digits) else 0
        if not (equals and name.isidentifier() and 0 < number <= LARGEST_SIZE):
            raise ValueError(
                f"size {line(label, 60)!r}: {line(part, 60)!r} is not of the form name=positive "
                f"integer up to {LARGEST_SIZE} (for example n=64 or m=3,n=5)"
            )
        if name in size:
            raise ValueError(f"size {line(label, 60)!r}: {name} is given twice")
        size[name] = number
    return size


def is_size(pattern: str) -> bool:
    """Whether a pattern names one size, rather than being a glob or `DOCUMENTS`."""
    return "=" in pattern and not set(pattern) & set("*?[")


def size_glob(pattern: str) -> str:
    """A glob of sizes; a size as the names of cases have it. Raises ValueError as `parse_size`."""
    return size_label(parse_size(pattern)) if is_size(pattern) else pattern


class Comparison(str):
    """The contestants that are measured against each other: one problem, every mode.

    It is its canonical name, ``operator/function/size/dtype/device/threads``, and knows the parts:
    as fast a key as text, and written as text. `parse` checks a name that comes from elsewhere.
    """

    operator: str
    function: str
    size: str
    dtype: str
    device: str
    threads: int

    def __new__(
        cls,
        operator: str,
        function: str,
        size: str,
        dtype: str,
        device: str = "cpu",
        threads: int = 1,
    ) -> Comparison:
        parts = (operator, function, size, dtype, device)
        self = super().__new__(cls, "/".join((*parts, str(threads))))
        self.operator, self.function, self.size, self.dtype, self.device = parts
        self.threads = threads
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Comparison.parse, (str(self),)

    @classmethod
    @functools.lru_cache(maxsize=1 << 17)
    def parse(cls, text: str) -> Comparison:
        """The comparison of a canonical name; the same object each time, as logs repeat names.

        Raises ValueError with one line where it is none.
        """
        parts = text.split("/")
        if len(parts) != PARTS or not is_number(parts[-1]):
            raise ValueError(f"{text!r} is not operator/function/size/dtype/device/threads")
        operator, function, size, dtype, device, threads = parts
        made = cls(operator, function, size, dtype, device, int(threads))
        for name in (operator, function):
            if not is_name(name):
                raise ValueError(f"{text!r}: {name!r} is not a name")
        if size != DOCUMENTS and size_label(parse_size(size)) != size:
            raise ValueError(f"{text!r}: the size {size!r} is not in its canonical form")
        if dtype not in DTYPES:
            raise ValueError(f"{text!r}: dtype {dtype!r} is none of {', '.join(DTYPES)}")
        if str(made.place) != device or not 1 <= made.threads <= MOST_THREADS or made != text:
            raise ValueError(f"{text!r}: the device or the threads are not in their canonical form")
        return made

    @functools.cached_property
    def place(self) -> Place:
        return Place.parse(self.device)

    def seed(self, salt: int, index: int) -> int:
        """A seed for the inputs of set `index`, the same on every machine and release."""
        key = f"{self.operator}/{self.function}/{self.size}/{salt}/{index}"
        return zlib.crc32(key.encode())

    def case(self, mode: str) -> Case:
        return Case(self, mode)

    def on(self, device: str) -> Comparison:
        """The same on another device."""
        return Comparison(self.operator, self.function, self.size, self.dtype, device, self.threads)


class Case(str):
    """A comparison and one way of computing its operator: a name that knows both, as above."""

    comparison: Comparison
    mode: str

    def __new__(cls, comparison: Comparison, mode: str) -> Case:
        self = super().__new__(cls, f"{comparison}/{mode}")
        self.comparison, self.mode = comparison, mode
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Case, (self.comparison, self.mode)

    @classmethod
    def parse(cls, text: str) -> Case:
        """The case of a canonical name; ValueError where it is none."""
        *parts, mode = text.split("/", PARTS)
        if not is_name(mode):
            raise ValueError(f"{text!r}: {mode!r} is not a name")
        return cls(Comparison.parse("/".join(parts)), mode)

    def matches(
        self,
        functions: Iterable[str] = (),
        operators: Iterable[str] = (),
        modes: Iterable[str] = (),
        sizes: Iterable[str] = (),
        dtypes: Iterable[str] = (),
        devices: Iterable[str] = (),
    ) -> bool:
        """Whether it fits globs of every kind; no globs fit all."""
        c = self.comparison
        return (
            fits(c.function, functions)
            and fits(c.operator, operators)
            and fits(self.mode, modes)
            and fits(c.size, sizes)
            and fits(c.dtype, dtypes)
            and fits(c.device, devices)
        )


@dataclass(frozen=True)
class Offer:
    """One function under one operator, as a worker reports it: what could be selected."""

    operator: str
    function: str
    document: str
    formula: str
    derivative: str
    dtype: str
    example_size: str
    sizes: tuple[str, ...]
    large_sizes: tuple[str, ...]
    modes: tuple[str, ...]
    opt_in: tuple[str, ...]
    size_names: tuple[str, ...]
    cuda: tuple[str, ...] = ()
    """Those of `opt_in` that are of CUDA devices alone."""
    workloads: tuple[str, ...] = ()
    """Those of `opt_in` that are for large functions, and measured for this one where named."""
    first: str = ""
    """The mode that people usually write first."""
    atlas: tuple[str, ...] = ()
    """Sizes of the atlas; with some, the function is part of no other sweep."""
    named_only: bool = False
    """Whether it is measured only where the operator is named."""
    family: str = NOTEBOOKS

    @property
    def labels(self) -> tuple[str, ...]:
        """Every size that the function declares."""
        return (DOCUMENTS, *self.sizes, *self.large_sizes, *self.atlas)


@dataclass(frozen=True)
class Selection:
    """Globs over what the workers offer. An empty tuple selects all of its kind."""

    functions: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)
    threads: tuple[int, ...] = (1,)
    sweep: str = "documents"
    compiled: bool = False
    families: tuple[str, ...] = ()
    """Families by name; without any, the source notebooks' functions and those that are named."""

    SWEEPS = ("documents", "standard", "full", "atlas")


@dataclass(frozen=True)
class Entry:
    """One comparison of a plan with its contestants in their fixed order."""

    comparison: Comparison
    modes: tuple[str, ...]

    @property
    def cases(self) -> list[Case]:
        return [self.comparison.case(mode) for mode in self.modes]


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name fits one of the globs; no globs fit all. A function of the user's own fits
    with its version and without."""
    patterns = tuple(patterns)
    names = {name, unversioned(name)}
    return not patterns or any(fnmatch.fnmatchcase(n, p) for n in names for p in patterns)


def _require_known(
    kind: str,
    patterns: Iterable[str],
    known: Iterable[str],
    usual: Collection[str] = (),
    exotic: Collection[str] = (),
) -> None:
    names = sorted(set(known))
    for pattern in patterns:
        if not any(fits(name, (pattern,)) for name in names):
            near = hint(pattern, names, usual, exotic)
            listed = ", ".join(names) if len(names) <= 12 else f"{len(names)} are known"
            raise SelectionError(
                f"no {kind} matches {line(pattern, 60)!r}{'; ' + near if near else ''} "
                f"('gradbench list' shows all: {listed})"
            )


def nothing_fits(cases: Iterable[Case], **globs: Iterable[str]) -> str:
    """Why none of these cases fits globs as `Case.matches` takes them: the first glob that fits
    none of them, with the nearest name that there is."""
    cases = list(cases)
    for kind, patterns in globs.items():
        field = kind.removesuffix("s")
        names = {c.mode if field == "mode" else str(getattr(c.comparison, field)) for c in cases}
        for pattern in patterns:
            if not any(fits(name, (pattern,)) for name in names):
                near = hint(pattern, names) or f"there are {', '.join(sorted(names)[:8])}"
                article = "an" if field[0] in "aeiou" else "a"
                return f"no stored case has {article} {field} {line(pattern, 60)!r}; {near}"
    return "no stored case matches all of these options"


def _require_sizes(offers: Iterable[Offer], selection: Selection) -> None:
    """Raises SelectionError for a size that no selected function can have."""
    chosen = [
        offer
        for offer in offers
        if fits(offer.function, selection.functions) and fits(offer.operator, selection.operators)
    ]
    for pattern in selection.sizes:
        if not chosen or any(_sizes(o, replace(selection, sizes=(pattern,))) for o in chosen):
            continue
        known = {label for o in chosen for label in o.labels}
        names = {",".join(o.size_names) for o in chosen} - {""}
        near = hint(pattern, known) or (
            f"sizes are of {' or of '.join(sorted(names)[:4])}" if names else "it has no sizes"
        )
        raise SelectionError(
            f"the selection is empty: no selected function has a size {line(pattern, 60)!r}; "
            f"{near} ('gradbench list' shows the sizes of each)"
        )


def _sizes(offer: Offer, selection: Selection) -> list[str]:
    """The size labels of one offer: those asked for, or those of the sweep."""
    in_atlas = selection.sweep == "atlas"
    # As with modes that compile: a glob does not ask for a function of the atlas, its name does.
    if in_atlas != bool(offer.atlas) and (in_atlas or offer.function not in selection.functions):
        return []
    if selection.sizes:
        chosen = []
        for pattern in selection.sizes:
            hits = [label for label in offer.labels if fnmatch.fnmatchcase(label, pattern)]
            if not hits and is_size(pattern):
                size = parse_size(pattern)
                if set(size) == set(offer.size_names):
                    hits = [size_label(size)]
            chosen += hits
        return list(dict.fromkeys(chosen))
    if in_atlas:
        return list(offer.atlas)
    labels = [DOCUMENTS]
    if selection.sweep in ("standard", "full"):
        labels += offer.sizes
    if selection.sweep == "full":
        labels += offer.large_sizes
    return labels


def _in_family(offer: Offer, selection: Selection) -> bool:
    if selection.families:
        return ALL in selection.families or offer.family in selection.families
    # As with the atlas: a glob does not ask for a function of another family, its name does.
    return offer.family == NOTEBOOKS or offer.function in selection.functions


def _why_empty(offers: Iterable[Offer], selection: Selection) -> str:
    if TF32 in selection.dtypes:
        return "dtype tf32 needs a CUDA device: add the device cuda"
    others = {
        offer.family
        for offer in offers
        if fits(offer.function, selection.functions)
        and fits(offer.operator, selection.operators)
        and not _in_family(offer, selection)
    }
    named = selection.functions or selection.operators
    if named and others:
        return (
            "the selection is empty: what matches is of another family; "
            f"add --family {' or --family '.join(sorted(others))}"
        )
    return (
        "the selection is empty: no function matches all of these options; "
        "'gradbench list' with some of them shows what each matches"
    )


def _is_selected(offer: Offer, selection: Selection) -> bool:
    letters, operators = selection.documents, selection.operators
    return (
        fits(offer.function, selection.functions)
        and _in_family(offer, selection)
        and (offer.operator in operators if offer.named_only else fits(offer.operator, operators))
        and (not letters or any(fits(letter, letters) for letter in offer.document))
    )


def expand(offers: Iterable[Offer], selection: Selection) -> list[Entry]:
    """Every comparison that the selection asks for, with its modes.

    The forward pass takes part in each comparison unless modes are selected and it is not
    among them. Raises SelectionError for a name that matches nothing and for an empty result.
    """
    offers = list(offers)
    _require_known("function", selection.functions, (offer.function for offer in offers))
    _require_known("operator", selection.operators, (offer.operator for offer in offers))
    _require_known("document", selection.documents, (d for o in offers for d in o.document))
    require_families(selection.families, (offer.family for offer in offers))
    exotic = {mode for offer in offers for mode in offer.opt_in}
    _require_known(
        "mode",
        selection.modes,
        (m for o in offers for m in o.modes + o.opt_in),
        usual={offer.first for offer in offers},
        exotic=exotic,
    )
    _require_sizes(offers, selection)
    entries = []
    for offer in offers:
        if not _is_selected(offer, selection):
            continue
        candidates = offer.modes + (offer.opt_in if selection.compiled or selection.modes else ())
        modes = []
        for mode in candidates:
            if selection.modes and not fits(mode, selection.modes):
                continue
            # A glob such as '*' does not opt in to compilation; the mode's own name does.
            added = selection.compiled and mode not in offer.workloads
            if mode in offer.opt_in and not (added or mode in selection.modes):
                continue
            modes.append(mode)
        if not any(mode != FORWARD for mode in modes) and FORWARD not in selection.modes:
            continue
        for label in _sizes(offer, selection):
            for dtype in selection.dtypes or (offer.dtype,):
                for device in selection.devices:
                    on_cpu = Place.parse(device).on_cpu
                    if dtype == TF32 and on_cpu:
                        continue
                    # One that is named is told not to be supported.
                    out = set(offer.cuda).difference(selection.modes) if on_cpu else set()
                    here = tuple(mode for mode in modes if mode not in out)
                    if set(here) <= {FORWARD} and FORWARD not in selection.modes:
                        continue
                    for threads in selection.threads:
                        comparison = Comparison(
                            offer.operator, offer.function, label, dtype, device, threads
                        )
                        entries.append(Entry(comparison, here))
    if not entries:
        raise SelectionError(_why_empty(offers, selection))
    return entries

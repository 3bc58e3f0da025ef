"""The pattern of a Jacobian as code: formulas and short lists, where it can be written so."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradbench.problems.structure import Structure

if TYPE_CHECKING:
    from gradbench.worker.known import Known

MOST_LISTED = 300
"""Numbers that are written one by one."""

MOST_CHARACTERS = 4000
"""Longer code would hide the function that it belongs to."""

SHORTEST = 12
"""Numbers for which a formula is worth writing."""

SHORT = 250
"""Characters below which no shorter order of the entries is looked for."""

MOST_PIECES = 24
MOST_PERIOD = 16
MOST_ENTRIES = 4_000_000

FIELDS = ("rows", "columns", "row_colours", "column_colours")


def code(structure: Structure, file: str) -> tuple[str, bool]:
    """The code that defines `structure` for a mode, and whether it needs the file that has it.

    The file is named without its folder: it should lie where the code runs.
    """
    arguments = written(structure)
    if arguments is not None:
        said = "# The rows and columns of the entries, and the colour of each row and column.\n"
        return f"{said}structure = SimpleNamespace(\n{arguments}\n)\n", False
    name = file.replace("\\", "/").rpartition("/")[2]
    said = (
        f"# The rows and columns of the entries, and their colours: keep {name} beside this code.\n"
    )
    return f"{said}structure = SimpleNamespace(**torch.load({name!r})['structure'])\n", True


def codes(known: Known, file: str) -> tuple[dict[str, str], bool]:
    """The code of all that is known of the zeros, by name, and whether any of it needs the file
    that has it, which should lie where the code runs."""
    found, any_loaded = {}, False
    if known.structure is not None and known.saves:
        found["structure"], any_loaded = code(known.structure, file)
    for name in ("mixed", "gathered"):
        if getattr(known, name) is not None:
            found[name], loaded = _other(name, getattr(known, name), file)
            any_loaded = any_loaded or loaded
    return found, any_loaded


def _other(name: str, value: Any, file: str) -> tuple[str, bool]:
    """The code of a dataclass under a name, and whether it needs the file."""
    arguments, size = [], 0
    for field in dataclasses.fields(value):
        part = getattr(value, field.name)
        if isinstance(part, Tensor):
            as_numbers = (
                None if part.numel() > MOST_ENTRIES else _code(part.long(), MOST_CHARACTERS)
            )
            if as_numbers is None:
                break
            part_code = as_numbers + (".bool()" if part.dtype == torch.bool else "")
        elif field.name == "evidence":
            continue
        else:
            part_code = repr(part)
        size += len(part_code)
        arguments.append(f"    {field.name}={part_code},\n")
    else:
        if size <= MOST_CHARACTERS:
            said = "# In which pass each entry is, and where it belongs.\n"
            return f"{said}{name} = SimpleNamespace(\n{''.join(arguments)})\n", False
    beside = file.replace("\\", "/").rpartition("/")[2]
    said = f"# In which pass each entry is, and where it belongs: keep {beside} beside this code.\n"
    return f"{said}{name} = SimpleNamespace(**torch.load({beside!r})[{name!r}])\n", True


def written(structure: Structure) -> str | None:
    """The keyword arguments, as code that needs torch alone, of a namespace with the fields of the
    structure that modes read; None where that is too long.

    The entries may come in another order.
    """
    if structure.rows.numel() > MOST_ENTRIES:
        return None
    colours = [_code(getattr(structure, field), MOST_CHARACTERS) for field in FIELDS[2:]]
    entries = _entries(structure)
    if entries is None or None in colours:
        return None
    pairs = list(zip(FIELDS, [*entries, *colours]))
    pairs += [("inputs", repr(structure.inputs)), ("output", repr(structure.output))]
    pairs += [("is_global", repr(structure.is_global))]
    lines = [
        textwrap.fill(f"{name}={code},", 96, subsequent_indent="    ", break_long_words=False)
        for name, code in pairs
    ]
    text = textwrap.indent("\n".join(lines), "    ")
    return None if len(text) > MOST_CHARACTERS else text


def _entries(structure: Structure) -> tuple[str, str] | None:
    """The code of the entries' rows and columns in the order in which it is shortest."""
    rows, columns = structure.rows, structure.columns
    n, m = structure.coordinates, structure.outputs
    by_rows = rows * n + columns
    ends = torch.tensor(structure.sizes).cumsum(0)
    orders = [by_rows, (columns - rows) * m + rows]
    if len(structure.inputs) > 1:
        orders.append(torch.searchsorted(ends, columns, right=True) * n * m + by_rows)
    found: list[tuple[str, str]] = []
    for key in orders:
        order = torch.argsort(key)
        most = min((len(a) + len(b) for a, b in found), default=MOST_CHARACTERS)
        first = _code(rows[order], most)
        second = None if first is None else _code(columns[order], most - len(first))
        if first is not None and second is not None:
            found.append((first, second))
            if len(first) + len(second) < SHORT:
                break
    return min(found, key=lambda pair: len(pair[0]) + len(pair[1]), default=None)


def _code(numbers: Tensor, most: int) -> str | None:
    """Code of at most so many characters for a tensor of whole numbers, or None."""
    code = _formula(numbers) or _listed(numbers) or _pieces(numbers, most)
    if code is None or len(code) > most:
        return None
    return code


def _listed(numbers: Tensor) -> str | None:
    return f"torch.tensor({numbers.tolist()})" if 0 < numbers.numel() <= SHORTEST else None


def _formula(numbers: Tensor) -> str | None:
    """The code of equal numbers, equal steps, or a repeated block with a step; None for others."""
    n = numbers.numel()
    if n == 0:
        return "torch.empty(0, dtype=torch.int64)"
    first = int(numbers[0])
    if n == 1:
        return f"torch.tensor([{first}])"
    step = int(numbers[1]) - first
    if bool((numbers.diff() == step).all()):
        return _steps(n, first, step)
    for period in range(2, n // 2 + 1):
        if n % period:
            continue
        step = int(numbers[period]) - first
        if bool((numbers[period : 2 * period] - numbers[:period] != step).any()):
            continue
        if bool((numbers[period:] - numbers[:-period] == step).all()):
            return _blocks(numbers[:period], n // period, step)
    return None


def _steps(n: int, first: int, step: int) -> str:
    if step == 0:
        return f"torch.full(({n},), {first})"
    if step == 1 and first == 0:
        return f"torch.arange({n})"
    if step == 1:
        return f"torch.arange({first}, {first + n})"
    return f"torch.arange({first}, {first + n * step}, {step})"


def _blocks(block: Tensor, count: int, step: int) -> str | None:
    """The code of a block that comes `count` times, each time with a step more."""
    if step == 0:
        inner = _code(block, MOST_CHARACTERS)
        return None if inner is None else f"{inner}.repeat({count})"
    if bool((block == block[0]).all()):
        outer = _steps(count, int(block[0]), step)
        return f"{outer}.repeat_interleave({block.numel()})"
    inner = _code(block, MOST_CHARACTERS)
    outer = f"torch.arange({count})[:, None]" + (f" * {step}" if step != 1 else "")
    return None if inner is None else f"({outer} + {inner}).reshape(-1)"


def _pieces(numbers: Tensor, most: int) -> str | None:
    """The code of formulas one after another, each for as many numbers as can be, and of short
    lists between them; of a list if it is short enough."""
    n, begin, values = numbers.numel(), 0, numbers.tolist()
    parts: list[str] = []
    loose: list[int] = []
    while begin < n and len(parts) <= MOST_PIECES and len(loose) <= MOST_LISTED:
        length = max((_reach(numbers[begin:], p) for p in _periods(values, begin)), default=0)
        if length < SHORTEST:
            loose.append(values[begin])
            begin += 1
            continue
        if loose:
            parts.append(f"torch.tensor({loose})")
            loose = []
        parts.append(_formula(numbers[begin : begin + length]) or "")
        begin += length
    if loose:
        parts.append(f"torch.tensor({loose})")
    code = f"torch.cat([{', '.join(parts)}])"
    if begin == n and "" not in parts and len(parts) <= MOST_PIECES and len(code) <= most:
        return code
    return f"torch.tensor({numbers.tolist()})" if n <= MOST_LISTED else None


def _periods(values: list[int], begin: int) -> list[int]:
    """The lengths of blocks that the numbers from here on may repeat, by a look at a few."""
    periods = []
    for period in range(1, MOST_PERIOD + 1):
        here = values[begin : begin + max(SHORTEST, 2 * period)]
        steps = [b - a for a, b in zip(here, here[period:])]
        if steps and steps.count(steps[0]) == len(steps):
            periods.append(period)
    return periods


def _reach(numbers: Tensor, period: int) -> int:
    """How many of the first numbers are blocks of this length with equal steps; whole blocks."""
    if numbers.numel() < 2 * period:
        return 0
    steps = numbers[period:] - numbers[:-period]
    other = (steps != steps[0]).nonzero()
    length = period + (int(other[0]) if other.numel() else steps.numel())
    return length - length % period if length >= 2 * period else 0

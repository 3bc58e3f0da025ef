"""The cost of a jacobian by theory, in words: passes, memory, chunks."""

from __future__ import annotations

from gradbench.core.units import call_time, counted, short, size
from gradbench.problems.mode import Passes
from gradbench.problems.structure import Structure

PASS_MEMORY = 4
"""A batched pass keeps a few times its seeds alive: the seeds, the results, what lies between."""


MOST_CHECKED = 4_000_000
"""Entries beyond which a dense result is not compared entry by entry with a reference, which would
take minutes, but by random products: see `gradbench.worker.products`."""


def chunk(outputs: int, coordinates: int, width: int, limit: int) -> int:
    """How many rows or columns can be computed at once within `limit` bytes; 0 for none.

    `width` is the bytes of one number.
    """
    return limit // (PASS_MEMORY * max(outputs + coordinates, 1) * width)


def explain(
    outputs: int,
    coordinates: int,
    width: int,
    limit: int,
    structure: Structure | None = None,
) -> tuple[str, ...]:
    """Sentences on the cost of a Jacobian of `outputs` by `coordinates` numbers.

    `width` is the size of one number, `limit` the memory limit, both in bytes.
    """
    dense = outputs * coordinates * width
    few, way = min((outputs, "reverse"), (coordinates, "forward"))
    sentences = [
        f"{counted(outputs, 'output')} by {counted(coordinates, 'input')}: reverse mode takes "
        f"{counted(outputs, 'pass')} (one a row), forward mode {counted(coordinates, 'pass')} "
        "(one a column)."
    ]
    if outputs == coordinates:
        sentences.append("Pass counts tie; the cost of a pass decides.")
    else:
        sentences.append(f"{way.capitalize()} mode needs fewer passes.")
    sentences.append(f"The dense result takes {size(dense)}.")
    at_once = chunk(outputs, coordinates, width, limit - dense)
    if dense <= limit and at_once < few:
        sentences.append(
            f"All passes at once would not fit in {size(limit)}: "
            + (f"chunk_size={at_once} would." if at_once > 0 else "one pass at a time would.")
        )
    if structure is not None and structure.kind != "dense":
        forward, reverse = structure.passes
        least = min(forward, reverse)
        kept = structure.entries * width
        sentences.append(
            f"It is {structure.kind}: {counted(reverse, 'pass')} in reverse or {forward} in "
            f"forward mode give all {structure.entries} entries, {short(few / least)} times fewer "
            "than dense."
        )
        if kept < dense:
            sentences.append(
                f"Stored as entries it takes {size(kept)} instead of {size(dense)}: "
                "avoid the dense result if you can."
            )
    return tuple(sentences)


def refuse(
    outputs: int,
    coordinates: int,
    width: int,
    limit: int,
    instead: str = "products (vjp, jvp)",
) -> str:
    """Why the dense Jacobian must not be formed, and what can be asked for `instead`; empty if it
    fits in `limit` bytes."""
    dense = outputs * coordinates * width
    if dense <= limit:
        return ""
    return (
        f"a dense result of {outputs} by {coordinates} takes {size(dense)}, more than the limit of "
        f"{size(limit)}: ask for {instead}, or give a smaller input of the same structure"
    )


def too_many(passes: Passes, pass_time: int, patience: int) -> str:
    """Why a mode takes too long by its passes in turn; empty if it need not.

    No pass is shorter than `pass_time`, that of a call of the function (0: unknown). A call may
    take `patience`. Both in nanoseconds.
    """
    spent = passes.number * pass_time
    if passes.batched or passes.number <= 1 or spent <= patience:
        return ""
    return (
        f"{counted(passes.number, 'pass')} of at least {call_time(pass_time * 1e-9)} each: over "
        f"{call_time(spent * 1e-9)} a call, beyond the limit of {call_time(patience * 1e-9)}"
    )

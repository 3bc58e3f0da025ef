"""What the count of passes says before anything is measured: an order, and what is hopeless."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gradbench.core.cases import FORWARD
from gradbench.core.units import call_time, counted

EARLY = 3
"""The usual choice is tried after so many others at most, the forward pass among them."""

HOPELESS = 1000
"""A mode with so many times the passes of another is not tried, even if all are one batch."""


def passes(found: Mapping[str, Any], mode: str) -> tuple[int, bool]:
    """The passes of a mode over the function, and whether they are one pass over a batch."""
    number, batched = found["passes"].get(mode, (1, False))
    return max(1, number), batched


def in_order(found: Mapping[str, Any], modes: Iterable[str], usual: str = "") -> list[str]:
    """The modes, the forward pass first, then the most promising: by the passes in turn, then by
    those at once, then of batches those of torch.func, which copy the least. Ties keep their order.
    Those that trace the function in every call come last: that takes longer than the passes.
    The usual choice comes third at the latest, for it is what the others are compared with."""

    def key(mode: str) -> tuple[bool, bool, int, int, bool]:
        number, batched = passes(found, mode)
        in_turn = 1 if batched else number
        traced, copying = mode in found["traced"], mode not in found["transforms"]
        return mode != FORWARD, traced, in_turn, number, copying and number > 1

    ordered = sorted(modes, key=key)
    if usual in ordered[EARLY:]:
        ordered.remove(usual)
        ordered.insert(EARLY, usual)
    return ordered


def cheapest(found: Mapping[str, Any], modes: Iterable[str]) -> float:
    """The seconds that the passes of the most promising mode take, those in a batch one by one: of
    every function at least one mode should be called."""
    counts = [passes(found, mode)[0] for mode in modes if mode != FORWARD]
    return float(min(counts, default=1) * found["seconds"])


def ruled_out(
    found: Mapping[str, Any], modes: Iterable[str], patience: Mapping[str, float]
) -> dict[str, str]:
    """The modes that need not be called to be seen to be hopeless, with the reason.

    `patience` is how many seconds a call of each mode may take.
    """
    modes = [mode for mode in modes if mode != FORWARD]
    fewest = min((passes(found, mode)[0] for mode in modes), default=1)
    safe = {passes(found, mode): mode for mode in modes if mode in found["transforms"]}
    reasons = {}
    for mode in modes:
        number, batched = passes(found, mode)
        seconds = number * found["seconds"]
        long = number > 1 and seconds > patience[mode]
        if not batched and long:
            reasons[mode] = (
                f"{counted(number, 'pass')}, each longer than the function's {_per_call(found)}: "
                f"over {call_time(seconds)} a call"
            )
        elif number >= HOPELESS * fewest:
            reasons[mode] = f"{counted(number, 'pass')} where {fewest} will do"
        elif long and mode not in found["transforms"] and (number, batched) in safe:
            # One that copies for every pass can take minutes, and what it leaves nobody can use.
            reasons[mode] = (
                f"a batch of {counted(number, 'pass')}, {call_time(seconds)} one by one: "
                f"{safe[number, batched]} makes the same passes, and nothing slower is tried"
            )
    return reasons


def _per_call(found: Mapping[str, Any]) -> str:
    return call_time(found["seconds"])

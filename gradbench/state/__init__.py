"""What measured code could change in the process: take a snapshot, restore it, name the changes.

A mode runs in a process that it shares with other modes. docs/correctness.md states what follows
from a change. Functions that read the state are bound when this module is imported, so that
measured code cannot replace them later. Only torch and the standard library are imported; state
that a release of torch lacks is left out. Random number generators are not watched: drawing from
them is normal, and the suite's own inputs come from generators of their own.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gradbench.state.item import describe_change, same
from gradbench.state.item import summarize as summarize
from gradbench.state.python_items import gate_items, quick_items, thorough_items

QUICK = tuple(quick_items())
"""Compared around each visit too: reading them takes well under a tenth of a visit."""

PER_CALL = (*QUICK, *gate_items())
"""Compared after each call that the gate makes: also the functions that check its result."""

ALL = (*PER_CALL, *thorough_items())

_READS = tuple((item.read, item.unchanged) for item in ALL)


class StateLost(BaseException):
    """A change that cannot be undone: this process must not measure any more.

    Like SystemExit it is no `Exception`, so that no `except Exception` keeps the process going.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"changes {what}, which cannot be put back")
        self.what = f"{what} (which cannot be put back)"


@dataclass
class Changes:
    """Descriptions of items that were changed, and restored."""

    harmful: list[str] = field(default_factory=list)
    """Results or times depend on these."""
    harmless: list[str] = field(default_factory=list)
    by_torch: bool = False
    """Whether torch changed more while it loaded a part of itself, which no mode is blamed for."""

    def __bool__(self) -> bool:
        return bool(self.harmful or self.harmless)

    def add(self, later: Changes) -> None:
        for mine, more in ((self.harmful, later.harmful), (self.harmless, later.harmless)):
            mine.extend(change for change in more if change not in mine)

    @property
    def summary(self) -> str:
        return summarize(self.harmful + self.harmless)


Snapshot = tuple[Any, ...]
"""The values of all items, or of the first ones, in their order."""

_modules: set[str] = set()
"""The modules that were loaded at the last snapshot."""


def snapshot() -> Snapshot:
    """The values of all items now."""
    _modules.clear()
    _modules.update(sys.modules)
    return tuple([item.read() for item in ALL])


def modules_loaded() -> bool:
    """Whether modules have been loaded since the last snapshot."""
    return sys.modules.keys() != _modules


def restore(before: Snapshot) -> Changes:
    """Undoes all changes since a snapshot and returns them.

    Raises StateLost where one cannot be undone.
    """
    changed = _changed(before)
    changes = Changes()
    if not changed:
        return changes
    torch_loads = any(name.startswith("torch.") for name in sys.modules.keys() - _modules)
    for position, now in changed.items():
        item = ALL[position]
        if item.by_torch and torch_loads:
            changes.by_torch = True
            continue
        kind = changes.harmful if item.harmful else changes.harmless
        kind.append(describe_change(item.name, before[position], now))
    for _ in range(2):
        # An item may hide another's change, so the first ones may need a second write.
        for position in changed:
            with contextlib.suppress(Exception):
                ALL[position].write(before[position])
        changed = _changed(before)
        if not changed:
            return changes
    raise StateLost(
        summarize([describe_change(ALL[p].name, before[p], now) for p, now in changed.items()])
    )


@contextlib.contextmanager
def preserve(changes: Changes, loading: bool = False) -> Iterator[None]:
    """Restores the state after the block and adds what the block has changed to `changes`.

    For code that is only `loading`, sys.path keeps its value, since modes may import more later;
    and what cannot be undone is reported instead of raising StateLost, since the code is not run
    again.
    """
    before = snapshot()
    try:
        yield
    finally:
        if loading:
            position = next(i for i, item in enumerate(ALL) if item.name == "sys.path")
            before = (*before[:position], ALL[position].read(), *before[position + 1 :])
        try:
            changes.add(restore(before))
        except StateLost as lost:
            if not loading:
                raise
            changes.harmful.append(lost.what)


def _changed(before: Snapshot) -> dict[int, Any]:
    """The changed items: their position, and their value now."""
    changed = {}
    for position, ((read, unchanged), then) in enumerate(zip(_READS, before)):
        if unchanged is not None and unchanged(then):
            continue
        now = read()
        if now is not then and not same(then, now):
            changed[position] = now
    return changed

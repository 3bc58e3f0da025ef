"""The state of the measuring process: what one mode could change for all others.

A mode is a guest in a process that it shares. `look` notes the state before it is built or called,
`put_back` restores what is another afterwards and says what that was. docs/correctness.md has the
rule of what follows. What is read here is bound when this module is imported, so that nothing of
the user's can stand in for it later.

Torch and the standard library alone: this is the worker's side. What a release of torch lacks is
left out. Random numbers are not watched: drawing them is normal, and the suite's own inputs come
from generators of their own.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from gradbench.state.item import listed as listed
from gradbench.state.item import same, told
from gradbench.state.of_python import near_items, quick_items, thorough_items

QUICK = tuple(quick_items())
"""What is looked at around each visit too, since it takes well under a tenth of one."""

NEAR = (*QUICK, *near_items())
"""What is looked at after each call of the gate: besides, the functions that judge its result."""

ALL = (*NEAR, *thorough_items())

_READS = tuple((item.read, item.same) for item in ALL)


class StateLost(BaseException):
    """Something was changed that cannot be put back: this process must not measure any more.

    Like SystemExit no `Exception`, since it has to end what runs.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"changes {what}, which cannot be put back")
        self.what = f"{what} (which cannot be put back)"


@dataclass
class Left:
    """What was found changed, and put back: that on which results and times depend, and the
    rest."""

    measured: list[str] = field(default_factory=list)
    other: list[str] = field(default_factory=list)
    by_torch: bool = False
    """Whether torch changed more while it loaded a part of itself, which is nobody's fault."""

    def __bool__(self) -> bool:
        return bool(self.measured or self.other)

    def add(self, later: Left) -> None:
        for mine, more in ((self.measured, later.measured), (self.other, later.other)):
            mine.extend(what for what in more if what not in mine)

    @property
    def what(self) -> str:
        """All of it in words."""
        return listed(self.measured + self.other)


Seen = tuple[Any, ...]
"""The values of all items, or of the quick ones, in their order."""


def look(thorough: bool = True) -> Seen:
    """The state now; unless `thorough`, what takes a few microseconds to read."""
    if thorough:
        _loaded.clear()
        _loaded.update(sys.modules)
    return tuple([item.read() for item in (ALL if thorough else QUICK)])


_loaded: set[str] = set()
"""The modules that were loaded at the last thorough look."""


def outgrown() -> bool:
    """Whether modules have been loaded since the last thorough look."""
    return sys.modules.keys() != _loaded


def put_back(before: Seen) -> Left:
    """Restores what has changed since, and says what that was.

    Raises StateLost where something does not change back.
    """
    changed = _changed(before)
    left = Left()
    if not changed:
        return left
    torch_loads = any(name.startswith("torch.") for name in sys.modules.keys() - _loaded)
    for position, now in changed.items():
        item = ALL[position]
        if item.by_torch and torch_loads:
            left.by_torch = True
            continue
        (left.measured if item.measured else left.other).append(
            told(item.name, before[position], now)
        )
    for _ in range(2):
        # One flag may stand behind another, so what is written first may need a second turn.
        for position in changed:
            with contextlib.suppress(Exception):
                ALL[position].write(before[position])
        changed = _changed(before)
        if not changed:
            return left
    stuck = [told(ALL[p].name, before[p], now) for p, now in changed.items()]
    raise StateLost(listed(stuck))


@contextlib.contextmanager
def kept(left: Left, guest: bool = True) -> Iterator[None]:
    """The state after the block is that before it; adds to `left` what the block has changed.

    What is no guest is not called again, so that others must live with what cannot be put back;
    and sys.path stays as it leaves it, for its modes may import more later.
    """
    before = look()
    try:
        yield
    finally:
        if not guest:
            position = next(i for i, item in enumerate(ALL) if item.name == "sys.path")
            before = (*before[:position], ALL[position].read(), *before[position + 1 :])
        try:
            left.add(put_back(before))
        except StateLost as lost:
            if guest:
                raise
            left.measured.append(lost.what)


def _changed(before: Seen) -> dict[int, Any]:
    """The positions of the items that are not as before, with what they are now."""
    found = {}
    for position, ((read, same_as), then) in enumerate(zip(_READS, before)):
        if same_as is not None and same_as(then):
            continue
        now = read()
        if now is not then and not same(then, now):
            found[position] = now
    return found

"""What somebody meant who typed a name that is not there. Used on both sides of the wire."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

TYPO = 0.82
"""Similarity from which on a name is taken for a typing error of another, whatever that is."""

SIMILAR = 0.6
LEAST = 3
"""Characters that a part of a name must have to count as a hint at it."""


def nearest(
    name: str,
    known: Iterable[str],
    usual: Collection[str] = (),
    exotic: Collection[str] = (),
    most: int = 3,
) -> list[str]:
    """The known names that are most likely meant, the likeliest first.

    A typing error of a known name comes first. Of names that only resemble it or have it in them,
    `usual` ones come before others, and `exotic` ones last.
    """
    ranked = []
    for position, one in enumerate(dict.fromkeys(known)):
        a, b = name.casefold(), one.casefold()
        likeness = difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()
        part = (len(b) >= LEAST and b in a) or (len(a) >= LEAST and a in b)
        if likeness >= TYPO:
            ranked.append((0, 0, 0, 0, -likeness, position, one))
        elif part or likeness >= SIMILAR:
            ranked.append((1, one in exotic, not part, one not in usual, -likeness, position, one))
    return [entry[-1] for entry in sorted(ranked)[:most]]


def hint(
    name: str, known: Iterable[str], usual: Collection[str] = (), exotic: Collection[str] = ()
) -> str:
    """``did you mean list?``, or nothing where no known name is near."""
    # A long text is no typing error, and comparing it with every name takes long.
    close = nearest(name, known, usual, exotic) if len(name) <= 100 else []
    return f"did you mean {' or '.join(close)}?" if close else ""

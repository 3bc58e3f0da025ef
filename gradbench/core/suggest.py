"""Suggestions for a mistyped name: ``did you mean list?``"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

TYPO = 0.82
"""Names at least this similar are typing errors of each other."""

SIMILAR = 0.6
"""Names at least this similar resemble each other."""

SHORTEST_PART = 3
"""Characters of the shortest part of a name that counts as a hint at it."""


def nearest(
    name: str, known: Iterable[str], usual: Collection[str] = (), exotic: Collection[str] = ()
) -> list[str]:
    """Up to three known names that were most likely meant, the likeliest first.

    Names of which `name` is a typing error come first. Of names that only resemble or contain it,
    `usual` ones come before others, and `exotic` ones last.
    """
    ranked = []
    for position, other in enumerate(dict.fromkeys(known)):
        a, b = name.casefold(), other.casefold()
        similarity = difflib.SequenceMatcher(None, a, b, autojunk=False).ratio()
        part = min(len(a), len(b)) >= SHORTEST_PART and (a in b or b in a)
        if similarity >= TYPO:
            ranked.append((0, 0, 0, 0, -similarity, position, other))
        elif part or similarity >= SIMILAR:
            order = (1, other in exotic, not part, other not in usual)
            ranked.append((*order, -similarity, position, other))
    return [entry[-1] for entry in sorted(ranked)[:3]]


def hint(
    name: str, known: Iterable[str], usual: Collection[str] = (), exotic: Collection[str] = ()
) -> str:
    """``did you mean list?``, or an empty string if no known name is near."""
    # A long text is no typing error, and slow to compare.
    close = nearest(name, known, usual, exotic) if len(name) <= 100 else []
    return f"did you mean {' or '.join(close)}?" if close else ""

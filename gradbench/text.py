"""Text from outside (messages, names, facts of machines), made fit to store and to show.

Measured code, plugins, files and machines can put anything into a string: lone surrogates, which
UTF-8 cannot hold; control characters, which a terminal obeys; a formula, which a spreadsheet runs;
a link, which a reader clicks. Each output has one function here. Both sides of the wire use this
module, so it needs nothing but the standard library.
"""

from __future__ import annotations

import re

LONGEST = 2000
"""Characters of one stored message at most; what is longer loses its middle."""

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but for tab and newline
    "\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing
    "\u2028\u2029"  # line ends that only some programs see
    "\ud800-\udfff]"  # lone surrogates
)


def storable(text: str, longest: int = LONGEST) -> str:
    r"""The text as UTF-8 can hold it and a terminal show it, at most `longest` characters.

    What cannot stand is written as Python writes it: ``\x1b``, ``\udce9``.
    """
    return shortened(_UNSAFE.sub(_escaped, text), longest)


def line(text: str, longest: int = 300) -> str:
    """The text as one storable line, with single spaces between its words."""
    # The whole of a huge text need not be split for a line of it.
    return storable(" ".join(text[: 4 * longest].split()), longest)


def shortened(text: str, longest: int) -> str:
    """The text with its middle left out where it is longer."""
    if len(text) <= longest:
        return text
    kept = max(longest - 3, 0)
    end = kept // 3
    return text[: kept - end] + "..." + text[len(text) - end :]


def csv_cell(text: str) -> str:
    """The text as a cell that no spreadsheet takes for a formula.

    A quote is put before what would begin one, as OWASP's page on CSV injection advises.
    """
    clean = _UNSAFE.sub(_escaped, text)
    return "'" + clean if clean[:1] in ("=", "+", "-", "@", "\t", "\n") else clean


def markdown_cell(text: str) -> str:
    """The text as a cell of a Markdown table, with nothing in it that is markup."""
    clean = " ".join(_UNSAFE.sub(_escaped, text).split())
    return re.sub(r"([\\|`\[\]<>])", r"\\\1", clean)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

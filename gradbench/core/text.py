"""Text from outside (messages, names, facts of machines), made fit to store and to show.

Measured code, plugins, files and machines can put anything into a string: lone surrogates, which
UTF-8 cannot hold; control characters, which a terminal obeys; a formula, which a spreadsheet runs;
a link, which a reader clicks. Each output has one function here. Both sides of the wire use this
module, so it needs nothing but the standard library.
"""

from __future__ import annotations

import codecs
import html
import json
import math
import re
from collections.abc import Sequence
from typing import Any

LONGEST = 2000
"""Characters of one stored message at most; what is longer loses its middle."""

UNSAFE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but for tab and newline
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # what turns the direction of writing
    "\u2028\u2029"  # line ends that only some programs see
    "\u200b\u2060-\u2064\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # what nobody can see
    "\ufffe\uffff"  # what XML, and so SVG, cannot hold
    "\ud800-\udfff"  # lone surrogates
)
"""Characters that are never stored or shown, as they stand between the brackets of a pattern."""

_UNSAFE = re.compile(f"[{UNSAFE}]")


def shown(text: str) -> str:
    r"""The text as UTF-8 can hold it and a terminal show it.

    What cannot stand is written as Python writes it: ``\x1b``, ``\udce9``.
    """
    # Nearly all text is plain; the regular expression need not look at it.
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_escaped, text)


def storable(text: str, longest: int = LONGEST) -> str:
    """The text as `shown` has it, at most `longest` characters."""
    return shortened(shown(text), longest)


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

    A quote is put before what would begin one, as OWASP's page on CSV injection advises; in some
    languages a spreadsheet takes the full-width signs too.
    """
    clean = shown(text)
    return "'" + clean if clean.startswith(_FORMULA) else clean


_FORMULA = ("=", "+", "-", "@", "\t", "\n", "＝", "＋", "－", "＠")


def markdown_cell(text: str) -> str:
    """The text as a cell of a Markdown table or a line of prose, with nothing in it that is markup.

    Signs of HTML are written as entities, which hold inside an element too. Addresses are no
    links either: GitHub makes one of every ``https://`` and ``www.``.
    """
    clean = shown(shortened(" ".join(text.split()), LONGEST))
    clean = re.sub(r"([\\|`\[\]*~$])", r"\\\1", html.escape(clean, quote=False))
    # An underscore inside a word is no markup, and names are full of them.
    clean = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", clean)
    clean = re.sub(r":(?=//)", r"\\:", clean)
    return re.sub(r"(?i)\b(www|mailto|xmpp)([.:])", r"\1\\\2", clean)


def finalized(value: Any) -> Any:
    """A value as a template shows it, before it is escaped: jinja2's `finalize`.

    Markup, as a figure that was drawn, is no text from outside.
    """
    return shown(value) if type(value) is str else value


def json_text(value: Any, *, indent: int | None = None, only_ascii: bool = False) -> str:
    """The value as JSON that any parser takes: no lone surrogate, no NaN, no infinity.

    Strings keep their content: what a terminal would obey is written as JSON's own escapes. NaN
    becomes null, an infinity 1e308.
    """
    dumped = json.dumps(_plain(value), indent=indent, ensure_ascii=only_ascii, allow_nan=False)
    return _UNSAFE.sub(lambda found: json.dumps(found.group())[1:-1], dumped)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return _SURROGATE.sub(_escaped, value)
    if isinstance(value, float):
        return None if math.isnan(value) else max(-1e308, min(value, 1e308))
    if isinstance(value, dict):
        return {_plain(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


_SURROGATE = re.compile("[\ud800-\udfff]")


def _escaped(found: re.Match[str]) -> str:
    code = ord(found.group())
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


_IN_ASCII = {
    **{"µ": "u", "μ": "u", "×": "x", "±": "+-", "−": "-", "–": "-", "—": "-", "…": "...", "·": "."},
    **{"∞": "inf", "→": "->", "←": "<-", "↑": "^", "↓": "v", "▲": "^", "▼": "v"},
    **{"≤": "<=", "≥": ">=", "≈": "~", "≠": "!=", "∂": "d", "Σ": "sum", "∑": "sum", "√": "sqrt"},
    **{"²": "^2", "³": "^3", "°": "deg", "‘": "'", "’": "'", "“": '"', "”": '"', "\u00a0": " "},
    **dict.fromkeys("─━╸╺╴╶═", "-"),
    **dict.fromkeys("│┃║", "|"),
    **dict.fromkeys("┌┐└┘├┤┬┴┼╭╮╯╰╡╞╪", "+"),
}


def in_ascii(text: str) -> str:
    """The text for a terminal that shows no more than ASCII: `µs` as `us`, `±` as `+-`."""
    if text.isascii():
        return text
    return "".join(
        letter if letter.isascii() else _IN_ASCII.get(letter) or _codepoint(letter)
        for letter in text
    )


def _codepoint(letter: str) -> str:
    return letter.encode("ascii", "backslashreplace").decode()


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_ascii(error.object[error.start : error.end]), error.end


ERRORS = "gradbench.core.text"
"""The name under which the codecs know what takes the place of what they cannot encode."""

codecs.register_error(ERRORS, _replaced)


def markdown(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    """A Markdown table; nothing in a cell is markup."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(markdown_cell(str(cell)) for cell in cells) + " |"

    return "\n".join([line(columns), "|" + " --- |" * len(columns), *map(line, rows)])

"""Escapes untrusted text for storage, terminals, CSV, Markdown and JSON.

Strings from measured code, plugins, files and machines may have anything in them: lone surrogates,
which UTF-8 cannot encode; control characters, which a terminal obeys; a formula, which a
spreadsheet evaluates; a link, which a reader clicks. Each output has one function here.
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
"""Characters of a stored message at most; a longer one loses its middle."""

UNSAFE = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters except tab and newline
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # direction of writing
    "\u2028\u2029"  # line ends for some programs only
    "\u200b\u2060-\u2064\ufeff\ufff9-\ufffb\U000e0000-\U000e007f"  # invisible
    "\ufffe\uffff"  # invalid in XML, and so in SVG
    "\ud800-\udfff"  # lone surrogates
)
"""Characters that are never stored or shown, in the syntax of a regular expression's set."""

_UNSAFE = re.compile(f"[{UNSAFE}]")


def shown(text: str) -> str:
    r"""The text with unsafe characters escaped as Python escapes them: ``\x1b``, ``\udce9``."""
    # Fast path: nearly all text is plain.
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_escaped, text)


def storable(text: str, longest: int = LONGEST) -> str:
    """The text with unsafe characters escaped, shortened to `longest` characters."""
    return shortened(shown(text), longest)


def line(text: str, longest: int = 300) -> str:
    """The text as one storable line, with single spaces between its words."""
    # A huge text is cut before it is split.
    return storable(" ".join(text[: 4 * longest].split()), longest)


def shortened(text: str, longest: int) -> str:
    """The text, without its middle if it is longer than that."""
    if len(text) <= longest:
        return text
    rest = max(longest - 3, 0)
    end = rest // 3
    return text[: rest - end] + "..." + text[len(text) - end :]


def csv_cell(text: str) -> str:
    """The text with a quote before a sign that would start a formula in a spreadsheet.

    OWASP's page on CSV injection advises this. Spreadsheets in some languages accept full-width
    signs too.
    """
    clean = shown(text)
    return "'" + clean if clean.startswith(_FORMULA) else clean


_FORMULA = ("=", "+", "-", "@", "\t", "\n", "＝", "＋", "－", "＠")


def markdown_cell(text: str) -> str:
    """The text as a cell of a Markdown table or a line of prose, with all markup escaped.

    HTML's signs become entities, which also work inside an element. Addresses are escaped too,
    since GitHub turns every ``https://`` and ``www.`` into a link.
    """
    clean = shown(shortened(" ".join(text.split()), LONGEST))
    clean = re.sub(r"([\\|`\[\]*~$])", r"\\\1", html.escape(clean, quote=False))
    # An underscore inside a word is no markup.
    clean = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", clean)
    clean = re.sub(r":(?=//)", r"\\:", clean)
    return re.sub(r"(?i)\b(www|mailto|xmpp)([.:])", r"\1\\\2", clean)


def finalized(value: Any) -> Any:
    """The value with unsafe characters escaped: `finalize` of a jinja2 environment.

    Only plain strings: markup such as a figure is trusted.
    """
    return shown(value) if type(value) is str else value


def json_text(value: Any, *, indent: int | None = None, only_ascii: bool = False) -> str:
    """The value as JSON for any parser: NaN becomes null, an infinity 1e308.

    Strings keep their content, with unsafe characters as JSON's own escapes.
    """
    dumped = json.dumps(_plain(value), indent=indent, ensure_ascii=only_ascii, allow_nan=False)
    return _UNSAFE.sub(lambda match: json.dumps(match.group())[1:-1], dumped)


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


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
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
    """The text for a terminal that shows ASCII only: `µs` as `us`, `±` as `+-`."""
    if text.isascii():
        return text
    return "".join(
        _IN_ASCII.get(letter) or letter.encode("ascii", "backslashreplace").decode()
        for letter in text
    )


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return in_ascii(error.object[error.start : error.end]), error.end


ERRORS = "gradbench.core.text"
"""The codecs' error handler that writes what they cannot encode in ASCII."""

codecs.register_error(ERRORS, _replaced)


def markdown(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    """A Markdown table with all markup in its cells escaped."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(markdown_cell(str(cell)) for cell in cells) + " |"

    return "\n".join([line(columns), "|" + " --- |" * len(columns), *map(line, rows)])

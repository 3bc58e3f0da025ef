"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """The number with its noun, in the plural unless it is one: ``1 case``, ``12 cases``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}{'es' if noun.endswith('s') else 's'}"


def grouped(number: int) -> str:
    """A whole number with its digits in groups of three from 10 000 on: ``16 777 216``."""
    return str(number) if number < 10_000 else f"{number:,}".replace(",", "\N{THIN SPACE}")


def size(number: float) -> str:
    """Bytes in words, as ``3.05 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1000:
            return f"{short(number)} {unit}"
        number /= 1024
    return f"{short(number)} TiB"


def short(number: float) -> str:
    """The number with three figures, without an exponent before its point."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"

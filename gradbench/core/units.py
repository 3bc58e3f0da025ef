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


def duration(seconds: float) -> str:
    """A time span as people say it."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 5940:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def call_time(seconds: float) -> str:
    """A call's time with three digits and its unit."""
    for unit, scale in (("ns", 1e9), ("µs", 1e6), ("ms", 1e3)):
        value = seconds * scale
        if value < 999.5:
            return f"{value:.3g} {unit}"
    return f"{seconds:.3g} s"


def reading(value: float, unit: str) -> str:
    """What an instrument read, with three digits and in steps of 1024 bytes or of 1000."""
    if unit == "seconds":
        return call_time(value)
    step, prefixes = (1024, ("", "Ki", "Mi", "Gi")) if unit == "bytes" else (1000, ("", "k", "M"))
    ends = "B" if unit == "bytes" else ""
    for prefix in prefixes:
        if value < step - 0.5:
            # From 1000 to 1023 three digits would need an exponent.
            return f"{value:.{4 if value >= 999.5 else 3}g} {prefix}{ends}".rstrip()
        value /= step
    return f"{value:.4g} {'Ti' if ends else 'G'}{ends}"

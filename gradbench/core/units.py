"""Formats numbers for readers: counts, bytes, durations, times of calls, readings."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """The number with its noun, in the plural if needed: ``1 case``, ``12 cases``."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {plural(noun)}"


def plural(noun: str) -> str:
    """``cases``, ``processes``, ``studies``."""
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}{'es' if noun.endswith('s') else 's'}"


def false_positives(calls: int, expected: float, bound: float) -> str:
    """How many of the faster and slower verdicts of a table are false, in words."""
    if not calls:
        return "no verdict of slower or faster"
    return (
        f"{about(expected)} false positives expected in {counted(calls, 'verdict')} of slower or "
        f"faster (at most {short(bound) if bound >= 100 else f'{bound:.2g}'} in the worst case)"
    )


def about(expected: float) -> str:
    """An expected number: ``about 0.3``, ``fewer than 0.01``."""
    return f"about {expected:.2g}" if expected >= 0.005 else "fewer than 0.01"


def grouped(number: int) -> str:
    """The number with its digits in groups of three from 10 000 on: ``16 777 216``."""
    return str(number) if number < 10_000 else f"{number:,}".replace(",", "\N{THIN SPACE}")


def size(number: float) -> str:
    """Bytes with a binary unit: ``3.05 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1000:
            return f"{short(number)} {unit}"
        number /= 1024
    return f"{short(number)} TiB"


def short(number: float) -> str:
    """The number with three significant digits, without an exponent for large ones."""
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def multiple(value: float) -> str:
    """A multiple as in all tables and figures: ``1.05``, ``12.3``, ``140``."""
    if value < 9.995:
        return f"{value:.2f}"
    if value < 99.95:
        return f"{value:.1f}"
    return f"{value:.0f}" if value < 9999.5 else f"{value:.1e}".replace("e+0", "e")


WIDE = 1000
"""An interval whose end is so many times its beginning says nothing, and is not shown."""


def says_nothing(low: float, high: float) -> bool:
    """Whether an interval is so wide that the ratio stands alone, with a ``~``."""
    return not high < WIDE * low


def duration(seconds: float) -> str:
    """A time span in whole seconds, minutes or tenths of hours."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 5940:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def call_time(seconds: float) -> str:
    """A call's time with three significant digits: ``12.3 µs``."""
    for unit, scale in (("ns", 1e9), ("µs", 1e6), ("ms", 1e3)):
        value = seconds * scale
        if value < 999.5:
            return f"{value:.3g} {unit}"
    return f"{seconds:.3g} s"


def reading(value: float, unit: str) -> str:
    """An instrument's reading with three significant digits; bytes have binary prefixes."""
    if unit == "seconds":
        return call_time(value)
    step, prefixes = (1024, ("", "Ki", "Mi", "Gi")) if unit == "bytes" else (1000, ("", "k", "M"))
    suffix = "B" if unit == "bytes" else ""
    for prefix in prefixes:
        if value < step - 0.5:
            # From 1000 to 1023 three digits would need an exponent.
            return f"{value:.{4 if value >= 999.5 else 3}g} {prefix}{suffix}".rstrip()
        value /= step
    return f"{value:.4g} {'Ti' if suffix else 'G'}{suffix}"

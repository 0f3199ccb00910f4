"""Numbers as people read them; a page and its Markdown say them alike."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

NONE = "–"
"""Where there is no number."""
DECIMALS = {"nll": 3, "perplexity": 2, "share": 0}
"""Of metrics whose size does not decide it."""
UNITS = ("B", "kB", "MB", "GB", "TB")


def plain(number: float) -> str:
    """To three digits, and never fewer than stand before the point: `600,000`, `0.0352`, `2.5e-6`."""
    if not isfinite(number):
        return NONE
    if number == round(number) or abs(number) >= 1000:
        return f"{number:,.0f}"
    if abs(number) >= 1e-3:
        return f"{number:.3g}"
    digits, _, power = f"{number:.1e}".partition("e")
    return f"{digits.removesuffix('.0')}e{int(power)}"


def decimals(metric: str, values: Sequence[float]) -> int:
    """How many a column of a metric has, so that its numbers stand under one another."""
    most = max((abs(value) for value in values if isfinite(value)), default=0.0)
    return DECIMALS.get(metric, 1 if most >= 10 or most == 0 else 2 if most >= 1 else 3)


def fixed(number: float, places: int) -> str:
    """With so many decimals."""
    return f"{number:,.{places}f}" if isfinite(number) else NONE


def between(low: float, high: float, places: int) -> str:
    """An interval; `open` where it has no ends."""
    return f"{fixed(low, places)} to {fixed(high, places)}" if isfinite(low) and isfinite(high) else "open"


def size(count: float) -> str:
    """Bytes, to three digits."""
    rounded = float(f"{count:.3g}") if count >= 1000 else round(count)
    power = min((len(f"{rounded:.0f}") - 1) // 3, len(UNITS) - 1)
    return f"{rounded / 1000**power:,.3g} {UNITS[power]}"

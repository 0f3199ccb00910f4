"""A comparison as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from preread import render
from preread.compare import Comparison
from preread.html import standalone

ENDED = {"stop": "the model", "length": "the limit", "cancelled": "cancelling", "withheld": "doubt"}


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar of a chart: its label, its length out of 100, its value in words, and whether it is a method's."""

    label: str
    length: float
    value: str
    method: bool


def page(comparison: Comparison) -> str:
    """The whole page."""
    charts = {
        "Tokens read": _tokens(comparison),
        "First token": _seconds(comparison),
        "Kept on disk": _kept(comparison),
    }
    read = {column.method: render.read(column.answer) for column in comparison.columns if column.answer}
    return standalone("compare", it=comparison, charts=charts, read=read, ended=ENDED)


def _tokens(it: Comparison) -> list[Bar]:
    rows = {c.method: float(c.answer.usage.tokens_read) for c in it.columns if c.answer}
    return _bars(rows, {"full text": float(it.tokens)}, "{:,.0f}")


def _seconds(it: Comparison) -> list[Bar]:
    return _bars({c.method: c.answer.usage.first_token_s for c in it.columns if c.answer}, {}, "{:.2f} s")


def _kept(it: Comparison) -> list[Bar]:
    rows = {c.method: c.bytes_kept / 1e3 for c in it.columns if c.answer and c.bytes_kept}
    return _bars(rows, {"the text itself": it.text_bytes / 1e3}, "{:,.1f} kB")


def _bars(methods: Mapping[str, float], beside: Mapping[str, float], form: str) -> list[Bar]:
    """Bars of the methods, and of what they are to be seen beside."""
    longest = max([*methods.values(), *beside.values()], default=0.0) or 1.0
    rows = [(label, value, True) for label, value in methods.items()]
    rows += [(label, value, False) for label, value in beside.items()]
    return [Bar(label, round(100 * value / longest, 2), form.format(value), ours) for label, value, ours in rows]

"""What judged tasks say of a window: differences with intervals, and the word that follows from them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

from preread.certify.span import Span
from preread.core.intervals import interval, ratio_interval, wilson
from preread.eval.case import Record
from preread.eval.runner import Judged
from preread.eval.tables import Value

Word = Literal["used", "survived", "broken", "undecided"]
TOLERANCE = 0.02
"""Nats a token: what further text may cost and still count as survived; a perplexity that is 2 % higher."""

Pairs = Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one window of a span does for the loss.

    Args:
        window: positions.
        difference: nats a token above those of the window before; below 0 is a gain.
        word: what follows from the difference.
    """

    window: int
    difference: Value
    word: Word


@dataclass(frozen=True, slots=True)
class Share:
    """How many questions were answered rightly in one window.

    Args:
        window: positions that document, question and answer take.
        right: answers that hold what was asked for.
        asked: questions.
        low: lower end of Wilson's 95 % interval of the share.
        high: upper end.
    """

    window: int
    right: int
    asked: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """Share of right answers."""
        return self.right / self.asked


@dataclass(frozen=True, slots=True)
class Regression:
    """What a short task costs beside the base.

    Args:
        task: its label.
        own: nats a token.
        base: nats a token of the base, on the same items.
        relative: how much higher the own are, as a share of the base's.
    """

    task: str
    own: float
    base: float
    relative: Value


def word(difference: Value) -> Word:
    """`used` where the whole interval lies below 0, `broken` where it lies above the tolerance or is no number,
    `survived` where it does not reach beyond the tolerance; else too little was judged to decide.
    """
    if difference.high < 0:
        return "used"
    if difference.low > TOLERANCE or math.isnan(difference.low):
        return "broken"
    return "survived" if difference.high <= TOLERANCE else "undecided"


def by_length(judged: Sequence[Judged], span: Span) -> list[Verdict]:
    """Each longer window against the window before, on the same tokens.

    Args:
        judged: sliding windows of every length of the span, in its order.
        span: whose windows they are.
    """
    first, *rest = (_losses(_records(one)) for one in judged)
    return [_verdict(window, _paired(own, first)) for window, own in zip(span.windows[1:], rest, strict=True)]


def by_position(judged: Judged, span: Span) -> list[Verdict]:
    """The last quarter of each longer window against the last quarter of the window before, in the same documents.

    The tokens are others, so what documents say later and earlier is in the difference too.

    Args:
        judged: one pass over the span, with a record for each bucket of positions.
        span: whose windows they are.
    """
    documents: dict[str, list[Record]] = defaultdict(list)
    for record in _records(judged):
        documents[record.unit].append(record)
    quarters = {
        name: {window: _last_quarter(own, window) for window in span.windows} for name, own in documents.items()
    }
    return [
        _verdict(window, {name: [(found[window] - found[span.before], 1.0)] for name, found in quarters.items()})
        for window in span.windows[1:]
    ]


def shares(judged: Judged, windows: Sequence[int]) -> list[Share]:
    """Right answers in each window.

    Args:
        judged: a task with a cell for each length.
        windows: positions, for each of its lengths in order.
    """
    asked: dict[float, list[bool]] = defaultdict(list)
    for record in _records(judged):
        asked[dict(record.at)["length"]].append(record.scores[judged.task.headline] == 100.0)
    found = zip(windows, sorted(asked), strict=True)
    return [
        Share(window, sum(asked[length]), len(asked[length]), *wilson(sum(asked[length]), len(asked[length])))
        for window, length in found
    ]


def regression(own: Judged, base: Judged) -> Regression | None:
    """A short task beside the base's; None where the two did not do the same items, as with other tokens."""
    mine, theirs = _losses(_records(own)), _losses(_records(base))
    if list(own.units) != list(base.units) or not mine or mine.keys() != theirs.keys():
        return None
    units: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for key, (loss, weight) in mine.items():
        below = theirs[key][0] * weight
        units[key[0]].append((loss * weight - below, below))
    whole = sum(weight for _, weight in mine.values())
    ours, before = (sum(loss * weight for loss, weight in found.values()) / whole for found in (mine, theirs))
    return Regression(own.task.label, ours, before, Value(*ratio_interval(units), len(mine)))


def _verdict(window: int, units: Pairs) -> Verdict:
    difference = Value(*interval(units), sum(map(len, units.values())))
    return Verdict(window, difference, word(difference))


def _paired(
    own: Mapping[tuple[str, str], tuple[float, float]], other: Mapping[tuple[str, str], tuple[float, float]]
) -> Pairs:
    """(difference, weight) of each item, by document."""
    units: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for key, (loss, weight) in own.items():
        units[key[0]].append((loss - other[key][0], weight))
    return units


def _losses(records: Iterable[Record]) -> dict[tuple[str, str], tuple[float, float]]:
    """(nats a token, weight) of each item, by document and item."""
    return {(record.unit, record.item): (record.scores["nll"], record.weight) for record in records}


def _last_quarter(records: Sequence[Record], window: int) -> float:
    ends = {record.item: dict(record.at)["position"] for record in records}
    inside = [record for record in records if 0.75 * window < ends[record.item] <= window]
    return mean(record.scores["nll"] for record in inside)


def _records(judged: Judged) -> list[Record]:
    """Of the only row."""
    [outcomes] = judged.outcomes.values()
    return [record for outcome in outcomes for record in outcome.records]

"""How much of what a text tells the decoder its memory tells it: nats of answers, pooled over questions and passages.

The share is the sum of what memory gains over no context, over the sum of what text gains: never a mean of shares, in
which a passage that tells next to nothing would weigh as much as one that tells everything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from preread.core.intervals import ratio_interval

LEAST_GAIN = 0.1
"""Nats a token of the answers that text must gain over no context: below it, a share says nothing of the memory."""
Kind = Literal["number", "name", "prose"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that was put three times.

    Args:
        question: its words.
        answer: the right one, whose likelihood is judged.
        kind: what the answer is.
        tokens: of the answer.
        nothing: negative log-likelihood of the answer without any context, in nats.
        text: behind the text.
        memory: behind the memory of the same.
    """

    question: str
    answer: str
    kind: Kind
    tokens: int
    nothing: float
    text: float
    memory: float


@dataclass(frozen=True, slots=True)
class Kept:
    """The share that memory keeps.

    Args:
        value: None where the text does not help, so that there is nothing to keep.
        low: lower end of its 95 % interval over passages; None where they do not bound it.
        high: upper end.
        questions: how many it rests on.
    """

    value: float | None
    low: float | None
    high: float | None
    questions: int


def kind_of(answer: str) -> Kind:
    """What an answer is: something with a digit, words that all begin with a capital letter, or else prose."""
    if any(character.isdigit() for character in answer):
        return "number"
    words = answer.split()
    return "name" if len(words) <= 4 and all(word[0].isupper() for word in words) else "prose"


def kept(passages: Iterable[Sequence[Asked]]) -> Kept:
    """The share over all questions of some passages; those of a passage rise and fall together in the interval."""
    groups = {str(number): asked for number, asked in enumerate(passages) if asked}
    every = [one for asked in groups.values() for one in asked]
    if not _helped(every):
        return Kept(None, None, None, len(every))
    pairs = {name: [(one.nothing - one.memory, one.nothing - one.text) for one in own] for name, own in groups.items()}
    value, low, high = (end if isfinite(end) else None for end in ratio_interval(pairs))
    return Kept(value, low, high, len(every))


def kept_by_kind(passages: Sequence[Sequence[Asked]]) -> dict[str, Kept]:
    """The share for each kind of answer that was asked for."""
    kinds: dict[str, list[list[Asked]]] = defaultdict(list)
    for asked in passages:
        for kind in dict.fromkeys(one.kind for one in asked):
            kinds[kind].append([one for one in asked if one.kind == kind])
    return {kind: kept(kinds[kind]) for kind in ("number", "name", "prose") if kind in kinds}


def lost(asked: Sequence[Asked]) -> float:
    """Nats that text tells of the answers and memory does not."""
    return sum(one.memory - one.text for one in asked)


def weakest(
    passages: Mapping[int, Sequence[Asked]], tokens: Mapping[int, int], bar: float, most: float
) -> frozenset[int]:
    """The passages that should stay text: below the bar, and those first whose text brings back most nats a token.

    Args:
        passages: what was asked of each, by any number.
        tokens: of each one's text.
        bar: the share that a memory should keep.
        most: tokens that may stay text.
    """
    shares = {number: kept([asked]).value for number, asked in passages.items()}
    below = [number for number, share in shares.items() if share is not None and share < bar]
    chosen: set[int] = set()
    for number in sorted(below, key=lambda one: (-lost(passages[one]) / tokens[one], one)):
        if sum(tokens[one] for one in chosen) + tokens[number] <= most:
            chosen.add(number)
    return frozenset(chosen)


def _helped(asked: Sequence[Asked]) -> bool:
    return sum(one.nothing - one.text for one in asked) > LEAST_GAIN * sum(one.tokens for one in asked)

"""Which paragraph each question of a set was asked of, where the set has whole articles only, as SQuAD here."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from preread.retrieval.relevance import stems

_BROKEN = 1e6
"""What it costs to put a question to a paragraph without its answer: more than all words together can give."""


def paragraphs_of(text: str, asked: Sequence[tuple[str, Sequence[str]]]) -> list[tuple[int, int]]:
    """For each question its paragraph as [start, end) in the text, where the set does not say it.

    Questions stand in the order of their paragraphs. Of all assignments that keep this order the one is taken that
    puts the fewest questions to paragraphs without their answers and, of those, shares the most words, rare ones
    counting more.

    Args:
        text: paragraphs between empty lines.
        asked: each question with its answers, all of which its paragraph holds.
    """
    cuts = [0, *(match.end() for match in re.finditer(r"\n\n", text)), len(text)]
    spans = list(pairwise(cuts))
    words = [stems(text[start:end]) for start, end in spans]
    frequency = Counter(word for own in words for word in own)
    best = [0.0] * len(spans)
    before: list[list[int]] = []
    for question, answers in asked:
        came = _best_so_far(best)
        shared = [sum(math.log((len(spans) + 1) / frequency[word]) for word in stems(question) & own) for own in words]
        lacks = [any(answer not in text[start:end] for answer in answers) for start, end in spans]
        best = [best[c] + s - _BROKEN * lack for c, s, lack in zip(came, shared, lacks, strict=True)]
        before.append(came)
    here = max(range(len(spans)), key=best.__getitem__)
    homes = []
    for came in reversed(before):
        homes.append(spans[here])
        here = came[here]
    return homes[::-1]


def _best_so_far(scores: Sequence[float]) -> list[int]:
    """For each place the first of the best ones up to it."""
    best: list[int] = []
    for place, score in enumerate(scores):
        best.append(place if not best or score > scores[best[-1]] else best[-1])
    return best

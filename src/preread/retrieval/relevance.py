"""Whether documents seem to hold the answer to a question: a number that compares between questions and collections.

The ranking of `retriever` says which passage is the best, never whether it is good. Two things say that: how near the
nearest passage is in meaning, and how many of the question's words one passage has. A logistic model of the two,
fitted on questions with and without their documents (`preread train relevance`), makes one probability of them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

FITTED = Path(__file__).parent / "relevance.json"
"""The calibrations that come with the package, and how they were fitted."""
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+")
"""A word; in a script without spaces, a character."""
_STEM = 5
"""Letters by which two words count as the same: endings differ, in most languages. As good on training questions as an
English stemmer."""

_FEW = 25
"""Passages below which rarity is not counted by them: in a collection of one, all of it has every word that it has."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for a collection that holds the answer to a question.

    Args:
        cosine: of the question and the nearest passage; None where nothing was searched by meaning.
        words: share of the question's words that one of the best passages has, the rare ones counting more; 0 to 1.
    """

    cosine: float | None
    words: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """A logistic model of the evidence.

    Args:
        bias: log odds where there is no evidence.
        cosine: log odds for each unit of the cosine; 0 where it is not used.
        words: log odds for each unit of the words' share.
        threshold: relevance that all but the share `missed` of answerable training questions reach.
        missed: the share of them that does not.
    """

    bias: float
    cosine: float
    words: float
    threshold: float
    missed: float

    def relevance(self, evidence: Evidence) -> float:
        """Probability, among as many questions with as without their documents, that the documents hold the answer."""
        odds = self.bias + self.words * evidence.words + self.cosine * (evidence.cosine or 0.0)
        return 1 / (1 + math.exp(-odds))


def calibration(embedder: str) -> Calibration:
    """The calibration for the vectors of an embedder, by its fingerprint; for one that is not known, by words alone."""
    kept = _kept()
    return Calibration(**(kept["embedders"].get(embedder) or kept["words"]))


def evidence(question: str, cosine: float | None, best: Sequence[str], found: Iterable[str]) -> Evidence:
    """Weigh what a search found.

    Args:
        question: the user's words.
        cosine: of the nearest passage.
        best: texts of the best passages, of which one is taken.
        found: texts of all passages found: a word that many of them have tells little.
    """
    asked = stems(question)
    texts = [stems(text) for text in found]
    number = max(len(texts), _FEW)
    rarity = {word: math.log((number + 1) / (sum(word in text for text in texts) + 0.5)) for word in asked}
    total = sum(rarity.values())
    held = (sum(weight for word, weight in rarity.items() if word in stems(text)) for text in best)
    return Evidence(cosine, max(held, default=0.0) / total if total else 0.0)


def mean(several: Iterable[Evidence]) -> Evidence:
    """Of one question in several wordings, by the same search."""
    each = list(several)
    cosines = [one.cosine for one in each if one.cosine is not None]
    return Evidence(sum(cosines) / len(cosines) if cosines else None, sum(one.words for one in each) / len(each))


def stems(text: str) -> frozenset[str]:
    """The words of a text, without case and without what follows their first letters."""
    return frozenset(word[:_STEM] for word in _WORD.findall(text.lower()))


@cache
def _kept() -> Mapping[str, Any]:
    kept: Mapping[str, Any] = json.loads(FITTED.read_text(encoding="utf-8"))
    return kept

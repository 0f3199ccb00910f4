"""Metrics of written answers against references, from 0 to 100; the best reference counts.

| name | is |
|---|---|
| `em`, `f1` | exact match and F1 over words, as SQuAD 2.0 counts them (arXiv 1806.03822): case, ASCII punctuation and English articles do not count, nor do references that hold nothing else |
| `rouge1`, `rouge2`, `rougeL` | F-measure of the rouge-score library without its stemmer, as SCROLLS and ZeroSCROLLS take it (arXiv 2201.03533, 2305.14196); each takes its own best reference |
| `rouge` | geometric mean of those three; of a whole set it is that of their means, as SCROLLS has it (`tasks/qa.py`) |
| `accuracy` | the first line of the answer is one of the references, as `em` compares; for labels |
| `contains` | one of the references stands in the answer, whatever its case (RULER's `string_match_part`, arXiv 2404.06654) |
| `contains_all` | share of the references that stand in the answer (RULER's `string_match_all`) |

Where the context holds no answer there is no reference: each metric is 100 for an answer that says so, or says
nothing, and 0 for any other.
"""  # noqa: E501 a table's row is one line

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from math import prod
from typing import Any

from preread.core.errors import UsageError

ROUGES = ("rouge1", "rouge2", "rougeL")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_DECLINES = re.compile(
    r"(?:(?:it|this|that|answer|(?:this )?question) (?:is|was) )?"
    r"(?:unanswerable|not answerable|no answer|not (?:mentioned|stated|specified|given|provided)(?: in \w+)?)"
    r"|(?:(?:it|this|(?:this )?question) )?(?:cannot|can not|cant) be answered.*"
    r"|(?:\w+ )?(?:text|passage|context|article|document|story) (?:does not|doesnt) (?:say|mention|state|specify).*"
    r"|i (?:do not|dont) know"
)
"""Normalised sentences that say that there is no answer."""


def score(name: str, answer: str, references: Sequence[str]) -> float:
    """A metric by name.

    Args:
        name: one of `METRICS`.
        answer: as written.
        references: all that are right; none where the context holds no answer.

    Raises:
        UsageError: no such metric.
    """
    if name not in METRICS:
        raise UsageError(
            expected=f"a metric ({', '.join(METRICS)})",
            got=name,
            consequence="Nothing was judged.",
            remedy="Choose one of them.",
        )
    judged = _first_line(answer) if name == "accuracy" else answer
    return 100.0 * (METRICS[name](judged, references) if references else declines(judged))


def declines(answer: str) -> bool:
    """Whether an answer says that there is none, by its first sentence, or says nothing."""
    first = normalised(re.split(r"[.\n]", answer.strip(), maxsplit=1)[0])
    return not normalised(answer) or _DECLINES.fullmatch(first) is not None


def normalised(text: str) -> str:
    """Words of a text as SQuAD compares them, with single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _exact(answer: str, references: Sequence[str]) -> float:
    return float(_predicted(answer, references) in _golds(references))


def _f1(answer: str, references: Sequence[str]) -> float:
    predicted = _predicted(answer, references).split()
    return max(_overlap(predicted, gold.split()) for gold in _golds(references))


def _overlap(predicted: Sequence[str], gold: Sequence[str]) -> float:
    """F1 of two bags of words; 1 where both are empty."""
    shared = (Counter(predicted) & Counter(gold)).total()
    if not shared:
        return float(not predicted and not gold)
    precision, recall = shared / len(predicted), shared / len(gold)
    return 2 * precision * recall / (precision + recall)


def _predicted(answer: str, references: Sequence[str]) -> str:
    """The answer normalised; empty where it declines, unless that is what a reference says too."""
    return "" if declines(answer) and not any(map(declines, references)) else normalised(answer)


def _golds(references: Sequence[str]) -> list[str]:
    """References normalised, without those that hold nothing, such as `.`, if there is another."""
    return [text for text in map(normalised, references) if text] or [""]


def _rouge(kinds: Sequence[str]) -> Callable[[str, Sequence[str]], float]:
    def measured(answer: str, references: Sequence[str]) -> float:
        best = _best_rouges(answer, tuple(references))
        return float(prod(best[kind].fmeasure for kind in kinds) ** (1 / len(kinds)))

    return measured


@lru_cache(maxsize=1)  # the metrics of one answer are asked for one after the other
def _best_rouges(answer: str, references: tuple[str, ...]) -> Any:
    return _scorer().score_multi(references, answer)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(ROUGES, use_stemmer=False)


def _first_line(answer: str) -> str:
    return answer.strip().partition("\n")[0]


def _contains(answer: str, references: Sequence[str]) -> float:
    return float(any(one.lower() in answer.lower() for one in references))


def _contains_all(answer: str, references: Sequence[str]) -> float:
    return sum(one.lower() in answer.lower() for one in references) / len(references)


METRICS: Mapping[str, Callable[[str, Sequence[str]], float]] = {
    "em": _exact,
    "f1": _f1,
    "rouge": _rouge(ROUGES),
    **{kind: _rouge((kind,)) for kind in ROUGES},
    "accuracy": _exact,
    "contains": _contains,
    "contains_all": _contains_all,
}
"""Metric by name: from an answer and at least one reference to a share from 0 to 1."""

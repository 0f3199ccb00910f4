"""Our metrics held against the libraries that have them too, on random pairs of an answer and its references."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import islice
from math import prod
from typing import Any

from preread.core.errors import UsageError, first_line
from preread.eval.metrics import ROUGES, declines, normalised, score

Theirs = Callable[[str, Sequence[str]], float | None]
"""Another implementation: from an answer and its references to 0 to 100, or None where it is defined otherwise."""

DOUBLE, SINGLE = 1e-9, 1e-4
"""How far scores may be apart where the other implementation counts in float64, and where in float32."""
ODD = (
    "",
    ".",
    "the",
    "unanswerable",
    "No answer.",
    "Ünïcödé naïveté",
    "灯台守 の 日記",
    "“Buck’s” sled—dog",
    "U.S.A.",
    "½",
)
"""Answers and references that implementations could take apart."""
CHANGES: Sequence[Callable[[str], str]] = (
    str.upper,
    str.title,
    lambda word: word[:0],
    lambda word: f"the {word}",
    lambda word: f"“{word}”,",
    lambda word: f"{word} {word}",
)
"""What happens to a word of a reference on its way into an answer."""


@dataclass(frozen=True, slots=True)
class Library:
    """Other implementations of some of our metrics.

    Args:
        name: with its version.
        apart: most that scores may differ by.
        metrics: by our names.
    """

    name: str
    apart: float
    metrics: Mapping[str, Theirs]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A pair that a metric and a library score differently."""

    metric: str
    library: str
    answer: str
    references: tuple[str, ...]
    ours: float
    theirs: float


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of a check: how many scores were compared with which libraries, and those that differ."""

    compared: int
    libraries: tuple[str, ...]
    mismatches: tuple[Mismatch, ...]


def check(text: str, count: int, seed: int = 0) -> Checked:
    """Hold every metric against every library that has it.

    Args:
        text: whose words answers and references are made of.
        count: pairs for each metric of each library.
        seed: of the pairs.

    Raises:
        UsageError: a library is not installed.
    """
    found, compared, libraries = [], 0, _libraries()
    for library, name, theirs in ((one, *pair) for one in libraries for pair in one.metrics.items()):
        drawn = pairs(text, random.Random(f"{seed} {library.name} {name}"), 120 if "rouge" in name else 6)  # noqa: S311
        scored = ((pair, theirs(*pair)) for pair in drawn)
        for (answer, references), other in islice((one for one in scored if one[1] is not None), count):
            ours = score(name, answer, references)
            compared += 1
            if other is not None and not abs(ours - other) <= library.apart:  # NaN differs from everything
                found.append(Mismatch(name, library.name, answer, references, ours, other))
    return Checked(compared, tuple(one.name for one in libraries), tuple(found))


def pairs(text: str, draw: random.Random, longest: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Without end: spans of a text as references, and as an answer one of them that was changed, or anything else.

    Args:
        text: whose words they are made of.
        draw: decides everything.
        longest: most words of a span.
    """
    words = text.split()
    while True:
        references = tuple(_span(words, longest, draw) for _ in range(draw.choice((0, 1, 1, 2, 4))))
        near = references and draw.random() < 0.8
        answer = _changed(draw.choice(references), draw) if near else _span(words, longest, draw)
        yield answer + draw.choice(("", "", "", f"\n{_span(words, longest, draw)}")), references


def _span(words: Sequence[str], longest: int, draw: random.Random) -> str:
    if draw.random() < 0.1:
        return draw.choice(ODD)
    start = draw.randrange(len(words))
    return " ".join(words[start : start + draw.randint(1, longest)])


def _changed(text: str, draw: random.Random) -> str:
    words = text.split(" ")
    for _ in range(draw.randint(0, 4)):
        at = draw.randrange(len(words))
        words[at] = draw.choice(CHANGES)(words[at])
    if draw.random() < 0.2:
        draw.shuffle(words)
    return " ".join(words)


def _libraries() -> list[Library]:
    """Every library that has a metric of ours.

    Raises:
        UsageError: one is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of their own imports
            return [_torchmetrics(), _rouge_score(), _lm_eval()]
    except ImportError as error:
        raise UsageError(
            expected="torchmetrics, nltk and lm-eval with its longbench extra, which metrics are checked against",
            got=first_line(error),
            consequence="Nothing was checked.",
            remedy="Install them: pip install 'preread[dev]'.",
        ) from error


def _torchmetrics() -> Library:
    from torchmetrics.functional.text import rouge_score, squad

    def rouge(kind: str, answer: str, one: str) -> float:
        return float(rouge_score(answer, one, rouge_keys=kind)[f"{kind}_fmeasure"])

    def squad_score(of: str, answer: str, references: Sequence[str]) -> float:
        said, golds = _as_squad(answer, references)
        target: Any = {"answers": {"answer_start": [0] * len(golds), "text": golds}, "id": "0"}
        return float(squad({"prediction_text": said, "id": "0"}, target)[of])

    def accuracy(answer: str, references: Sequence[str]) -> float:
        return squad_score("exact_match", answer.strip().split("\n")[0], references)

    of_squad: dict[str, Theirs] = {
        "em": partial(squad_score, "exact_match"),
        "f1": partial(squad_score, "f1"),
        "accuracy": accuracy,
    }
    return Library(f"torchmetrics {version('torchmetrics')}", SINGLE, {**of_squad, **_rouges(rouge)})


def _rouge_score() -> Library:
    from rouge_score.rouge_scorer import RougeScorer

    def rouge(kind: str, answer: str, one: str) -> float:
        return float(RougeScorer([kind]).score(one, answer)[kind].fmeasure)

    return Library(f"rouge-score {version('rouge-score')}", DOUBLE, _rouges(rouge))


def _lm_eval() -> Library:
    from lm_eval.tasks.longbench.metrics import qa_f1_score
    from lm_eval.tasks.ruler.common_utils import string_match_all

    def f1(answer: str, references: Sequence[str]) -> float | None:
        said, golds = _as_squad(answer, references)  # nothing against nothing is 0 there
        return max(100.0 * qa_f1_score(said, gold) for gold in golds) if normalised(said) and any(golds) else None

    def contains(answer: str, references: Sequence[str]) -> float | None:  # RULER's best one; theirs is the mean
        return max((100.0 * string_match_all([answer], [[one]]) for one in references), default=None)

    def contains_all(answer: str, references: Sequence[str]) -> float | None:
        return 100.0 * string_match_all([answer], [list(references)]) if references else None

    metrics = {"f1": f1, "contains": contains, "contains_all": contains_all}
    return Library(f"lm-eval {version('lm-eval')}", DOUBLE, metrics)


def _as_squad(answer: str, references: Sequence[str]) -> tuple[str, list[str]]:
    """As SQuAD 2.0's own evaluation is given them: empty for no answer, and no reference that holds nothing."""
    silent = declines(answer) and not any(map(declines, references))
    return "" if silent else answer, [one for one in references if normalised(one)] or [""]


def _rouges(single: Callable[[str, str, str], float]) -> dict[str, Theirs]:
    """Each ROUGE with its own best reference, and their geometric mean, by a function of kind, answer and reference."""

    def best(kind: str, answer: str, references: Sequence[str]) -> float | None:
        return max((100.0 * single(kind, answer, one) for one in references), default=None)

    def together(answer: str, references: Sequence[str]) -> float | None:
        return prod(best(kind, answer, references) or 0.0 for kind in ROUGES) ** (1 / 3) if references else None

    return {**{kind: partial(best, kind) for kind in ROUGES}, "rouge": together}

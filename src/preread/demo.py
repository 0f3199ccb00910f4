"""`preread demo`: the main job on a real book, side by side with plain text, and what each answer cost.

Every number is computed when the demo runs. The expected words stand beside the questions so that a wrong answer is
seen as one.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preread.collection.intake import Added
from preread.collection.lessons import StudyConfig
from preread.collection.study import Studied
from preread.core.answer import Answer
from preread.core.paths import data_home
from preread.core.types import Sampling
from preread.library import Collection, Library

ASSETS = Path(__file__).parent / "assets" / "demo"
BOOK = ASSETS / "the-call-of-the-wild.txt"
METHODS_SHOWN = ("text", "kv", "lloco")


@dataclass(frozen=True, slots=True)
class Asked:
    """One question of the demo and its answers.

    Args:
        question: the question.
        token: where in the book the answer stands, in tokens from its beginning.
        place: its chapter.
        answers: by method.
        right: by method, whether the answer holds one of the expected words.
        cited: by method, whether a citation covers the place of the answer.
    """

    question: str
    token: int
    place: str
    answers: dict[str, Answer]
    right: dict[str, bool]
    cited: dict[str, bool]


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo did."""

    added: Added
    studied: Studied | None
    asked: list[Asked]
    decoder: str
    note: str


def demo(config: StudyConfig, say: Callable[[str], None], folder: Path | None = None) -> Demo:
    """Learn the book and ask; a second run finds the memory and the adapter of the first.

    Args:
        config: how the book is studied.
        say: told what is happening, a line at a time.
        folder: library of the demo; None is one in the user's data directory.
    """
    library = Library(folder or data_home() / "demo")
    collection = library.collection("demo")
    say(f"decoder: {collection.decoder.name} ({collection.decoder.note})")
    added = collection.add(BOOK)
    say(
        f"{added.change} {added.entry.title}: {added.entry.tokens:,} tokens in {added.entry.passages} passages, "
        f"memory of {added.positions:,} positions ({added.entry.tokens / added.positions:.1f}x fewer)"
    )
    studied = None
    if collection.adapters.record("lloco") is None:
        studied = collection.study(config=config)
    asked = [_ask(collection, **item) for item in json.loads((ASSETS / "questions.json").read_text(encoding="utf-8"))]
    return Demo(added, studied, asked, collection.decoder.name, collection.decoder.note)


def _ask(collection: Collection, question: str, expected: list[str], stands_at: str) -> Asked:
    source = collection.documents()[0].source
    offset = collection.store.document(collection.name, source).text.index(stands_at)
    home = next(s.passage for s in collection.store.passages(collection.name, source) if offset < s.passage.end)
    answers: dict[str, Any] = {}
    for method in METHODS_SHOWN:
        answers[method] = collection.ask(question, method, sampling=Sampling(max_tokens=48))
    right = {m: any(word.lower() in a.text.lower() for word in expected) for m, a in answers.items()}
    cited = {m: any(c.start <= offset < c.end for c in a.citations) for m, a in answers.items()}
    return Asked(question, home.first_token, home.place, answers, right, cited)

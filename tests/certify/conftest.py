"""Books, short texts and questions on disk, for decoders of 2,048 positions; a certificate of a tiny one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from preread.certify.certificate import Certificate
from preread.certify.certifying import certify
from preread.certify.plan import Size

WORDS = ("keeper", "lighthouse", "storm", "island", "winter", "night", "lamp", "ship", "weather", "memory")
SMALL = Size("whole", documents=3, windows=2, keys=1, topics=1, short=1, questions=3, places=1)


def prose(draw: random.Random, words: int) -> str:
    return " ".join(f"The {draw.choice(WORDS)} and the {draw.choice(WORDS)}." for _ in range(words // 4))


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Three books of over 1,100 tokens, the other sets of short text, and questions."""
    folder, draw = tmp_path_factory.mktemp("data"), random.Random(0)
    (folder / "text").mkdir()
    (folder / "qa").mkdir()
    for name in ("books", "science_plos", "math_latex", "tech_docs"):
        rows = [{"doc_id": f"{name}-{i}", "title": name, "text": prose(draw, 900)} for i in range(3)]
        path = folder / "text" / f"{name}.test.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = [
        {
            "doc_id": f"q{i}",
            "title": "",
            "text": prose(draw, 20),
            "questions": [{"id": f"q{i}", "question": "Who slept?", "answers": [draw.choice(WORDS)]}],
        }
        for i in range(3)
    ]
    (folder / "qa" / "nq_oracle.test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    return folder


@pytest.fixture(scope="session")
def work(tmp_path_factory) -> Path:
    """Of all tests that may find what another one judged: outcomes are kept by content."""
    return tmp_path_factory.mktemp("judged")


@pytest.fixture
def made(data, work, tiny_decoder) -> Callable[..., Certificate]:
    """`made(decoder, **settings)`: its certificate, small."""

    def make(decoder=None, **settings) -> Certificate:
        chosen = {"work": work, "size": SMALL, "length": 1024} | settings
        return certify(decoder or tiny_decoder(), data, **chosen)

    return make

"""A small question set on disk, and a kit of tiny models that reads it."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from preread.eval.kit import Kit
from preread.nn.hf import Decoder

STORY = "The keeper of the lighthouse slept. In winter the storm reached the island at night; the lamp burned. "
ROWS = [
    {
        "doc_id": f"tale-{number}",
        "title": f"Tale {number}",
        "text": f"Tale {number}. " + STORY * (2 + number),
        "questions": [
            {
                "id": f"{number}-who",
                "question": "Who slept?",
                "answers": ["The keeper", "the keeper of the lighthouse"],
            },
            {"id": f"{number}-when", "question": "When did the storm come?", "answers": ["In winter"]},
            {"id": f"{number}-why", "question": "Why?", "answers": [], "unanswerable": True},
        ],
    }
    for number in range(4)
]


@pytest.fixture
def data(tmp_path) -> Path:
    """A data folder with the question set `tales`."""
    path = tmp_path / "data" / "qa" / "tales.test.jsonl.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    return tmp_path / "data"


@pytest.fixture
def kit_of(data, tmp_path) -> Callable[[Decoder], Kit]:
    """Of a decoder."""
    return lambda decoder: Kit(decoder, data, tmp_path / "work")


@pytest.fixture
def kit(tiny_decoder, kit_of) -> Kit:
    """Of the tiny Llama."""
    return kit_of(tiny_decoder("llama"))

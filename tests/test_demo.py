"""The demo end to end on a tiny decoder, and the book and questions it ships."""

from __future__ import annotations

import json

import pytest

from preread import demo as module
from preread import render
from preread.collection.lessons import StudyConfig
from preread.data.ingest import read
from preread.data.passages import split
from preread.demo import ASSETS, BOOK, demo
from preread.nn.lora import LoraConfig
from preread.training.loop import TrainingConfig

QUESTIONS = json.loads((ASSETS / "questions.json").read_text(encoding="utf-8"))


@pytest.fixture
def short_book(tmp_path, monkeypatch):
    """The pages around the answers; the whole book is for the default decoder."""
    text = BOOK.read_text(encoding="utf-8")
    at = [text.index(question["stands_at"]) for question in QUESTIONS]
    pages = "\n\n".join(f"Chapter {i}. Somewhere\n\n{text[a - 1500 : a + 1500]}" for i, a in enumerate(at, start=1))
    path = tmp_path / "book.txt"
    path.write_text(pages, encoding="utf-8")
    monkeypatch.setattr(module, "BOOK", path)
    return path


def test_the_demo_learns_studies_asks_and_a_second_run_finds_it_all(
    open_library, short_book, decoders, tiny_decoder, tmp_path
):
    decoders["default"] = tiny_decoder("llama")
    config = StudyConfig(
        lora=LoraConfig(rank=2, dropout=0.0), training=TrainingConfig(steps=4, learning_rate=0.02), most_passages=1
    )
    said = []
    first = demo(config, said.append, tmp_path / "demo")
    assert first.added.change == "added"
    assert first.studied is not None
    for asked, question in zip(first.asked, QUESTIONS, strict=True):
        assert asked.question == question["question"]
        assert set(asked.answers) == {"text", "kv", "lloco"} == set(asked.right) == set(asked.cited)
        for method, answer in asked.answers.items():
            expected = any(word.lower() in answer.text.lower() for word in question["expected"])
            assert asked.right[method] == expected
            assert answer.usage.tokens_read > 0
            assert answer.usage.first_token_s > 0
    text = render.demo(first)
    for question in QUESTIONS:
        assert question["question"] in text
    assert "hold the expected words" in text
    assert "characters" in text
    second = demo(config, said.append, tmp_path / "demo")
    assert second.added.change == "unchanged"
    assert [a.token for a in second.asked] == [a.token for a in first.asked]
    if first.studied.published:
        assert second.studied is None
    else:
        assert second.studied == first.studied


def test_the_answers_stand_in_the_book_where_they_are_said_to():
    text = BOOK.read_text(encoding="utf-8")
    for question in QUESTIONS:
        assert text.count(question["stands_at"]) == 1
        at = text.index(question["stands_at"])
        around = text[at - 600 : at + 600].lower()
        assert any(word.lower() in around for word in question["expected"])


def test_the_book_is_as_long_as_promised(default_decoder):
    document = read(BOOK)
    passages = split(document, default_decoder.tokenizer)
    assert sum(len(passage.ids) for passage in passages) >= 40_000
    places = [document.text.index(question["stands_at"]) for question in QUESTIONS]
    tokens = [next(p.first_token for p in passages if place < p.end) for place in places]
    assert max(tokens) > 30_000
    assert len([mark for mark in document.marks if mark.label.startswith("Chapter")]) == 7

"""Studying: lessons by templates or labels, an adapter in use only where it helps, gone with its document."""

from __future__ import annotations

import json
import random

import pytest

from preread.core.errors import UnreadableDocument, UsageError
from preread.data.questions import Question, from_template, read, what_follows, what_is_missing
from preread.lessons import Lessons, StudyConfig
from preread.nn.lora import LoraConfig
from preread.training.loop import TrainingConfig

from .test_library import SHORT, collection, decoders, log, open_library  # noqa: F401

CONFIG = StudyConfig(
    lora=LoraConfig(rank=4, dropout=0.0), training=TrainingConfig(steps=25, learning_rate=0.02), most_passages=2
)


@pytest.fixture
def learned(collection, log):  # noqa: F811
    collection.add(log)
    return collection


def test_a_helpful_adapter_is_used_and_found_again(learned, open_library):  # noqa: F811
    before = learned.ask("What met storm number 35?", sampling=SHORT)
    result = learned.study(config=CONFIG)
    assert result.published
    assert sum(result.after.values()) < sum(result.before.values())
    assert learned.adapter("lloco") is not None
    again = open_library().collection("sea")
    answer = again.ask("What met storm number 35?", sampling=SHORT)
    assert again.adapter("lloco") == learned.adapter("lloco")
    assert answer.text != before.text


def test_an_adapter_that_does_not_help_is_not_used(learned):
    harmful = StudyConfig(
        lora=CONFIG.lora, training=TrainingConfig(steps=3, learning_rate=30.0, clip=1e9, warmup=0.0), most_passages=2
    )
    result = learned.study(config=harmful)
    assert not result.published
    assert learned.adapter("lloco") is None


def test_an_interrupted_study_goes_on(learned, monkeypatch):
    batch, calls = Lessons.batch, []

    def stop_at_seven(self, numbers):
        calls.append(numbers)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return batch(self, numbers)

    monkeypatch.setattr(Lessons, "batch", stop_at_seven)
    with pytest.raises(KeyboardInterrupt):
        learned.study(config=CONFIG)
    monkeypatch.setattr(Lessons, "batch", batch)
    assert learned.study(config=CONFIG).outcome.step == 25
    left = list(learned.library.path.rglob("log.jsonl"))
    assert left == [], "the run's own files go when the adapter is kept"


def test_an_answer_says_when_the_adapter_has_not_seen_a_document(learned, tmp_path):
    learned.study(config=CONFIG)
    assert not any("taught before" in note for note in learned.ask("Who?", sampling=SHORT).notes)
    other = tmp_path / "other.txt"
    other.write_text("A diary of the submarine, which the captain kept until the end of the voyage.")
    learned.add(other)
    assert any("taught before 1 of the documents" in note for note in learned.ask("Who?", sampling=SHORT).notes)


def test_forgetting_a_document_takes_the_adapter_that_learned_it(learned, log):  # noqa: F811
    learned.study(config=CONFIG)
    folder = learned.library.path / "adapters"
    assert list(folder.rglob("adapter_model.safetensors"))
    learned.forget(log)
    assert not list(folder.rglob("*.safetensors"))
    assert learned.adapter("lloco") is None


def test_lessons_are_a_function_of_their_number(learned):
    def lessons():
        return Lessons(learned, learned.handle("lloco"), learned.handle("text"), [], "a", 2, seed=3)

    a, b = lessons().batch(range(6)), lessons().batch(range(6))
    assert [x.prompt.ids.tolist() for x in a] == [x.prompt.ids.tolist() for x in b]
    assert len({tuple(x.answer.tolist()) for x in a}) > 1
    decode = learned.decoder.tokenizer.decode
    for lesson in a:
        answer = decode(lesson.answer, skip_special_tokens=True)
        assert answer in " ".join(decode(lesson.teacher.ids).split()), "the teacher reads the answer's passage"


def test_labelled_questions_are_taught(learned):
    labelled = [Question("What met storm number 35?", "the schooner"), Question("Who wrote it down?", "the keeper")]
    lessons = Lessons(learned, learned.handle("lloco"), learned.handle("text"), labelled, "a", 2, seed=3)
    decode = learned.decoder.tokenizer.decode
    answers = [decode(lesson.answer, skip_special_tokens=True) for lesson in lessons.batch(range(4))]
    assert answers == ["the schooner", "the keeper"] * 2


def test_an_empty_collection_has_nothing_to_study(collection):  # noqa: F811
    with pytest.raises(UsageError, match="documents in sea"):
        collection.study(config=CONFIG)


TEXT = "In the year 1901 the ship Aurora left Bergen with nine men, and none of them, the mate Olsen said, ever " * 2


def test_templates_ask_what_the_text_answers():
    for seed in range(20):
        draw = random.Random(seed)
        follows, missing = what_follows(TEXT, draw), what_is_missing(TEXT, draw)
        quoted = follows.text.split("“")[1].split("”")[0]
        assert f"{quoted} {follows.answer}" in " ".join(TEXT.split())
        gap = missing.text.split("“")[1].split("”")[0]
        assert gap.replace("____", missing.answer).replace(" ,", ",") in " ".join(TEXT.split())
        assert missing.answer in {"1901", "Aurora", "Bergen", "Olsen"}
    assert from_template("too short", random.Random(0)) is None


def test_labelled_files_are_read_or_refused(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [{"question": "Who?", "answer": "I"}, {"question": "Who else?", "answers": ["you", "they"]}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read(path) == [Question("Who?", "I"), Question("Who else?", "you")]
    for bad in ('{"question": "Who?"}', "not json", '{"answer": "I"}'):
        path.write_text(bad)
        with pytest.raises(UnreadableDocument):
            read(path)

"""Studying: lessons by templates or labels, an adapter in use only where it helps, gone with its document."""

from __future__ import annotations

import json
import random
import signal
from dataclasses import replace

import pytest

from preread.collection.lessons import HELD_OUT, Lessons, StudyConfig
from preread.collection.memories import Memories
from preread.core.errors import IntegrityError, PrereadError, UnreadableDocument, UsageError
from preread.data.questions import Question, from_template, read, what_follows, what_is_missing
from preread.nn.answering import AnswerObjective
from preread.nn.lora import LoraConfig
from preread.training.loop import TrainingConfig

from ..conftest import SETTINGS, SHORT

CONFIG = StudyConfig(
    lora=LoraConfig(rank=4, dropout=0.0), training=TrainingConfig(steps=25, learning_rate=0.02), most_passages=2
)


@pytest.fixture
def learned(collection, log):
    collection.add(log)
    return collection


def test_a_helpful_adapter_is_used_and_found_again(learned, open_library):
    before = learned.ask("What met storm number 35?", sampling=SHORT)
    result = learned.study(config=CONFIG)
    assert result.published
    assert sum(result.after.values()) < sum(result.before.values())
    assert learned.adapters.record("lloco") is not None
    again = open_library().collection("sea")
    answer = again.ask("What met storm number 35?", sampling=SHORT)
    assert again.adapters.record("lloco") == learned.adapters.record("lloco")
    assert answer.text != before.text


def test_an_adapter_may_read_kept_keys_and_values(open_library, log):
    collection = open_library().collection("kept", replace(SETTINGS, method="kv"))
    collection.add(log)
    before = collection.ask("What met storm number 35?", sampling=SHORT)
    assert collection.study(config=CONFIG).published
    answer = collection.ask("What met storm number 35?", sampling=SHORT)
    assert answer.usage.tokens_read == before.usage.tokens_read
    assert answer.text != before.text


def test_an_adapter_that_does_not_help_is_not_used_and_not_studied_again(learned, monkeypatch):
    harmful = StudyConfig(
        lora=CONFIG.lora, training=TrainingConfig(steps=3, learning_rate=30.0, clip=1e9, warmup=0.0), most_passages=2
    )
    result = learned.study(config=harmful)
    assert not result.published
    monkeypatch.setattr(Lessons, "batch", lambda *_: pytest.fail("the same study was done again"))
    assert learned.study(config=harmful) == result
    assert learned.adapters.record("lloco") is None


def test_an_interrupted_study_goes_on(learned, monkeypatch):
    batch, calls = Lessons.batch, []

    def stop_at_seven(self, numbers):
        calls.append(numbers)
        if len(calls) == 8:  # the held-out lessons, then seven steps
            signal.raise_signal(signal.SIGINT)
        return batch(self, numbers)

    monkeypatch.setattr(Lessons, "batch", stop_at_seven)
    with pytest.raises(KeyboardInterrupt):
        learned.study(config=CONFIG)
    before = len(calls)
    monkeypatch.setattr(Lessons, "batch", lambda self, numbers: calls.append(numbers) or batch(self, numbers))
    assert learned.study(config=CONFIG).outcome.step == 25
    steps = [numbers[0] for numbers in calls[before:] if numbers[0] >= HELD_OUT]
    assert steps[0] == HELD_OUT + 7 * CONFIG.rows, "seven steps were done and are not done again"
    assert len(steps) == 25 - 7
    left = list(learned.library.path.rglob("log.jsonl"))
    assert left == [], "the run's own files go when the adapter is kept"


def test_an_answer_says_when_the_adapter_has_not_seen_a_document(learned, tmp_path):
    learned.study(config=CONFIG)
    assert not any("taught before" in note for note in learned.ask("Who?", sampling=SHORT).notes)
    other = tmp_path / "other.txt"
    other.write_text("A diary of the submarine, which the captain kept until the end of the voyage.")
    learned.add(other)
    assert any("taught before 1 of the documents" in note for note in learned.ask("Who?", sampling=SHORT).notes)


def test_forgetting_a_document_takes_the_adapter_that_learned_it(learned, log):
    learned.study(config=CONFIG)
    folder = learned.library.path / "adapters"
    assert list(folder.rglob("adapter_model.safetensors"))
    learned.forget(log)
    assert not list(folder.rglob("*.safetensors"))
    assert learned.adapters.record("lloco") is None


def test_forgetting_takes_every_version_and_every_unfinished_run(learned, log, monkeypatch):
    """An adapter of the document as it was, one that was superseded, and the checkpoint of one that was stopped."""
    learned.study(config=CONFIG)
    learned.study(config=replace(CONFIG, rows=3))
    log.write_text(log.read_text() + "\n\nAnd then the voyage was over.\n")
    learned.add(log)
    batch = Lessons.batch

    def stop(self, numbers):
        if numbers[0] >= HELD_OUT:
            signal.raise_signal(signal.SIGINT)
        return batch(self, numbers)

    monkeypatch.setattr(Lessons, "batch", stop)
    with pytest.raises(KeyboardInterrupt):
        learned.study(config=CONFIG)
    folder = learned.library.path / "adapters"
    assert len(list(folder.rglob("*.safetensors"))) >= 2
    learned.forget(log)
    assert not list(folder.rglob("*.safetensors"))
    assert learned.adapters.record("lloco") is None


def test_an_adapter_of_a_document_that_went_meanwhile_is_not_used(learned, log, monkeypatch):
    save = AnswerObjective.save

    def forget_first(self, folder, training):
        save(self, folder, training)
        learned.forget(log)

    monkeypatch.setattr(AnswerObjective, "save", forget_first)
    assert not learned.study(config=CONFIG).published
    assert learned.adapters.record("lloco") is None


def test_an_adapter_for_other_memories_is_not_used_and_the_answer_says_so(learned, log):
    learned.study(config=CONFIG)
    record = learned.adapters.record("lloco")
    learned.adapters.publish("lloco", replace(record, producer="another"))
    assert any("other weights" in note for note in learned.ask("Who?", sampling=SHORT).notes)


def test_an_adapter_that_goes_while_a_reader_loads_it_is_no_error(learned, log, open_library, decoders, tiny_decoder):
    """Whoever asks reads the record first and the weights then; a `forget` may come in between."""
    learned.study(config=CONFIG)
    decoders["tiny"] = tiny_decoder("llama")
    reader = open_library().collection("sea")
    record = reader.adapters.record

    def forget_then(method):
        found = record(method)
        reader.adapters.record = record
        learned.forget(log)
        return found

    reader.adapters.record = forget_then
    assert reader.adapters.attach(reader.handle("lloco"), reader.decoder) is None


def test_a_damaged_adapter_is_refused(learned, open_library, decoders, tiny_decoder):
    learned.study(config=CONFIG)
    weights = next((learned.library.path / "adapters").rglob("adapter_model.safetensors"))
    raw = bytearray(weights.read_bytes())
    raw[-9] ^= 1
    weights.write_bytes(raw)
    decoders["tiny"] = tiny_decoder("llama")  # another process has not attached it yet
    with pytest.raises(IntegrityError, match="Study again"):
        open_library().collection("sea").ask("Who?", sampling=SHORT)


def test_lessons_are_a_function_of_their_number(learned):
    def lessons():
        return Lessons(learned, learned.handle("lloco"), learned.handle("text"), [], "a", CONFIG)

    a, b = lessons().batch(range(6)), lessons().batch(range(6))
    assert [x.prompt.ids.tolist() for x in a] == [x.prompt.ids.tolist() for x in b]
    assert len({tuple(x.answer.tolist()) for x in a}) > 1
    decode = learned.decoder.tokenizer.decode
    for lesson in a:
        answer = decode(lesson.answer, skip_special_tokens=True)
        assert answer in " ".join(decode(lesson.teacher.ids).split()), "the teacher reads the answer's passage"


def test_labelled_questions_are_taught(learned):
    labelled = [Question(f"What met storm number {7 * i}?", f"the schooner {i}") for i in range(30)]
    lessons = Lessons(learned, learned.handle("lloco"), learned.handle("text"), labelled, "a", CONFIG)
    decode = learned.decoder.tokenizer.decode

    def answers(numbers):
        return {decode(lesson.answer, skip_special_tokens=True) for lesson in lessons.batch(numbers)}

    held, taught = answers(range(HELD_OUT)), answers(range(HELD_OUT, 80))
    assert held | taught == {question.answer for question in labelled}
    assert not held & taught, "what judges the adapter is never taught"


def test_held_out_templates_are_never_taught(learned):
    lessons = Lessons(learned, learned.handle("lloco"), learned.handle("text"), [], "a", CONFIG)
    decode = learned.decoder.tokenizer.decode

    def asked(numbers):
        return {
            (decode(lesson.teacher.ids).split("above.")[1], decode(lesson.answer)) for lesson in lessons.batch(numbers)
        }

    held, taught = asked(range(HELD_OUT)), asked(range(HELD_OUT, 150))
    assert len(held) > 1
    assert not held & taught


def test_a_document_that_comes_during_a_study_is_not_taught(learned, tmp_path):
    labelled = [Question("What did the submarine meet?", "nothing")] * 4
    lessons = Lessons(learned, learned.handle("lloco"), learned.handle("text"), labelled, "a", CONFIG)
    other = tmp_path / "other.md"
    other.write_text("The submarine met nothing. " * 20)
    learned.add(other)
    read = learned.decoder.tokenizer.decode(lessons.lesson(HELD_OUT).teacher.ids)
    assert "submarine met nothing" not in read


def test_a_document_forgotten_during_a_study_stops_it(learned, log, monkeypatch):
    batch = Lessons.batch

    def forget_then(self, numbers):
        if numbers[0] == HELD_OUT + 2 * CONFIG.rows:
            learned.forget(log)
        return batch(self, numbers)

    monkeypatch.setattr(Lessons, "batch", forget_then)
    with pytest.raises(PrereadError, match=r"forgotten meanwhile|Add the documents again"):
        learned.study(config=CONFIG)
    assert not list((learned.library.path / "adapters").rglob("*.safetensors"))


def test_a_damaged_adapter_or_record_is_studied_again(learned, open_library, decoders, tiny_decoder):
    learned.study(config=CONFIG)
    folder = learned.library.path / "adapters"
    weights = next(folder.rglob("adapter_model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-5])
    decoders["tiny"] = tiny_decoder("llama")
    again = open_library().collection("sea")
    assert again.study(config=CONFIG).published
    assert again.ask("Who?", sampling=SHORT).text is not None
    next(folder.rglob("studied.json")).write_text("{")
    assert again.study(config=CONFIG).published


def test_some_lessons_read_the_whole_document_as_ask_does(learned):
    def positions(whole):
        config = replace(CONFIG, whole=whole, most_passages=1)
        lessons = Lessons(learned, learned.handle("lloco"), learned.handle("text"), [], "a", config)
        return {len(lesson.prompt.embeds) for lesson in lessons.batch(range(6))}

    entry = learned.documents()[0]
    stored = [s.passage for s in learned.store.passages("sea", entry.source)]
    whole = sum(memory.positions for memory in Memories(learned.store, learned.handle("lloco")).load(stored))
    assert positions(1.0) == {whole}
    assert max(positions(0.0)) < whole


def test_an_empty_collection_has_nothing_to_study(collection):
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

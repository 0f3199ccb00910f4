"""Studying: an adapter in use only where it helps, gone with its document, taught further when documents come."""

from __future__ import annotations

import json
import re
import signal
from dataclasses import replace

import pytest
import torch

from preread.collection import study as studying
from preread.collection.adapters import CollectionAdapters
from preread.collection.lessons import Lessons, StudyConfig
from preread.core.errors import IntegrityError, LibraryBusy, PrereadError, UsageError
from preread.data.questions import Question
from preread.engines.base import Event
from preread.library import Library
from preread.nn.answering import AnswerObjective
from preread.nn.lora import Lora, LoraConfig
from preread.training.loop import TrainingConfig

from ..conftest import SETTINGS, SHORT, story

CONFIG = StudyConfig(
    lora=LoraConfig(rank=4, dropout=0.0),
    training=TrainingConfig(steps=16, learning_rate=0.02),
    most_passages=2,
    written=0.0,
    general=0.0,
)
USELESS = replace(CONFIG, training=TrainingConfig(steps=0))
ASK = "What met storm number 35?"


@pytest.fixture
def learned(collection, log):
    collection.add(log)
    return collection


@pytest.fixture
def more(tmp_path):
    path = tmp_path / "more.md"
    path.write_text(story("submarine"), encoding="utf-8")
    return path


class Talker:
    """An engine that writes sense about the log, decided by what it reads and by its seed."""

    def __init__(self, collection, fails_at=None):
        self.decode, self.calls, self.fails_at = collection.decoder.tokenizer.decode, 0, fails_at
        collection.__dict__["engine"] = self

    def complete(self, prompts, sampling=None, cancelled=lambda: False):
        self.calls += 1
        if self.calls == self.fails_at:
            raise KeyboardInterrupt
        each = sampling if isinstance(sampling, list) else [sampling] * len(prompts)
        return [
            Event(i, self.say(*pair), 5, 0.0, 0.0, "stop") for i, pair in enumerate(zip(prompts, each, strict=True))
        ]

    def say(self, prompt, sampling):
        text = self.decode(prompt.ids)
        days = re.findall(r"On day (\d+)", text) or ["0"]
        if "Write one short" not in text:
            return f"The schooner met it on day {days[0]}." if len(days) > 1 else "That is well known."
        words = ("then", "there", "again", "in the end", "at last", "by then", "for once", "on the whole")
        return f"What happened on day {days[sampling.seed % len(days)]}, {words[sampling.seed // 7 % len(words)]}?"


def test_a_helpful_adapter_is_used_and_found_again(learned, open_library):
    before = learned.ask(ASK, sampling=SHORT)
    result = learned.study(config=CONFIG)
    assert result.published
    assert result.verdict.after < result.verdict.before
    assert result.verdict.questions >= 8
    assert sum(result.questions.values()) > 16
    again = open_library().collection("sea")
    answer = again.ask(ASK, sampling=SHORT, adapter="always")
    assert again.adapters.record("lloco") == learned.adapters.record("lloco")
    assert answer.text != before.text
    [manifest] = (learned.library.path / "adapters").rglob("*/manifest.json")
    kept = json.loads(manifest.read_text())["training"]
    assert kept["verdict"]["after"] == result.verdict.after, "what was found stays with the adapter"


BESIDE = {"moved": 0, "shape": {"begin": "copied", "encoder": {"layers": 1}}}


@pytest.mark.parametrize(
    "settings",
    [replace(SETTINGS, method="kv"), replace(SETTINGS, method="cepe", options=BESIDE)],
    ids=["keys and values", "states"],
)
def test_an_adapter_may_read_what_is_no_embedding(open_library, log, settings):
    collection = open_library().collection("kept", settings)
    collection.add(log)
    before = collection.ask(ASK, sampling=SHORT)
    assert collection.study(config=CONFIG).published
    answer = collection.ask(ASK, sampling=SHORT, adapter="always")
    assert answer.usage.tokens_read == before.usage.tokens_read
    assert answer.text != before.text


def test_what_helped_is_not_studied_again(learned, open_library, monkeypatch):
    result = learned.study(config=CONFIG)
    monkeypatch.setattr(Lessons, "batch", lambda *_: pytest.fail("the same study was done again"))
    assert learned.study(config=CONFIG) == result
    assert open_library().collection("sea").study(config=CONFIG) == result


def test_an_adapter_that_does_not_help_is_not_used_and_not_studied_again(learned, monkeypatch):
    result = learned.study(config=USELESS)
    assert not result.published
    assert result.lost
    assert not [name for name in learned.decoder.adapters if name.startswith("sea/")]
    monkeypatch.setattr(Lessons, "batch", lambda *_: pytest.fail("the same study was done again"))
    assert learned.study(config=USELESS) == result
    assert learned.adapters.record("lloco") is None


def weights_after(collection, config):
    """Every number of the adapter that a study publishes."""
    assert collection.study(config=config).published
    record = collection.adapters.record("lloco")
    return record.weights, record.gate, record.version


@pytest.mark.parametrize("call", [2, 5, 10])
def test_a_study_stopped_while_it_writes_is_the_one_never_stopped(learned, log, tmp_path, open_library, call):
    config = replace(CONFIG, written=0.5, general=0.1)
    Talker(learned, fails_at=call)
    with pytest.raises(KeyboardInterrupt):
        learned.study(config=config)
    talker = Talker(learned)
    stopped = weights_after(learned, config)
    other = Library(tmp_path / "another").collection("sea", SETTINGS)
    other.add(log)
    whole = Talker(other)
    assert weights_after(other, config) == stopped
    assert talker.calls < whole.calls, "what was written is not written again"


def test_a_study_stopped_while_it_learns_is_the_one_never_stopped(learned, log, tmp_path, monkeypatch):
    config = replace(CONFIG, written=0.5, lora=LoraConfig(rank=4, dropout=0.1))
    Talker(learned)
    batch, calls = Lessons.batch, []

    def stop_at_seven(self, number):
        calls.append(number)
        if len(calls) == 7:
            signal.raise_signal(signal.SIGINT)
        return batch(self, number)

    monkeypatch.setattr(Lessons, "batch", stop_at_seven)
    with pytest.raises(KeyboardInterrupt):
        learned.study(config=config)
    assert calls == list(range(7))
    stopped = weights_after(learned, config)
    assert calls[7:] == list(range(7, 16)), "seven steps were done and are not done again"
    assert list(learned.library.path.rglob("log.jsonl")) == [], "the run's own files go when the adapter is kept"
    other = Library(tmp_path / "another").collection("sea", SETTINGS)
    other.add(log)
    Talker(other)
    assert weights_after(other, config) == stopped


def test_the_minutes_end_a_call_and_the_next_goes_on(learned):
    none = replace(CONFIG, training=replace(CONFIG.training, minutes=0.0))
    first = learned.study(config=none)
    assert (first.verdict, first.published, first.outcome.step) == (None, False, 0)
    assert not [name for name in learned.decoder.adapters if name.startswith("sea/")]
    assert learned.study(config=CONFIG).published


def test_what_a_model_writes_is_taught_held_out_and_judged(learned):
    talker = Talker(learned)
    result = learned.study(config=replace(CONFIG, written=1.0, general=0.1))
    assert talker.calls > 10
    assert {"detail", "general"} <= result.questions.keys()
    assert result.dropped["asked before"] > 0
    assert {"gap", "repeat", "follows", "look-up"} & result.verdict.kinds.keys()


def test_the_real_engine_writes_about_a_reader_s_own_document(collection, tmp_path):
    """A random model writes nonsense, which is dropped and counted; templates teach all the same."""
    path = tmp_path / "mine.txt"
    path.write_text(story("ferry", 8), encoding="utf-8")
    collection.add(path)
    result = collection.study(config=replace(CONFIG, written=0.2, general=0.05))
    assert result.published
    assert sum(result.dropped.values()) > 0
    assert not result.dropped.keys() - {
        "too long or unfinished",
        "nothing asked",
        "asked before",
        "no answer",
        "a number or name that the text does not have",
    }


def test_an_adapter_is_taught_further_when_a_document_comes(learned, more, monkeypatch):
    first = learned.study(config=CONFIG)
    old = learned.adapters.record("lloco")
    learned.add(more)
    before = Lora.load(learned.adapters.folder("lloco", old.version), learned.decoder.projections)
    begun = []
    train = studying.train

    def spy(objective, *rest):
        begun.append({name: value.clone() for name, value in objective.lora.state_dict().items()})
        return train(objective, *rest)

    monkeypatch.setattr(studying, "train", spy)
    second = learned.study(config=CONFIG)
    torch.testing.assert_close(begun[0], before.state_dict(), atol=0, rtol=0)
    assert second.published
    assert (first.replayed, second.replayed) == (0, 1)
    assert second.verdict.in_use is not None
    assert second.verdict.after <= second.verdict.in_use
    new = learned.adapters.record("lloco")
    assert new.version != old.version
    assert len(new.documents) == 2
    assert not learned.adapters.folder("lloco", old.version).exists()
    assert learned.study(config=CONFIG) == second, "and is not taught a third time"
    assert len(begun) == 1


def test_an_adapter_is_taught_further_when_its_only_document_changes(learned, log):
    learned.study(config=CONFIG)
    log.write_text(log.read_text() + "\n\nAnd on day 99 the schooner met the storm number 693 and was over.\n")
    learned.add(log)
    result = learned.study(config=CONFIG)
    assert result.verdict.in_use is not None
    assert result.replayed == 0


def test_one_that_loses_to_the_adapter_in_use_does_not_replace_it(learned, more):
    learned.study(config=CONFIG)
    before = learned.adapters.record("lloco")
    learned.add(more)
    weak = replace(CONFIG, lora=LoraConfig(rank=2, dropout=0.0), training=TrainingConfig(steps=1, learning_rate=1e-5))
    result = learned.study(config=weak)
    assert result.lost
    assert result.verdict.after > result.verdict.in_use
    assert learned.adapters.record("lloco") == before
    assert learned.study(config=weak) == result


def test_after_forgetting_the_adapter_is_rebuilt_from_nothing(learned, log, more):
    learned.add(more)
    learned.study(config=CONFIG)
    learned.forget(log)
    assert learned.adapters.record("lloco") is None
    result = learned.study(config=CONFIG)
    assert (result.verdict.in_use, result.replayed) == (None, 0)
    assert len(learned.adapters.record("lloco").documents) == 1


def test_labelled_questions_are_studied_alone_or_beside_others(learned):
    labels = [Question(f"What met storm number {7 * i}?", f"the schooner of day {i}") for i in range(12)]
    alone = learned.study(labels, replace(CONFIG, labelled=1.0))
    assert alone.questions.keys() == alone.verdict.kinds.keys() == {"labelled"}
    mixed = learned.study(labels, CONFIG)
    assert mixed.questions.keys() > {"labelled"}
    assert mixed.verdict.kinds.keys() > {"labelled"}


def test_an_answer_says_when_the_adapter_has_not_seen_a_document(learned, tmp_path):
    learned.study(config=CONFIG)
    assert not any("taught before" in note for note in learned.ask("Who?", sampling=SHORT, adapter="always").notes)
    other = tmp_path / "other.txt"
    other.write_text("A diary of the submarine, which the captain kept until the end of the voyage.")
    learned.add(other)
    notes = learned.ask("Who?", sampling=SHORT, adapter="always").notes
    assert any("taught before 1 of the documents" in note for note in notes)


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

    def stop(self, number):
        signal.raise_signal(signal.SIGINT)
        return batch(self, number)

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
        open_library().collection("sea").ask("Who?", sampling=SHORT, adapter="always")


def test_a_document_forgotten_during_a_study_stops_it(learned, log, monkeypatch):
    batch = Lessons.batch

    def forget_then(self, number):
        if number == 2:
            learned.forget(log)
        return batch(self, number)

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


def test_a_second_study_of_a_collection_waits_for_the_first_to_end(learned, log, monkeypatch):
    batch, tried = Lessons.batch, []

    def another(self, number):
        with pytest.raises(LibraryBusy, match="still runs"):
            learned.study(config=replace(CONFIG, rows=1))
        tried.append(number)
        return batch(self, number)

    monkeypatch.setattr(Lessons, "batch", another)
    assert learned.study(config=CONFIG).published
    assert tried
    monkeypatch.undo()
    learned.forget(log)
    assert not (learned.library.path / "adapters").exists() or not list(
        (learned.library.path / "adapters").rglob("*.*")
    )


@pytest.mark.parametrize("again", [False, True], ids=["first", "further"])
def test_one_that_was_killed_after_its_adapter_came_into_use_is_done(learned, more, monkeypatch, again):
    if again:
        learned.study(config=CONFIG)
        learned.add(more)
    publish = CollectionAdapters.publish

    def killed(self, *arguments):
        assert publish(self, *arguments)
        raise MemoryError

    monkeypatch.setattr(CollectionAdapters, "publish", killed)
    with pytest.raises(MemoryError):
        learned.study(config=CONFIG)
    monkeypatch.undo()
    monkeypatch.setattr(Lessons, "batch", lambda *_: pytest.fail("what is in use was studied again"))
    assert learned.study(config=CONFIG).published
    assert not list((learned.library.path / "adapters").rglob("run"))


def test_an_empty_collection_has_nothing_to_study(collection):
    with pytest.raises(UsageError, match="documents in sea"):
        collection.study(config=CONFIG)

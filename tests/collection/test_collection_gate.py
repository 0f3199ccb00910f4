"""An adapter answers what it was studied for, and says so; its gate stands and falls with it."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace

import pytest

from preread import render
from preread.collection.adapters import choice_of, fit_gate
from preread.collection.lessons import StudyConfig
from preread.core.errors import IntegrityError, UsageError
from preread.core.types import Turn
from preread.data.questions import Question
from preread.nn.lora import LoraConfig
from preread.training.loop import TrainingConfig

from ..conftest import SETTINGS, SHORT

CONFIG = StudyConfig(
    lora=LoraConfig(rank=4, dropout=0.0),
    training=TrainingConfig(steps=25, learning_rate=0.02),
    most_passages=2,
    labelled=1.0,
    general=0.0,
)
LABELLED = [Question(f"What met the storm number {7 * i} on day {i}?", f"the schooner {i}") for i in range(90)]
LIKE = "What met the storm number 35 on day 5?"
UNLIKE = "Name one enzyme splitting milk sugar quickly."


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the first test leaves its studied library for the others."""
    return tmp_path_factory.mktemp("kept") / "library"


@pytest.fixture
def studied(open_library, log, kept):
    path = open_library().path
    if not kept.exists():
        collection = open_library().collection("sea", SETTINGS)
        collection.add(log)
        assert collection.study(LABELLED, CONFIG).published
        shutil.copytree(path, kept)
    shutil.copytree(kept, path, dirs_exist_ok=True)
    return open_library().collection("sea")


def test_the_adapter_answers_what_it_was_studied_for_and_nothing_else(studied):
    like, unlike = studied.ask(LIKE, sampling=SHORT), studied.ask(UNLIKE, sampling=SHORT)
    assert like.adapter.used
    assert not unlike.adapter.used
    assert like.adapter.score >= like.adapter.threshold == unlike.adapter.threshold > unlike.adapter.score
    for answer in (like, unlike):
        assert answer.adapter.why in answer.notes
        assert f"{answer.adapter.score:.2f}" in answer.adapter.why
        assert answer.adapter.why in render.answer(answer)
    assert asdict(unlike)["adapter"]["used"] is False


@pytest.mark.parametrize("question", [LIKE, UNLIKE])
def test_what_is_refused_is_answered_as_without_an_adapter(studied, question):
    always, never, auto = (studied.ask(question, sampling=SHORT, adapter=c) for c in ("always", "never", "auto"))
    assert always.text != never.text, "the adapter was taught enough to be seen"
    assert auto.text == (always.text if auto.adapter.used else never.text)
    assert (always.adapter.used, never.adapter.used) == (True, False)
    assert all("as was asked for" in answer.adapter.why for answer in (always, never))


def test_without_an_adapter_there_is_nothing_to_say(collection, log):
    collection.add(log)
    answer = collection.ask(LIKE, sampling=SHORT)
    assert answer.adapter is None
    assert not any("adapter" in note for note in answer.notes)
    assert collection.ask(LIKE, "text", sampling=SHORT).adapter is None


def test_a_follow_up_is_judged_by_what_came_before_it_too(studied):
    follow_up = "And on day 6?"
    alone = studied.ask(follow_up, sampling=SHORT).adapter
    behind = studied.ask(follow_up, sampling=SHORT, history=[Turn(LIKE, "the schooner")]).adapter
    assert behind.score > alone.score


def test_an_adapter_from_before_gates_is_used_and_the_answer_says_so(studied):
    record = studied.adapters.record("lloco")
    studied.adapters.publish("lloco", replace(record, gate=""))
    for question in (LIKE, UNLIKE):
        answer = studied.ask(question, sampling=SHORT)
        assert answer.adapter.used
        assert "before there were gates" in answer.adapter.why


def test_a_gate_that_few_questions_set_accepts_all_and_says_so(studied):
    record = studied.adapters.record("lloco")
    folder = studied.adapters.folder("lloco", record.version)
    texts = [question.text for question in LABELLED]
    few = fit_gate(folder, studied.library.retriever.embedder, texts[:8], texts[8:20])
    studied.adapters.publish("lloco", replace(record, gate=few))
    answer = studied.ask(UNLIKE, sampling=SHORT)
    assert answer.adapter.used
    assert answer.adapter.threshold is None
    assert "too few" in answer.adapter.why


def test_another_embedders_gate_is_not_trusted(studied, monkeypatch):
    embedder = studied.library.retriever.embedder
    monkeypatch.setattr(type(embedder), "fingerprint", "another")
    monkeypatch.setattr(studied.store, "bind", lambda _: None)
    monkeypatch.setattr(type(studied.store), "embedder", property(lambda _: "another"))
    answer = studied.ask(LIKE, sampling=SHORT)
    assert not answer.adapter.used
    assert "another" in answer.adapter.why
    assert studied.ask(LIKE, sampling=SHORT, adapter="always").adapter.used


@pytest.mark.parametrize("name", ["gate.json", "gate.safetensors"])
def test_a_damaged_gate_stops_the_question_and_is_studied_anew(studied, name):
    record, embedder = studied.adapters.record("lloco"), studied.library.retriever.embedder
    assert studied.adapters.intact("lloco", record.version, studied.decoder, embedder)
    [file] = (studied.library.path / "adapters").rglob(name)
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(IntegrityError, match="gate of an adapter"):
        studied.ask(LIKE, sampling=SHORT)
    assert not studied.ask(LIKE, sampling=SHORT, adapter="never").adapter.used
    assert not studied.adapters.intact("lloco", record.version, studied.decoder, embedder), "so `study` does it again"


def test_a_folder_that_somebody_removed_does_not_stop_the_next_study(studied):
    before = studied.adapters.record("lloco").version
    shutil.rmtree(studied.adapters.folder("lloco", before))
    again = replace(CONFIG, training=replace(CONFIG.training, seed=3))
    assert studied.study(LABELLED, again).published
    assert studied.adapters.record("lloco").version != before
    assert studied.ask(LIKE, sampling=SHORT).adapter.used


def test_a_gate_that_goes_while_it_is_read_is_no_error(studied):
    record = studied.adapters.record

    def forget_then(method):
        found = record(method)
        studied.adapters.record = record
        studied.forget(studied.documents()[0].source)
        return found

    studied.adapters.record = forget_then
    handle, retriever = studied.handle("lloco"), studied.library.retriever
    assert studied.adapters.choose(handle, studied.decoder, retriever, [LIKE]) == (None, None)


def test_forgetting_takes_the_gate_and_the_receipt_is_true(studied):
    folder = studied.library.path / "adapters"
    assert list(folder.rglob("gate.*"))
    receipt = studied.forget(studied.documents()[0].source)
    assert receipt.searched
    assert not list(studied.library.path.rglob("gate.*"))


def test_a_gate_holds_no_words_of_the_questions(studied):
    for file in (studied.library.path / "adapters").rglob("gate.*"):
        assert b"storm" not in file.read_bytes()


def test_an_unknown_choice_is_refused():
    assert [choice_of(name) for name in ("auto", "always", "never")] == ["auto", "always", "never"]
    with pytest.raises(UsageError, match="auto, always, never"):
        choice_of("sometimes")

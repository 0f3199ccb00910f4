"""A quiz: what is asked of which passage, what is not asked again, what stays text, and that it goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from preread import kept_map
from preread.collection import probing
from preread.collection.as_text import AsText
from preread.collection.kept import kept
from preread.collection.quiz import QuizConfig, quiz
from preread.collection.settings import Settings
from preread.core.errors import Interrupted, UsageError
from preread.core.types import MEMORY
from preread.data.questions import Question

from ..conftest import SETTINGS, SHORT, story

KV = Settings(model="tiny", method="kv", options={"ratio": 4.0}, passage_tokens=80)
CEPE = Settings("tiny", "cepe", {"moved": 0, "shape": {"encoder": {"layers": 1}}}, passage_tokens=80)
EXACT = Settings(model="tiny", method="kv", options={"ratio": 1.0}, passage_tokens=80)
RECURSIVE = replace(SETTINGS, options={"ratio": 4.0, "segments": "recursive", "segment_tokens": 200})
TWO = QuizConfig(per_page=2)
ALL = QuizConfig(per_page=1, min_kept=1.0, keep_text=1.0)


def chapters(name, count=4):
    days = (f"On day {i} the {name} met captain Jonas Bell off cape Horn in wind {i * 7}." for i in range(3))
    text = " ".join(days)
    return "\n\n".join(
        f"# Chapter {c}\n\n{text} So it went on for {c} weeks, until Mary came home." for c in range(count)
    )


@pytest.fixture
def of(open_library, tmp_path):
    """A collection of some documents, by its settings."""

    def make(settings=SETTINGS, names=("schooner", "brig"), text=chapters):
        collection = open_library().collection("sea", settings)
        for name in names:
            path = tmp_path / f"{name}.md"
            path.write_text(text(name), encoding="utf-8")
            collection.add(path)
        return collection

    return make


@pytest.fixture
def reads(monkeypatch):
    """How many answers were judged, and behind which prompts."""
    seen, judge = [], probing.answer_nats

    def watched(decoder, prompts, answers):
        seen.extend(prompts)
        return judge(decoder, prompts, answers)

    monkeypatch.setattr(probing, "answer_nats", watched)
    return seen


@pytest.mark.parametrize("settings", [SETTINGS, RECURSIVE, KV, CEPE], ids=["lloco", "recursive", "kv", "cepe"])
def test_every_passage_of_every_page_is_asked_and_the_map_is_all_of_it(of, settings):
    collection = of(settings)
    found = quiz(collection, config=TWO)
    stored = {(e.source, i) for e in collection.documents() for i in range(e.passages)}
    mapped = [(page.source, one.index) for page in found.pages for one in page.passages]
    assert set(mapped) == stored
    assert len(mapped) == len(stored) == found.passages == found.asked
    assert {page.place for page in found.pages} == {f'section "Chapter {c}"' for c in range(4)}
    every = [one.asked for page in found.pages for one in page.passages]
    assert all(sum(len(one.asked) for one in page.passages) >= 2 for page in found.pages)
    assert found.kept == kept(every)
    assert found.kept.questions == sum(map(len, every)) == sum(one.questions for one in found.kinds.values())
    assert sum(one.tokens for page in found.pages for one in page.passages) == found.tokens
    for page in found.pages:
        assert page.kept == kept([one.asked for one in page.passages])
    assert found.left == 0
    json.dumps(asdict(found), allow_nan=False)


def test_questions_and_answers_stand_in_the_passage_they_are_asked_of(of):
    collection = of()
    text = collection.store.document("sea", collection.documents()[0].source).text
    [page] = quiz(collection, collection.documents()[0].source, config=TWO).pages[:1]
    for passage in page.passages:
        own = " ".join(text[passage.start : passage.end].split())
        assert passage.asked
        assert all(one.answer in own for one in passage.asked)


def test_all_of_the_keys_and_values_are_as_good_as_the_text_they_are_of(of):
    """A second implementation: of passages without neighbours, nothing is thinned and nothing is lost."""
    collection = of(EXACT, names=("note",), text=lambda _: "On day 3 the brig met captain Jonas Bell. Mary came home.")
    found = quiz(collection, config=QuizConfig(per_page=4))
    [passage] = found.pages[0].passages
    for one in passage.asked:
        assert one.memory == pytest.approx(one.text, abs=1e-2)


def test_what_was_asked_is_not_asked_again_and_a_changed_memory_is(of, reads, open_library, tmp_path):
    collection = of()
    first = quiz(collection, config=TWO)
    assert reads
    reads.clear()
    again = quiz(open_library().collection("sea"), config=TWO)
    assert not reads
    assert replace(again, seconds=0) == replace(first, seconds=0)
    (tmp_path / "brig.md").write_text(chapters("barque"), encoding="utf-8")
    collection.add(tmp_path / "brig.md")
    quiz(collection, config=TWO)
    asked = {collection.decoder.tokenizer.decode(prompt.ids[prompt.ids >= 0]) for prompt in reads}
    assert any("barque" in text for text in asked)
    assert not any("schooner" in text for text in asked)


def test_an_interrupted_quiz_goes_on(of, reads, monkeypatch):
    collection = of()
    asked, count = probing.Prober.asked, []

    def press(self, probe):
        count.append(probe)
        if len(count) == 4:
            import signal

            signal.raise_signal(signal.SIGINT)
        return asked(self, probe)

    monkeypatch.setattr(probing.Prober, "asked", press)
    with pytest.raises(Interrupted):
        quiz(collection, config=TWO)
    assert len(count) == 4, "the passage in hand was finished"
    assert AsText(collection.store, "sea").places() == frozenset()
    before = len(reads)
    found = quiz(collection, config=TWO)
    assert 0 < before < len(reads)
    assert len(reads) == 3 * found.kept.questions, "each was put three times, in one run or the other"


def test_no_time_asks_nothing_and_says_so(of):
    found = quiz(of(), config=QuizConfig(minutes=0))
    assert (found.asked, found.left, found.passed, found.kept.value) == (0, found.passages, None, None)
    assert "the same command goes on" in kept_map.lines(found)
    assert "what memory keeps could not be measured (no questions)" in kept_map.lines(found)
    assert "<h1>What memory keeps could not be measured</h1>" in kept_map.page(found)


def test_labelled_questions_go_to_the_passage_that_holds_their_answer(of):
    collection = of(names=("schooner",), text=lambda name: story(name, 20))
    question = Question("Which number had the storm on day 13?", "the storm number 91")
    found = quiz(collection, questions=[question], config=QuizConfig(per_page=1))
    text = collection.store.document("sea", collection.documents()[0].source).text
    [passage] = [p for page in found.pages for p in page.passages if any(a.question == question.text for a in p.asked)]
    assert question.answer in text[passage.start : passage.end]


def test_a_labelled_question_about_another_document_is_left_out_and_said(of, monkeypatch):
    monkeypatch.setattr(probing, "FOUND", 1)
    collection = of(text=lambda name: story(name, 20))
    one = next(entry.source for entry in collection.documents() if "brig" in entry.source)
    question = Question("What did the schooner meet on day 5?", "On day 5 the schooner met storm number 35")
    found = quiz(collection, one, [question], QuizConfig(per_page=1))
    assert found.unplaced == 1
    assert question.text not in {a.question for page in found.pages for p in page.passages for a in p.asked}
    assert "left out: 1 labelled question that" in kept_map.lines(found)
    found = quiz(collection, questions=[question], config=QuizConfig(per_page=1))
    assert found.unplaced == 0
    assert "left out" not in kept_map.lines(found)


@pytest.fixture
def clear_cut(monkeypatch):
    """Every answer is worth 5 nats a token without context, 1 behind text and 3 behind a memory."""

    def judge(decoder, prompts, answers):
        worth = [3 if (prompt.ids == MEMORY).any() else 1 if prompt.shared > 80 else 5 for prompt in prompts]
        return [nats * len(answer) for nats, answer in zip(worth, answers, strict=True)]

    monkeypatch.setattr(probing, "answer_nats", judge)


def test_the_weakest_stay_text_and_are_read_so_until_cleared(of, clear_cut):
    collection = of()
    found = quiz(collection, config=ALL)
    marked = {(page.source, one.index) for page in found.pages for one in page.passages if one.as_text}
    assert len(marked) == found.as_text > 0
    hashes = {entry.source: entry.hash for entry in collection.documents()}
    assert AsText(collection.store, "sea").places() == {(hashes[source], index) for source, index in marked}
    assert all(
        one.as_text == (one.kept.value is not None and one.kept.value < 1)
        for page in found.pages
        for one in page.passages
    )
    assert (found.kept.value, found.kept.low, found.with_text, found.passed) == (0.5, 0.5, 1.0, False)
    answer = collection.ask("Who met captain Jonas Bell?", sampling=SHORT)
    assert any("stay text" in note for note in answer.notes)
    assert quiz(collection, config=replace(ALL, keep_text=0.0)).as_text == 0
    assert AsText(collection.store, "sea").places() == frozenset()


def test_no_more_tokens_stay_text_than_allowed_and_other_documents_keep_their_marks(of, clear_cut):
    collection = of()
    one, other = (entry.source for entry in collection.documents())
    quiz(collection, other, config=ALL)
    kept_before = AsText(collection.store, "sea").places()
    found = quiz(collection, one, config=replace(ALL, keep_text=0.3))
    assert 0 < found.text_tokens <= 0.3 * found.tokens
    assert 0.5 < found.with_text < 1
    assert {page.source for page in found.pages} == {one}
    assert kept_before <= AsText(collection.store, "sea").places()


def test_what_is_not_asked_yet_stays_as_it_was(of, clear_cut):
    collection = of()
    whole = quiz(collection, config=replace(ALL, keep_text=0.5))
    places = AsText(collection.store, "sea").places()
    assert places
    none = quiz(collection, config=replace(ALL, minutes=0))
    assert (none.asked, none.as_text, none.text_tokens) == (0, whole.as_text, whole.text_tokens)
    assert AsText(collection.store, "sea").places() == places
    some = quiz(collection, whole.pages[0].source, config=replace(ALL, keep_text=0.0))
    assert some.as_text == 0
    assert AsText(collection.store, "sea").places() < places


def test_forgetting_leaves_nothing_of_a_quiz(of):
    collection = of()
    quiz(collection, config=ALL)
    gone, _ = collection.documents()
    assert collection.forget(gone.source).searched
    raw = b"".join(file.read_bytes() for file in collection.library.path.rglob("*") if file.is_file())
    assert gone.hash.encode() not in raw
    named = {key for keys in collection.store.stored("sea")[0].values() for key in keys}
    assert collection.store.stored("sea")[1].keys() == named, "what was asked went too"


def test_a_quiz_needs_documents_memories_and_sense(of, open_library, collection):
    with pytest.raises(UsageError, match="documents"):
        quiz(collection)
    for wrong in ({"per_page": 0}, {"keep_text": 1.1}, {"min_kept": -1.0}, {"minutes": -1.0}):
        with pytest.raises(UsageError, match="per-page"):
            QuizConfig(**wrong)
    with pytest.raises(UsageError, match="memories"):
        quiz(of(Settings("tiny", "text", passage_tokens=80)))


def test_an_adapter_that_is_not_there_is_refused(of):
    with pytest.raises(UsageError, match="Study first"):
        quiz(of(), config=QuizConfig(adapter=True))


def test_the_page_needs_nothing_else_and_no_text_is_markup(of):
    evil = '<script>alert(1)</script> On day 3 the brig met captain <b>Jonas</b> Bell & Mary Smith "at" home. '
    collection = of(names=("evil",), text=lambda _: f"# <img src=x onerror=alert(1)>\n\n{evil * 12}")
    made = kept_map.page(quiz(collection, config=QuizConfig(per_page=6)))
    assert "default-src &#39;none&#39;; style-src &#39;sha256-" in made
    for never in ("<script", "<img", "<b>", "http://", "https://", " style="):
        assert never not in made
    assert "&lt;" in made
    assert made.count("<details") == made.count("</details>") > 0


def test_the_lines_have_a_bar_a_page_and_every_document_by_name(of, clear_cut):
    collection = of()
    found = quiz(collection, config=ALL)
    told = kept_map.lines(found).splitlines()
    bars = [line for line in told if "####" in line or "...." in line]
    assert len(bars) == len(found.pages)
    assert all(entry.title in told for entry in collection.documents())
    assert any(line.startswith("memory keeps 50% (50% to 50%) of what the text tells (") for line in told)

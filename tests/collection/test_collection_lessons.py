"""Lessons by number: what is asked about which passages, what is never taught, and what is taught again."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from preread.collection.lessons import HELD_OUT, Lessons, StudyConfig
from preread.collection.memories import Memories
from preread.collection.pieces import Pieces
from preread.core.errors import UsageError
from preread.core.types import Passage
from preread.data.questions import GENERAL, TEMPLATES, Question
from preread.nn.lora import LoraConfig
from preread.training.loop import TrainingConfig
from preread.training.selfstudy import KINDS, Written

from ..conftest import story

CONFIG = StudyConfig(
    lora=LoraConfig(rank=4, dropout=0.0),
    training=TrainingConfig(steps=60, learning_rate=0.02),
    most_passages=2,
    written=0.0,
    general=0.0,
)
LABELS = [Question(f"What met storm number {7 * i}?", f"the schooner {i}") for i in range(30)]


@pytest.fixture
def learned(collection, log):
    collection.add(log)
    return collection


@pytest.fixture
def two(learned, tmp_path):
    """Two documents with text of their own."""
    other = tmp_path / "other.md"
    other.write_text(story("submarine"), encoding="utf-8")
    learned.add(other)
    return learned


def lessons_of(collection, config=CONFIG, questions=(), known=()):
    return Lessons(collection, collection.handle("lloco"), collection.handle("text"), questions, "a", config, known)


def ids(lessons, numbers):
    return [
        (one.prompt.ids.tolist(), one.answer.tolist(), one.teacher.ids.tolist())
        for number in numbers
        for one in lessons.batch(number)
    ]


def dictated(lessons, pieces=20):
    """What a model could have written: a question of each kind about one piece after another, by its first words."""
    lessons.take(Written(tuple(Question(f"Why is the sky {i}?", "Nobody knows.", GENERAL) for i in range(3)), {}))
    for number in range(pieces):
        _, piece = lessons.pieces.order[number % len(lessons.pieces.order)]
        begin = " ".join(piece.passages[0].text.split()[:12])
        made = [Question(f"{number} {kind}: {begin}?", begin, kind) for kind in KINDS]
        lessons.take(Written(tuple(made), {}))
    return lessons


def test_lessons_are_a_function_of_their_number(learned):
    assert ids(lessons_of(learned), range(6)) == ids(lessons_of(learned), range(6))
    assert ids(lessons_of(learned), [3]) == ids(lessons_of(learned), range(4))[-len(lessons_of(learned).batch(3)) :]
    other = replace(CONFIG, training=replace(CONFIG.training, seed=1))
    assert ids(lessons_of(learned, other), range(6)) != ids(lessons_of(learned), range(6))


def test_the_teacher_reads_the_answer_and_the_rows_of_a_step_read_the_same(learned):
    lessons, decode = lessons_of(learned), learned.decoder.tokenizer.decode
    for number in range(8):
        batch = lessons.batch(number)
        assert 1 <= len(batch) <= CONFIG.rows
        first = batch[0]
        for one in batch:
            assert decode(one.answer, skip_special_tokens=True) in " ".join(decode(one.teacher.ids).split())
            assert one.prompt.shared == first.prompt.shared > 0
            assert torch.equal(one.prompt.embeds, first.prompt.embeds)
            assert torch.equal(one.teacher.ids[: one.teacher.shared], first.teacher.ids[: first.teacher.shared])


def test_no_kind_of_question_is_both_taught_and_held_out_of_a_passage(two, monkeypatch):
    """By what the templates were really called with."""
    seen: set[tuple[str, str]] = set()
    for kind, template in TEMPLATES.items():

        def spy(text, draw, kind=kind, template=template):
            seen.add((text, kind))
            return template(text, draw)

        monkeypatch.setitem(TEMPLATES, kind, spy)
    lessons = lessons_of(two)
    held_out = lessons.held_out()
    held = set(seen)
    seen.clear()
    taught, judged = lessons.questions()
    assert held
    assert seen
    assert not held & seen
    assert len(held_out) == len(judged) <= HELD_OUT
    assert not set(taught) & set(judged)
    assert len({question.kind for question in lessons.taught()}) == len(TEMPLATES)


@pytest.mark.parametrize(("first", "last"), [(1, 1), (1, 2), (1, 40), (2, 30), (5, 50), (60, 200)])
def test_what_was_taught_judges_never_when_documents_come_change_or_are_copied(first, last):
    """By the words of passages alone: an edit before them, or another seed, brings nothing taught to the judges."""

    def pieces(document, numbers, seed=0):
        texts = [f"On day {number} the brig met storm number {number * 7} off cape Horn." for number in numbers]
        passages = [Passage(document, i, (1,), 0, len(text), text, "", 0) for i, text in enumerate(texts)]
        return Pieces({document: passages}, (), seed, 2, 0.0, 0.5)

    before = pieces("old", range(first))
    taught = {(words, kind) for words in before._places for kind in TEMPLATES} - before.withheld
    assert taught
    assert before.withheld
    after = pieces("edited", range(-1, last), seed=7)
    assert len(after.withheld) >= min(8, 2 * last)
    assert not after.withheld & taught
    assert {piece.start for _, piece in before.order} == {
        piece.start for _, piece in pieces("copy", range(first)).order
    }


def test_labels_that_are_added_bring_none_to_judge_that_was_taught(learned):
    for few, many in ((2, 3), (4, 30), (30, 300)):
        labels = [Question(f"What met storm {7 * i}?", f"the schooner {i}") for i in range(many)]
        before = lessons_of(learned, questions=labels[:few])
        after = lessons_of(learned, replace(CONFIG, labelled=1.0), questions=labels[::-1])
        held = [{question.text for question in one._held_labels} for one in (before, after)]
        taught = {question.text for question in before._labels}
        assert held[0]
        assert held[1]
        assert not held[0] & taught
        assert not held[1] & taught
        assert len(held[1]) <= HELD_OUT


@pytest.mark.parametrize("replay", [0.0, 0.5, 1.0])
def test_the_model_writes_about_every_piece_whichever_side_is_taught(two, replay):
    known = [two.documents()[0].hash]
    pieces = lessons_of(two, replace(CONFIG, replay=replay), known=known).pieces
    asked = {(p.document, p.index) for _, piece in pieces.order for p in piece.passages}
    assert asked == {(p.document, p.index) for own in pieces.documents.values() for p in own}
    assert all((piece.document[0].document in known) == bool(side) for side, piece in pieces.order)


def test_written_questions_are_taught_or_held_out_by_piece_and_kind(two):
    lessons = dictated(lessons_of(two, replace(CONFIG, written=1.0, training=replace(CONFIG.training, steps=300))))
    held = {question.text for question, _ in lessons.held_out() if question.kind in KINDS}
    taught, judged = lessons.questions()
    written = {question.text for one in lessons.written[1:] for question in one.questions}
    assert held | set(taught) == written
    assert not held & set(taught)
    assert held < set(judged)
    assert 0.02 < len(held) / len(written) < 0.3
    pairs = {text.split(" ", 1)[1] for text in held}
    assert not pairs & {text.split(" ", 1)[1] for text in taught}, "nor is a second question of the kind about it"


def test_shares_of_the_lessons(two):
    config = replace(CONFIG, written=0.25, general=0.1, labelled=0.5, training=replace(CONFIG.training, steps=400))
    lessons = dictated(lessons_of(two, config, LABELS))
    kinds = [{question.kind for question, _ in lessons._exercises(number)} for number in range(400)]
    shares = {
        "general": sum(GENERAL in one for one in kinds) / 400,
        "labelled": sum("labelled" in one for one in kinds) / 400,
        "written": sum(bool(one & KINDS.keys()) for one in kinds) / 400,
    }
    assert shares["general"] == pytest.approx(0.1, abs=0.05)
    assert shares["labelled"] == pytest.approx(0.9 * 0.5, abs=0.08)
    assert shares["written"] == pytest.approx(0.9 * 0.5 * 0.25, abs=0.05)
    assert lessons.to_write == 1 + -(-int(0.25 * 0.5 * 400 * 4) // len(KINDS))


def test_a_lesson_about_the_world_has_a_memory_and_no_text(learned):
    lessons = dictated(lessons_of(learned, replace(CONFIG, general=1.0)))
    decode = learned.decoder.tokenizer.decode
    for one in lessons.batch(0):
        assert one.prompt.embeds is not None
        assert "schooner" not in decode(one.teacher.ids)
        assert "Why is the sky" in decode(one.teacher.ids)
    assert lessons.questions()[0] == [], "it is no question of the documents"


def test_labelled_questions_are_taught_each_once_a_pass(learned):
    lessons = lessons_of(learned, replace(CONFIG, labelled=1.0, rows=3), LABELS)
    held = {question.text for question, _ in lessons.held_out()}
    assert {question.kind for question, _ in lessons.held_out()} == {"labelled"}
    first = len(LABELS) - len(held)
    counted = Counter(question.text for number in range(-(-first // 3)) for question, _ in lessons._exercises(number))
    assert set(counted) == {question.text for question in LABELS} - held
    assert set(lessons.questions()[0]) | held == {question.text for question in LABELS}
    again = lessons_of(learned, replace(CONFIG, labelled=1.0), [*LABELS, *LABELS])
    assert not set(again.questions()[0]) & set(again.questions()[1]), "the same question twice is not held out once"


def test_a_document_that_comes_during_a_study_is_not_taught(learned, tmp_path):
    lessons = lessons_of(learned)
    other = tmp_path / "other.md"
    other.write_text("The submarine met nothing. " * 20)
    learned.add(other)
    asked = lessons.lesson(Question("What did the submarine meet?", "nothing"), None)
    read = learned.decoder.tokenizer.decode(asked.teacher.ids)
    assert "submarine met nothing" not in read


def test_half_of_the_lessons_are_about_what_is_known(two):
    [known] = [entry.hash for entry in two.documents() if "log" in entry.source]
    lessons = dictated(lessons_of(two, replace(CONFIG, written=0.5), known=[known]))
    about = Counter(piece.passages[0].document for n in range(400) for _, piece in lessons._exercises(n)[:1])
    assert about[known] / 400 == pytest.approx(0.5, abs=0.08)
    none = lessons_of(two, replace(CONFIG, replay=0.0), known=[known])
    assert known not in {piece.passages[0].document for n in range(50) for _, piece in none._exercises(n)}


def test_some_lessons_read_the_whole_document_as_ask_does(learned):
    def positions(whole):
        lessons = lessons_of(learned, replace(CONFIG, whole=whole, most_passages=1))
        return {len(one.prompt.embeds) for number in range(6) for one in lessons.batch(number)}

    entry = learned.documents()[0]
    stored = [s.passage for s in learned.store.passages("sea", entry.source)]
    whole = sum(memory.positions for memory in Memories(learned.store, learned.handle("lloco")).load(stored))
    assert positions(1.0) == {whole}
    assert max(positions(0.0)) < whole


def test_tokens_decide_the_steps(learned):
    few, many = (lessons_of(learned, replace(CONFIG, tokens=tokens)).steps for tokens in (20_000, 80_000))
    assert many == pytest.approx(4 * few, rel=0.1)
    lessons = lessons_of(learned, replace(CONFIG, tokens=20_000))
    read = sum(
        len(one.prompt) + len(one.teacher) + 2 * len(one.answer)
        for number in range(lessons.steps)
        for one in lessons.batch(number)
    )
    assert read == pytest.approx(20_000, rel=0.3)


def test_text_without_prose_is_refused(collection, tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("nothing much here, in a few words.")
    collection.add(path)
    with pytest.raises(UsageError, match="--questions"):
        lessons_of(collection)
    assert lessons_of(collection, questions=LABELS).batch(0)

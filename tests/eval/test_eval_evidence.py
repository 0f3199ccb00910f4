"""Evidence is where each set has it, whatever else the text holds."""

from __future__ import annotations

import pytest

from preread.eval.evidence import evidence


def asked(question, answers=("x",), **meta):
    return {"id": question, "question": question, "answers": list(answers), **({"meta": meta} if meta else {})}


def told(name, row):
    return [[row["text"][start:end] for start, end in spans] for spans in evidence(name, row)]


HOPS = {
    "text": "Passage 1:\nBrig\nA brig has two masts.\n\n"
    "Passage 2:\nCutter\nPassage 3 is a song.\n\n"
    "Passage 3:\nBrig (song)\nA song.",
    "questions": [asked("Which?", gold_titles=["Brig (song)", "Brig"]), asked("What?", gold_titles=["Cutter"])],
}


def test_named_titles_are_whole_paragraphs_and_titles_that_begin_alike_are_others():
    assert told("hotpotqa_distractor", HOPS) == [
        ["Passage 1:\nBrig\nA brig has two masts.\n\n", "Passage 3:\nBrig (song)\nA song."],
        ["Passage 2:\nCutter\nPassage 3 is a song.\n\n"],
    ]


ARTICLE = {
    "text": "The brig sank in 1871.\n\nThe cutter sank in 1871.\n\nThe yawl sank in 1902.",
    "questions": [asked("When did she sink?", ["1871"]), asked("The cutter's colour?", []), asked("When?", ["1902"])],
}


@pytest.mark.parametrize("name", ["squad2_articles", "/elsewhere/squad2_articles.test.jsonl.gz"])
def test_a_question_of_an_article_has_its_paragraph_answered_or_not(name):
    assert [[own.strip() for own in spans] for spans in told(name, ARTICLE)] == [
        ["The brig sank in 1871."],
        ["The cutter sank in 1871."],
        ["The yawl sank in 1902."],
    ]


def test_a_text_that_was_cut_out_for_its_answer_is_evidence_as_a_whole():
    row = {"text": "Cut out.", "questions": [asked("One?"), asked("Two?")]}
    assert told("nq_oracle", row) == [["Cut out."], ["Cut out."]]


def test_any_other_set_shows_nothing():
    assert evidence("fairytaleqa", ARTICLE) == [(), (), ()]
    assert evidence("tales", {**HOPS, "questions": [asked("Which?")]}) == [()]

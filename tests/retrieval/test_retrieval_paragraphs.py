"""Paragraphs of questions, by the order of both, by answers and by words."""

from __future__ import annotations

import random

from preread.retrieval.paragraphs import paragraphs_of


def test_paragraphs_are_found_by_the_order_of_questions_and_by_answers():
    text = "The brig sank in 1871.\n\nThe cutter sank in 1871.\n\nThe yawl sank in 1902."
    starts = [text.index(f"The {name}") for name in ("brig", "cutter", "yawl")]
    asked = [("When did she sink?", ["1871"]), ("Did the cutter sink then?", ["1871"]), ("When?", ["1902"])]
    assert [start for start, _ in paragraphs_of(text, asked)] == starts
    unanswered = [asked[0], ("What is the cutter's colour?", []), ("And the yawl's?", [])]
    assert [start for start, _ in paragraphs_of(text, unanswered)] == starts


def test_no_question_leaves_the_order_and_none_its_answers_where_it_can():
    draw = random.Random(0)
    words = [f"word{i}" for i in range(30)]
    for _ in range(30):
        paragraphs = [" ".join(draw.choices(words, k=6)) for _ in range(8)]
        text = "\n\n".join(paragraphs)
        homes = sorted(draw.choices(range(8), k=12))
        asked = [(draw.choice(words), [draw.choice(paragraphs[home].split())]) for home in homes]
        found = paragraphs_of(text, asked)
        assert found == sorted(found)
        assert all(answers[0] in text[start:end] for (_, answers), (start, end) in zip(asked, found, strict=True))

"""Questions by templates ask what the text answers; labelled files are read or refused."""

from __future__ import annotations

import json
import random

import pytest

from preread.core.errors import UnreadableDocument
from preread.data.questions import (
    TEMPLATES,
    Question,
    from_template,
    general,
    read,
    what_follows,
    what_is_missing,
    what_it_says,
    what_stands_before,
)

TEXT = (
    "In the year 1901 the ship Aurora left Bergen with nine men, and none of them, the mate Olsen said, ever came. " * 2
)
PLAIN = " ".join(TEXT.split())
NAMES = {"1901", "Aurora", "Bergen", "Olsen"}


@pytest.mark.parametrize("seed", range(20))
def test_templates_ask_what_the_text_answers(seed):
    draw = random.Random(seed)
    follows, missing, before, repeat = (
        template(TEXT, draw) for template in (what_follows, what_is_missing, what_stands_before, what_it_says)
    )
    assert f"{quoted(follows)} {follows.answer}" in PLAIN
    assert quoted(missing).replace("____", missing.answer).replace(" ,", ",") in PLAIN
    assert f"{before.answer} {quoted(before)}".replace(" ,", ",") in PLAIN
    assert ("number" in before.text) == before.answer[0].isdigit()
    assert repeat.answer in PLAIN
    assert repeat.answer.startswith(quoted(repeat))
    assert {missing.answer, before.answer} <= NAMES


def quoted(question: Question) -> str:
    return question.text.split("“")[1].split("”")[0]


def test_only_kinds_that_are_allowed_are_drawn():
    for kind in TEMPLATES:
        assert {from_template(TEXT, random.Random(seed), [kind]).kind for seed in range(5)} == {kind}
    assert {from_template(TEXT, random.Random(seed)).kind for seed in range(40)} == set(TEMPLATES)
    assert from_template(TEXT, random.Random(0), []) is None
    assert from_template("too short", random.Random(0)) is None


def test_questions_about_the_world_are_single_ones():
    found = general()
    assert len(found) == len(set(found)) > 10
    assert all(question.strip() == question != "" for question in found)


def test_labelled_files_are_read_or_refused(tmp_path):
    path = tmp_path / "questions.jsonl"
    rows = [{"question": "Who?", "answer": "I"}, {"question": "Who else?", "answers": ["you", "they"]}]
    rows += [{"question": " How many? ", "answer": 0}, {"question": "Which?", "answers": "the brig"}]
    path.write_text("\n".join(map(json.dumps, rows)))
    labelled = {"Who?": "I", "Who else?": "you", "How many?": "0", "Which?": "the brig"}
    assert read(path) == [Question(*pair) for pair in labelled.items()]
    odd = ('{"a": 1}', "[null]", '" "', "[[]]", "null", "[]")
    for bad in (
        "",
        '{"question": "Who?"}',
        "not json",
        '{"answer": "I"}',
        *(f'{{"question": "?", "answers": {x}}}' for x in odd),
    ):
        path.write_text(bad)
        with pytest.raises(UnreadableDocument):
            read(path)

"""Laws of contexts put together from passages: nested, with the right ones where drawn, and no second right one."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest

from preread.core.errors import UsageError
from preread.eval.case import with_others
from preread.eval.kit import Kit
from preread.eval.tasks.open_domain import OpenDomain
from preread.eval.tasks.pool import laid, paragraphs, places, pool
from preread.retrieval.bm25 import Words

NUMBER = 40


def _write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def _nq(number):
    text = f"The lamp of harbour {number} was lit by Keeper{number} in the year {1800 + number}."
    if number == 1:
        text += " It was told to keeper0, the first."  # another's answer, in another case
    asked = {"id": f"q-{number}", "question": f"who lit the lamp of harbour {number}", "answers": [f"Keeper{number}"]}
    return {"doc_id": f"q-{number}", "title": f"Harbour {number}", "text": text, "questions": [asked]}


def _hotpot(number):
    titles = [f"Ship {number}", f"Port {number}"]
    passages = [
        (f"Tale {number}", "Nobody ruled\n\nanything."),
        (titles[0], f"Ship {number} sails to Port {number}."),
        (titles[1], f"It is ruled by Queen{number}."),
    ]
    text = "\n\n".join(f"Passage {i}:\n{title}\n{text}" for i, (title, text) in enumerate(passages, 1))
    answer = "no" if number == 3 else f"Queen{number}"
    asked = {"id": f"h-{number}", "question": "Who?", "answers": [answer], "meta": {"gold_titles": titles}}
    return {"doc_id": f"h-{number}", "title": "Who?", "text": text, "questions": [asked]}


@pytest.fixture(scope="module")
def shelf(tiny_decoder, tmp_path_factory) -> Kit:
    data = tmp_path_factory.mktemp("data")
    _write(data / "qa" / "nq_oracle.test.jsonl.gz", map(_nq, range(NUMBER)))
    _write(data / "qa" / "hotpotqa_distractor.test.jsonl.gz", map(_hotpot, range(NUMBER)))
    return Kit(tiny_decoder("llama"), data, data / "work")


def _sections(case):
    starts = [mark.start for mark in case.document.marks]
    return [case.document.text[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)]


TASKS = [
    OpenDomain(set=name, distractors=distractors, gold=gold, near=4, more=(0, 3, 9), questions=NUMBER)
    for name in ("nq_oracle", "hotpotqa_distractor")
    for distractors in ("random", "hard")
    for gold in ("near", "anywhere")
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label)
def test_contexts_are_nested_and_hold_the_right_passages(task, shelf):
    units = task.units(shelf)
    asked = pool(shelf.data, task.set, "test").asked
    assert len(units) == 3 * NUMBER == 3 * len(asked)
    for number, one in enumerate(asked):
        cases = units[3 * number : 3 * number + 3]
        contexts = [_sections(case) for case in cases]
        assert [len(sections) for sections in contexts] == [4, 7, 13]
        assert all(len(set(sections)) == len(sections) for sections in contexts)
        for sections, case in zip(contexts, cases, strict=True):
            assert sections == contexts[-1][: len(sections)]
            assert case.near == 4
            [item] = case.items
            assert item.at == (("passages", len(sections)),)
            assert (item.answers, item.query) == (one.answers, one.question)
            shown = {case.document.text[start:end] for start, end in item.evidence}
            assert shown == {gold.shown for gold in one.gold} & set(sections)
        golds = [contexts[-1].index(gold.shown) for gold in one.gold]
        assert golds == sorted(golds)
        assert task.gold == "anywhere" or max(golds) < 4


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label)
def test_a_control_reads_another_question_s_passages_and_as_many(task, shelf):
    units = task.units(shelf)
    for case in with_others(units):
        [other] = [one for one in units if one.document == case.other]
        assert other.items[0].query != case.items[0].query or task.set == "hotpotqa_distractor"
        assert task.drawn(other) != task.drawn(case)
        assert other.items[0].at == case.items[0].at
    assert len({task.drawn(case) for case in units}) == NUMBER


def test_right_passages_are_drawn_everywhere(shelf):
    def places_of(gold):
        task = OpenDomain(near=4, more=(9,), gold=gold, questions=NUMBER)
        return {_sections(case).index(_gold(shelf, case).shown) for case in task.units(shelf)}

    def _gold(shelf, case):
        [gold] = next(
            one.gold for one in pool(shelf.data, "nq_oracle", "test").asked if case.id.startswith(one.id + " ")
        )
        return gold

    assert places_of("near") == {0, 1, 2, 3}
    assert len(places_of("anywhere")) > 8


def test_hard_distractors_are_the_best_by_bm25(shelf):
    task = OpenDomain(near=4, more=(6,), questions=5)
    held = pool(shelf.data, "nq_oracle", "test")
    words = Words([one.shown for one in held.paragraphs])
    for case, one in zip(task.units(shelf), held.asked, strict=False):
        scores = dict(zip((p.shown for p in held.paragraphs), words.scores(one.question), strict=True))
        chosen = [scores[shown] for shown in _sections(case) if shown != one.gold[0].shown]
        rest = [score for shown, score in scores.items() if shown not in _sections(case)]
        assert chosen == sorted(chosen, reverse=True)
        assert chosen[-1] >= sorted(rest)[-2]  # one of the rest may hold an answer
    randoms = replace(task, distractors="random").units(shelf)
    assert [_sections(case) for case in randoms] != [_sections(case) for case in task.units(shelf)]


def test_distractors_may_be_of_further_sets(shelf):
    alone, other = (pool(shelf.data, name, "test") for name in ("nq_oracle", "hotpotqa_distractor"))
    both = pool(shelf.data, "nq_oracle", "test", ("hotpotqa_distractor",))
    assert set(both.paragraphs) == {*alone.paragraphs, *other.paragraphs}
    assert both.asked == alone.asked
    task = OpenDomain(near=4, more=(NUMBER + 20,), questions=3, also=("hotpotqa_distractor",))
    words = Words([one.shown for one in both.paragraphs])
    for case, one in zip(task.units(shelf), both.asked, strict=False):
        free, _ = both.others(one)
        scores = words.scores(one.question)
        best = sorted(free, key=lambda number: (-float(scores[number]), number))[: NUMBER + 23]
        assert set(_sections(case)) == {both.paragraphs[number].shown for number in best} | {one.gold[0].shown}
    assert "2 sets" in task.label
    assert "hotpotqa_distractor" in task.note


def test_passages_that_hold_an_answer_are_left_out_and_counted(shelf):
    held = pool(shelf.data, "nq_oracle", "test")
    one = next(one for one in held.asked if one.id == "q-0")
    others, left_out = held.others(one)
    assert left_out == 1
    assert len(others) == NUMBER - 2
    assert not any("keeper0," in held.paragraphs[number].text for number in others)
    case = next(
        case
        for case in OpenDomain(near=2, more=(NUMBER - 3,), questions=NUMBER).units(shelf)
        if case.id.startswith("q-0 ")
    )
    assert not any("keeper0," in section for section in _sections(case))
    assert case.document.source.endswith("left out for holding an answer: 1")


def test_bare_answers_leave_nothing_out(shelf):
    held = pool(shelf.data, "hotpotqa_distractor", "test")
    one = next(one for one in held.asked if one.answers == ("no",))
    assert held.others(one) == (
        [n for n, p in enumerate(held.paragraphs) if not p.title.endswith(" 3") or p.title[0] == "T"],
        0,
    )


@pytest.mark.parametrize("row", [_nq(5), _hotpot(5)])
def test_paragraphs_stand_where_they_are_said_to(row):
    found = paragraphs(row)
    assert all(row["text"][start:].startswith(one.text) for start, one in found)
    assert [one.title for _, one in found] == (
        ["Harbour 5"] if row["doc_id"][0] == "q" else ["Tale 5", "Ship 5", "Port 5"]
    )
    text, marks = laid([one for _, one in found])
    spans = places([one for _, one in found], marks, [found[-1][1]])
    assert [text[start:end] for start, end in spans] == [found[-1][1].shown]


def test_paragraphs_without_numbers_end_at_blank_lines():
    row = {"doc_id": "a", "title": "T", "text": "One\ntwo.\n\n\nThree.\n \nFour.\n"}
    assert [one.text for _, one in paragraphs(row)] == ["One\ntwo.", "Three.", "Four."]


def test_too_few_passages_are_said(shelf):
    with pytest.raises(UsageError, match="Change `near` or `more`"):
        OpenDomain(near=10, more=(NUMBER,), questions=3).units(shelf)


def test_a_set_that_does_not_say_what_is_right_is_refused(shelf, tmp_path):
    _write(tmp_path / "qa" / "tales.test.jsonl.gz", [{**_nq(0)}])
    with pytest.raises(UsageError, match="says which paragraphs answer"):
        OpenDomain(set="tales").units(Kit(shelf.decoder, tmp_path, tmp_path))

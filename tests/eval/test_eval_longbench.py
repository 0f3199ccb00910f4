"""LongBench's files are asked and judged as lm-eval does, and what is not one of them is refused."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest

from preread.core.errors import UnreadableDocument, UsageError
from preread.eval.answerers.plain import Full
from preread.eval.cache import Cache
from preread.eval.case import Item
from preread.eval.runner import run
from preread.eval.tasks.longbench import LongBench, described, official

WORDS = [
    "Paragraph",
    "3",
    "12",
    "the",
    "keeper",
    "lamp",
    "location",
    "storm",
    "return x",
    "灯台",
    "段落2",
    "日记",
    "x = 1",
]


@pytest.fixture
def theirs(monkeypatch):
    """LongBench's own evaluation, as lm-eval ships it beside its descriptions."""
    folder = Path(official().__file__).parent
    monkeypatch.setitem(sys.modules, "metrics", official())
    spec = importlib.util.spec_from_file_location("longbench_utils", folder / "utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_set_is_judged_as_longbench_does(theirs):
    assert len(theirs.dataset2metric) == 19
    draw = random.Random(0)
    for name in theirs.dataset2metric:
        scores = []
        for number in range(40):
            known = {"passage_retrieval_en": "Paragraph {}", "passage_retrieval_zh": "段落{}", "passage_count": "{}"}
            several = [" ".join(draw.choices(WORDS, k=3)) for _ in range(draw.randint(1, 3))]
            references = [known[name].format(number % 5)] if name in known else several
            answer = " ".join(draw.choices([*WORDS, *references[0].split()], k=4)) + draw.choice(("", "\nand more"))
            scores += LongBench(f"{name}.jsonl").score(Item("1", "?", tuple(references)), answer).values()
            assert round(scores[-1], 2) == theirs.scorer(name, [answer], [references], []), (name, answer, references)
        assert len(set(scores)) > 2, f"{name} was never right in part"


def test_classes_are_judged_by_lm_eval_and_chosen_from_by_likelihood(kit, tmp_path):
    classes = ["Location", "Person", "Date of a person"]
    line = {"input": "Question: Where?\nType:", "context": "Question: Who?\nType: Person", "answers": ["Location"]}
    path = write(tmp_path / "trec.jsonl", {**line, "all_classes": classes, "_id": "1", "dataset": "trec"})
    task = LongBench(str(path))
    [case] = task.units(kit)
    assert (case.items[0].choices, case.items[0].gold) == (tuple(classes), 0)
    assert task.score(case.items[0], "Location")["score"] == 100
    assert task.score(case.items[0], "Location or Person")["score"] == 50
    assert task.score(case.items[0], "Date of a person\nLocation")["score"] == 0  # lines behind the first do not count
    [judged] = run(kit, [task], [Full()], Cache(tmp_path / "cache"))
    [outcome] = judged.outcomes["full text"]
    assert outcome.records[0].scores.keys() == {"score", "nll", "accuracy"}


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def line(number, context="A tale. The keeper slept.", **changed):
    own = {"input": f"Who slept {number}?", "context": context, "answers": ["the keeper"], "all_classes": None}
    return {**own, "length": 5, "dataset": "narrativeqa", "language": "en", "_id": f"id-{number}", **changed}


def test_questions_of_one_context_are_one_case_and_words_before_it_stand_before_the_question(kit, tmp_path):
    lines = [line(1), line(2, "Another tale."), line(3), line(4, "A third tale.")]
    path = write(tmp_path / "narrativeqa.jsonl", *lines)
    task = LongBench(str(path))
    cases = task.units(kit)
    assert {case.document.text: [item.id for item in case.items] for case in cases} == {
        "A tale. The keeper slept.": ["id-1", "id-3"],
        "Another tale.": ["id-2"],
        "A third tale.": ["id-4"],
    }
    [asked] = [item for case in cases for item in case.items if item.id == "id-3"]
    assert asked.question.startswith("You are given a story, which can be either a novel or a movie script")
    assert asked.question.endswith("Do not provide any explanation.\n\nQuestion: Who slept 3?\n\nAnswer:")
    assert "Story:" not in asked.question
    assert asked.query == "Who slept 3?"
    assert (task.max_tokens, task.group, task.label) == (128, "single document", "longbench narrativeqa")
    assert "qa_f1" in task.note
    write(path, *lines[::-1])
    assert [case.id for case in LongBench(str(path), documents=2).units(kit)] == [case.id for case in cases[:2]]


def test_a_question_is_text_and_not_a_template(kit, tmp_path):
    path = write(tmp_path / "narrativeqa.jsonl", line(1, input="What is {{ 1 + 1 }} & <b>?"))
    [case] = LongBench(str(path)).units(kit)
    assert "What is {{ 1 + 1 }} & <b>?" in case.items[0].question


def test_every_set_has_a_question_a_group_and_an_end():
    folder = Path(official().__file__).parent
    names = [file.stem for file in folder.glob("[!_]*.yaml")]
    assert len(names) == 34
    for name in names:
        found = described(name)
        assert found.max_tokens > 0
        assert "context" not in found.ask
        assert ("{{question}}" in found.ask) or found.metric in ("rouge", "rouge_zh", "count", "code_sim")


def test_a_file_in_the_data_folder_is_found(kit):
    write(kit.data / "hotpotqa_e.jsonl", line(1, dataset="hotpotqa"))
    assert len(LongBench("hotpotqa_e.jsonl").units(kit)) == 1


@pytest.mark.parametrize(
    ("file", "lines", "told"),
    [
        ("narrativeqa.jsonl", [line(1), line(2, dataset="qasper")], "one of qasper"),
        ("narrativeqa.jsonl", [{"input": "?", "context": "A tale."}], "no answers and no _id in line 1"),
        ("missing.jsonl", None, "missing.jsonl"),
    ],
)
def test_what_is_no_file_of_the_set_is_refused(kit, tmp_path, file, lines, told):
    path = write(tmp_path / file, *lines) if lines else tmp_path / file
    with pytest.raises(UnreadableDocument, match=told):
        LongBench(str(path), set="narrativeqa").units(kit)


def test_an_unknown_set_is_refused_with_its_neighbour_and_another_name_is_told_by_set(kit, tmp_path):
    path = write(tmp_path / "narativeqa.jsonl", line(1))
    with pytest.raises(UsageError, match="Did you mean narrativeqa"):
        LongBench(str(path)).units(kit)
    assert len(LongBench(str(path), set="narrativeqa").units(kit)) == 1


def test_without_lm_eval_the_remedy_is_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.tasks.longbench", None)
    described.cache_clear()
    with pytest.raises(UsageError, match=r"preread\[lm-eval\]"):
        LongBench("narrativeqa.jsonl").max_tokens  # noqa: B018

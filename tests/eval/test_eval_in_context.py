"""Laws of examples in the context: nested, even, and enough to find the rule that decides what is asked."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from preread.core.errors import UsageError
from preread.eval.answerers.plain import Full
from preread.eval.case import with_others
from preread.eval.kit import Kit
from preread.eval.tasks.in_context import KINDS, WORDS_SHOWN, InContext


@pytest.fixture(scope="module")
def shelf(tiny_decoder, tmp_path_factory) -> Kit:
    """Texts whose every word says which set and split they are of."""
    data = tmp_path_factory.mktemp("data")
    (data / "text").mkdir()
    for name in KINDS:
        for split in ("train", "test"):
            text = " ".join(f"{split}{number} {name} words are here." for number in range(400))
            rows = [{"doc_id": f"{name}-{n}", "title": name, "text": text} for n in range(2)]
            path = data / "text" / f"{name}.{split}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Kit(tiny_decoder("llama"), data, data / "work")


def _read(text):
    """(line, label) pairs of a context."""
    pairs = []
    for block in text.split("\n\n"):
        line, kind = block.split("\nKind: ")
        pairs.append((line.removeprefix("Line: "), kind))
    return pairs


@pytest.mark.parametrize("name", ["sources", "symbols"])
def test_contexts_are_nested_and_even(name, shelf):
    task = InContext(set=name, samples=3, shots=(2, 12, 40))
    units = task.units(shelf)
    assert [case.key for case in units] == [case.key for case in task.units(shelf)]
    for first in range(0, len(units), 3):
        cases = units[first : first + 3]
        read = [_read(case.document.text) for case in cases]
        assert [len(pairs) for pairs in read] == [2, 12, 40] == [len(case.document.marks) for case in cases]
        for case, pairs in zip(cases, read, strict=True):
            assert case.near == 2
            assert pairs == read[-1][: len(pairs)]
            assert all(case.document.text[mark.start :].startswith("Line: ") for mark in case.document.marks)
            assert [item.query for item in case.items] == [item.query for item in cases[0].items]
            assert {item.at for item in case.items} == {(("shots", len(pairs)),)}
            assert all(item.answers == (item.choices[item.gold],) for item in case.items)
        assert set(Counter(kind for _, kind in read[-1]).values()) == {10}
        assert set(Counter(item.gold for item in cases[0].items).values()) == {2}
    assert len({case.document.text for case in units}) == len(units)


def test_lines_are_of_the_kind_and_split_that_they_should_be(shelf):
    for case in InContext(samples=2, shots=(20,)).units(shelf):
        for line, kind in _read(case.document.text):
            [source] = [source for source, label in KINDS.items() if label == kind]
            assert f" {source} " in line
            assert "train" in line
            assert "test" not in line
            assert len(line.split()) == WORDS_SHOWN
        for item in case.items:
            assert f" {list(KINDS)[item.gold]} " in item.query
            assert "train" not in item.query


def test_no_line_says_its_kind(shelf, tmp_path):
    for path in (shelf.data / "text").iterdir():
        text = "Science. The novel's mathematics; software-made words go on. " * 200
        (tmp_path / "text").mkdir(exist_ok=True)
        (tmp_path / "text" / path.name).write_text(json.dumps({"doc_id": "a", "text": text}), encoding="utf-8")
    for case in InContext(samples=1, shots=(4,)).units(Kit(shelf.decoder, tmp_path, tmp_path)):
        lines = [line for line, _ in _read(case.document.text)] + [item.query for item in case.items]
        assert all("words go on" in line for line in lines)
        assert not any(kind in line.lower() for line in lines for kind in KINDS.values())


@pytest.mark.parametrize("name", ["sources", "symbols"])
def test_a_sample_is_drawn_again_whole_and_its_control_has_another_rule(name, shelf):
    task = InContext(set=name, samples=3, shots=(2, 12))
    units = task.units(shelf)
    assert [task.drawn(case) for case in units[::2]] == [task.drawn(case) for case in units[1::2]]
    assert len({task.drawn(case) for case in units}) == 3
    for case in with_others(units):
        [other] = [one for one in units if one.document == case.other]
        assert task.drawn(other) != task.drawn(case)
        assert other.items[0].at == case.items[0].at


def test_the_rule_of_symbols_is_found_in_the_examples(shelf):
    rules = set()
    for case in InContext(set="symbols", samples=6, shots=(40,)).units(shelf):
        pairs = _read(case.document.text)
        tables = [{line.split()[place]: kind for line, kind in pairs} for place in range(3)]
        deciding = [
            place for place in range(3) if all(tables[place][line.split()[place]] == kind for line, kind in pairs)
        ]
        [place] = deciding  # one place alone explains every example
        rules.add(place)
        for item in case.items:
            assert item.query not in {line for line, _ in pairs}
            assert item.choices[item.gold] == tables[place][item.query.split()[place]]
    assert len(rules) > 1


def test_choices_are_judged_and_nothing_is_written(shelf):
    task = InContext(set="symbols", samples=1, shots=(4,), asked=4)
    [case] = task.units(shelf)
    records, _ = task.judge(shelf, Full(), case)
    for record, item in zip(records, case.items, strict=True):
        assert set(record.scores) == {"accuracy", "nll"}
        assert record.scores["accuracy"] in {0.0, 100.0}
        assert (record.answer, record.at) == ("", item.at)


@pytest.mark.parametrize(
    "settings", [{"shots": ()}, {"asked": 0}, {"set": "symbols", "shots": (60,), "asked": 8}, {"split": "train"}]
)
def test_settings_that_make_no_case_are_refused(settings):
    with pytest.raises(UsageError):
        InContext(**settings)

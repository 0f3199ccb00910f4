"""Laws of generated documents: as long as asked, hidden where asked, and answerable by reading them with other code."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter
from dataclasses import replace
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from preread.core.config import load
from preread.core.errors import UsageError
from preread.eval.answerers.plain import Nothing
from preread.eval.case import Item, with_others
from preread.eval.kit import Kit
from preread.eval.recipe import EvalRecipe
from preread.eval.tasks.haystack import NOISE, Hay, buried, fitted, noise
from preread.eval.tasks.keyvalue import KeyValue
from preread.eval.tasks.needle import BookNeedle, Passkey
from preread.eval.tasks.ruler import FORMS, Ruler
from preread.eval.tasks.topics import Topics

RECIPES = Path(__file__).parents[2] / "recipes"
LENGTHS = (1600, 3000)
NIAH = [variant for variant in FORMS if variant.startswith("niah")]
NEEDLE = re.compile(r"One of the special magic \w+ for (\S+) is: (\S+)\. ")
PIECES = {
    "keyvalue": r".*\n?",
    "niah_multikey_2": NEEDLE,
    "niah_multikey_3": NEEDLE,
    "topics": r".*\n",
    "vt": r"[^.]*\. ",
}
"""What a document is filled with, where that may be more than 2 % of it; the rest ends behind any word or sentence."""


def _words(count, draw):
    syllables = ["ba", "de", "fi", "go", "lu", "mer", "nas", "pol", "ris", "tun"]
    return ["".join(draw.choices(syllables, k=3)) for _ in range(count)]


def _prose(draw, sentences):
    words = _words(500, draw)
    return " ".join(" ".join(draw.choices(words, k=9)).capitalize() + "." for _ in range(sentences))


def _write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


@pytest.fixture(scope="module")
def shelf(tiny_decoder, tmp_path_factory) -> Kit:
    """A kit with two books, and small sets of the two forms that RULER's questions come in."""
    data, draw = tmp_path_factory.mktemp("data"), random.Random(7)
    books = [{"doc_id": f"book-{n}", "title": "Book", "text": _prose(draw, 500)} for n in range(2)]
    _write(data / "text" / "books.test.jsonl.gz", books)
    articles, sets = [], []
    for number in range(12):
        body = [f"The tower of place {number} has {n + 3} lamps. {_prose(draw, 3)}" for n in range(6)]
        asked = [
            {
                "id": f"{number}-{n}",
                "question": f"How many lamps has the tower {number}?",
                "answers": [f"{n + 3} lamps"],
            }
            for n in range(6)
        ]
        articles.append({"doc_id": f"a-{number}", "title": f"P{number}", "text": "\n\n".join(body), "questions": asked})
        titles = [f"Ship {number}", f"Port {number}"]
        texts = [f"Ship {number} sails to Port {number}.", f"Port {number} is ruled by Queen{number}."]
        others = [(f"Tale {number}-{n}", _prose(draw, 2)) for n in range(3)]
        passages = [*zip(titles, texts, strict=True), *others]
        text = "\n\n".join(f"Passage {i}:\n{title}\n{text}" for i, (title, text) in enumerate(passages, 1))
        meta = {"gold_titles": titles}
        question = {"id": f"h-{number}", "question": "Who rules the port?", "answers": [f"Queen{number}"], "meta": meta}
        sets.append({"doc_id": f"h-{number}", "title": "Who?", "text": text, "questions": [question]})
    _write(data / "qa" / "squad2_articles.test.jsonl.gz", articles)
    _write(data / "qa" / "hotpotqa_distractor.test.jsonl.gz", sets)
    return Kit(tiny_decoder("llama"), data, data / "work")


@pytest.fixture(scope="module")
def units_of(shelf):
    """The units of a task, made once."""
    kept = {}

    def units(task):
        if task not in kept:
            kept[task] = task.units(shelf)
        return kept[task]

    return units


SMALL = {"lengths": LENGTHS, "samples": 2}
DEEP = {**SMALL, "depths": (0.0, 0.4, 1.0)}
TASKS = [
    Passkey(**DEEP),
    BookNeedle(**DEEP),
    BookNeedle(needle_is="fixed", **DEEP),
    Topics(**SMALL),
    KeyValue(**DEEP),
    *(Ruler(variant=variant, **SMALL) for variant in FORMS),
]
QUESTIONED = {Ruler(variant=variant, **SMALL) for variant in ("qa_1", "qa_2")}
"""Few short answers, which any of their contexts may hold."""
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.label)


@every_task
def test_a_document_is_as_long_as_asked(task, shelf, units_of):
    pattern = PIECES.get(getattr(task, "variant", task.kind))
    for case in units_of(task):
        [length] = {dict(item.at)["length"] for item in case.items}
        pieces = [match[0] for match in re.finditer(pattern, case.document.text)] if pattern else []
        if getattr(task, "variant", "").startswith("qa"):  # no shorter paragraph was left
            pieces = [case.document.text[a.start : b.start] for a, b in pairwise(case.document.marks)]
        unit = max((len(shelf.decoder.tokens(piece)) for piece in pieces), default=0)
        found = len(shelf.decoder.tokens(case.document.text))
        assert length - max(0.02 * length, unit) <= found <= length


@every_task
def test_units_are_a_function_of_the_settings(task, shelf, units_of):
    units = units_of(task)
    first = replace(task, samples=1).units(shelf)
    assert [case.key for case in first] == [case.key for case in units[: len(first)]]
    assert {case.key for case in replace(task, seed=1, samples=1).units(shelf)}.isdisjoint(case.key for case in units)
    assert len({case.id for case in units}) == len(units)
    assert len({item.id for case in units for item in case.items}) == sum(len(case.items) for case in units)


@pytest.mark.parametrize(
    "task", [task for task in TASKS if getattr(task, "variant", "vt") in {*NIAH, "vt"}], ids=lambda task: task.label
)
def test_answers_stand_in_the_evidence_and_nowhere_else(task, units_of):
    for case in units_of(task):
        for item in case.items:
            spans = sorted(item.evidence)
            held = [case.document.text[start:end] for start, end in spans]
            ends = [0, *(end for _, end in spans)]
            starts = [*(start for start, _ in spans), None]
            rest = "|".join(case.document.text[a:b] for a, b in zip(ends, starts, strict=True))
            assert all(any(answer in one for one in held) and answer not in rest for answer in item.answers)
            assert all(any(answer in one for answer in item.answers) for one in held)


@pytest.mark.parametrize("task", [Passkey(**DEEP), BookNeedle(**DEEP)], ids=lambda task: task.label)
def test_needles_stand_at_the_asked_depth(task, units_of):
    for case in units_of(task):
        [item] = case.items
        [(start, end)] = item.evidence
        text, before = case.document.text, len(task.before)
        sentence = max(map(len, re.split(r"(?<=\.)\s", text)))
        assert abs((start - before) - dict(item.at)["depth"] * (len(text) - before - (end - start))) <= sentence


@every_task
def test_a_control_reads_another_draw_at_the_same_place(task, units_of):
    for case in with_others(units_of(task)):
        [other] = [one for one in units_of(task) if one.document == case.other]
        assert task.drawn(other) != task.drawn(case)
        assert other.items[0].at == case.items[0].at
        asked = {item.id: item.answers for item in case.items}
        told = [all(answer in case.other.text for answer in answers) for answers in asked.values()]
        fixed = isinstance(task, BookNeedle) and task.needle_is == "fixed"
        assert fixed or task in QUESTIONED or not any(told)


def test_depths_of_one_needle_are_drawn_again_together(shelf, units_of):
    task = Passkey(**DEEP)
    records = [record for case in units_of(task) for record in task.judge(shelf, Nothing(), case)[0]]
    answers = {item.id: item.answers for case in units_of(task) for item in case.items}
    draws: dict[str, set[tuple[str, ...]]] = {}
    for record in records:
        draws.setdefault(record.unit, set()).add(answers[record.item])
    assert len(draws) == len(LENGTHS) * 2
    assert all(len(keys) == 1 for keys in draws.values())
    assert len(records) == len(draws) * len(task.depths) == len(answers)


def test_a_limit_leaves_whole_grids(shelf):
    task = Passkey(lengths=(600, 900), depths=(0.0, 1.0), samples=3)
    grid = {item.at for case in task.units(shelf)[:4] for item in case.items}
    assert len(grid) == 4


def test_pairs_are_json_and_stand_at_the_asked_depth(shelf, units_of):
    for case in units_of(KeyValue(**DEEP)):
        pairs = json.loads(case.document.text)
        for item in case.items:
            assert item.answers == (pairs[item.query],)
            assert item.query in item.question
            assert list(pairs).index(item.query) == round(dict(item.at)["depth"] * (len(pairs) - 1))


def test_the_first_topic_is_asked_for(shelf, units_of):
    for case in units_of(Topics(**SMALL)):
        topics = re.findall(r"USER: I would like to discuss the topic of (.*)\.\n", case.document.text)
        [item] = case.items
        assert topics[0] == f"the {item.answers[0]}"
        assert len(set(topics)) == len(topics) > 1


@pytest.mark.parametrize("variant", NIAH)
def test_needles_are_read_back(variant, units_of):
    form = FORMS[variant].make
    for case in units_of(Ruler(variant=variant, **SMALL)):
        [item] = case.items
        found: dict[str, set[str]] = {}
        for key, value in NEEDLE.findall(case.document.text):
            found.setdefault(key, set()).add(value)
        asked = [key for key in found if key in item.question]
        assert len(asked) == form.asked
        assert set(item.answers) == {value for key in asked for value in found[key]}
        assert len(item.answers) == form.asked * form.values
        assert len(found) >= form.keys


def test_the_chain_is_followed(shelf, units_of):
    for case in units_of(Ruler(variant="vt", **SMALL)):
        [item] = case.items
        values: dict[str, str] = {}
        for name, source, number in re.findall(r"VAR ([A-Z]{5}) = (?:VAR ([A-Z]{5})|(\d+))", case.document.text):
            values[name] = number or values[source]  # a KeyError would be an assignment before its source
        [asked] = re.findall(r"\d+", item.question)
        assert set(item.answers) == {name for name, value in values.items() if value == asked}
        assert len(item.answers) == 5


@pytest.mark.parametrize(("variant", "word", "skipped"), [("cwe", r"\d+\. ([a-z]+)", ""), ("fwe", r"\S+", "...")])
def test_the_asked_words_are_the_most_frequent_ones(variant, word, skipped, units_of):
    for case in units_of(Ruler(variant=variant, **SMALL)):
        [item] = case.items
        body = re.split(r"most often\.\n|coded words\. ", case.document.text)[1]
        counts = Counter(re.findall(word, body))
        counts.pop(skipped, None)
        ranked = counts.most_common()
        wanted = len(item.answers)
        assert {name for name, _ in ranked[:wanted]} == set(item.answers)
        assert ranked[wanted - 1][1] > ranked[wanted][1]


@pytest.mark.parametrize("variant", ["qa_1", "qa_2"])
def test_only_gold_paragraphs_hold_the_answer(variant, units_of):
    for case in units_of(Ruler(variant=variant, **SMALL)):
        [item] = case.items
        text, marks = case.document.text, case.document.marks
        starts = [mark.start for mark in marks]
        sections = dict(zip(starts, (text[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)), strict=True))
        gold = {start for start, _ in item.evidence}
        assert gold <= set(starts)
        assert len(gold) == (2 if variant == "qa_2" else 1)
        assert any(item.answers[0] in sections[start] for start in gold)
        assert not any(item.answers[0] in section for start, section in sections.items() if start not in gold)


@pytest.mark.parametrize(("variant", "found"), [("niah_multivalue", 50.0), ("qa_2", 100.0), ("vt", 50.0)])
def test_scores_are_shares_save_for_the_question_sets(variant, found):
    item = Item("i", "?", ("1234567", "7654321"))
    assert Ruler(variant=variant).score(item, "It is 1234567.") == {FORMS[variant].metric: found}


@settings(deadline=None, max_examples=60)
@given(
    lines=st.lists(st.text("abc .", min_size=1, max_size=30), min_size=1, max_size=30),
    needles=st.lists(st.tuples(st.floats(0, 1), st.text("XYZ", min_size=1, max_size=5)), max_size=4),
    share=st.floats(0, 1),
)
def test_hay_without_its_needles_is_the_hay(lines, needles, share):
    hay = Hay.of_records(lines)
    count = round(share * len(lines))
    text, spans = hay.hiding(needles, count, "before: ")
    assert [text[start:end] for start, end in spans] == [needle for _, needle in needles]
    kept, at = "", 0
    for start, end in sorted(spans):
        kept, at = kept + text[at:start], end + 1
    assert kept + text[at:] == "before: " + "".join(lines[:count])
    borders, end = [0, *accumulate(map(len, lines[:count]))], len("".join(lines[:count]))
    for (depth, _), (start, _) in zip(needles, spans, strict=True):  # no border is nearer
        before = (
            start
            - len("before: ")
            - sum(len(n) + 1 for (_, n), (s, _) in zip(needles, spans, strict=True) if s < start)
        )
        assert abs(before - depth * end) == min(abs(border - depth * end) for border in borders)


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=80), length=st.integers(1, 1500))
def test_filling_is_as_much_as_fits(sizes, length, tiny_decoder_once):
    lines = ["ж" * size for size in sizes]  # a letter is two tokens, so that units are of even sizes
    build = lambda count: "".join(lines[:count])  # noqa: E731
    tokens = [len(tiny_decoder_once.tokens(build(count))) for count in range(len(lines) + 1)]
    if tokens[-1] < length * 0.98:
        with pytest.raises(UsageError):
            fitted(tiny_decoder_once, build, len(lines), length)
        return
    count = fitted(tiny_decoder_once, build, len(lines), length)
    assert tokens[count] <= length
    assert count == len(lines) or tokens[count + 1] > length or length - tokens[count] <= 0.005 * length


@pytest.fixture(scope="module")
def tiny_decoder_once(tiny_decoder):
    return tiny_decoder("llama")


def test_a_needle_that_does_not_fit_is_said(shelf):
    with pytest.raises(UsageError, match="Change the task's lengths"):
        buried(shelf.decoder, noise(10), [(0.5, "needle " * 20)], 10)


def test_more_than_the_books_have_is_said(shelf):
    with pytest.raises(UsageError, match="Change the task's lengths"):
        BookNeedle(lengths=(200_000,), samples=1).units(shelf)


@pytest.mark.parametrize("settings_", [{"lengths": ()}, {"lengths": (0,)}, {"samples": 0}])
def test_settings_that_make_no_case_are_refused(settings_):
    with pytest.raises(UsageError):
        Passkey(**settings_)


def test_the_noise_is_the_five_sentences(shelf):
    text, _ = buried(shelf.decoder, noise(300), [], 300)
    assert text.startswith(" ".join(NOISE) + " " + NOISE[0])


@pytest.mark.parametrize("name", ["retrieval", "open-domain", "abstention"])
def test_recipes_build(name):
    recipe = load(EvalRecipe, RECIPES / f"eval-{name}.yaml")
    assert len(recipe.chosen_tasks()) == len(recipe.tasks)
    assert [answerer.kind for answerer in recipe.chosen_answerers()][:2] == ["none", "full"]

"""Lessons without labels: what the decoder wrote itself, and generated tasks; never from what is judged."""

from __future__ import annotations

import json
import time

import pytest

from preread.core.config import build
from preread.core.errors import UsageError
from preread.core.types import text_hash
from preread.data.questions import Question
from preread.eval.answerers.plain import Full, Nothing
from preread.eval.answerers.tuned import Tuned
from preread.eval.cache import Cache
from preread.eval.runner import run
from preread.eval.tasks.needle import BookNeedle
from preread.eval.tasks.qa import Qa
from preread.eval.taught import Labelled, SelfStudied, Writing, taught
from preread.training import selfstudy
from preread.training.selfstudy import Written

from .test_eval_tuned import QUICK, TRAIN

LEARNS = Qa("tales", "train")


@pytest.fixture
def kit(kit, data):
    (data / "qa" / "tales.train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TRAIN))
    return kit


@pytest.fixture
def wrote(monkeypatch):
    """What was asked of the writer, who is as quick as a tiny decoder is not clever."""
    calls = []

    def write(engine, teacher, passages, seed, temperature, taken):
        calls.append((seed, "".join(passage.text for passage in passages)))
        return Written((Question(f"What slept at {len(calls)}?", "The keeper.", "detail"),), {})

    monkeypatch.setattr(selfstudy, "write", write)
    return calls


def studied(**settings) -> SelfStudied:
    return SelfStudied(LEARNS, Writing(**settings))


def test_what_the_decoder_writes_is_about_the_sets_documents_and_of_no_label(kit, wrote):
    source = studied(pieces=2, passages=1)
    assert source.ready(kit, None)
    texts = {row["doc_id"]: row["text"] for row in TRAIN}
    assert all(any(piece in text for text in texts.values()) for _, piece in wrote)
    cases = source.cases(kit)
    assert {case.id for case in cases} == set(texts)
    assert {item.answers for case in cases for item in case.items} == {("The keeper.",)}
    assert not {i.question for c in cases for i in c.items} & {
        i.question for c in Labelled(LEARNS).cases(kit) for i in c.items
    }
    assert source.documents(kit) == [text_hash(case.document.text) for case in LEARNS.units(kit)]


def test_writing_goes_on_where_it_stopped_and_is_known_by_its_settings_before(kit, wrote):
    source = studied(pieces=1)
    before = source.content(kit)
    assert not source.ready(kit, time.monotonic() - 1), "there was no time"
    assert wrote == []
    source.ready(kit, None)
    once = list(wrote)
    path = source._path(kit)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1]) + lines[1][:9])  # killed while it wrote the second
    source.ready(kit, None)
    assert [seed for seed, _ in wrote] == [seed for seed, _ in once] + [seed for seed, _ in once[1:]]
    assert source.content(kit) == before
    assert studied(pieces=2).content(kit) != before
    assert Labelled(LEARNS).content(kit) != before


def test_the_decoder_itself_writes_them(kit):
    """A random one writes nothing that holds, and that is no fault."""
    source = studied(pieces=1)
    assert source.ready(kit, None)
    assert len(selfstudy.load(source._path(kit))) == len(TRAIN)


def test_a_row_by_self_study_differs_from_the_labelled_one_in_its_questions_alone(kit, wrote, tmp_path):
    alike = {**QUICK, "epochs": 12.0, "of": {"kind": "full"}}  # enough for all steps, whichever questions are fewer
    both = [build(Tuned, {**alike, **extra}) for extra in ({}, {"lessons": {"kind": "selfstudy"}})]
    assert [row.label for row in both] == ["full text, tuned lr 0.02", "full text, tuned by self-study lr 0.02"]
    [judged] = run(kit, [Qa("tales")], [Nothing(), Full(), *both], Cache(tmp_path / "cache"))
    notes = [judged.caveats[row.label][0] for row in both]
    assert "documents of tales train in" in notes[0]
    assert "documents of tales train, written and answered by the decoder itself in" in notes[1]
    folders = {row.on(Qa("tales"))._folder(kit) for row in both}
    assert len(folders) == 2
    manifests = [json.loads((folder / "manifest.json").read_text())["training"] for folder in folders]
    assert manifests[0]["steps"] == manifests[1]["steps"] == QUICK["steps"]


def test_needles_of_training_books_are_taught_and_others_judged(kit, data, tmp_path):
    for split in ("train", "test"):
        path = data / "text" / f"books.{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        text = "".join(f"In the {split} year {i} the harbour froze and nobody came. " for i in range(400))
        path.write_text(json.dumps({"doc_id": split, "text": text}) + "\n")
    lessons = {"kind": "needle", "split": "train", "lengths": [96], "samples": 2, "depths": [0.5]}
    row = build(Tuned, {**QUICK, "steps": 2, "of": {"kind": "full"}, "lessons": lessons})
    assert row.label == "full text, tuned on needle, random (train) lr 0.02"
    task = BookNeedle(lengths=(96,), samples=1, depths=(0.5,))
    [judged] = run(kit, [task], [row], Cache(tmp_path / "cache"))
    [outcome] = judged.outcomes[row.label]
    assert outcome.records, outcome.unfit
    assert "2 questions of 2 documents of needle, random (train)" in judged.caveats[row.label][0]
    with pytest.raises(UsageError, match="not trained on"):
        run(kit, [BookNeedle(lengths=(96,), samples=2, depths=(0.5,), split="train")], [row], Cache(tmp_path / "c"))


@pytest.mark.parametrize(
    ("lessons", "said"),
    [
        ({"kind": "needle"}, "split: train"),
        ({"kind": "chunked"}, "kind of lessons"),
        ({"kind": "selfstudy", "piece": 3}, "Did you mean pieces"),
        ({"kind": "selfstudy", "pieces": 0}, "pieces of at least 1"),
    ],
)
def test_senseless_lessons_are_refused_when_the_recipe_is_read(lessons, said):
    with pytest.raises(UsageError, match=said):
        taught(lessons, LEARNS)

"""A tuned row reads what the other reads, learns what its set teaches, and is never judged on that."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from dataclasses import fields, replace

import pytest
import torch

from preread.core.config import build
from preread.core.errors import IntegrityError, Interrupted, UsageError
from preread.core.types import text_hash
from preread.eval.answerers.oracle import Oracle
from preread.eval.answerers.plain import Full, Nothing
from preread.eval.answerers.tuned import MANIFEST, Tuned
from preread.eval.cache import Cache
from preread.eval.case import Stretch, Unfit
from preread.eval.kit import Kit
from preread.eval.recipe import EvalRecipe
from preread.eval.runner import run
from preread.eval.tasks.qa import MAYBE, STYLES, Qa
from preread.eval.taught import UNANSWERABLE
from preread.eval.tuning import RUN, Lessons, Tuning
from preread.nn.lora import LoraConfig, digest

from .conftest import ROWS, STORY

TRAIN = [
    {
        "doc_id": f"lesson-{number}",
        "title": f"Lesson {number}",
        "text": f"Lesson {number}. " + STORY * (1 + number),
        "questions": [
            {"id": f"l{number}-who", "question": "Who slept?", "answers": ["The keeper", "the keeper, they say"]},
            {"id": f"l{number}-when", "question": "When did the storm come?", "answers": ["In winter"]},
            {"id": f"l{number}-why", "question": "Why?", "answers": [], "unanswerable": True},
        ],
    }
    for number in range(3)
]
QUICK = {
    "steps": 8,
    "batch": 4,
    "epochs": 9.0,
    "learning_rate": 0.02,
    "lora": {"rank": 2, "alpha": 4.0, "dropout": 0.1},
}


def tuned(**changes) -> Tuned:
    return build(Tuned, {**QUICK, **changes})


@pytest.fixture
def kit(kit, data) -> Kit:
    (data / "qa" / "tales.train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in TRAIN))
    return kit


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path / "cache")


def ready(row: Tuned, kit: Kit) -> Tuned:
    bound = row.on(Qa("tales"))
    assert bound.ready(kit)
    return bound


def lessons_of(kit, of=None, teacher=None, **changes) -> Lessons:
    row = replace(tuned(set="tales"), **changes)
    return Lessons(kit, of or Full(), teacher, row._taught.cases(kit), row, row._taught.missing)


def test_it_learns_what_its_set_teaches_and_its_row_says_so(kit, cache):
    rows = [Nothing(), Full(), tuned(), tuned(of={"kind": "full"})]
    [judged] = run(kit, [Qa("tales")], rows, cache)

    def nll(label):
        return sum(record.scores.get("nll", 0.0) for one in judged.outcomes[label] for record in one.records)

    assert list(judged.outcomes)[2:] == ["no context, tuned lr 0.02", "full text, tuned lr 0.02"]
    assert nll("no context, tuned lr 0.02") < nll("no context") - 1
    assert nll("full text, tuned lr 0.02") < nll("full text") - 1
    assert judged.kinds["full text, tuned lr 0.02"] == "tuned"
    [note] = judged.caveats["full text, tuned lr 0.02"]
    assert "taught 6 questions of 3 documents of tales train in 8 steps of 4 at 0.02" in note


def test_what_was_taught_is_not_taught_again(kit, cache, monkeypatch):
    first = run(kit, [Qa("tales")], [tuned()], cache)
    monkeypatch.setattr("preread.eval.answerers.tuned.teach", lambda *_: pytest.fail("it was taught already"))
    monkeypatch.setattr("preread.eval.runner.judge", lambda *_: pytest.fail("it was judged already"))
    assert run(kit, [Qa("tales")], [tuned()], cache)[0].outcomes == first[0].outcomes


def test_it_reads_what_the_other_reads_with_its_adapter(kit):
    case = Qa("tales").units(kit)[0]
    for of in ({"kind": "none"}, {"kind": "full"}, {"kind": "retrieved", "mode": "bm25", "ratio": 4.0}):
        row = ready(tuned(of=of), kit)
        with row.laid(kit, case, case.items) as mine, row.inner.laid(kit, case, case.items) as others:
            for prompt, plain in zip(mine.prompts, others.prompts, strict=True):
                assert torch.equal(prompt.ids, plain.ids)
                assert prompt.adapter in kit.decoder.adapters
                assert plain.adapter is None
            assert mine.stored_bytes == others.stored_bytes


@pytest.mark.parametrize("stop", ["interrupt", "minutes"])
def test_stopped_anywhere_it_ends_with_the_same_bits(kit, tmp_path, monkeypatch, stop):
    row = tuned().on(Qa("tales"))
    whole = Kit(kit.decoder, kit.data, tmp_path / "whole")
    assert row.ready(whole)
    lessons, taught = Lessons.__call__, []

    def stop_at_the_third(self, micro):
        taught.append(micro)
        if len(taught) == 3:
            signal.raise_signal(signal.SIGINT) if stop == "interrupt" else time.sleep(1)
        return lessons(self, micro)

    monkeypatch.setattr(Lessons, "__call__", stop_at_the_third)
    if stop == "interrupt":
        with pytest.raises(KeyboardInterrupt):
            row.ready(kit)
    else:
        assert not row.ready(kit, time.monotonic() + 0.9)
    before = len(taught)
    assert before < 8
    assert "not yet" in row.key(kit)
    assert row.ready(kit)
    assert sorted(taught) == list(range(8)), "no step is taken twice"
    assert row.key(kit) == row.key(whole)
    assert [path.name for path in row._folder(kit).iterdir() if path.is_dir()] == [], "checkpoints go with the end"


def test_a_row_that_is_still_learning_is_not_judged(kit, cache):
    row = tuned()
    with pytest.raises(Interrupted, match=r"no context, tuned on tales lr 0\.02"):
        run(kit, [Qa("tales")], [row], cache, minutes=0)
    bound, case = row.on(Qa("tales")), Qa("tales").units(kit)[0]
    with pytest.raises(Unfit, match="the training goes on"):
        bound.respond(kit, case, 4)
    before = bound.key(kit)
    assert bound.ready(kit)
    assert bound.key(kit) != before, "what was said of an unfinished adapter is not found for a finished one"
    assert len(bound.respond(kit, case, 4).responses) == len(case.items)


def test_it_is_never_judged_on_what_it_was_taught(kit, cache, data):
    with pytest.raises(UsageError, match="lesson-"):
        run(kit, [Qa("tales", split="train")], [tuned()], cache)
    assert not kit.work.exists(), "it is refused before it is taught"
    row = ready(tuned(), kit)
    renamed = [{**TRAIN[2], "doc_id": "another", "title": "Another", "text": TRAIN[2]["text"].replace(" ", "\n")}]
    (data / "qa" / "fables.test.jsonl").write_text("".join(json.dumps(one) + "\n" for one in [ROWS[0], *renamed]))
    with pytest.raises(UsageError, match="1 of 2 that it was, such as another"):
        run(kit, [Qa("fables")], [replace(tuned(), set="tales")], cache)
    told = json.loads((row._folder(kit) / MANIFEST).read_text())["training"]["documents"]
    assert set(told) == row.trained_on(kit) == {text_hash(one["text"]) for one in TRAIN}


def test_an_epoch_teaches_every_question_once_and_the_next_one_its_next_reference(kit):
    lessons = lessons_of(kit, batch=3, questions=None)
    whole = len(lessons.taught)
    assert whole == 6, "questions without an answer teach nothing"
    assert lessons.rows == 3
    epochs = [[lesson for micro in range(2) for lesson in lessons(2 * epoch + micro)] for epoch in range(3)]
    texts = [Counter(kit.decoder.tokenizer.decode(lesson.answer[:-1]) for lesson in epoch) for epoch in epochs]
    assert texts[0] == texts[2] == {"The keeper": 3, "In winter": 3}
    assert texts[1] == {"the keeper, they say": 3, "In winter": 3}
    asked = [sorted(lesson.prompt.ids.tolist() for lesson in epoch) for epoch in epochs]
    assert asked[0] == asked[1] == asked[2]
    assert [lesson.prompt.ids.tolist() for lesson in epochs[0]] != [lesson.prompt.ids.tolist() for lesson in epochs[1]]
    assert all(lesson.answer[-1] == kit.decoder.tokenizer.eos_token_id for epoch in epochs for lesson in epoch)


def test_no_answer_is_taught_where_the_set_asks_to_say_so(kit, monkeypatch):
    monkeypatch.setitem(STYLES, "tales", MAYBE)
    lessons = lessons_of(kit, questions=None)
    said = [lesson.answer[:-1].tolist() for micro in range(9) for lesson in lessons(micro)][:9]
    assert said.count(kit.decoder.tokens(UNANSWERABLE).tolist()) == 3
    assert len(lessons.taught) == 9


def test_what_is_taught_of_a_question_without_an_answer_does_not_choose_its_passages(kit, data, monkeypatch):
    monkeypatch.setitem(STYLES, "tales", MAYBE)
    path = data / "qa" / "tales.train.jsonl"
    path.write_text(path.read_text().replace("Why?", "Why did the lamp burn?"))
    lessons = lessons_of(kit, of=Oracle(passages=1, passage_tokens=20), questions=None, batch=1)
    taught = {tuple(lesson.prompt.ids.tolist()) for micro in range(9) for lesson in lessons(micro)}
    for case in Qa("tales", "train").units(kit):
        with Oracle(passages=1, passage_tokens=20).laid(kit, case, case.items) as judged:
            assert {tuple(prompt.ids.tolist()) for prompt in judged.prompts} <= taught


@pytest.mark.parametrize("positions", [1, 100, 260, 400, 16384])
def test_a_batch_is_read_in_as_few_pieces_as_fit(kit, positions):
    lessons = lessons_of(kit, batch=6, positions=positions)
    rows = lessons.rows
    assert 6 % rows == 0
    assert rows == 1 or rows * lessons.longest <= positions
    larger = [r for r in range(rows + 1, 7) if 6 % r == 0]
    assert all(r * lessons.longest > positions for r in larger)
    assert all(len(lesson.prompt) + len(lesson.answer) <= lessons.longest for m in range(9) for lesson in lessons(m))


def test_long_contexts_are_left_out_and_counted(kit, cache):
    longest = lessons_of(kit).longest
    row = tuned(of={"kind": "full"}, max_context=longest - 1)
    [judged] = run(kit, [Qa("tales")], [row], cache)
    [note] = [note for note in judged.caveats[row.label] if "left out" in note]
    assert note.endswith(f"over {longest - 1} positions")
    left_out = int(note.split()[0])
    assert 0 < left_out < 6
    assert f"taught {6 - left_out} questions" in judged.caveats[row.label][0]


def test_a_row_for_which_no_lesson_fits_is_empty_and_says_why(kit, cache, monkeypatch):
    """Such as full books: the rest of the table stands."""
    row = tuned(of={"kind": "full"}, max_context=9)
    [judged] = run(kit, [Qa("tales")], [row, Nothing()], cache)
    assert {one.unfit for one in judged.outcomes[row.label]} == {
        "training questions that fit 9 positions as full text reads them; got none of 6"
    }
    assert all(one.records for one in judged.outcomes["no context"])
    monkeypatch.setattr("preread.eval.answerers.tuned.Lessons", lambda *_: pytest.fail("it was read once more"))
    assert row.on(Qa("tales")).ready(kit)


def test_what_is_read_of_a_document_is_held_once_and_made_again_where_there_is_no_room(kit, monkeypatch):
    of = tuned(of={"kind": "memory", "method": "kv", "settings": {"ratio": 4.0}}).inner
    lessons = lessons_of(kit, of, questions=None)
    for case in range(3):
        [first, second] = [lessons._read(case)[item][0] for item in range(2)]
        assert first.kv is second.kv
        assert not first.kv.keys.is_inference()
    monkeypatch.setattr("preread.eval.tuning.KEPT_BYTES", 1)
    tight = lessons_of(kit, of, questions=None)
    assert len(tight._held) == 1
    for micro in range(3):
        for one, other in zip(lessons(micro), tight(micro), strict=True):
            assert torch.equal(one.prompt.ids, other.prompt.ids)
            assert torch.equal(one.prompt.kv.keys, other.prompt.kv.keys)
            assert torch.equal(one.answer, other.answer)


@pytest.mark.parametrize(
    "of",
    [
        {"kind": "memory", "method": "kv", "settings": {"ratio": 4.0}},
        {"kind": "memory", "method": "lloco", "settings": {"ratio": 4.0, "fresh": True}},
    ],
    ids=["kv", "lloco"],
)
def test_memories_are_read_with_an_adapter_and_so_are_those_of_another_document(kit, cache, of):
    row = {"kind": "tuned", "of": of, **QUICK}
    recipe = EvalRecipe([{"kind": "qa", "set": "tales"}], [of, row, {"kind": "other", "of": row}])
    [judged] = run(kit, recipe.chosen_tasks(), recipe.chosen_answerers(), cache)
    plain, own, other = (
        [record.scores["nll"] for one in outcomes for record in one.records if "nll" in record.scores]
        for outcomes in judged.outcomes.values()
    )
    assert sum(own) < sum(plain) - 1
    assert own != other
    assert len(list(kit.work.rglob("adapter_model.safetensors"))) == 1, "the adapter is the same for both rows"


def test_a_teacher_reads_the_full_text(kit):
    row = ready(tuned(distil=0.5), kit)
    lessons = lessons_of(kit, tuned().inner, Full())
    [case] = [case for case in lessons.cases if case.id == "lesson-1"]
    place = lessons.cases.index(case)
    with Full().laid(kit, case, case.items) as layout:
        for (prompt, teacher), plain in zip(lessons._read(place), layout.prompts, strict=True):
            assert torch.equal(teacher.ids, plain.ids)
            assert len(prompt) < len(teacher)
    assert set(row._manifest(kit)["losses"]) == {"answer", "distil"}


def test_what_tuning_does_to_running_text_can_be_judged(kit):
    row = ready(tuned(), kit)
    ids = tuple(kit.decoder.tokens(STORY).tolist())
    stretch = Stretch("s", "s", "s", (), ids[:8], ids[8:20])
    own, plain = row.losses(kit, stretch).nats, row.inner.losses(kit, stretch).nats
    assert own.shape == plain.shape
    assert not torch.allclose(own, plain)
    assert torch.equal(row.inner.losses(kit, stretch).nats, plain), "a row without adapter is not touched by it"


def test_a_task_without_training_questions_is_unfit(kit):
    row = tuned()
    assert row.ready(kit), "there is nothing to wait for"
    assert not row.trained_on(kit)
    with pytest.raises(Unfit, match="Name a set"):
        row.respond(kit, Qa("tales").units(kit)[0], 4)


CHANGES = {
    "set": "other",
    "split": "test",
    "documents": 2,
    "questions": 1,
    "epochs": 1.0,
    "steps": 7,
    "batch": 2,
    "learning_rate": 0.01,
    "lora": LoraConfig(rank=3),
    "distil": 1.0,
    "max_context": 300,
    "positions": 100,
    "seed": 1,
}


def test_each_setting_decides_the_adapter(kit, data, tiny_decoder):
    (data / "qa" / "other.train.jsonl").write_bytes((data / "qa" / "tales.train.jsonl").read_bytes())
    row = tuned(set="tales")
    assert set(CHANGES) == {one.name for one in fields(Tuning)}
    folders = [row._folder(kit)] + [replace(row, **{name: value})._folder(kit) for name, value in CHANGES.items()]
    folders += [replace(row, of={"kind": "full"})._folder(kit)]
    folders += [row._folder(Kit(tiny_decoder("llama", seed=1), data, kit.work))]
    with (data / "qa" / "tales.train.jsonl").open("a") as file:
        file.write(json.dumps({**TRAIN[0], "doc_id": "more"}) + "\n")
    folders += [tuned(set="tales")._folder(kit)]
    assert len(set(folders)) == len(CHANGES) + 4


def test_an_adapter_that_is_not_what_its_manifest_says_is_not_used(kit):
    row = ready(tuned(), kit)
    manifest = row._folder(kit) / MANIFEST
    record = json.loads(manifest.read_text())
    case = Qa("tales").units(kit)[0]
    row.respond(kit, case, 1)
    lora = kit.decoder.adapters[row._folder(kit).name]
    assert digest(lora) == record["training"]["digest"]
    kit.decoder.adapters.remove(row._folder(kit).name)
    record["training"]["digest"] = "0" * 64
    manifest.write_text(json.dumps(record))
    with pytest.raises(IntegrityError, match="other numbers"):
        row.respond(kit, case, 1)
    assert not (row._folder(kit) / RUN).exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"of": {"kind": "tuned"}}, "answerer that can be tuned"),
        ({"of": {"kind": "streaming"}}, "answerer that can be tuned"),
        ({"of": {"kind": "ful"}}, "Did you mean full"),
        ({"epochs": 0}, "epochs"),
        ({"steps": 0}, "steps of at least 1"),
        ({"learning_rat": 1}, "Did you mean learning_rate"),
    ],
)
def test_what_cannot_be_tuned_is_refused_when_the_recipe_is_read(changes, said):
    with pytest.raises(UsageError, match=said):
        tuned(**changes)


@pytest.mark.parametrize(
    "of",
    [
        {"kind": "stretched", "rule": "ntk", "factor": 2.0},
        {"kind": "memory", "method": "cepe", "settings": {"moved": 0, "fresh": True}},
    ],
    ids=["stretched", "states beside it"],
)
def test_a_changed_decoder_is_not_tuned(kit, of):
    row = tuned(of=of).on(Qa("tales"))
    with pytest.raises(UsageError, match="leaves the decoder as it is"):
        row.ready(kit)

"""Running text: every protocol counts the tokens it says it counts, each behind the text it says it is behind."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from preread.core.config import build, load
from preread.core.errors import UnreadableDocument, UsageError
from preread.core.types import text_hash
from preread.eval.answerers.plain import Full, Nothing
from preread.eval.cache import Cache
from preread.eval.case import Losses, with_others
from preread.eval.kit import Kit
from preread.eval.recipe import EvalRecipe
from preread.eval.runner import run
from preread.eval.summary import table
from preread.eval.tasks import TASKS
from preread.eval.tasks.ability import ClosedBook, ShortText
from preread.eval.tasks.chunked import Chunked
from preread.eval.tasks.datastore import PASSAGE
from preread.eval.tasks.positions import Positions
from preread.eval.tasks.ralm import WINDOW, Ralm
from preread.eval.tasks.sliding import Sliding
from preread.eval.tasks.texts import Text
from preread.retrieval.bm25 import Words
from tests.conftest import WordCounts

RECIPES = Path(__file__).parents[2] / "recipes"
NUMBERED = Text("numbered", "", tuple(range(6_000)))
"""A document whose tokens are their own positions."""
WORDS = ("keeper", "lamp", "storm", "island", "ship", "night", "slept", "burned", "wrote", "winter", "tide", "fog")

LONG = (220, 270, 320)
"""Sentences of the documents that every task can cut."""


def tale(number: int, sentences: int) -> str:
    draw = np.random.default_rng(number)
    return " ".join(f"{' '.join(draw.choice(WORDS, 6))} {number}-{i}." for i in range(sentences))


@pytest.fixture
def kit(tiny_decoder, tmp_path) -> Kit:
    """Three documents of 3,300 to 4,900 tokens and a short one in the set `tales`."""
    rows = [{"doc_id": f"tale-{i}", "text": tale(i, n)} for i, n in enumerate((*LONG, 3))]
    path = tmp_path / "data" / "text" / "tales.test.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kit = Kit(tiny_decoder("llama"), tmp_path / "data", tmp_path / "work")
    kit.__dict__["embedder"] = WordCounts()
    return kit


def tokens(kit: Kit) -> dict[str, tuple[int, ...]]:
    lines = (kit.data / "text" / "tales.test.jsonl").read_text().splitlines()
    return {row["doc_id"]: tuple(kit.decoder.tokens(row["text"]).tolist()) for row in map(json.loads, lines)}


def direct(kit: Kit, ids: tuple[int, ...]) -> torch.Tensor:
    """[T - 1] losses of all tokens but the first, by transformers' own forward pass."""
    batch = torch.tensor(ids)[None]
    with torch.inference_mode():
        logits = kit.decoder.model(batch).logits[0, :-1].double()
    return torch.nn.functional.cross_entropy(logits, batch[0, 1:], reduction="none")


def nll(records) -> float:
    """Mean over tokens, as tables have it."""
    records = list(records)
    return sum(r.scores["nll"] * r.weight for r in records) / sum(r.weight for r in records)


# Sliding windows


def test_corrected_windows_count_every_token_behind_the_first_window_once():
    stretches = list(Sliding("x", length=1_024).cut(NUMBERED))
    assert list(chain.from_iterable(s.target for s in stretches)) == list(range(768, 768 + 256 * len(stretches)))
    assert len(NUMBERED.ids) - stretches[-1].target[-1] <= 256
    assert all((*s.near, *s.target) == tuple(range(s.near[0], s.near[0] + 1_024)) for s in stretches)


def test_paper_windows_are_the_same_windows_with_every_token_counted():
    corrected, paper = (list(Sliding("x", length=1_024, count=count).cut(NUMBERED)) for count in ("corrected", "paper"))
    assert [(*s.near, *s.target) for s in paper] == [(*s.near, *s.target) for s in corrected]
    assert all(len(s.near) == 1 for s in paper)
    counted = Counter(chain.from_iterable(s.target for s in paper))
    assert counted[3_000] == 1_024 // 256


def test_corrected_windows_of_all_lengths_judge_the_same_tokens_from_a_common_beginning():
    counted = [
        [s.target for s in Sliding("x", length=length, earliest=4_096, windows=5).cut(NUMBERED)]
        for length in (512, 2_048, 4_096)
    ]
    assert counted[0] == counted[1] == counted[2]
    assert len(counted[0]) == 5


@pytest.mark.parametrize("windows", [1, 3, 7])
def test_a_part_of_the_windows_is_spread_over_the_document(windows):
    every = list(Sliding("x", length=1_024).cut(NUMBERED))
    some = list(Sliding("x", length=1_024, windows=windows).cut(NUMBERED))
    assert len(some) == windows
    assert set(some) <= set(every)
    assert some[0] == every[0]
    assert windows == 1 or some[-1] == every[-1]


@pytest.mark.parametrize("count", ["corrected", "paper"])
def test_sliding_losses_are_those_of_each_window_read_alone(kit, count):
    task = Sliding("tales", documents=1, length=300, stride=100, windows=4, count=count)
    stretches = task.units(kit)
    [ids] = {tokens(kit)[stretch.source] for stretch in stretches}
    ends = [int(stretch.id.rpartition(":")[2]) for stretch in stretches]
    skipped = 0 if count == "paper" else 199
    expected = torch.cat([direct(kit, ids[end - 300 : end])[skipped:] for end in ends]).mean()
    found = nll(record for stretch in stretches for record in task.judge(kit, Full(), stretch)[0])
    assert found == pytest.approx(float(expected), abs=1e-5)


# The last tokens behind far text


def test_a_chunked_stretch_is_one_piece_of_its_document():
    for stretch in Chunked("x", chunks=4, near=1_024).cut(NUMBERED):
        whole = (*stretch.far, *stretch.near, *stretch.target)
        assert whole == tuple(range(whole[0], whole[0] + 4 * 256 + 1_024))
        assert len(stretch.far) == 4 * 256
        assert len(stretch.target) == 256


def test_no_token_is_judged_twice_and_more_stretches_include_fewer():
    every = list(Chunked("x", chunks=4, near=1_024, stretches=99).cut(NUMBERED))
    judged = list(chain.from_iterable(s.target for s in every))
    assert len(every) == (6_000 - 2_048) // 256 + 1
    assert len(set(judged)) == len(judged)
    assert list(Chunked("x", chunks=4, near=1_024, stretches=5).cut(NUMBERED)) == every[:5]


def test_all_sizes_judge_the_same_tokens_from_a_common_beginning():
    sizes = [
        Chunked("x", chunks=chunks, near=near, earliest=5_000) for chunks, near in ((0, 512), (2, 512), (15, 1_024))
    ]
    assert len({tuple(s.target for s in size.cut(NUMBERED)) for size in sizes}) == 1


def test_documents_have_draws_of_their_own_and_come_in_turn(kit):
    stretches = Chunked("tales", chunks=2, near=512, stretches=2).units(kit)
    assert [s.source for s in stretches[:3]] == [s.source for s in stretches[3:]]
    assert len({s.source for s in stretches[:3]}) == 3, "the short document is left out"
    assert len({s.id.rpartition(":")[2] for s in stretches[:3]}) > 1
    assert {s.document for s in stretches} == {text_hash(tale(i, n)) for i, n in enumerate(LONG)}


def test_the_last_tokens_are_judged_behind_the_whole_and_behind_the_near_text_alone(kit):
    task = Chunked("tales", documents=1, chunks=2, near=512, stretches=1)
    [stretch] = task.units(kit)
    for answerer, ids in ((Full(), stretch.far + stretch.near), (Nothing(), stretch.near)):
        [record], _ = task.judge(kit, answerer, stretch)
        assert record.scores["nll"] == pytest.approx(float(direct(kit, ids + stretch.target)[-256:].mean()), abs=1e-5)
        assert record.weight == 256
        assert record.positions == len(ids) + 256


# By position


@pytest.mark.parametrize(
    ("length", "every", "ends"),
    [
        (2_048, None, [256, 512, 1_024, 2_048]),
        (3_000, None, [256, 512, 1_024, 2_048, 3_000]),
        (200, None, [200]),
        (10_000, 4_096, [4_096, 8_192, 10_000]),
        (8_192, 4_096, [4_096, 8_192]),
    ],
)
def test_buckets_end_where_they_say(length, every, ends):
    assert Positions("x", length=length, every=every).ends == ends


class Counting(Full):
    """Claims that the token at index i costs i nats."""

    def losses(self, kit, stretch):
        return Losses(torch.arange(1, 1 + len(stretch.target), dtype=torch.float32), 0)


def test_a_bucket_holds_the_tokens_below_its_end(kit):
    task = Positions("tales", length=1_500)
    records, _ = task.judge(kit, Counting(), next(iter(task.cut(NUMBERED))))
    below = [range(1, 256), range(256, 512), range(512, 1_024), range(1_024, 1_500)]
    assert [(r.scores["nll"], r.weight) for r in records] == [(sum(own) / len(own), len(own)) for own in below]
    assert [dict(r.at) for r in records] == [{"position": end} for end in (256, 512, 1_024, 1_500)]


def test_buckets_together_are_the_whole_document(kit):
    task = Positions("tales", documents=1, length=2_000, every=700)
    [stretch] = task.units(kit)
    records, _ = task.judge(kit, Full(), stretch)
    whole = direct(kit, tokens(kit)[stretch.source][:2_000])
    assert nll(records) == pytest.approx(float(whole.mean()), abs=1e-5)
    assert records[1].scores["nll"] == pytest.approx(float(whole[699:1_399].mean()), abs=1e-5)


# Retrieved passages


def test_no_passage_holds_a_judged_token_or_anything_behind_one(kit):
    ids = tokens(kit)
    for stretch in Ralm("tales", passages=6).units(kit):
        start = int(stretch.id.rpartition(":")[2])
        own = ids[stretch.source]
        assert stretch.near + stretch.target == own[start : start + WINDOW]
        behind = {own[at : at + PASSAGE] for at in range(0, len(own), PASSAGE) if at + PASSAGE > start}
        assert not behind & {stretch.far[first:last] for first, last in stretch.passages}


def test_passages_are_the_nearest_by_brute_force_the_best_last(kit):
    ids, embed = tokens(kit), WordCounts().embed
    decode = kit.decoder.tokenizer.decode
    for own in (True, False):
        for stretch in Ralm("tales", passages=5, own=own).units(kit):
            start = int(stretch.id.rpartition(":")[2])
            allowed = [
                other[at : at + PASSAGE]
                for name, other in ids.items()
                for at in range(0, len(other) - PASSAGE + 1, PASSAGE)
                if len(other) >= WINDOW and (name != stretch.source or (own and at + PASSAGE <= start))
            ]
            cosines = embed([decode(piece) for piece in allowed]) @ embed([decode(stretch.near)])[0]
            assert stretch.scores == pytest.approx(sorted(cosines)[-5:])
            found = [stretch.far[first:last] for first, last in stretch.passages]
            assert sum(found, ()) == stretch.far
            assert found[-1] == allowed[int(np.argmax(cosines))]


def test_passages_found_by_words_are_the_best_by_brute_force(kit):
    ids, decode = tokens(kit), kit.decoder.tokenizer.decode
    every = {
        name: [own[at : at + PASSAGE] for at in range(0, len(own) - PASSAGE + 1, PASSAGE)]
        for name, own in ids.items()
        if len(own) >= WINDOW
    }
    index = Words([decode(piece) for name in sorted(every) for piece in every[name]])
    task = Ralm("tales", passages=5, search="words")
    for stretch in task.units(kit):
        start = int(stretch.id.rpartition(":")[2])
        scores = iter(index.scores(decode(stretch.near)))
        of = {
            (name, i): (score, piece)
            for name in sorted(every)
            for i, (piece, score) in enumerate(zip(every[name], scores, strict=False))
        }
        top = max(score for score, _ in of.values())
        allowed = [of[name, i] for name, i in of if name != stretch.source or (i + 1) * PASSAGE <= start]
        best = sorted((float(score / top) for score, _ in allowed), reverse=True)[:5]
        assert stretch.scores == pytest.approx(best[::-1])
        assert stretch.far[-PASSAGE:] in {piece for score, piece in allowed if score / top == pytest.approx(best[0])}
    assert task.label != replace(task, search="dense").label
    assert "BM25" in task.note


def test_documents_of_further_files_are_found_too_but_nothing_more_of_what_is_judged(kit):
    further = [{"doc_id": f"log-{i}", "text": tale(10 + i, 60)} for i in range(2)]
    path = kit.data / "text" / "logs.train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in further))
    more = {row["doc_id"]: tuple(kit.decoder.tokens(row["text"]).tolist()) for row in further}
    task = Ralm("tales", documents=2, passages=9, also=("logs.train", "tales.test"))
    stretches, ids = task.units(kit), tokens(kit)
    judged = {stretch.source for stretch in stretches}
    unjudged = more | {name: own for name, own in ids.items() if name not in judged}
    assert len(judged) == 2
    embed, decode = WordCounts().embed, kit.decoder.tokenizer.decode
    for stretch in stretches:
        start = int(stretch.id.rpartition(":")[2])
        allowed = [
            own[at : at + PASSAGE]
            for name, own in (unjudged | {name: ids[name] for name in judged}).items()
            for at in range(0, len(own) - PASSAGE + 1, PASSAGE)
            if name != stretch.source or at + PASSAGE <= start
        ]
        cosines = embed([decode(piece) for piece in allowed]) @ embed([decode(stretch.near)])[0]
        assert stretch.scores == pytest.approx(sorted(cosines)[-9:])
        assert {stretch.far[first:last] for first, last in stretch.passages} <= set(allowed)
    assert task.label != replace(task, also=()).label
    assert "logs.train" in task.note


def test_a_control_reads_nothing_of_the_own_document(kit):
    ids = tokens(kit)
    for own in (True, False):
        stretches = Ralm("tales", passages=20, own=own).units(kit)
        assert with_others(stretches) == stretches, "each has its control already"
        for stretch in stretches:
            other, text = stretch.other, ids[stretch.source]
            pieces = {text[at : at + PASSAGE] for at in range(0, len(text), PASSAGE)}
            read = {other.far[first:last] for first, last in other.passages}
            assert read
            assert not pieces & read
            assert other.source != stretch.source
            assert other.far != next(one for one in stretches if one.id == other.id).far, "which did read of it"


def test_a_datastore_is_embedded_once(kit, monkeypatch):
    first = Ralm("tales", passages=4).units(kit)
    asked = []

    def embed(texts, role="passage", advance=None):
        asked.append(role)
        return WordCounts().embed(texts, role)

    monkeypatch.setattr(kit.embedder, "embed", embed, raising=False)
    assert Ralm("tales", passages=4).units(kit) == first
    assert asked == ["question"]


def test_more_passages_than_there_are_is_said(kit):
    with pytest.raises(UsageError, match="500 passages"):
        Ralm("tales", passages=500).units(kit)


# General ability


def test_short_text_is_of_every_set_and_read_without_what_stands_before_it(kit):
    again = kit.data / "text" / "again.test.jsonl"
    again.write_text(json.dumps({"doc_id": "other", "text": tale(9, 60)}) + "\n")
    task = ShortText(("tales", "again"), windows=2, length=128)
    stretches = task.units(kit)
    assert Counter(s.source for s in stretches) == {"tale-0": 2, "tale-1": 2, "tale-2": 2, "other": 2}
    for stretch in stretches[:3]:
        [record], _ = task.judge(kit, Full(), stretch)
        assert record.scores["nll"] == pytest.approx(float(direct(kit, stretch.near + stretch.target).mean()), abs=1e-5)


def test_a_closed_book_gives_no_answerer_anything_to_read(kit, data):
    closed = Kit(kit.decoder, data, kit.work)
    task = ClosedBook("tales", questions=3)
    cases = task.units(closed)
    assert [len(case.items) for case in cases] == [1, 1, 1]
    assert not any(case.document.text or item.evidence for case in cases for item in case.items)
    for case in cases:
        [nothing], [full] = (task.judge(closed, answerer, case)[0] for answerer in (Nothing(), Full()))
        assert nothing == full
        assert set(nothing.scores) <= {"nll"}


# All of them


TASKS_HERE = [
    {"kind": "sliding", "set": "tales", "length": 512, "windows": 2},
    {"kind": "sliding", "set": "tales", "length": 512, "windows": 2, "count": "paper"},
    {"kind": "chunked", "set": "tales", "chunks": 2, "near": 512, "stretches": 2},
    {"kind": "positions", "set": "tales", "length": 1_024},
    {"kind": "ralm", "set": "tales", "passages": 2, "stretches": 1},
    {"kind": "short-text", "sets": ["tales"], "length": 128},
]


def built(spec):
    return build(TASKS[spec["kind"]], {key: value for key, value in spec.items() if key != "kind"})


def test_a_run_of_every_task_makes_tables_and_is_the_same_when_done_again(kit, tmp_path):
    tasks = [built(spec) for spec in TASKS_HERE]
    assert len({task.label for task in tasks}) == len(tasks)
    first = run(kit, tasks, [Nothing(), Full()], Cache(tmp_path / "cache"), limit=3)
    for judged, task in zip(first, tasks, strict=True):
        found = table(judged, on_gpu=False)
        assert (found.headline, found.higher) == ("nll", False)
        nothing, full = found.rows
        assert nothing.unfit is None
        assert (full.unfit is None) == (task.kind != "ralm"), "512 + 2,048 tokens are more than the window"
        for row in (nothing, full)[: 1 + (full.unfit is None)]:
            assert row.metrics["perplexity"].value == pytest.approx(np.exp(row.metrics["nll"].value))
        if task.kind == "positions":
            assert [cell.at for cell in found.rows[0].cells] == [{"position": end} for end in (256, 512, 1_024)]
    assert run(kit, tasks, [Nothing(), Full()], Cache(tmp_path / "cache"), limit=3) == first


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({"kind": "sliding", "set": "tales", "length": 256}, "length of at least 257"),
        ({"kind": "chunked", "set": "tales", "near": 256}, "near of at least 257"),
        ({"kind": "chunked", "set": "tales", "chunks": -1}, "chunks of at least 0"),
        ({"kind": "positions", "set": "tales", "every": 1}, "every of at least 2"),
        ({"kind": "ralm", "set": "tales", "passages": 0}, "passages of at least 1"),
        ({"kind": "ralm", "set": "tales", "documents": 0}, "documents of at least 1"),
        ({"kind": "short-text", "windows": 0}, "windows of at least 1"),
        ({"kind": "closed-book", "questions": 0}, "questions of at least 1"),
        ({"kind": "positions", "set": "tales", "length": 50_000}, "at least 50,000 tokens"),
        ({"kind": "sliding", "set": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_judged_is_said(kit, spec, said):
    with pytest.raises(UsageError, match=said):
        built(spec).units(kit)


def test_a_file_of_something_else_is_said(kit):
    path = kit.data / "text" / "odd.test.jsonl"
    path.write_text('{"doc_id": "a", "text": "x"}\n{"doc_id": "b", "words": "y"}\n')
    with pytest.raises(UnreadableDocument, match="no text in line 2"):
        Positions("odd", length=10).units(kit)


@pytest.mark.parametrize("name", ["text", "text-gpu", "windows", "windows-gpu", "ability"])
def test_the_recipes_that_ship_are_whole(name):
    recipe = load(EvalRecipe, RECIPES / f"eval-{name}.yaml")
    assert recipe.chosen_tasks()
    assert recipe.chosen_answerers()


def test_a_text_is_tokenised_once_for_all_tasks(kit, monkeypatch):
    first = Positions("tales", length=2_000).units(kit)
    monkeypatch.setattr(type(kit.decoder), "tokens", None)
    assert Positions("tales", length=2_000).units(kit) == first
